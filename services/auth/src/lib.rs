//! Who may come in: users, sessions, and the keys that everyone verifies tokens with.
//!
//! A log-in exchanges a password for an access token, a JWT of at most ten minutes that every service verifies by
//! itself, and a refresh token that works once. What ends before its time (a log-out, a disabled user, a stolen refresh
//! token) is a *revocation*: it is written in the transaction that makes it, and every service hears of it through
//! `WatchVerification`. So this service may be down for a while and nobody notices who has a token.

mod api;
mod bootstrap;
mod db;
mod key;
pub mod locked_out;
pub mod mail;
pub mod password;
mod personal;
mod session;
mod strength;
mod tasks;
pub mod throttle;
mod totp;
mod user;
mod verification;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use sensormesh_mesh::{Condition, Mesh, Service, Verifier};
use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1::auth_service_server::AuthServiceServer;
use sensormesh_store::{Migration, Store};
use sensormesh_types::{Bounds, Clock, Result};
use serde::{Deserialize, Serialize};

/// The tables of this service.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "auth", sql: include_str!("../migrations/0001_auth.sql") },
    Migration { version: 2, name: "session device", sql: include_str!("../migrations/0002_session_device.sql") },
    Migration { version: 3, name: "totp", sql: include_str!("../migrations/0003_totp.sql") },
    Migration { version: 4, name: "personal token", sql: include_str!("../migrations/0004_personal_token.sql") },
    Migration { version: 5, name: "password reset", sql: include_str!("../migrations/0005_password_reset.sql") },
];

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

/// What every part of the service works with.
pub(crate) struct Auth {
    config: Config,
    store: Store,
    clock: Clock,
    verifier: Verifier,
    hasher: password::Hasher,
    strength: Arc<strength::Strength>,
    throttle: throttle::Throttle,
    mailer: Option<mail::Mailer>,
    /// Wrong codes of second factors.
    codes: throttle::Throttle,
    /// How often mail is asked for.
    resets: throttle::Throttle,
    files: Option<key::KeyFiles>,
    ring: RwLock<Arc<key::Ring>>,
    turning: tokio::sync::Mutex<()>,
}

impl Auth {
    /// Hashes a password that somebody has chosen. INVALID, naming `field`, where it is easily guessed or known from a breach.
    async fn hash_chosen(&self, field: &'static str, password: Secret<String>, known: [String; 2]) -> Result<String> {
        let strength = Arc::clone(&self.strength);
        let is_good = move |password: &str| strength.check(field, password, &[known[0].as_str(), known[1].as_str()]);
        self.hasher.hash_chosen(password, is_good).await
    }
}

/// Makes the service: the first key and the first user where there are none, the API, and its loops.
pub async fn start(config: Config, mesh: &Mesh, store: Store) -> Result<Service> {
    config.check()?;
    let auth = Arc::new(Auth {
        hasher: password::Hasher::new(&config.password)?,
        strength: Arc::new(strength::Strength::new(config.breached_passwords.as_deref())?),
        throttle: throttle::Throttle::new(config.throttle.clone()),
        mailer: mail::Mailer::new(&config.mail)?,
        codes: throttle::Throttle::of_codes(),
        resets: throttle::Throttle::of_resets(),
        files: config.state_dir.as_deref().map(key::KeyFiles::new).transpose()?,
        clock: mesh.clock().clone(),
        verifier: mesh.verifier().clone(),
        ring: RwLock::default(),
        turning: tokio::sync::Mutex::default(),
        config,
        store: store.clone(),
    });
    tasks::turn_keys(&auth).await?;
    tasks::know_revocations(&auth).await?;
    auth.verifier.feeds_itself();
    bootstrap::make_admin(&auth).await?;
    let (keys, forget, follow, signs) = (Arc::clone(&auth), Arc::clone(&auth), Arc::clone(&auth), Arc::clone(&auth));
    let service = Service::new("auth")
        .grpc(AuthServiceServer::new(api::Api(Arc::clone(&auth))).max_encoding_message_size(sensormesh_mesh::ANSWER))
        .task("turn signing keys", move |shutdown| tasks::keep_turning_keys(Arc::clone(&keys), shutdown))
        .task("forget what has expired", move |shutdown| tasks::keep_forgetting(Arc::clone(&forget), shutdown))
        .task("follow own revocations", move |shutdown| tasks::follow_own_log(Arc::clone(&follow), shutdown))
        .check("signing key", move || std::future::ready(signing(&signs)));
    Ok(service)
}

/// Whether tokens can be signed. The next log-in makes a key where there is none, so lacking one is no failure yet.
fn signing(auth: &Auth) -> Condition {
    if auth.ring.read().can_sign(auth.clock.now_micros()) {
        return Condition::Well;
    }
    Condition::Degraded("there is no key to sign tokens with; the next log-in tries to make one".to_owned())
}
