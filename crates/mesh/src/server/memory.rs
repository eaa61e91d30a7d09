//! How near the process is to the memory it may use, and what it does without before it is killed for it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use sensormesh_types::{Error, Result, random};
use tokio::time::Instant;

/// How often the kernel is asked, at most.
const EVERY: Duration = Duration::from_millis(50);
/// When who was refused may come back, about.
const RETRY: Duration = Duration::from_secs(1);
/// The size of a page on every machine that this runs on, bytes.
const PAGE: u64 = 4096;
/// What a control group says that sets no limit is above this.
const NO_LIMIT: u64 = 1 << 60;

/// What is done without, each with all before it. After Envoy's overload manager, whose actions have like thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Short {
    /// Nothing.
    Nothing,
    /// From 85 %: reads that cost more than others.
    CostlyReads,
    /// From 90 %: streams that begin.
    Streams,
    /// From 95 %: calls, and connections.
    Calls,
}

impl Short {
    fn of(used: u64, limit: u64) -> Self {
        match used.saturating_mul(100) / limit.max(1) {
            ..85 => Self::Nothing,
            85..90 => Self::CostlyReads,
            90..95 => Self::Streams,
            95.. => Self::Calls,
        }
    }
}

/// The memory of this process. Cheap to clone.
#[derive(Clone)]
pub struct Memory(Option<Arc<Known>>);

struct Known {
    limit: u64,
    began: Instant,
    /// When the kernel was asked last, microseconds since `began`.
    asked: AtomicU64,
    short: AtomicU8,
}

impl Memory {
    /// So many bytes; 0 = what the process's control group allows. Without one there is no limit.
    pub(crate) fn new(configured: u64) -> Self {
        let limit = Some(configured).filter(|limit| *limit > 0).or_else(|| allowed(Path::new("/sys/fs/cgroup")));
        Self(limit.map(|limit| {
            Arc::new(Known { limit, began: Instant::now(), asked: AtomicU64::new(0), short: AtomicU8::new(0) })
        }))
    }

    /// Without a limit.
    pub(crate) fn unlimited() -> Self {
        Self(None)
    }

    /// What has to be done without now.
    pub(crate) fn short(&self) -> Short {
        let Some(known) = &self.0 else { return Short::Nothing };
        let now = u64::try_from(known.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let asked = known.asked.load(Ordering::Relaxed);
        let due = asked == 0 || now.saturating_sub(asked) > EVERY.as_micros() as u64;
        if due && known.asked.compare_exchange(asked, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let short = used().map_or(Short::Nothing, |used| Short::of(used, known.limit));
            known.short.store(short as u8, Ordering::Relaxed);
        }
        match known.short.load(Ordering::Relaxed) {
            0 => Short::Nothing,
            1 => Short::CostlyReads,
            2 => Short::Streams,
            _ => Short::Calls,
        }
    }

    /// Whether a call may be made, which is a stream, or a read that costs more than others. Who asks for much is refused first,
    /// so that nobody has to kill the process: RESOURCE_EXHAUSTED with reason `MEMORY_SHORT` and when to try again.
    pub fn admit(&self, stream: bool, costly: bool) -> Result<()> {
        let bearable = match (stream, costly) {
            (_, true) => Short::Nothing,
            (true, false) => Short::CostlyReads,
            (false, false) => Short::Streams,
        };
        if self.short() <= bearable {
            return Ok(());
        }
        let message = "the service is short of memory; try again later";
        Err(Error::exhausted("MEMORY_SHORT", message, RETRY.mul_f64(0.5 + random::fraction())))
    }

    /// Whether there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// What is done without, in words; nothing if nothing is.
    pub(crate) fn complaint(&self) -> Option<String> {
        let without = match self.short() {
            Short::Nothing => return None,
            Short::CostlyReads => "costly reads are refused",
            Short::Streams => "costly reads and new streams are refused",
            Short::Calls => "calls are refused",
        };
        Some(format!("{} MiB of {self} of memory are used: {without}", used().unwrap_or(0) >> 20))
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(known) => write!(f, "{} MiB", known.limit >> 20),
            None => write!(f, "unlimited"),
        }
    }
}

/// Bytes that this process has to itself: what is resident, but for pages of files, which the kernel takes back.
fn used() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = statm.split_whitespace().skip(1).map(|field| field.parse::<u64>());
    let (resident, shared) = (pages.next()?.ok()?, pages.next()?.ok()?);
    Some(resident.saturating_sub(shared) * PAGE)
}

/// What the control group of this process allows, bytes: version 2 (`memory.max` of it and of those above it), or version 1.
fn allowed(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (base, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|controller| controller == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let own = base.join(path.trim_start_matches('/'));
        // within a container the group may be mounted as the root, whatever its path
        for folder in own.ancestors().take_while(|folder| folder.starts_with(&base)) {
            let limit = fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok());
            least = [least, limit.filter(|limit| *limit < NO_LIMIT)].into_iter().flatten().min();
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_after_another_is_done_without() {
        let short = |used| Short::of(used, 1000);
        assert_eq!(
            [0, 849, 850, 899, 900, 949, 950, 2000].map(short),
            [
                Short::Nothing,
                Short::Nothing,
                Short::CostlyReads,
                Short::CostlyReads,
                Short::Streams,
                Short::Streams,
                Short::Calls,
                Short::Calls,
            ]
        );
    }

    #[test]
    fn what_the_process_uses_is_known() {
        let before = used().expect("known");
        let more = vec![1_u8; 32 << 20];
        let after = used().expect("known");
        assert!(after > before + (30 << 20), "{before} {after} {}", more.len());
        assert_eq!(Memory::new(1 << 40).short(), Short::Nothing);
        assert_eq!(Memory::new(1 << 20).short(), Short::Calls);
    }
}
