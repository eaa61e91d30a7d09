//! What a contract says about a method.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use sensormesh_types::Role;

use crate::METHODS;

/// A method of a service, with everything its contract says about it.
#[derive(Debug)]
pub struct Method {
    /// The HTTP/2 path: `/sensormesh.rooms.v1.RoomsService/GetRoomMetrics`.
    pub path: &'static str,
    /// The service's one name: `rooms`. `mesh` for the service that every process mounts.
    pub service: &'static str,
    /// The full name of the service: `sensormesh.rooms.v1.RoomsService`.
    pub service_name: &'static str,
    /// The method's own name: `GetRoomMetrics`.
    pub name: &'static str,
    /// The full name of the request message.
    pub input: &'static str,
    /// The full name of the response message.
    pub output: &'static str,
    /// The caller sends many messages.
    pub client_streaming: bool,
    /// The service sends many messages.
    pub server_streaming: bool,
    /// What a repeated call does, and so whether it may be retried.
    pub idempotency: Idempotency,
    /// Who may call, and for how long.
    pub policy: Policy,
    /// The REST routes, the canonical one first.
    pub routes: &'static [Route],
}

impl Method {
    /// Whether either side streams.
    pub fn is_stream(&self) -> bool {
        self.client_streaming || self.server_streaming
    }

    /// Whether a call that failed with UNAVAILABLE may be sent again.
    pub fn is_retryable(&self) -> bool {
        self.idempotency != Idempotency::Unknown
    }
}

/// What a repeated call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Idempotency {
    /// Nothing is promised: never repeated by itself.
    Unknown,
    /// The call changes nothing.
    NoSideEffects,
    /// Twice has the effect of once.
    Idempotent,
}

/// Who may call a method, for how long, and what the edge may do with the call.
#[derive(Debug)]
pub struct Policy {
    /// Callable without a user.
    pub public: bool,
    /// The least role of a user who may call; `None` = no user may, unless `public`.
    pub min_role: Option<Role>,
    /// Peer services that may call on their own behalf; `*` = every service. Ask [`Policy::admits_service`].
    pub services: &'static [&'static str],
    /// Callable with a device or bridge credential.
    pub devices: bool,
    /// Default and cap of a call; for a stream its greatest age.
    pub deadline: Duration,
    /// The edge may accept the call now and deliver it later.
    pub spool: bool,
    /// Units of the caller's rate limit that one call costs; at least 1.
    pub cost: u32,
    /// The type of the bytes that the method streams: `text/csv`; empty = it answers messages.
    pub produces: &'static str,
}

impl Policy {
    /// Whether this peer service may call on its own behalf.
    pub fn admits_service(&self, service: &str) -> bool {
        self.services.iter().any(|s| *s == service || *s == "*")
    }

    /// Whether a user with this role may call.
    pub fn admits_role(&self, role: Role) -> bool {
        self.public || self.min_role.is_some_and(|least| role >= least)
    }
}

/// A REST route of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// `GET`, `POST`, `PUT`, `PATCH`, `DELETE` or a custom verb.
    pub verb: &'static str,
    /// A path template as `google/api/http.proto` defines it: `/v1/rooms/{room_id}:watch`.
    pub template: &'static str,
    /// The request field that the body is; `*` = all that the path does not name; empty = no body.
    pub body: &'static str,
    /// The response field that the answer's body is; empty = the whole response.
    pub response_body: &'static str,
}

/// The method at an HTTP/2 path; one hash and one comparison.
pub fn method(path: &str) -> Option<&'static Method> {
    static BY_PATH: LazyLock<HashMap<&'static str, &'static Method>> =
        LazyLock::new(|| METHODS.iter().map(|m| (m.path, m)).collect());
    BY_PATH.get(path).copied()
}

/// A generated client, made over any channel. Implemented for every `…ServiceClient`.
pub trait ServiceClient<T>: Sized {
    /// The service that is called: `rooms`.
    const SERVICE: &'static str;

    /// A client over `channel` that takes answers of up to 16 MiB.
    fn over(channel: T) -> Self;
}
