//! One error for the whole system, and its one translation to a gRPC status.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

/// The domain that every `google.rpc.ErrorInfo` of ours names.
pub const ERROR_DOMAIN: &str = "sensormesh";

/// What every fallible function of ours returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure it is; a restricted subset of the gRPC codes, each with one meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The request is wrong whatever the state. INVALID_ARGUMENT, 400.
    Invalid,
    /// The caller is unknown. UNAUTHENTICATED, 401.
    Unauthenticated,
    /// The caller is known and may not. PERMISSION_DENIED, 403.
    Forbidden,
    /// Absent, or hidden from this caller. NOT_FOUND, 404.
    NotFound,
    /// The name or id is taken. ALREADY_EXISTS, 409.
    Exists,
    /// The state forbids it; change the state first. FAILED_PRECONDITION, 400.
    Precondition,
    /// Someone else changed it; read again and retry. ABORTED, 409.
    Conflict,
    /// Rate, quota or bulkhead. RESOURCE_EXHAUSTED, 429.
    Exhausted,
    /// Retrying may help: breaker open, peer down. UNAVAILABLE, 503.
    Unavailable,
    /// The deadline passed. DEADLINE_EXCEEDED, 504.
    Timeout,
    /// A cursor past retention or of another incarnation. OUT_OF_RANGE, 400.
    Gone,
    /// This build or mode has it not. UNIMPLEMENTED, 501.
    Unimplemented,
    /// A checksum failed; the object is named. DATA_LOSS, 500.
    Corrupt,
    /// Our bug. INTERNAL, 500.
    Internal,
}

impl Code {
    /// The gRPC code it travels as.
    pub fn grpc(self) -> tonic::Code {
        use tonic::Code as G;
        match self {
            Code::Invalid => G::InvalidArgument,
            Code::Unauthenticated => G::Unauthenticated,
            Code::Forbidden => G::PermissionDenied,
            Code::NotFound => G::NotFound,
            Code::Exists => G::AlreadyExists,
            Code::Precondition => G::FailedPrecondition,
            Code::Conflict => G::Aborted,
            Code::Exhausted => G::ResourceExhausted,
            Code::Unavailable => G::Unavailable,
            Code::Timeout => G::DeadlineExceeded,
            Code::Gone => G::OutOfRange,
            Code::Unimplemented => G::Unimplemented,
            Code::Corrupt => G::DataLoss,
            Code::Internal => G::Internal,
        }
    }

    fn of(code: tonic::Code) -> Self {
        use tonic::Code as G;
        match code {
            G::InvalidArgument => Code::Invalid,
            G::Unauthenticated => Code::Unauthenticated,
            G::PermissionDenied => Code::Forbidden,
            G::NotFound => Code::NotFound,
            G::AlreadyExists => Code::Exists,
            G::FailedPrecondition => Code::Precondition,
            G::Aborted => Code::Conflict,
            G::ResourceExhausted => Code::Exhausted,
            G::Unavailable | G::Cancelled => Code::Unavailable,
            G::DeadlineExceeded => Code::Timeout,
            G::OutOfRange => Code::Gone,
            G::Unimplemented => Code::Unimplemented,
            G::DataLoss => Code::Corrupt,
            G::Ok | G::Unknown | G::Internal => Code::Internal,
        }
    }
}

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path to the field as the contract spells it: `readings[3].sensor_id`.
    pub field: String,
    /// What is wrong with it, for the caller.
    pub description: String,
}

/// A failure: what the caller may know, and beside it the cause, which is logged and never sent.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    reason: Cow<'static, str>,
    message: String,
    fields: Vec<FieldViolation>,
    metadata: Vec<(String, String)>,
    retry_after: Option<Duration>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure with a stable UPPER_SNAKE `reason` that clients branch on and a `message` for people.
    pub fn new(code: Code, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code,
            reason: reason.into(),
            message: message.into(),
            fields: Vec::new(),
            metadata: Vec::new(),
            retry_after: None,
            source: None,
        }))
    }

    /// One wrong field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::invalid_fields(vec![FieldViolation { field: field.into(), description: description.into() }])
    }

    /// Several wrong fields.
    pub fn invalid_fields(fields: Vec<FieldViolation>) -> Self {
        let message = fields.iter().map(|f| format!("{}: {}", f.field, f.description)).collect::<Vec<_>>().join("; ");
        let mut error = Self::new(Code::Invalid, "INVALID_FIELD", message);
        error.0.fields = fields;
        error
    }

    /// There is no such thing, or the caller may not know of it.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(Code::NotFound, "NOT_FOUND", format!("no {what} {id:?}")).with("resource", what).with("id", id)
    }

    /// The name or id is taken.
    pub fn exists(what: &str, id: &str) -> Self {
        Self::new(Code::Exists, "ALREADY_EXISTS", format!("{what} {id:?} exists already"))
            .with("resource", what)
            .with("id", id)
    }

    /// The state forbids it.
    pub fn precondition(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(Code::Precondition, reason, message)
    }

    /// The caller is unknown.
    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(Code::Unauthenticated, "UNAUTHENTICATED", message)
    }

    /// The caller is known and may not.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(Code::Forbidden, "PERMISSION_DENIED", message)
    }

    /// Retrying after `retry_after` may help.
    pub fn unavailable(reason: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(Code::Unavailable, reason, message).after(retry_after)
    }

    /// A limit is reached; retrying after `retry_after` may help.
    pub fn exhausted(reason: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(Code::Exhausted, reason, message).after(retry_after)
    }

    /// Our bug, or a failure of something underneath that the caller can do nothing about.
    pub fn internal(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "INTERNAL", "internal error").caused_by(source)
    }

    /// Says how long to wait before trying again.
    #[must_use]
    pub fn after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// Says nothing of trying again: of a call that is done in part, of which a second one would answer less than the truth.
    #[must_use]
    pub fn in_part(mut self) -> Self {
        self.0.retry_after = None;
        self
    }

    /// Adds a word to the `ErrorInfo` metadata.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.metadata.push((key.into(), value.into()));
        self
    }

    /// Names the field, or the part of the request, that the message describes.
    #[must_use]
    pub fn about(mut self, field: impl Into<String>) -> Self {
        let description = self.0.message.clone();
        self.0.fields.push(FieldViolation { field: field.into(), description });
        self
    }

    /// Keeps the cause for the log.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The kind of failure.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The stable word that clients branch on.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What the caller is told.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The wrong fields, if that is what it is about.
    pub fn fields(&self) -> &[FieldViolation] {
        &self.0.fields
    }

    /// A word of the `ErrorInfo` metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.0.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// How long to wait before trying again, if that may help.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{}: {}", self.0.code, self.0.reason, self.0.message)?;
        if let Some(source) = &self.0.source {
            write!(f, " (caused by {source:?})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let metadata = error.0.metadata.iter().cloned().collect::<std::collections::HashMap<_, _>>();
        let mut details = ErrorDetails::with_error_info(error.0.reason.as_ref(), ERROR_DOMAIN, metadata);
        for field in &error.0.fields {
            details.add_bad_request_violation(&field.field, &field.description);
        }
        if let Some(wait) = error.0.retry_after {
            details.set_retry_info(Some(wait));
        }
        if error.0.code == Code::NotFound
            && let (Some(what), Some(id)) = (error.metadata("resource"), error.metadata("id"))
        {
            details.set_resource_info(what, id, "", "");
        }
        let mut status = Status::with_error_details(error.0.code.grpc(), error.0.message.clone(), details);
        if let Some(wait) = error.0.retry_after
            && let Ok(value) = wait.as_millis().to_string().parse()
        {
            status.metadata_mut().insert("grpc-retry-pushback-ms", value);
        }
        status.set_source(std::sync::Arc::new(error));
        status
    }
}

/// Reads a status that came over the network back into what it was.
impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let fields = details
            .bad_request()
            .map(|b| {
                b.field_violations
                    .iter()
                    .map(|v| FieldViolation { field: v.field.clone(), description: v.description.clone() })
                    .collect()
            })
            .unwrap_or_default();
        Self(Box::new(Inner {
            code: Code::of(status.code()),
            reason: info.map_or_else(|| status.code().to_string().into(), |i| i.reason.clone().into()),
            message: status.message().to_owned(),
            fields,
            metadata: info.map(|i| i.metadata.clone().into_iter().collect()).unwrap_or_default(),
            retry_after: details.retry_info().and_then(|r| r.retry_delay),
            source: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_trip_through_a_status() {
        let sent = Error::unavailable("PEER_DOWN", "auth is down", Duration::from_secs(3)).with("peer", "auth");
        let received = Error::from(Status::from(sent));
        assert_eq!(received.code(), Code::Unavailable);
        assert_eq!(received.reason(), "PEER_DOWN");
        assert_eq!(received.metadata("peer"), Some("auth"));
        assert_eq!(received.retry_after(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn the_cause_is_never_sent() {
        let status = Status::from(Error::internal("SELECT secret"));
        assert_eq!(status.message(), "internal error");
        assert!(!String::from_utf8_lossy(status.details()).contains("secret"));
    }

    #[test]
    fn a_wrong_field_is_named_in_the_details() {
        let status = Status::from(Error::invalid("readings[3].value", "must be finite"));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().expect("bad request").field_violations[0].field, "readings[3].value");
    }
}
