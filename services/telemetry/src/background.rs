//! Computing that may wait: on threads that run where a processor has nothing else to do, so that an export of millions of readings
//! does not slow what is taken and asked for meanwhile.

use sensormesh_types::{Error, Result};
use tokio::runtime::{Builder, Runtime};

/// As many threads as there are processors, each of which ends when it had nothing to do for ten seconds.
#[derive(Debug)]
pub struct Background(Option<Runtime>);

impl Background {
    /// No thread is started before there is something to do.
    pub fn new() -> Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut threads = Builder::new_current_thread();
        threads.thread_name("background").max_blocking_threads(processors).on_thread_start(give_way);
        Ok(Self(Some(threads.build().map_err(Error::internal)?)))
    }

    /// What `work` returns. It has no part in the call that it is done for: no deadline, no trace.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        match &self.0 {
            Some(threads) => threads.spawn_blocking(work).await.map_err(Error::internal)?,
            None => work(),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // a runtime waits for its threads where it is dropped, which an asynchronous task must not
        if let Some(threads) = self.0.take() {
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
    if let Err(error) = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle) {
        tracing::warn!(?error, "exports compete with everything else for the processor");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_it_does_is_done_on_threads_that_give_way() {
        let background = Background::new().expect("threads");
        let policy = || {
            // sched(7): the 41st field of /proc/thread-self/stat, of which the second may hold spaces
            let stat = std::fs::read_to_string("/proc/thread-self/stat").map_err(Error::internal)?;
            let rest = stat.rsplit(')').next().unwrap_or_default();
            Ok(rest.split_whitespace().nth(38).map(str::to_owned))
        };
        let (here, there) = (policy().expect("a policy"), background.run(policy).await.expect("a policy"));
        assert_eq!(here.as_deref(), Some("0"));
        assert_eq!(there.as_deref(), Some("5"), "SCHED_IDLE");
        let failed = background.run(|| -> Result<()> { panic!("on purpose") }).await.expect_err("a panic");
        assert_eq!(failed.code(), sensormesh_types::Code::Internal);
        assert_eq!(background.run(|| Ok(42)).await.expect("goes on"), 42);
    }
}
