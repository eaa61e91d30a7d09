//! Credentials of devices and bridges, and the codes that devices get them with.

use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::{Error, Result, random, time};
use sha2::{Digest as _, Sha256};

/// Credentials that a device or a bridge has at once.
pub const MOST: usize = 8;

/// Characters of a credential's id: 60 bits of chance.
const ID_LENGTH: usize = 12;
/// Characters of a claim code, and of each group that it is shown in: 80 bits of chance.
const CODE_LENGTH: usize = 16;
const GROUP: usize = 4;

/// Whose a credential is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// This device's.
    Device(String),
    /// This bridge's.
    Bridge(String),
}

impl Subject {
    /// The one of two ids that is not empty.
    pub fn of(device_id: &str, bridge_id: &str) -> Result<Self> {
        match (device_id, bridge_id) {
            ("", "") => Err(Error::invalid("device_id", "is required, or bridge_id")),
            (device, "") => Ok(Subject::Device(device.to_owned())),
            ("", bridge) => Ok(Subject::Bridge(bridge.to_owned())),
            _ => Err(Error::invalid("bridge_id", "must be absent where device_id is given")),
        }
    }

    /// The device's id; empty for a bridge.
    pub fn device_id(&self) -> &str {
        match self {
            Subject::Device(id) => id,
            Subject::Bridge(_) => "",
        }
    }

    /// The bridge's id; empty for a device.
    pub fn bridge_id(&self) -> &str {
        match self {
            Subject::Device(_) => "",
            Subject::Bridge(id) => id,
        }
    }

    /// As the log names it: `device:lab`.
    pub fn name(&self) -> String {
        match self {
            Subject::Device(id) => format!("device:{id}"),
            Subject::Bridge(id) => format!("bridge:{id}"),
        }
    }

    /// A new token of its credential with this id.
    fn token(&self, credential_id: &str) -> String {
        let prefix = match self {
            Subject::Device(_) => "smd",
            Subject::Bridge(_) => "smb",
        };
        format!("{prefix}_{credential_id}_{}", random::secret())
    }
}

/// Whose a credential is, and what that one may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Device or bridge.
    pub subject: Subject,
    /// Its site; empty = the whole tenant.
    pub site: String,
    /// What the devices' ids begin with that a bridge speaks for; none = all of its site.
    pub prefixes: Vec<String>,
    /// A bridge may bring devices into being.
    pub may_register: bool,
}

/// A credential. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// The id.
    pub credential_id: String,
    /// Whose it is.
    pub subject: Subject,
    /// What people call it.
    pub name: String,
    /// The SHA-256 of the token.
    pub token_hash: [u8; 32],
    /// When it was made.
    pub create_time: i64,
    /// When it was last used.
    pub use_time: Option<i64>,
    /// When it ends; `None` = never.
    pub expire_time: Option<i64>,
    /// How long it was made for, microseconds; `None` = for ever.
    pub life: Option<i64>,
    /// The code it was claimed with; empty = none.
    pub claim_code_id: String,
}

/// What is wanted of a new credential.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What people call it.
    pub name: String,
    /// How long it is to live, microseconds; `None` = for ever.
    pub life: Option<i64>,
    /// The code it is claimed with; empty = none.
    pub claim_code_id: String,
}

impl Credential {
    /// A new one and its token, which is known to nobody else.
    pub fn new(subject: Subject, wanted: Wanted, now: i64) -> (Self, String) {
        let Wanted { name, life, claim_code_id } = wanted;
        let credential_id: String = random::secret().chars().take(ID_LENGTH).collect();
        let token = subject.token(&credential_id);
        let made = Self {
            credential_id,
            subject,
            name,
            token_hash: digest(&token),
            create_time: now,
            use_time: None,
            expire_time: life.map(|life| now.saturating_add(life)),
            life,
            claim_code_id,
        };
        (made, token)
    }

    /// As the contract shows it.
    pub fn to_proto(&self) -> proto::Credential {
        proto::Credential {
            credential_id: self.credential_id.clone(),
            device_id: self.subject.device_id().to_owned(),
            bridge_id: self.subject.bridge_id().to_owned(),
            name: self.name.clone(),
            create_time: Some(time::from_micros(self.create_time)),
            expire_time: self.expire_time.map(time::from_micros),
            last_use_time: self.use_time.map(time::from_micros),
        }
    }

    /// As services verify it.
    pub fn verifiable(&self, holder: &Holder) -> proto::VerifiableCredential {
        proto::VerifiableCredential {
            credential_id: self.credential_id.clone(),
            token_hash: self.token_hash.to_vec().into(),
            device_id: self.subject.device_id().to_owned(),
            bridge_id: self.subject.bridge_id().to_owned(),
            site_id: holder.site.clone(),
            prefixes: holder.prefixes.clone(),
            may_register: holder.may_register,
            expire_time: self.expire_time.map(time::from_micros),
        }
    }
}

/// A code that devices get their credentials with. Times are microseconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimCode {
    /// The tenant that the devices come to.
    pub tenant: String,
    /// The id.
    pub claim_code_id: String,
    /// What people call it.
    pub name: String,
    /// The site that the devices come to; empty = the whole tenant.
    pub site: String,
    /// What their ids begin with.
    pub prefix: String,
    /// How many may still use it.
    pub uses_left: u32,
    /// When it was made.
    pub create_time: i64,
    /// When it ends.
    pub expire_time: i64,
}

impl ClaimCode {
    /// As the contract shows it.
    pub fn to_proto(&self) -> proto::ClaimCode {
        proto::ClaimCode {
            claim_code_id: self.claim_code_id.clone(),
            name: self.name.clone(),
            site_id: self.site.clone(),
            prefix: self.prefix.clone(),
            uses_left: self.uses_left,
            create_time: Some(time::from_micros(self.create_time)),
            expire_time: Some(time::from_micros(self.expire_time)),
        }
    }
}

/// A new claim code as people type it: `7K2M-…`.
pub fn new_code() -> String {
    let letters: Vec<char> = random::secret().to_ascii_uppercase().chars().take(CODE_LENGTH).collect();
    let groups: Vec<String> = letters.chunks(GROUP).map(|group| group.iter().collect()).collect();
    groups.join("-")
}

/// What is stored of a claim code, however it was typed: Crockford's base 32 takes `o` for 0, `i` and `l` for 1.
pub fn digest_of_code(typed: &str) -> [u8; 32] {
    let plain = typed.chars().filter(char::is_ascii_alphanumeric).map(|letter| match letter.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    });
    digest(&plain.collect::<String>())
}

/// What is stored of a token. It has 128 bits of chance, so a plain hash is enough.
fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_credential_and_is_kept_as_a_hash() {
        let (credential, token) = Credential::new(Subject::Device("lab".into()), Wanted::default(), 7);
        let parts: Vec<&str> = token.split('_').collect();
        assert_eq!((parts[0], parts[1], parts[2].len()), ("smd", credential.credential_id.as_str(), 26));
        assert_eq!(credential.token_hash, digest(&token));
        let (_, token) = Credential::new(Subject::Bridge("gw".into()), Wanted::default(), 7);
        assert!(token.starts_with("smb_"));
    }

    #[test]
    fn a_code_may_be_typed_as_people_type() {
        let code = new_code();
        assert_eq!((code.len(), code.matches('-').count()), (19, 3));
        assert_eq!(digest_of_code(&code), digest_of_code(&code.to_lowercase().replace('-', " ")));
        assert_eq!(digest_of_code("O1-L0"), digest_of_code("01io"));
        assert_ne!(digest_of_code("0000"), digest_of_code("0001"));
    }

    #[test]
    fn a_credential_is_of_a_device_or_of_a_bridge() {
        assert_eq!(Subject::of("lab", "").expect("device"), Subject::Device("lab".into()));
        assert_eq!(Subject::of("", "gw").expect("bridge"), Subject::Bridge("gw".into()));
        assert!(Subject::of("", "").is_err() && Subject::of("a", "b").is_err());
    }
}
