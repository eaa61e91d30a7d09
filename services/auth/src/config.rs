//! What can be set of this service.

use std::path::PathBuf;
use std::time::Duration;

use sensormesh_types::{Bounds, Result};
use serde::{Deserialize, Serialize};

use crate::{mail, password, throttle};

/// How accounts, sessions and keys are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who may register. Absent: anybody where the edge listens on loopback only, and otherwise who has an invitation.
    pub registration: Option<Registration>,
    /// Where the first start writes the one-time password of the user `admin`, readable by its owner only; a password
    /// that stands there already is taken. Removed when the password is changed. Without it no `admin` is made.
    pub bootstrap_password_file: Option<PathBuf>,
    /// Where private signing keys are kept, a file each. Without it they are kept in the database, which replicas share.
    pub state_dir: Option<PathBuf>,
    /// How long an access token lives, at most ten minutes.
    #[serde(with = "sensormesh_types::text::duration")]
    pub access_token_life: Duration,
    /// How long a session lives on without being refreshed.
    #[serde(with = "sensormesh_types::text::duration")]
    pub session_life: Duration,
    /// How long one signing key is used.
    #[serde(with = "sensormesh_types::text::duration")]
    pub signing_key_life: Duration,
    /// A file of breached passwords that nobody may choose: SHA-1 hashes in hexadecimal, a line each, in order, as
    /// haveibeenpwned.com gives them out. Without it only what is easily guessed is refused.
    pub breached_passwords: Option<PathBuf>,
    /// How mail is sent; without it no password is reset by mail.
    pub mail: mail::Config,
    /// What a password hash costs.
    pub password: password::Cost,
    /// How much guessing of passwords is allowed.
    pub throttle: throttle::Config,
}

/// Who may register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registration {
    /// Anybody.
    Open,
    /// Who has an invitation of an admin.
    Invitation,
    /// Nobody.
    Closed,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            registration: None,
            bootstrap_password_file: None,
            state_dir: None,
            access_token_life: Duration::from_secs(600),
            session_life: Duration::from_secs(30 * 24 * 3600),
            signing_key_life: Duration::from_secs(30 * 24 * 3600),
            breached_passwords: None,
            mail: mail::Config::default(),
            password: password::Cost::default(),
            throttle: throttle::Config::default(),
        }
    }
}

impl Config {
    /// Refuses numbers that nobody could log in with, or that are not safe, naming them.
    pub fn check(&self) -> Result<()> {
        let (second, year) = (Duration::from_secs(1), Duration::from_secs(366 * 86_400));
        let (cost, throttle) = (&self.password, &self.throttle);
        Bounds::of("auth")
            .time("access_token_life", self.access_token_life, second..=second * 600)
            .time("session_life", self.session_life, second..=year)
            .time("signing_key_life", self.signing_key_life, second * 3600..=year)
            .number("password.lanes", cost.lanes, 1..=64)
            .number("password.memory_kib", cost.memory_kib, 8 * cost.lanes.clamp(1, 64)..=1 << 20)
            .number("password.passes", cost.passes, 1..=100)
            .number("password.at_once", cost.at_once, 1..=1_000)
            .number("password.queue", cost.queue, 0..=100_000)
            .number("throttle.account_attempts", throttle.account_attempts, 1..=u32::MAX)
            .number("throttle.address_attempts", throttle.address_attempts, 1..=u32::MAX)
            .time("throttle.first_wait", throttle.first_wait, Duration::ZERO..=year)
            .time("throttle.longest_wait", throttle.longest_wait, Duration::ZERO..=year)
            .time("throttle.forget_after", throttle.forget_after, second..=year)
            .met()
    }
}
