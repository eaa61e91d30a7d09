//! Single values as text or JSON, written in the wire format: numbers, enums, times, durations, masks.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use sensormesh_types::{text, time};

use crate::transcode::shape::{Kind, Shapes, Special};
use crate::transcode::wire::{self, delimited, varint};

/// A JSON value that is no list and no object.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// `true` or `false`.
    Bool(bool),
    /// A negative whole number.
    Int(i64),
    /// A whole number.
    Uint(u64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// Text in JSON.
    Text(&'a str),
    /// Text of a path, a query or a form, where everything is text: booleans are read from it, and durations also as
    /// `15m`.
    Plain(&'a str),
}

/// Why a value does not fit, for the caller.
pub type Refusal = String;

const STANDARD: GeneralPurpose = engine(&alphabet::STANDARD);
const URL_SAFE: GeneralPurpose = engine(&alphabet::URL_SAFE);

const fn engine(alphabet: &alphabet::Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config.with_decode_allow_trailing_bits(true))
}

/// Appends one value without its tag.
pub fn write(shapes: &Shapes, kind: Kind, value: Scalar<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    match kind {
        Kind::Double => out.extend_from_slice(&float(value)?.to_le_bytes()),
        Kind::Float => out.extend_from_slice(&single(float(value)?)?.to_le_bytes()),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            let number = i32::try_from(signed(value)?).map_err(|_| "must fit in 32 bits".to_owned())?;
            match kind {
                Kind::Sfixed32 => out.extend_from_slice(&number.to_le_bytes()),
                Kind::Sint32 => varint(out, wire::zigzag(number.into())),
                _ => varint(out, i64::from(number).cast_unsigned()),
            }
        }
        Kind::Int64 => varint(out, signed(value)?.cast_unsigned()),
        Kind::Sint64 => varint(out, wire::zigzag(signed(value)?)),
        Kind::Sfixed64 => out.extend_from_slice(&signed(value)?.to_le_bytes()),
        Kind::Uint32 | Kind::Fixed32 => {
            let number = u32::try_from(unsigned(value)?).map_err(|_| "must fit in 32 bits".to_owned())?;
            match kind {
                Kind::Fixed32 => out.extend_from_slice(&number.to_le_bytes()),
                _ => varint(out, number.into()),
            }
        }
        Kind::Uint64 => varint(out, unsigned(value)?),
        Kind::Fixed64 => out.extend_from_slice(&unsigned(value)?.to_le_bytes()),
        Kind::Bool => varint(out, boolean(value)?.into()),
        Kind::String => raw(out, string(value)?.as_bytes()),
        Kind::Bytes => raw(out, &bytes(string(value)?)?),
        Kind::Enum(id) => varint(out, i64::from(enumeration(shapes, id, value)?).cast_unsigned()),
        Kind::Message(id) => return message(shapes, id, value, out),
    }
    Ok(())
}

fn message(shapes: &Shapes, id: usize, value: Scalar<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let shape = shapes.message(id);
    delimited(out, |out| match shape.special {
        Special::Timestamp => {
            let (seconds, nanos) = timestamp(value)?;
            pair(out, seconds, nanos);
            Ok(())
        }
        Special::Duration => {
            let (seconds, nanos) = duration(value)?;
            pair(out, seconds, nanos);
            Ok(())
        }
        Special::FieldMask => {
            for path in string(value)?.split(',').map(str::trim).filter(|path| !path.is_empty()) {
                wire::bytes(out, 1, snake_case(path).as_bytes());
            }
            Ok(())
        }
        Special::Wrapper => {
            let inner = shape.fields[0].kind;
            wire::tag(out, 1, wire::wire_type(inner));
            write(shapes, inner, value, out)
        }
        Special::Value => {
            match value {
                Scalar::Bool(value) => {
                    wire::tag(out, 4, wire::WireType::Varint);
                    varint(out, value.into());
                }
                Scalar::Text(text) | Scalar::Plain(text) => wire::bytes(out, 3, text.as_bytes()),
                number => {
                    wire::tag(out, 2, wire::WireType::Fixed64);
                    out.extend_from_slice(&float(number)?.to_le_bytes());
                }
            }
            Ok(())
        }
        Special::List => Err("must be a list".to_owned()),
        Special::None | Special::Struct | Special::Any | Special::HttpBody => Err("must be an object".to_owned()),
    })
}

fn pair(out: &mut Vec<u8>, seconds: i64, nanos: i32) {
    if seconds != 0 {
        wire::tag(out, 1, wire::WireType::Varint);
        varint(out, seconds.cast_unsigned());
    }
    if nanos != 0 {
        wire::tag(out, 2, wire::WireType::Varint);
        varint(out, i64::from(nanos).cast_unsigned());
    }
}

fn raw(out: &mut Vec<u8>, value: &[u8]) {
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn string(value: Scalar<'_>) -> Result<&str, Refusal> {
    match value {
        Scalar::Text(text) | Scalar::Plain(text) => Ok(text),
        _ => Err("must be text".to_owned()),
    }
}

fn boolean(value: Scalar<'_>) -> Result<bool, Refusal> {
    match value {
        Scalar::Bool(value) => Ok(value),
        Scalar::Plain("true" | "1") => Ok(true),
        Scalar::Plain("false" | "0") => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

fn float(value: Scalar<'_>) -> Result<f64, Refusal> {
    #[allow(clippy::cast_precision_loss)] // JSON numbers are doubles
    match value {
        Scalar::Int(number) => Ok(number as f64),
        Scalar::Uint(number) => Ok(number as f64),
        Scalar::Float(number) => Ok(number),
        Scalar::Text("NaN") | Scalar::Plain("NaN") => Ok(f64::NAN),
        Scalar::Text("Infinity") | Scalar::Plain("Infinity") => Ok(f64::INFINITY),
        Scalar::Text("-Infinity") | Scalar::Plain("-Infinity") => Ok(f64::NEG_INFINITY),
        Scalar::Text(text) | Scalar::Plain(text) => decimal(text).ok_or_else(|| "must be a number".to_owned()),
        Scalar::Bool(_) => Err("must be a number".to_owned()),
    }
}

fn decimal(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E'));
    text.parse::<f64>().ok().filter(|number| plain && number.is_finite())
}

fn single(number: f64) -> Result<f32, Refusal> {
    #[allow(clippy::cast_possible_truncation)] // the check follows
    let narrow = number as f32;
    if narrow.is_infinite() && number.is_finite() { Err("must fit in 32 bits".to_owned()) } else { Ok(narrow) }
}

fn signed(value: Scalar<'_>) -> Result<i64, Refusal> {
    let whole = match value {
        Scalar::Int(number) => Some(number),
        Scalar::Uint(number) => i64::try_from(number).ok(),
        Scalar::Float(number) => whole(number).and_then(|number| i64::try_from(number).ok()),
        Scalar::Text(text) | Scalar::Plain(text) => match text.parse() {
            Ok(number) => Some(number),
            Err(_) => decimal(text).and_then(whole).and_then(|number| i64::try_from(number).ok()),
        },
        Scalar::Bool(_) => None,
    };
    whole.ok_or_else(|| "must be a whole number of up to 64 bits".to_owned())
}

fn unsigned(value: Scalar<'_>) -> Result<u64, Refusal> {
    let whole = match value {
        Scalar::Int(number) => u64::try_from(number).ok(),
        Scalar::Uint(number) => Some(number),
        Scalar::Float(number) => whole(number).and_then(|number| u64::try_from(number).ok()),
        Scalar::Text(text) | Scalar::Plain(text) => match text.parse() {
            Ok(number) => Some(number),
            Err(_) => decimal(text).and_then(whole).and_then(|number| u64::try_from(number).ok()),
        },
        Scalar::Bool(_) => None,
    };
    whole.ok_or_else(|| "must be a whole number from 0 up".to_owned())
}

#[allow(clippy::cast_possible_truncation)] // far inside the range of i128
fn whole(number: f64) -> Option<i128> {
    (number.fract() == 0.0 && number.abs() < 1e20).then_some(number as i128)
}

/// Base 64 in either alphabet, with or without padding.
pub fn bytes(text: &str) -> Result<Vec<u8>, Refusal> {
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode(text).map_err(|_| "must be base 64".to_owned())
}

fn enumeration(shapes: &Shapes, id: usize, value: Scalar<'_>) -> Result<i32, Refusal> {
    let shape = shapes.enumeration(id);
    let number = match value {
        Scalar::Text(name) | Scalar::Plain(name) => match shape.number(name) {
            Some(number) => Some(number),
            None => name.parse().ok(),
        },
        other => signed(other).ok().and_then(|number| i32::try_from(number).ok()),
    };
    number.ok_or_else(|| {
        let names: Vec<&str> = shape.values.iter().take(12).map(|(name, _)| name.as_str()).collect();
        let more = if shape.values.len() > names.len() { ", …" } else { "" };
        format!("must be one of {}{more}", names.join(", "))
    })
}

/// Seconds and nanoseconds of RFC 3339 text, in the years 1 to 9999.
fn timestamp(value: Scalar<'_>) -> Result<(i64, i32), Refusal> {
    let refuse = || "must be a time like \"2026-01-31T09:30:00Z\" (RFC 3339)".to_owned();
    let text = string(value).map_err(|_| refuse())?;
    let parsed = match (text.parse::<jiff::Timestamp>(), value) {
        (Ok(time), _) => time,
        // "+08:00" in a query that was not escaped arrives with a space
        (Err(_), Scalar::Plain(text)) => text.replace(' ', "+").parse().map_err(|_| refuse())?,
        (Err(_), _) => return Err(refuse()),
    };
    let nanos = parsed.as_nanosecond();
    let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).map_err(|_| refuse())?;
    if !(-62_135_596_800..=253_402_300_799).contains(&seconds) {
        return Err("must be a time in the years 1 to 9999".to_owned());
    }
    Ok((seconds, i32::try_from(nanos.rem_euclid(1_000_000_000)).map_err(|_| refuse())?))
}

/// Seconds and nanoseconds, of the same sign, of text such as `-1.5s`.
fn duration(value: Scalar<'_>) -> Result<(i64, i32), Refusal> {
    let refuse = || "must be a duration like \"3600s\" or \"0.5s\"".to_owned();
    let text = string(value).map_err(|_| refuse())?;
    if let Some(parsed) = seconds(text) {
        return Ok(parsed);
    }
    if let Scalar::Plain(text) = value
        && let Ok(duration) = text::parse_duration(text)
    {
        let message = time::from_duration(duration);
        return Ok((message.seconds, message.nanos));
    }
    Err(refuse())
}

fn seconds(text: &str) -> Option<(i64, i32)> {
    let number = text.strip_suffix('s')?;
    let (negative, number) = number.strip_prefix('-').map_or((false, number), |rest| (true, rest));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() > 9 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let seconds: i64 = whole.parse().ok().filter(|seconds| *seconds <= 315_576_000_000)?;
    let nanos: i32 = format!("{fraction:0<9}").parse().ok()?;
    Some(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// A path of a field mask as the contract spells it: `displayName` becomes `display_name`.
pub fn snake_case(path: &str) -> String {
    let mut out = String::with_capacity(path.len() + 4);
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(kind: Kind, value: Scalar<'_>) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::new();
        write(&Shapes::default(), kind, value, &mut out).map(|()| out)
    }

    #[test]
    fn whole_numbers_come_as_numbers_or_text() {
        assert_eq!(written(Kind::Int32, Scalar::Uint(5)), Ok(vec![5]));
        assert_eq!(written(Kind::Int64, Scalar::Text("300")), Ok(vec![0xac, 2]));
        assert_eq!(written(Kind::Uint64, Scalar::Float(1e3)), Ok(vec![0xe8, 7]));
        assert_eq!(written(Kind::Sint32, Scalar::Int(-1)), Ok(vec![1]));
        assert!(written(Kind::Int64, Scalar::Text("18446744073709551615")).is_err());
        for value in
            [Scalar::Float(1.5), Scalar::Text("x"), Scalar::Text(""), Scalar::Bool(true), Scalar::Uint(1 << 40)]
        {
            assert!(written(Kind::Int32, value).is_err(), "{value:?}");
        }
        assert!(written(Kind::Uint32, Scalar::Int(-1)).is_err());
    }

    #[test]
    fn numbers_with_a_fraction_know_the_three_words_and_no_others() {
        assert_eq!(written(Kind::Double, Scalar::Text("NaN")).expect("NaN").len(), 8);
        assert_eq!(written(Kind::Double, Scalar::Text("-2.5e1")), Ok((-25.0_f64).to_le_bytes().to_vec()));
        for text in ["nan", "inf", "infinity", "", " 1", "0x10", "1,5"] {
            assert!(written(Kind::Double, Scalar::Text(text)).is_err(), "{text}");
        }
        assert!(written(Kind::Float, Scalar::Float(1e300)).is_err());
    }

    #[test]
    fn booleans_are_text_only_where_everything_is_text() {
        assert_eq!(written(Kind::Bool, Scalar::Plain("true")), Ok(vec![1]));
        assert!(written(Kind::Bool, Scalar::Text("true")).is_err());
        assert!(written(Kind::Bool, Scalar::Uint(1)).is_err());
    }

    #[test]
    fn durations_and_times_are_read_exactly() {
        assert_eq!(duration(Scalar::Text("-1.5s")), Ok((-1, -500_000_000)));
        assert_eq!(duration(Scalar::Plain("15m")), Ok((900, 0)));
        assert!(duration(Scalar::Text("15m")).is_err());
        assert!(duration(Scalar::Text("1.0000000001s")).is_err());
        assert_eq!(timestamp(Scalar::Text("1970-01-01T00:00:00.5Z")), Ok((0, 500_000_000)));
        assert_eq!(timestamp(Scalar::Text("1969-12-31T23:59:59.5Z")), Ok((-1, 500_000_000)));
        assert_eq!(timestamp(Scalar::Plain("1970-01-01T08:00:00 08:00")), Ok((0, 0)));
        assert!(timestamp(Scalar::Text("yesterday")).is_err());
        assert!(timestamp(Scalar::Uint(0)).is_err());
    }

    #[test]
    fn bytes_come_in_both_alphabets() {
        assert_eq!(bytes("+/8="), bytes("-_8"));
        assert!(bytes("*").is_err());
    }
}
