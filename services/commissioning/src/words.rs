//! Numbers and durations as people read them.

use sensormesh_types::quantity::symbol;

/// A number with four digits that count.
pub fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let size = value.abs();
    let decimals = match size {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        size if size >= 10.0 => 2,
        size if size >= 1.0 => 3,
        size if size >= 0.001 => 5,
        _ => return format!("{value:.2e}"),
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A number with its unit.
pub fn value(value: f64, unit: &str) -> String {
    match symbol(unit) {
        "" => number(value),
        "%" => format!("{} %", number(value)),
        unit => format!("{} {unit}", number(value)),
    }
}

/// A duration in nanoseconds: `800 ms`, `12 s`, `2.5 min`, `3 h`.
pub fn duration(nanos: i64) -> String {
    #[allow(clippy::cast_precision_loss)] // shown with two digits
    let seconds = nanos.max(0) as f64 / 1e9;
    let short = |amount: f64| {
        let text = if amount < 10.0 { format!("{amount:.1}") } else { format!("{amount:.0}") };
        text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
    };
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{} s", short(s)),
        s if s < 7200.0 => format!("{} min", short(s / 60.0)),
        s => format!("{} h", short(s / 3600.0)),
    }
}

/// A count with what it counts: `1 reading`, `3 readings`.
pub fn count(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let numbers = [21.5, 0.0, 1234.56, -127.0, 0.012_34, 3.0, 1e-9];
        assert_eq!(numbers.map(number), ["21.5", "0", "1235", "-127", "0.01234", "3", "1.00e-9"]);
        assert_eq!(value(21.5, "Cel"), "21.5 °C");
        assert_eq!(value(2.0, "1"), "2");
    }

    #[test]
    fn durations_are_short() {
        let durations = [800_000_000, 1_500_000_000, 12_000_000_000, 150_000_000_000, 10_800_000_000_000];
        assert_eq!(durations.map(duration), ["800 ms", "1.5 s", "12 s", "2.5 min", "3 h"]);
        assert_eq!((count(1, "reading"), count(0, "gap")), ("1 reading".to_owned(), "0 gaps".to_owned()));
    }
}
