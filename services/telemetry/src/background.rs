//! Computing that may wait: on threads that run where a processor has nothing else to do, so that an export of millions of readings
//! does not slow what is taken and asked for meanwhile.

use sensormesh_types::{Caller, Error, Result};
use tokio::runtime::{Builder, Runtime};

use crate::turns::Turns;

/// As many threads as there are processors, each of which ends when it had nothing to do for ten seconds. One caller never has all
/// of them, where there are several.
#[derive(Debug)]
pub struct Background {
    threads: Option<Runtime>,
    turns: Turns,
}

impl Background {
    /// No thread is started before there is something to do.
    pub fn new() -> Result<Self> {
        Self::of(std::thread::available_parallelism().map_or(1, usize::from))
    }

    fn of(processors: usize) -> Result<Self> {
        let mut threads = Builder::new_current_thread();
        threads.thread_name("background").max_blocking_threads(processors).on_thread_start(give_way);
        let threads = Some(threads.build().map_err(Error::internal)?);
        Ok(Self { threads, turns: Turns::new(u32::try_from(processors).unwrap_or(u32::MAX)) })
    }

    /// What `work` returns, in the caller's turn. Given up before it has begun, it never begins.
    pub async fn run<T: Send + 'static>(
        &self,
        caller: &Caller,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(threads) = &self.threads else { return work() };
        let turn = self.turns.wait(caller).await?;
        let job = threads.spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        job.await.map_err(Error::internal)?
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // a runtime waits for its threads where it is dropped, which an asynchronous task must not
        if let Some(threads) = self.threads.take() {
            threads.shutdown_background();
        }
    }
}

/// From now on this thread runs only where nobody else wants to.
#[cfg(target_os = "linux")]
fn give_way() {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    // SCHED_IDLE, sched(7): also the least nice thread of another kind is preferred, at once
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    // where the process is nice the policy is set and the priority is not, which does not matter
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
        tracing::debug!(?error, "the priority of a thread for exports was not set");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use sensormesh_types::{Principal, Scope};

    use super::*;

    fn caller() -> Caller {
        let (principal, scope) = (Principal::Service { name: "test".to_owned() }, Scope::tenant_of("acme"));
        Caller {
            principal,
            scope,
            peer: None,
            traceparent: String::new(),
            address: String::new(),
            request_id: String::new(),
            accepted_time: None,
        }
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_begun() {
        let (background, caller) = (Background::of(1).expect("a thread"), caller());
        let (begin, wait) = std::sync::mpsc::channel::<()>();
        let first = background.run(&caller, move || wait.recv().map_err(Error::internal));
        let mut first = std::pin::pin!(first);
        assert!(futures::poll!(first.as_mut()).is_pending());
        let begun = Arc::new(AtomicBool::new(false));
        let work = Arc::clone(&begun);
        let given_up = background.run(&caller, move || {
            work.store(true, Ordering::SeqCst);
            Ok(())
        });
        assert!(tokio::time::timeout(Duration::from_millis(20), given_up).await.is_err());
        begin.send(()).expect("waits");
        first.await.expect("done");
        background.run(&caller, || Ok(())).await.expect("goes on");
        assert!(!begun.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn what_it_does_is_done_on_threads_that_give_way() {
        let background = Background::new().expect("threads");
        let policy = || {
            // sched(7): the 41st field of /proc/thread-self/stat, of which the second may hold spaces
            let stat = std::fs::read_to_string("/proc/thread-self/stat").map_err(Error::internal)?;
            let rest = stat.rsplit(')').next().unwrap_or_default();
            Ok(rest.split_whitespace().nth(38).map(str::to_owned))
        };
        let (here, there) = (policy().expect("a policy"), background.run(&caller(), policy).await.expect("a policy"));
        assert_eq!(here.as_deref(), Some("0"));
        assert_eq!(there.as_deref(), Some("5"), "SCHED_IDLE");
        let failed = background.run(&caller(), || -> Result<()> { panic!("on purpose") }).await.expect_err("a panic");
        assert_eq!(failed.code(), sensormesh_types::Code::Internal);
        assert_eq!(background.run(&caller(), || Ok(42)).await.expect("goes on"), 42);
    }
}
