//! From a second host: HTTPS, and two clients behind one proxy. Needs root for a network namespace; says so without.

use std::process::Command;
use std::time::Duration;

use sensormesh_testkit::system::Shape;

use crate::builder;

/// A network namespace joined to this host by a pair of virtual interfaces; removed when dropped.
struct Host {
    name: String,
    here: String,
    there: String,
}

impl Host {
    fn new() -> Option<Self> {
        let [id, net]: [u8; 2] = sensormesh_types::random::bytes();
        let name = format!("sm{id:02x}{net:02x}");
        let host = Self {
            here: format!("10.{}.{}.1", 100 + id % 100, net),
            there: format!("10.{}.{}.2", 100 + id % 100, net),
            name,
        };
        let (outer, inner) = (format!("{}o", host.name), format!("{}i", host.name));
        let steps: [&[&str]; 6] = [
            &["netns", "add", &host.name],
            &["link", "add", &outer, "type", "veth", "peer", "name", &inner, "netns", &host.name],
            &["addr", "add", &format!("{}/24", host.here), "dev", &outer],
            &["link", "set", &outer, "up"],
            &["-n", &host.name, "addr", "add", &format!("{}/24", host.there), "dev", &inner],
            &["-n", &host.name, "link", "set", &inner, "up"],
        ];
        for step in steps {
            if !Command::new("ip").args(step).output().is_ok_and(|output| output.status.success()) {
                sensormesh_testkit::skip(format_args!("a second host needs root and iproute2 (ip {})", step.join(" ")));
                return None;
            }
        }
        Some(host)
    }

    /// Runs curl on the second host; returns the status code and the body.
    fn curl(&self, args: &[&str]) -> (u16, String) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "curl", "-s", "--max-time", "15", "-w", "\n%{http_code}"]);
        let output = command.args(args).output().expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').expect("a status");
        (code.parse().expect("a number"), body.to_owned())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        Command::new("ip").args(["netns", "del", &self.name]).output().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_host_sees_the_dashboard_over_https() {
    let Some(host) = Host::new() else { return };
    let dir = tempfile::tempdir().expect("dir");
    let made = rcgen::generate_simple_self_signed(vec![host.here.clone()]).expect("a certificate");
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let port =
        std::net::TcpListener::bind((host.here.as_str(), 0)).and_then(|l| l.local_addr()).expect("a port").port();
    let _system = builder(Shape::OneProcess)
        .arg("--listen")
        .arg(format!("{}:{port}", host.here))
        .arg("--tls-cert")
        .arg(cert.to_string_lossy())
        .arg("--tls-key")
        .arg(key.to_string_lossy())
        .start()
        .await
        .expect("the system starts");
    let base = format!("https://{}:{port}", host.here);
    for protocol in ["--http1.1", "--http2"] {
        let (status, body) = host.curl(&[protocol, "--cacert", &cert.to_string_lossy(), &format!("{base}/")]);
        assert_eq!(status, 200, "{protocol}: {body}");
        assert!(body.contains("<html"), "{body}");
    }
    let (status, body) = host.curl(&["--cacert", &cert.to_string_lossy(), &format!("{base}/health")]);
    assert_eq!(status, 200, "{body}");
    let register = r#"{"username": "eve", "password": "correct horse battery staple"}"#;
    let json = "content-type: application/json";
    let (status, body) =
        host.curl(&["--cacert", &cert.to_string_lossy(), "-H", json, "-d", register, &format!("{base}/register")]);
    assert_eq!(status, 403, "registration is not open to other hosts: {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_behind_one_proxy_are_limited_separately() {
    let Some(host) = Host::new() else { return };
    let port =
        std::net::TcpListener::bind((host.here.as_str(), 0)).and_then(|l| l.local_addr()).expect("a port").port();
    let _system = builder(Shape::OneProcess)
        .arg("--listen")
        .arg(format!("{}:{port}", host.here))
        .arg("--behind-proxy")
        .arg(format!("{}/32", host.there))
        .start()
        .await
        .expect("the system starts");
    let url = format!("http://{}:{port}/verify", host.here);
    let ask = |client: &str, times: usize| {
        let header = format!("x-forwarded-for: {client}");
        let many: Vec<String> = (0..times).map(|_| url.clone()).collect();
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &host.name,
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}\n",
            "-H",
            &header,
        ]);
        let mut args: Vec<&str> = Vec::new();
        for url in &many {
            args.extend(["-o", "/dev/null", url.as_str()]);
        }
        let output = command.args(args).output().expect("curl");
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let limited = sensormesh_testkit::system::eventually(Duration::from_secs(30), || async {
        ask("192.0.2.1", 400).iter().any(|code| code == "429").then_some(())
    })
    .await;
    assert!(limited.is_some(), "the first client reaches its limit");
    assert_eq!(ask("192.0.2.2", 1), ["401"], "the second client has a limit of its own");
}
