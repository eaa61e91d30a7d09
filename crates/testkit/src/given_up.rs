//! Calls that are given up while they wait: the future of their handler is dropped, as when a process runs out of time.

use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use sensormesh_types::{AuditRecord, Code, Result};
use tokio::time::{Instant, timeout};

/// How long a call that is made again may take, and how long what was given up may still be on its way.
const PATIENCE: Duration = Duration::from_secs(20);
const SETTLED: Duration = Duration::from_secs(3);
/// No handler waits so often.
const MANY: usize = 200;
/// Calls that were not given up, in a row, after which none would be.
const ENOUGH: usize = 4;

/// Gives up one call of the service that it was put around.
#[derive(Clone, Debug, Default)]
pub struct GivenUp {
    /// At which wait of the next call; 0 = it is left alone.
    at: Arc<AtomicUsize>,
    happened: Arc<AtomicBool>,
}

impl GivenUp {
    /// The routes, whose calls can be given up.
    pub fn around(&self, routes: Router) -> Router {
        let this = self.clone();
        routes.layer(from_fn(move |request: Request, next: Next| {
            let this = this.clone();
            async move {
                let at = this.at.swap(0, Ordering::SeqCst);
                match up_to(at, next.run(request)).await {
                    Some(response) => response,
                    None => {
                        this.happened.store(true, Ordering::SeqCst);
                        tonic::Status::aborted("given up").into_http()
                    }
                }
            }
        }))
    }

    /// Makes a call for subjects 1, 2, 3 … each given up at its first, second, third … wait, and made again until it
    /// is answered; until some in a row were through before (how often a call waits differs). Returns how many there were.
    ///
    /// # Panics
    ///
    /// Where the call that is made again fails, or gets no answer: what the one before held is not free.
    pub async fn at_every_wait<T, E: Debug>(&self, what: &str, call: impl AsyncFn(usize) -> Result<T, E>) -> usize {
        let mut through = 0;
        for n in 1..MANY {
            self.at.store(n, Ordering::SeqCst);
            let first = call(n).await;
            if !self.happened.swap(false, Ordering::SeqCst) {
                assert!(first.is_ok(), "{what}: {:?}", first.err());
                through += 1;
                if through == ENOUGH {
                    assert!(n > ENOUGH, "{what} does not wait");
                    return n;
                }
                continue;
            }
            through = 0;
            assert!(first.is_err(), "{what} was given up at wait {n} and answers");
            let began = Instant::now();
            loop {
                let again = timeout(PATIENCE, call(n)).await;
                match again.unwrap_or_else(|_| panic!("{what}: no answer after one was given up at wait {n}")) {
                    Ok(_) => break,
                    // what was given up while it was being committed is not seen at once
                    Err(_) if began.elapsed() < SETTLED => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => panic!("{what}, given up at wait {n}: {error:?}"),
                }
            }
        }
        panic!("{what} waits {MANY} times");
    }
}

/// Runs until the `at`th wait, unless it is 0.
async fn up_to<T>(at: usize, run: impl Future<Output = T>) -> Option<T> {
    let mut run = pin!(run);
    let mut waits = 0;
    std::future::poll_fn(|poller| match run.as_mut().poll(poller) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => {
            waits += 1;
            if waits == at { Poll::Ready(None) } else { Poll::Pending }
        }
    })
    .await
}

/// Whoever asks again is told with this code that it has happened.
pub fn or_done<T>(answer: Result<T>, code: Code) -> Result<()> {
    match answer {
        Err(error) if error.code() == code => Ok(()),
        answer => answer.map(drop),
    }
}

/// That what happened to each of these is on record once, and nothing else of its kind.
///
/// # Panics
///
/// Where it is not.
pub fn happened_once(records: &[AuditRecord], kind: &str, subjects: impl IntoIterator<Item = String>) {
    let mut recorded: Vec<_> = records.iter().filter(|one| one.kind == kind).map(|one| one.subject.clone()).collect();
    let mut expected: Vec<_> = subjects.into_iter().collect();
    recorded.sort();
    expected.sort();
    assert_eq!(recorded, expected, "{kind}");
}
