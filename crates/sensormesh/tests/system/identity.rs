//! Users: registration, log-in, refresh, verification, roles.

use sensormesh_testkit::system::{Shape, System};
use serde_json::{Value, json};

use crate::{both_shapes, start};

both_shapes!(
    tokens_are_given_as_rfc_6749_says,
    a_refresh_token_works_once,
    a_user_is_verified_and_logged_out,
    sessions_are_told_with_address_and_program,
    the_operator_gives_who_is_locked_out_a_new_password,
    roles_are_given_by_admins,
    a_program_writes_with_a_personal_token_and_the_audit_tells,
);

const PASSWORD: &str = "correct horse battery staple";

async fn log_in(system: &System, name: &str) -> Value {
    let body = json!({"username": name, "password": PASSWORD});
    let (status, answer) = system.send("POST", "/token", None, Some(&body)).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn tokens_are_given_as_rfc_6749_says(shape: Shape) {
    let system = start(shape).await;
    system.viewer("ada").await.expect("registered");
    let json = log_in(&system, "ada").await;
    assert_eq!(json["token_type"], "Bearer");
    assert!(json["expires_in"].as_i64().is_some_and(|seconds| (1..=600).contains(&seconds)), "{json}");
    assert!(json["access_token"].is_string() && json["refresh_token"].is_string());

    let form = [("grant_type", "password"), ("username", "ada"), ("password", PASSWORD)];
    let answer = system.http().post(system.url("/token")).form(&form).send().await.expect("answer");
    assert_eq!(answer.status(), 200, "the OAuth2 password form is taken");

    let wrong = json!({"username": "ada", "password": "not it"});
    let nobody = json!({"username": "nobody", "password": "not it"});
    let (status, of_wrong) = system.send("POST", "/token", None, Some(&wrong)).await.expect("answer");
    assert_eq!(status, 401);
    let (status, of_nobody) = system.send("POST", "/token", None, Some(&nobody)).await.expect("answer");
    assert_eq!(status, 401);
    assert_eq!(of_wrong["message"], of_nobody["message"], "the answer does not tell which names exist");
}

async fn a_refresh_token_works_once(shape: Shape) {
    let system = start(shape).await;
    system.viewer("ada").await.expect("registered");
    let first = log_in(&system, "ada").await;
    let refresh = json!({"grant_type": "refresh_token", "refresh_token": first["refresh_token"]});
    let (status, second) = system.send("POST", "/token", None, Some(&refresh)).await.expect("answer");
    assert_eq!(status, 200, "{second}");
    assert_ne!(first["refresh_token"], second["refresh_token"]);
    let (status, reused) = system.send("POST", "/token", None, Some(&refresh)).await.expect("answer");
    assert_eq!(status, 401, "{reused}");
    let rotated = json!({"grant_type": "refresh_token", "refresh_token": second["refresh_token"]});
    let (status, ended) = system.send("POST", "/token", None, Some(&rotated)).await.expect("answer");
    assert_eq!(status, 401, "reuse ends the whole session: {ended}");
}

async fn a_user_is_verified_and_logged_out(shape: Shape) {
    let system = start(shape).await;
    let token = system.viewer("ada").await.expect("registered");
    let (status, answer) = system.get("/verify", &token).await.expect("answer");
    assert_eq!(status, 200);
    assert_eq!((&answer["valid"], &answer["username"]), (&json!(true), &json!("ada")), "{answer}");
    let (status, answer) = system.post("/logout", &token, &json!({})).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    let gone = sensormesh_testkit::system::eventually(std::time::Duration::from_secs(15), || async {
        let (status, _) = system.get("/sensors", &token).await.ok()?;
        (status == 401).then_some(())
    })
    .await;
    assert!(gone.is_some(), "a revocation reaches every service");
    let (_, keys) = system.send("GET", "/.well-known/jwks.json", None, None).await.expect("answer");
    assert!(keys["keys"][0]["kid"].is_string(), "{keys}");
    assert!(keys["keys"][0].get("d").is_none(), "no private part");
}

async fn sessions_are_told_with_address_and_program(shape: Shape) {
    let system = start(shape).await;
    let here = system.viewer("ada").await.expect("registered");
    let body = json!({"username": "ada", "password": PASSWORD, "client_id": "kiosk"});
    let request = system.http().post(system.url("/token")).header("user-agent", "Firefox/144.0");
    // what a client says of others' addresses and programs is not believed
    let request =
        request.header("x-forwarded-for", "192.0.2.1").header("x-forwarded-user-agent", "made up").json(&body);
    let other: Value = request.send().await.expect("answer").json().await.expect("tokens");
    let (_, listed) = system.get("/v1/sessions", &here).await.expect("answer");
    let sessions = listed["sessions"].as_array().expect("sessions");
    let told: Vec<_> =
        sessions.iter().map(|s| (&s["userAgent"], &s["clientId"], &s["address"], &s["current"])).collect();
    let (none, here_is) = (json!(""), json!(true));
    assert_eq!(told[0], (&json!("Firefox/144.0"), &json!("kiosk"), &json!("127.0.0.1"), &json!(false)), "{listed}");
    assert_eq!((told.len(), told[1].1, told[1].3), (2, &none, &here_is), "{listed}");

    let path = format!("/v1/sessions/{}", sessions[0]["sessionId"].as_str().expect("id"));
    let (status, answer) = system.send("DELETE", &path, Some(&here), None).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    let refresh = json!({"grant_type": "refresh_token", "refresh_token": other["refresh_token"]});
    let (status, _) = system.send("POST", "/token", None, Some(&refresh)).await.expect("answer");
    assert_eq!(status, 401, "the ended session does not go on");
    let (status, _) = system.send("DELETE", &path, Some(&here), None).await.expect("answer");
    assert_eq!(status, 404);
}

async fn the_operator_gives_who_is_locked_out_a_new_password(shape: Shape) {
    let system = start(shape).await;
    let token = system.viewer("ada").await.expect("registered");
    let told = system.command(&["users", "reset-password", "ada"]).await.expect("reset");
    let body = json!({"username": "ada", "password": told.trim()});
    let (status, answer) = system.send("POST", "/token", None, Some(&body)).await.expect("answer");
    assert_eq!(status, 200, "{answer}");
    let gone = sensormesh_testkit::system::eventually(std::time::Duration::from_secs(15), || async {
        let (status, _) = system.get("/sensors", &token).await.ok()?;
        (status == 401).then_some(())
    });
    assert!(gone.await.is_some(), "the sessions have ended everywhere");
    assert!(system.command(&["users", "reset-password", "nobody"]).await.is_err());
    assert!(system.command(&["users", "disable-totp", "ada"]).await.is_err(), "there is no second factor");
}

async fn roles_are_given_by_admins(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let viewer = system.viewer("ada").await.expect("registered");
    let (status, _) = system.get("/v1/users", &viewer).await.expect("answer");
    assert_eq!(status, 403);
    let (_, users) = system.get("/v1/users", &admin).await.expect("answer");
    let ada = users["users"].as_array().expect("users").iter().find(|u| u["username"] == "ada").expect("ada").clone();
    let path = format!("/v1/users/{}?updateMask=role", ada["userId"].as_str().expect("id"));
    let body = json!({"role": "ROLE_OPERATOR"});
    let (status, answer) = system.send("PATCH", &path, Some(&admin), Some(&body)).await.expect("answer");
    assert_eq!((status, &answer["role"]), (200, &json!("ROLE_OPERATOR")), "{answer}");
    let operator = log_in(&system, "ada").await["access_token"].as_str().expect("token").to_owned();
    let (status, answer) = system.post("/sensors/lab.x/data", &operator, &json!({"value": 1})).await.expect("answer");
    assert_eq!(status, 200, "an operator writes: {answer}");
}

async fn a_program_writes_with_a_personal_token_and_the_audit_tells(shape: Shape) {
    let system = start(shape).await;
    let admin = system.admin().await.expect("token");
    let password = system.admin_password().expect("password");
    let body = json!({"name": "the roof", "role": "ROLE_OPERATOR", "days": 1, "password": password});
    let (status, made) = system.post("/v1/personalTokens", &admin, &body).await.expect("answer");
    assert_eq!(status, 200, "{made}");
    let (secret, id) = (made["secret"].as_str().expect("a secret"), made["token"]["tokenId"].as_str().expect("an id"));
    let write = async |value: i64| {
        let body = json!({"value": value});
        system.post("/sensors/lab.pat/data", secret, &body).await.expect("answer").0
    };
    assert_eq!(write(1).await, 200);
    let (status, _) = system.get("/v1/users", secret).await.expect("answer");
    assert_eq!(status, 403, "an operator's token");
    if shape == Shape::Split {
        // what was exchanged is good while auth is away
        system.freeze_service("auth", true).expect("frozen");
        assert_eq!(write(2).await, 200);
        system.freeze_service("auth", false).expect("thawed");
    }
    let (status, _) =
        system.send("DELETE", &format!("/v1/personalTokens/{id}"), Some(&admin), None).await.expect("answer");
    assert_eq!(status, 200);
    let ended = sensormesh_testkit::system::eventually(std::time::Duration::from_secs(60), || async {
        (write(3).await == 401).then_some(())
    });
    ended.await.expect("it works no more");

    // page by page, of every service
    let (mut kinds, mut page) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/audit?pageSize=3&pageToken={page}");
        let (status, answer) = system.get(&path, &admin).await.expect("answer");
        assert_eq!((status, &answer["missingServices"]), (200, &json!([])), "{answer}");
        let entries = answer["entries"].as_array().expect("entries");
        kinds.extend(entries.iter().map(|entry| format!("{} {}", entry["service"], entry["kind"]).replace('"', "")));
        match answer["nextPageToken"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut page),
            _ => break,
        }
    }
    for kind in
        ["auth user.created", "auth personal_token.created", "auth personal_token.deleted", "devices device.created"]
    {
        assert!(kinds.iter().any(|told| told == kind), "{kind} is not in {kinds:?}");
    }
    let (status, _) = system.get("/v1/audit", secret).await.expect("answer");
    assert_eq!(status, 401);

    let path = "/v1/audit?actor=user:admin&kind=personal_token.created";
    let (_, answer) = system.get(path, &admin).await.expect("answer");
    let found = answer["entries"].as_array().expect("entries");
    assert_eq!((found.len(), &found[0]["subject"], &found[0]["address"]), (1, &json!(id), &json!("127.0.0.1")));
    assert!(found[0]["requestId"].as_str().is_some_and(|id| !id.is_empty()), "{answer}");
    let request = system.http().get(system.url(path)).bearer_auth(&admin).header("accept", "text/csv");
    let answer = request.send().await.expect("answer");
    assert_eq!(answer.headers()["content-type"], "text/csv; charset=utf-8; header=present");
    let table = answer.text().await.expect("a table");
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows.len(), 2, "{table}");
    assert!(rows[0].starts_with("time,service,seq,actor,kind,subject,") && rows[1].contains(id), "{table}");
}
