//! Runs a service's loops: again when they fail, until the service stops.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use sensormesh_observability::metrics;
use sensormesh_types::random;
use tokio::time::Instant;

use super::health::Health;
use crate::Shutdown;
use crate::service::{Condition, Task};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Most of what a loop waits for is another service: it is seen again this soon after it came back.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A loop that ran this long had recovered: its next failure is a first one again.
const RECOVERED: Duration = Duration::from_secs(60);

/// Runs one loop until it is done or `shutdown`.
pub(super) async fn run(service: &'static str, task: Task, health: Health, shutdown: Shutdown) {
    let restarts = metrics::task_restarts(service, task.name);
    let mut pause = FIRST_PAUSE;
    loop {
        health.task(task.name, Condition::Well);
        let began = Instant::now();
        let run = task.run.clone();
        let child = shutdown.child();
        let ended = AssertUnwindSafe(async move { run(child).await }).catch_unwind().await;
        let why = match ended {
            Ok(Ok(())) => return,
            _ if shutdown.is_requested() => return,
            Ok(Err(error)) => {
                tracing::warn!(service, task = task.name, ?error, "a task failed and is started again");
                error.to_string()
            }
            Err(_) => {
                tracing::error!(service, task = task.name, "a task panicked and is started again");
                "panicked".to_owned()
            }
        };
        health.task(task.name, Condition::Degraded(why));
        restarts.add(1);
        if began.elapsed() >= RECOVERED {
            pause = FIRST_PAUSE;
        }
        if shutdown.cut(tokio::time::sleep(pause.mul_f64(0.5 + random::fraction() / 2.0))).await.is_none() {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use sensormesh_types::{Clock, Error};

    use super::*;
    use crate::ServerLimits;
    use crate::server::Drain;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_fails_or_panics_is_started_again() {
        let runs = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&runs);
        let shutdown = Shutdown::new();
        let task = Task {
            name: "follow",
            run: Arc::new(move |_| {
                let run = counted.fetch_add(1, Ordering::SeqCst);
                Box::pin(async move {
                    match run {
                        0 => Err(Error::internal("first")),
                        1 => panic!("second"),
                        _ => Ok(()),
                    }
                })
            }),
        };
        let drain = Drain::new(&ServerLimits::mesh(), &shutdown);
        let health = Health::new("tasks-test", &Clock::fixed(0), Vec::new(), &drain);
        run("tasks-test", task, health.clone(), shutdown).await;
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert_eq!(health.report().await.parts, [("follow", Condition::Well)]);
    }
}
