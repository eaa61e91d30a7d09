//! Every supported rule, tried on real messages.

use std::collections::HashMap;

use sensormesh_proto::Validate;

use crate::generated::sensormesh::trial::v1::trial::inner::Choice;
use crate::generated::sensormesh::trial::v1::trial::{Inner, Self_ as One};
use crate::generated::sensormesh::trial::v1::try_request::Either;
use crate::generated::sensormesh::trial::v1::{Trial, TryRequest, TryResponse};

fn good() -> Trial {
    Trial { some_text: "x".into(), ..Trial::default() }
}

/// The wrong fields of a trial that is good but for `change`.
fn wrong(change: impl FnOnce(&mut Trial)) -> Vec<String> {
    let mut trial = good();
    change(&mut trial);
    trial.validate().err().unwrap_or_default().into_iter().map(|v| format!("{}: {}", v.field, v.description)).collect()
}

fn only(change: impl FnOnce(&mut Trial)) -> String {
    let wrong = wrong(change);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    wrong[0].clone()
}

#[test]
fn a_message_that_keeps_its_rules_is_valid() {
    assert_eq!(good().validate(), Ok(()));
    assert!(
        wrong(|t| {
            t.text = "äöü".into();
            t.maybe = "ab".into();
            t.pattern = Some("abc".into());
            t.choice = "a".into();
            t.fixed = Some("x".into());
            t.small = -1;
            t.big = Some(6);
            t.listed = -7;
            t.ratio = 1.5;
            t.level = Some(0.0);
            t.colour = 2;
            t.primary = Some(1);
            t.blob = vec![1, 2].into();
            t.names = vec!["a".into(), "b".into()];
            t.counts = HashMap::from([("ab".into(), 1)]);
            t.children = vec![good()];
            t.others = HashMap::from([("a".into(), good())]);
            t.wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
            t.time = Some(prost_types::Timestamp { seconds: 0, nanos: 1 });
            t.ignored = "anything".into();
            t.inner = Some(Inner { choice: Some(Choice::Nothing(false)) });
            t.shaped = Some("a\"-bb".into());
            t.seven = Some(7);
            t.red = Some(1);
            t.pair = Some(vec![0, 0].into());
            t.colours = vec![1, 2];
            t.gaps = vec![0, 4];
            t.agreed = Some(true);
            t.half = Some(prost_types::Duration { seconds: 0, nanos: 500_000_000 });
            t.self_ = Some(One::Trial(Box::new(good())));
        })
        .is_empty()
    );
}

#[test]
fn text_is_measured_in_characters_and_bytes() {
    assert_eq!(only(|t| t.some_text = String::new()), "some_text: must not be empty");
    assert_eq!(only(|t| t.text = "abcd".into()), "text: must have at most 3 characters");
    assert_eq!(only(|t| t.maybe = "a".into()), "maybe: must have at least 2 characters");
    assert_eq!(only(|t| t.maybe = "äöü".into()), "maybe: must have at most 4 bytes");
    assert_eq!(only(|t| t.short = "äöü".into()), "short: must have at most 4 bytes");
    assert_eq!(only(|t| t.pattern = Some("A".into())), "pattern: must match ^[a-z]+$");
    assert_eq!(only(|t| t.pattern = Some(String::new())), "pattern: must match ^[a-z]+$");
    assert_eq!(only(|t| t.choice = "b".into()), "choice: must be one of \"\", \"a\"");
    assert_eq!(only(|t| t.fixed = Some("y".into())), "fixed: must be \"x\"");
}

#[test]
fn text_is_held_to_its_shape() {
    let shaped = |text: &str| wrong(|t| t.shaped = Some(text.into()));
    assert_eq!(shaped("a\"--b"), ["shaped: must not be any of \"a\\\"--b\""]);
    assert_eq!(
        shaped("x"),
        [
            "shaped: must have at least 5 bytes",
            "shaped: must start with \"a\"",
            "shaped: must end with \"b\"",
            "shaped: must contain \"\\\"-\"",
            "shaped: must have exactly 5 characters",
        ]
    );
}

#[test]
fn numbers_are_held_to_their_bounds() {
    assert_eq!(only(|t| t.small = -2), "small: must be at least -1");
    assert_eq!(only(|t| t.small = 10), "small: must be less than 10");
    assert_eq!(only(|t| t.big = Some(5)), "big: must be greater than 5");
    assert_eq!(only(|t| t.listed = 8), "listed: must be one of 0, -7, 9");
    assert_eq!(only(|t| t.ratio = 1.6), "ratio: must be at most 1.5");
    assert_eq!(only(|t| t.level = Some(-0.5)), "level: must be at least 0");
    assert_eq!(only(|t| t.level = Some(f32::NAN)), "level: must be at least 0");
    assert_eq!(wrong(|t| t.ratio = f64::NAN).len(), 2);
    assert_eq!(wrong(|t| t.ratio = f64::NEG_INFINITY), ["ratio: must be a finite number"]);
    assert_eq!(only(|t| t.r#type = true), "type: must be false");
    assert_eq!(only(|t| t.agreed = Some(false)), "agreed: must be true");
    assert_eq!(only(|t| t.seven = Some(8)), "seven: must be 7");
    assert_eq!(wrong(|t| t.seven = Some(3)), ["seven: must be 7", "seven: must not be any of 3, 4"]);
    assert_eq!(only(|t| t.gaps = vec![0, 3]), "gaps[1]: must be greater than 3");
}

#[test]
fn enums_are_held_to_their_values() {
    assert_eq!(only(|t| t.colour = 3), "colour: must be a value of Colour");
    assert_eq!(only(|t| t.primary = Some(0)), "primary: must be COLOUR_RED or COLOUR_BLUE");
    assert_eq!(wrong(|t| t.red = Some(2)), ["red: must be COLOUR_RED", "red: must not be COLOUR_BLUE"]);
    assert_eq!(only(|t| t.colours = vec![1, 9]), "colours[1]: must be a value of Colour");
    assert_eq!(only(|t| t.colours = vec![1, 1]), "colours: must not repeat an item");
}

#[test]
fn bytes_lists_and_maps_are_bounded() {
    assert_eq!(only(|t| t.blob = vec![0; 3].into()), "blob: must have at most 2 bytes");
    let pair = ["pair: must have at least 2 bytes", "pair: must have exactly 2 bytes"];
    assert_eq!(wrong(|t| t.pair = Some(vec![0].into())), pair);
    assert_eq!(only(|t| t.names = vec!["a".into(); 2]), "names: must not repeat an item");
    assert_eq!(only(|t| t.names = vec!["a".into(), "abcde".into()]), "names[1]: must have at most 4 characters");
    let three = ["a", "b", "c"].map(String::from).to_vec();
    assert_eq!(only(|t| t.names = three), "names: must have at most 2 items");
    assert_eq!(only(|t| t.counts = HashMap::from([("a".into(), 0)])), "counts[\"a\"]: must be greater than 0");
    assert_eq!(
        only(|t| t.counts = HashMap::from([("abc".into(), 1)])),
        "counts[\"abc\"]: must have at most 2 characters"
    );
    let many = (1..4).map(|n| (n.to_string(), n)).collect();
    assert_eq!(only(|t| t.counts = many), "counts: must have at most 2 entries");
}

#[test]
fn times_are_held_to_their_bounds() {
    let minute = |nanos| Some(prost_types::Duration { seconds: 60, nanos });
    assert_eq!(only(|t| t.wait = minute(1)), "wait: must be at most 60 s");
    assert_eq!(only(|t| t.half = minute(0)), "half: must be exactly 0 s 500000000 ns");
    assert_eq!(only(|t| t.time = Some(prost_types::Timestamp::default())), "time: must be greater than 0 s");
}

#[test]
fn messages_within_messages_are_checked_and_their_place_is_named() {
    let bad = Trial::default();
    assert_eq!(only(|t| t.children = vec![good(), bad.clone()]), "children[1].some_text: must not be empty");
    assert_eq!(
        only(|t| t.others = HashMap::from([("x".into(), bad.clone())])),
        "others[\"x\"].some_text: must not be empty"
    );
    assert_eq!(only(|t| t.self_ = Some(One::Trial(Box::new(bad)))), "trial.some_text: must not be empty");
    assert_eq!(only(|t| t.self_ = Some(One::Number(0))), "number: must be greater than 0");
    assert_eq!(only(|t| t.self_ = Some(One::Word("a".into()))), "word: must have at least 2 characters");
    assert_eq!(only(|t| t.inner = Some(Inner::default())), "inner.choice: one of nothing, something is required");
}

#[test]
fn what_is_required_must_be_there() {
    let fields = |request: &TryRequest| -> Vec<_> {
        request.validate().err().unwrap_or_default().into_iter().map(|v| v.field).collect()
    };
    assert_eq!(fields(&TryRequest::default()), ["trial", "numbers", "count", "flags", "more", "given", "this"]);
    let mut whole = request();
    assert_eq!(fields(&whole), Vec::<String>::new());
    whole.either = Some(Either::That("x".into()));
    assert_eq!(fields(&whole), ["this"]);
}

/// A request that lacks nothing.
pub(crate) fn request() -> TryRequest {
    TryRequest {
        trial: Some(good()),
        request_id: String::new(),
        numbers: vec![0],
        count: 1,
        flags: HashMap::from([("x".into(), false)]),
        more: HashMap::from([(0, false)]),
        given: Some(0),
        either: Some(Either::This(String::new())),
    }
}

#[test]
fn an_answer_is_not_checked() {
    const { assert!(TryResponse::ANSWER) };
    assert_eq!(TryResponse::default().validate(), Ok(()));
}

#[test]
fn only_the_first_violations_are_reported() {
    let trial = Trial { some_text: "x".into(), children: vec![Trial::default(); 1000], ..Trial::default() };
    assert_eq!(trial.validate().unwrap_err().len(), 16);
}
