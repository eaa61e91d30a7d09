//! The two directions against an independent implementation of proto JSON.

use proptest::prelude::*;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::path::{FieldPath, parameters};
use super::shape::Shapes;
use super::to_json::Defaults;
use super::{from_json, to_json};

const PROTO: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/any.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/field_mask.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; COLOR_BLUE = -2; }
message All {
  double a_double = 1; float a_float = 2; int32 an_int32 = 3; int64 an_int64 = 4; uint32 a_uint32 = 5;
  uint64 a_uint64 = 6; sint32 a_sint32 = 7; sint64 a_sint64 = 8; fixed32 a_fixed32 = 9; fixed64 a_fixed64 = 10;
  sfixed32 a_sfixed32 = 11; sfixed64 a_sfixed64 = 12; bool a_bool = 13; string a_string = 14; bytes some_bytes = 15;
  Color color = 16;
  optional int32 maybe = 20;
  repeated int64 numbers = 21; repeated string texts = 22; repeated All children = 23; repeated Color colors = 24;
  map<string, double> by_name = 25; map<int64, All> by_number = 26; map<bool, string> by_bool = 27;
  oneof choice { string left = 30; All right = 31; uint32 middle = 32; }
  All child = 40;
  google.protobuf.Timestamp time = 50; google.protobuf.Duration duration = 51; google.protobuf.FieldMask mask = 52;
  google.protobuf.Struct structure = 53; google.protobuf.Value value = 54; google.protobuf.ListValue list = 55;
  google.protobuf.Any any = 56; google.protobuf.Int64Value wrapped = 57; google.protobuf.StringValue text = 58;
  repeated google.protobuf.Timestamp times = 59; repeated int32 unpacked = 60 [packed = false];
  string odd_name = 61 [json_name = "odd_name"];
}
"#;

struct Bench {
    pool: DescriptorPool,
    shapes: Shapes,
}

impl Bench {
    fn new() -> Self {
        struct Text;
        impl protox::file::FileResolver for Text {
            fn open_file(&self, name: &str) -> Result<protox::file::File, protox::Error> {
                if name == "t.proto" {
                    protox::file::File::from_source(name, PROTO)
                } else {
                    protox::file::GoogleFileResolver::new().open_file(name)
                }
            }
        }
        let mut compiler = protox::Compiler::with_file_resolver(Text);
        compiler.include_imports(true).open_file("t.proto").expect("compiles");
        let pool = compiler.descriptor_pool();
        Self { shapes: Shapes::of(&pool), pool }
    }

    fn id(&self) -> usize {
        self.shapes.by_name("t.All").expect("the message")
    }

    fn read(&self, json: &str) -> sensormesh_types::Result<DynamicMessage> {
        let mut wire = Vec::new();
        from_json::message(&self.shapes, self.id(), json.as_bytes(), "", &mut wire)?;
        let descriptor = self.pool.get_message_by_name("t.All").expect("the message");
        Ok(DynamicMessage::decode(descriptor, wire.as_slice()).expect("well-formed"))
    }

    fn theirs(&self, json: &str) -> DynamicMessage {
        let descriptor = self.pool.get_message_by_name("t.All").expect("the message");
        let mut deserializer = serde_json::Deserializer::from_str(json);
        DynamicMessage::deserialize(descriptor, &mut deserializer).expect("reads")
    }

    fn write(&self, wire: &[u8], defaults: Defaults) -> String {
        let mut out = Vec::new();
        to_json::message(&self.shapes, self.id(), wire, defaults, &mut out).expect("writes");
        String::from_utf8(out).expect("UTF-8")
    }

    fn refused(&self, json: &str) -> (String, String) {
        let error = self.read(json).expect_err(json);
        (error.fields()[0].field.clone(), error.fields()[0].description.clone())
    }
}

fn value(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The reference's own JSON of a message: two messages with the same are the same.
fn reference(message: &DynamicMessage) -> serde_json::Value {
    let options = SerializeOptions::new();
    message.serialize_with_options(serde_json::value::Serializer, &options).expect("serializes")
}

/// Numbers compare as numbers: 612 and 612.0 are the same.
fn same(one: &serde_json::Value, other: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (one, other) {
        (Number(a), Number(b)) => a.as_f64() == b.as_f64(),
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Object(a), Object(b)) => a.len() == b.len() && a.iter().all(|(k, a)| b.get(k).is_some_and(|b| same(a, b))),
        (a, b) => a == b,
    }
}

const SAMPLES: &[&str] = &[
    "{}",
    r#"{"aDouble":1.5,"aFloat":-2.25,"anInt32":-3,"anInt64":"-4","aUint32":5,"aUint64":"6","aSint32":-7,"aSint64":"-8"}"#,
    r#"{"aFixed32":9,"aFixed64":"10","aSfixed32":-11,"aSfixed64":"-12","aBool":true,"aString":"a\"\u00e9\n","someBytes":"AAEC/w=="}"#,
    r#"{"a_double":1e3,"an_int64":12345678901234,"color":"COLOR_RED","colors":["COLOR_BLUE",1,0]}"#,
    r#"{"maybe":0,"numbers":["1",2,3.0],"texts":["","b"],"children":[{},{"aString":"c","children":[{"anInt32":1}]}]}"#,
    r#"{"byName":{"x":1.5,"":0},"byNumber":{"-1":{"aBool":true},"2":{}},"byBool":{"true":"yes","false":""}}"#,
    r#"{"left":"l"}"#,
    r#"{"right":{"middle":7},"left":null}"#,
    r#"{"child":{"child":{"child":{"unpacked":[1,2,3]}}},"odd_name":"o"}"#,
    r#"{"time":"2026-01-31T09:30:00.123Z","duration":"-1.500s","mask":"aString,child.aBool","times":["1969-12-31T23:59:59.999999999Z"]}"#,
    r#"{"structure":{"a":[1,"b",null,true,{"c":{}}],"d":{}},"value":null,"list":[1,[2,[]]]}"#,
    r#"{"value":{"x":[1,2]},"wrapped":"0","text":"w"}"#,
    r#"{"any":{"@type":"type.googleapis.com/t.All","aString":"inside","child":{}}}"#,
    r#"{"any":{"value":"3s","@type":"type.googleapis.com/google.protobuf.Duration"}}"#,
    r#"{"aDouble":"NaN","aFloat":"-Infinity"}"#,
    r#"{"aDouble":null,"texts":null,"byName":null,"time":null,"child":null}"#,
];

#[test]
fn json_is_read_as_the_reference_reads_it() {
    let bench = Bench::new();
    for json in SAMPLES {
        let (ours, theirs) = (bench.read(json).expect(json), bench.theirs(json));
        assert_eq!(reference(&ours), reference(&theirs), "{json}");
    }
}

#[test]
fn json_is_written_as_the_reference_writes_it() {
    let bench = Bench::new();
    for json in SAMPLES {
        let message = bench.theirs(json);
        for defaults in [Defaults::Omitted, Defaults::Written] {
            let options = SerializeOptions::new().skip_default_fields(defaults == Defaults::Omitted);
            let mut theirs = Vec::new();
            let mut serializer = serde_json::Serializer::new(&mut theirs);
            message.serialize_with_options(&mut serializer, &options).expect("serializes");
            let theirs = String::from_utf8(theirs).expect("UTF-8");
            let ours = bench.write(&message.encode_to_vec(), defaults);
            let (ours, theirs) = (value(&ours), value(&theirs));
            if defaults == Defaults::Omitted {
                assert!(same(&ours, &theirs), "{json}\n{ours}\n{theirs}");
            } else {
                covers(&ours, &theirs, json);
            }
        }
    }
}

/// With defaults, ours has every field of theirs that is no absent message (theirs says null) with the same value.
fn covers(ours: &serde_json::Value, theirs: &serde_json::Value, json: &str) {
    let (Some(ours), Some(theirs)) = (ours.as_object(), theirs.as_object()) else {
        return assert!(same(ours, theirs), "{json}");
    };
    for (key, theirs) in theirs.iter().filter(|(_, value)| !value.is_null()) {
        let ours = ours.get(key).unwrap_or_else(|| panic!("{key} is missing: {json}"));
        match theirs {
            serde_json::Value::Object(_) => covers(ours, theirs, json),
            serde_json::Value::Array(list) if list.iter().any(serde_json::Value::is_object) => {}
            _ => assert!(same(ours, theirs), "{key}: {ours} {theirs}"),
        }
    }
}

#[test]
fn what_does_not_fit_is_named_with_its_path() {
    let bench = Bench::new();
    let path = |json: &str| bench.refused(json).0;
    assert_eq!(path(r#"{"children":[{},{"anInt32":"x"}]}"#), "children[1].an_int32");
    assert_eq!(path(r#"{"byNumber":{"7":{"nothing":1}}}"#), "by_number[\"7\"].nothing");
    assert_eq!(path(r#"{"child":{"texts":["a",1]}}"#), "child.texts[1]");
    assert_eq!(path(r#"{"aString":1}"#), "a_string");
    assert_eq!(path(r#"{"aString":"a","a_string":"b"}"#), "a_string");
    assert_eq!(path(r#"{"left":"a","middle":1}"#), "middle");
    assert_eq!(path(r#"{"numbers":[1,null]}"#), "numbers[1]");
    assert_eq!(path(r#"{"time":5}"#), "time");
    assert_eq!(path("[]"), "body");
    assert_eq!(path(r#"{"aBool":"#), "a_bool");
    assert!(bench.refused(r#"{"aDouble": NaN}"#).1.starts_with("not valid JSON"));
    assert!(bench.refused(r#"{"color":"RED"}"#).1.contains("COLOR_RED"));
    assert_eq!(bench.refused("{} {}").1.split(':').next(), Some("not valid JSON"));
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow() {
    let bench = Bench::new();
    let deep = format!("{}{}", r#"{"child":"#.repeat(10_000), "}".repeat(10_000));
    assert!(bench.read(&deep).is_err());
}

#[test]
fn parts_of_a_message_in_any_order_are_put_together() {
    let bench = Bench::new();
    let mut wire = Vec::new();
    for json in
        [r#"{"child":{"anInt32":1},"numbers":[1]}"#, r#"{"aBool":true,"child":{"anInt64":2}}"#, r#"{"numbers":[2]}"#]
    {
        from_json::message(&bench.shapes, bench.id(), json.as_bytes(), "", &mut wire).expect(json);
    }
    let written = value(&bench.write(&wire, Defaults::Omitted));
    assert_eq!(written, value(r#"{"aBool":true,"child":{"anInt32":1,"anInt64":"2"},"numbers":["1","2"]}"#));
}

#[test]
fn text_finds_its_field_by_a_dotted_path() {
    let bench = Bench::new();
    let pairs = [
        ("child.child.an_int32", "5"),
        ("numbers", "1"),
        ("numbers", "2"),
        ("color", "COLOR_RED"),
        ("time", "2026-01-01T00:00:00+00:00"),
        ("duration", "2h"),
        ("mask", "aString,odd_name"),
        ("byName[a b]", "1.5"),
        ("wrapped", "9"),
        ("aBool", "true"),
    ];
    let mut wire = Vec::new();
    parameters(&bench.shapes, bench.id(), pairs.into_iter(), None, &mut wire).expect("fits");
    let expected = r#"{"child":{"child":{"anInt32":5}},"numbers":["1","2"],"color":"COLOR_RED","byName":{"a b":1.5},
        "time":"2026-01-01T00:00:00Z","duration":"7200s","mask":"aString,oddName","wrapped":"9","aBool":true}"#;
    assert!(
        same(&value(&bench.write(&wire, Defaults::Omitted)), &value(expected)),
        "{}",
        bench.write(&wire, Defaults::Omitted)
    );
}

#[test]
fn every_wrong_parameter_is_named() {
    let bench = Bench::new();
    let pairs =
        [("anInt32", "x"), ("nothing", "1"), ("child", "{}"), ("aBool", "true"), ("aBool", "true"), ("texts.x", "")];
    let error = parameters(&bench.shapes, bench.id(), pairs.into_iter(), None, &mut Vec::new()).expect_err("refused");
    let fields: Vec<&str> = error.fields().iter().map(|f| f.field.as_str()).collect();
    assert_eq!(fields, ["an_int32", "nothing", "child", "a_bool", "texts.x"]);
    let child = FieldPath::find(&bench.shapes, bench.id(), "child.aBool").expect("a path").outermost(&bench.shapes);
    let pairs = [("child.aBool", "true")].into_iter();
    assert!(parameters(&bench.shapes, bench.id(), pairs, Some(child), &mut Vec::new()).is_err());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_a_panic(json in "[\\[\\]{}:,\"a-zA-Z0-9_.\\- ]{0,80}") {
        let bench = Bench::new();
        let _ = bench.read(&json);
    }

    #[test]
    fn numbers_survive_both_ways(a: f64, b: f32, c: i64, d: u64, e: i32, text in "\\PC{0,20}", bytes: Vec<u8>) {
        use base64::Engine as _;
        let bench = Bench::new();
        let json = serde_json::json!({
            "aString": text, "anInt64": c.to_string(), "aUint64": d.to_string(), "aSint64": c, "aFixed64": d,
            "anInt32": e, "aSfixed32": e, "someBytes": base64::prelude::BASE64_STANDARD.encode(&bytes),
            "aDouble": if a.is_finite() { a } else { 0.0 }, "aFloat": if b.is_finite() { b } else { 0.0 },
        });
        let message = bench.read(&json.to_string()).expect("reads");
        prop_assert_eq!(reference(&message), reference(&bench.theirs(&json.to_string())));
        let written = bench.write(&message.encode_to_vec(), Defaults::Written);
        let again = bench.read(&written).expect("reads its own");
        prop_assert_eq!(message.encode_to_vec(), again.encode_to_vec());
    }

    #[test]
    fn any_bytes_are_written_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let bench = Bench::new();
        let mut out = Vec::new();
        let _ = to_json::message(&bench.shapes, bench.id(), &bytes, Defaults::Written, &mut out);
    }
}
