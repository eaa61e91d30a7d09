//! Sending: rows into requests, requests over the network, answers into a summary.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use indicatif::{ProgressBar, ProgressStyle};
use sensormesh_proto::telemetry::v1::telemetry_service_client::TelemetryServiceClient;
use sensormesh_proto::telemetry::v1::{IngestReadingsRequest, Reading, Verdict};
use sensormesh_types::{Code, Error, random};
use tokio::time::Instant;

use super::recording::{Cell, Recording, Row};
use super::{Speed, sensor_id};
use crate::server::{Authorized, in_words};

/// Readings in one request: the most that the contract takes.
const BATCH: usize = 1000;
/// Requests in flight.
const IN_FLIGHT: usize = 4;
/// How often a request that may have been lost is sent again.
const ATTEMPTS: u32 = 8;

/// What became of a recording.
#[derive(Debug, Default, PartialEq)]
pub struct Summary {
    /// Readings stored.
    pub accepted: u64,
    /// Readings that had been stored before.
    pub duplicates: u64,
    /// Cells that were empty or stood for a missing value.
    pub missing: u64,
    /// Readings refused, by reason.
    pub refused: BTreeMap<String, u64>,
}

impl Summary {
    fn refuse(&mut self, reason: impl Into<String>, count: u64) {
        *self.refused.entry(reason.into()).or_default() += count;
    }

    fn add(&mut self, part: Summary) {
        self.accepted += part.accepted;
        self.duplicates += part.duplicates;
        for (reason, count) in part.refused {
            self.refuse(reason, count);
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accepted {}, duplicate {}, ", self.accepted, self.duplicates)?;
        write!(f, "refused {}, missing cells {}", self.refused.values().sum::<u64>(), self.missing)?;
        for (reason, count) in &self.refused {
            write!(f, "\n  {count} {reason}")?;
        }
        Ok(())
    }
}

/// Sends the whole recording, a few requests at a time.
pub async fn send(
    channel: Authorized,
    recording: &Recording,
    device: &str,
    backfill: bool,
    speed: Speed,
) -> Result<Summary> {
    let client = TelemetryServiceClient::new(channel);
    let bar = ProgressBar::new(recording.rows);
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} rows  {per_sec}  {eta} left")?);
    let sensors: Vec<String> = recording.channels.iter().map(|c| sensor_id(device, &c.name)).collect();
    let run = random::secret();
    let mut summary = Summary::default();
    let mut in_flight = FuturesUnordered::new();
    let mut pace = Pace { speed, start: None };
    let mut waiting: Vec<Reading> = Vec::with_capacity(BATCH);
    let mut sent = 0;
    let mut order = Order::default();
    let mut rows = recording.rows()?.peekable();
    while let Some(row) = rows.next() {
        let row = row?;
        pace.wait(row.time).await;
        order.note(row.time);
        read(&row, &sensors, &mut waiting, &mut summary);
        // At full speed a request is sent when it is full; at a pace, with every row.
        while waiting.len() >= BATCH || (!waiting.is_empty() && (speed != Speed::Max || rows.peek().is_none())) {
            let readings: Vec<Reading> = waiting.drain(..waiting.len().min(BATCH)).collect();
            let request = IngestReadingsRequest { readings, batch_id: format!("{run}-{sent}"), backfill };
            sent += 1;
            // of two values for one time the later one in the file holds: it must not overtake the other
            if order.repeats(waiting.is_empty()) {
                while let Some(part) = in_flight.next().await {
                    summary.add(part?);
                }
            }
            in_flight.push(deliver(client.clone(), request));
            while in_flight.len() >= IN_FLIGHT
                && let Some(part) = in_flight.next().await
            {
                summary.add(part?);
            }
        }
        bar.inc(1);
    }
    while let Some(part) = in_flight.next().await {
        summary.add(part?);
    }
    bar.finish_and_clear();
    Ok(summary)
}

fn read(row: &Row, sensors: &[String], waiting: &mut Vec<Reading>, summary: &mut Summary) {
    for (cell, sensor) in row.cells.iter().zip(sensors) {
        match (cell, row.time) {
            (Cell::Missing, _) => summary.missing += 1,
            (Cell::NotANumber, _) => summary.refuse("not a number", 1),
            (Cell::Value(_), None) => summary.refuse("not a time", 1),
            (Cell::Value(value), Some(time)) => waiting.push(Reading {
                sensor_id: sensor.clone(),
                time: Some(sensormesh_types::time::from_nanos(time)),
                value: Some(*value),
                ..Reading::default()
            }),
        }
    }
}

/// Sends one request until the answer is definite. The batch id makes a repetition harmless.
async fn deliver(mut client: TelemetryServiceClient<Authorized>, request: IngestReadingsRequest) -> Result<Summary> {
    let mut attempt = 0;
    loop {
        match client.ingest_readings(request.clone()).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let mut summary = Summary {
                    accepted: answer.accepted.into(),
                    duplicates: answer.duplicates.into(),
                    ..Summary::default()
                };
                for result in answer.results.iter().filter(|r| !r.reason.is_empty() && refused(r.verdict())) {
                    summary.refuse(&result.reason, 1);
                }
                return Ok(summary);
            }
            Err(status) => {
                let error = Error::from(status.clone());
                attempt += 1;
                let wait = error.retry_after().unwrap_or(Duration::from_millis(100 << attempt.min(6)));
                match error.code() {
                    Code::Invalid if !error.fields().is_empty() => return Ok(all_refused(&request, &error)),
                    Code::Unavailable | Code::Timeout | Code::Exhausted | Code::Internal if attempt < ATTEMPTS => {
                        tokio::time::sleep(wait).await;
                    }
                    _ => return Err(in_words(status)),
                }
            }
        }
    }
}

fn refused(verdict: Verdict) -> bool {
    !matches!(verdict, Verdict::Accepted | Verdict::Duplicate | Verdict::Revised)
}

fn all_refused(request: &IngestReadingsRequest, error: &Error) -> Summary {
    let mut summary = Summary::default();
    for field in error.fields() {
        summary.refuse(&field.description, 1);
    }
    let unnamed = (request.readings.len() as u64).saturating_sub(error.fields().len() as u64);
    if unnamed > 0 {
        summary.refuse(error.message(), unnamed);
    }
    summary
}

/// Whether rows come in the order of their times, each later than all before.
#[derive(Default)]
struct Order {
    newest: Option<i64>,
    repeats: bool,
}

impl Order {
    fn note(&mut self, time: Option<i64>) {
        self.repeats |= time.is_some() && time <= self.newest;
        self.newest = self.newest.max(time);
    }

    /// Whether a row of this request may have the time of one before; `whole` = nothing of its rows is left for the next.
    fn repeats(&mut self, whole: bool) -> bool {
        let repeats = self.repeats;
        self.repeats &= !whole;
        repeats
    }
}

/// Holds rows back until they are due.
struct Pace {
    speed: Speed,
    start: Option<(i64, Instant)>,
}

impl Pace {
    async fn wait(&mut self, time: Option<i64>) {
        let (Speed::Times(times), Some(time)) = (self.speed, time) else { return };
        let (first, start) = *self.start.get_or_insert((time, Instant::now()));
        let recorded = Duration::from_nanos(u64::try_from(time - first).unwrap_or(0));
        tokio::time::sleep_until(start + recorded.div_f64(times)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_a_reading_for_each_number() {
        let row = Row { time: Some(5), cells: vec![Cell::Value(1.5), Cell::Missing, Cell::NotANumber] };
        let sensors = ["d.a".to_owned(), "d.b".to_owned(), "d.c".to_owned()];
        let (mut waiting, mut summary) = (Vec::new(), Summary::default());
        read(&row, &sensors, &mut waiting, &mut summary);
        assert_eq!(waiting.len(), 1);
        assert_eq!(waiting[0].sensor_id, "d.a");
        assert_eq!((summary.missing, summary.refused["not a number"]), (1, 1));
    }

    #[test]
    fn a_time_that_was_there_before_is_noticed_once() {
        let mut order = Order::default();
        for time in [Some(1), None, Some(2)] {
            order.note(time);
        }
        assert!(!order.repeats(true));
        for time in [Some(2), Some(3)] {
            order.note(time);
        }
        assert!(order.repeats(false), "a part of its row is still to be sent");
        assert!(order.repeats(true) && !order.repeats(true));
        order.note(Some(1));
        assert!(order.repeats(true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_of_sixty_sends_a_minute_in_a_second() {
        let mut pace = Pace { speed: Speed::Times(60.0), start: None };
        let start = Instant::now();
        pace.wait(Some(0)).await;
        pace.wait(Some(60_000_000_000)).await;
        assert_eq!(start.elapsed().as_secs(), 1);
    }
}
