//! Passwords: hashed with argon2id, a few at a time, and as slowly for users that do not exist.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use parking_lot::Mutex;
use sensormesh_observability::Secret;
use sensormesh_types::{Error, Result, random};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

/// How long memory for hashes is kept for the next one.
const KEPT: Duration = Duration::from_secs(5);

/// What a hash costs. The defaults are the OWASP minimum for argon2id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cost {
    /// KiB of memory for one hash.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes of memory.
    pub lanes: u32,
    /// Hashes computed at once.
    pub at_once: usize,
    /// Calls that may wait for their turn; one more is refused.
    pub queue: usize,
}

impl Default for Cost {
    fn default() -> Self {
        Self { memory_kib: 19_456, passes: 2, lanes: 1, at_once: 2, queue: 32 }
    }
}

impl Cost {
    fn argon2(&self) -> Result<Argon2<'static>> {
        let params = Params::new(self.memory_kib, self.passes, self.lanes, None)
            .map_err(|error| Error::invalid("auth.password", format!("argon2 does not take this cost: {error}")))?;
        Ok(Argon2::from(params))
    }
}

/// Whether a stored hash costs less than new ones do, or cannot be read.
fn is_weaker(stored: &str, cost: &Cost) -> bool {
    let Ok(parsed) = PasswordHash::new(stored) else { return true };
    let Ok(params) = Params::try_from(&parsed) else { return true };
    parsed.algorithm.as_str() != "argon2id" || params.m_cost() < cost.memory_kib || params.t_cost() < cost.passes
}

/// What comparing a password with a stored hash showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The password is the right one.
    pub right: bool,
    /// It should be hashed again, because new hashes cost more.
    pub outdated: bool,
}

/// Computes hashes on the blocking pool, never more at once than memory and cores allow.
#[derive(Clone)]
pub struct Hasher {
    cost: Arc<Cost>,
    running: Arc<Semaphore>,
    admitted: Arc<Semaphore>,
    memory: Arc<Memory>,
}

/// Memory for hashes, one piece for each that is computed at once. It is kept between hashes that follow each other: given
/// back after each, the allocator would keep it for the thread it was used on, and log-ins use every thread of the blocking
/// pool in turn.
#[derive(Default)]
struct Memory {
    free: Mutex<Vec<Vec<Block>>>,
    hashes: AtomicU64,
}

impl Memory {
    fn compute(&self, argon2: &Argon2<'_>, password: &str, salt: &[u8], length: usize) -> Result<Output> {
        self.hashes.fetch_add(1, Ordering::Relaxed);
        let mut blocks = self.free.lock().pop().unwrap_or_default();
        blocks.resize(blocks.len().max(argon2.params().block_count()), Block::new());
        let mut output = [0; Output::MAX_LENGTH];
        let output = output.get_mut(..length).ok_or_else(|| Error::internal("a password hash is too long"))?;
        let done = argon2.hash_password_into_with_memory(password.as_bytes(), salt, output, &mut blocks);
        self.free.lock().push(blocks);
        done.map_err(unusable)?;
        Output::new(output).map_err(unusable)
    }

    /// Gives the memory back if no hash was begun for a while.
    async fn rest(self: Arc<Self>) {
        let hashes = self.hashes.load(Ordering::Relaxed);
        tokio::time::sleep(KEPT).await;
        if self.hashes.load(Ordering::Relaxed) == hashes {
            self.free.lock().clear();
            // the allocator hands what is free for a while to the machine when it next frees something large
            tokio::time::sleep(KEPT).await;
            drop(std::hint::black_box(vec![0_u8; 1 << 20]));
        }
    }

    /// A new password as a PHC string.
    fn hash(&self, cost: &Cost, password: &str) -> Result<String> {
        let (argon2, salt) = (cost.argon2()?, random::bytes::<16>());
        let output = self.compute(&argon2, password, &salt, Params::DEFAULT_OUTPUT_LEN)?;
        let hash = PasswordHash {
            algorithm: Algorithm::default().ident(),
            version: Some(Version::default().into()),
            params: ParamsString::try_from(argon2.params()).map_err(unusable)?,
            salt: Some(Salt::new(&salt).map_err(unusable)?),
            hash: Some(output),
        };
        Ok(hash.to_string())
    }

    /// Whether this is the password of a PHC string.
    fn verify(&self, stored: &str, password: &str) -> Result<bool> {
        let parsed = PasswordHash::new(stored).map_err(unusable)?;
        let (Some(salt), Some(expected)) = (&parsed.salt, &parsed.hash) else { return Ok(false) };
        let algorithm = Algorithm::try_from(parsed.algorithm.as_str()).map_err(unusable)?;
        let version = parsed.version.map(Version::try_from).transpose().map_err(unusable)?;
        let params = Params::try_from(&parsed).map_err(unusable)?;
        let argon2 = Argon2::new(algorithm, version.unwrap_or_default(), params);
        // an output compares in constant time
        Ok(self.compute(&argon2, password, salt, expected.len())? == *expected)
    }
}

fn unusable(error: impl std::fmt::Display) -> Error {
    Error::internal(error.to_string())
}

impl Hasher {
    /// A hasher of this cost; refuses a cost that argon2 does not take.
    pub fn new(cost: &Cost) -> Result<Self> {
        cost.argon2()?;
        Ok(Self {
            running: Arc::new(Semaphore::new(cost.at_once.max(1))),
            admitted: Arc::new(Semaphore::new(cost.at_once.max(1) + cost.queue)),
            cost: Arc::new(cost.clone()),
            memory: Arc::default(),
        })
    }

    /// Hashes a password that somebody has chosen, if `is_good` does not refuse it.
    pub async fn hash_chosen(
        &self,
        password: Secret<String>,
        is_good: impl FnOnce(&str) -> Result<()> + Send + 'static,
    ) -> Result<String> {
        self.run(move |cost, memory| {
            is_good(password.reveal())?;
            memory.hash(cost, password.reveal())
        })
        .await
    }

    /// Hashes a password to a PHC string.
    pub async fn hash(&self, password: Secret<String>) -> Result<String> {
        self.run(move |cost, memory| memory.hash(cost, password.reveal())).await
    }

    /// Compares a password with the stored hash; `None` (no such user) takes as long and is never right.
    pub async fn verify(&self, stored: Option<String>, password: Secret<String>) -> Result<Verdict> {
        self.run(move |cost, memory| {
            let Some(stored) = stored else {
                memory.hash(cost, password.reveal())?;
                return Ok(Verdict { right: false, outdated: false });
            };
            let right = memory.verify(&stored, password.reveal())?;
            Ok(Verdict { right, outdated: is_weaker(&stored, cost) })
        })
        .await
    }

    /// Waits for its turn, unless too many do already. The permits stay with the work: a caller who gives up
    /// does not make room for another hash beside the one still being computed.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cost, &Memory) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let admitted = Arc::clone(&self.admitted)
            .try_acquire_owned()
            .map_err(|_| Error::exhausted("LOGIN_QUEUE_FULL", "too many log-ins at once", Duration::from_secs(1)))?;
        let running = Arc::clone(&self.running).acquire_owned().await.map_err(Error::internal)?;
        let (cost, memory) = (Arc::clone(&self.cost), Arc::clone(&self.memory));
        let done = tokio::task::spawn_blocking(move || {
            let _permits = (admitted, running);
            work(&cost, &memory)
        });
        let done = done.await.map_err(Error::internal)?;
        tokio::spawn(Arc::clone(&self.memory).rest());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Cost {
        Cost { memory_kib: 64, passes: 1, lanes: 1, at_once: 1, queue: 1 }
    }

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn only_the_right_password_is_right() {
        let hasher = Hasher::new(&cheap()).expect("hasher");
        let stored = hasher.hash(secret("correct horse")).await.expect("hash");
        assert!(stored.starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{stored}");
        let right = hasher.verify(Some(stored.clone()), secret("correct horse")).await.expect("verify");
        assert_eq!(right, Verdict { right: true, outdated: false });
        assert!(!hasher.verify(Some(stored), secret("correct horsf")).await.expect("verify").right);
        assert!(!hasher.verify(None, secret("correct horse")).await.expect("verify").right);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn hashes_use_the_same_memory_again() {
        let hasher = Hasher::new(&Cost { at_once: 2, queue: 32, ..cheap() }).expect("hasher");
        let hashes = (0..20).map(|_| hasher.hash(secret("correct horse")));
        for hash in futures::future::join_all(hashes).await {
            hasher.verify(Some(hash.expect("hash")), secret("correct horse")).await.expect("verify");
        }
        let pieces: Vec<usize> = hasher.memory.free.lock().iter().map(Vec::len).collect();
        assert!((1..=2).contains(&pieces.len()) && pieces.iter().all(|blocks| *blocks == 64), "{pieces:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_given_back_when_nobody_logs_in_any_more() {
        let hasher = Hasher::new(&cheap()).expect("hasher");
        hasher.hash(secret("correct horse")).await.expect("hash");
        assert_eq!(hasher.memory.free.lock().len(), 1);
        tokio::time::sleep(KEPT * 2).await;
        assert_eq!(hasher.memory.free.lock().len(), 0);
    }

    #[tokio::test]
    async fn a_hash_of_the_library_is_understood() {
        use argon2::PasswordHasher as _;
        let theirs = cheap().argon2().expect("cost").hash_password_with_salt(b"correct horse", b"0123456789abcdef");
        let stored = theirs.expect("hash").to_string();
        let hasher = Hasher::new(&cheap()).expect("hasher");
        assert!(hasher.verify(Some(stored.clone()), secret("correct horse")).await.expect("verify").right);
        assert!(!hasher.verify(Some(stored), secret("correct horsf")).await.expect("verify").right);
    }

    #[tokio::test]
    async fn a_cheaper_hash_is_outdated() {
        let stored = Hasher::new(&cheap()).expect("hasher").hash(secret("correct horse")).await.expect("hash");
        let dearer = Hasher::new(&Cost { memory_kib: 128, ..cheap() }).expect("hasher");
        let verdict = dearer.verify(Some(stored), secret("correct horse")).await.expect("verify");
        assert_eq!(verdict, Verdict { right: true, outdated: true });
    }

    #[tokio::test]
    async fn more_calls_than_the_queue_holds_are_told_to_come_back() {
        let hasher = Hasher::new(&cheap()).expect("hasher");
        let held = hasher.admitted.clone().acquire_many_owned(2).await.expect("permits");
        let refused = hasher.hash(secret("correct horse")).await.expect_err("the queue is full");
        assert_eq!(refused.reason(), "LOGIN_QUEUE_FULL");
        assert!(refused.retry_after().is_some());
        drop(held);
        hasher.hash(secret("correct horse")).await.expect("there is room again");
    }
}
