//! Certificates that change while people call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sensormesh_mesh::{Config, Pki};
use sensormesh_testkit::system::{Shape, System, eventually};
use sensormesh_types::Clock;
use serde_json::json;

use super::BEHIND;
use crate::builder;

/// People who write and read until they are told to stop; every call must succeed.
struct Callers {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    running: Vec<tokio::task::JoinHandle<()>>,
}

impl Callers {
    fn start(system: &Arc<System>, token: &str) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let caller = |number: usize| {
            let (system, token) = (Arc::clone(system), token.to_owned());
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                let path = format!("/sensors/lab.n{number}/data");
                for value in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (status, answer) = system.post(&path, &token, &json!({"value": value})).await.expect("answer");
                    assert_eq!(status, 200, "{answer}");
                    for read in [path.as_str(), "/v1/devices", "/rooms", "/v1/connections", "/v1/tests"] {
                        let (status, answer) = system.get(read, &token).await.expect("an answer");
                        assert_eq!(status, 200, "{read}: {answer}");
                        calls.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        };
        let running = (0..4).map(caller).collect();
        Self { stop, calls, running }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for caller in self.running {
            caller.await.expect("every call succeeds");
        }
        self.calls.load(Ordering::SeqCst)
    }
}

/// How often something was logged.
fn logged(system: &System, text: &str) -> usize {
    system.log().matches(text).count()
}

async fn until_logged(system: &System, text: &str, times: usize) {
    let told = || async { (logged(system, text) >= times).then_some(()) };
    let reached = eventually(Duration::from_secs(30), told).await;
    assert!(reached.is_some(), "{text:?} was logged {} times of {times}", logged(system, text));
}

#[tokio::test(flavor = "multi_thread")]
async fn f66_whose_certificate_is_refused_is_in_the_log() {
    let system = crate::start(Shape::Split).await;
    let stranger = tempfile::tempdir().expect("a directory");
    let config = Config { pki_dir: stranger.path().to_owned(), ..Config::default() };
    Pki::ensure(&config, &["rooms"], &[], &Clock::system()).expect("of another authority");
    let pem = |name: &str| std::fs::read(stranger.path().join(name)).expect("a file");
    let identity = reqwest::Identity::from_pem(&[pem("rooms.pem"), pem("rooms-key.pem")].concat()).expect("a pair");
    let client = reqwest::Client::builder().no_proxy().danger_accept_invalid_certs(true).identity(identity);
    let url = format!("https://{}/sensormesh.devices.v1.DevicesService/ListDevices", system.address("devices"));
    let refused = client.build().expect("a client").post(url).send().await;
    assert!(refused.is_err(), "{refused:?}");
    until_logged(&system, "certificate was refused", 1).await;
    let log = system.log();
    let line = log.lines().find(|line| line.contains("certificate was refused")).expect("logged");
    assert!(line.contains("/sa/rooms") && line.contains("invalid peer certificate"), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f67_certificates_and_their_authority_are_exchanged_and_no_call_fails() {
    const AGAIN: &str = "the certificate was read again";
    const REFUSED: &str = "the new certificate is not good";
    let unlimited = builder(Shape::Split).setting("SENSORMESH_EDGE__USER_RATE__PER_SECOND", "0");
    let system = Arc::new(unlimited.start().await.expect("starts"));
    let admin = system.admin().await.expect("token");
    let pki = system.data_dir().join("pki");
    let callers = Callers::start(&system, &admin);
    let mut seen = 0;
    for _ in 0..2 {
        system.command(&["certs", "--renew"]).await.expect("renewed");
        seen += BEHIND.len() + 1;
        until_logged(&system, AGAIN, seen).await;
    }
    // half a file is told of by name, and the old one goes on
    let whole = std::fs::read(pki.join("rooms.pem")).expect("the file");
    let before = logged(&system, REFUSED);
    std::fs::write(pki.join("rooms.pem"), &whole[..whole.len() / 2]).expect("written");
    until_logged(&system, REFUSED, before + 1).await;
    assert!(logged(&system, "rooms.pem") > 0, "the file is named");
    std::fs::write(pki.join("rooms.pem"), &whole).expect("written");
    until_logged(&system, AGAIN, seen + 1).await;
    // another authority: first both are trusted, then everybody gets a certificate of the new one, then the old one is forgotten
    let other = tempfile::tempdir().expect("a directory");
    let config = Config { pki_dir: other.path().to_owned(), ..Config::default() };
    Pki::ensure(&config, &["nobody"], &[], &Clock::system()).expect("made");
    let new = std::fs::read(other.path().join("ca.pem")).expect("the new one");
    let old = std::fs::read(pki.join("ca.pem")).expect("the old one");
    let key = std::fs::read(other.path().join("ca-key.pem")).expect("its key");
    for (authority, key) in [([new.clone(), old].concat(), Some(key)), (new, None)] {
        let before = logged(&system, AGAIN);
        std::fs::write(pki.join("ca.pem"), authority).expect("written");
        if let Some(key) = key {
            until_logged(&system, AGAIN, before + BEHIND.len() + 1).await;
            std::fs::write(pki.join("ca-key.pem"), key).expect("written");
            let before = logged(&system, AGAIN);
            system.command(&["certs"]).await.expect("made anew, of the new authority");
            until_logged(&system, AGAIN, before + BEHIND.len() + 1).await;
        } else {
            until_logged(&system, AGAIN, before + BEHIND.len() + 1).await;
        }
    }
    let calls = callers.end().await;
    eprintln!("{calls} reads beside as many exchanges");
    assert!(calls > 100);
    // connections that are made from now on
    for service in ["devices", "rooms"] {
        system.kill_service(service).expect("killed");
    }
    let serves = eventually(Duration::from_secs(60), || async {
        let (devices, rooms) =
            (system.get("/v1/devices", &admin).await.ok()?, system.get("/rooms", &admin).await.ok()?);
        (devices.0 == 200 && rooms.0 == 200).then_some(())
    });
    serves.await.expect("new processes and old ones take each other for what they are");
}
