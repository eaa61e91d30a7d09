//! The end of the log, as the watchers of this process know it.

use std::time::Duration;

use tokio::sync::watch;

/// The last sequence number that is known to be committed.
pub(crate) struct Tail(watch::Sender<u64>);

impl Tail {
    pub(crate) fn new(seq: u64) -> Self {
        Self(watch::Sender::new(seq))
    }

    /// The log goes up to `seq` at least.
    pub(crate) fn reached(&self, seq: u64) {
        self.0.send_if_modified(|known| {
            let newer = seq > *known;
            *known = seq.max(*known);
            newer
        });
    }

    /// Whether anybody waits for something new.
    pub(crate) fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Waits until the log goes beyond `seq`, at most `patience`.
    pub(crate) async fn beyond(&self, seq: u64, patience: Duration) {
        let mut seen = self.0.subscribe();
        tokio::time::timeout(patience, seen.wait_for(|known| *known > seq)).await.ok();
    }
}
