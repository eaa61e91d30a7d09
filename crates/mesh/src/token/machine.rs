//! Devices and bridges: whose token it is, with the hashes held in memory.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use sensormesh_proto::devices::v1 as proto;
use sensormesh_types::{Clock, Code, Error, Principal, Result, Scope, time};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// What the tokens of devices and of bridges begin with.
const PREFIXES: [&str; 2] = ["smd_", "smb_"];
/// A token longer than this is refused unread, bytes.
const LONGEST_TOKEN: usize = 256;

/// A device or a bridge, as its credential proves it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The tenant.
    pub tenant: String,
    /// The credential's id.
    pub credential_id: String,
    /// Device or bridge.
    pub principal: MachinePrincipal,
    /// Its site; empty = the whole tenant.
    pub site: String,
    /// When the credential ends, seconds since the Unix epoch; `None` = never.
    pub expires_at: Option<i64>,
    /// The SHA-256 of the token.
    token_hash: [u8; 32],
    /// When it was last used here, seconds since the Unix epoch, and up to when that was told; 0 = never.
    #[serde(skip)]
    used: AtomicI64,
    #[serde(skip)]
    told: AtomicI64,
}

/// Which kind of machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachinePrincipal {
    /// A device: it speaks for itself.
    Device {
        /// The device's id.
        id: String,
    },
    /// A bridge: it speaks for devices.
    Bridge {
        /// The bridge's id.
        id: String,
        /// What the ids of its devices begin with; none = every device of its site.
        prefixes: Arc<[String]>,
        /// It may bring devices into being.
        may_register: bool,
    },
}

impl Machine {
    /// The one that calls.
    pub fn principal(&self) -> Principal {
        match &self.principal {
            MachinePrincipal::Device { id } => Principal::Device { id: id.clone() },
            MachinePrincipal::Bridge { id, prefixes, may_register } => {
                let (id, prefixes) = (id.clone(), Arc::clone(prefixes));
                Principal::Bridge { id, prefixes, may_register: *may_register }
            }
        }
    }

    /// What it may see.
    pub fn scope(&self) -> Scope {
        let sites = if self.site.is_empty() { Vec::new() } else { vec![self.site.clone()] };
        Scope::sites_of(&self.tenant, sites)
    }

    /// The machine that a message of `devices` describes; `None` where it describes none.
    pub(super) fn read(tenant: String, told: proto::VerifiableCredential) -> Option<Self> {
        let principal = if told.bridge_id.is_empty() {
            MachinePrincipal::Device { id: told.device_id }
        } else {
            let (id, prefixes) = (told.bridge_id, told.prefixes.into());
            MachinePrincipal::Bridge { id, prefixes, may_register: told.may_register }
        };
        Some(Self {
            tenant,
            credential_id: told.credential_id,
            principal,
            site: told.site_id,
            expires_at: told.expire_time.map(|time| time.seconds),
            token_hash: told.token_hash.as_ref().try_into().ok()?,
            used: AtomicI64::new(0),
            told: AtomicI64::new(0),
        })
    }

    /// Takes over when it was used, from what was known of it before.
    fn keep_uses(&self, before: &Machine) {
        self.used.fetch_max(before.used.load(Relaxed), Relaxed);
        self.told.fetch_max(before.told.load(Relaxed), Relaxed);
    }

    fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// Every credential that is in force, by the SHA-256 of its token.
#[derive(Default)]
pub(super) struct Machines {
    /// `None` until something is known.
    known: ArcSwap<Option<ByHash>>,
    /// Changes with every credential that ends or changes.
    changed: watch::Sender<()>,
}

type ByHash = HashMap<[u8; 32], Arc<Machine>>;

/// Whether a token is of a machine, by its form.
pub(super) fn is_machines(token: &str) -> bool {
    PREFIXES.iter().any(|prefix| token.starts_with(prefix))
}

impl Machines {
    /// Whose token it is, at this second of the Unix epoch. UNAUTHENTICATED where nobody's; UNAVAILABLE while nothing is known.
    pub(super) fn verify(&self, token: &str, now: i64) -> Result<Arc<Machine>> {
        let known = self.known.load();
        let Some(known) = &**known else {
            let wait = Duration::from_secs(1);
            let message = "the credentials of devices are not known yet";
            return Err(Error::unavailable("CREDENTIALS_UNKNOWN", message, wait));
        };
        let found = if token.len() > LONGEST_TOKEN { None } else { known.get(&digest(token)) };
        let machine = found.ok_or_else(ended)?;
        if machine.has_expired(now) {
            return Err(ended());
        }
        machine.used.fetch_max(now, Relaxed);
        Ok(Arc::clone(machine))
    }

    /// Waits until what was begun with a machine's credential must end: it has ended, or allows something else now, and then the
    /// machine may begin again at once.
    pub(super) async fn until_ended(&self, machine: &Machine, clock: &Clock) -> Error {
        let mut changes = self.changed.subscribe();
        loop {
            let Some(now) = self.now(machine).filter(|now| !now.has_expired(clock.now_seconds())) else {
                return ended();
            };
            if now.principal != machine.principal || now.site != machine.site || now.tenant != machine.tenant {
                let message = "what the credential allows has changed; begin again";
                return Error::unavailable("CREDENTIAL_CHANGED", message, Duration::from_secs(1));
            }
            let changed = changes.changed();
            let changed = match now.expires_at {
                None => changed.await,
                Some(end) => {
                    let left = u64::try_from(end.saturating_sub(clock.now_seconds())).unwrap_or(0);
                    tokio::time::timeout(Duration::from_secs(left), changed).await.unwrap_or(Ok(()))
                }
            };
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What a machine's credential is now.
    fn now(&self, machine: &Machine) -> Option<Arc<Machine>> {
        self.known.load().as_ref().as_ref().and_then(|known| known.get(&machine.token_hash)).cloned()
    }

    /// Takes over a credential that was made or changed.
    pub(super) fn put(&self, machine: Machine) {
        if let Some(before) = self.now(&machine) {
            machine.keep_uses(&before);
        }
        self.change(|known| drop(known.insert(machine.token_hash, Arc::new(machine))));
    }

    /// Takes over everything there is.
    pub(super) fn replace(&self, machines: impl IntoIterator<Item = Machine>) {
        let known = self.known.load();
        let before = |machine: &Machine| known.as_ref().as_ref().and_then(|known| known.get(&machine.token_hash));
        let all = machines.into_iter().map(|machine| {
            if let Some(before) = before(&machine) {
                machine.keep_uses(before);
            }
            (machine.token_hash, Arc::new(machine))
        });
        let all: ByHash = all.collect();
        self.known.store(Arc::new(Some(all)));
        self.changed.send_replace(());
    }

    /// Forgets a credential.
    pub(super) fn remove(&self, tenant: &str, credential_id: &str) {
        let others = |machine: &Arc<Machine>| machine.tenant != tenant || machine.credential_id != credential_id;
        self.change(|known| known.retain(|_, machine| others(machine)));
    }

    /// One task writes.
    fn change(&self, change: impl FnOnce(&mut ByHash)) {
        let mut next = self.known.load().as_ref().clone().unwrap_or_default();
        change(&mut next);
        self.known.store(Arc::new(Some(next)));
        self.changed.send_replace(());
    }

    /// Everything that has not ended at this second, for the disk; `None` = nothing is known.
    pub(super) fn saved(&self, now: i64) -> Option<Vec<u8>> {
        let known = self.known.load();
        let alive = known.as_ref().as_ref()?.values().filter(|machine| !machine.has_expired(now));
        serde_json::to_vec(&alive.map(AsRef::as_ref).collect::<Vec<&Machine>>()).ok()
    }

    /// Whether anything is known.
    pub(super) fn is_known(&self) -> bool {
        self.known.load().is_some()
    }

    /// Which credentials were used since it was told last.
    pub(super) fn uses(&self) -> Vec<Arc<Machine>> {
        let known = self.known.load();
        let all = known.as_ref().as_ref().map(HashMap::values).into_iter().flatten();
        all.filter(|machine| machine.used.load(Relaxed) > machine.told.load(Relaxed)).cloned().collect()
    }
}

impl Machine {
    /// Its last use as `devices` is told, and what to note once it was.
    pub(super) fn last_use(&self) -> (proto::CredentialUse, i64) {
        let used = self.used.load(Relaxed);
        let (tenant, credential_id) = (self.tenant.clone(), self.credential_id.clone());
        (proto::CredentialUse { tenant, credential_id, time: Some(time::from_micros(used * 1_000_000)) }, used)
    }

    /// Notes up to when uses were told.
    pub(super) fn was_told(&self, used: i64) {
        self.told.fetch_max(used, Relaxed);
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// One text for a credential that is unknown, was deleted or has expired.
pub(super) fn ended() -> Error {
    Error::new(Code::Unauthenticated, "CREDENTIAL_INVALID", "the credential is not valid, or not any more")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn credential(token: &str, site: &str, expires_at: Option<i64>) -> proto::VerifiableCredential {
        proto::VerifiableCredential {
            credential_id: token.to_owned(),
            token_hash: digest(token).to_vec().into(),
            device_id: "lab".to_owned(),
            site_id: site.to_owned(),
            expire_time: expires_at.map(|seconds| time::from_micros(seconds * 1_000_000)),
            ..Default::default()
        }
    }

    pub(crate) fn bridge(prefixes: &[&str]) -> Machine {
        let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        let told =
            proto::VerifiableCredential { bridge_id: "gw".to_owned(), prefixes, ..credential("smb_g_1", "", None) };
        Machine::read("acme".to_owned(), told).expect("a bridge")
    }

    pub(crate) fn machine(token: &str, site: &str, expires_at: Option<i64>) -> Machine {
        Machine::read("t".to_owned(), credential(token, site, expires_at)).expect("a machine")
    }

    #[test]
    fn a_credential_counts_until_it_ends() {
        let machines = Machines::default();
        let unknown = machines.verify("smd_a_1", 5).expect_err("nothing is known");
        assert_eq!(unknown.reason(), "CREDENTIALS_UNKNOWN");
        machines.replace([machine("smd_a_1", "north", None), machine("smd_b_1", "", Some(10))]);
        let found = machines.verify("smd_a_1", 5).expect("in force");
        assert_eq!(found.principal(), Principal::Device { id: "lab".into() });
        assert_eq!((found.scope().tenant(), found.scope().sites()), ("t", &["north".to_owned()][..]));
        machines.verify("smd_b_1", 9).expect("not yet");
        for (token, now) in [("smd_b_1", 10), ("smd_a_2", 5), (&format!("smd_{}", "x".repeat(300)), 5)] {
            assert_eq!(machines.verify(token, now).expect_err(token).reason(), "CREDENTIAL_INVALID");
        }
        machines.remove("other", "smd_a_1");
        machines.verify("smd_a_1", 5).expect("another tenant's was removed");
        machines.remove("t", "smd_a_1");
        machines.verify("smd_a_1", 5).expect_err("removed");
        machines.put(machine("smd_c_1", "", None));
        machines.verify("smd_c_1", 5).expect("added");
    }

    #[test]
    fn what_is_not_a_hash_is_no_credential() {
        let short = proto::VerifiableCredential { token_hash: vec![1; 31].into(), ..credential("smd_a_1", "", None) };
        assert!(Machine::read("t".to_owned(), short).is_none());
    }

    #[test]
    fn a_use_is_told_once_and_survives_a_new_snapshot() {
        let machines = Machines::default();
        machines.replace([machine("smd_a_1", "", None)]);
        assert!(machines.uses().is_empty());
        machines.verify("smd_a_1", 5).expect("in force");
        machines.replace([machine("smd_a_1", "", None)]);
        let uses = machines.uses();
        let (told, used) = uses[0].last_use();
        assert_eq!((told.credential_id.as_str(), used), ("smd_a_1", 5));
        uses[0].was_told(used);
        assert!(machines.uses().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_begun_ends_with_the_credential() {
        let machines = Machines::default();
        machines.replace([machine("smd_a_1", "", None), machine("smd_b_1", "", Some(60))]);
        let begun = machines.verify("smd_a_1", 5).expect("in force");
        let clock = Clock::fixed(5_000_000);
        let soon = async |begun: &Machine| {
            let ended = tokio::time::timeout(Duration::from_secs(1), machines.until_ended(begun, &clock)).await;
            ended.ok().map(|error| error.reason().to_owned())
        };
        machines.put(machine("smd_c_1", "", None));
        assert_eq!(soon(&begun).await, None, "still in force");
        machines.put(machine("smd_a_1", "", Some(100)));
        assert_eq!(soon(&begun).await, None, "it was rotated, and has an end now");
        machines.put(machine("smd_a_1", "north", None));
        assert_eq!(soon(&begun).await.as_deref(), Some("CREDENTIAL_CHANGED"));
        machines.remove("t", "smd_a_1");
        assert_eq!(soon(&begun).await.as_deref(), Some("CREDENTIAL_INVALID"));
        let begun = machines.verify("smd_b_1", 5).expect("in force");
        assert_eq!(soon(&begun).await, None);
        clock.advance(Duration::from_secs(60));
        assert_eq!(soon(&begun).await.as_deref(), Some("CREDENTIAL_INVALID"), "its time is over");
    }
}
