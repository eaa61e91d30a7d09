//! The REST routes of a method: the `google.api.http` option, checked against the messages it names.

use anyhow::{Context, Result, bail};
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, Value};

use crate::Contracts;

const OPTION: &str = "google.api.http";

/// One HTTP route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `GET`, `POST`, …
    pub verb: String,
    /// `/v1/rooms/{room_id}:reset`.
    pub template: String,
    /// The request field that the body is; `*` = everything the path does not name; empty = no body.
    pub body: String,
    /// The response field that the answer's body is; empty = the whole response.
    pub response_body: String,
}

/// A path template in its parts, as `google/api/http.proto` defines it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The segments between slashes, variables opened up.
    pub segments: Vec<Segment>,
    /// What stands after the last colon; empty = nothing.
    pub verb: String,
    /// The field paths that variables fill.
    pub variables: Vec<String>,
}

/// One part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// This text.
    Literal(String),
    /// `*`: any one segment.
    One,
    /// `**`: the rest of the path.
    Rest,
}

/// Reads the routes of `method`; none where it has no such option.
///
/// # Errors
///
/// The option is not understood, or names a field that does not exist or cannot be put there.
pub(crate) fn read(contracts: &Contracts, method: &MethodDescriptor) -> Result<Vec<Route>> {
    let option = contracts.pool.get_extension_by_name(OPTION);
    let options = method.options();
    let Some(option) = option.filter(|o| options.has_extension(o)) else { return Ok(Vec::new()) };
    let value = options.get_extension(&option);
    let rule = value.as_message().context("google.api.http is not a message")?;
    let mut routes = vec![route(rule, method)?];
    let more = rule.get_field_by_name("additional_bindings");
    for binding in more.as_deref().and_then(Value::as_list).unwrap_or_default() {
        routes.push(route(binding.as_message().context("a binding is not a message")?, method)?);
    }
    Ok(routes)
}

fn route(rule: &DynamicMessage, method: &MethodDescriptor) -> Result<Route> {
    let text =
        |name: &str| rule.get_field_by_name(name).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let set = ["get", "put", "post", "delete", "patch"].into_iter().find(|verb| rule.has_field_by_name(verb));
    let (verb, template) = match set {
        Some(verb) => (verb.to_uppercase(), text(verb)),
        None => custom(rule)?,
    };
    let route = Route { verb, template, body: text("body"), response_body: text("response_body") };
    check(&route, method).with_context(|| format!("{} {}", route.verb, route.template))?;
    Ok(route)
}

fn custom(rule: &DynamicMessage) -> Result<(String, String)> {
    if !rule.has_field_by_name("custom") {
        bail!("a route without a path");
    }
    let value = rule.get_field_by_name("custom").context("no custom pattern")?;
    let pattern = value.as_message().context("no custom pattern")?;
    let text =
        |name: &str| pattern.get_field_by_name(name).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    Ok((text("kind"), text("path")))
}

fn check(route: &Route, method: &MethodDescriptor) -> Result<()> {
    let template = Template::parse(&route.template)?;
    let input = method.input();
    for variable in &template.variables {
        scalar(&input, variable)?;
    }
    if !route.body.is_empty() && matches!(route.verb.as_str(), "GET" | "DELETE") {
        bail!("{} has no body", route.verb);
    }
    if !route.body.is_empty() && route.body != "*" && input.get_field_by_name(&route.body).is_none() {
        bail!("body: {} has no field {:?}", input.full_name(), route.body);
    }
    if !route.response_body.is_empty() && method.output().get_field_by_name(&route.response_body).is_none() {
        bail!("response_body: {} has no field {:?}", method.output().full_name(), route.response_body);
    }
    Ok(())
}

/// A variable must lead through single messages to a field that text can fill.
fn scalar(input: &MessageDescriptor, path: &str) -> Result<()> {
    let mut message = input.clone();
    let mut parts = path.split('.').peekable();
    while let Some(name) = parts.next() {
        let Some(field) = message.get_field_by_name(name) else {
            bail!("{{{path}}}: {} has no field {name:?}", message.full_name());
        };
        if field.is_list() || field.is_map() {
            bail!("{{{path}}}: {name:?} is repeated");
        }
        match (field.kind(), parts.peek().is_some()) {
            (Kind::Message(next), true) => message = next,
            (Kind::Message(_) | Kind::Bytes, false) => bail!("{{{path}}}: {name:?} cannot stand in a path"),
            (_, false) => {}
            (_, true) => bail!("{{{path}}}: {name:?} is not a message"),
        }
    }
    Ok(())
}

impl Template {
    /// Parses `/v1/{name=rooms/*/sensors/**}:verb`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self> {
        let Some(rest) = text.strip_prefix('/') else { bail!("a path starts with /") };
        let last = rest.rfind(['/', '}']).map_or(0, |i| i + 1);
        let (path, verb) = match rest[last..].find(':') {
            Some(colon) => (&rest[..last + colon], &rest[last + colon + 1..]),
            None => (rest, ""),
        };
        let mut template = Template { segments: Vec::new(), verb: verb.to_owned(), variables: Vec::new() };
        if rest.ends_with(':') {
            bail!("nothing after the colon");
        }
        let mut left = path;
        loop {
            left = template.part(left)?;
            match left.strip_prefix('/') {
                Some(next) => left = next,
                None if left.is_empty() => break,
                None => bail!("{left:?} cannot follow a variable"),
            }
        }
        if template.segments.iter().rev().skip(1).any(|s| *s == Segment::Rest) {
            bail!("** stands last or not at all");
        }
        Ok(template)
    }

    /// The template without the names of its variables: two routes of the same shape would take each other's requests.
    ///
    /// # Errors
    ///
    /// As [`Template::parse`].
    pub fn shape(text: &str) -> Result<String> {
        let template = Self::parse(text)?;
        let mut shape = String::new();
        for segment in &template.segments {
            shape.push('/');
            shape.push_str(match segment {
                Segment::Literal(literal) => literal,
                Segment::One => "*",
                Segment::Rest => "**",
            });
        }
        Ok(format!("{shape}:{}", template.verb))
    }

    /// Takes one segment or one variable off `text` and returns what is left.
    fn part<'a>(&mut self, text: &'a str) -> Result<&'a str> {
        let Some(variable) = text.strip_prefix('{') else {
            let end = text.find('/').unwrap_or(text.len());
            self.segment(&text[..end])?;
            return Ok(&text[end..]);
        };
        let Some((inner, rest)) = variable.split_once('}') else { bail!("a {{ without a }}") };
        let (name, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
            bail!("{name:?} is not a field path");
        }
        if self.variables.iter().any(|v| v == name) {
            bail!("{{{name}}} stands twice");
        }
        self.variables.push(name.to_owned());
        for segment in pattern.split('/') {
            self.segment(segment)?;
        }
        Ok(rest)
    }

    fn segment(&mut self, text: &str) -> Result<()> {
        self.segments.push(match text {
            "" => bail!("an empty segment"),
            "*" => Segment::One,
            "**" => Segment::Rest,
            _ if text.contains(['{', '}', '*', ':', '=']) => bail!("{text:?} is not a segment"),
            _ => Segment::Literal(text.to_owned()),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_taken_apart() {
        let template = Template::parse("/v1/{name=rooms/*/sensors/**}:watch").unwrap();
        assert_eq!(template.verb, "watch");
        assert_eq!(template.variables, ["name"]);
        assert_eq!(Template::shape("/v1/{name=rooms/*/sensors/**}:watch").unwrap(), "/v1/rooms/*/sensors/**:watch");
        assert_eq!(Template::parse("/v1/users:register").unwrap().verb, "register");
        assert_eq!(Template::shape("/v1/rooms/{room_id}").unwrap(), Template::shape("/v1/rooms/{id}").unwrap());
    }

    #[test]
    fn a_wrong_template_is_refused() {
        for wrong in
            ["v1", "/", "/v1//x", "/v1/{}", "/v1/{a}b", "/v1/{a", "/v1/**/x", "/v1/{a}/{a}", "/v1/x:", "/v1/a*"]
        {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
    }
}
