//! What a handler returns where the contract says `stream`.

use std::future::Future;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use sensormesh_observability::trace::TraceParent;
use sensormesh_types::{Code, Error, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tracing::Instrument as _;

use crate::Context;

/// How many messages may be ready before the reader takes them.
const AHEAD: usize = 2;

/// The type of every server stream: `type WatchDevicesStream = Streaming<WatchDevicesResponse>;`.
pub type Streaming<T> = BoxStream<'static, Result<T, Status>>;

/// Makes a handler's stream of results what tonic takes. An internal error is logged here with its cause, because a status
/// in the trailers has lost it, and the caller is told the trace only.
pub fn stream<T: Send + 'static>(items: impl Stream<Item = Result<T>> + Send + 'static) -> Streaming<T> {
    items.map(|item| item.map_err(worded)).boxed()
}

/// Where work of [`produce`] sends its messages.
#[derive(Debug)]
pub struct Sender<T>(mpsc::Sender<Result<T>>);

impl<T> Sender<T> {
    /// Sends a message, once the reader has room for it. Never ends where the reader has gone: the work is about to be dropped.
    pub async fn send(&self, message: T) {
        if self.0.send(Ok(message)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Streams what `work` sends, a little ahead of the reader, and then its error, if it fails. It runs for the call that is being
/// served, in a task of its own, and is dropped where it stands as soon as the reader has gone.
pub fn produce<T, W, F>(work: W) -> Streaming<T>
where
    T: Send + 'static,
    W: FnOnce(Sender<T>) -> F,
    F: Future<Output = Result<()>> + Send + 'static,
{
    let (messages, outgoing) = mpsc::channel(AHEAD);
    let work = work(Sender(messages.clone()));
    let run = async move {
        let done = tokio::select! {
            biased;
            () = messages.closed() => return,
            done = work => done,
        };
        if let Err(error) = done {
            let _ = messages.send(Err(error)).await; // the reader may have gone
        }
    };
    let context = Context::current().unwrap_or_default();
    tokio::spawn(Context::scope(context, run).in_current_span());
    stream(ReceiverStream::new(outgoing))
}

fn worded(error: Error) -> Status {
    if error.code() != Code::Internal {
        return error.into();
    }
    let position = Context::current().and_then(|context| context.traceparent.parse::<TraceParent>().ok());
    let trace_id = position.map_or_else(|| "unknown".to_owned(), |position| position.trace_id());
    tracing::error!(trace_id, ?error, "a stream failed");
    Error::new(Code::Internal, "INTERNAL", format!("internal error (trace {trace_id})")).into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn work_is_dropped_where_it_stands_when_its_reader_goes() {
        let held = Arc::new(());
        let holds = Arc::clone(&held);
        let mut answers = produce(|out| async move {
            let _holds = holds;
            out.send(1).await;
            // as a slow query does, without sending
            std::future::pending::<()>().await;
            Ok(())
        });
        assert_eq!(answers.next().await.expect("a message").expect("no error"), 1);
        assert_eq!(Arc::strong_count(&held), 2);
        drop(answers);
        for _ in 0..500 {
            if Arc::strong_count(&held) == 1 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the work goes on without a reader");
    }

    #[tokio::test]
    async fn work_runs_for_its_call_and_its_error_comes_last() {
        let context = Context { authorization: Some("Bearer x".into()), ..Context::default() };
        let answers: Streaming<String> = Context::scope(context, async {
            produce(|out| async move {
                for _ in 0..5 {
                    out.send(Context::current().and_then(|context| context.authorization).unwrap_or_default()).await;
                }
                Err(Error::invalid("field", "is wrong"))
            })
        })
        .await;
        let all: Vec<_> = answers.collect().await;
        assert_eq!(all.len(), 6);
        assert_eq!(all[4].as_deref().expect("a message"), "Bearer x");
        assert_eq!(all[5].as_ref().expect_err("the error").code(), tonic::Code::InvalidArgument);
    }
}
