//! What the options of a contract say, read from its descriptors.

use std::time::Duration;

use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};
use sensormesh_types::{Code, Error, Result, Role};

/// How long a unary call may take where its contract does not say.
const UNARY: Duration = Duration::from_secs(10);
/// How long a stream may last where its contract does not say.
const STREAM: Duration = Duration::from_secs(3600);

/// Who may call a method, for how long, and at what cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Callable without a user.
    pub public: bool,
    /// The least role of a user who may call; `None` = no user may, unless it is public.
    pub min_role: Option<Role>,
    /// Callable with the credential of a device or a bridge.
    pub devices: bool,
    /// Default and cap of a call; for a stream its greatest age.
    pub deadline: Duration,
    /// Units of the caller's rate limit.
    pub cost: u32,
    /// The edge may accept the call while its service cannot be reached.
    pub spool: bool,
}

impl Policy {
    /// Whether a user with this role may call.
    pub fn admits(&self, role: Role) -> bool {
        self.public || self.min_role.is_some_and(|least| role >= least)
    }
}

/// One `google.api.http` binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The HTTP method.
    pub verb: String,
    /// The path template.
    pub template: String,
    /// The request field that the body is; `*` = all; empty = no body.
    pub body: String,
    /// The response field that the answer is; empty = all.
    pub response_body: String,
}

/// The policy of a method. One that says nothing admits no user.
pub fn policy(pool: &DescriptorPool, method: &MethodDescriptor) -> Policy {
    let stream = method.is_client_streaming() || method.is_server_streaming();
    let deadline = if stream { STREAM } else { UNARY };
    let Some(policy) = extension(pool, method, "sensormesh.options.v1.policy") else {
        return Policy { public: false, min_role: None, devices: false, deadline, cost: 1, spool: false };
    };
    let number = |name: &str| field(&policy, name);
    Policy {
        public: number("public").and_then(|v| v.as_bool()).unwrap_or_default(),
        min_role: number("min_role").and_then(|v| v.as_enum_number()).and_then(Role::from_i32),
        devices: number("devices").and_then(|v| v.as_bool()).unwrap_or_default(),
        deadline: message(&policy, "deadline").and_then(|d| duration(&d)).unwrap_or(deadline),
        cost: number("cost").and_then(|v| v.as_u32()).unwrap_or_default().max(1),
        spool: number("spool").and_then(|v| v.as_bool()).unwrap_or_default(),
    }
}

/// The type of the bytes that a method streams; `None` = it answers messages.
pub fn produces(pool: &DescriptorPool, method: &MethodDescriptor) -> Option<String> {
    text(&extension(pool, method, "sensormesh.options.v1.policy")?, "produces")
}

/// The routes of a method, the canonical one first.
pub fn bindings(pool: &DescriptorPool, method: &MethodDescriptor) -> Result<Vec<Binding>> {
    let Some(rule) = extension(pool, method, "google.api.http") else { return Ok(Vec::new()) };
    let mut bindings = vec![binding(&rule)];
    if let Some(Value::List(more)) = field(&rule, "additional_bindings") {
        bindings.extend(more.iter().filter_map(Value::as_message).map(binding));
    }
    bindings
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| Error::new(Code::Internal, "ROUTE", format!("a route of {} has no path", method.full_name())))
}

fn binding(rule: &DynamicMessage) -> Option<Binding> {
    let plain = ["get", "put", "post", "delete", "patch"];
    let found = plain.into_iter().find_map(|verb| text(rule, verb).map(|path| (verb.to_uppercase(), path)));
    let (verb, template) = match found {
        Some(found) => found,
        None => {
            let custom = message(rule, "custom")?;
            (text(&custom, "kind")?, text(&custom, "path")?)
        }
    };
    let body = text(rule, "body").unwrap_or_default();
    Some(Binding { verb, template, body, response_body: text(rule, "response_body").unwrap_or_default() })
}

fn extension(pool: &DescriptorPool, method: &MethodDescriptor, name: &str) -> Option<DynamicMessage> {
    let extension = pool.get_extension_by_name(name)?;
    let options = method.options();
    options.has_extension(&extension).then(|| options.get_extension(&extension).as_message().cloned())?
}

/// A field of an option, where it is set.
pub fn field(message: &DynamicMessage, name: &str) -> Option<Value> {
    message.has_field_by_name(name).then(|| message.get_field_by_name(name).map(std::borrow::Cow::into_owned))?
}

/// A message in an option, where it is set.
pub fn message(message: &DynamicMessage, name: &str) -> Option<DynamicMessage> {
    field(message, name)?.as_message().cloned()
}

fn text(message: &DynamicMessage, name: &str) -> Option<String> {
    field(message, name)?.as_str().map(str::to_owned).filter(|text| !text.is_empty())
}

fn duration(message: &DynamicMessage) -> Option<Duration> {
    let seconds = field(message, "seconds").and_then(|v| v.as_i64()).unwrap_or_default();
    let nanos = field(message, "nanos").and_then(|v| v.as_i32()).unwrap_or_default();
    Some(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?))
}
