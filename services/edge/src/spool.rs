//! Calls that are accepted for a service that cannot be reached: what is kept of them, and how they are delivered.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body_util::Full;
use prost::Message;
use sensormesh_mesh::server::ACCEPTED_TIME;
use sensormesh_mesh::{Context, Mesh, Shutdown};
use sensormesh_proto::edge::v1 as proto;
use sensormesh_store::Store;
use sensormesh_store::spool::{Backlog, Delivery, Fate, Kept, Receipt, Spool, passes};
use sensormesh_types::{Error, Result, time};
use tonic::{Code, Status};

use crate::Config;
use crate::frame::{self, Messages};
use crate::inward;

/// The longest answer that a receipt shows, bytes.
const LONGEST_ANSWER: usize = 64 << 10;

/// A call as it is kept.
#[derive(Clone, PartialEq, Message)]
pub struct Held {
    /// `/sensormesh.telemetry.v1.TelemetryService/IngestReading`.
    #[prost(string, tag = "1")]
    pub path: String,
    /// The caller's `authorization` header.
    #[prost(string, tag = "2")]
    pub authorization: String,
    /// The request.
    #[prost(bytes = "vec", tag = "3")]
    pub message: Vec<u8>,
    /// The trace that the call belongs to.
    #[prost(string, tag = "4")]
    pub traceparent: String,
    /// The id of the request that brought it.
    #[prost(string, tag = "5")]
    pub request_id: String,
    /// The address that it came from.
    #[prost(string, tag = "6")]
    pub address: String,
}

/// The spool in a store, where there is one.
pub async fn open(store: Option<&Store>, config: &Config) -> Result<Option<Spool>> {
    match store {
        Some(store) => Ok(Some(Spool::open(store, config.spool()).await?)),
        None => Ok(None),
    }
}

/// Delivers what is kept until stopping is asked for.
pub fn task(spool: &Spool, mesh: &Mesh, shutdown: Shutdown) -> impl Future<Output = Result<()>> + Send + use<> {
    let (spool, mesh) = (spool.clone(), mesh.clone());
    let deliver = move |kept: Arc<Kept>| {
        let mesh = mesh.clone();
        async move { deliver(&mesh, &kept).await }
    };
    async move { shutdown.cut(spool.run(deliver)).await.unwrap_or(Ok(())) }
}

/// Makes a kept call.
async fn deliver(mesh: &Mesh, kept: &Kept) -> Delivery {
    let answered = async {
        let held = Held::decode(kept.call.call.as_slice()).map_err(Error::internal)?;
        let path = http::uri::PathAndQuery::try_from(held.path.as_str()).map_err(Error::internal)?;
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(ACCEPTED_TIME, HeaderValue::from(kept.accepted));
        if let Ok(address) = HeaderValue::from_str(&held.address) {
            headers.insert("x-forwarded-for", address);
        }
        let context = Context {
            deadline: None,
            traceparent: held.traceparent,
            authorization: Some(held.authorization),
            request_id: held.request_id,
        };
        let mut message = frame::begin(held.message.len());
        message.extend_from_slice(&held.message);
        let body = tonic::body::Body::new(Full::new(frame::finish(message)));
        let response = inward::call(mesh, &kept.call.target, path, headers, body, context).await?;
        Messages::of(response, LONGEST_ANSWER)?.only().await
    };
    match answered.await {
        Ok(answer) => Delivery::Delivered(answer.into()),
        Err(status) if passes(&status.clone().into()) => Delivery::Later,
        Err(status) => {
            tracing::warn!(service = kept.call.target, method = kept.call.method, error = status.message(), "refused");
            Delivery::Refused(encoded(&status))
        }
    }
}

/// Whether a call that failed so may be accepted for later: its service was not reached, or, where the service knows the call
/// by its id when it comes again, broke off while it was under way.
pub fn may_keep(status: &Status, service: &str, identified: bool) -> bool {
    if !matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) {
        return false;
    }
    let error = Error::from(status.clone());
    error.metadata("upstream") == Some(service)
        && match error.reason() {
            "UPSTREAM_UNREACHABLE" | "CIRCUIT_OPEN" => true,
            "UPSTREAM_LOST" | "DEADLINE_EXCEEDED" => identified,
            _ => false,
        }
}

/// A `google.rpc.Status`: its details are one already where there are any.
fn encoded(status: &Status) -> Vec<u8> {
    if !status.details().is_empty() {
        return status.details().to_vec();
    }
    let (code, message) = (status.code() as i32, status.message().to_owned());
    tonic_types::pb::Status { code, message, details: Vec::new() }.encode_to_vec()
}

/// A receipt as the contract has it. `output` is the name of the method's answer.
pub fn receipt(receipt_id: &str, receipt: Receipt, output: &str) -> proto::Receipt {
    let any = |name: &str, value: &[u8]| prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: value.to_vec(),
    };
    let state = match receipt.fate {
        Fate::Waiting => proto::ReceiptState::Waiting,
        Fate::Delivered => proto::ReceiptState::Delivered,
        Fate::Refused => proto::ReceiptState::Refused,
        Fate::Expired => proto::ReceiptState::Expired,
    };
    proto::Receipt {
        receipt_id: receipt_id.to_owned(),
        service: receipt.target,
        method: receipt.method,
        state: state.into(),
        accept_time: Some(time::from_micros(receipt.accepted)),
        settle_time: receipt.settled.map(time::from_micros),
        answer: (receipt.fate == Fate::Delivered).then(|| any(output, &receipt.answer)),
        error: (receipt.fate == Fate::Refused).then(|| any("google.rpc.Status", &receipt.answer)),
    }
}

/// What waits, as the contract has it.
pub fn health(spool: &Spool) -> std::collections::HashMap<String, proto::SpoolHealth> {
    let shown =
        |Backlog { calls, oldest }| proto::SpoolHealth { waiting: calls, oldest_time: Some(time::from_micros(oldest)) };
    spool.waiting().into_iter().map(|(service, backlog)| (service, shown(backlog))).collect()
}

/// The message in a framed body of one.
pub fn unframed(body: &Bytes) -> Bytes {
    body.slice(frame::PREFIX.min(body.len())..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn unavailable(reason: &'static str, upstream: &str) -> Status {
        Error::unavailable(reason, "away", Duration::from_secs(1)).with("upstream", upstream).into()
    }

    #[test]
    fn what_was_never_sent_may_be_kept_and_what_broke_off_only_with_an_id() {
        assert!(may_keep(&unavailable("UPSTREAM_UNREACHABLE", "telemetry"), "telemetry", false));
        assert!(may_keep(&unavailable("CIRCUIT_OPEN", "telemetry"), "telemetry", false));
        assert!(!may_keep(&unavailable("UPSTREAM_LOST", "telemetry"), "telemetry", false));
        assert!(may_keep(&unavailable("UPSTREAM_LOST", "telemetry"), "telemetry", true));
        assert!(!may_keep(&unavailable("UPSTREAM_UNREACHABLE", "devices"), "telemetry", true), "one behind it is away");
        assert!(!may_keep(&unavailable("DATABASE", "telemetry"), "telemetry", true));
        assert!(!may_keep(&Status::internal("broken"), "telemetry", true));
    }

    #[test]
    fn a_full_service_is_asked_again_and_a_refusal_stands() {
        let is = |status: Status| passes(&status.into());
        assert!(is(Status::unavailable("away")) && is(Status::cancelled("given up")));
        assert!(is(Error::exhausted("OVERLOADED", "busy", Duration::from_secs(1)).into()));
        assert!(!is(Status::resource_exhausted("too long")));
        assert!(!is(Status::invalid_argument("no value")));
        let status = Status::from(Error::invalid("value", "must be finite"));
        let back = tonic_types::pb::Status::decode(encoded(&status).as_slice()).expect("a status");
        assert_eq!((back.code, back.message.as_str()), (3, status.message()));
    }
}
