//! `MeshService`: what every service answers about itself.

use sensormesh_observability::trace::TraceParent;
use sensormesh_proto::mesh::v1 as proto;
use sensormesh_proto::mesh::v1::mesh_service_server::MeshService;
use sensormesh_types::{AuditQuery, AuditRecord, Error, page, time};
use tonic::{Request, Response, Status};

use super::health::{Health, words};
use crate::client::{BreakerMode, BreakerState};
use crate::service::{AuditFn, Condition, OwnBreaker};
use crate::{Mesh, caller};

pub(super) struct Api {
    pub(super) mesh: Mesh,
    pub(super) health: Health,
    pub(super) breakers: Vec<OwnBreaker>,
    pub(super) audit: Option<AuditFn>,
}

impl Api {
    fn breakers(&self) -> Vec<proto::Breaker> {
        let own = self.breakers.iter().map(|breaker| (breaker.state)());
        let mut all: Vec<_> = self.mesh.breakers().into_iter().map(shown).chain(own).collect();
        all.sort_by(|a, b| a.upstream.cmp(&b.upstream));
        all
    }

    fn entry(&self, record: AuditRecord) -> proto::AuditEntry {
        let trace_id =
            record.traceparent.parse::<TraceParent>().map(|position| position.trace_id()).unwrap_or_default();
        proto::AuditEntry {
            service: self.mesh.service().to_owned(),
            seq: record.seq,
            time: Some(time::from_micros(record.time)),
            kind: record.kind,
            subject: record.subject,
            actor: record.actor,
            site_id: record.site,
            trace_id,
            address: record.address,
            request_id: record.request_id,
            changes: record.changes,
        }
    }
}

fn shown(breaker: BreakerState) -> proto::Breaker {
    let state = match breaker.mode {
        BreakerMode::Closed => proto::BreakerState::Closed,
        BreakerMode::Open => proto::BreakerState::Open,
        BreakerMode::HalfOpen => proto::BreakerState::HalfOpen,
    };
    proto::Breaker {
        upstream: breaker.upstream,
        state: state.into(),
        failures: breaker.failures,
        retry_at: breaker.retry_at.map(time::from_micros),
    }
}

#[tonic::async_trait]
impl MeshService for Api {
    async fn get_status(
        &self,
        _request: Request<proto::GetStatusRequest>,
    ) -> Result<Response<proto::GetStatusResponse>, Status> {
        let report = self.health.report().await;
        let checks = report.parts.iter().map(|(name, condition)| proto::Check {
            name: (*name).to_owned(),
            healthy: *condition == Condition::Well,
            detail: words(condition).1.to_owned(),
        });
        Ok(Response::new(proto::GetStatusResponse {
            service: self.mesh.service().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: report.state.into(),
            start_time: Some(time::from_micros(self.health.started())),
            checks: checks.collect(),
            breakers: self.breakers(),
            resident_bytes: resident_bytes().await,
        }))
    }

    async fn list_breakers(
        &self,
        _request: Request<proto::ListBreakersRequest>,
    ) -> Result<Response<proto::ListBreakersResponse>, Status> {
        Ok(Response::new(proto::ListBreakersResponse { breakers: self.breakers() }))
    }

    async fn reset_breaker(
        &self,
        request: Request<proto::ResetBreakerRequest>,
    ) -> Result<Response<proto::ResetBreakerResponse>, Status> {
        let by = caller(&request)?.actor();
        let upstream = request.into_inner().upstream;
        let wanted = |name: &str| upstream.is_empty() || name == upstream;
        let names: Vec<String> =
            self.breakers().into_iter().map(|breaker| breaker.upstream).filter(|name| wanted(name)).collect();
        if names.is_empty() && !upstream.is_empty() {
            return Err(Error::not_found("breaker", &upstream).into());
        }
        for name in &names {
            // NOT_FOUND for one that is the service's own, below
            let _ = self.mesh.reset_breaker(name);
        }
        for own in self.breakers.iter().filter(|own| wanted(&(own.state)().upstream)) {
            (own.reset)();
        }
        tracing::info!(by, breakers = names.join(" "), "breakers were reset");
        let breakers = self.breakers().into_iter().filter(|breaker| names.contains(&breaker.upstream)).collect();
        Ok(Response::new(proto::ResetBreakerResponse { breakers }))
    }

    async fn list_audit_entries(
        &self,
        request: Request<proto::ListAuditEntriesRequest>,
    ) -> Result<Response<proto::ListAuditEntriesResponse>, Status> {
        let scope = caller(&request)?.scope.clone();
        let request = request.into_inner();
        // a service without data of its own has nothing to list
        let Some(list) = &self.audit else { return Ok(Response::new(proto::ListAuditEntriesResponse::default())) };
        let limit = page::size(request.page_size, 100, 1000)?;
        let micros = |field: &str, time| time::nanos(field, time).map(|nanos| nanos.div_euclid(1000));
        let asked = AuditQuery {
            before: None,
            limit: 0,
            start: request.start_time.as_ref().map(|time| micros("start_time", time)).transpose()?,
            end: request.end_time.as_ref().map(|time| micros("end_time", time)).transpose()?,
            actor: request.actor,
            kind: request.kind,
            subject: request.subject,
        };
        let query = format!("audit/{}/{asked:?}", scope.tenant());
        let before = page::after(&query, &request.page_token)?.and_then(|seq| seq.parse().ok());
        let before = before.or(Some(request.before_seq).filter(|seq| *seq > 0));
        let records = list(scope, AuditQuery { before, limit, ..asked }).await?;
        let full = records.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let next_page_token = match records.last() {
            Some(last) if full => page::token(&query, &last.seq.to_string()),
            _ => String::new(),
        };
        let entries = records.into_iter().map(|record| self.entry(record)).collect();
        Ok(Response::new(proto::ListAuditEntriesResponse { entries, next_page_token }))
    }
}

/// Memory of this process in use, bytes; 0 where the system does not tell.
async fn resident_bytes() -> u64 {
    let Ok(status) = tokio::fs::read_to_string("/proc/self/status").await else { return 0 };
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}
