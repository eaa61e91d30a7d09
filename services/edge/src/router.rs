//! Finds the route of a path: a tree of segments, in which literal text is preferred to a variable.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use sensormesh_types::{Code, Error, Result};

use crate::template::{Segment, Template, Variable};

/// What the router knows about a route.
#[derive(Debug)]
struct Leaf {
    method: String,
    verb: Option<String>,
    route: usize,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, Node>,
    one: Option<Box<Node>>,
    rest: Vec<Leaf>,
    leaves: Vec<Leaf>,
}

/// Every route by its template.
#[derive(Debug, Default)]
pub struct Router {
    root: Node,
    variables: Vec<Vec<Variable>>,
}

/// What became of a search.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// This route, with the text of each of its template's variables in order.
    Route(usize, Vec<String>),
    /// The path is known, but only with these HTTP methods.
    OtherMethods(BTreeSet<String>),
    /// No such path.
    Nothing,
}

impl Router {
    /// Adds a route under its number. Two routes with the same HTTP method and the same shape are refused.
    pub fn add(&mut self, method: &str, template: &Template, route: usize) -> Result<()> {
        let leaves = self.leaves(template);
        if leaves.iter().any(|leaf| leaf.method == method && leaf.verb == template.verb) {
            return Err(Error::new(Code::Internal, "ROUTE_TWICE", format!("{method} {template} is routed twice")));
        }
        leaves.push(Leaf { method: method.to_owned(), verb: template.verb.clone(), route });
        self.variables.resize_with(self.variables.len().max(route + 1), Vec::new);
        self.variables[route].clone_from(&template.variables);
        Ok(())
    }

    /// The route that has the same HTTP method and shape as this one, and the same variables in its place.
    pub fn like(&mut self, method: &str, template: &Template) -> Option<usize> {
        let leaves = self.leaves(template);
        let route = leaves.iter().find(|leaf| leaf.method == method && leaf.verb == template.verb)?.route;
        let place = |variable: &Variable| (variable.start, variable.end, variable.multi);
        self.variables[route].iter().map(place).eq(template.variables.iter().map(place)).then_some(route)
    }

    fn leaves(&mut self, template: &Template) -> &mut Vec<Leaf> {
        let mut node = &mut self.root;
        let mut open = false;
        for segment in &template.segments {
            match segment {
                Segment::Literal(text) => node = node.literals.entry(text.clone()).or_default(),
                Segment::One => node = node.one.get_or_insert_default(),
                Segment::Rest => open = true,
            }
        }
        if open { &mut node.rest } else { &mut node.leaves }
    }

    /// Finds the route of a path as it stands in the request line, without its query.
    pub fn find(&self, method: &str, path: &str) -> Found {
        let Some(path) = path.strip_prefix('/') else { return Found::Nothing };
        let segments: Vec<&str> = path.split('/').collect();
        // "Last segment:verb" is tried as such first, then as a segment that happens to have a colon in it.
        let verb = segments.last().and_then(|last| last.rsplit_once(':')).filter(|(head, _)| !head.is_empty());
        let mut search = Search { method, segments: &segments, verb, other: BTreeSet::new(), cut: false };
        if let Some((head, _)) = verb {
            let mut cut = segments.clone();
            if let Some(last) = cut.last_mut() {
                *last = head;
            }
            let mut with_verb = Search { segments: &cut, cut: true, other: BTreeSet::new(), ..search };
            if let Some(route) = with_verb.walk(&self.root, 0) {
                return Found::Route(route, capture(&self.variables[route], &cut));
            }
            search.other = with_verb.other;
        }
        if let Some(route) = search.walk(&self.root, 0) {
            return Found::Route(route, capture(&self.variables[route], &segments));
        }
        if search.other.is_empty() { Found::Nothing } else { Found::OtherMethods(search.other) }
    }
}

struct Search<'a> {
    method: &'a str,
    segments: &'a [&'a str],
    verb: Option<(&'a str, &'a str)>,
    other: BTreeSet<String>,
    cut: bool,
}

impl Search<'_> {
    fn walk(&mut self, node: &Node, depth: usize) -> Option<usize> {
        let Some(segment) = self.segments.get(depth) else {
            return self.leaf(&node.leaves).or_else(|| self.leaf(&node.rest));
        };
        let below = node.literals.get(decode(segment, false).as_ref());
        if let Some(route) = below.and_then(|below| self.walk(below, depth + 1)) {
            return Some(route);
        }
        if let Some(below) = node.one.as_deref().filter(|_| !segment.is_empty())
            && let Some(route) = self.walk(below, depth + 1)
        {
            return Some(route);
        }
        self.leaf(&node.rest)
    }

    fn leaf(&mut self, leaves: &[Leaf]) -> Option<usize> {
        let verb = self.verb.filter(|_| self.cut).map(|(_, verb)| verb);
        let matching = leaves.iter().filter(|leaf| leaf.verb.as_deref() == verb);
        for leaf in matching {
            if leaf.method == self.method {
                return Some(leaf.route);
            }
            self.other.insert(leaf.method.clone());
        }
        None
    }
}

fn capture(variables: &[Variable], segments: &[&str]) -> Vec<String> {
    let text = |variable: &Variable| {
        let end = variable.end.unwrap_or(segments.len()).min(segments.len());
        let parts = &segments[variable.start.min(end)..end];
        parts.iter().map(|part| decode(part, variable.multi)).collect::<Vec<_>>().join("/")
    };
    variables.iter().map(text).collect()
}

/// Percent-decodes a segment. What is no valid escape, or does not make UTF-8, stays as it is.
///
/// With `keep_slash`, `%2F` stays as it is, so that a text of several segments reads back as it was written.
pub fn decode(segment: &str, keep_slash: bool) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let value = escape.and_then(|hex| Some(hex_digit(hex[0])? << 4 | hex_digit(hex[1])?));
        match value {
            Some(value) if !(keep_slash && value == b'/') => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(segment), Cow::Owned)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn router(routes: &[(&str, &str)]) -> Router {
        let mut router = Router::default();
        for (index, (method, template)) in routes.iter().enumerate() {
            let template = Template::parse(template).expect(template);
            router.add(method, &template, index).expect("a new route");
        }
        router
    }

    fn found(route: usize, texts: &[&str]) -> Found {
        Found::Route(route, texts.iter().map(|text| (*text).to_owned()).collect())
    }

    #[test]
    fn literal_text_is_preferred_to_a_variable() {
        let router = router(&[
            ("GET", "/v1/rooms/{room_id}"),
            ("GET", "/v1/rooms/hall"),
            ("GET", "/v1/{name=rooms/*}/metrics"),
            ("GET", "/v1/rooms/{room_id}/metrics/{metric}"),
            ("GET", "/v1/{path=**}"),
        ]);
        assert_eq!(router.find("GET", "/v1/rooms/a"), found(0, &["a"]));
        assert_eq!(router.find("GET", "/v1/rooms/hall"), found(1, &[]));
        assert_eq!(router.find("GET", "/v1/rooms/hall/metrics"), found(2, &["rooms/hall"]));
        assert_eq!(router.find("GET", "/v1/rooms/hall/metrics/co2"), found(3, &["hall", "co2"]));
        assert_eq!(router.find("GET", "/v1/rooms/hall/other"), found(4, &["rooms/hall/other"]));
        assert_eq!(router.find("GET", "/v1"), found(4, &[""]));
        assert_eq!(router.find("GET", "/v2"), Found::Nothing);
    }

    #[test]
    fn a_verb_is_tried_before_a_colon_in_an_id() {
        let router = router(&[
            ("GET", "/v1/sensors/{id}"),
            ("GET", "/v1/sensors/{id}:watch"),
            ("GET", "/v1/sensors:unplaced"),
            ("POST", "/v1/sensors/{id}:watch"),
        ]);
        assert_eq!(router.find("GET", "/v1/sensors/a:b"), found(0, &["a:b"]));
        assert_eq!(router.find("GET", "/v1/sensors/a:b:watch"), found(1, &["a:b"]));
        assert_eq!(router.find("GET", "/v1/sensors/a%3Awatch"), found(0, &["a:watch"]));
        assert_eq!(router.find("GET", "/v1/sensors:unplaced"), found(2, &[]));
        assert_eq!(router.find("GET", "/v1/sensors:other"), Found::Nothing);
        assert_eq!(router.find("POST", "/v1/sensors/a:watch"), found(3, &["a"]));
    }

    #[test]
    fn a_known_path_with_another_method_says_which_ones_it_has() {
        let router = router(&[("GET", "/v1/rooms/{id}"), ("DELETE", "/v1/rooms/{id}"), ("GET", "/v1/rooms")]);
        let Found::OtherMethods(methods) = router.find("POST", "/v1/rooms/a") else { panic!("405 expected") };
        assert_eq!(methods.into_iter().collect::<Vec<_>>(), ["DELETE", "GET"]);
    }

    #[test]
    fn an_empty_segment_is_no_value() {
        let router = router(&[("GET", "/v1/rooms/{id}"), ("GET", "/v1/rooms")]);
        assert_eq!(router.find("GET", "/v1/rooms/"), Found::Nothing);
        assert_eq!(router.find("GET", "//v1/rooms"), Found::Nothing);
        assert_eq!(router.find("GET", "*"), Found::Nothing);
    }

    #[test]
    fn escapes_are_decoded_and_a_slash_stays_escaped_in_several_segments() {
        let router = router(&[("GET", "/v1/one/{id}"), ("GET", "/v1/many/{name=**}")]);
        assert_eq!(router.find("GET", "/v1/one/a%2Fb%20c"), found(0, &["a/b c"]));
        assert_eq!(router.find("GET", "/v1/many/a%2Fb/c%20d"), found(1, &["a%2Fb/c d"]));
        assert_eq!(router.find("GET", "/v1/%6Fne/100%"), found(0, &["100%"]));
    }

    #[test]
    fn the_same_shape_twice_is_refused() {
        let mut router = router(&[("GET", "/v1/rooms/{id}")]);
        let other = Template::parse("/v1/rooms/{name}").expect("template");
        assert!(router.add("GET", &other, 1).is_err());
        assert!(router.add("POST", &other, 1).is_ok());
    }

    proptest! {
        #[test]
        fn a_value_of_any_text_comes_through(value in "\\PC{1,20}") {
            let router = router(&[("GET", "/v1/rooms/{id}/x")]);
            let escaped: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(router.find("GET", &format!("/v1/rooms/{escaped}/x")), found(0, &[&value]));
        }

        #[test]
        fn no_path_makes_the_router_panic(path in "\\PC{0,60}") {
            let router = router(&[("GET", "/v1/{a=x/*}/{b}:w"), ("GET", "/{c=**}")]);
            let _ = router.find("GET", &path);
        }
    }
}
