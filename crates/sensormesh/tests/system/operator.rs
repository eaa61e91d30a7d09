//! The operator's way in: mutual TLS on every service's port, reflection, and what certificates may not do.

use std::path::Path;
use std::time::Duration;

use sensormesh_proto::devices::v1::devices_service_client::DevicesServiceClient;
use sensormesh_proto::devices::v1::{EnsureSensorsRequest, ListSensorsRequest, Sensor};
use sensormesh_proto::mesh::v1::GetStatusRequest;
use sensormesh_proto::mesh::v1::mesh_service_client::MeshServiceClient;
use sensormesh_testkit::system::{Shape, System};
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::{both_shapes, start};

both_shapes!(
    the_operator_reflects_on_every_port,
    a_stranger_is_refused,
    a_service_may_do_what_its_contract_says_and_no_more,
    the_edge_gives_the_operator_a_way_in,
);

pub const PORTS: [(&str, u16); 6] =
    [("auth", 1), ("devices", 2), ("telemetry", 3), ("adapters", 4), ("commissioning", 5), ("rooms", 6)];

/// A channel to a service's port, with the certificate of `who` or none.
pub fn channel(system: &System, offset: u16, who: Option<&str>) -> Channel {
    let pki = system.data_dir().join("pki");
    let read = |name: &str| std::fs::read(Path::new(&pki).join(name)).expect(name);
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ca.pem"))).domain_name("localhost");
    if let Some(who) = who {
        tls = tls.identity(Identity::from_pem(read(&format!("{who}.pem")), read(&format!("{who}-key.pem"))));
    }
    Endpoint::from_shared(format!("https://127.0.0.1:{}", system.port_base + offset))
        .expect("an address")
        .timeout(Duration::from_secs(10))
        .tls_config(tls)
        .expect("TLS")
        .connect_lazy()
}

fn names(response: ServerReflectionResponse) -> Vec<String> {
    match response.message_response {
        Some(MessageResponse::ListServicesResponse(list)) => list.service.into_iter().map(|s| s.name).collect(),
        other => panic!("no list of services: {other:?}"),
    }
}

fn list() -> ServerReflectionRequest {
    ServerReflectionRequest { host: String::new(), message_request: Some(MessageRequest::ListServices(String::new())) }
}

async fn the_operator_reflects_on_every_port(shape: Shape) {
    let system = start(shape).await;
    for (service, offset) in PORTS {
        let channel = channel(&system, offset, Some("operator"));
        let mut reflection = ServerReflectionClient::new(channel.clone());
        let answer = reflection.server_reflection_info(tokio_stream::once(list())).await.expect(service);
        let listed = names(answer.into_inner().message().await.expect("a message").expect("an answer"));
        let capital = format!("{}{}Service", service[..1].to_uppercase(), &service[1..]);
        let own = format!("sensormesh.{service}.v1.{capital}");
        for name in [own.as_str(), "sensormesh.mesh.v1.MeshService", "grpc.health.v1.Health"] {
            assert!(listed.iter().any(|listed| listed == name), "{service}: {name} is not in {listed:?}");
        }
        let describe = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::FileContainingSymbol(own)),
        };
        let answer = reflection.server_reflection_info(tokio_stream::once(describe)).await.expect(service);
        let message = answer.into_inner().message().await.expect("a message").expect("an answer").message_response;
        assert!(matches!(message, Some(MessageResponse::FileDescriptorResponse(_))), "{service}: {message:?}");
        let status = MeshServiceClient::new(channel).get_status(GetStatusRequest {}).await.expect(service).into_inner();
        assert_eq!(status.service, service);
    }
}

async fn a_stranger_is_refused(shape: Shape) {
    let system = start(shape).await;
    for (service, offset) in PORTS {
        let mut client = MeshServiceClient::new(channel(&system, offset, None));
        let status = client.get_status(GetStatusRequest {}).await.expect_err(service);
        // The handshake fails; which of its codes the transport gives that depends on when the caller notices.
        let codes = [Code::Unknown, Code::Unavailable, Code::Cancelled];
        assert!(codes.contains(&status.code()), "{service}: {status:?}");
    }
}

async fn a_service_may_do_what_its_contract_says_and_no_more(shape: Shape) {
    let system = start(shape).await;
    let request = || EnsureSensorsRequest {
        sensors: vec![Sensor { sensor_id: "lab.co2".to_owned(), ..Sensor::default() }],
        ..EnsureSensorsRequest::default()
    };
    let mut as_telemetry = DevicesServiceClient::new(channel(&system, 2, Some("telemetry")));
    as_telemetry.ensure_sensors(request()).await.expect("the contract names telemetry");
    let mut as_rooms = DevicesServiceClient::new(channel(&system, 2, Some("rooms")));
    let status = as_rooms.ensure_sensors(request()).await.expect_err("the contract does not name rooms");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let mut as_operator = DevicesServiceClient::new(channel(&system, 2, Some("operator")));
    let sensors = as_operator.list_sensors(ListSensorsRequest::default()).await.expect("the operator may").into_inner();
    assert_eq!(sensors.sensors.len(), 1);
}

async fn the_edge_gives_the_operator_a_way_in(shape: Shape) {
    let system = start(shape).await;
    let channel = Endpoint::from_shared(system.url("")).expect("an address").connect().await.expect("the edge");
    let ask = |token: Option<String>| {
        let mut request = tonic::Request::new(tokio_stream::once(list()));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        request
    };
    let mut reflection = ServerReflectionClient::new(channel);
    let refused = reflection.server_reflection_info(ask(None)).await.expect_err("no token");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    let viewer = system.viewer("vera").await.expect("registered");
    let refused = reflection.server_reflection_info(ask(Some(viewer))).await.expect_err("a viewer");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let admin = system.admin().await.expect("token");
    let answer = reflection.server_reflection_info(ask(Some(admin))).await.expect("the first admin may");
    let listed = names(answer.into_inner().message().await.expect("a message").expect("an answer"));
    assert!(listed.iter().any(|name| name == "sensormesh.rooms.v1.RoomsService"), "{listed:?}");
}
