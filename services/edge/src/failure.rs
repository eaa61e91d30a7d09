//! Errors as HTTP answers: a bare `google.rpc.Status` in JSON, as Envoy's transcoder and grpc-gateway give it.

use axum::body::Body;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use sensormesh_types::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::transcode::shape::Shapes;
use crate::transcode::text;
use crate::transcode::to_json::{self, Defaults};
use crate::transcode::wire::{Record, Records};

/// Why a request failed, and how that is said in HTTP.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong.
    pub status: Box<Status>,
    /// The HTTP status, where it is not that of the code.
    http: Option<StatusCode>,
    headers: HeaderMap,
}

impl Failure {
    /// A failure that HTTP has a status of its own for.
    pub fn http(status: StatusCode, error: Error) -> Self {
        Self { status: Box::new(error.into()), http: Some(status), headers: HeaderMap::new() }
    }

    /// No such path, or not with this method.
    pub fn not_found(verb: &str, path: &str, allowed: Option<String>) -> Self {
        let what = |code, reason, message| Error::new(code, reason, message);
        use sensormesh_types::Code as C;
        match allowed {
            Some(allowed) => {
                let message = format!("{path} does not take {verb}; it takes {allowed}");
                let error = what(C::Unimplemented, "METHOD_NOT_ALLOWED", message);
                Self::http(StatusCode::METHOD_NOT_ALLOWED, error).with(ALLOW, &allowed)
            }
            None => {
                what(C::NotFound, "NO_ROUTE", format!("there is nothing at {path}; /docs lists what there is")).into()
            }
        }
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.http.unwrap_or_else(|| http_status(self.status.code()))
    }

    /// The headers that belong to it, whatever form the answer has.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        if let Some(wait) = self.status.get_details_retry_info().and_then(|info| info.retry_delay) {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if self.status.code() == Code::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sensormesh\""));
        }
        headers
    }

    /// The answer.
    pub fn response(&self, shapes: &Shapes) -> Response<Body> {
        let mut response = Response::new(Body::from(json(shapes, &self.status)));
        *response.status_mut() = self.status();
        *response.headers_mut() = self.headers();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self { status: Box::new(status), http: None, headers: HeaderMap::new() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Status::from(error).into()
    }
}

/// The HTTP status of a gRPC code, as `google/rpc/code.proto` maps it.
pub fn http_status(code: Code) -> StatusCode {
    let status = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::DeadlineExceeded => 504,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::PermissionDenied => 403,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::Unauthenticated => 401,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// A status as JSON: `code`, `message`, `details`.
pub fn json(shapes: &Shapes, status: &Status) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"code\":");
    text::display(status.code() as i32, &mut out);
    out.extend_from_slice(b",\"message\":");
    text::string(status.message(), &mut out);
    out.extend_from_slice(b",\"details\":[");
    let start = out.len();
    if let Some(any) = shapes.by_name("google.protobuf.Any") {
        // the details are a whole google.rpc.Status, whose field 3 they are
        for record in Records(status.details()) {
            let Ok((3, Record::Length(detail))) = record else { continue };
            let before = out.len();
            if out.len() > start {
                out.push(b',');
            }
            if to_json::message(shapes, any, detail, Defaults::Omitted, &mut out).is_err() {
                out.truncate(before);
            }
        }
    }
    out.extend_from_slice(b"]}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn shapes() -> Shapes {
        Shapes::of(sensormesh_proto::pool())
    }

    #[test]
    fn an_error_is_a_bare_status_with_its_details() {
        let error = Error::unavailable("CIRCUIT_OPEN", "auth is left alone", Duration::from_millis(1500));
        let failure = Failure::from(error);
        assert_eq!(failure.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(failure.headers()[RETRY_AFTER], "2");
        let json: serde_json::Value = serde_json::from_slice(&json(&shapes(), &failure.status)).expect("JSON");
        assert_eq!(json["code"], 14);
        assert_eq!(json["message"], "auth is left alone");
        let types: Vec<&str> =
            json["details"].as_array().expect("details").iter().filter_map(|d| d["@type"].as_str()).collect();
        assert!(types.contains(&"type.googleapis.com/google.rpc.ErrorInfo"), "{json}");
        assert!(types.contains(&"type.googleapis.com/google.rpc.RetryInfo"), "{json}");
        let retry = json["details"].as_array().expect("details").iter().find(|d| d["retryDelay"].is_string());
        assert_eq!(retry.expect("a delay")["retryDelay"], "1.500s");
    }

    #[test]
    fn a_status_without_details_is_whole_too() {
        let text = String::from_utf8(json(&shapes(), &Status::not_found("no \"x\""))).expect("UTF-8");
        assert_eq!(text, r#"{"code":5,"message":"no \"x\"","details":[]}"#);
    }

    #[test]
    fn a_login_is_asked_for_in_the_header_too() {
        let failure = Failure::from(Error::unauthenticated("a token is needed"));
        assert_eq!(failure.status(), StatusCode::UNAUTHORIZED);
        assert!(failure.headers().contains_key(WWW_AUTHENTICATE));
        let other = Failure::not_found("POST", "/v1/rooms", Some("GET".into()));
        assert_eq!((other.status().as_u16(), other.headers()[ALLOW].to_str().expect("text")), (405, "GET"));
    }
}
