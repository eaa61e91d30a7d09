//! One path template of `google.api.http`, parsed: `/v1/{name=sites/*}/rooms/**:watch`.

use std::fmt;

use sensormesh_types::{Code, Error, Result};

/// What one segment of a path must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// Exactly this text, percent-decoded.
    Literal(String),
    /// `*`: any one segment that is not empty.
    One,
    /// `**`: every segment to the end, also none.
    Rest,
}

/// A variable: which field takes the text of which segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// The path of the field: `place.place_id`.
    pub field: String,
    /// The first segment.
    pub start: usize,
    /// The segment after the last one; `None` = to the end of the path.
    pub end: Option<usize>,
    /// The variable is more than a single `*`, so `%2F` in it stays as it is.
    pub multi: bool,
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What each segment must be.
    pub segments: Vec<Segment>,
    /// The variables, from left to right.
    pub variables: Vec<Variable>,
    /// The text after the last `:`, if there is one.
    pub verb: Option<String>,
}

impl Template {
    /// Parses a template.
    ///
    /// `**` may only be the last segment, a field may be bound once, and variables do not nest.
    pub fn parse(text: &str) -> Result<Self> {
        Parser { text, at: 0, segments: Vec::new(), variables: Vec::new() }.template()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.segments.iter().enumerate() {
            f.write_str("/")?;
            if let Some(variable) = self.variables.iter().find(|v| v.start == index) {
                write!(f, "{{{}", variable.field)?;
                if variable.multi {
                    f.write_str("=")?;
                }
            }
            let inner = self.variables.iter().find(|v| v.start <= index && v.end.is_none_or(|end| index < end));
            match segment {
                Segment::Literal(text) => f.write_str(text)?,
                Segment::One if inner.is_some_and(|v| !v.multi) => {}
                Segment::One => f.write_str("*")?,
                Segment::Rest => f.write_str("**")?,
            }
            if inner.is_some_and(|v| v.end.unwrap_or(self.segments.len()) == index + 1) {
                f.write_str("}")?;
            }
        }
        self.verb.as_ref().map_or(Ok(()), |verb| write!(f, ":{verb}"))
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    segments: Vec<Segment>,
    variables: Vec<Variable>,
}

impl Parser<'_> {
    fn template(mut self) -> Result<Template> {
        self.expect('/')?;
        self.list(false)?;
        let verb = if self.take(':') { Some(self.literal()?) } else { None };
        if self.at < self.text.len() {
            return Err(self.refuse("unexpected text"));
        }
        let rest = self.segments.iter().position(|segment| *segment == Segment::Rest);
        if rest.is_some_and(|at| at + 1 != self.segments.len()) {
            return Err(self.refuse("\"**\" must be the last segment"));
        }
        Ok(Template { segments: self.segments, variables: self.variables, verb })
    }

    fn list(&mut self, inside: bool) -> Result<()> {
        loop {
            self.segment(inside)?;
            if !self.take('/') {
                return Ok(());
            }
        }
    }

    fn segment(&mut self, inside: bool) -> Result<()> {
        if self.take('*') {
            let segment = if self.take('*') { Segment::Rest } else { Segment::One };
            self.segments.push(segment);
        } else if self.take('{') {
            if inside {
                return Err(self.refuse("variables do not nest"));
            }
            self.variable()?;
        } else {
            let literal = self.literal()?;
            self.segments.push(Segment::Literal(literal));
        }
        Ok(())
    }

    fn variable(&mut self) -> Result<()> {
        let field = self.run(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
        let names_fields = field.split('.').all(|part| part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'));
        if !names_fields {
            return Err(self.refuse("a field path was expected"));
        }
        if self.variables.iter().any(|v| v.field == field) {
            return Err(self.refuse("a field is bound twice"));
        }
        let start = self.segments.len();
        if self.take('=') {
            self.list(true)?;
        } else {
            self.segments.push(Segment::One);
        }
        self.expect('}')?;
        let open = self.segments.last() == Some(&Segment::Rest);
        let multi = self.segments[start..] != [Segment::One];
        let end = if open { None } else { Some(self.segments.len()) };
        self.variables.push(Variable { field, start, end, multi });
        Ok(())
    }

    fn literal(&mut self) -> Result<String> {
        let text = self.run(|c| !matches!(c, '/' | '{' | '}' | '*' | ':' | '='));
        if text.is_empty() { Err(self.refuse("a segment was expected")) } else { Ok(text) }
    }

    fn run(&mut self, belongs: impl Fn(char) -> bool) -> String {
        let rest = &self.text[self.at..];
        let length = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += length;
        rest[..length].to_owned()
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.text[self.at..].starts_with(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    fn expect(&mut self, wanted: char) -> Result<()> {
        if self.take(wanted) { Ok(()) } else { Err(self.refuse(&format!("{wanted:?} was expected"))) }
    }

    fn refuse(&self, why: &str) -> Error {
        Error::new(Code::Invalid, "TEMPLATE", format!("path template {:?} at {}: {why}", self.text, self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_template_is_taken_apart() {
        let template = Template::parse("/v1/{name=sites/*/rooms/**}:watch").expect("template");
        assert_eq!(template.verb.as_deref(), Some("watch"));
        assert_eq!(template.segments.len(), 5);
        let variable = Variable { field: "name".into(), start: 1, end: None, multi: true };
        assert_eq!(template.variables, [variable]);
        let plain = Template::parse("/v1/{place.place_id}/x").expect("template");
        assert_eq!(
            plain.variables[0],
            Variable { field: "place.place_id".into(), start: 1, end: Some(2), multi: false }
        );
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in [
            "",
            "v1",
            "/",
            "//a",
            "/a/",
            "/{",
            "/{}",
            "/{a",
            "/{a=}",
            "/{a={b}}",
            "/a:",
            "/a:b:c",
            "/**/a",
            "/{a=**}/b",
            "/{a}/{a}",
            "/{1a}",
            "/{a..b}",
            "/a}b",
            "/a*",
            "/{a.}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    fn templates() -> impl Strategy<Value = String> {
        let inner = prop_oneof![Just("*".to_owned()), "[a-z]{1,6}"];
        let variable = ("[a-z_]{1,8}(\\.[a-z_]{1,5})?", prop::option::of(prop::collection::vec(inner, 1..3)));
        let segment = prop_oneof![
            "[a-z0-9._-]{1,8}",
            Just("*".to_owned()),
            variable.prop_map(|(field, inner)| match inner {
                Some(parts) if parts != ["*"] => format!("{{{field}={}}}", parts.join("/")),
                _ => format!("{{{field}}}"),
            }),
        ];
        (prop::collection::vec(segment, 1..6), prop::option::of("[a-zA-Z]{1,8}")).prop_map(|(parts, verb)| {
            format!("/{}{}", parts.join("/"), verb.map_or(String::new(), |v| format!(":{v}")))
        })
    }

    proptest! {
        #[test]
        fn a_template_prints_as_it_was_written(text in templates()) {
            if let Ok(template) = Template::parse(&text) {
                prop_assert_eq!(template.to_string(), text);
            } else {
                // the only thing the generator may do wrong is to bind a field twice
                let variables = text.matches('{').count();
                prop_assert!(variables > 1);
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,40}") {
            let _ = Template::parse(&text);
        }
    }
}
