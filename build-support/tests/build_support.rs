//! What the contract compiler takes, and above all what it refuses.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use sensormesh_build_support::{Contracts, Idempotency, Role, compile, generate, methods};

const POLICY: &str = "option (sensormesh.options.v1.policy) = {min_role: ROLE_VIEWER};";

/// Compiles one contract, `body`, in the package `sensormesh.x.v1`.
fn contract(body: &str) -> anyhow::Result<Contracts> {
    in_package("sensormesh.x.v1", body)
}

fn in_package(package: &str, body: &str) -> anyhow::Result<Contracts> {
    let folder = tempfile::tempdir()?;
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let text = format!(
        "syntax = \"proto3\";\npackage {package};\n\
         import \"buf/validate/validate.proto\";\n\
         import \"google/api/annotations.proto\";\n\
         import \"google/protobuf/duration.proto\";\n\
         import \"google/protobuf/timestamp.proto\";\n\
         import \"sensormesh/options/v1/policy.proto\";\n{body}"
    );
    std::fs::write(folder.path().join("x.proto"), text)?;
    let includes: Vec<PathBuf> = vec![folder.path().to_owned(), proto.clone(), proto.join("third_party")];
    compile(folder.path(), &includes)
}

/// A contract with one method.
fn with_method(options: &str, request: &str) -> anyhow::Result<Contracts> {
    contract(&format!(
        "service X {{ rpc Do(Request) returns (Response) {{ {options} }} }}\n\
         message Request {{ {request} }}\nmessage Response {{ string text = 1; }}"
    ))
}

fn refused(contracts: anyhow::Result<Contracts>) -> String {
    let out = tempfile::tempdir().unwrap();
    let contracts = contracts.expect("the contract is good proto");
    let error = generate(&contracts, out.path()).expect_err("it must be refused");
    format!("{error:#}")
}

fn refused_method(options: &str, request: &str) -> String {
    let error = refused(with_method(options, request));
    assert!(error.contains("sensormesh.x.v1.X"), "the method is not named: {error}");
    error
}

fn refused_field(field: &str) -> String {
    let error = refused(contract(&format!("message M {{ {field} }}")));
    assert!(error.contains("sensormesh.x.v1.M"), "the field is not named: {error}");
    error
}

macro_rules! assert_says {
    ($error:expr, $words:expr) => {
        let (error, words) = ($error, $words);
        assert!(error.contains(words), "{error:?} does not say {words:?}");
    };
}

#[test]
fn a_method_without_a_policy_is_refused() {
    assert_says!(refused_method("", ""), "X.Do: has no policy");
}

#[test]
fn a_policy_that_admits_nobody_is_refused() {
    assert_says!(refused_method("option (sensormesh.options.v1.policy) = {cost: 2};", ""), "admits nobody");
}

#[test]
fn a_spooled_method_needs_an_id() {
    let spool = "option (sensormesh.options.v1.policy) = {devices: true spool: true};";
    assert_says!(refused_method(spool, ""), "neither request_id nor batch_id");
    for id in ["request_id", "batch_id"] {
        let contracts = with_method(spool, &format!("string {id} = 1;")).unwrap();
        assert!(methods(&contracts).unwrap()[0].policy.spool);
    }
}

#[test]
fn a_stream_cannot_be_spooled() {
    let error = refused(contract(
        "service X { rpc Do(stream Request) returns (Request) {
           option (sensormesh.options.v1.policy) = {devices: true spool: true}; } }
         message Request { string request_id = 1; }",
    ));
    assert_says!(error, "a stream cannot be");
}

#[test]
fn a_zero_deadline_is_refused() {
    let options = "option (sensormesh.options.v1.policy) = {public: true deadline: {}};";
    assert_says!(refused_method(options, ""), "deadline of zero");
}

#[test]
fn a_policy_has_defaults() {
    let contracts = contract(&format!(
        "service X {{ rpc Do(A) returns (B) {{ {POLICY} }} rpc Watch(A) returns (stream B) {{ {POLICY}
         option idempotency_level = NO_SIDE_EFFECTS; }} }} message A {{}} message B {{}}"
    ));
    let methods = methods(&contracts.unwrap()).unwrap();
    assert_eq!(methods[0].policy.deadline, Duration::from_secs(10));
    assert_eq!(methods[1].policy.deadline, Duration::from_secs(3600));
    assert_eq!((methods[0].policy.cost, methods[0].policy.min_role), (1, Some(Role::Viewer)));
    assert_eq!((methods[0].idempotency, methods[1].idempotency), (Idempotency::Unknown, Idempotency::NoSideEffects));
}

#[test]
fn a_service_stands_in_a_package_of_its_own_name() {
    let error = refused(in_package(
        "sensormesh.x.y.v1",
        &format!("service X {{ rpc Do(A) returns (A) {{ {POLICY} }} }} message A {{}}"),
    ));
    assert_says!(error, "sensormesh.<service>.v<n>");
}

#[test]
fn a_route_must_fit_the_messages() {
    let route = |route: &str, request: &str| {
        refused_method(&format!("{POLICY} option (google.api.http) = {{{route}}};"), request)
    };
    assert_says!(route("get: \"/x/{id}\"", ""), "has no field \"id\"");
    assert_says!(route("get: \"/x/{ids}\"", "repeated string ids = 1;"), "is repeated");
    assert_says!(route("get: \"/x/{inner}\"", "Response inner = 1;"), "cannot stand in a path");
    assert_says!(route("get: \"/x/{inner.other}\"", "Response inner = 1;"), "has no field \"other\"");
    assert_says!(route("get: \"/x\" body: \"*\"", ""), "GET has no body");
    assert_says!(route("post: \"/x\" body: \"what\"", ""), "body:");
    assert_says!(route("get: \"/x\" response_body: \"what\"", ""), "response_body:");
    assert_says!(route("get: \"x\"", ""), "starts with /");
    assert_says!(route("body: \"*\"", ""), "without a path");
    assert_says!(route("get: \"/x\" additional_bindings: {get: \"/{what}\"}", ""), "has no field \"what\"");
}

#[test]
fn two_methods_cannot_share_a_route() {
    let method = |name: &str, path: &str| {
        format!("rpc {name}(A) returns (B) {{ {POLICY} option (google.api.http) = {{get: \"{path}\"}}; }}")
    };
    let error = refused(contract(&format!(
        "service X {{ {} {} }} message A {{ string a = 1; string b = 2; }} message B {{}}",
        method("One", "/x/{a}"),
        method("Two", "/x/{b}")
    )));
    assert_says!(error, "leads to both");
}

#[test]
fn a_rule_that_is_not_compiled_is_refused() {
    let rule = |rule: &str| refused_field(&format!("string f = 1 [(buf.validate.field).{rule}];"));
    assert_says!(rule("string.email = true"), "buf.validate.StringRules.email");
    assert_says!(rule("cel = {id: \"x\", expression: \"true\"}"), "is not supported");
    assert_says!(rule("string.pattern = \"(\""), "not a regular expression");
    assert_says!(rule("int32.gt = 1"), "int32 rules do not fit a field of type string");
    assert_says!(rule("repeated.min_items = 1"), "do not fit");
    let other = |field: &str| refused_field(field);
    assert_says!(
        other("repeated double f = 1 [(buf.validate.field).repeated.unique = true];"),
        "`unique` is supported"
    );
    assert_says!(other("repeated string f = 1 [(buf.validate.field).string.min_len = 1];"), "do not fit a repeated");
    assert_says!(
        other("repeated string f = 1 [(buf.validate.field).repeated.items.string.uuid = true];"),
        "StringRules.uuid"
    );
    assert_says!(
        other("map<string, string> f = 1 [(buf.validate.field).map.keys.string.ip = true];"),
        "StringRules.ip"
    );
    assert_says!(
        other("google.protobuf.Timestamp f = 1 [(buf.validate.field).timestamp.gt_now = true];"),
        "TimestampRules.gt_now"
    );
    assert_says!(other("int32 f = 1 [(buf.validate.field).int32 = {gt: 5 lt: 3}];"), "excludes its middle");
    assert_says!(other("M f = 1 [(buf.validate.field).timestamp.gt = {}];"), "do not fit sensormesh.x.v1.M");
}

#[test]
fn a_rule_of_a_whole_message_is_refused() {
    let error = refused(contract(
        "message M { option (buf.validate.message).cel = {id: \"x\", expression: \"true\"}; string f = 1; }",
    ));
    assert_says!(error, "sensormesh.x.v1.M: rules of a whole message");
}

#[test]
fn a_mistake_in_a_contract_is_shown_where_it_stands() {
    let error = contract("message M { strin f = 1; }").err().expect("it must be refused");
    assert_says!(format!("{error:#}"), "strin");
}

#[test]
fn the_descriptors_keep_our_comments_and_every_option() {
    let contracts = with_method(&format!("{POLICY} option (google.api.http) = {{get: \"/x\"}};"), "").unwrap();
    let policy = contracts.pool.get_extension_by_name("sensormesh.options.v1.policy").unwrap();
    let service = contracts.pool.get_service_by_name("sensormesh.x.v1.X").unwrap();
    assert!(service.methods().next().unwrap().options().has_extension(&policy));
    let comments = |name: &str| {
        let file = contracts.pool.get_file_by_name(name).unwrap();
        file.file_descriptor_proto().source_code_info.is_some()
    };
    assert!(comments("sensormesh/options/v1/policy.proto"));
    assert!(!comments("buf/validate/validate.proto"));
}

/// A new method in a real contract, with nothing else changed, is in the tables that routes, policy and clients come from.
#[test]
fn a_new_method_in_a_contract_is_in_the_tables() {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy(&entry.path(), &target);
            } else {
                std::fs::copy(entry.path(), target).expect("copied");
            }
        }
    }
    let dir = tempfile::tempdir().expect("a folder");
    let real = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    copy(&real.join("sensormesh"), &dir.path().join("sensormesh"));
    let file = dir.path().join("sensormesh/rooms/v1/rooms.proto");
    let method = "service RoomsService {\n  // Counts the rooms.\n  rpc CountRooms(CountRoomsRequest) returns (CountRoomsResponse) {\n    \
                  option (google.api.http) = {get: \"/v1/rooms:count\"};\n    \
                  option (sensormesh.options.v1.policy) = {min_role: ROLE_VIEWER};\n  }\n";
    let messages = "// Asks.\nmessage CountRoomsRequest {}\n// Answers.\nmessage CountRoomsResponse {\n  // How many.\n  uint32 rooms = 1;\n}\n";
    let text =
        std::fs::read_to_string(&file).expect("the contract").replace("service RoomsService {", method) + messages;
    std::fs::write(&file, text).expect("written");
    let includes = [dir.path().to_owned(), real.join("third_party")];
    let contracts = compile(dir.path(), &includes).expect("compiled");
    let out = tempfile::tempdir().expect("a folder");
    generate(&contracts, out.path()).expect("generated");
    let tables = std::fs::read_to_string(out.path().join("tables.rs")).expect("tables");
    let files = std::fs::read_dir(out.path()).expect("a folder").map(|file| file.expect("an entry").path());
    let mut texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    assert!(tables.contains("/sensormesh.rooms.v1.RoomsService/CountRooms") && tables.contains("/v1/rooms:count"));
    assert!(texts.any(|text| text.contains("async fn count_rooms")), "the Rust client and server have it");
}
