//! Who may call a method: the `sensormesh.options.v1.policy` option.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};

use crate::Contracts;

const OPTION: &str = "sensormesh.options.v1.policy";
const UNARY_DEADLINE: Duration = Duration::from_secs(10);
const STREAM_DEADLINE: Duration = Duration::from_secs(60 * 60);

/// A user's role, as numbered in the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and writes.
    Operator,
    /// Everything within the tenant.
    Admin,
    /// Everything.
    PlatformAdmin,
}

/// A method's policy with its defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Callable without a user.
    pub public: bool,
    /// The least role of a user who may call; absent = no user may, unless `public`.
    pub min_role: Option<Role>,
    /// Services that may call on their own behalf; `*` is every service.
    pub services: Vec<String>,
    /// Callable with a device or bridge credential.
    pub devices: bool,
    /// Default and cap of a call; the greatest age of a stream.
    pub deadline: Duration,
    /// The edge may accept the call now and deliver it later.
    pub spool: bool,
    /// Units of the rate limit that a call costs; at least 1.
    pub cost: u32,
    /// The type of the bytes that the method streams; empty = it answers messages.
    pub produces: String,
}

/// Reads the policy of `method`.
///
/// # Errors
///
/// There is none, it admits nobody, or it contradicts the method.
pub(crate) fn read(contracts: &Contracts, method: &MethodDescriptor) -> Result<Policy> {
    let option = contracts.pool.get_extension_by_name(OPTION).context("no policy option among the contracts")?;
    let options = method.options();
    if !options.has_extension(&option) {
        bail!("has no policy: add `option ({OPTION}) = {{…}}`");
    }
    let value = options.get_extension(&option);
    let message = value.as_message().context("the policy is not a message")?;
    let stream = method.is_client_streaming() || method.is_server_streaming();
    let policy = Policy {
        public: flag(message, "public"),
        min_role: role(message)?,
        services: texts(message, "services"),
        devices: flag(message, "devices"),
        deadline: deadline(message)?.unwrap_or(if stream { STREAM_DEADLINE } else { UNARY_DEADLINE }),
        spool: flag(message, "spool"),
        cost: message.get_field_by_name("cost").and_then(|v| v.as_u32()).unwrap_or(0).max(1),
        produces: message.get_field_by_name("produces").and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
    };
    check(&policy, method, stream)?;
    Ok(policy)
}

fn check(policy: &Policy, method: &MethodDescriptor, stream: bool) -> Result<()> {
    if !policy.public && policy.min_role.is_none() && policy.services.is_empty() && !policy.devices {
        bail!("has a policy that admits nobody");
    }
    if policy.deadline.is_zero() {
        bail!("has a deadline of zero");
    }
    if policy.spool {
        let input = method.input();
        let named = ["request_id", "batch_id"].iter().any(|n| input.get_field_by_name(n).is_some());
        if !named {
            bail!("is spooled, but {} has neither request_id nor batch_id", input.name());
        }
        if stream {
            bail!("is spooled, but a stream cannot be");
        }
    }
    if !policy.produces.is_empty() {
        let bytes = method
            .output()
            .fields()
            .any(|f| f.kind().as_message().is_some_and(|m| m.full_name() == "google.api.HttpBody"));
        if !bytes || !method.is_server_streaming() || method.is_client_streaming() {
            bail!("produces {:?}, but does not answer with a stream of google.api.HttpBody", policy.produces);
        }
    }
    Ok(())
}

fn flag(message: &DynamicMessage, name: &str) -> bool {
    message.get_field_by_name(name).and_then(|v| v.as_bool()).unwrap_or(false)
}

fn texts(message: &DynamicMessage, name: &str) -> Vec<String> {
    let value = message.get_field_by_name(name);
    let list = value.as_deref().and_then(Value::as_list).unwrap_or_default();
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn role(message: &DynamicMessage) -> Result<Option<Role>> {
    Ok(match message.get_field_by_name("min_role").and_then(|v| v.as_enum_number()).unwrap_or(0) {
        0 => None,
        1 => Some(Role::Viewer),
        2 => Some(Role::Operator),
        3 => Some(Role::Admin),
        4 => Some(Role::PlatformAdmin),
        other => bail!("has an unknown min_role {other}"),
    })
}

fn deadline(message: &DynamicMessage) -> Result<Option<Duration>> {
    if !message.has_field_by_name("deadline") {
        return Ok(None);
    }
    let value = message.get_field_by_name("deadline").context("the policy has no deadline field")?;
    let value: prost_types::Duration = value.as_message().context("the deadline is not a duration")?.transcode_to()?;
    Ok(Some(Duration::try_from(value).map_err(|e| anyhow::anyhow!("has a wrong deadline: {e}"))?))
}
