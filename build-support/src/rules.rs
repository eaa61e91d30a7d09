//! The rules of one value: a `buf.validate` rule in, a Rust condition and a sentence out.

use std::borrow::Cow;

use anyhow::{Context, Result, bail};
use prost_reflect::{DynamicMessage, EnumDescriptor, Kind, Value};

use crate::names;

/// A test of the value `v` that finds it wrong.
pub(crate) struct Check {
    /// A Rust expression over `v` that is true when the rule is broken.
    pub broken: String,
    /// What the caller is told.
    pub message: String,
}

fn check(broken: impl Into<String>, message: impl Into<String>) -> Check {
    Check { broken: broken.into(), message: message.into() }
}

/// Regular expressions met so far; `P<index>` in the generated code.
#[derive(Default)]
pub(crate) struct Patterns(pub Vec<String>);

impl Patterns {
    fn name(&mut self, pattern: &str) -> Result<String> {
        regex::Regex::new(pattern).with_context(|| format!("{pattern:?} is not a regular expression"))?;
        let index = self.0.iter().position(|p| p == pattern).unwrap_or_else(|| {
            self.0.push(pattern.to_owned());
            self.0.len() - 1
        });
        Ok(format!("P{index}"))
    }
}

/// The checks of `rules` for a value of `kind`.
///
/// # Errors
///
/// A rule is not among the supported ones, or does not fit the kind.
pub(crate) fn checks(kind: &Kind, rules: &DynamicMessage, patterns: &mut Patterns) -> Result<Vec<Check>> {
    if let Some((extension, _)) = rules.extensions().next() {
        bail!("the predefined rule {:?} is not supported", extension.full_name());
    }
    match kind {
        Kind::String => string(rules, patterns),
        Kind::Bytes => bytes(rules),
        Kind::Bool => each(rules, |rule, value| match (rule, value) {
            ("const", Value::Bool(b)) => Ok(Some(check(format!("v != {b}"), format!("must be {b}")))),
            _ => Ok(None),
        }),
        Kind::Enum(kind) => enumeration(kind, rules),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Duration" | "google.protobuf.Timestamp" => moment(rules),
            other => bail!("rules for {other} are not supported"),
        },
        _ => number(kind, rules),
    }
}

/// Runs `one` over every rule that is set; a rule it does not know fails.
fn each(rules: &DynamicMessage, mut one: impl FnMut(&str, &Value) -> Result<Option<Check>>) -> Result<Vec<Check>> {
    let mut out = Vec::new();
    for (rule, value) in rules.fields() {
        let found = one(rule.name(), value).with_context(|| format!("rule {:?}", rule.full_name()))?;
        match found {
            Some(check) => out.push(check),
            None if rule.name() == "example" => {}
            None => bail!("the rule {:?} is not supported", rule.full_name()),
        }
    }
    // a rule of a newer validate.proto than the vendored one would otherwise be lost
    if rules.unknown_fields().next().is_some() {
        bail!("an unknown rule");
    }
    Ok(out)
}

fn string(rules: &DynamicMessage, patterns: &mut Patterns) -> Result<Vec<Check>> {
    each(rules, |rule, value| {
        Ok(Some(match (rule, value) {
            ("min_len", Value::U64(1)) => check("v.is_empty()", "must not be empty"),
            ("min_len", Value::U64(n)) => {
                check(format!("v.chars().count() < {n}"), format!("must have at least {n} characters"))
            }
            // bytes are never fewer than characters: the count is taken only of what may be too long
            ("max_len", Value::U64(n)) => {
                check(format!("v.len() > {n} && v.chars().count() > {n}"), format!("must have at most {n} characters"))
            }
            ("len", Value::U64(n)) => {
                check(format!("v.chars().count() != {n}"), format!("must have exactly {n} characters"))
            }
            ("min_bytes", Value::U64(n)) => check(format!("v.len() < {n}"), format!("must have at least {n} bytes")),
            ("max_bytes", Value::U64(n)) => check(format!("v.len() > {n}"), format!("must have at most {n} bytes")),
            ("pattern", Value::String(p)) => {
                check(format!("!{}.is_match(v)", patterns.name(p)?), format!("must match {p}"))
            }
            ("prefix", Value::String(s)) => check(format!("!v.starts_with({s:?})"), format!("must start with {s:?}")),
            ("suffix", Value::String(s)) => check(format!("!v.ends_with({s:?})"), format!("must end with {s:?}")),
            ("contains", Value::String(s)) => check(format!("!v.contains({s:?})"), format!("must contain {s:?}")),
            ("const", Value::String(s)) => check(format!("v != {s:?}"), format!("must be {s:?}")),
            ("in", Value::List(list)) => one_of(list)?,
            ("not_in", Value::List(list)) => none_of(list)?,
            _ => return Ok(None),
        }))
    })
}

fn bytes(rules: &DynamicMessage) -> Result<Vec<Check>> {
    each(rules, |rule, value| {
        Ok(Some(match (rule, value) {
            ("min_len", Value::U64(n)) => check(format!("v.len() < {n}"), format!("must have at least {n} bytes")),
            ("max_len", Value::U64(n)) => check(format!("v.len() > {n}"), format!("must have at most {n} bytes")),
            ("len", Value::U64(n)) => check(format!("v.len() != {n}"), format!("must have exactly {n} bytes")),
            _ => return Ok(None),
        }))
    })
}

fn enumeration(kind: &EnumDescriptor, rules: &DynamicMessage) -> Result<Vec<Check>> {
    each(rules, |rule, value| {
        let name = |value: &Value| {
            let number = value.as_i32().or_else(|| value.as_enum_number()).context("not an enum number")?;
            let known = kind.get_value(number).with_context(|| format!("{} has no {number}", kind.full_name()))?;
            Ok::<_, anyhow::Error>((number.to_string(), known.name().to_owned()))
        };
        let (refuse, values) = match (rule, value) {
            ("defined_only", Value::Bool(false)) => return Ok(Some(check("false", ""))),
            ("defined_only", Value::Bool(true)) => {
                let known = format!("{}::try_from(v).is_err()", names::enumeration(kind));
                return Ok(Some(check(known, format!("must be a value of {}", kind.name()))));
            }
            ("const", value) => (false, vec![name(value)?]),
            ("in", Value::List(list)) => (false, list.iter().map(name).collect::<Result<_>>()?),
            ("not_in", Value::List(list)) => (true, list.iter().map(name).collect::<Result<Vec<_>>>()?),
            _ => return Ok(None),
        };
        let (numbers, words): (Vec<_>, Vec<_>) = values.into_iter().unzip();
        let matches = format!("matches!(v, {})", numbers.join(" | "));
        Ok(Some(if refuse {
            check(matches, format!("must not be {}", words.join(" or ")))
        } else {
            check(format!("!{matches}"), format!("must be {}", words.join(" or ")))
        }))
    })
}

fn number(kind: &Kind, rules: &DynamicMessage) -> Result<Vec<Check>> {
    let bound = |name: &str| rules.has_field_by_name(name).then(|| rules.get_field_by_name(name).map(Cow::into_owned));
    let lower = bound("gt").or_else(|| bound("gte")).flatten();
    let upper = bound("lt").or_else(|| bound("lte")).flatten();
    if let (Some(lower), Some(upper)) = (&lower, &upper)
        && as_f64(lower)? > as_f64(upper)?
    {
        bail!("a range that excludes its middle is not supported");
    }
    let float = matches!(kind, Kind::Float | Kind::Double);
    each(rules, |rule, value| {
        Ok(Some(match (rule, value) {
            // written as a negation, so that NaN breaks every bound
            ("gt", v) => check(format!("!(v > {})", literal(v)?), format!("must be greater than {}", show(v)?)),
            ("gte", v) => check(format!("!(v >= {})", literal(v)?), format!("must be at least {}", show(v)?)),
            ("lt", v) => check(format!("!(v < {})", literal(v)?), format!("must be less than {}", show(v)?)),
            ("lte", v) => check(format!("!(v <= {})", literal(v)?), format!("must be at most {}", show(v)?)),
            ("const", v) => check(format!("v != {}", literal(v)?), format!("must be {}", show(v)?)),
            ("finite", Value::Bool(true)) if float => check("!v.is_finite()", "must be a finite number"),
            ("finite", Value::Bool(false)) if float => check("false", ""),
            ("in", Value::List(list)) => one_of(list)?,
            ("not_in", Value::List(list)) => none_of(list)?,
            _ => return Ok(None),
        }))
    })
}

/// Durations and timestamps against fixed bounds.
fn moment(rules: &DynamicMessage) -> Result<Vec<Check>> {
    each(rules, |rule, value| {
        let (operator, words) = match rule {
            "gt" => (">", "greater than"),
            "gte" => (">=", "at least"),
            "lt" => ("<", "less than"),
            "lte" => ("<=", "at most"),
            "const" => ("==", "exactly"),
            _ => return Ok(None),
        };
        let Some(bound) = value.as_message() else { return Ok(None) };
        let part = |name: &str| bound.get_field_by_name(name).map(Cow::into_owned);
        let seconds = part("seconds").and_then(|v| v.as_i64()).unwrap_or(0);
        let nanos = part("nanos").and_then(|v| v.as_i32()).unwrap_or(0);
        let shown = if nanos == 0 { format!("{seconds} s") } else { format!("{seconds} s {nanos} ns") };
        Ok(Some(check(
            format!("!((v.seconds, v.nanos) {operator} ({seconds}, {nanos}))"),
            format!("must be {words} {shown}"),
        )))
    })
}

fn one_of(list: &[Value]) -> Result<Check> {
    let values = list.iter().map(literal).collect::<Result<Vec<_>>>()?;
    let shown = list.iter().map(show).collect::<Result<Vec<_>>>()?;
    Ok(check(format!("![{}].contains(&v)", values.join(", ")), format!("must be one of {}", shown.join(", "))))
}

fn none_of(list: &[Value]) -> Result<Check> {
    let values = list.iter().map(literal).collect::<Result<Vec<_>>>()?;
    let shown = list.iter().map(show).collect::<Result<Vec<_>>>()?;
    Ok(check(format!("[{}].contains(&v)", values.join(", ")), format!("must not be any of {}", shown.join(", "))))
}

/// The Rust literal.
fn literal(value: &Value) -> Result<String> {
    Ok(match value {
        Value::F32(v) if v.is_finite() => format!("{v:?}f32"),
        Value::F64(v) if v.is_finite() => format!("{v:?}f64"),
        Value::I32(v) => format!("{v}i32"),
        Value::I64(v) => format!("{v}i64"),
        Value::U32(v) => format!("{v}u32"),
        Value::U64(v) => format!("{v}u64"),
        Value::String(v) => format!("{v:?}"),
        other => bail!("{other:?} cannot be a bound"),
    })
}

/// The value as the caller reads it.
fn show(value: &Value) -> Result<String> {
    Ok(match value {
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::U64(v) => v.to_string(),
        Value::String(v) => format!("{v:?}"),
        other => bail!("{other:?} cannot be a bound"),
    })
}

fn as_f64(value: &Value) -> Result<f64> {
    show(value)?.parse().context("a bound that is not a number")
}
