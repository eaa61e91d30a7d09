//! How near the process is to the memory it may use, and what it does without before it is killed for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use sensormesh_types::{Error, Result, random};
use tokio::time::Instant;

/// How often the kernel is asked, at most.
const EVERY: Duration = Duration::from_millis(50);
/// When who was refused may come back, about.
const RETRY: Duration = Duration::from_secs(1);
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
    configured: Option<u64>,
    group: Option<Group>,
    began: Instant,
    /// When the kernel was asked last, microseconds since `began`.
    asked: AtomicU64,
    short: AtomicU8,
}

impl Known {
    /// What is used, and what may be, bytes: of the group where that is what bounds it, with all its processes.
    fn now(&self) -> Option<(u64, u64)> {
        let group = self.group.as_ref().and_then(|group| Some((group.used().or_else(own)?, group.limit()?)));
        let process = self.configured.and_then(|limit| Some((own()?, limit)));
        [group, process]
            .into_iter()
            .flatten()
            .max_by(|a, b| (a.0 as f64 / a.1 as f64).total_cmp(&(b.0 as f64 / b.1 as f64)))
    }
}

impl Memory {
    /// So many bytes (0 = any number), and what the process's control group allows. Without either there is no limit.
    pub(crate) fn new(configured: u64) -> Self {
        let configured = Some(configured).filter(|limit| *limit > 0);
        let group = Group::of_this_process(Path::new("/sys/fs/cgroup"));
        let known =
            Known { configured, group, began: Instant::now(), asked: AtomicU64::new(0), short: AtomicU8::new(0) };
        Self((known.configured.is_some() || known.group.is_some()).then(|| Arc::new(known)))
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
            let short = known.now().map_or(Short::Nothing, |(used, limit)| Short::of(used, limit));
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
        let (used, limit) = self.0.as_ref().and_then(|known| known.now()).unwrap_or_default();
        Some(format!("{} MiB of {} MiB of memory are used: {without}", used >> 20, limit >> 20))
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_ref().and_then(|known| known.now()) {
            Some((_, limit)) => write!(f, "{} MiB", limit >> 20),
            None => write!(f, "unlimited"),
        }
    }
}

/// Bytes that this process has to itself, without pages of files, which the kernel takes back.
fn own() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The control group with the least limit among that of this process and those above it.
struct Group {
    folder: PathBuf,
    /// The files are those of version 1.
    first: bool,
}

impl Group {
    /// `None` where no group has a limit.
    fn of_this_process(root: &Path) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mut all = Vec::new();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let first = controllers.split(',').any(|controller| controller == "memory");
            if !first && !controllers.is_empty() {
                continue;
            }
            let base = if first { root.join("memory") } else { root.to_owned() };
            let own = base.join(path.trim_start_matches('/'));
            // within a container the group may be mounted as the root, whatever its path
            let folders = own.ancestors().take_while(|folder| folder.starts_with(&base));
            all.extend(folders.map(|folder| Self { folder: folder.to_owned(), first }));
        }
        all.into_iter().filter(|group| group.limit().is_some()).min_by_key(Self::limit)
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(file)).ok()
    }

    /// Bytes; it can be changed while processes run.
    fn limit(&self) -> Option<u64> {
        let text = self.read(if self.first { "memory.limit_in_bytes" } else { "memory.max" })?;
        text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
    }

    /// Bytes that its processes have to themselves.
    fn used(&self) -> Option<u64> {
        let name = if self.first { "total_rss " } else { "anon " };
        self.read("memory.stat")?.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
    }
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
        let before = own().expect("known");
        let more = vec![1_u8; 256 << 20];
        let after = own().expect("known");
        assert!(after > before + (128 << 20), "{before} {after} {}", more.len());
        assert_eq!(Memory::new(1 << 20).short(), Short::Calls);
    }

    #[test]
    fn of_several_groups_the_least_limit_holds() {
        let root = tempfile::tempdir().expect("a folder");
        let line = fs::read_to_string("/proc/self/cgroup").expect("known");
        let Some(path) = line.lines().find_map(|line| line.split_once(":memory:").or(line.split_once("0::"))) else {
            return sensormesh_testkit::skip("no control groups here");
        };
        let first = line.contains(":memory:");
        let base = if first { root.path().join("memory") } else { root.path().to_owned() };
        let file = if first { "memory.limit_in_bytes" } else { "memory.max" };
        let folder = base.join(path.1.trim_start_matches('/'));
        fs::create_dir_all(&folder).expect("made");
        assert!(Group::of_this_process(root.path()).is_none());
        fs::write(folder.join(file), "max\n").expect("written");
        assert!(Group::of_this_process(root.path()).is_none());
        fs::write(base.join(file), "1000000\n").expect("written");
        let group = Group::of_this_process(root.path()).expect("found");
        assert_eq!((group.limit(), group.used()), (Some(1_000_000), None));
        let name = if first { "total_rss" } else { "anon" };
        fs::write(base.join("memory.stat"), format!("cache 7\n{name} 900000\n")).expect("written");
        assert_eq!(group.used(), Some(900_000));
    }
}
