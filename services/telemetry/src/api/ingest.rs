//! Readings in rows: `IngestReadings` and `IngestReading`.

use std::collections::HashMap;
use std::sync::Arc;

use prost::Message as _;
use sensormesh_observability::metrics;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_series::Quality;
use sensormesh_types::{Caller, Error, FieldViolation, Result, time};

use super::Api;
use crate::batch::{self, Channel, Group};
use crate::catalog::Series;
use crate::db::answer::{self, Digest, Door, Name};
use crate::db::quarantine::Kept;
use crate::sender::{self, Place, Sender};
use crate::validate::{self, Window};
use crate::writer::{FirstAnswer, Outcome, Request};

/// So many wrong fields are named where every reading is refused: the answer travels in a header.
const FIELDS_NAMED: usize = 16;

/// Why a reading is not even kept aside.
const QUARANTINE_FULL: &str = "the quarantine is full";

/// Rows on their way into the log.
#[derive(Default)]
struct Intake {
    groups: Vec<Group>,
    /// For every group, the places of its readings in the request.
    origins: Vec<Vec<u32>>,
    by_series: HashMap<u32, usize>,
    kept: Vec<Kept>,
    results: Vec<pb::IngestResult>,
    refused: u32,
}

impl Intake {
    fn refuse(&mut self, index: usize, field: &str, verdict: Verdict, reason: impl Into<String>) {
        let field = if field.is_empty() { String::new() } else { format!("readings[{index}].{field}") };
        self.refused += 1;
        self.results.push(pb::IngestResult {
            index: index as u32,
            verdict: verdict as i32,
            field,
            reason: reason.into(),
        });
    }

    fn note_out_of_range(&mut self, index: usize) {
        self.results.push(pb::IngestResult {
            index: index as u32,
            verdict: Verdict::OutOfRange as i32,
            field: format!("readings[{index}].value"),
            reason: "stored, and left out of aggregates: it lies outside the sensor's range".to_owned(),
        });
    }

    fn keep(&mut self, index: usize, kept: Kept) {
        let reason = if kept.register {
            "kept aside: the sensor is new and the registry of devices cannot be asked now"
        } else {
            "kept aside: nobody has registered the sensor"
        };
        self.results.push(pb::IngestResult {
            index: index as u32,
            verdict: Verdict::Quarantined as i32,
            field: String::new(),
            reason: reason.to_owned(),
        });
        self.kept.push(kept);
    }

    fn add(&mut self, index: usize, series: &Arc<Series>, time: i64, value: f64, quality: Quality) {
        let place = *self.by_series.entry(series.number).or_insert_with(|| {
            let channel = Channel { series: Arc::clone(series), values: Vec::new(), qualities: Vec::new() };
            self.groups.push(Group { times: Vec::new(), in_order: true, channels: vec![channel] });
            self.origins.push(Vec::new());
            self.groups.len() - 1
        });
        let group = &mut self.groups[place];
        group.in_order &= group.times.last().is_none_or(|last| *last < time);
        group.times.push(time);
        let channel = &mut group.channels[0];
        channel.values.push(value);
        if quality != Quality::USUAL || !channel.qualities.is_empty() {
            channel.qualities.resize(channel.values.len() - 1, Quality::USUAL);
            channel.qualities.push(quality);
        }
        self.origins[place].push(index as u32);
    }
}

impl Api {
    pub(super) async fn take_rows(
        &self,
        caller: &Caller,
        request: pb::IngestReadingsRequest,
    ) -> Result<pb::IngestReadingsResponse> {
        let sender = Sender::of(caller);
        if request.backfill && sender.is_device() {
            return Err(Error::forbidden("a device sends no backfill; an operator or a bridge does"));
        }
        let name = sender.name(&request.batch_id, Door::Rows).map(|name| (name, digest(&request)));
        if let Some((name, digest)) = &name
            && let Some(first) = self.engine.first(name).await?
        {
            return decode(&first.repeat(digest)?);
        }
        let total = request.readings.len();
        let intake = self.sort(&sender, &request.readings, request.backfill).await?;
        let refused = intake.results.iter().filter(|result| is_refusal(result.verdict()));
        refused.for_each(|result| count_refused(validate::word(result.verdict()), 1));
        if intake.refused as usize == total {
            return Err(all_refused(&intake.results));
        }
        self.store(&sender, intake, name, request.backfill).await
    }

    pub(super) async fn take_row(
        &self,
        caller: &Caller,
        request: pb::IngestReadingRequest,
    ) -> Result<pb::IngestReadingResponse> {
        let reading = pb::Reading {
            sensor_id: request.sensor_id,
            time: request.time,
            value: request.value,
            ..pb::Reading::default()
        };
        let (readings, batch_id) = (vec![reading], request.batch_id);
        let readings = pb::IngestReadingsRequest { readings, batch_id, ..pb::IngestReadingsRequest::default() };
        let answer = self.take_rows(caller, readings).await.map_err(as_single)?;
        let verdict = answer.results.first().map_or(Verdict::Accepted as i32, |result| result.verdict);
        Ok(pb::IngestReadingResponse { verdict, cursor: answer.cursor })
    }

    /// Validates readings and sorts them by what is to be done with them.
    async fn sort(&self, sender: &Sender, readings: &[pb::Reading], backfill: bool) -> Result<Intake> {
        let now = self.engine.clock.now_nanos();
        let window = Window::at(now, backfill);
        let received = sender.accepted_time.map_or(now, |micros| micros.saturating_mul(1000));
        let mut intake = Intake::default();
        let ids = readings.iter().map(|reading| reading.sensor_id.as_str());
        let places = sender::places(&self.engine, &self.registry, sender, ids).await?;
        let mut room = None;
        let mut without_time: HashMap<&str, i64> = HashMap::new();
        for (index, reading) in readings.iter().enumerate() {
            let id = reading.sensor_id.as_str();
            if let Some(Place::Refused(verdict, reason)) = places.get(id) {
                intake.refuse(index, "sensor_id", *verdict, reason);
                continue;
            }
            let Some(value) = reading.value else {
                intake.refuse(index, "value", Verdict::Invalid, "is required");
                continue;
            };
            if !value.is_finite() {
                intake.refuse(index, "value", Verdict::NonFinite, "must be finite");
                continue;
            }
            let (time, quality) = match &reading.time {
                Some(told) => match time::to_nanos(told) {
                    Some(time) => (time, Quality::USUAL),
                    None => {
                        intake.refuse(index, "time", Verdict::Invalid, time::no_nanos(told));
                        continue;
                    }
                },
                None => {
                    // several at one moment would be taken for revisions of each other
                    let next = without_time.entry(id).and_modify(|n| *n += 1).or_insert(0);
                    (received + *next, Quality::TIME_OF_RECEIPT)
                }
            };
            if let Some(verdict) = window.refuses(time) {
                intake.refuse(index, "time", verdict, window.words(verdict));
                continue;
            }
            match places.get(id) {
                Some(Place::Series(series, sensor)) => {
                    let value = validate::rounded(sensor, value);
                    if sensor.is_out_of_range(value) {
                        intake.note_out_of_range(index);
                    }
                    intake.add(index, series, time, value, validate::quality(sensor, value, quality));
                }
                Some(Place::Aside { register, .. }) => {
                    let room = match &mut room {
                        Some(room) => room,
                        none => none.insert(self.aside.room(&self.engine, sender).await?),
                    };
                    if *room == 0 {
                        intake.refuse(index, "sensor_id", Verdict::Quota, QUARANTINE_FULL);
                        continue;
                    }
                    *room -= 1;
                    let kept = Kept {
                        tenant: sender.tenant.to_string(),
                        sensor_id: id.to_owned(),
                        time,
                        value,
                        quality,
                        received: self.engine.clock.now_micros(),
                        sender: sender.actor.clone(),
                        site: sender.site().to_owned(),
                        register: *register,
                    };
                    intake.keep(index, kept);
                }
                Some(Place::Refused(..)) | None => {
                    intake.refuse(index, "sensor_id", Verdict::Invalid, "cannot be taken");
                }
            }
        }
        self.aside.add(sender, intake.kept.len() as u64);
        Ok(intake)
    }

    async fn store(
        &self,
        sender: &Sender,
        intake: Intake,
        name: Option<(Name, Digest)>,
        backfill: bool,
    ) -> Result<pb::IngestReadingsResponse> {
        let Intake { groups, origins, kept, results, refused, .. } = intake;
        let quarantined = kept.len() as u64;
        let body = if groups.is_empty() { Vec::new() } else { batch::encode(&groups) };
        let (mut request, outcome) = Request::new(Arc::clone(&sender.tenant), groups, body.into(), backfill);
        request.kept = kept;
        let answer = Answer { origins, results, refused };
        let respond = {
            let engine = self.engine.clone();
            move |outcome: &Outcome| answer.response(outcome, engine.cursor(outcome.seq))
        };
        if let Some((name, digest)) = name {
            let respond = respond.clone();
            let answer = Box::new(move |outcome: &Outcome| respond(outcome).encode_to_vec());
            request.first_answer = Some(FirstAnswer { name, digest, answer });
        }
        let outcome = self.engine.submit(request, outcome).await?;
        if let Some(answer) = outcome.repeated {
            return decode(&answer?);
        }
        count(&outcome, quarantined);
        if quarantined > 0 {
            self.engine.releasing.notify_one();
        }
        Ok(respond(&outcome))
    }
}

/// Whether a reading with this verdict is not kept.
fn is_refusal(verdict: Verdict) -> bool {
    matches!(
        verdict,
        Verdict::NonFinite
            | Verdict::Future
            | Verdict::TooOld
            | Verdict::NotPermitted
            | Verdict::Quota
            | Verdict::Invalid
    )
}

/// Counts readings that were refused, by the stable word for why.
pub(super) fn count_refused(reason: &str, readings: u64) {
    metrics::ingest().rejected.add(readings);
    metrics::refused_readings(reason).add(readings);
}

/// Which verdict is told where several hold.
fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Late => 2,
        Verdict::OutOfRange => 1,
        _ => 0,
    }
}

/// Counts what became of a batch.
pub(super) fn count(outcome: &Outcome, quarantined: u64) {
    let ingest = metrics::ingest();
    ingest.accepted.add(outcome.accepted as u64);
    ingest.duplicate.add(outcome.duplicates() as u64);
    ingest.conflict.add(outcome.count(Verdict::Revised) as u64);
    ingest.late.add(outcome.count(Verdict::Late) as u64);
    ingest.out_of_range.add(outcome.out_of_range as u64);
    ingest.quarantined.add(quarantined);
}

/// What is known of the answer before the commit.
#[derive(Clone)]
struct Answer {
    origins: Vec<Vec<u32>>,
    results: Vec<pb::IngestResult>,
    refused: u32,
}

impl Answer {
    fn response(&self, outcome: &Outcome, cursor: String) -> pb::IngestReadingsResponse {
        let mut results = self.results.clone();
        for found in &outcome.found {
            let origin = self.origins.get(found.group as usize).and_then(|places| places.get(found.index as usize));
            let reason = match found.verdict {
                Verdict::Duplicate => "stored before with the same value",
                Verdict::Late => "stored, and older than the newest reading that the sensor had",
                _ => "stored before with another value, which this one replaces",
            };
            results.push(pb::IngestResult {
                index: origin.copied().unwrap_or_default(),
                verdict: found.verdict as i32,
                field: String::new(),
                reason: reason.to_owned(),
            });
        }
        results.sort_by_key(|result| (result.index, rank(result.verdict())));
        results.dedup_by_key(|result| result.index);
        pb::IngestReadingsResponse {
            accepted: outcome.accepted as u32,
            duplicates: outcome.duplicates() as u32,
            refused: self.refused,
            results,
            cursor,
        }
    }
}

/// What the batch holds, as it came.
fn digest(request: &pb::IngestReadingsRequest) -> Digest {
    let mut hash = blake3::Hasher::new();
    hash.update(&request.encode_to_vec());
    answer::digest(&hash)
}

fn decode(answer: &[u8]) -> Result<pb::IngestReadingsResponse> {
    pb::IngestReadingsResponse::decode(answer).map_err(Error::internal)
}

/// The failure of a request of which nothing could be taken.
fn all_refused(results: &[pb::IngestResult]) -> Error {
    let violation =
        |result: &pb::IngestResult| FieldViolation { field: result.field.clone(), description: result.reason.clone() };
    let only = |verdict: Verdict| results.iter().all(|result| result.verdict == verdict as i32);
    if only(Verdict::NotPermitted) {
        return Error::forbidden("the caller may not send these sensors' readings");
    }
    if only(Verdict::Quota) {
        let (reason, message) = match results.first() {
            Some(result) if result.reason != QUARANTINE_FULL => ("TOO_MANY_SENSORS", result.reason.as_str()),
            _ => ("QUARANTINE_FULL", "too many readings of unknown sensors are kept aside"),
        };
        return Error::exhausted(reason, message, std::time::Duration::from_secs(60));
    }
    Error::invalid_fields(results.iter().take(FIELDS_NAMED).map(violation).collect())
}

/// The failure of the one reading in terms of its own request.
fn as_single(error: Error) -> Error {
    if error.fields().is_empty() {
        return error;
    }
    let plain = |field: &FieldViolation| FieldViolation {
        field: field.field.trim_start_matches("readings[0].").to_owned(),
        description: field.description.clone(),
    };
    Error::invalid_fields(error.fields().iter().map(plain).collect())
}
