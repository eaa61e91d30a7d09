//! Who calls.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Error, Scope};

/// What a user may do; each role includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Viewer = 1,
    /// Reads and writes readings, devices and places.
    Operator = 2,
    /// Everything within the tenant.
    Admin = 3,
    /// Everything in every tenant, and the mesh itself.
    PlatformAdmin = 4,
}

impl Role {
    /// The role with this number in the contracts' `Role` enum.
    pub fn from_i32(value: i32) -> Option<Self> {
        match value {
            1 => Some(Role::Viewer),
            2 => Some(Role::Operator),
            3 => Some(Role::Admin),
            4 => Some(Role::PlatformAdmin),
            _ => None,
        }
    }

    /// The role's name: `viewer`, `operator`, `admin`, `platform_admin`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
            Role::PlatformAdmin => "platform_admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Role::Viewer, Role::Operator, Role::Admin, Role::PlatformAdmin]
            .into_iter()
            .find(|r| r.as_str() == text)
            .ok_or_else(|| Error::invalid("role", "must be viewer, operator, admin or platform_admin"))
    }
}

/// Somebody whose identity is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Nobody: a call to a public method without a token.
    Anonymous,
    /// A user with a verified access token, or the holder of the operator certificate.
    User {
        /// The opaque id (`sub`).
        id: String,
        /// The name the user logs in with.
        name: String,
        /// What the user may do.
        role: Role,
        /// The session (`sid`) the token belongs to; empty for the operator certificate.
        session: String,
    },
    /// A device with its own credential.
    Device {
        /// The device's id.
        id: String,
    },
    /// A gateway that speaks for many devices.
    Bridge {
        /// The bridge's id.
        id: String,
        /// What the ids of the devices begin with that it speaks for; none = every device of its site.
        prefixes: Arc<[String]>,
        /// It may bring devices into being.
        may_register: bool,
    },
    /// Another service of the mesh, on its own behalf.
    Service {
        /// The service's name: `rooms`.
        name: String,
    },
}

impl Principal {
    /// How it is written in the log and in the audit: `user:ada`, `service:rooms`, `device:lab`.
    pub fn actor(&self) -> String {
        match self {
            Principal::Anonymous => "anonymous".to_owned(),
            Principal::User { name, .. } => format!("user:{name}"),
            Principal::Device { id } => format!("device:{id}"),
            Principal::Bridge { id, .. } => format!("bridge:{id}"),
            Principal::Service { name } => format!("service:{name}"),
        }
    }

    /// The user's role, if it is a user.
    pub fn role(&self) -> Option<Role> {
        match self {
            Principal::User { role, .. } => Some(*role),
            _ => None,
        }
    }
}

/// Who did something and from where, as logs and the audit keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Author {
    /// `user:ada`, `service:rooms`, `device:lab`.
    pub actor: String,
    /// The client's address, as the edge saw it; empty where nobody outside asked.
    pub address: String,
    /// The id of the request at the edge; empty where there was none.
    pub request_id: String,
    /// The W3C trace context of the call; empty outside one.
    pub traceparent: String,
}

impl Author {
    /// One that has only a name.
    pub fn named(actor: impl Into<String>) -> Self {
        Self { actor: actor.into(), ..Self::default() }
    }
}

/// Everything a handler may know about who calls. `mesh` puts it into the request; nothing else makes one.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who calls.
    pub principal: Principal,
    /// What the call may see and change.
    pub scope: Scope,
    /// The service whose connection the call came over, if it came from a service: `edge`.
    pub peer: Option<String>,
    /// The W3C `traceparent` of the call.
    pub traceparent: String,
    /// The client's address, as the edge saw it, or as this service did; empty where nothing is known.
    pub address: String,
    /// The id of the request at the edge; empty where there is none.
    pub request_id: String,
    /// When the edge accepted the call, microseconds since the Unix epoch, where it delivers it later than that.
    pub accepted_time: Option<i64>,
}

impl Caller {
    /// How the caller's changes are written in the log.
    pub fn author(&self) -> Author {
        Author {
            actor: self.actor(),
            address: self.address.clone(),
            request_id: self.request_id.clone(),
            traceparent: self.traceparent.clone(),
        }
    }

    /// How the caller is written in the log.
    pub fn actor(&self) -> String {
        self.principal.actor()
    }

    /// The caller's tenant.
    pub fn tenant(&self) -> &str {
        self.scope.tenant()
    }

    /// Whether the caller is a user with at least this role.
    pub fn has_role(&self, role: Role) -> bool {
        self.principal.role().is_some_and(|r| r >= role)
    }
}
