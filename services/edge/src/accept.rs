//! Which type of answer a client prefers (RFC 9110, section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

/// How much a client wants an answer of a type, in thousandths: 0 = not at all. Without `Accept` everything is wanted.
///
/// The most specific range that fits the type decides: itself, then `text/*`, then `*/*`. Parameters other than `q` do not tell
/// types apart. A range that cannot be read is as if it were not there.
pub fn quality(headers: &HeaderMap, content_type: &str) -> u16 {
    let (wanted, sub) = content_type.split_once('/').unwrap_or((content_type, ""));
    let mut best = None;
    let mut asked = false;
    for range in
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let Some((kind, of)) = parts.next().and_then(|essence| essence.split_once('/')) else { continue };
        asked = true;
        let specific = match (kind, of) {
            (kind, of) if kind.eq_ignore_ascii_case(wanted) && of.eq_ignore_ascii_case(sub) => 2,
            (kind, "*") if kind.eq_ignore_ascii_case(wanted) => 1,
            ("*", "*") => 0,
            _ => continue,
        };
        let weight = parts.find_map(|part| {
            let (name, value) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
        });
        if best.is_none_or(|(found, _)| specific > found) {
            best = Some((specific, weight.map_or(1000, thousandths)));
        }
    }
    match best {
        Some((_, weight)) => weight,
        None if asked => 0,
        None => 1000,
    }
}

/// A weight from 0 to 1 with at most three decimals; 0 for what is none.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // from 0 to 1000
fn thousandths(weight: &str) -> u16 {
    weight.parse::<f32>().ok().filter(|weight| (0.0..=1.0).contains(weight)).map_or(0, |w| (w * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(accept: &str, content_type: &str) -> u16 {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a header"));
        quality(&headers, content_type)
    }

    #[test]
    fn the_most_specific_range_decides() {
        assert_eq!(of("text/*;q=0.3, text/csv;q=0.7, */*;q=0.5", "text/csv"), 700);
        assert_eq!(of("text/*;q=0.3, */*;q=0.5", "text/csv"), 300);
        assert_eq!(of("text/*;q=0.3, */*;q=0.5", "application/json"), 500);
        assert_eq!(of("Text/CSV; header=present; Q=0.25", "text/csv"), 250);
        assert_eq!(of("text/csv", "application/json"), 0);
        assert_eq!(of("text/csv;q=0, */*", "text/csv"), 0);
    }

    #[test]
    fn who_says_nothing_takes_everything() {
        assert_eq!(quality(&HeaderMap::new(), "text/csv"), 1000);
        assert_eq!(of("", "text/csv"), 1000);
        assert_eq!(of("nonsense", "text/csv"), 1000);
        assert_eq!(of("text/csv;q=much", "text/csv"), 0);
    }
}
