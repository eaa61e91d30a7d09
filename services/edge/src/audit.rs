//! The audit: what every service's log has of changes, merged.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use futures::future::join_all;
use sensormesh_mesh::{Channel, Mesh, Streaming, produce};
use sensormesh_proto::edge::v1::{ExportAuditRequest, ExportAuditResponse, ListAuditRequest, ListAuditResponse};
use sensormesh_proto::google::api::HttpBody;
use sensormesh_proto::mesh::v1::mesh_service_client::MeshServiceClient;
use sensormesh_proto::mesh::v1::{AuditEntry, ListAuditEntriesRequest};
use sensormesh_types::csv::{self, Table as Csv};
use sensormesh_types::{Code, Error, Result, page, time};
use tokio::time::timeout;

/// How long one service may take; without it, what the others have is told.
const PATIENCE: Duration = Duration::from_secs(3);

/// Changes that are exported at once.
const PAGE: i32 = 1000;
/// The columns of an export.
const HEADER: [&str; 11] =
    ["time", "service", "seq", "actor", "kind", "subject", "site_id", "changes", "address", "request_id", "trace_id"];

/// Up to where each service's log was told: the sequence number of the last entry; 0 = to its end.
type Places = BTreeMap<String, u64>;

/// A page of the logs of these services, each asked with the caller's own token.
pub async fn list(
    mesh: &Mesh,
    services: &[String],
    tenant: &str,
    request: ListAuditRequest,
) -> Result<ListAuditResponse> {
    let size = page::size(request.page_size, 100, 1000)?;
    let asked = ListAuditRequest { page_size: 0, page_token: String::new(), ..request.clone() };
    let query = format!("audit/{tenant}/{asked:?}");
    if !request.service.is_empty() && !services.contains(&request.service) {
        return Err(Error::not_found("service", &request.service));
    }
    let mut places = read(page::after(&query, &request.page_token)?.as_deref())?;
    let wanted = |service: &&String| request.service.is_empty() || **service == request.service;
    let all: Vec<&String> = services.iter().filter(wanted).collect();
    let names: Vec<&String> = all.iter().copied().filter(|service| places.get(*service) != Some(&0)).collect();
    let asked = names.iter().map(async |service| {
        let before_seq = places.get(*service).copied().unwrap_or_default();
        let page_size = i32::try_from(size).unwrap_or(i32::MAX);
        let request = ListAuditEntriesRequest {
            page_size,
            before_seq,
            page_token: String::new(),
            actor: request.actor.clone(),
            kind: request.kind.clone(),
            subject: request.subject.clone(),
            start_time: request.start_time,
            end_time: request.end_time,
        };
        let mut client: MeshServiceClient<Channel> = mesh.client_of(service)?;
        let late = |_| Error::new(Code::Timeout, "LATE", format!("{service} does not answer"));
        let answer = timeout(PATIENCE, client.list_audit_entries(request)).await.map_err(late)?;
        Ok::<_, Error>(answer.map_err(Error::from)?.into_inner().entries)
    });
    let asked = join_all(asked).await;
    let (mut answer, mut told) = (ListAuditResponse::default(), Vec::new());
    for (service, entries) in names.into_iter().zip(asked) {
        match entries {
            Ok(entries) => told.push((service.clone(), entries)),
            Err(error) if matches!(error.code(), Code::Unavailable | Code::Timeout) => {
                answer.missing_services.push(service.clone());
            }
            Err(error) => return Err(error),
        }
    }
    answer.entries = merge(told, size as usize, &mut places);
    if answer.entries.is_empty() && !answer.missing_services.is_empty() {
        // a page without entries whose next is as empty: whoever reads to the end would never get there
        let message = format!("only {} have more, and do not answer", answer.missing_services.join(", "));
        return Err(Error::unavailable("AUDIT_INCOMPLETE", message, PATIENCE));
    }
    if all.iter().any(|service| places.get(*service) != Some(&0)) {
        answer.next_page_token = page::token(&query, &write(&places));
    }
    Ok(answer)
}

/// The whole audit as a table. UNAVAILABLE where a service does not answer.
pub fn export(
    mesh: &Mesh,
    services: Vec<String>,
    tenant: String,
    request: ExportAuditRequest,
) -> Streaming<ExportAuditResponse> {
    let mesh = mesh.clone();
    produce(|answers| async move {
        let mut table = Csv::new(HEADER);
        let ExportAuditRequest { service, actor, kind, subject, start_time, end_time } = request;
        let page_token = String::new();
        let mut asked =
            ListAuditRequest { page_size: PAGE, page_token, service, actor, kind, subject, start_time, end_time };
        loop {
            let page = list(&mesh, &services, &tenant, asked.clone()).await?;
            if !page.missing_services.is_empty() {
                let message = format!("{} cannot be asked at the moment", page.missing_services.join(", "));
                return Err(Error::unavailable("AUDIT_INCOMPLETE", message, PATIENCE));
            }
            page.entries.iter().for_each(|entry| row(&mut table, entry));
            let body = HttpBody {
                content_type: csv::CONTENT_TYPE.to_owned(),
                data: table.take().into(),
                ..Default::default()
            };
            answers.send(ExportAuditResponse { body: Some(body) }).await;
            if page.next_page_token.is_empty() {
                return Ok(());
            }
            asked.page_token = page.next_page_token;
        }
    })
}

fn row(table: &mut Csv, entry: &AuditEntry) {
    let time = entry.time.as_ref().and_then(time::to_nanos).map(time::rfc3339).unwrap_or_default();
    table.text(&time);
    table.text(&entry.service);
    table.count(entry.seq);
    let AuditEntry { actor, kind, subject, site_id, changes, address, request_id, trace_id, .. } = entry;
    for text in [actor, kind, subject, site_id, changes, address, request_id, trace_id] {
        table.text(text);
    }
    table.end();
}

/// The newest `size` of what services have told, each the newest first and `size` at most, and the places after them. Of each log
/// a beginning is taken, whatever its clock did: what is told is always the newest that is left of its log.
fn merge(told: Vec<(String, Vec<AuditEntry>)>, size: usize, places: &mut Places) -> Vec<AuditEntry> {
    let mut merged: Vec<AuditEntry> = Vec::with_capacity(size);
    let mut logs: Vec<(String, bool, VecDeque<AuditEntry>)> =
        told.into_iter().map(|(service, entries)| (service, entries.len() < size, VecDeque::from(entries))).collect();
    let newest = |(_, _, rest): &(String, bool, VecDeque<AuditEntry>)| {
        rest.front().map(|entry| entry.time.map_or((0, 0), |time| (time.seconds, time.nanos)))
    };
    while merged.len() < size {
        let Some((service, _, rest)) = logs.iter_mut().max_by_key(|log| newest(log)) else { break };
        let Some(entry) = rest.pop_front() else { break };
        places.insert(service.clone(), entry.seq);
        merged.push(entry);
    }
    for (service, whole, rest) in logs {
        match rest.front() {
            None if whole => drop(places.insert(service, 0)),
            None => {}
            // nothing newer than this is told on a later page
            Some(first) => drop(places.insert(service, first.seq + 1)),
        }
    }
    merged
}

fn write(places: &Places) -> String {
    places.iter().map(|(service, seq)| format!("{service}={seq}")).collect::<Vec<_>>().join(",")
}

fn read(text: Option<&str>) -> Result<Places> {
    let wrong = || Error::invalid("page_token", "is not a token of this list and its arguments");
    let parts = text.unwrap_or_default().split(',').filter(|part| !part.is_empty());
    let places = parts.map(|part| {
        let (service, seq) = part.split_once('=').ok_or_else(wrong)?;
        Ok((service.to_owned(), seq.parse().map_err(|_| wrong())?))
    });
    places.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(service: &str, entries: &[(u64, i64)]) -> (String, Vec<AuditEntry>) {
        let entry = |(seq, seconds): &(u64, i64)| AuditEntry {
            service: service.to_owned(),
            seq: *seq,
            time: Some(prost_types::Timestamp { seconds: *seconds, nanos: 0 }),
            ..Default::default()
        };
        (service.to_owned(), entries.iter().map(entry).collect())
    }

    /// A service's answer: what it has before a place, `size` at most.
    fn tell(all: &(String, Vec<AuditEntry>), places: &Places, size: usize) -> (String, Vec<AuditEntry>) {
        let before = places.get(&all.0).copied().unwrap_or(u64::MAX);
        let before = if before == 0 { 0 } else { before };
        (all.0.clone(), all.1.iter().filter(|entry| entry.seq < before).take(size).cloned().collect())
    }

    #[test]
    fn pages_are_the_whole_in_order_and_nothing_twice() {
        let logs = [
            log("auth", &[(9, 90), (7, 70), (6, 60), (5, 50), (2, 20)]),
            log("devices", &[(3, 85), (2, 65), (1, 1)]),
            log("rooms", &[]),
        ];
        for size in 1..10 {
            let (mut places, mut seen) = (Places::new(), Vec::new());
            for _ in 0..20 {
                let told = logs.iter().filter(|log| places.get(&log.0) != Some(&0)).map(|log| tell(log, &places, size));
                let told: Vec<_> = told.collect();
                seen.extend(
                    merge(told, size, &mut places).into_iter().map(|entry| entry.time.expect("a time").seconds),
                );
                places = read(Some(&write(&places))).expect("read again");
                if places.len() == logs.len() && places.values().all(|seq| *seq == 0) {
                    break;
                }
            }
            assert_eq!(seen, [90, 85, 70, 65, 60, 50, 20, 1], "pages of {size}");
        }
    }

    #[test]
    fn a_clock_that_was_set_back_hides_nothing() {
        let logs = [log("auth", &[(9, 50), (7, 70)]), log("devices", &[(2, 60), (1, 55)])];
        let (mut places, mut seen) = (Places::new(), Vec::new());
        for _ in 0..4 {
            let told: Vec<_> = logs.iter().map(|log| tell(log, &places, 1)).collect();
            seen.extend(merge(told, 1, &mut places).into_iter().map(|entry| (entry.service, entry.seq)));
        }
        let expected = [("devices", 2), ("devices", 1), ("auth", 9), ("auth", 7)];
        assert_eq!(seen, expected.map(|(service, seq)| (service.to_owned(), seq)));
    }

    #[test]
    fn a_token_of_something_else_is_refused() {
        assert!(read(Some("auth")).is_err() && read(Some("auth=x")).is_err());
        assert_eq!(read(None).expect("none"), Places::new());
    }
}
