//! `Validate` for every message: the field rules of `buf.validate`, compiled.
//!
//! A message is checked when it arrives at a server. Messages that are only ever answers are not checked: whoever sends
//! them is ours. A message without rules, its own or those of a message within it, costs nothing.

use std::collections::HashSet;
use std::fmt::Write;

use anyhow::{Context, Result, bail};
use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor, ReflectMessage,
};

use crate::rules::{Check, Patterns, checks};
use crate::{Contracts, OURS, names};

const RULES: &str = "buf.validate.field";

/// Writes the implementations.
///
/// # Errors
///
/// Names the field whose rule is not supported.
pub(crate) fn emit(contracts: &Contracts) -> Result<String> {
    let mut writer = Writer {
        field_rules: contracts.pool.get_extension_by_name(RULES),
        message_rules: contracts.pool.get_extension_by_name("buf.validate.message"),
        oneof_rules: contracts.pool.get_extension_by_name("buf.validate.oneof"),
        on_wire: contracts
            .messages()
            .iter()
            .flat_map(MessageDescriptor::fields)
            .filter(|field| contracts.is_as_on_wire(field))
            .map(|field| field.full_name().to_owned())
            .collect(),
        patterns: Patterns::default(),
        out: String::new(),
    };
    let answers = answers(contracts);
    for message in contracts.messages() {
        let answer = answers.contains(message.full_name());
        writer.message(&message, answer)?;
    }
    let mut out = writer.out;
    for (index, pattern) in writer.patterns.0.iter().enumerate() {
        let _ = writeln!(
            out,
            "static P{index}: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| \
             regex::Regex::new({pattern:?}).expect(\"compiled once when the contracts were\"));"
        );
    }
    Ok(out)
}

/// The messages that a service sends and nobody sends to a service.
fn answers(contracts: &Contracts) -> HashSet<String> {
    let mut outputs = HashSet::new();
    let mut others = HashSet::new();
    for service in contracts.pool.services().filter(|s| s.package_name().starts_with(OURS)) {
        for method in service.methods() {
            outputs.insert(method.output().full_name().to_owned());
            others.insert(method.input().full_name().to_owned());
        }
    }
    for message in contracts.messages() {
        others.extend(message.fields().filter_map(|f| Some(f.kind().as_message()?.full_name().to_owned())));
    }
    outputs.retain(|name| !others.contains(name));
    outputs
}

struct Writer {
    field_rules: Option<ExtensionDescriptor>,
    message_rules: Option<ExtensionDescriptor>,
    oneof_rules: Option<ExtensionDescriptor>,
    /// Fields whose messages are kept as they stand on the wire.
    on_wire: HashSet<String>,
    patterns: Patterns,
    out: String,
}

impl Writer {
    fn message(&mut self, message: &MessageDescriptor, answer: bool) -> Result<()> {
        let name = names::message(message);
        if self.message_rules.as_ref().is_some_and(|r| message.options().has_extension(r)) {
            bail!("{}: rules of a whole message are not supported", message.full_name());
        }
        let mut body = String::new();
        for field in message.fields() {
            body += &self.field(&field).with_context(|| field.full_name().to_owned())?;
        }
        for oneof in message.oneofs().filter(|o| !o.is_synthetic()) {
            body += &self.oneof(&oneof).with_context(|| oneof.full_name().to_owned())?;
        }
        if answer {
            let _ = writeln!(self.out, "impl crate::Validate for {name} {{ const ANSWER: bool = true; }}");
        } else if body.is_empty() {
            let _ = writeln!(self.out, "impl crate::Validate for {name} {{}}");
        } else {
            let _ = writeln!(
                self.out,
                "impl crate::Validate for {name} {{\n\
                 fn check(&self, at: &crate::At<'_>, found: &mut crate::Found) {{\n{body}}}\n}}"
            );
        }
        Ok(())
    }

    fn oneof(&mut self, oneof: &OneofDescriptor) -> Result<String> {
        let Some(extension) = &self.oneof_rules else { return Ok(String::new()) };
        let options = oneof.options();
        let value = options.get_extension(extension);
        let rules = value.as_message().context("the rules of a oneof are not a message")?;
        if !flag(rules, "required") {
            return Ok(String::new());
        }
        let choices: Vec<_> = oneof.fields().map(|f| f.name().to_owned()).collect();
        let field = names::oneof(oneof);
        let message = format!("one of {} is required", choices.join(", "));
        Ok(format!("if self.{field}.is_none() {{ found.add(&at.field({:?}), {message:?}); }}\n", oneof.name()))
    }

    fn field(&mut self, field: &FieldDescriptor) -> Result<String> {
        let rules = self.rules(field)?;
        let mut body = String::new();
        if flag(&rules, "required") {
            body += &required(field);
        }
        let inner = match ignore(&rules) {
            3 => String::new(),
            1 => self.values(field, &rules, true)?,
            _ => self.values(field, &rules, false)?,
        };
        body += &inner;
        if body.is_empty() {
            return Ok(body);
        }
        Ok(format!("{{\nlet at = &at.field({:?});\n{body}}}\n", field.name()))
    }

    /// The field's `FieldRules`, empty where it has none.
    fn rules(&self, field: &FieldDescriptor) -> Result<DynamicMessage> {
        let extension = self.field_rules.as_ref().context("buf/validate/validate.proto is not among the contracts")?;
        let options = field.options();
        let value = options.get_extension(extension);
        let rules = value.as_message().context("the rules of a field are not a message")?.clone();
        accept(&rules)?;
        Ok(rules)
    }

    fn values(&mut self, field: &FieldDescriptor, rules: &DynamicMessage, skip_zero: bool) -> Result<String> {
        let name = names::field(field);
        if field.is_map() {
            return self.map(field, rules);
        }
        if field.is_list() {
            return self.list(field, rules);
        }
        let body = self.value(&field.kind(), rules)?;
        if body.is_empty() {
            return Ok(body);
        }
        let kind = field.kind();
        let oneof = field.containing_oneof().filter(|o| !o.is_synthetic());
        Ok(if let Some(oneof) = oneof {
            let variant = names::variant(&oneof, field);
            let holder = names::oneof(&oneof);
            format!("if let Some({variant}(v)) = &self.{holder} {{ {}{body}}}\n", borrowed(&kind))
        } else if field.supports_presence() {
            format!("if let Some(v) = &self.{name} {{ {}{body}}}\n", borrowed(&kind))
        } else {
            let bind = format!("let v = &self.{name}; {}", borrowed(&kind));
            let zero = if skip_zero { format!("if {} ", not_zero(&kind)) } else { String::new() };
            format!("{bind}{zero}{{ {body}}}\n")
        })
    }

    /// The checks of one value `v`, and those within it where it is a message of ours.
    fn value(&mut self, kind: &Kind, rules: &DynamicMessage) -> Result<String> {
        let mut body = String::new();
        for (rule, value) in rules.fields().filter(|(f, _)| f.containing_oneof().is_some()) {
            fits(kind, rule.name())?;
            let rules = value.as_message().context("rules that are not a message")?;
            body += &emit_checks(&checks(kind, rules, &mut self.patterns)?);
        }
        if let Kind::Message(message) = kind
            && self.has_rules(message, &mut HashSet::new())?
        {
            body += "v.check(at, found);\n";
        }
        Ok(body)
    }

    fn list(&mut self, field: &FieldDescriptor, rules: &DynamicMessage) -> Result<String> {
        let name = names::field(field);
        let mut whole = String::new();
        let mut items = DynamicMessage::new(rules.descriptor());
        for (rule, value) in rules.fields().filter(|(f, _)| f.containing_oneof().is_some()) {
            if rule.name() != "repeated" {
                bail!("{} rules do not fit a repeated field", rule.name());
            }
            let list = value.as_message().context("rules that are not a message")?;
            for (rule, value) in list.fields() {
                match (rule.name(), value.as_u64(), value.as_bool()) {
                    ("min_items", Some(n), _) => whole += &emit_checks(&[at_least(n, "item")]),
                    ("max_items", Some(n), _) => whole += &emit_checks(&[at_most(n, "item")]),
                    ("unique", _, Some(true)) => whole += unique(&field.kind())?,
                    ("unique", _, Some(false)) => {}
                    ("items", ..) => items = value.as_message().context("items without rules")?.clone(),
                    _ => bail!("the rule {:?} is not supported", rule.full_name()),
                }
            }
        }
        // what stands as it is on the wire is looked at by who reads it
        let on_wire = self.on_wire.contains(field.full_name());
        let item = if on_wire { String::new() } else { self.item(&field.kind(), &items)? };
        let mut out = String::new();
        if !whole.is_empty() {
            let _ = writeln!(out, "let v = &self.{name}; {whole}");
        }
        if !item.is_empty() {
            let _ = writeln!(
                out,
                "for (i, v) in self.{name}.iter().enumerate() {{ let at = &at.item(i); {}{item}}}",
                borrowed(&field.kind())
            );
        }
        Ok(out)
    }

    fn map(&mut self, field: &FieldDescriptor, rules: &DynamicMessage) -> Result<String> {
        let name = names::field(field);
        let kind = field.kind();
        let entry = kind.as_message().context("a map without entries")?;
        let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let mut whole = String::new();
        let mut keys = DynamicMessage::new(rules.descriptor());
        let mut values = keys.clone();
        for (rule, set) in rules.fields().filter(|(f, _)| f.containing_oneof().is_some()) {
            if rule.name() != "map" {
                bail!("{} rules do not fit a map", rule.name());
            }
            for (rule, set) in set.as_message().context("rules that are not a message")?.fields() {
                match (rule.name(), set.as_u64()) {
                    ("min_pairs", Some(n)) => whole += &emit_checks(&[at_least(n, "entry")]),
                    ("max_pairs", Some(n)) => whole += &emit_checks(&[at_most(n, "entry")]),
                    ("keys", _) => keys = set.as_message().context("keys without rules")?.clone(),
                    ("values", _) => values = set.as_message().context("values without rules")?.clone(),
                    _ => bail!("the rule {:?} is not supported", rule.full_name()),
                }
            }
        }
        let keys = self.item(&key, &keys)?;
        let values = self.item(&value, &values)?;
        let mut out = String::new();
        if !whole.is_empty() {
            let _ = writeln!(out, "let v = &self.{name}; {whole}");
        }
        if !(keys.is_empty() && values.is_empty()) {
            let _ = writeln!(out, "for (k, v) in &self.{name} {{ let at = &at.key(k);");
            if !keys.is_empty() {
                let _ = writeln!(out, "{{ let v = k; {}{keys}}}", borrowed(&key));
            }
            if !values.is_empty() {
                let _ = writeln!(out, "{}{values}", borrowed(&value));
            }
            out.push_str("}\n");
        }
        Ok(out)
    }

    /// The checks of an element of a list or map.
    fn item(&mut self, kind: &Kind, rules: &DynamicMessage) -> Result<String> {
        accept(rules)?;
        if flag(rules, "required") {
            bail!("`required` does not fit an element");
        }
        let body = self.value(kind, rules)?;
        Ok(match ignore(rules) {
            3 => String::new(),
            1 if !body.is_empty() => format!("if {} {{ {body}}}\n", not_zero(kind)),
            _ => body,
        })
    }

    /// Whether checking a message of this type could find anything.
    fn has_rules(&self, message: &MessageDescriptor, seen: &mut HashSet<String>) -> Result<bool> {
        if message.package_name() == "google.protobuf" || !seen.insert(message.full_name().to_owned()) {
            return Ok(false);
        }
        for oneof in message.oneofs().filter(|o| !o.is_synthetic()) {
            if self.oneof_rules.as_ref().is_some_and(|r| oneof.options().has_extension(r)) {
                return Ok(true);
            }
        }
        for field in message.fields() {
            let rules = self.rules(&field).with_context(|| field.full_name().to_owned())?;
            let kind = match field.kind() {
                Kind::Message(entry) if entry.is_map_entry() => entry.map_entry_value_field().kind(),
                kind => kind,
            };
            if rules.fields().next().is_some() || matches!(&kind, Kind::Message(inner) if self.has_rules(inner, seen)?)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Refuses what stands in a `FieldRules` beside the type's rules and is not supported.
fn accept(rules: &DynamicMessage) -> Result<()> {
    for (rule, _) in rules.fields().filter(|(f, _)| f.containing_oneof().is_none()) {
        if !matches!(rule.name(), "required" | "ignore") {
            bail!("the rule {:?} is not supported", rule.full_name());
        }
    }
    match rules.unknown_fields().next() {
        Some(_) => bail!("an unknown rule"),
        None => Ok(()),
    }
}

/// The rules' type must be the field's type.
fn fits(kind: &Kind, rules: &str) -> Result<()> {
    let expected = match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Sint32 => "sint32",
        Kind::Sint64 => "sint64",
        Kind::Fixed32 => "fixed32",
        Kind::Fixed64 => "fixed64",
        Kind::Sfixed32 => "sfixed32",
        Kind::Sfixed64 => "sfixed64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Enum(_) => "enum",
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Duration" => "duration",
            "google.protobuf.Timestamp" => "timestamp",
            other => bail!("{rules} rules do not fit {other}"),
        },
    };
    if rules != expected {
        bail!("{rules} rules do not fit a field of type {expected}");
    }
    Ok(())
}

/// Turns the reference `v` into what the checks are written for: numbers by value, text and bytes borrowed.
fn borrowed(kind: &Kind) -> &'static str {
    match kind {
        Kind::String => "let v = v.as_str(); ",
        Kind::Bytes | Kind::Message(_) => "",
        _ => "let v = *v; ",
    }
}

fn not_zero(kind: &Kind) -> &'static str {
    match kind {
        Kind::String | Kind::Bytes => "!v.is_empty()",
        Kind::Bool => "v",
        Kind::Float | Kind::Double => "v != 0.0",
        Kind::Message(_) => "true",
        _ => "v != 0",
    }
}

fn required(field: &FieldDescriptor) -> String {
    let name = names::field(field);
    let missing = if field.is_list() || field.is_map() {
        format!("self.{name}.is_empty()")
    } else if let Some(oneof) = field.containing_oneof().filter(|o| !o.is_synthetic()) {
        format!("!matches!(&self.{}, Some({}(_)))", names::oneof(&oneof), names::variant(&oneof, field))
    } else if field.supports_presence() {
        format!("self.{name}.is_none()")
    } else {
        let bind = borrowed(&field.kind());
        return format!(
            "{{ let v = &self.{name}; {bind}if !({}) {{ found.add(at, \"is required\"); }} }}\n",
            not_zero(&field.kind())
        );
    };
    format!("if {missing} {{ found.add(at, \"is required\"); }}\n")
}

fn at_least(n: u64, noun: &str) -> Check {
    let (broken, message) = match n {
        1 => ("v.is_empty()".to_owned(), "must not be empty".to_owned()),
        _ => (format!("v.len() < {n}"), format!("must have at least {n} {}", plural(noun))),
    };
    Check { broken, message }
}

fn at_most(n: u64, noun: &str) -> Check {
    let noun = if n == 1 { noun.to_owned() } else { plural(noun) };
    Check { broken: format!("v.len() > {n}"), message: format!("must have at most {n} {noun}") }
}

fn plural(noun: &str) -> String {
    noun.strip_suffix('y').map_or_else(|| format!("{noun}s"), |stem| format!("{stem}ies"))
}

fn unique(kind: &Kind) -> Result<&'static str> {
    if matches!(kind, Kind::Float | Kind::Double | Kind::Message(_)) {
        bail!("`unique` is supported for text, bytes, integers and enums only");
    }
    Ok("found.add_repeated(at, v);\n")
}

fn emit_checks(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks.iter().filter(|c| c.broken != "false") {
        let _ = writeln!(out, "if {} {{ found.add(at, {:?}); }}", check.broken, check.message);
    }
    out
}

fn flag(rules: &DynamicMessage, name: &str) -> bool {
    rules.get_field_by_name(name).and_then(|v| v.as_bool()).unwrap_or(false)
}

fn ignore(rules: &DynamicMessage) -> i32 {
    rules.get_field_by_name("ignore").and_then(|v| v.as_enum_number()).unwrap_or(0)
}
