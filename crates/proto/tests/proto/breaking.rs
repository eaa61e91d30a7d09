//! The contracts against the last release, and the comparison itself.

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use sensormesh_proto::{FILE_DESCRIPTOR_SET, breaking_changes};

const RELEASED: &[u8] = include_bytes!("../../../../proto/released.binpb");

#[test]
fn nothing_released_is_broken() {
    let changes = breaking_changes(RELEASED, FILE_DESCRIPTOR_SET).expect("both are descriptors");
    assert!(changes.is_empty(), "these changes break callers of the last release:\n{}", changes.join("\n"));
}

/// What is found after `change` to the contract of `devices`.
fn after(change: impl FnOnce(&mut FileDescriptorProto)) -> Vec<String> {
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let file = set.file.iter_mut().find(|f| f.name() == "sensormesh/devices/v1/devices.proto").unwrap();
    change(file);
    // the routes are lost in decoding, on both sides
    let before = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().encode_to_vec();
    breaking_changes(&before, &set.encode_to_vec()).unwrap()
}

fn device(file: &mut FileDescriptorProto) -> &mut DescriptorProto {
    file.message_type.iter_mut().find(|m| m.name() == "Device").unwrap()
}

fn assert_refused(because: &str, change: impl FnOnce(&mut FileDescriptorProto)) {
    let found = after(change);
    assert!(found.iter().any(|f| f.contains(because)), "{because:?} is not among {found:?}");
}

#[test]
fn no_change_breaks_nothing() {
    assert_eq!(after(|_| {}), Vec::<String>::new());
}

#[test]
fn an_addition_breaks_nothing() {
    let added = after(|file| {
        let mut field = device(file).field[1].clone();
        field.name = Some("colour".into());
        field.json_name = Some("colour".into());
        field.number = Some(100);
        device(file).field.push(field);
        let mut method = file.service[0].method[0].clone();
        method.name = Some("PaintDevice".into());
        file.service[0].method.push(method);
    });
    assert_eq!(added, Vec::<String>::new());
}

#[test]
fn a_field_cannot_go_or_change() {
    assert_refused("Device.name (number 2) was removed", |f| drop(device(f).field.remove(1)));
    assert_refused("Device.name (number 2) was removed", |f| device(f).field[1].number = Some(99));
    assert_refused("Device.name changed its type from string to bytes", |f| device(f).field[1].set_type(Type::Bytes));
    assert_refused("Device.name became single or repeated", |f| device(f).field[1].set_label(Label::Repeated));
    assert_refused("is called \"title\" now", |f| device(f).field[1].json_name = Some("title".into()));
    assert_refused("renamed to \"title\"", |f| device(f).field[1].name = Some("title".into()));
    assert_refused("moved into or out of a oneof", |f| {
        device(f).oneof_decl.push(prost_types::OneofDescriptorProto { name: Some("o".into()), options: None });
        device(f).field[1].oneof_index = Some(0);
    });
    assert_refused("changed its type", |f| device(f).field[7].type_name = Some(".google.protobuf.Duration".into()));
}

#[test]
fn a_field_may_go_for_good() {
    let gone = after(|file| {
        let device = device(file);
        let field = device.field.remove(1);
        device.reserved_name.push(field.name().to_owned());
        let range = prost_types::descriptor_proto::ReservedRange { start: Some(2), end: Some(3) };
        device.reserved_range.push(range);
    });
    assert_eq!(gone, Vec::<String>::new());
}

#[test]
fn an_enum_value_cannot_go() {
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let before = set.encode_to_vec();
    let role = set.file.iter_mut().find(|f| f.package() == "sensormesh.options.v1").unwrap();
    role.enum_type[0].value.remove(2);
    let found = breaking_changes(&before, &set.encode_to_vec()).unwrap();
    assert_eq!(found, ["value ROLE_OPERATOR = 2 of enum sensormesh.options.v1.Role was removed or changed"]);
}

#[test]
fn a_method_cannot_go_or_change() {
    assert_refused("GetDevice was removed", |f| drop(f.service[0].method.remove(0)));
    assert_refused("GetDevice takes", |f| {
        f.service[0].method[0].input_type = Some(".sensormesh.devices.v1.ListDevicesRequest".into());
    });
    assert_refused("GetDevice returns", |f| {
        f.service[0].method[0].output_type = Some(".sensormesh.devices.v1.ListDevicesResponse".into());
    });
    assert_refused("GetDevice streams differently", |f| f.service[0].method[0].server_streaming = Some(true));
    assert_refused("GetDevice is not idempotent any more", |f| f.service[0].method[0].options = None);
    assert_refused("service sensormesh.devices.v1.DevicesService was removed", |f| f.service.clear());
    assert_refused("message sensormesh.devices.v1.GetDeviceRequest was removed", |f| {
        f.service.clear();
        f.message_type.retain(|m| m.name() != "GetDeviceRequest");
    });
}

#[test]
fn a_route_cannot_go() {
    // decoding through prost loses the routes
    let without = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().encode_to_vec();
    let found = breaking_changes(FILE_DESCRIPTOR_SET, &without).unwrap();
    let lost = "route GET /v1/devices/{device_id} of method sensormesh.devices.v1.DevicesService.GetDevice was removed";
    assert!(found.iter().any(|f| f == lost), "{found:?}");
}
