//! Who may, how much, and from where.

use sensormesh_edge::Rate;
use sensormesh_mesh::Mesh;
use sensormesh_types::Role;

use super::world::*;

#[tokio::test]
async fn a_token_is_needed_and_its_role_decides() {
    let world = World::start().await;
    let nobody = answer(world.http.get(world.url("/v1/places/hall"))).await;
    assert_eq!((nobody.status, nobody.headers.contains_key("www-authenticate")), (401, true));
    for bad in ["nonsense", "a.b.c", ""] {
        let refused = world.http.get(world.url("/v1/places/hall")).header("authorization", format!("Bearer {bad}"));
        assert_eq!(answer(refused).await.status, 401, "{bad}");
    }
    let body = serde_json::json!({"value": 1});
    let viewer = world.http.post(world.url("/sensors/lab.co2/data")).bearer_auth(token(Role::Viewer)).json(&body);
    assert_eq!(answer(viewer).await.status, 403);
    assert_eq!(world.seen.count(), 0, "what is refused here goes no further");
    assert_eq!(answer(world.post("/sensors/lab.co2/data").json(&body)).await.status, 200);
    let own = token(Role::Operator);
    let sent = world.http.post(world.url("/sensors/lab.co2/data")).bearer_auth(&own).json(&body);
    assert_eq!(answer(sent).await.status, 200);
    assert_eq!(world.seen.headers()["authorization"], format!("Bearer {own}"), "the token is forwarded as it is");
}

#[tokio::test]
async fn a_personal_token_is_exchanged_once_and_an_access_token_goes_inward() {
    let world = World::start().await;
    let with = |token: &str| answer(world.http.get(world.url("/v1/places/hall")).bearer_auth(token));
    for calls in [2, 3] {
        assert_eq!(with("smp_good").await.status, 200);
        assert_eq!(world.seen.count(), calls, "auth was asked once");
    }
    let inner = header(&world.seen.headers(), "authorization");
    assert!(inner.starts_with("Bearer ey"), "{inner}");
    let body = serde_json::json!({"value": 1});
    let more = world.http.post(world.url("/sensors/lab.co2/data")).bearer_auth("smp_good").json(&body);
    assert_eq!(answer(more).await.status, 403, "the role decides as ever");
    let unknown = with("smp_unknown").await;
    assert_eq!((unknown.status, unknown.reason().as_str()), (401, "TOKEN_INVALID"));
    let early = with("smp_early").await;
    assert_eq!((early.status, early.reason().as_str()), (503, "DOWN"), "auth cannot be asked");
    assert!(early.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn guessing_personal_tokens_costs_the_address() {
    let world = World::configured(|config| config.address_rate = Rate { per_second: 1, burst: 20 }).await;
    let with = |token: String| answer(world.http.get(world.url("/v1/places/hall")).bearer_auth(token));
    let mut refused = 0;
    for number in 0..10 {
        refused += usize::from(with(format!("smp_{number}")).await.status == 429);
    }
    assert!(refused >= 5, "{refused}");
    assert!(world.seen.count() <= 5, "auth is not asked for those");
}

#[tokio::test]
async fn headers_that_say_who_somebody_is_do_not_pass() {
    let world = World::start().await;
    let spoofed = world
        .get("/v1/places/hall")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-client-cert", "URI=spiffe://sensormesh.local/ns/sensormesh/sa/rooms")
        .header("sensormesh-peer", "spiffe://sensormesh.local/ns/sensormesh/sa/rooms")
        .header("x-envoy-external-address", "6.6.6.6")
        .header("x-tenant", "other")
        .header("x_user", "root")
        .header("x-user", "root")
        .header("host", "devices.internal")
        .header("grpc-status", "0")
        .header("grpc-previous-rpc-attempts", "7")
        .header("grpc-tags-bin", "AAAA")
        .header("x-request-id", "mine-1");
    let got = answer(spoofed).await;
    assert_eq!((got.status, got.headers["x-request-id"].to_str().expect("text")), (200, "mine-1"));
    let inner = world.seen.headers();
    assert_eq!(header(&inner, "x-forwarded-for"), "127.0.0.1");
    assert_eq!(header(&inner, "x-request-id"), "mine-1");
    let others = ["x-forwarded-client-cert", "x-envoy-external-address", "x-tenant", "x_user", "x-user"];
    for name in others.into_iter().chain(["grpc-status", "grpc-previous-rpc-attempts", "grpc-tags-bin", "host"]) {
        assert!(!inner.contains_key(name), "{name}");
    }
    // the peer is the edge, whatever the client wrote
    if let Some(peer) = inner.get("sensormesh-peer") {
        assert!(peer.to_str().expect("text").ends_with("/edge"));
    }
}

#[tokio::test]
async fn every_user_has_a_rate_of_its_own() {
    let world = World::configured(|config| config.user_rate = Rate { per_second: 1, burst: 5 }).await;
    let ask = |name: &str| world.http.get(world.url("/v1/places/hall")).bearer_auth(token_of(name, Role::Viewer));
    for n in 0..5 {
        let got = answer(ask("ada")).await;
        assert_eq!((got.status, got.headers["ratelimit-limit"].to_str().expect("text")), (200, "5"), "{n}");
    }
    let limited = answer(ask("ada")).await;
    assert_eq!(
        (limited.status, limited.json["code"].as_i64(), limited.reason()),
        (429, Some(8), "RATE_LIMITED".to_owned())
    );
    assert!(limited.headers.contains_key("retry-after"));
    assert_eq!(answer(ask("bob")).await.status, 200);
}

#[tokio::test]
async fn clients_behind_a_trusted_proxy_are_told_apart() {
    let rate = Rate { per_second: 1, burst: 5 };
    let proxied = World::configured(|config| {
        config.address_rate = rate;
        config.behind_proxy = vec!["127.0.0.0/8".parse().expect("a range")];
    })
    .await;
    let ask = |world: &World, from: &str| world.http.get(world.url("/ready")).header("x-forwarded-for", from);
    for _ in 0..5 {
        assert_eq!(answer(ask(&proxied, "198.51.100.1")).await.status, 200);
    }
    assert_eq!(answer(ask(&proxied, "198.51.100.1")).await.status, 429);
    assert_eq!(answer(ask(&proxied, "6.6.6.6, 198.51.100.1")).await.status, 429, "the left one is hearsay");
    assert_eq!(answer(ask(&proxied, "198.51.100.2")).await.status, 200);

    let direct = World::configured(|config| config.address_rate = rate).await;
    for n in 0..5 {
        assert_eq!(answer(ask(&direct, &format!("198.51.100.{n}"))).await.status, 200);
    }
    assert_eq!(answer(ask(&direct, "198.51.100.9")).await.status, 429, "nobody is believed without a proxy");
}

#[tokio::test]
async fn guessing_tokens_is_limited_by_address() {
    let world = World::configured(|config| config.address_rate = Rate { per_second: 1, burst: 5 }).await;
    let mut last = 0;
    for n in 0..6 {
        last = answer(world.http.get(world.url("/v1/places/hall")).bearer_auth(format!("guess{n}"))).await.status;
    }
    assert_eq!(last, 429);
    assert_eq!(answer(world.get("/v1/places/hall")).await.status, 200, "a user with a good token goes on");
}

#[tokio::test]
async fn plain_http_for_everybody_is_refused_in_words() {
    let config = sensormesh_mesh::Config {
        transport: sensormesh_mesh::Transport::Plaintext,
        dev: true,
        ..sensormesh_mesh::Config::default()
    };
    let mesh = Mesh::new(config, "edge", sensormesh_types::Clock::system()).expect("a mesh");
    let open = sensormesh_edge::Config { listen: "0.0.0.0:0".parse().ok(), ..Default::default() };
    let contract = sensormesh_edge::contract::Contract::built_in().expect("the contracts");
    let error = sensormesh_edge::prepare(open, &mesh, contract, None).await.expect_err("refused");
    assert!(error.message().contains("--tls-cert"), "{error}");
}

#[tokio::test]
async fn https_speaks_both_versions_and_takes_a_new_certificate() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = [dir.path().join("cert.pem"), dir.path().join("key.pem")];
    let certificate = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(&files[1], made.signing_key.serialize_pem()).expect("written");
        std::fs::write(&files[0], made.cert.pem()).expect("written");
        made.cert.pem()
    };
    let first = certificate();
    let world = World::configured(|config| {
        config.tls_cert.clone_from(&files[0]);
        config.tls_key.clone_from(&files[1]);
    })
    .await;
    let ask = async |pem: &str, old: bool| {
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([reqwest::Certificate::from_pem(pem.as_bytes()).expect("a certificate")])
            .resolve("localhost", world.address);
        let client = if old { client.http1_only() } else { client }.build().expect("a client");
        client.get(format!("https://localhost:{}/ready", world.address.port())).send().await
    };
    assert_eq!(ask(&first, false).await.expect("an answer").version(), http::Version::HTTP_2);
    let old = ask(&first, true).await.expect("an answer");
    assert_eq!((old.version(), old.status().as_u16()), (http::Version::HTTP_11, 200));
    assert!(old.headers().contains_key("strict-transport-security"));
    let second = certificate();
    eventually("the new certificate", || async { ask(&second, false).await.is_ok() }).await;
    assert!(ask(&first, false).await.is_err());
}
