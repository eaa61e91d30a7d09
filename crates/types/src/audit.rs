//! What changed, for the audit.

use std::fmt::Debug;

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
    /// The client's address; empty where nobody outside asked.
    pub address: String,
    /// The id of the request at the edge; empty where there was none.
    pub request_id: String,
    /// What of it changed, in words; empty where something was made or deleted.
    pub changes: String,
}

/// Which changes are asked for. What is empty or absent is not looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    /// Only those with a smaller sequence number.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
    /// By whom: `user:ada`.
    pub actor: String,
    /// What the kind begins with: `device.`.
    pub kind: String,
    /// To what: the id.
    pub subject: String,
    /// From this time on, in microseconds since the Unix epoch.
    pub start: Option<i64>,
    /// Up to but not including this time, in microseconds since the Unix epoch.
    pub end: Option<i64>,
}

/// How long a description of changes may be, bytes.
const LONGEST: usize = 1024;

/// What of something changed, in words: `name: "Lab" → "Laboratory", site_id: "" → "north"`. What is longer than 1 KiB is cut.
///
/// ```
/// use sensormesh_types::Changes;
/// let changes = Changes::default().field("name", &"Lab", &"Lab").field("site_id", &"", &"north");
/// assert_eq!(changes.text(), r#"site_id: "" → "north""#);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Changes(String);

impl Changes {
    /// A field before and after.
    #[must_use]
    pub fn field<T: PartialEq + Debug>(mut self, name: &str, before: &T, after: &T) -> Self {
        if before != after {
            let separator = if self.0.is_empty() { "" } else { ", " };
            self.0.push_str(&format!("{separator}{name}: {before:?} → {after:?}"));
        }
        self
    }

    /// The description; empty where nothing changed.
    pub fn text(mut self) -> String {
        if self.0.len() > LONGEST {
            self.0.truncate(self.0.floor_char_boundary(LONGEST - '…'.len_utf8()));
            self.0.push('…');
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_change_is_cut_between_characters() {
        let text = Changes::default().field("name", &String::new(), &"ä".repeat(2000)).text();
        assert!(text.len() <= LONGEST && text.ends_with("ä…"), "{text}");
    }
}
