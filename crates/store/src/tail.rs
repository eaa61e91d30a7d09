//! The end of the log, as the watchers of this process know it: how far it goes, and its last entries, read once for all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::log::LogEntry;

/// The most that is kept in memory for all watchers together.
const BYTES: usize = 1 << 20;

/// How far the log goes, and its last entries.
pub(crate) struct Tail {
    head: watch::Sender<u64>,
    recent: Mutex<Ring>,
}

/// An unbroken run of the last entries that this process committed.
#[derive(Default)]
struct Ring {
    entries: VecDeque<Arc<LogEntry>>,
    bytes: usize,
}

/// What the entries in memory have to say to a reader.
pub(crate) enum Recent {
    /// What comes next; nothing if the reader has seen all there is.
    Entries(Vec<Arc<LogEntry>>),
    /// Ask the log.
    Unknown,
}

impl Tail {
    pub(crate) fn new(seq: u64) -> Self {
        Self { head: watch::Sender::new(seq), recent: Mutex::default() }
    }

    /// The log goes up to `seq` at least.
    pub(crate) fn reached(&self, seq: u64) {
        self.head.send_if_modified(|known| {
            let newer = seq > *known;
            *known = seq.max(*known);
            newer
        });
    }

    /// These entries were committed here.
    pub(crate) fn committed(&self, entries: Vec<LogEntry>) {
        let Some(last) = entries.last().map(|entry| entry.seq) else { return };
        if self.is_watched() {
            self.recent.lock().extend(entries);
        } else {
            self.recent.lock().clear();
        }
        self.reached(last);
    }

    /// What comes after `seq`, up to about `bytes`.
    pub(crate) fn after(&self, seq: u64, bytes: u64) -> Recent {
        let head = *self.head.borrow();
        self.recent.lock().after(seq, head, usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    /// Whether anybody waits for something new.
    pub(crate) fn is_watched(&self) -> bool {
        self.head.receiver_count() > 0
    }

    /// How far the log goes, for one watcher as long as it lives.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}

/// Waits until the log goes beyond `seq`, at most `patience`.
pub(crate) async fn beyond(head: &mut watch::Receiver<u64>, seq: u64, patience: Duration) {
    tokio::time::timeout(patience, head.wait_for(|known| *known > seq)).await.ok();
}

impl Ring {
    /// Commits may report in another order than they happened, and other replicas commit too:
    /// what does not continue the run begins a new one.
    fn extend(&mut self, entries: Vec<LogEntry>) {
        let (first, last) = match (entries.first(), self.entries.back()) {
            (Some(first), Some(last)) => (first.seq, last.seq),
            _ => (0, 0),
        };
        if first <= last && last > 0 {
            return;
        }
        if first != last + 1 {
            self.clear();
        }
        for entry in entries {
            self.bytes += entry.size();
            self.entries.push_back(Arc::new(entry));
        }
        while self.bytes > BYTES
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= oldest.size();
        }
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes = 0;
    }

    fn after(&self, seq: u64, head: u64, bytes: usize) -> Recent {
        let (Some(first), Some(last)) = (self.entries.front(), self.entries.back()) else { return Recent::Unknown };
        if seq + 1 < first.seq || seq > last.seq || (seq == last.seq && head > seq) {
            return Recent::Unknown;
        }
        let skip = usize::try_from(seq + 1 - first.seq).unwrap_or(usize::MAX);
        let mut taken = 0;
        let fits = |entry: &&Arc<LogEntry>| {
            let fits = taken < bytes;
            taken += entry.size();
            fits
        };
        Recent::Entries(self.entries.iter().skip(skip).take_while(fits).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensormesh_types::Author;

    fn entry(seq: u64) -> LogEntry {
        LogEntry {
            seq,
            time: 0,
            tenant: String::new(),
            site: String::new(),
            kind: String::new(),
            subject: String::new(),
            author: Author::default(),
            changes: String::new(),
            payload: Vec::new(),
            hash: [0; 32],
        }
    }

    fn seqs(recent: Recent) -> Option<Vec<u64>> {
        match recent {
            Recent::Entries(entries) => Some(entries.iter().map(|entry| entry.seq).collect()),
            Recent::Unknown => None,
        }
    }

    #[test]
    fn a_run_answers_only_for_what_it_holds_without_a_gap() {
        let mut ring = Ring::default();
        assert_eq!(seqs(ring.after(0, 0, 1000)), None);
        ring.extend(vec![entry(5), entry(6)]);
        ring.extend(vec![entry(7)]);
        assert_eq!(seqs(ring.after(4, 7, 1000)), Some(vec![5, 6, 7]));
        assert_eq!(seqs(ring.after(6, 7, 1000)), Some(vec![7]));
        assert_eq!(seqs(ring.after(7, 7, 1000)), Some(vec![]));
        assert_eq!(seqs(ring.after(7, 8, 1000)), None, "another replica wrote 8");
        assert_eq!(seqs(ring.after(3, 7, 1000)), None, "4 is not here");
        ring.extend(vec![entry(9)]);
        assert_eq!(seqs(ring.after(7, 9, 1000)), None, "8 is not here");
        ring.extend(vec![entry(8)]);
        assert_eq!(seqs(ring.after(8, 9, 1000)), Some(vec![9]), "a late report changes nothing");
    }

    #[test]
    fn a_page_is_cut_by_size_and_never_empty_where_there_is_something() {
        let mut ring = Ring::default();
        ring.extend((1..=9).map(entry).collect());
        assert_eq!(seqs(ring.after(0, 9, 1)), Some(vec![1]));
        assert_eq!(seqs(ring.after(0, 9, 129)), Some(vec![1, 2]));
    }
}
