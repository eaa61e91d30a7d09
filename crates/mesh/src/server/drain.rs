//! How a server stops: in steps, and always in less than 25 seconds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::{ServerLimits, Shutdown};

/// Calls that should be let finish when the server stops. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<(AtomicUsize, Notify)>);

impl Calls {
    /// Counts one call until the guard is dropped.
    pub fn enter(&self) -> Call {
        self.0.0.fetch_add(1, Ordering::AcqRel);
        Call(self.clone())
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.0.0.load(Ordering::Acquire)
    }

    async fn none(&self) {
        loop {
            let changed = self.0.1.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.running() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// One running call.
#[derive(Debug)]
pub struct Call(Calls);

impl Drop for Call {
    fn drop(&mut self) {
        if self.0.0.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.0.1.notify_waiters();
        }
    }
}

/// The steps of stopping, each a wish that everything concerned can wait for.
#[derive(Clone, Debug)]
pub struct Drain {
    /// The wish itself: the server says that it is not ready and goes on for a moment.
    pub requested: Shutdown,
    /// Nothing new is accepted, connections are told to go away, tasks stop.
    pub closing: Shutdown,
    /// Streams end with UNAVAILABLE and a hint to resume elsewhere.
    pub ending: Shutdown,
    /// What is left is cut.
    pub cut: Shutdown,
    /// Calls that should be let finish before streams end.
    pub calls: Calls,
    /// Streams that should end by themselves before the cut.
    pub streams: Calls,
    notice: Duration,
    patience: Duration,
    ends: Duration,
}

impl Drain {
    /// The steps that follow `shutdown`, at the pace of `limits`. Nothing happens before [`Drain::run`].
    pub fn new(limits: &ServerLimits, shutdown: &Shutdown) -> Self {
        let whole = limits.drain_notice + limits.drain_calls + limits.drain_streams;
        let shrink = |part: Duration| {
            if whole <= limits.drain() {
                part
            } else {
                part.mul_f64(limits.drain().as_secs_f64() / whole.as_secs_f64())
            }
        };
        Self {
            requested: shutdown.clone(),
            closing: Shutdown::new(),
            ending: Shutdown::new(),
            cut: Shutdown::new(),
            calls: Calls::default(),
            streams: Calls::default(),
            notice: shrink(limits.drain_notice),
            patience: shrink(limits.drain_calls),
            ends: shrink(limits.drain_streams),
        }
    }

    /// The same steps for a door that stays open until everything is cut.
    #[must_use]
    pub fn to_the_last(&self) -> Self {
        Self { closing: self.cut.clone(), ..self.clone() }
    }

    /// From closing to the cut: what tasks have to end by themselves.
    pub(super) fn rest(&self) -> Duration {
        self.patience + self.ends
    }

    /// Takes the steps once stopping is asked for; done when everything has ended or is cut.
    pub async fn run(&self) {
        self.requested.requested().await;
        tokio::time::sleep(self.notice).await;
        self.closing.request();
        let _ = tokio::time::timeout(self.patience, self.calls.none()).await;
        self.ending.request();
        let all = async {
            self.calls.none().await;
            self.streams.none().await;
        };
        let _ = tokio::time::timeout(self.ends, all).await;
        self.cut.request();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_calls_and_not_for_ever() {
        let limits = ServerLimits::mesh();
        let shutdown = Shutdown::new();
        let drain = Drain::new(&limits, &shutdown);
        let call = drain.calls.enter();
        let _stream = drain.streams.enter();
        shutdown.request();
        let began = tokio::time::Instant::now();
        let running = tokio::spawn({
            let drain = drain.clone();
            async move { drain.run().await }
        });
        drain.closing.requested().await;
        assert_eq!(began.elapsed().as_secs(), 3);
        drop(call);
        drain.ending.requested().await;
        assert_eq!(began.elapsed().as_secs(), 3);
        running.await.expect("the drain ends");
        assert_eq!(began.elapsed().as_secs(), 8);
    }
}
