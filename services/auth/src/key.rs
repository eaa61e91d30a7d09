//! Signing keys: ES256, used in turn, published before their first use and until their last token has expired.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use sensormesh_mesh::token::{AUDIENCE, Claims, ISSUER, Jwk, KEPT_FOR, TOKEN_TYPE};
use sensormesh_observability::Secret;
use sensormesh_proto::auth::v1 as proto;
use sensormesh_types::{Error, Result, random};

use crate::user::User;

/// How long before its first use a key is published: longer than any verifier takes to hear of it.
pub const PUBLISHED_BEFORE: Duration = Duration::from_secs(600);

/// A key as it is stored. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct StoredKey {
    /// The key's id (`kid`).
    pub key_id: String,
    /// Coordinate x, base64url.
    pub x: String,
    /// Coordinate y, base64url.
    pub y: String,
    /// The private half as PEM, where the database keeps it.
    pub private_pem: Option<Secret<String>>,
    /// Signs from here on.
    pub not_before: i64,
    /// Signs until here.
    pub sign_until: i64,
    /// Published until here.
    pub retire_time: i64,
}

/// When keys sign and how long they are published.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// How long one key signs.
    pub sign_for: Duration,
    /// How long its tokens live.
    pub token_life: Duration,
}

impl StoredKey {
    /// Makes a key that signs from `not_before` on.
    pub fn generate(now: i64, not_before: i64, schedule: Schedule) -> Result<Self> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::internal)?;
        // the uncompressed point of SEC 1: 4, x, y
        let point = pair.public_key_raw();
        let (Some(&4), Some(x), Some(y)) = (point.first(), point.get(1..33), point.get(33..65)) else {
            return Err(Error::internal("the new key's public half is not an uncompressed P-256 point"));
        };
        let sign_until = not_before.saturating_add(micros(schedule.sign_for));
        Ok(Self {
            key_id: random::id(now),
            x: URL_SAFE_NO_PAD.encode(x),
            y: URL_SAFE_NO_PAD.encode(y),
            private_pem: Some(Secret::new(pair.serialize_pem())),
            not_before,
            sign_until,
            retire_time: sign_until.saturating_add(micros(schedule.token_life + KEPT_FOR)),
        })
    }

    /// The public half as the contract has it.
    pub fn to_proto(&self) -> proto::Jwk {
        proto::Jwk {
            kty: "EC".to_owned(),
            crv: "P-256".to_owned(),
            x: self.x.clone(),
            y: Some(self.y.clone()),
            kid: self.key_id.clone(),
            alg: "ES256".to_owned(),
            r#use: "sig".to_owned(),
        }
    }

    fn jwk(&self) -> Jwk {
        Jwk::from(self.to_proto())
    }
}

/// Where private halves are kept outside the database: one file a key, readable by its owner only.
#[derive(Clone, Debug)]
pub struct KeyFiles(PathBuf);

impl KeyFiles {
    /// Files in this directory, which is made if need be.
    pub fn new(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| unwritable(dir, error))?;
        Ok(Self(dir.to_owned()))
    }

    fn path(&self, key_id: &str) -> PathBuf {
        self.0.join(format!("signing-key-{key_id}.pem"))
    }

    /// Keeps a private half.
    pub fn write(&self, key_id: &str, pem: &Secret<String>) -> Result<()> {
        write_private(&self.path(key_id), pem.reveal())
    }

    /// The private half, if this replica has it.
    pub fn read(&self, key_id: &str) -> Option<Secret<String>> {
        std::fs::read_to_string(self.path(key_id)).ok().map(Secret::new)
    }

    /// Forgets a private half.
    pub fn remove(&self, key_id: &str) {
        if let Err(error) = std::fs::remove_file(self.path(key_id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(key_id, %error, "a retired signing key could not be removed");
        }
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let draft = path.with_extension("new");
    let write = || {
        let _ = std::fs::remove_file(&draft);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, path)
    };
    write().map_err(|error| unwritable(path, error))
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::precondition("NOT_WRITABLE", format!("{} cannot be written: {error}", path.display())).caused_by(error)
}

/// Every published key, and those of them that this replica can sign with.
#[derive(Default)]
pub struct Ring {
    keys: Vec<(StoredKey, Option<EncodingKey>)>,
}

impl Ring {
    /// The published keys; a private half comes from the row or from `files`. One that cannot be read is left out.
    pub fn new(mut stored: Vec<StoredKey>, files: Option<&KeyFiles>, now: i64) -> Self {
        stored.retain(|key| key.retire_time > now);
        stored.sort_by_key(|key| std::cmp::Reverse(key.not_before));
        let keys = stored.into_iter().map(|mut key| {
            let pem = key.private_pem.take().or_else(|| files?.read(&key.key_id));
            let private = pem.and_then(|pem| {
                EncodingKey::from_ec_pem(pem.reveal().as_bytes())
                    .inspect_err(|error| tracing::error!(key_id = key.key_id, %error, "a signing key is unreadable"))
                    .ok()
            });
            (key, private)
        });
        Self { keys: keys.collect() }
    }

    /// The public halves, the newest first.
    pub fn to_proto(&self) -> proto::GetJwksResponse {
        proto::GetJwksResponse { keys: self.keys.iter().map(|(key, _)| key.to_proto()).collect() }
    }

    /// The public halves for a verifier.
    pub fn jwks(&self) -> Vec<Jwk> {
        self.keys.iter().map(|(key, _)| key.jwk()).collect()
    }

    /// When the next key must start to sign, if it is time to make it: now where none signs, or when the last one
    /// that this replica has ends.
    pub fn due(&self, now: i64) -> Option<i64> {
        let own = self.keys.iter().filter(|(_, private)| private.is_some());
        let ends = own.map(|(key, _)| key.sign_until).max().unwrap_or(now);
        (ends <= now.saturating_add(2 * micros(PUBLISHED_BEFORE))).then(|| ends.max(now))
    }

    /// Whether this replica can sign now. It cannot for a moment after the machine slept through the turn of a key.
    pub fn can_sign(&self, now: i64) -> bool {
        self.signer(now).is_some()
    }

    fn signer(&self, now: i64) -> Option<(&StoredKey, &EncodingKey)> {
        let own = self.keys.iter().filter_map(|(key, private)| Some((key, private.as_ref()?)));
        // the newest that has begun; the newest is first
        own.filter(|(key, _)| key.not_before <= now && now < key.sign_until).max_by_key(|(key, _)| key.not_before)
    }

    /// Makes an access token for a user's session, or personal access token.
    pub fn sign(&self, user: &User, session_id: &str, now: i64, life: Duration) -> Result<String> {
        let (key, private) = self.signer(now).ok_or_else(|| {
            Error::unavailable("NO_SIGNING_KEY", "there is no key to sign tokens with yet", Duration::from_secs(1))
        })?;
        // a token must be younger than any revocation of the user's older ones, which is known by the second
        let issued = now.div_euclid(1_000_000).max(user.revoked_second.saturating_add(1));
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.user_id.clone(),
            name: user.username.clone(),
            role: user.role,
            tenant: user.tenant.clone(),
            sites: user.sites.clone(),
            sid: session_id.to_owned(),
            jti: random::id(now),
            iat: issued,
            exp: issued.saturating_add(i64::try_from(life.as_secs()).unwrap_or(i64::MAX)),
        };
        let header =
            Header { typ: Some(TOKEN_TYPE.to_owned()), kid: Some(key.key_id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, private).map_err(Error::internal)
    }
}

/// A duration as microseconds.
pub fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensormesh_mesh::Verifier;
    use sensormesh_types::{Clock, Role};

    const HOUR: i64 = 3_600_000_000;
    const START: i64 = 500_000 * HOUR;

    fn schedule() -> Schedule {
        Schedule { sign_for: Duration::from_secs(3600), token_life: Duration::from_secs(600) }
    }

    fn key(not_before: i64) -> StoredKey {
        StoredKey::generate(START, not_before, schedule()).expect("key")
    }

    fn user() -> User {
        User { user_id: "u1".into(), username: "ada".into(), role: Role::Operator, ..User::default() }
    }

    #[test]
    fn a_verifier_with_the_public_keys_accepts_the_token() {
        let ring = Ring::new(vec![key(START)], None, START);
        let token = ring.sign(&user(), "s", START, Duration::from_secs(600)).expect("token");
        let verifier = Verifier::new(Clock::fixed(START));
        verifier.update_keys(ring.jwks());
        let claims = verifier.verify(&token).expect("genuine");
        assert_eq!((claims.sub.as_str(), claims.sid.as_str(), claims.role), ("u1", "s", Role::Operator));
        let stranger = Ring::new(vec![key(START)], None, START);
        let forged = stranger.sign(&user(), "s", START, Duration::from_secs(600)).expect("token");
        assert!(verifier.verify(&forged).is_err());
    }

    #[test]
    fn the_next_key_is_published_before_it_signs_and_the_last_one_until_its_tokens_have_expired() {
        let first = key(START);
        assert_eq!(Ring::default().due(START), Some(START));
        let ring = Ring::new(vec![first.clone()], None, START);
        assert_eq!(ring.due(START), None);
        assert_eq!(ring.due(first.sign_until - 1), Some(first.sign_until));
        let next = key(first.sign_until);
        let before = Ring::new(vec![first.clone(), next.clone()], None, START);
        assert_eq!(before.jwks().len(), 2);
        assert_eq!(before.signer(first.sign_until - 1).expect("signer").0.key_id, first.key_id);
        assert_eq!(before.signer(first.sign_until).expect("signer").0.key_id, next.key_id);
        assert_eq!(Ring::new(vec![first.clone(), next.clone()], None, first.retire_time - 1).jwks().len(), 2);
        assert_eq!(Ring::new(vec![first.clone(), next], None, first.retire_time).jwks().len(), 1);
    }

    #[test]
    fn a_token_is_younger_than_the_revocation_of_the_ones_before() {
        let ring = Ring::new(vec![key(START)], None, START);
        let verifier = Verifier::new(Clock::fixed(START));
        verifier.update_keys(ring.jwks());
        let mut user = user();
        let old = ring.sign(&user, "s", START, Duration::from_secs(600)).expect("token");
        user.revoked_second = START / 1_000_000;
        verifier.revoke(sensormesh_mesh::token::Revocation {
            subject: sensormesh_mesh::token::Subject::User("u1".into()),
            revoked_at: user.revoked_second,
            expires_at: i64::MAX,
        });
        let new = ring.sign(&user, "s", START, Duration::from_secs(600)).expect("token");
        assert!(verifier.verify(&old).is_err());
        verifier.verify(&new).expect("issued after");
    }

    #[test]
    fn private_files_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = std::env::temp_dir().join(format!("sensormesh-key-{}", random::secret()));
        let files = KeyFiles::new(&dir).expect("directory");
        files.write("k1", &Secret::new("pem".to_owned())).expect("written");
        let mode = std::fs::metadata(files.path("k1")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(files.read("k1").expect("read").reveal(), "pem");
        files.remove("k1");
        assert!(files.read("k1").is_none());
        std::fs::remove_dir_all(dir).expect("cleaned up");
    }
}
