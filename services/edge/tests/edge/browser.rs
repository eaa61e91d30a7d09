//! Pages of other origins.

use http::Method;
use sensormesh_types::Role;
use serde_json::json;

use super::world::*;

const LISTED: &str = "https://dashboard.example.com";

async fn world() -> World {
    World::configured(|config| config.cors_origins = vec![LISTED.to_owned()]).await
}

fn preflight(world: &World, origin: &str) -> reqwest::RequestBuilder {
    let request = world.http.request(Method::OPTIONS, world.url("/v1/places/hall")).header("origin", origin);
    request.header("access-control-request-method", "PATCH").header("access-control-request-headers", "authorization")
}

#[tokio::test]
async fn a_listed_page_may_ask_and_read() {
    let world = world().await;
    let asked = preflight(&world, LISTED).send().await.expect("sent");
    assert_eq!(
        (asked.status().as_u16(), header(asked.headers(), "access-control-allow-origin")),
        (204, LISTED.to_owned())
    );
    let allowed = asked.headers()["access-control-allow-headers"].to_str().expect("text").to_owned();
    for header in ["authorization", "content-type", "x-grpc-web", "x-user-agent", "grpc-timeout", "last-event-id"] {
        assert!(allowed.contains(header), "{header}");
    }
    let got = answer(world.get("/v1/places/hall").header("origin", LISTED)).await;
    assert_eq!((got.status, header(&got.headers, "access-control-allow-origin")), (200, LISTED.to_owned()));
    let exposed = got.headers["access-control-expose-headers"].to_str().expect("text");
    for header in ["grpc-status", "grpc-message", "grpc-status-details-bin", "x-request-id", "retry-after"] {
        assert!(exposed.contains(header), "{header}");
    }
    assert!(got.headers["vary"].to_str().expect("text").contains("origin"));
    // an error can be read by the page, too
    let refused = answer(world.http.get(world.url("/v1/places/hall")).header("origin", LISTED)).await;
    assert_eq!((refused.status, header(&refused.headers, "access-control-allow-origin")), (401, LISTED.to_owned()));
}

#[tokio::test]
async fn other_pages_may_not() {
    let world = world().await;
    for origin in ["https://evil.example", "null", "http://dashboard.example.com"] {
        let asked = preflight(&world, origin).send().await.expect("sent");
        assert_eq!(asked.status(), 403, "{origin}");
        assert!(!asked.headers().contains_key("access-control-allow-origin"));
        // a form of another page: a "simple" request that is sent without asking first
        let form = world.http.post(world.url("/token")).header("origin", origin).form(&[("username", "ada")]);
        let refused = answer(form).await;
        assert_eq!((refused.status, refused.reason()), (403, "ORIGIN".to_owned()), "{origin}");
        let stream = world.get("/v1/readings:watch").header("origin", origin);
        assert_eq!(answer(stream).await.status, 403, "{origin}");
        let read = answer(world.get("/v1/places/hall").header("origin", origin)).await;
        assert!(!read.headers.contains_key("access-control-allow-origin"), "{origin}");
    }
    // a cookie is nothing here
    let cookie = world.http.get(world.url("/v1/places/hall"));
    let cookie = cookie.header("cookie", format!("authorization=Bearer {}", token(Role::Admin)));
    assert_eq!(answer(cookie).await.status, 401);
    let own = world.post("/sensors/lab.co2/data").header("origin", format!("http://{}", world.address));
    assert_eq!(answer(own.json(&json!({"value": 1}))).await.status, 200);
    // a name that somebody else made resolve to this machine
    let rebound =
        world.post("/sensors/lab.co2/data").header("origin", "http://evil.example").header("host", "evil.example");
    assert_eq!(answer(rebound.json(&json!({"value": 1}))).await.status, 403);
}
