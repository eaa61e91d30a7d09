//! Files that are made from the code or the contracts are what they would be made to now.

use std::path::Path;
use std::process::Command;

fn program(args: &[&str]) -> String {
    let nowhere = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_sensormesh"))
        .args(args)
        .current_dir(nowhere.path())
        .env_clear()
        .output()
        .expect("the program runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn checked_in(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).expect(path)
}

#[test]
fn the_example_environment_is_the_configuration() {
    assert_eq!(checked_in(".env.example"), program(&["config", "show", "--env"]), "run `make proto`");
}

#[test]
fn the_reference_is_the_contracts() {
    assert_eq!(checked_in("docs/contracts.md"), program(&["contract", "docs"]), "run `make proto`");
}

#[test]
fn every_route_and_every_policy_is_printed() {
    let (routes, policy) = (program(&["contract", "routes"]), program(&["contract", "policy"]));
    for method in sensormesh_proto::METHODS {
        assert!(policy.contains(&format!("{}/{}", method.service_name, method.name)), "{}", method.path);
        for route in method.routes {
            assert!(routes.contains(route.template), "{}", route.template);
        }
    }
    let openapi: serde_json::Value = serde_json::from_str(&program(&["contract", "openapi"])).expect("JSON");
    assert_eq!(openapi["openapi"].as_str().map(|version| &version[..3]), Some("3.1"));
}

#[test]
fn a_wrong_word_in_the_configuration_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("sensormesh.toml"), "[edge]\nlisten_on = \"x\"\n").expect("written");
    let check = Command::new(env!("CARGO_BIN_EXE_sensormesh"))
        .args(["config", "check", "--data-dir"])
        .arg(dir.path())
        .output()
        .expect("the program runs");
    let words = String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && words.contains("listen_on"), "{words}");
}
