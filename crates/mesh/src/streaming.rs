//! What a handler returns where the contract says `stream`.

use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use sensormesh_observability::trace::TraceParent;
use sensormesh_types::{Code, Error, Result};
use tonic::Status;

use crate::Context;

/// The type of every server stream: `type WatchDevicesStream = Streaming<WatchDevicesResponse>;`.
pub type Streaming<T> = BoxStream<'static, Result<T, Status>>;

/// Makes a handler's stream of results what tonic takes. An internal error is logged here with its cause, because a status
/// in the trailers has lost it, and the caller is told the trace only.
pub fn stream<T: Send + 'static>(items: impl Stream<Item = Result<T>> + Send + 'static) -> Streaming<T> {
    items.map(|item| item.map_err(worded)).boxed()
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
