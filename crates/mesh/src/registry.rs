//! The services that live in this process, for calls that need no network.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use parking_lot::RwLock;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;

/// A service's whole server stack. The caller attaches its identity as the request extension [`crate::Peer`].
pub type LocalService = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// The services of one process by name. Clones share the same table; each process, or each test, has its own.
#[derive(Clone, Default)]
pub struct LocalRegistry(Arc<RwLock<HashMap<&'static str, LocalService>>>);

impl LocalRegistry {
    /// A table without services.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a service reachable in this process. Replaces the one of the same name.
    pub fn register(&self, service: &'static str, stack: LocalService) {
        self.0.write().insert(service, stack);
    }

    /// Takes a service out; calls to it then go to the network, or fail.
    pub fn remove(&self, service: &str) {
        self.0.write().remove(service);
    }

    /// The stack of a service that lives in this process.
    pub fn get(&self, service: &str) -> Option<LocalService> {
        self.0.read().get(service).cloned()
    }
}

impl std::fmt::Debug for LocalRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.read().keys()).finish()
    }
}
