//! Who may come in: users, sessions, and the keys that everyone verifies tokens with.
//!
//! A log-in exchanges a password for an access token, a JWT of at most ten minutes that every service verifies by
//! itself, and a refresh token that works once. What ends before its time (a log-out, a disabled user, a stolen refresh
//! token) is a *revocation*: it is written in the transaction that makes it, and every service hears of it through
//! `WatchVerification`. So this service may be down for a while and nobody notices who has a token.

mod api;
mod bootstrap;
mod config;
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

use std::sync::Arc;

use parking_lot::RwLock;
use sensormesh_mesh::{Condition, Mesh, Service, Verifier};
use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1::auth_service_server::AuthServiceServer;
use sensormesh_store::{Migration, Store};
use sensormesh_types::{Clock, Result};

pub use config::{Config, Registration};

/// The tables of this service.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "auth", sql: include_str!("../migrations/0001_auth.sql") },
    Migration { version: 2, name: "session device", sql: include_str!("../migrations/0002_session_device.sql") },
    Migration { version: 3, name: "totp", sql: include_str!("../migrations/0003_totp.sql") },
    Migration { version: 4, name: "personal token", sql: include_str!("../migrations/0004_personal_token.sql") },
    Migration { version: 5, name: "password reset", sql: include_str!("../migrations/0005_password_reset.sql") },
];

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
