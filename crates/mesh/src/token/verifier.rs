//! Decides whether a token is genuine, with keys and revocations held in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::{Clock, Code, Error, Principal, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::machine::{Machine, Machines, is_machines};
use super::{AUDIENCE, Claims, ISSUER, TOKEN_TYPE};

/// How far clocks may differ, seconds.
const LEEWAY: i64 = 30;
/// The longest an access token may live, seconds.
const LONGEST: i64 = 600;
/// Verified tokens kept, so that each costs one signature check and not one a call.
const CACHED: u64 = 10_000;
/// A token longer than this is refused unread, bytes.
const LONGEST_TOKEN: usize = 8 << 10;

/// A public key as RFC 7517 and RFC 8037 shape it, used with one algorithm only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    /// `EC` or `OKP`.
    pub kty: String,
    /// `P-256` or `Ed25519`.
    pub crv: String,
    /// Coordinate x, base64url.
    pub x: String,
    /// Coordinate y, base64url; `EC` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// The key's id, as in the token's header.
    pub kid: String,
    /// `ES256` or `EdDSA`.
    pub alg: String,
}

impl From<proto::Jwk> for Jwk {
    fn from(key: proto::Jwk) -> Self {
        Self { kty: key.kty, crv: key.crv, x: key.x, y: key.y, kid: key.kid, alg: key.alg }
    }
}

/// Whose tokens are revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// Those of one session (`sid`).
    Session(String),
    /// Those of one user (`sub`).
    User(String),
}

/// Tokens issued to a subject up to a moment are no longer accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Whose.
    pub subject: Subject,
    /// Tokens issued in or before this second of the Unix epoch are refused.
    pub revoked_at: i64,
    /// From this second on the revocation can be forgotten: every such token has expired by itself.
    pub expires_at: i64,
}

/// Everything a verifier knows; what is kept on disk for a start without `auth`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Known {
    pub(crate) keys: Vec<Jwk>,
    pub(crate) revocations: Vec<Revocation>,
    /// When this was the present state for certain: seconds since the Unix epoch. 0 = never.
    pub(crate) as_of: i64,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, (Algorithm, DecodingKey)>,
    revocations: HashMap<Subject, (i64, i64)>,
    known: Known,
    /// The state is fed by the one who makes it and cannot be old.
    own: bool,
}

impl State {
    fn revokes(&self, claims: &Claims) -> bool {
        let subjects = || [Subject::Session(claims.sid.clone()), Subject::User(claims.sub.clone())];
        let revoked = |subject: &Subject| self.revocations.get(subject).is_some_and(|(at, _)| claims.iat <= *at);
        !self.revocations.is_empty() && subjects().iter().any(revoked)
    }
}

struct Verified {
    claims: Arc<Claims>,
    kid: String,
}

/// Whose token it is.
#[derive(Clone, Debug)]
pub enum Bearer {
    /// A user's.
    User(Arc<Claims>),
    /// A device's or a bridge's.
    Machine(Arc<Machine>),
}

impl Bearer {
    /// Who calls.
    pub fn principal(&self) -> Principal {
        match self {
            Bearer::User(claims) => claims.principal(),
            Bearer::Machine(machine) => machine.principal(),
        }
    }

    /// Whether a token is a device's or a bridge's, by its form.
    pub fn is_machines(token: &str) -> bool {
        is_machines(token)
    }
}

/// Verifies access tokens with the keys and revocations it was given last. Clones share them.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    clock: Clock,
    state: ArcSwap<State>,
    verified: moka::sync::Cache<[u8; 32], Arc<Verified>>,
    /// Changes with every revocation.
    revoked: watch::Sender<()>,
    machines: Machines,
}

impl Verifier {
    /// A verifier without keys: until it is given some, a token is answered with UNAVAILABLE.
    pub fn new(clock: Clock) -> Self {
        let verified = moka::sync::Cache::new(CACHED);
        Self(Arc::new(Inner {
            clock,
            state: ArcSwap::default(),
            verified,
            revoked: watch::Sender::default(),
            machines: Machines::default(),
        }))
    }

    /// Whose token it is: a user's, a device's or a bridge's. `as_of` is when it was presented, seconds since the Unix epoch,
    /// where that is not now. Errors as of [`Verifier::verify`]; of machines `CREDENTIAL_INVALID`, and UNAVAILABLE while no
    /// credential is known.
    pub fn bearer(&self, token: &str, as_of: Option<i64>) -> Result<Bearer> {
        let when = as_of.unwrap_or_else(|| self.0.clock.now_seconds());
        match is_machines(token) {
            true => self.0.machines.verify(token, when).map(Bearer::Machine),
            false => self.verify_as_of(token, when).map(Bearer::User),
        }
    }

    /// Whether anything is known of the credentials of devices and bridges.
    pub(crate) fn knows_machines(&self) -> bool {
        self.0.machines.is_known()
    }

    /// The credentials of devices and bridges.
    pub(super) fn machines(&self) -> &Machines {
        &self.0.machines
    }

    /// Replaces the keys. One that cannot be used is left out and named in the log.
    pub fn update_keys(&self, keys: impl IntoIterator<Item = Jwk>) {
        let known: Vec<Jwk> = keys.into_iter().collect();
        self.change(|state| {
            state.keys = known.iter().filter_map(|key| Some((key.kid.clone(), usable(key)?))).collect();
            state.known.keys.clone_from(&known);
        });
    }

    /// Stops accepting tokens that were issued to a subject.
    pub fn revoke(&self, revocation: Revocation) {
        let now = self.0.clock.now_seconds();
        let Revocation { subject, revoked_at, expires_at } = revocation;
        self.change(|state| {
            state.revocations.retain(|_, (_, expires_at)| *expires_at > now);
            let entry = state.revocations.entry(subject.clone()).or_insert((i64::MIN, i64::MIN));
            *entry = (entry.0.max(revoked_at), entry.1.max(expires_at));
        });
        self.0.revoked.send_replace(());
    }

    /// Says that this service makes keys and revocations itself, so that they are never too old to act on.
    pub fn feeds_itself(&self) {
        self.change(|state| state.own = true);
    }

    /// Says that what is known was complete at this second of the Unix epoch.
    pub(crate) fn complete_at(&self, second: i64) {
        self.change(|state| state.known.as_of = state.known.as_of.max(second));
    }

    /// How long ago the revocations were known to be complete, in seconds. `None` = never.
    pub fn age(&self) -> Option<i64> {
        let state = self.0.state.load();
        match (state.own, state.known.as_of) {
            (true, _) => Some(0),
            (false, 0) => None,
            (false, as_of) => Some((self.0.clock.now_seconds() - as_of).max(0)),
        }
    }

    /// Checks a token and returns what it says. UNAUTHENTICATED with the reason `TOKEN_EXPIRED`, `TOKEN_REVOKED` or
    /// `TOKEN_INVALID`; UNAVAILABLE while no key is known at all.
    pub fn verify(&self, token: &str) -> Result<Arc<Claims>> {
        self.verify_as_of(token, self.0.clock.now_seconds())
    }

    /// The same as of a second of the Unix epoch at which it was presented: it may have expired since, but not been revoked.
    pub fn verify_as_of(&self, token: &str, now: i64) -> Result<Arc<Claims>> {
        let state = self.0.state.load();
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let verified = match self.0.verified.get(&digest) {
            Some(verified) if state.keys.contains_key(&verified.kid) => verified,
            _ => {
                let verified = Arc::new(check(&state, token)?);
                self.0.verified.insert(digest, Arc::clone(&verified));
                verified
            }
        };
        let claims = &verified.claims;
        if now >= claims.exp + LEEWAY {
            self.0.verified.invalidate(&digest);
            return Err(refuse("TOKEN_EXPIRED", "the token has expired; log in or refresh it"));
        }
        if claims.iat > now + LEEWAY {
            return Err(refuse("TOKEN_INVALID", "the token is from the future"));
        }
        if state.revokes(claims) {
            return Err(revoked());
        }
        Ok(Arc::clone(claims))
    }

    /// Waits until what was begun with a token that was verified before must end, and says why.
    pub(crate) async fn until_revoked(&self, bearer: &Bearer) -> Error {
        let claims = match bearer {
            Bearer::User(claims) => claims,
            Bearer::Machine(machine) => return self.0.machines.until_ended(machine, &self.0.clock).await,
        };
        let mut changes = self.0.revoked.subscribe();
        while !self.0.state.load().revokes(claims) {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
        revoked()
    }

    /// A copy of everything known, for the disk.
    pub(crate) fn known(&self) -> Known {
        let state = self.0.state.load();
        let revocations = state.revocations.iter();
        let revocations = revocations.map(|(subject, (revoked_at, expires_at))| Revocation {
            subject: subject.clone(),
            revoked_at: *revoked_at,
            expires_at: *expires_at,
        });
        Known { revocations: revocations.collect(), ..state.known.clone() }
    }

    /// Takes over what was known before a restart.
    pub(crate) fn restore(&self, known: Known) {
        self.update_keys(known.keys);
        known.revocations.into_iter().for_each(|revocation| self.revoke(revocation));
        self.complete_at(known.as_of);
    }

    fn change(&self, change: impl Fn(&mut State)) {
        self.0.state.rcu(|state| {
            let mut next = State {
                keys: state.keys.clone(),
                revocations: state.revocations.clone(),
                known: state.known.clone(),
                own: state.own,
            };
            change(&mut next);
            next
        });
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.state.load();
        write!(f, "Verifier({} keys, {} revocations)", state.keys.len(), state.revocations.len())
    }
}

/// The failure of a call, or of a stream under way, of somebody whose session was ended.
fn revoked() -> Error {
    refuse("TOKEN_REVOKED", "the session was ended; log in again")
}

fn usable(key: &Jwk) -> Option<(Algorithm, DecodingKey)> {
    let made = match (key.alg.as_str(), key.kty.as_str(), key.crv.as_str(), &key.y) {
        ("EdDSA", "OKP", "Ed25519", None) => {
            DecodingKey::from_ed_components(&key.x).map(|made| (Algorithm::EdDSA, made))
        }
        ("ES256", "EC", "P-256", Some(y)) => {
            DecodingKey::from_ec_components(&key.x, y).map(|made| (Algorithm::ES256, made))
        }
        _ => {
            tracing::warn!(kid = key.kid, alg = key.alg, "a key for an algorithm we do not accept was left out");
            return None;
        }
    };
    made.inspect_err(|error| tracing::warn!(kid = key.kid, %error, "a key that cannot be read was left out")).ok()
}

/// The signature and what the token must say, without the passing of time.
fn check(state: &State, token: &str) -> Result<Verified> {
    if token.len() > LONGEST_TOKEN {
        return Err(refuse("TOKEN_INVALID", "the token is too long"));
    }
    let invalid =
        |error: jsonwebtoken::errors::Error| refuse("TOKEN_INVALID", "the token is not valid").caused_by(error);
    let header = jsonwebtoken::decode_header(token).map_err(invalid)?;
    if !header.typ.as_deref().is_some_and(|typ| typ.eq_ignore_ascii_case(TOKEN_TYPE)) {
        return Err(refuse("TOKEN_INVALID", "the token is no access token"));
    }
    let kid = header.kid.ok_or_else(|| refuse("TOKEN_INVALID", "the token does not name its key"))?;
    if state.keys.is_empty() {
        let wait = Duration::from_secs(1);
        return Err(Error::unavailable("KEYS_UNKNOWN", "the keys to verify tokens with are not known yet", wait));
    }
    let (algorithm, key) =
        state.keys.get(&kid).ok_or_else(|| refuse("TOKEN_INVALID", "the token is signed with a key we do not know"))?;
    let mut validation = Validation::new(*algorithm);
    validation.algorithms = vec![*algorithm];
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    // time is checked against our own clock, at every use and not only at the first
    validation.validate_exp = false;
    let claims = jsonwebtoken::decode::<Claims>(token, key, &validation).map_err(invalid)?.claims;
    if claims.sub.is_empty() || claims.sid.is_empty() || claims.tenant.is_empty() {
        return Err(refuse("TOKEN_INVALID", "the token names no user, session or tenant"));
    }
    if claims.exp <= claims.iat || claims.exp - claims.iat > LONGEST {
        return Err(refuse("TOKEN_INVALID", "the token's lifetime is not one we give"));
    }
    Ok(Verified { claims: Arc::new(claims), kid })
}

fn refuse(reason: &'static str, message: &str) -> Error {
    Error::new(Code::Unauthenticated, reason, message)
}
