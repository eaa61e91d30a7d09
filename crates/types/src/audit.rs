//! What changed, for the audit.

/// One change of a service's data, as its log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number in the service's log; never reused.
    pub seq: u64,
    /// When it was committed, in microseconds since the Unix epoch.
    pub time: i64,
    /// What happened: `device.created`.
    pub kind: String,
    /// The id of what it happened to.
    pub subject: String,
    /// Who did it: `user:ada`.
    pub actor: String,
    /// The site it belongs to; empty = the whole tenant.
    pub site: String,
    /// The W3C trace context of the call; empty where there was none.
    pub traceparent: String,
}
