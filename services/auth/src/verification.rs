//! What a verifier needs: keys and revocations, as rows, as messages, and as what the own verifier takes.

use std::time::Duration;

use prost::Message as _;
use sensormesh_mesh::token;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_proto::auth::v1::watch_verification_response::Event;
use sensormesh_store::Entry;
use sensormesh_types::{Author, Caller, time};

use crate::key::{Ring, micros};
use crate::user::User;

/// The kinds of log entries that verifiers see.
pub const KEYS_CHANGED: &str = "keys.changed";
/// Tokens are no longer accepted.
pub const REVOKED: &str = "tokens.revoked";

/// Whose tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Those of a session.
    Session(String),
    /// Those of a user, of all sessions.
    User(String),
}

/// Tokens issued to a subject up to a moment are no longer accepted. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Whose.
    pub subject: Subject,
    /// Issued at or before this.
    pub revoke_time: i64,
    /// Forgotten after this.
    pub expire_time: i64,
}

impl Revocation {
    /// Revokes every token of a session that has ended. It never gets another one, so the moment is late enough for any
    /// that another replica's clock has dated.
    pub fn of_session(session_id: String, now: i64, token_life: Duration) -> Self {
        let revoke_time = now.saturating_add(micros(token_life));
        Self { subject: Subject::Session(session_id), revoke_time, expire_time: forgotten(now, token_life) }
    }

    /// Revokes every token that a user has now, and none that is issued after. Tokens know the second they were issued
    /// in: those after a revocation are dated a second later, and so may the next revocation be.
    pub fn of_user(user: &User, now: i64, token_life: Duration) -> Self {
        let second = now.div_euclid(1_000_000).max(user.revoked_second.saturating_add(1));
        let revoke_time = second.saturating_mul(1_000_000);
        let subject = Subject::User(user.user_id.clone());
        Self { subject, revoke_time, expire_time: forgotten(now, token_life) }
    }

    /// The second that it reaches to.
    pub fn second(&self) -> i64 {
        self.revoke_time.div_euclid(1_000_000)
    }

    /// The message watchers get.
    pub fn to_proto(&self) -> proto::Revocation {
        let subject = match &self.subject {
            Subject::Session(id) => proto::revocation::Subject::SessionId(id.clone()),
            Subject::User(id) => proto::revocation::Subject::UserId(id.clone()),
        };
        proto::Revocation {
            subject: Some(subject),
            revoke_time: Some(time::from_micros(self.revoke_time)),
            expire_time: Some(time::from_micros(self.expire_time)),
        }
    }

    /// Reads the message back.
    pub fn from_proto(message: &proto::Revocation) -> Option<Self> {
        let subject = match message.subject.clone()? {
            proto::revocation::Subject::SessionId(id) => Subject::Session(id),
            proto::revocation::Subject::UserId(id) => Subject::User(id),
        };
        let micros = |time: Option<&prost_types::Timestamp>| Some(time::to_nanos(time?)? / 1000);
        let revoke_time = micros(message.revoke_time.as_ref())?;
        Some(Self { subject, revoke_time, expire_time: micros(message.expire_time.as_ref())? })
    }

    /// What the own verifier takes.
    pub fn to_mesh(&self) -> token::Revocation {
        token::Revocation {
            subject: match &self.subject {
                Subject::Session(id) => token::Subject::Session(id.clone()),
                Subject::User(id) => token::Subject::User(id.clone()),
            },
            revoked_at: self.second(),
            expires_at: self.expire_time.div_euclid(1_000_000),
        }
    }

    /// The entry that tells watchers.
    pub fn entry(&self, caller: &Caller) -> Entry {
        let (Subject::Session(id) | Subject::User(id)) = &self.subject;
        Entry {
            site: String::new(),
            kind: REVOKED.to_owned(),
            subject: id.clone(),
            author: caller.author(),
            payload: message(Event::Revocation(self.to_proto())).encode_to_vec(),
            ..Entry::default()
        }
    }
}

/// When the last token has expired and none can be spooled any more.
fn forgotten(now: i64, token_life: Duration) -> i64 {
    now.saturating_add(micros(token_life * 2 + token::KEPT_FOR))
}

/// The entry that tells watchers of the keys.
pub fn keys_entry(ring: &Ring) -> Entry {
    Entry {
        kind: KEYS_CHANGED.to_owned(),
        subject: "keys".to_owned(),
        author: Author::named("system"),
        payload: message(Event::Keys(ring.to_proto())).encode_to_vec(),
        ..Entry::default()
    }
}

/// A message without a cursor yet.
pub fn message(event: Event) -> proto::WatchVerificationResponse {
    proto::WatchVerificationResponse { cursor: String::new(), event: Some(event) }
}
