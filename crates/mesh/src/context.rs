//! What travels with a call from service to service: deadline, trace, the user's token, the request's id.
//!
//! The server stack opens a scope around each handler; the client stack reads it. A task of a service has none, and its
//! calls are the service's own.

use std::future::Future;
use std::sync::Arc;

use tokio::time::Instant;

tokio::task_local! {
    static CURRENT: Arc<Context>;
}

/// What a call inherits from the call it is made for.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// When the answer is of no more use; for a stream, when it should end by itself. `None` outside a call.
    pub deadline: Option<Instant>,
    /// The W3C `traceparent` of the call being served; empty outside a call.
    pub traceparent: String,
    /// The caller's own `authorization` header (`Bearer …`), forwarded so that every service decides for itself.
    pub authorization: Option<String>,
    /// The id that the edge gave the request and that every log line about it names; empty outside a call.
    pub request_id: String,
}

impl Context {
    /// The context of the call being served, if this code runs for one.
    pub fn current() -> Option<Context> {
        CURRENT.try_with(|context| Context::clone(context)).ok()
    }

    /// Runs `work` for the call that `context` describes.
    pub async fn scope<F: Future>(context: Context, work: F) -> F::Output {
        CURRENT.scope(Arc::new(context), work).await
    }

    /// Runs `work` in a context that something else holds, too.
    pub(crate) async fn scope_shared<F: Future>(context: Arc<Context>, work: F) -> F::Output {
        CURRENT.scope(context, work).await
    }

    /// Runs `work` in the call's context without a future: for one poll of a stream.
    pub(crate) fn within<R>(context: &Arc<Context>, work: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(Arc::clone(context), work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_context_is_seen_inside_its_scope_only() {
        assert!(Context::current().is_none());
        let context = Context { request_id: "r1".into(), ..Context::default() };
        let seen = Context::scope(context, async { Context::current().map(|c| c.request_id) }).await;
        assert_eq!(seen.as_deref(), Some("r1"));
        assert!(Context::current().is_none());
    }
}
