//! Tenants do not exist for each other (F64): every method of every contract is asked by the administrator of one tenant with the live
//! ids of another, and answers what it answers to ids that nobody has.

use std::collections::BTreeMap;

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value as Field};
use sensormesh_proto::{METHODS, Method};
use sensormesh_testkit::system::{Shape, System};
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use crate::matrix::{Tokens, answer};
use crate::{both_shapes, builder};

both_shapes!(f64_ids_of_another_tenant_are_as_if_nobody_had_them);

/// Fields that name nothing of a tenant's: the caller's own words.
const OWN_WORDS: [&str; 5] = ["request_id", "batch_id", "client_id", "trace_id", "tenant"];
/// What differs between two answers to the same question: times, chance, and what stands for a place in a log.
const CHANCE: [&str; 14] = [
    "claimCodeId",
    "credentialId",
    "token",
    "secret",
    "code",
    "invitation",
    "cursor",
    "etag",
    "ticket",
    "uri",
    "asOf",
    "issues",
    "body",
    "nextPageToken",
];
/// How deep messages of requests are filled.
const DEEP: usize = 3;

/// The ids of the other tenant, by the field that has them.
type Ids = BTreeMap<&'static str, String>;

async fn made(system: &System, token: &str, path: &str, body: Value) -> Value {
    let (status, answer) = system.post(path, token, &body).await.expect("an answer");
    assert_eq!(status, 200, "{path}: {answer}");
    answer
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// One of everything.
async fn furnished(system: &System, admin: &str) -> Ids {
    made(system, admin, "/v1/sensors", json!({"sensorId": "lab.co2", "unit": "ppm"})).await;
    made(system, admin, "/sensors/lab.co2/data", json!({"value": 612})).await;
    made(system, admin, "/v1/profiles", json!({"profileId": "air-own", "quantity": "carbon_dioxide", "unit": "ppm"}))
        .await;
    made(system, admin, "/v1/places", json!({"placeId": "room-1", "kind": "PLACE_KIND_ROOM", "name": "Room"})).await;
    made(system, admin, "/v1/sensors/lab.co2/calibrations", json!({"linear": {"gain": 1, "offset": 1}})).await;
    made(system, admin, "/v1/bridges", json!({"bridgeId": "gw1"})).await;
    let credential = made(system, admin, "/v1/devices/lab/credentials", json!({})).await;
    let code = made(system, admin, "/v1/claimCodes", json!({})).await;
    let test = made(system, admin, "/v1/tests", json!({"deviceId": "lab", "duration": "60s"})).await;
    let password = system.admin_password().expect("password");
    let personal = made(system, admin, "/v1/personalTokens", json!({"name": "p", "password": password})).await;
    let (_, account) = system.get("/v1/account", admin).await.expect("an answer");
    let (_, sessions) = system.get("/v1/sessions", admin).await.expect("an answer");
    let ids = [
        ("sensor_id", "lab.co2".to_owned()),
        ("device_id", "lab".to_owned()),
        ("profile_id", "air-own".to_owned()),
        ("place_id", "room-1".to_owned()),
        ("parent_id", "room-1".to_owned()),
        ("room_id", "room-1".to_owned()),
        ("bridge_id", "gw1".to_owned()),
        ("site_id", "north".to_owned()),
        ("connection_id", "host".to_owned()),
        ("credential_id", text(&credential["credential"]["credentialId"])),
        ("claim_code_id", text(&code["claimCode"]["claimCodeId"])),
        ("test_id", text(&test["testId"])),
        ("token_id", text(&personal["token"]["tokenId"])),
        ("user_id", text(&account["userId"])),
        ("session_id", text(&sessions["sessions"][0]["sessionId"])),
        ("receipt_id", "0123456789abcdefghjkmnpqrs".to_owned()),
    ];
    BTreeMap::from(ids)
}

/// An id of the same form that nobody has.
fn nobodys(id: &str) -> String {
    let other = |c: char| match c {
        '0'..='8' => char::from(c as u8 + 1),
        '9' => '0',
        'f' => 'a',
        'a'..='e' => char::from(c as u8 + 1),
        'z' => 'g',
        'g'..='y' => char::from(c as u8 + 1),
        other => other,
    };
    id.chars().map(other).collect()
}

/// The id that a field is to have; `None` where it has none.
fn id_of<'a>(ids: &'a Ids, field: &FieldDescriptor) -> Option<&'a str> {
    let name = field.name();
    if OWN_WORDS.contains(&name) || !matches!(field.kind(), Kind::String) {
        return None;
    }
    let one = name.strip_suffix("_ids").map(|name| format!("{name}_id")).unwrap_or_else(|| name.to_owned());
    ids.get(one.as_str()).map(String::as_str)
}

/// A request with the ids in every field that has one. Of two that exclude each other one is left out by `skipped`.
fn request(message: &MessageDescriptor, ids: &Ids, skipped: &str, deep: usize) -> DynamicMessage {
    let mut request = DynamicMessage::new(message.clone());
    for field in message.fields().filter(|field| field.name() != skipped) {
        let value = match (id_of(ids, &field), field.kind()) {
            (Some(id), _) => Some(Field::String(id.to_owned())),
            (None, Kind::Message(of)) if deep > 0 && !of.full_name().starts_with("google.") && !field.is_map() => {
                Some(Field::Message(request_of(&of, ids, skipped, deep)))
            }
            _ => None,
        };
        if let Some(value) = value {
            let value = if field.is_list() { Field::List(vec![value]) } else { value };
            request.set_field(&field, value);
        }
    }
    request
}

fn request_of(message: &MessageDescriptor, ids: &Ids, skipped: &str, deep: usize) -> DynamicMessage {
    request(message, ids, skipped, deep - 1)
}

/// Whether a request has an id anywhere.
fn has_id(message: &MessageDescriptor, ids: &Ids, deep: usize) -> bool {
    message.fields().any(|field| match field.kind() {
        Kind::Message(of) if deep > 0 && !field.is_map() => has_id(&of, ids, deep - 1),
        _ => id_of(ids, &field).is_some(),
    })
}

/// An answer without what is chance, and with the ids by their names.
fn plain(value: &mut Value, ids: &Ids) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !CHANCE.contains(&name.as_str()) && !name.ends_with("Time") && name != "time");
            fields.values_mut().for_each(|value| plain(value, ids));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| plain(value, ids)),
        Value::String(text) => *text = named(text, ids),
        _ => {}
    }
}

fn named(text: &str, ids: &Ids) -> String {
    let mut by_length: Vec<_> = ids.iter().collect();
    by_length.sort_by_key(|(_, id)| std::cmp::Reverse(id.len()));
    by_length.into_iter().fold(text.to_owned(), |text, (name, id)| text.replace(id.as_str(), &format!("<{name}>")))
}

async fn asked(edge: &Channel, method: &Method, token: &str, ids: &Ids, skipped: &str) -> String {
    let input = sensormesh_proto::pool().get_message_by_name(method.input).expect("a request");
    let sent = request(&input, ids, skipped, DEEP).encode_to_vec();
    match answer(edge, method, Some(token.to_owned()), sent).await {
        Err(status) => {
            // the order of what an error tells beside its reason is that of a hash table
            let mut details: Vec<char> = named(&String::from_utf8_lossy(status.details()), ids).chars().collect();
            details.sort_unstable();
            let details: String = details.into_iter().collect();
            format!("{:?} {} {details:?}", status.code(), named(status.message(), ids))
        }
        Ok(None) => "nothing".to_owned(),
        Ok(Some(bytes)) => {
            let output = sensormesh_proto::pool().get_message_by_name(method.output).expect("an answer");
            let message = DynamicMessage::decode(output, bytes.as_slice()).expect("its message");
            let mut json = serde_json::to_value(&message).expect("JSON");
            plain(&mut json, ids);
            json.to_string()
        }
    }
}

async fn f64_ids_of_another_tenant_are_as_if_nobody_had_them(shape: Shape) {
    let unlimited = builder(shape)
        .setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0")
        .setting("SENSORMESH_EDGE__ADDRESS_RATE__PER_SECOND", "0");
    let system = unlimited.start().await.expect("starts");
    let admin = system.admin().await.expect("token");
    let live = furnished(&system, &admin).await;
    let random: Ids = live.iter().map(|(name, id)| (*name, nobodys(id))).collect();
    let stranger = Tokens::of(&system).await.of_tenant("acme");
    let edge = Endpoint::from_shared(system.url("")).expect("an address").connect().await.expect("the edge");
    let (mut wrong, mut swept) = (Vec::new(), 0);
    for method in METHODS {
        let input = sensormesh_proto::pool().get_message_by_name(method.input).expect("a request");
        if method.policy.public || method.policy.min_role.is_none() || !has_id(&input, &live, DEEP) {
            continue;
        }
        // where two ids exclude each other each is asked for alone
        let both = ["device_id", "bridge_id"].iter().all(|name| input.get_field_by_name(name).is_some());
        for skipped in if both { &["device_id", "bridge_id"][..] } else { &[""][..] } {
            swept += 1;
            let of_nobody = asked(&edge, method, &stranger, &random, skipped).await;
            let of_another = asked(&edge, method, &stranger, &live, skipped).await;
            if of_nobody != of_another {
                wrong.push(format!("{}\n  of nobody:  {of_nobody}\n  of another: {of_another}", method.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(swept > 60, "{swept} methods have ids");
    // and nothing of it is gone or changed
    let (status, sensor) = system.get("/v1/sensors/lab.co2", &admin).await.expect("an answer");
    assert_eq!((status, &sensor["name"]), (200, &json!("lab.co2")), "{sensor}");
    let (status, _) = system.get("/v1/places/room-1", &admin).await.expect("an answer");
    assert_eq!(status, 200);
}
