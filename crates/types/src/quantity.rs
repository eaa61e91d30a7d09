//! What sensors measure, and the units they measure it in (UCUM codes, ucum.org).

/// A kind of measurement: its name, the unit we show it in, what is plausible, and how often such a sensor reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantity {
    /// The stable name: `carbon_dioxide`.
    pub name: &'static str,
    /// The UCUM code of its usual unit: `[ppm]`.
    pub unit: &'static str,
    /// The range in which an indoor or outdoor sensor's value can be true, in `unit`.
    pub range: (f64, f64),
    /// Seconds between readings that are usual for it.
    pub interval_seconds: u32,
}

const fn q(name: &'static str, unit: &'static str, min: f64, max: f64, interval_seconds: u32) -> Quantity {
    Quantity { name, unit, range: (min, max), interval_seconds }
}

/// Every quantity we know, by name. Each is also a built-in profile of the same id.
pub const QUANTITIES: &[Quantity] = &[
    q("battery", "%", 0.0, 100.0, 3600),
    q("carbon_dioxide", "[ppm]", 0.0, 40_000.0, 60),
    q("carbon_monoxide", "[ppm]", 0.0, 1_000.0, 60),
    q("count", "1", 0.0, 1e15, 60),
    q("current", "A", -1e5, 1e5, 10),
    q("data_rate", "By/s", 0.0, 1e13, 60),
    q("data_size", "By", 0.0, 1e18, 60),
    q("distance", "m", 0.0, 1e7, 60),
    q("energy", "kW.h", 0.0, 1e12, 60),
    q("frequency", "Hz", 0.0, 1e10, 10),
    q("humidity", "%", 0.0, 100.0, 60),
    q("illuminance", "lx", 0.0, 200_000.0, 60),
    q("irradiance", "W/m2", -10.0, 1_600.0, 60),
    q("nitrogen_dioxide", "ug/m3", 0.0, 5_000.0, 60),
    q("occupancy", "1", 0.0, 1.0, 60),
    q("ozone", "ug/m3", 0.0, 2_000.0, 60),
    q("pm1", "ug/m3", 0.0, 2_000.0, 60),
    q("pm10", "ug/m3", 0.0, 5_000.0, 60),
    q("pm25", "ug/m3", 0.0, 2_000.0, 60),
    q("power", "W", -1e9, 1e9, 10),
    q("pressure", "hPa", 300.0, 1_200.0, 60),
    q("ratio", "%", 0.0, 100.0, 60),
    q("signal_strength", "dB[mW]", -150.0, 30.0, 60),
    q("sound_level", "dB[SPL]", 0.0, 194.0, 10),
    q("speed", "m/s", 0.0, 1_000.0, 60),
    q("temperature", "Cel", -90.0, 1_000.0, 60),
    q("voc", "[ppb]", 0.0, 1e6, 60),
    q("voltage", "V", -1e6, 1e6, 10),
    q("volume", "m3", 0.0, 1e12, 60),
    q("wind_direction", "deg", 0.0, 360.0, 60),
];

/// The quantity with this name.
pub fn by_name(name: &str) -> Option<&'static Quantity> {
    QUANTITIES.iter().find(|quantity| quantity.name == name)
}

/// What people write for a unit, and the UCUM code and quantity it stands for.
const SPELLINGS: &[(&str, &str, &str)] = &[
    ("ppm", "[ppm]", "carbon_dioxide"),
    ("ppb", "[ppb]", "voc"),
    ("c", "Cel", "temperature"),
    ("°c", "Cel", "temperature"),
    ("cel", "Cel", "temperature"),
    ("celsius", "Cel", "temperature"),
    ("degc", "Cel", "temperature"),
    ("°f", "[degF]", "temperature"),
    ("k", "K", "temperature"),
    ("%", "%", "ratio"),
    ("%rh", "%", "humidity"),
    ("rh", "%", "humidity"),
    ("lx", "lx", "illuminance"),
    ("lux", "lx", "illuminance"),
    ("dba", "dB[SPL]", "sound_level"),
    ("db", "dB[SPL]", "sound_level"),
    ("dbm", "dB[mW]", "signal_strength"),
    ("mu_g/m3", "ug/m3", "pm25"),
    ("µg/m³", "ug/m3", "pm25"),
    ("μg/m³", "ug/m3", "pm25"),
    ("ug/m3", "ug/m3", "pm25"),
    ("hpa", "hPa", "pressure"),
    ("mbar", "hPa", "pressure"),
    ("pa", "Pa", "pressure"),
    ("kpa", "kPa", "pressure"),
    ("kwh", "kW.h", "energy"),
    ("kw.h", "kW.h", "energy"),
    ("wh", "W.h", "energy"),
    ("w", "W", "power"),
    ("kw", "kW", "power"),
    ("v", "V", "voltage"),
    ("a", "A", "current"),
    ("hz", "Hz", "frequency"),
    ("m/s", "m/s", "speed"),
    ("km/h", "km/h", "speed"),
    ("m", "m", "distance"),
    ("mm", "mm", "distance"),
    ("m3", "m3", "volume"),
    ("l", "L", "volume"),
    ("w/m2", "W/m2", "irradiance"),
    ("degree", "deg", "wind_direction"),
    ("deg", "deg", "wind_direction"),
    ("°", "deg", "wind_direction"),
    ("by", "By", "data_size"),
    ("by/s", "By/s", "data_rate"),
    ("number", "1", "count"),
    ("count", "1", "count"),
    ("1", "1", "count"),
    ("binary", "1", "occupancy"),
];

/// The UCUM code for what somebody wrote (`ppm`, `°C`, `Celsius`, `mu_g/m3`), and the quantity that usually has it.
/// A spelling we do not know is kept as it is, without a quantity.
///
/// ```
/// use sensormesh_types::quantity::ucum;
/// assert_eq!(ucum("Celsius"), ("Cel".to_owned(), Some("temperature")));
/// assert_eq!(ucum("furlong"), ("furlong".to_owned(), None));
/// ```
pub fn ucum(spelling: &str) -> (String, Option<&'static str>) {
    let trimmed = spelling.trim();
    let lower = trimmed.to_lowercase();
    if let Some((_, code, quantity)) = SPELLINGS.iter().find(|(name, code, _)| *name == lower || *code == trimmed) {
        return ((*code).to_owned(), Some(quantity));
    }
    if let Some(known) = QUANTITIES.iter().find(|quantity| quantity.unit == trimmed) {
        return (trimmed.to_owned(), Some(known.name));
    }
    (trimmed.to_owned(), None)
}

/// How a unit is shown to people: `Cel` as `°C`, `[ppm]` as `ppm`.
pub fn symbol(code: &str) -> &str {
    match code {
        "Cel" => "°C",
        "[degF]" => "°F",
        "[ppm]" => "ppm",
        "[ppb]" => "ppb",
        "ug/m3" => "µg/m³",
        "kW.h" => "kWh",
        "W.h" => "Wh",
        "dB[SPL]" => "dB",
        "dB[mW]" => "dBm",
        "W/m2" => "W/m²",
        "m3" => "m³",
        "deg" => "°",
        "By" => "B",
        "By/s" => "B/s",
        "1" => "",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_quantity_has_a_range_and_a_name_of_its_own() {
        for (i, quantity) in QUANTITIES.iter().enumerate() {
            assert!(quantity.range.0 < quantity.range.1, "{}", quantity.name);
            assert!(QUANTITIES[i + 1..].iter().all(|other| other.name > quantity.name), "{}", quantity.name);
        }
    }

    #[test]
    fn spellings_lead_to_known_quantities() {
        for (spelling, code, quantity) in SPELLINGS {
            assert!(by_name(quantity).is_some(), "{spelling}");
            assert_eq!(ucum(code).0, *code, "{spelling}");
        }
    }
}
