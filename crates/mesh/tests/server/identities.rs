//! Who may connect, and as whom.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sensormesh_mesh::tls::Credentials;
use sensormesh_mesh::{Config, Mesh, Pki, Transport};
use sensormesh_types::Clock;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use tonic_reflection::pb::v1alpha;

use super::world::*;

#[tokio::test]
async fn without_a_certificate_nothing_is_answered() {
    let world = World::start().await;
    world.devices("").get_device(device("ok")).await.expect_err("refused");
    assert_eq!(world.seen.calls.load(Ordering::SeqCst), 0);
    world.devices("adapters").get_device(device("ok")).await.expect("others go on");
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let world = World::start().await;
    let other = tempfile::tempdir().expect("a directory");
    let config = Config { pki_dir: other.path().to_owned(), ..Config::default() };
    Pki::ensure(&config, &SERVICES, &[], &Clock::system()).expect("certificates");
    // it trusts the server, so that it is the server that refuses
    let theirs = world.config.pki_dir.join("ca.pem");
    std::fs::copy(theirs, other.path().join("ca.pem")).expect("the root");
    let channel = connect(world.address(), client_config(other.path(), "adapters"));
    let mut client = sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient::new(channel);
    client.get_device(device("ok")).await.expect_err("refused");
    assert_eq!(world.seen.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_service_may_call_what_the_contract_lets_it_and_the_operator_everything() {
    let world = World::start().await;
    let answer = world.devices("adapters").get_device(device("ok")).await.expect("named in the contract");
    assert_eq!(answer.into_inner().device.expect("device").name, "service:adapters");
    let denied = world.devices("energy").get_device(device("ok")).await.expect_err("not named");
    assert_eq!(denied.code(), Code::PermissionDenied);
    let anonymous = world.devices("edge").get_device(device("ok")).await.expect_err("nobody behind the edge");
    assert_eq!(anonymous.code(), Code::Unauthenticated);
    let answer = world.devices("operator").get_device(device("ok")).await.expect("the operator");
    let seen = answer.into_inner().device.expect("device");
    assert_eq!((seen.name.as_str(), seen.manufacturer.as_str()), ("user:operator", "default"));
}

#[tokio::test]
async fn a_header_does_not_make_a_service_another_one() {
    let world = World::start().await;
    let mut request = tonic::Request::new(device("ok"));
    let claim = world.config.identity("adapters").to_string();
    request.metadata_mut().insert("sensormesh-peer", claim.parse().expect("value"));
    request.metadata_mut().insert("x-forwarded-client-cert", format!("URI={claim}").parse().expect("value"));
    let denied = world.devices("energy").get_device(request).await.expect_err("refused");
    assert_eq!(denied.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn reflection_is_the_operators_in_both_versions() {
    let world = World::start().await;
    let ask = || ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = ServerReflectionClient::new(world.channel("operator"));
    let mut answers = client.server_reflection_info(tokio_stream::iter([ask()])).await.expect("allowed").into_inner();
    let answer: ServerReflectionResponse = answers.message().await.expect("a message").expect("one");
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("a list") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["sensormesh.devices.v1.DevicesService", "sensormesh.mesh.v1.MeshService", "grpc.health.v1.Health"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let denied = ServerReflectionClient::new(world.channel("adapters"))
        .server_reflection_info(tokio_stream::iter([ask()]))
        .await
        .expect_err("not for services");
    assert_eq!(denied.code(), Code::PermissionDenied);

    let request = v1alpha::ServerReflectionRequest {
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(world.channel("operator"));
    let answers = client.server_reflection_info(tokio_stream::iter([request])).await.expect("allowed");
    assert!(answers.into_inner().message().await.expect("a message").is_some());
}

#[tokio::test]
async fn any_peer_may_ask_for_health() {
    let world = World::start().await;
    let mut client = HealthClient::new(world.channel("energy"));
    for service in ["", "sensormesh.devices.v1.DevicesService"] {
        let (client, service) = (client.clone(), service.to_owned());
        until("serving", || {
            let (mut client, request) = (client.clone(), HealthCheckRequest { service: service.clone() });
            async move { client.check(request).await.is_ok_and(|answer| answer.into_inner().status == 1) }
        })
        .await;
    }
    let unknown = client.check(HealthCheckRequest { service: "no.such.Service".into() }).await.expect_err("unknown");
    assert_eq!(unknown.code(), Code::NotFound);
}

#[tokio::test]
async fn a_changed_certificate_serves_new_connections_while_old_ones_live() {
    let world = World::start().await;
    let mut old = world.devices("adapters");
    old.get_device(device("ok")).await.expect("before");
    // a new authority and new certificates for everybody; the old client knows only the old ones
    let before = client_config(&world.config.pki_dir, "adapters");
    for file in std::fs::read_dir(&world.config.pki_dir).expect("files") {
        std::fs::remove_file(file.expect("file").path()).expect("removed");
    }
    Pki::ensure(&world.config, &SERVICES, &[], &Clock::system()).expect("certificates");
    until("the new certificate", || {
        let mut client = world.devices("adapters");
        async move { client.get_device(device("ok")).await.is_ok() }
    })
    .await;
    old.get_device(device("ok")).await.expect("the old connection lives");
    let channel = connect(world.address(), before);
    let mut late = sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient::new(channel);
    late.get_device(device("ok")).await.expect_err("the old certificate opens no new connection");
}

#[tokio::test]
async fn a_certificate_that_is_not_good_does_not_replace_one_that_is() {
    let world = World::start().await;
    let own = world.config.identity("devices");
    let credentials = Credentials::load(&world.config.pki_dir, &own).expect("credentials");
    let path = world.config.pki_dir.join("devices.pem");
    std::fs::copy(world.config.pki_dir.join("energy.pem"), &path).expect("another's");
    let file = std::fs::File::options().write(true).open(&path).expect("file");
    let written = file.metadata().and_then(|m| m.modified()).expect("time");
    file.set_modified(written + Duration::from_secs(10)).expect("set");
    let refused = credentials.reload().expect_err("another's");
    assert!(refused.to_string().contains("sa/energy"), "{refused}");
    world.devices("adapters").get_device(device("ok")).await.expect("goes on with the old one");
}

#[tokio::test]
async fn the_authority_renews_what_is_half_over_and_keeps_the_rest() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = Config { pki_dir: dir.path().to_owned(), ..Config::default() };
    let clock = Clock::fixed(Clock::system().now_micros());
    let pki = Pki::ensure(&config, &["rooms"], &["box.lan".into()], &clock).expect("certificates");
    assert!(pki.renew().expect("nothing to do").is_empty());
    std::fs::remove_file(dir.path().join("rooms.pem")).expect("lost");
    assert_eq!(pki.renew().expect("made again, by the authority as it was read from its file"), ["rooms"]);
    Credentials::load(dir.path(), &config.identity("rooms")).expect("a chain that others accept");
    clock.advance(Duration::from_secs(4 * 86_400));
    assert_eq!(pki.renew().expect("renewed"), ["rooms"]);
    let more = Pki::ensure(&config, &["rooms"], &["other.lan".into()], &clock);
    let before = std::fs::read(dir.path().join("rooms.pem")).expect("file");
    more.expect("another name").renew().expect("nothing to do");
    assert_eq!(std::fs::read(dir.path().join("rooms.pem")).expect("file"), before);
    for key in ["ca-key.pem", "rooms-key.pem", "operator-key.pem"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(dir.path().join(key)).expect("key").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[tokio::test]
async fn plaintext_is_refused_in_words_without_dev() {
    let config = Config { transport: Transport::Plaintext, ..Config::default() };
    let refused = Mesh::new(config, "devices", Clock::system()).expect_err("refused");
    assert!(refused.to_string().contains("use mtls"), "{refused}");
}
