//! `MeasureCompleteness`: which of the readings that should have come are there.

use std::time::Duration;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::{Quality, bucket_start};
use sensormesh_types::{Caller, Error, Result, page, time};

use super::{Api, range};
use crate::catalog::Known;
use crate::history::History;
use crate::quality::completeness::{Bucket, Gap, Meter};

const SECOND: i64 = 1_000_000_000;
const DAY: i64 = 86_400 * SECOND;
const LONGEST: i64 = 366 * DAY;

/// The part of a range that a page shows.
struct Part {
    borders: Vec<i64>,
    /// The range: its start, from which readings are expected, and its end.
    range: (i64, i64),
}

impl Api {
    pub(super) async fn completeness(
        &self,
        caller: &Caller,
        request: pb::MeasureCompletenessRequest,
    ) -> Result<pb::MeasureCompletenessResponse> {
        let now = self.engine.clock.now_nanos();
        let (start, end) = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        let end = end.min(now);
        if end.saturating_sub(start) > LONGEST {
            return Err(Error::invalid("end_time", "must be at most 366 days after `start_time`"));
        }
        let width = span("interval", request.interval.as_ref(), 60 * SECOND)?.unwrap_or(DAY);
        let told = span("expected_interval", request.expected_interval.as_ref(), SECOND / 1000)?;
        let size = page::size(request.page_size, 100, 1000)? as usize;
        let query = format!(
            "completeness/{}/{:?}/{width}/{told:?}/{start}/{:?}",
            caller.tenant(),
            request.sensor_ids,
            request.end_time
        );
        let from = match page::after(&query, &request.page_token)? {
            Some(next) => {
                let next: i64 =
                    next.parse().map_err(|_| Error::invalid("page_token", "is not a token of this list"))?;
                next.max(start)
            }
            None => start,
        };
        let (borders, more) = borders(from, end, width, size);
        let next_page_token = match borders.last().filter(|_| more) {
            Some(last) => page::token(&query, &last.to_string()),
            None => String::new(),
        };
        let part = Part { borders, range: (start, end) };
        let _turn = self.turns.take(caller).await?;
        let as_of = Some(self.now());
        let mut sensors = Vec::with_capacity(request.sensor_ids.len());
        for sensor_id in &request.sensor_ids {
            let known = self.known(caller, sensor_id)?;
            let interval = told.or(known.sensor.as_ref().and_then(|sensor| sensor.interval));
            let meter = self.measure(&known, interval, &part).await?;
            sensors.push(measured(sensor_id, interval, meter));
        }
        Ok(pb::MeasureCompletenessResponse { sensors, next_page_token, as_of })
    }

    async fn measure(&self, known: &Known, interval: Option<i64>, part: &Part) -> Result<Meter> {
        let (start, end) = part.range;
        let mut meter = Meter::new(&part.borders, start, interval);
        let (Some(from), Some(to)) = (part.borders.first().copied(), part.borders.last().copied()) else {
            return Ok(meter);
        };
        if let Some(series) = &known.series {
            // beyond the part's end the first reading is looked for, which ends the last gap
            for (part, first_only) in [((from, to), false), ((to, end), true)] {
                let mut history = History::open(&self.engine, series, part).await?.raw(true);
                for run in 0..history.runs() {
                    let column = history.load(run).await?;
                    let there = column.iter().filter(|reading| reading.quality != Quality::MISSING);
                    for reading in there.take(if first_only { 1 } else { usize::MAX }) {
                        meter.add(reading.time);
                        if first_only {
                            return Ok(meter);
                        }
                    }
                }
            }
        }
        meter.end(end);
        Ok(meter)
    }
}

/// The borders of at most `size` buckets from a time on, and whether more follow.
fn borders(from: i64, end: i64, width: i64, size: usize) -> (Vec<i64>, bool) {
    let mut borders = Vec::new();
    let mut at = from;
    while at < end && borders.len() < size {
        borders.push(at);
        at = bucket_start(at, width).saturating_add(width);
    }
    if !borders.is_empty() {
        borders.push(at.min(end));
    }
    (borders, at < end)
}

/// A length of time in nanoseconds, from `shortest` to 366 days.
fn span(field: &str, told: Option<&prost_types::Duration>, shortest: i64) -> Result<Option<i64>> {
    let Some(told) = told else { return Ok(None) };
    let nanos = time::to_duration(told).and_then(|length| i64::try_from(length.as_nanos()).ok());
    let nanos = nanos.filter(|nanos| (shortest..=LONGEST).contains(nanos));
    let words = || format!("must be from {:?} to 366 d", Duration::from_nanos(shortest.unsigned_abs()));
    nanos.map(Some).ok_or_else(|| Error::invalid(field, words()))
}

#[allow(clippy::cast_precision_loss)] // exact up to 2^53 readings
fn measured(sensor_id: &str, interval: Option<i64>, meter: Meter) -> pb::SensorCompleteness {
    let (buckets, gaps, gaps_left_out) = meter.finish();
    let expected: u64 = buckets.iter().map(|bucket| bucket.expected).sum();
    let received: u64 = buckets.iter().map(|bucket| bucket.received).sum();
    pb::SensorCompleteness {
        sensor_id: sensor_id.to_owned(),
        expected_interval: interval.map(|nanos| time::from_duration(Duration::from_nanos(nanos.unsigned_abs()))),
        expected,
        received,
        completeness: (expected > 0).then(|| (received as f64 / expected as f64).min(1.0)),
        buckets: buckets.into_iter().map(bucket).collect(),
        gaps: gaps.into_iter().map(gap).collect(),
        gaps_left_out,
    }
}

fn bucket(bucket: Bucket) -> pb::CompletenessBucket {
    let start = Some(time::from_nanos(bucket.start));
    pb::CompletenessBucket { start, expected: bucket.expected, received: bucket.received }
}

fn gap(gap: Gap) -> pb::ReadingGap {
    pb::ReadingGap {
        start_time: Some(time::from_nanos(gap.start)),
        end_time: Some(time::from_nanos(gap.end)),
        missing: gap.missing,
    }
}
