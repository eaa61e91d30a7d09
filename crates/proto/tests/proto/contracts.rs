//! What holds for every contract.

use std::collections::BTreeSet;
use std::time::Duration;

use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use sensormesh_proto::{
    FILE_DESCRIPTOR_SET, Idempotency, METHODS, SERVICES, Validate, auth, devices, graph, method, mistaken_for, pool,
    start_order,
};
use sensormesh_types::Role;

use crate::generated::tables::METHODS as TRIAL;

fn ours() -> impl Iterator<Item = FileDescriptorProto> {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("descriptors");
    set.file.into_iter().filter(|f| f.package().starts_with("sensormesh."))
}

/// The paths of everything in a file that wants a comment, with names for people.
fn elements(file: &FileDescriptorProto) -> Vec<(Vec<i32>, String)> {
    fn message(path: &[i32], this: &prost_types::DescriptorProto, out: &mut Vec<(Vec<i32>, String)>) {
        if this.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry) {
            return;
        }
        let at = |field: i32, index: usize| [path, &[field, index as i32]].concat();
        out.push((path.to_vec(), this.name().to_owned()));
        for (i, field) in this.field.iter().enumerate() {
            out.push((at(2, i), format!("{}.{}", this.name(), field.name())));
        }
        for (i, inner) in this.nested_type.iter().enumerate() {
            message(&at(3, i), inner, out);
        }
        for (i, inner) in this.enum_type.iter().enumerate() {
            enumeration(&at(4, i), inner, out);
        }
        for (i, oneof) in this.oneof_decl.iter().enumerate() {
            let synthetic = this.field.iter().any(|f| f.proto3_optional() && f.oneof_index == Some(i as i32));
            if !synthetic {
                out.push((at(8, i), format!("{}.{}", this.name(), oneof.name())));
            }
        }
    }
    fn enumeration(path: &[i32], kind: &prost_types::EnumDescriptorProto, out: &mut Vec<(Vec<i32>, String)>) {
        out.push((path.to_vec(), kind.name().to_owned()));
        for (i, value) in kind.value.iter().enumerate() {
            out.push(([path, &[2, i as i32]].concat(), value.name().to_owned()));
        }
    }
    let mut out = Vec::new();
    for (i, item) in file.message_type.iter().enumerate() {
        message(&[4, i as i32], item, &mut out);
    }
    for (i, item) in file.enum_type.iter().enumerate() {
        enumeration(&[5, i as i32], item, &mut out);
    }
    for (i, service) in file.service.iter().enumerate() {
        out.push((vec![6, i as i32], service.name().to_owned()));
        for (j, method) in service.method.iter().enumerate() {
            out.push((vec![6, i as i32, 2, j as i32], format!("{}.{}", service.name(), method.name())));
        }
    }
    for (i, extension) in file.extension.iter().enumerate() {
        out.push((vec![7, i as i32], extension.name().to_owned()));
    }
    out
}

fn uncommented(file: &FileDescriptorProto) -> Vec<String> {
    let info = file.source_code_info.as_ref().expect("our own files keep their comments");
    let commented: BTreeSet<&[i32]> =
        info.location.iter().filter(|l| !l.leading_comments().trim().is_empty()).map(|l| l.path.as_slice()).collect();
    elements(file).into_iter().filter(|(path, _)| !commented.contains(path.as_slice())).map(|(_, name)| name).collect()
}

#[test]
fn everything_in_a_contract_has_a_comment() {
    for file in ours() {
        assert_eq!(uncommented(&file), Vec::<String>::new(), "{}", file.name());
    }
}

#[test]
fn a_missing_comment_is_noticed() {
    let mut file = ours().find(|f| f.name().ends_with("auth.proto")).expect("auth");
    let first = file.source_code_info.as_mut().expect("comments");
    let user =
        first.location.iter_mut().find(|l| l.path == [4, 0, 2, 1]).expect("the second field of the first message");
    user.leading_comments = None;
    assert_eq!(uncommented(&file), ["User.username"]);
}

#[test]
fn every_method_of_every_contract_is_in_the_table() {
    let described: BTreeSet<_> = pool()
        .services()
        .flat_map(|s| s.methods().map(|m| format!("/{}/{}", s.full_name(), m.name())).collect::<Vec<_>>())
        .collect();
    let listed: BTreeSet<_> = METHODS.iter().map(|m| m.path.to_owned()).collect();
    assert_eq!(described, listed);
    assert_eq!(listed.len(), METHODS.len());
    for m in METHODS {
        let found = method(m.path).expect("every method is found by its path");
        assert!(std::ptr::eq(found, m));
        assert!(SERVICES.contains(&(m.service, m.service_name)));
        assert!(m.policy.cost >= 1 && !m.policy.deadline.is_zero(), "{}", m.path);
    }
    assert!(method("/sensormesh.auth.v1.AuthService/Nothing").is_none());
}

#[test]
fn a_contract_is_read_as_it_is_written() {
    let trial = &TRIAL[0];
    assert_eq!(trial.path, "/sensormesh.trial.v1.TrialService/Try");
    assert_eq!((trial.service, trial.service_name), ("trial", "sensormesh.trial.v1.TrialService"));
    assert_eq!((trial.input, trial.output), ("sensormesh.trial.v1.TryRequest", "sensormesh.trial.v1.TryResponse"));
    assert_eq!(trial.idempotency, Idempotency::Idempotent);
    assert_eq!(trial.policy.min_role, Some(Role::Operator));
    assert!(trial.policy.admits_service("anybody") && trial.policy.spool && !trial.policy.public);
    assert!(trial.policy.admits_role(Role::Admin) && !trial.policy.admits_role(Role::Viewer));
    assert_eq!(trial.policy.deadline, Duration::from_millis(500));
    assert_eq!(trial.policy.cost, 3);
    let routes: Vec<_> = trial.routes.iter().map(|r| (r.verb, r.template, r.body, r.response_body)).collect();
    assert_eq!(routes, [("POST", "/v1/trials/{trial.text}:try", "trial", "trial"), ("GET", "/try", "", "")]);
    let many = &TRIAL[1];
    assert!(many.client_streaming && many.server_streaming && !many.is_retryable());
    assert_eq!(many.policy.deadline, Duration::from_secs(3600));
    assert_eq!(many.policy.cost, 1);
    assert!(!many.policy.admits_role(Role::PlatformAdmin));
}

#[test]
fn nobody_calls_in_a_circle() {
    let order = start_order().expect("no circle");
    assert_eq!(order.len(), graph().len());
    assert!(graph()["edge"].contains("auth") && graph()["edge"].contains("mesh"));
    assert!(graph()["rooms"].contains("telemetry"));
    assert!(!graph()["telemetry"].contains("rooms"));
    assert_eq!(order.last(), Some(&"edge"));
}

#[test]
fn policies_name_services_that_exist() {
    for method in METHODS {
        for service in method.policy.services {
            let known = *service == "*" || SERVICES.iter().any(|(short, _)| short == service);
            assert!(known, "{} admits {service:?}, which no contract describes", method.path);
        }
    }
}

#[test]
fn a_likely_mistake_has_a_hint() {
    let reading = pool().get_message_by_name("sensormesh.telemetry.v1.Reading").expect("Reading");
    assert_eq!(mistaken_for(&reading, "timestamp").as_deref(), Some("time"));
    assert_eq!(mistaken_for(&reading, "nonsense"), None);
}

#[test]
fn the_contracts_rules_hold_on_real_messages() {
    let named = |username: &str| auth::v1::RegisterRequest {
        username: username.into(),
        password: "correct horse".into(),
        ..Default::default()
    };
    assert_eq!(named("ada").validate(), Ok(()));
    assert_eq!(named("-").validate().unwrap_err()[0].field, "username");
    let sensor = devices::v1::Sensor { sensor_id: "lab co2".into(), range_min: Some(f64::NAN), ..Default::default() };
    let request = devices::v1::CreateSensorRequest { sensor: Some(sensor), ..Default::default() };
    let fields: Vec<_> = request.validate().unwrap_err().into_iter().map(|v| v.field).collect();
    assert_eq!(fields, ["sensor.sensor_id", "sensor.range_min"]);
    assert_eq!(devices::v1::CreateSensorRequest::default().validate().unwrap_err()[0].description, "is required");
}

#[test]
fn errors_can_be_described() {
    for name in ["google.rpc.Status", "google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"] {
        assert!(pool().get_message_by_name(name).is_some(), "{name}");
    }
}
