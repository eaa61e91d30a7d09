//! Who sends a request: address, request id, trace, user.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use sensormesh_mesh::server::bearer;
use sensormesh_mesh::token::Machine;
use sensormesh_mesh::{Bearer, Claims, Context, Network, PeerAddr, Verifier};
use sensormesh_observability::trace::TraceParent;
use sensormesh_types::{Code, Error, Result, random};

use crate::forwarded::{Whence, sender};
use crate::limit::Payer;
use crate::options::Policy;
use crate::origin::{Asker, Origins};

/// The header that names a request in every log line about it.
pub const REQUEST_ID: &str = "x-request-id";

/// The sender of one request.
#[derive(Debug)]
pub struct Visitor {
    /// Address and host.
    pub whence: Whence,
    /// Whose page asks.
    pub asker: Asker,
    /// The request's id: the client's, or a new one.
    pub request_id: String,
    /// The trace the request belongs to.
    pub trace: TraceParent,
    /// What is known of the user.
    pub standing: Standing,
    /// What the client calls itself.
    user_agent: Option<HeaderValue>,
}

/// What is known of the user.
#[derive(Clone, Debug)]
pub enum Standing {
    /// No token, or none that is worth anything for a public method.
    Anonymous,
    /// A verified token.
    User(String, Arc<Claims>),
    /// A device's or a bridge's credential.
    Machine(String, Arc<Machine>),
    /// A token that cannot be verified here at present; the service decides.
    Unverified(String),
}

impl Visitor {
    /// Reads everything but the user from the head of a request.
    pub fn of(parts: &Parts, proxies: &[Network], origins: &Origins, trace: TraceParent, now_micros: i64) -> Self {
        let peer = parts.extensions.get::<PeerAddr>().map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |peer| peer.0);
        let whence = Whence::of(peer, parts.uri.authority().map(http::uri::Authority::as_str), &parts.headers, proxies);
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            asker: origins.asker(&parts.headers, &whence),
            whence,
            request_id: text(REQUEST_ID)
                .filter(|id| is_plain(id))
                .map_or_else(|| random::id(now_micros), str::to_owned),
            trace,
            standing: Standing::Anonymous,
            user_agent: parts.headers.get(http::header::USER_AGENT).cloned(),
        }
    }

    /// Who pays for the request.
    pub fn payer(&self) -> Payer {
        match &self.standing {
            Standing::User(_, claims) => Payer::User(format!("{}/{}", claims.tenant, claims.sub)),
            Standing::Machine(_, machine) => Payer::User(format!("{}/{}", machine.tenant, machine.principal().actor())),
            _ => self.address(),
        }
    }

    /// The address as a payer.
    pub fn address(&self) -> Payer {
        Payer::Address(sender(self.whence.address))
    }

    /// How the log names the user: `user:ada`, `anonymous`.
    pub fn principal(&self) -> String {
        match &self.standing {
            Standing::User(_, claims) => claims.principal().actor(),
            Standing::Machine(_, machine) => machine.principal().actor(),
            Standing::Unverified(_) => "unverified".to_owned(),
            Standing::Anonymous => "anonymous".to_owned(),
        }
    }

    /// What a call made for the request carries with it.
    pub fn context(&self) -> Context {
        let authorization = match &self.standing {
            Standing::User(authorization, _)
            | Standing::Machine(authorization, _)
            | Standing::Unverified(authorization) => Some(authorization.clone()),
            Standing::Anonymous => None,
        };
        Context {
            deadline: None,
            traceparent: self.trace.to_string(),
            authorization,
            request_id: self.request_id.clone(),
        }
    }

    /// The headers of a call made for the request. Nothing that the client wrote goes inward by itself; only of who is nobody yet,
    /// and may be about to log in, the program is told.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        if let Ok(address) = HeaderValue::from_str(&self.whence.address.to_string()) {
            headers.insert("x-forwarded-for", address);
        }
        if let (Standing::Anonymous, Some(name)) = (&self.standing, &self.user_agent)
            && name.to_str().is_ok()
        {
            headers.insert("x-forwarded-user-agent", name.clone());
        }
        headers
    }
}

impl Standing {
    /// Finds out who sends a request. `ticket` stands for the header where there is none.
    ///
    /// A token that is no good does not keep anybody from a public method: a browser with an old token must be able to
    /// log in.
    pub fn of(verifier: &Verifier, headers: &HeaderMap, ticket: Option<&str>, policy: &Policy) -> Result<Self> {
        let token = match ticket {
            Some(authorization) => Ok(authorization.split_once(' ').map(|(_, token)| token)),
            None => bearer(headers),
        };
        let verified = token.and_then(|token| {
            let Some(token) = token else { return Ok(Standing::Anonymous) };
            let authorization = format!("Bearer {token}");
            if Bearer::is_machines(token) && !policy.devices {
                let message = "the credential of a device or a bridge is for sending readings only";
                return Err(Error::forbidden(message));
            }
            match verifier.bearer(token, None) {
                Ok(Bearer::User(claims)) => Ok(Standing::User(authorization, claims)),
                Ok(Bearer::Machine(machine)) => Ok(Standing::Machine(authorization, machine)),
                Err(error) if error.code() == Code::Unavailable => Ok(Standing::Unverified(authorization)),
                Err(error) => Err(error),
            }
        });
        match verified {
            Err(_) if policy.public => Ok(Standing::Anonymous),
            verified => verified,
        }
    }

    /// Whether a method may be called: 401 without a token, 403 with too small a role.
    pub fn admit(&self, policy: &Policy) -> Result<()> {
        match self {
            _ if policy.public => Ok(()),
            Standing::Anonymous => Err(Error::unauthenticated("a token is needed; log in first")),
            Standing::Unverified(_) => Ok(()),
            Standing::Machine(..) if policy.devices => Ok(()),
            Standing::Machine(..) => Err(Error::forbidden("no device may do this")),
            Standing::User(_, claims) if policy.admits(claims.role) => Ok(()),
            Standing::User(_, claims) => Err(match policy.min_role {
                Some(least) => Error::forbidden(format!("the role {} may not do this; it takes {least}", claims.role)),
                None => Error::forbidden("no user may do this; it is for services"),
            }),
        }
    }
}

/// Whether a request id of a client's making may go into logs and headers as it is.
fn is_plain(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensormesh_types::Clock;

    fn visitor(headers: &[(&'static str, &str)]) -> Visitor {
        let mut request = http::Request::builder().uri("http://edge:8000/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).expect("request").into_parts();
        Visitor::of(&parts, &[], &Origins::default(), TraceParent::generate(), 0)
    }

    #[test]
    fn what_a_client_writes_does_not_go_inward() {
        let spoofed = visitor(&[
            ("x-forwarded-client-cert", "URI=spiffe://x"),
            ("x-forwarded-for", "6.6.6.6"),
            ("sensormesh-peer", "spiffe://sensormesh.local/ns/sensormesh/sa/rooms"),
            ("x-envoy-internal", "true"),
            ("x-tenant", "other"),
            ("grpc-status", "0"),
        ]);
        let headers = spoofed.headers();
        let names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["content-type", "x-forwarded-for"]);
        assert_eq!(headers["x-forwarded-for"], "0.0.0.0");
    }

    #[test]
    fn a_request_id_is_taken_over_if_it_is_plain() {
        assert_eq!(visitor(&[(REQUEST_ID, "abc-1")]).request_id, "abc-1");
        for odd in ["", "a b", "a\"b", &"x".repeat(200)] {
            assert_ne!(visitor(&[(REQUEST_ID, odd)]).request_id, odd);
        }
    }

    fn policy() -> Policy {
        let deadline = std::time::Duration::ZERO;
        Policy { public: false, min_role: None, devices: false, deadline, cost: 1, spool: false }
    }

    #[test]
    fn the_token_of_a_device_is_looked_at_for_what_devices_may_do_only() {
        let verifier = Verifier::new(Clock::system());
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, "Bearer smd_a_b".parse().expect("value"))]);
        let of = |policy: &Policy| Standing::of(&verifier, &headers, None, policy);
        assert_eq!(of(&policy()).expect_err("not for devices").code(), Code::Forbidden);
        assert!(matches!(of(&Policy { public: true, ..policy() }), Ok(Standing::Anonymous)));
        // nothing is known of any: the service decides
        assert!(matches!(of(&Policy { devices: true, ..policy() }), Ok(Standing::Unverified(_))));
    }

    #[test]
    fn a_bad_token_matters_only_where_a_token_is_needed() {
        let verifier = Verifier::new(Clock::system());
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, "Basic x".parse().expect("value"))]);
        let policy = |public, min_role| Policy { public, min_role, ..policy() };
        assert!(Standing::of(&verifier, &headers, None, &policy(false, None)).is_err());
        assert!(matches!(Standing::of(&verifier, &headers, None, &policy(true, None)), Ok(Standing::Anonymous)));
        assert!(Standing::Anonymous.admit(&policy(true, None)).is_ok());
        let error = Standing::Anonymous.admit(&policy(false, Some(sensormesh_types::Role::Viewer))).expect_err("401");
        assert_eq!(error.code(), Code::Unauthenticated);
        assert!(Standing::Anonymous.admit(&policy(false, None)).is_err());
    }
}
