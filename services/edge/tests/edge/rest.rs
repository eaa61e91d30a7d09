//! REST: requests become calls, answers become JSON, errors say what is wrong.

use sensormesh_types::Role;
use serde_json::json;

use super::world::*;

#[tokio::test]
async fn path_query_and_body_become_one_message() {
    let world = World::start().await;
    let list = answer(world.get("/v1/places?ancestorId=a%20b&page_size=7&pageToken=x%2By")).await;
    assert_eq!((list.status, &list.json["nextPageToken"]), (200, &json!("a b/7/x+y")));
    assert_eq!(list.json["places"], json!([]));

    let body = json!({"name": "Hall", "placeId": ""});
    let patch =
        world.http.patch(world.url("/v1/places/hall?updateMask=name,parentId")).bearer_auth(token(Role::Operator));
    let updated = answer(patch.json(&body)).await;
    assert_eq!(updated.status, 200, "{}", updated.json);
    assert_eq!(updated.json["placeId"], "hall");
    assert_eq!((&updated.json["name"], &updated.json["parentId"]), (&json!("Hall"), &json!("name+parent_id")));
    assert_eq!(updated.json["kind"], "PLACE_KIND_UNSPECIFIED");
    assert!(updated.json.get("createTime").is_none(), "an absent message stays absent");

    let path = "/sensors/lab.co2/data?startTime=2026-01-01T00:00:00%2B08:00&endTime=2026-01-01T00:00:00 08:00";
    let readings = answer(world.get(path)).await;
    assert!(readings.json["unit"].as_str().expect("text").contains("1767196800"), "{}", readings.json);
}

#[tokio::test]
async fn what_the_path_says_nothing_else_says_otherwise() {
    let world = World::start().await;
    for (same, status) in [(json!("hall"), 200), (json!(null), 200), (json!("other"), 400)] {
        let patch = world.http.patch(world.url("/v1/places/hall")).bearer_auth(token(Role::Operator));
        let answered = answer(patch.json(&json!({"name": "Hall", "placeId": same}))).await;
        assert_eq!(answered.status, status, "{}", answered.json);
        assert_eq!(answered.violations().contains_key("place.place_id"), status == 400, "{}", answered.json);
    }
    for (same, status) in [("lab.co2", 200), ("lab.other", 400)] {
        let body = json!({"sensorId": same, "value": 612});
        let answered = answer(world.post("/sensors/lab.co2/data").json(&body)).await;
        assert_eq!(answered.status, status, "{}", answered.json);
        assert_eq!(answered.violations().contains_key("sensor_id"), status == 400, "{}", answered.json);
        let answered = answer(world.get(&format!("/sensors/lab.co2/data?sensorId={same}"))).await;
        assert_eq!(answered.status, status, "{}", answered.json);
    }
}

#[tokio::test]
async fn an_answer_is_canonical_json() {
    let world = World::start().await;
    let metrics = answer(world.get("/rooms/hall/metrics")).await;
    assert_eq!(metrics.headers["content-type"], "application/json");
    assert_eq!(metrics.headers["cache-control"], "no-store");
    assert_eq!(
        metrics.json,
        json!({
            "roomId": "hall",
            "asOf": "2026-01-31T09:30:00.500Z",
            "metrics": [
                {"metric": "co2", "sensorId": "lab.co2", "value": 612, "unit": "", "time": "2026-01-31T09:30:00.500Z",
                 "stale": false, "quantity": "", "outOfRange": false},
                {"metric": "temperature", "sensorId": "lab.temperature", "unit": "", "time": "2026-01-31T09:30:00.500Z",
                 "stale": false, "quantity": "", "outOfRange": false},
            ],
        })
    );
    let place = answer(world.get("/v1/places/hall")).await;
    assert_eq!((&place.json["placeId"], &place.json["kind"]), (&json!("hall"), &json!("PLACE_KIND_ROOM")));
    let head =
        world.http.head(world.url("/v1/places/hall")).bearer_auth(token(Role::Viewer)).send().await.expect("sent");
    assert_eq!((head.status().as_u16(), head.bytes().await.expect("a body").len()), (200, 0));
}

#[tokio::test]
async fn an_unknown_field_is_refused_and_the_right_one_is_named() {
    let world = World::start().await;
    let body = json!({"readings": [
        {"sensorId": "lab.co2", "value": 1},
        {"sensorId": "lab.co2", "timestamp": "2026-01-31T09:30:00Z", "value": 612},
    ]});
    let refused = answer(world.post("/sensors/data").json(&body)).await;
    assert_eq!((refused.status, &refused.json["code"]), (400, &json!(3)));
    assert!(refused.violations()["readings[1].timestamp"].contains("use \"time\""), "{}", refused.json);
    assert_eq!(world.seen.count(), 0, "nothing was sent inward");

    let refused = answer(world.post("/sensors/lab.co2/data").json(&json!({"val": 612}))).await;
    assert!(refused.violations()["val"].contains("use \"value\""), "{}", refused.json);
    let refused = answer(world.get("/v1/places?ancestor=x&page_size=many")).await;
    let violations = refused.violations();
    assert!(violations.contains_key("ancestor") && violations.contains_key("page_size"), "{}", refused.json);
    let refused = answer(world.post("/sensors/lab.co2/data?value=1").json(&json!({"value": 612}))).await;
    assert_eq!(refused.status, 400);
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused_in_words() {
    let world = World::start().await;
    let send = |body: &'static str, kind: &'static str| {
        world.post("/sensors/lab.co2/data").header("content-type", kind).body(body)
    };
    let nan = answer(send(r#"{"value": NaN}"#, "application/json")).await;
    assert!(nan.violations()["value"].contains("JSON"), "{}", nan.json);
    let yaml = answer(send("value: 1", "text/yaml")).await;
    assert_eq!((yaml.status, yaml.violations().contains_key("content-type")), (415, true), "{}", yaml.json);
    for broken in ["[1]", "{", "{\"value\": 1} {", "nothing"] {
        let refused = answer(send(broken, "application/json")).await;
        let named = refused.violations().contains_key("body");
        assert_eq!((refused.status, named), (400, true), "{broken}: {}", refused.json);
    }
    for (coding, status) in [("gzip", 415), ("deflate, gzip", 415), ("identity", 200), ("", 200)] {
        let coded = send(r#"{"value": 612}"#, "application/json").header("content-encoding", coding);
        let answered = answer(coded).await;
        assert_eq!(answered.status, status, "{coding}: {}", answered.json);
        if status == 415 {
            assert!(answered.violations()["content-encoding"].contains("compression"), "{}", answered.json);
            assert_eq!(answered.headers["accept-encoding"], "identity");
        }
    }
    assert_eq!(answer(send("{\"value\":1}", "text/plain")).await.status, 415);
    // what curl -d sends
    let curl = answer(send(r#"{"value": 612}"#, "application/x-www-form-urlencoded")).await;
    assert_eq!((curl.status, &curl.json["verdict"]), (200, &json!("VERDICT_ACCEPTED")), "{}", curl.json);
    assert_eq!(curl.json["cursor"], "lab.co2");
}

#[tokio::test]
async fn a_body_where_none_is_taken_is_not_overlooked() {
    let world = World::start().await;
    let refused = answer(world.get("/v1/places/hall").json(&json!({"placeId": "other"}))).await;
    assert_eq!(refused.status, 400, "{}", refused.json);
    assert!(refused.violations()["body"].contains("query"), "{}", refused.json);
    for nothing in ["", " ", "{}", " {\n} "] {
        assert_eq!(answer(world.get("/v1/places/hall").body(nothing)).await.status, 200, "{nothing:?}");
    }
}

#[tokio::test]
async fn the_oauth_form_and_json_give_the_same_token() {
    let world = World::start().await;
    let form = [("grant_type", "password"), ("username", "ada"), ("password", "secret"), ("scope", "")];
    let by_form = answer(world.http.post(world.url("/token")).form(&form)).await;
    let body = json!({"username": "ada", "password": "secret", "grant_type": "password"});
    let by_json = answer(world.http.post(world.url("/token")).json(&body)).await;
    assert_eq!((by_form.status, by_json.status), (200, 200), "{} {}", by_form.json, by_json.json);
    assert_eq!(by_form.json, by_json.json);
    let expected =
        json!({"access_token": "for ada", "refresh_token": "password", "token_type": "Bearer", "expires_in": 600});
    assert_eq!(by_form.json, expected);
    // an old token in the browser does not keep anybody from logging in
    let stale = world.http.post(world.url("/token")).bearer_auth("stale").form(&form);
    assert_eq!(answer(stale).await.status, 200);
    let wrong = answer(world.http.post(world.url("/token")).json(&json!({"username": "ada", "password": "x"}))).await;
    assert_eq!(wrong.status, 401);
}

#[tokio::test]
async fn errors_are_a_bare_status_with_its_details() {
    let world = World::start().await;
    let missing = answer(world.get("/v1/places/missing")).await;
    assert_eq!((missing.status, &missing.json["code"], missing.reason()), (404, &json!(5), "NOT_FOUND".to_owned()));
    let down = answer(world.get("/v1/places/down")).await;
    assert_eq!((down.status, down.headers["retry-after"].to_str().expect("text")), (503, "3"));
    let broken = answer(world.get("/v1/places/broken")).await;
    assert_eq!((broken.status, &broken.json["code"]), (500, &json!(13)));
    assert!(!broken.json.to_string().contains("SELECT"), "{}", broken.json);
    let invalid = answer(world.post("/v1/readings").json(&json!({"readings": []}))).await;
    assert_eq!((invalid.status, invalid.violations().contains_key("readings")), (400, true), "{}", invalid.json);
    let nowhere = answer(world.get("/v1/nothing")).await;
    assert_eq!((nowhere.status, nowhere.reason()), (404, "NO_ROUTE".to_owned()));
    let wrong = answer(world.post("/v1/rooms")).await;
    assert_eq!((wrong.status, wrong.headers["allow"].to_str().expect("text")), (405, "GET, HEAD"));
    // a service that nobody runs
    let gone = answer(world.get("/v1/devices")).await;
    assert_eq!((gone.status, &gone.json["code"]), (503, &json!(14)), "{}", gone.json);
    assert!(gone.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn too_large_a_body_is_refused() {
    let world = World::configured(|config| config.body = 1000).await;
    let large = answer(world.post("/sensors/lab.co2/data").body("x".repeat(1001))).await;
    assert_eq!((large.status, large.reason()), (413, "BODY_TOO_LARGE".to_owned()));
    let parts = futures::stream::iter((0..100).map(|_| Ok::<_, std::io::Error>("x".repeat(100))));
    let chunked = world.post("/sensors/lab.co2/data").body(reqwest::Body::wrap_stream(parts));
    assert_eq!(answer(chunked).await.status, 413);
}

#[tokio::test]
async fn health_is_told_in_the_words_of_the_brief() {
    let world = World::start().await;
    let public = answer(world.http.get(world.url("/health"))).await;
    assert_eq!(public.status, 200);
    assert_eq!((&public.json["gateway"], &public.json["overall_status"]), (&json!("healthy"), &json!("degraded")));
    assert_eq!(public.json["services"]["rooms"], json!({"status": "healthy"}));
    assert_eq!(public.json["services"]["devices"], json!({"status": "unhealthy"}));
    let breaker = &public.json["circuit_breakers"]["rooms"];
    assert_eq!(
        (&breaker["open"], &breaker["state"], &breaker["failures"]),
        (&json!(false), &json!("closed"), &json!(0))
    );
    let operator = answer(world.http.get(world.url("/health")).bearer_auth(token(Role::Operator))).await;
    assert!(
        operator.json["services"]["devices"]["detail"].as_str().is_some_and(|d| !d.is_empty()),
        "{}",
        operator.json
    );
    assert_eq!(answer(world.http.get(world.url("/ready"))).await.json, json!({"status": "ready"}));

    // nobody answers as `devices`: its breaker opens by itself, and an admin closes it
    eventually("an open breaker", || async {
        answer(world.http.get(world.url("/health"))).await.json["circuit_breakers"]["devices"]["open"] == json!(true)
    })
    .await;
    let reset = "/circuit-breaker/reset/devices";
    assert_eq!(answer(world.post(reset)).await.status, 403);
    let admin = world.http.post(world.url(reset)).bearer_auth(token(Role::Admin));
    let closed = answer(admin).await;
    assert_eq!((closed.status, &closed.json["breaker"]["state"]), (200, &json!("closed")), "{}", closed.json);
    let unknown = world.http.post(world.url("/circuit-breaker/reset/nobody")).bearer_auth(token(Role::Admin));
    assert_eq!(answer(unknown).await.status, 404);
    let services = answer(world.http.get(world.url("/v1/services")).bearer_auth(token(Role::Operator))).await;
    assert!(services.json["services"].as_array().expect("services").len() >= 5);
}

#[tokio::test]
async fn metrics_documentation_and_contracts_are_served() {
    let world = World::start().await;
    assert_eq!(world.http.get(world.url("/metrics")).send().await.expect("sent").status(), 401);
    assert_eq!(world.get("/metrics").send().await.expect("sent").status(), 403);
    assert_eq!(world.get("/v1/places/hall").send().await.expect("sent").status(), 200);
    let metrics = world.http.get(world.url("/metrics")).bearer_auth(token(Role::Admin)).send().await.expect("sent");
    assert!(metrics.headers()["content-type"].to_str().expect("text").starts_with("text/plain"));
    let text = metrics.text().await.expect("text");
    assert!(text.contains("http_route=\"/v1/places/{place_id}\""), "{text}");

    let openapi = answer(world.http.get(world.url("/openapi.json"))).await;
    assert_eq!(openapi.json["openapi"], "3.1.0");
    assert_eq!(openapi.json, sensormesh_edge::openapi());
    let contracts = world.http.get(world.url("/contracts.binpb")).send().await.expect("sent");
    assert_eq!(contracts.headers()["content-type"], "application/octet-stream");
    assert_eq!(contracts.bytes().await.expect("bytes"), sensormesh_proto::FILE_DESCRIPTOR_SET);
    let docs = world.http.get(world.url("/docs")).send().await.expect("sent");
    assert_eq!(
        (docs.status().as_u16(), docs.headers()["x-content-type-options"].to_str().expect("text")),
        (200, "nosniff")
    );
    assert!(docs.headers()["content-security-policy"].to_str().expect("text").contains("frame-ancestors 'none'"));
    assert_eq!(world.http.get(world.url("/")).send().await.expect("sent").status(), 200);
}
