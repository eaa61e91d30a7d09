//! Certificates that do not prove what they should, whoever shows them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use sensormesh_mesh::tls::Credentials;
use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::mesh::v1::GetStatusRequest;
use sensormesh_proto::mesh::v1::mesh_service_client::MeshServiceClient;
use sensormesh_types::Clock;
use tempfile::TempDir;
use tonic::Code;

use crate::server::world::*;

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().expect("a name"))
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a name"))
}

/// A certificate that the world's authority made for `adapters`, but for what is changed, in a directory as a service has it.
fn made(world: &World, change: impl FnOnce(&mut CertificateParams)) -> TempDir {
    let read = |file: &str| std::fs::read_to_string(world.config.pki_dir.join(file)).expect("a file");
    let key = KeyPair::from_pem(&read("ca-key.pem")).expect("the key");
    let authority = Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("the authority");
    let mut params = CertificateParams::default();
    let names = [uri(&world.config.identity("adapters").to_string()), dns("localhost")];
    params.subject_alt_names = names.into();
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let dir = tempfile::tempdir().expect("a directory");
    for (file, text) in
        [("ca.pem", read("ca.pem")), ("adapters.pem", certificate.pem()), ("adapters-key.pem", key.serialize_pem())]
    {
        std::fs::write(dir.path().join(file), text).expect("written");
    }
    dir
}

type Change = Box<dyn FnOnce(&mut CertificateParams)>;

#[tokio::test]
async fn f66_a_certificate_that_does_not_prove_who_it_is_opens_nothing() {
    let world = World::start().await;
    let call = |dir: &TempDir| {
        let channel = connect(world.address(), client_config(dir.path(), "adapters"));
        async move { DevicesServiceClient::new(channel).get_device(device("ok")).await }
    };
    call(&made(&world, |_| {})).await.expect("as it is made, it is good");
    let before = world.seen.calls.load(Ordering::SeqCst);
    let own = world.config.identity("adapters").to_string();
    let changes: [(&str, Change); 8] = [
        ("expired", Box::new(|params| params.not_after = date_time_ymd(2020, 1, 1))),
        ("not yet good", Box::new(|params| params.not_before = date_time_ymd(2100, 1, 1))),
        ("two names", Box::new(move |params| params.subject_alt_names.push(uri(&own.replace("adapters", "rooms"))))),
        ("a host's name only", Box::new(|params| params.subject_alt_names = vec![dns("adapters")])),
        ("no name", Box::new(|params| params.subject_alt_names.clear())),
        ("no SPIFFE id", Box::new(|params| params.subject_alt_names = vec![uri("https://adapters")])),
        (
            "of another domain",
            Box::new(|params| params.subject_alt_names = vec![uri("spiffe://other.org/ns/x/sa/adapters")]),
        ),
        ("an authority's", Box::new(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
    ];
    for (what, change) in changes {
        call(&made(&world, change)).await.expect_err(what);
    }
    assert_eq!(world.seen.calls.load(Ordering::SeqCst), before, "none came through");
    // one that is good, of a service that has no business here
    let refused = world.devices("energy").get_device(device("ok")).await.expect_err("the contract does not name it");
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn f67_what_is_wrong_with_new_files_is_named_and_the_old_ones_stay() {
    let world = World::start().await;
    let good = made(&world, |_| {});
    let credentials = Credentials::load(good.path(), &world.config.identity("adapters")).expect("good");
    let before = Arc::as_ptr(&credentials.server());
    let put = |file: &str, content: &[u8], age: u64| {
        let path = good.path().join(file);
        std::fs::write(&path, content).expect("written");
        let opened = std::fs::File::options().write(true).open(&path).expect("the file");
        let then = opened.metadata().and_then(|m| m.modified()).expect("a time");
        opened.set_modified(then + Duration::from_secs(age)).expect("set");
    };
    let take = |dir: &TempDir, age: u64| {
        for file in ["adapters-key.pem", "adapters.pem"] {
            put(file, &std::fs::read(dir.path().join(file)).expect("a file"), age);
        }
    };
    let mut age = 10;
    let refused = |what: &str, said: &str| {
        let error = credentials.reload().expect_err(what).to_string();
        assert!(error.contains("adapters") && error.contains(said), "{what}: {error}");
        assert_eq!(Arc::as_ptr(&credentials.server()), before, "{what}: the old one stays");
    };
    take(&made(&world, |params| params.not_after = date_time_ymd(2020, 1, 1)), age);
    refused("expired", "expired");
    age += 10;
    take(&made(&world, |params| params.not_before = date_time_ymd(2100, 1, 1)), age);
    refused("not yet good", "not valid yet");
    age += 10;
    take(&made(&world, |params| params.subject_alt_names = vec![dns("adapters")]), age);
    refused("no identity", "SPIFFE");
    age += 10;
    take(&made(&world, |_| {}), age);
    let half = std::fs::read(good.path().join("adapters.pem")).expect("the file");
    put("adapters.pem", &half[..half.len() / 2], age + 10);
    refused("half written", "adapters.pem");
    put("adapters.pem", &half, age + 20);
    assert!(credentials.reload().expect("whole again"));
    assert_ne!(Arc::as_ptr(&credentials.server()), before);
    // the key of another certificate
    let key = std::fs::read(made(&world, |_| {}).path().join("adapters-key.pem")).expect("a key");
    put("adapters-key.pem", &key, age + 30);
    let error = credentials.reload().expect_err("another's key").to_string();
    assert!(error.contains("adapters-key.pem"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_is_not_renewed_in_time_is_told_of() {
    let clock = Clock::ahead(0);
    let registry = sensormesh_mesh::LocalRegistry::new();
    let world = World::at(&registry, clock.clone(), |_| {}).await;
    let certificate = async || {
        let mut client = MeshServiceClient::new(world.channel("operator"));
        let status = client.get_status(GetStatusRequest {}).await.expect("status").into_inner();
        let found = status.checks.into_iter().find(|check| check.name == "certificate");
        found.map(|check| (check.healthy, check.detail)).expect("the check")
    };
    assert!(certificate().await.0);
    clock.advance(Duration::from_secs(4 * 86_400));
    let (healthy, detail) = certificate().await;
    assert!(!healthy && detail.contains("of its life are left"), "{detail}");
}
