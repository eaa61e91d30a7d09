//! How a service does: its checks, its tasks, whether it stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use parking_lot::Mutex;
use sensormesh_proto::mesh::v1 as proto;
use sensormesh_types::{Clock, time};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::drain::Drain;
use crate::service::{CheckFn, Condition};

/// How long one check may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often gRPC health is brought up to date.
const REFRESH: Duration = Duration::from_secs(2);

/// Answers how the service does. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Health(Arc<Inner>);

struct Inner {
    service: &'static str,
    clock: Clock,
    checks: Vec<(&'static str, CheckFn)>,
    tasks: Mutex<BTreeMap<&'static str, Condition>>,
    drain: Drain,
    started: i64,
}

/// How the service does at one moment.
pub(crate) struct Report {
    pub(crate) state: proto::State,
    pub(crate) parts: Vec<(&'static str, Condition)>,
}

impl Health {
    pub(crate) fn new(
        service: &'static str,
        clock: &Clock,
        checks: Vec<(&'static str, CheckFn)>,
        drain: &Drain,
    ) -> Self {
        let started = clock.now_micros();
        let tasks = Mutex::default();
        Self(Arc::new(Inner { service, clock: clock.clone(), checks, tasks, drain: drain.clone(), started }))
    }

    /// When the service was started, microseconds since the Unix epoch.
    pub(crate) fn started(&self) -> i64 {
        self.0.started
    }

    /// Notes how a task does.
    pub(crate) fn task(&self, name: &'static str, condition: Condition) {
        self.0.tasks.lock().insert(name, condition);
    }

    /// Asks every check.
    pub(crate) async fn report(&self) -> Report {
        let ask = self.0.checks.iter().map(|(name, check)| async move {
            let asked = std::panic::AssertUnwindSafe(async { check().await }).catch_unwind();
            let condition = match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(condition)) => condition,
                Ok(Err(_)) => Condition::Failing("the check panicked".to_owned()),
                Err(_) => Condition::Failing("the check did not answer within a second".to_owned()),
            };
            (*name, condition)
        });
        let mut parts = join_all(ask).await;
        parts.extend(self.0.tasks.lock().iter().map(|(name, condition)| (*name, condition.clone())));
        let any = |wanted: fn(&Condition) -> bool| parts.iter().any(|(_, condition)| wanted(condition));
        let state = if self.0.drain.requested.is_requested() {
            proto::State::Draining
        } else if any(|condition| matches!(condition, Condition::Failing(_))) {
            proto::State::NotReady
        } else if any(|condition| matches!(condition, Condition::Degraded(_))) {
            proto::State::Degraded
        } else {
            proto::State::Ready
        };
        Report { state, parts }
    }

    /// The answer of `/health`, and whether the service takes calls.
    pub(crate) async fn json(&self) -> (bool, serde_json::Value) {
        let report = self.report().await;
        let checks: serde_json::Map<String, serde_json::Value> = report
            .parts
            .iter()
            .map(|(name, condition)| {
                let (status, detail) = words(condition);
                ((*name).to_owned(), serde_json::json!({ "status": status, "detail": detail }))
            })
            .collect();
        let (ready, status) = match report.state {
            proto::State::Ready => (true, "healthy"),
            proto::State::Degraded => (true, "degraded"),
            proto::State::Draining => (false, "draining"),
            _ => (false, "unhealthy"),
        };
        let body = serde_json::json!({
            "service": self.0.service,
            "status": status,
            "checks": checks,
            "timestamp": time::rfc3339(self.0.clock.now_nanos()),
            "version": env!("CARGO_PKG_VERSION"),
        });
        (ready, body)
    }

    /// Keeps gRPC health up to date for `names` until everything is cut.
    pub(crate) async fn publish(self, reporter: HealthReporter, names: Vec<&'static str>) {
        let mut published = None;
        loop {
            let state = self.report().await.state;
            let serving = match state {
                proto::State::Ready | proto::State::Degraded => ServingStatus::Serving,
                _ => ServingStatus::NotServing,
            };
            if published != Some(serving) {
                published = Some(serving);
                for name in &names {
                    reporter.set_service_status(name, serving).await;
                }
            }
            let draining = state == proto::State::Draining;
            tokio::select! {
                () = self.0.drain.cut.requested() => return,
                () = self.0.drain.requested.requested(), if !draining => {}
                () = tokio::time::sleep(REFRESH) => {}
            }
        }
    }
}

/// A condition in one word, and more.
pub(crate) fn words(condition: &Condition) -> (&'static str, &str) {
    match condition {
        Condition::Well => ("healthy", ""),
        Condition::Degraded(detail) => ("degraded", detail),
        Condition::Failing(detail) => ("unhealthy", detail),
    }
}
