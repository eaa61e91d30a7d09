//! Whose turn it is among the tasks of a thread.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

/// Runs `connection` after the tasks that are ready when it is woken.
///
/// A connection is woken by the first call that has something to send. When it lets the others that are ready go first,
/// what all of them have to send leaves in one write; where there are no others, nothing is lost.
pub(crate) fn last<F: Future>(mut connection: Pin<&mut F>) -> impl Future<Output = F::Output> {
    let mut waited = true;
    poll_fn(move |cx| {
        waited = !waited;
        if !waited {
            // a task that wakes itself goes to the end of the queue
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        connection.as_mut().poll(cx)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_is_ready_goes_first() {
        let (send, mut sent) = mpsc::unbounded_channel::<usize>();
        let turns = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&turns);
        let connection = tokio::spawn(async move {
            let mut all = Vec::new();
            let work = poll_fn(|cx| {
                counted.fetch_add(1, Ordering::SeqCst);
                while let Poll::Ready(item) = sent.poll_recv(cx) {
                    match item {
                        Some(item) => all.push(item),
                        None => return Poll::Ready(std::mem::take(&mut all)),
                    }
                }
                Poll::Pending
            });
            last(std::pin::pin!(work)).await
        });
        tokio::task::yield_now().await;
        let callers: Vec<_> = (0..10)
            .map(|number| {
                let send = send.clone();
                tokio::spawn(async move { send.send(number).expect("somebody listens") })
            })
            .collect();
        drop(send);
        assert_eq!(connection.await.expect("ended").len(), 10);
        for caller in callers {
            caller.await.expect("ended");
        }
        assert!(turns.load(Ordering::SeqCst) <= 2, "one turn to wait, one for all");
    }
}
