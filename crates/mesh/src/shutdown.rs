//! The wish to stop, seen by everything that runs.

use tokio_util::sync::CancellationToken;

/// Tells tasks, listeners and handlers to finish. Clones see the same wish; a child can be told alone.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Nobody wants to stop yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everything that holds a clone or a child to finish.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Waits until stopping is asked for.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Whether stopping was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// One that follows this one and can be asked alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Runs `work` until it is done or stopping is asked for; `None` where it was cut.
    pub async fn cut<F: Future>(&self, work: F) -> Option<F::Output> {
        self.0.run_until_cancelled(work).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_can_be_stopped_alone_and_stops_with_its_parent() {
        let parent = Shutdown::new();
        let (one, other) = (parent.child(), parent.child());
        one.request();
        assert!(one.is_requested() && !other.is_requested() && !parent.is_requested());
        parent.request();
        other.requested().await;
        assert_eq!(parent.cut(std::future::pending::<()>()).await, None);
    }
}
