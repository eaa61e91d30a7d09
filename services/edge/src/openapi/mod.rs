//! OpenAPI 3.1 of everything the edge serves over REST, made from the descriptors: comments, field rules and security
//! included.

mod comments;
mod operation;
mod rules;
mod schema;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::contract::Contract;
use comments::Comments;
use schema::Schemas;

/// The description of a set of contracts.
pub fn document(contract: &Contract) -> Value {
    let comments = Comments::of(contract.descriptors.clone());
    let mut schemas = Schemas::new(contract, &comments);
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
    let beside: Vec<usize> = contract.routes.iter().flat_map(|route| route.others.iter().copied()).collect();
    for (index, route) in contract.routes.iter().enumerate() {
        if beside.contains(&index) {
            continue;
        }
        let nth = seen.entry(route.method).or_default();
        *nth += 1;
        let (path, mut operation) = operation::of(contract, route, *nth, &comments, &mut schemas);
        for other in &route.others {
            let (_, other) = operation::of(contract, &contract.routes[*other], 1, &comments, &mut schemas);
            operation::join(&mut operation, &other);
        }
        paths.entry(path).or_default().insert(route.verb.to_lowercase(), operation);
    }
    let tags: BTreeMap<&str, String> = contract
        .methods
        .iter()
        .filter(|method| method.service != "mesh")
        .map(|method| (method.service.as_str(), comments.service(method.descriptor.parent_service())))
        .collect();
    let tags: Vec<Value> = tags.into_iter().map(|(name, about)| json!({"name": name, "description": about})).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "sensormesh",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every REST route is derived from the gRPC contracts. Field names are accepted in both \
                spellings, `sensorId` and `sensor_id`; an unknown field is refused. 64-bit integers are text, times are \
                RFC 3339, durations are seconds with an `s`. Errors are a bare `google.rpc.Status`. A stream is lines of \
                JSON; with `Accept: text/event-stream` it is server-sent events, and a WebSocket at the same path carries \
                it too. Where an answer has several types, `Accept` chooses.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.finish(),
            "responses": {"Error": {
                "description": "What is wrong, as a `google.rpc.Status`.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/google.rpc.Status"}}},
            }},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The `access_token` of `POST /token`.",
                },
                "ticket": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "ticket",
                    "description": "A one-use ticket of `POST /v1/tickets`, for streams in a browser.",
                },
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in() -> Value {
        document(&Contract::built_in().expect("the contracts"))
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                _ => {}
            }
        }
        let document = built_in();
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(references.len() > 50);
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("a local reference");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_operation_has_a_name_of_its_own_and_says_who_may() {
        let document = built_in();
        let mut names = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (verb, operation) in item.as_object().expect("an item") {
                let name = operation["operationId"].as_str().expect("a name");
                assert!(names.insert(name.to_owned()), "{name}");
                assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{verb} {path}");
                assert!(operation["security"].is_array(), "{verb} {path}");
                let in_path =
                    operation["parameters"].as_array().expect("parameters").iter().filter(|p| p["in"] == "path");
                assert_eq!(in_path.count(), path.matches('{').count(), "{verb} {path}");
            }
        }
        assert!(names.len() > 60, "{}", names.len());
    }

    #[test]
    fn comments_rules_and_routes_of_the_contract_are_there() {
        let document = built_in();
        let places = &document["paths"]["/v1/places/{placeId}"];
        assert_eq!(places["get"]["operationId"], "rooms.GetPlace");
        assert_eq!(places["patch"]["operationId"], "rooms.UpdatePlace");
        assert_eq!(places["get"]["summary"], "Returns one place.");
        let place = &document["components"]["schemas"]["rooms.v1.Place"];
        assert_eq!(place["description"], "A site, building, floor or room.");
        assert_eq!(place["properties"]["name"]["maxLength"], 128);
        assert!(place["properties"]["placeId"]["pattern"].is_string());
        let token = &document["paths"]["/token"]["post"];
        assert_eq!(token["security"], json!([]));
        assert!(token["requestBody"]["content"]["application/x-www-form-urlencoded"].is_object());
        let watch = &document["paths"]["/v1/rooms:watch"]["get"]["responses"]["200"]["content"];
        assert!(watch["text/event-stream"].is_object() && watch["application/x-ndjson"].is_object());
        let history = &document["paths"]["/v1/sensors/{sensorId}/readings"]["get"];
        assert_eq!(history["operationId"], "telemetry.ListReadings");
        let types: Vec<_> = history["responses"]["200"]["content"].as_object().expect("types").keys().collect();
        assert_eq!(types, ["application/json", "text/csv"]);
        let named = |name: &str| {
            history["parameters"].as_array().expect("parameters").iter().filter(|p| p["name"] == name).count()
        };
        assert_eq!((named("timeZone"), named("pageSize"), named("startTime"), named("sensorId")), (1, 1, 1, 1));
        let schemas = &document["components"]["schemas"];
        assert!(schemas["auth.v1.CreateTokenResponse"]["properties"]["access_token"].is_object());
    }
}
