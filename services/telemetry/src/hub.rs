//! What became durable lately, for those who watch: one ring that all of them read at their own pace.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use prost::bytes::Bytes;
use tokio::sync::watch;

use crate::batch::{self, Group};
use crate::catalog::Series;

/// A batch that has become durable.
#[derive(Debug)]
pub struct Entry {
    /// Its place in the log.
    pub seq: u64,
    /// The tenant it belongs to.
    pub tenant: Arc<str>,
    /// It was sent as backfill.
    pub backfill: bool,
    /// Its readings.
    pub groups: Vec<Group>,
    /// The same as the log keeps it.
    pub body: Bytes,
    /// The series of which readings were deleted here, and how often that was; then there are no others.
    pub deleted: Option<(Arc<Series>, u64)>,
    packed: OnceLock<Vec<Bytes>>,
}

impl Entry {
    /// A batch at its place.
    pub fn new(seq: u64, tenant: Arc<str>, backfill: bool, groups: Vec<Group>, body: Bytes) -> Self {
        Self { seq, tenant, backfill, groups, body, deleted: None, packed: OnceLock::new() }
    }

    /// The place where readings of a series were deleted, if they were.
    pub fn telling(self, deleted: Option<(Arc<Series>, u64)>) -> Self {
        Self { deleted, ..self }
    }

    /// Its groups as the log keeps them, each by itself; one for each of `groups`.
    pub fn packed(&self) -> &[Bytes] {
        self.packed.get_or_init(|| batch::packed(&self.body).unwrap_or_default())
    }

    /// Roughly the memory it takes.
    pub fn size(&self) -> usize {
        let columns: usize =
            self.groups.iter().map(|g| g.times.len() * 8 * (g.channels.len() + 1) + g.channels.len() * 64).sum();
        self.body.len() + columns + 128
    }
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    size: usize,
}

/// The ring, and the place up to which everything can be read.
#[derive(Debug)]
pub struct Hub {
    ring: RwLock<Ring>,
    limit: usize,
    head: watch::Sender<u64>,
    /// Held for writing while what was committed is put into memory: a reader sees all of a commit or nothing.
    applying: RwLock<()>,
}

/// Where a reader stands in the ring.
#[derive(Debug)]
pub enum Next {
    /// These batches follow.
    Entries(Vec<Arc<Entry>>),
    /// What follows is no longer in memory: the log has it.
    Past,
}

impl Hub {
    /// A ring of at most this many bytes, at the end of a log whose last batch is `head`.
    pub fn new(limit: usize, head: u64) -> Self {
        Self { ring: RwLock::default(), limit, head: watch::Sender::new(head), applying: RwLock::new(()) }
    }

    /// The last batch that can be read.
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Follows the head.
    pub fn follow_head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// While it is held, tails and head agree.
    pub fn steady(&self) -> RwLockReadGuard<'_, ()> {
        self.applying.read()
    }

    /// Must be held by whoever changes tails after a commit, until [`Hub::publish`].
    pub fn applying(&self) -> RwLockWriteGuard<'_, ()> {
        self.applying.write()
    }

    /// Shows batches, in order, to everybody.
    pub fn publish(&self, entries: Vec<Arc<Entry>>, head: u64) {
        let mut ring = self.ring.write();
        for entry in entries {
            ring.size += entry.size();
            ring.entries.push_back(entry);
        }
        while ring.size > self.limit && ring.entries.len() > 1 {
            if let Some(entry) = ring.entries.pop_front() {
                ring.size -= entry.size();
            }
        }
        drop(ring);
        self.head.send_replace(head);
    }

    /// Begins anew at another place; what was shown before is no longer in memory.
    pub fn restart(&self, head: u64) {
        *self.ring.write() = Ring::default();
        self.head.send_replace(head);
    }

    /// The batches behind `after`, at most about `bytes` of them.
    pub fn next(&self, after: u64, bytes: usize) -> Next {
        if after >= self.head() {
            return Next::Entries(Vec::new());
        }
        let ring = self.ring.read();
        if ring.entries.front().is_none_or(|first| first.seq > after + 1) {
            return Next::Past;
        }
        let (mut taken, mut size) = (Vec::new(), 0);
        // not by counting: after a restore numbers are left out
        let skip = ring.entries.partition_point(|entry| entry.seq <= after);
        for entry in ring.entries.iter().skip(skip) {
            if size > 0 && size + entry.size() > bytes {
                break;
            }
            size += entry.size();
            taken.push(Arc::clone(entry));
        }
        Next::Entries(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seq: u64) -> Arc<Entry> {
        Arc::new(Entry::new(seq, "acme".into(), false, Vec::new(), Bytes::from(vec![0; 872])))
    }

    fn seqs(next: Next) -> Option<Vec<u64>> {
        match next {
            Next::Entries(entries) => Some(entries.iter().map(|e| e.seq).collect()),
            Next::Past => None,
        }
    }

    #[test]
    fn a_reader_goes_on_where_it_stood_or_learns_that_it_is_too_late() {
        let hub = Hub::new(3_000, 4);
        assert_eq!(seqs(hub.next(4, 1 << 20)), Some(vec![]));
        assert_eq!(seqs(hub.next(2, 1 << 20)), None);
        for seq in 5..=10 {
            hub.publish(vec![entry(seq)], seq);
        }
        assert_eq!(hub.head(), 10);
        assert_eq!(seqs(hub.next(7, 1 << 20)), Some(vec![8, 9, 10]));
        assert_eq!(seqs(hub.next(8, 1 << 20)), Some(vec![9, 10]));
        assert_eq!(seqs(hub.next(7, 10)), Some(vec![8]));
        assert_eq!(seqs(hub.next(6, 1 << 20)), None);
        assert_eq!(seqs(hub.next(10, 1 << 20)), Some(vec![]));
        hub.publish(vec![entry(1000)], 1000);
        hub.publish(vec![entry(1001)], 1001);
        assert_eq!(seqs(hub.next(10, 1 << 20)), Some(vec![1000, 1001]));
        assert_eq!(seqs(hub.next(1000, 1 << 20)), Some(vec![1001]));
    }
}
