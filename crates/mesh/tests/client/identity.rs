//! Over mutual TLS: the upstream must prove to be the one that was meant.

use sensormesh_mesh::tls::Credentials;
use sensormesh_mesh::{Config, Mesh, Pki};
use sensormesh_types::{Clock, Code, Error};
use tempfile::TempDir;

use super::fake::*;

fn config(dir: &TempDir) -> Config {
    Config { pki_dir: dir.path().to_owned(), resilience: quick(), ..Config::default() }
}

/// A fake that proves to be `service`, and the edge, which takes it for `auth`.
async fn between(service: &str) -> (Fake, Running, Mesh, TempDir, Credentials) {
    let dir = TempDir::new().expect("a directory");
    let mut config = config(&dir);
    Pki::ensure(&config, &["edge", "auth", "rooms"], &[], &Clock::system()).expect("certificates");
    let credentials = Credentials::load(dir.path(), &config.identity(service)).expect("its certificate");
    let fake = Fake::well();
    let running = fake.listen_as(credentials.clone()).await;
    config.endpoints.insert("auth".into(), vec![running.address.to_string()]);
    let mesh = Mesh::new(config, "edge", Clock::system()).expect("a mesh");
    (fake, running, mesh, dir, credentials)
}

#[tokio::test]
async fn the_service_that_was_meant_is_called() {
    let (fake, _running, mesh, _dir, _) = between("auth").await;
    create_token(&mesh).await.expect("an answer");
    assert_eq!(fake.asked(), 1);
}

#[tokio::test]
async fn another_service_at_its_address_is_not_called() {
    let (fake, _running, mesh, _dir, _) = between("rooms").await;
    let error = Error::from(create_token(&mesh).await.expect_err("it is rooms"));
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
    assert_eq!(fake.asked(), 0);
}

#[tokio::test]
async fn a_stranger_with_an_authority_of_its_own_is_not_called() {
    let (_, _running, _, strangers_dir, stranger) = between("auth").await;
    let fake = Fake::well();
    let running = fake.listen_as(stranger).await;
    let dir = TempDir::new().expect("a directory");
    let mut config = config(&dir);
    Pki::ensure(&config, &["edge"], &[], &Clock::system()).expect("certificates");
    config.endpoints.insert("auth".into(), vec![running.address.to_string()]);
    let mesh = Mesh::new(config, "edge", Clock::system()).expect("a mesh");
    let error = Error::from(create_token(&mesh).await.expect_err("a stranger"));
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
    assert_eq!(fake.asked(), 0);
    drop(strangers_dir);
}

#[tokio::test]
async fn a_connection_that_the_upstream_refuses_after_the_handshake_was_never_made() {
    // the edge's certificate is of another authority than the one the upstream trusts, yet it trusts the upstream's
    let (fake, running, _, upstreams_dir, _) = between("auth").await;
    let dir = TempDir::new().expect("a directory");
    let mut config = config(&dir);
    Pki::ensure(&config, &["edge"], &[], &Clock::system()).expect("certificates");
    let both = ["ca.pem"].map(|name| {
        let read = |dir: &TempDir| std::fs::read_to_string(dir.path().join(name)).expect("an authority");
        read(&dir) + &read(&upstreams_dir)
    });
    std::fs::write(dir.path().join("ca.pem"), both.concat()).expect("both authorities");
    config.endpoints.insert("auth".into(), vec![running.address.to_string()]);
    let mesh = Mesh::new(config, "edge", Clock::system()).expect("a mesh");
    let error = Error::from(create_token(&mesh).await.expect_err("refused"));
    assert_eq!((error.code(), error.reason()), (Code::Unavailable, "UPSTREAM_UNREACHABLE"));
    assert_eq!(fake.asked(), 0);
}
