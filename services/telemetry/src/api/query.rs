//! What was stored, page by page: readings, summaries, latest values.

use std::sync::Arc;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::{Bucket, Buckets, bucket_start};
use sensormesh_types::{Caller, Error, Result, page, time};

use super::rows::row;
use super::{Api, range};
use crate::catalog::Series;
use crate::history::History;

const SECOND: i64 = 1_000_000_000;
const LONGEST_INTERVAL: i64 = 366 * 86_400 * SECOND;

impl Api {
    pub(super) async fn list(
        &self,
        caller: &Caller,
        request: pb::ListReadingsRequest,
    ) -> Result<pb::ListReadingsResponse> {
        let (mut start, mut end) = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        let size = page::size(request.page_size, 1000, 10_000)? as usize;
        let query =
            format!("readings/{}/{}/{start}/{end}/{}", caller.tenant(), request.sensor_id, request.newest_first);
        self.reach(&request.min_seq).await?;
        let as_of = Some(self.now());
        let Some(series) = self.series(caller, &request.sensor_id)? else {
            return Ok(pb::ListReadingsResponse {
                unit: self.unit(caller, &request.sensor_id, request.raw),
                as_of,
                ..Default::default()
            });
        };
        if let Some(last) = page::after(&query, &request.page_token)? {
            let last: i64 = last.parse().map_err(|_| Error::invalid("page_token", "is not a token of this list"))?;
            if request.newest_first {
                end = last;
            } else {
                start = last.saturating_add(1);
            }
        }
        let mut readings = Vec::new();
        let mut history = History::open(&self.engine, &series, (start, end)).await?.raw(request.raw);
        for run in 0..history.runs() {
            let run = if request.newest_first { history.runs() - 1 - run } else { run };
            let column = history.load(run).await?;
            let left = size + 1 - readings.len();
            if request.newest_first {
                readings.extend(column.iter().rev().take(left));
            } else {
                readings.extend(column.iter().take(left));
            }
            if readings.len() > size {
                break;
            }
        }
        let more = readings.len() > size;
        readings.truncate(size);
        let next_page_token = match readings.last().filter(|_| more) {
            Some(last) => page::token(&query, &last.time.to_string()),
            None => String::new(),
        };
        Ok(pb::ListReadingsResponse {
            readings: readings.into_iter().map(|reading| row(&series.sensor_id, reading)).collect(),
            next_page_token,
            unit: series.unit(request.raw),
            as_of,
        })
    }

    fn unit(&self, caller: &Caller, sensor_id: &str, raw: bool) -> String {
        self.engine.catalog.find(caller.tenant(), sensor_id).map(|known| known.unit(raw)).unwrap_or_default()
    }

    pub(super) async fn aggregate(
        &self,
        caller: &Caller,
        request: pb::AggregateReadingsRequest,
    ) -> Result<pb::AggregateReadingsResponse> {
        let (from, end) = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        let width = request.interval.as_ref().map(width).transpose()?;
        let size = page::size(request.page_size, 1000, 10_000)? as usize;
        let query = format!("aggregates/{}/{:?}/{width:?}/{from}/{end}", caller.tenant(), request.sensor_ids);
        self.reach(&request.min_seq).await?;
        let as_of = Some(self.now());
        let mut start = match width {
            Some(width) if from != i64::MIN => bucket_start(from, width),
            _ => from,
        };
        if let Some(next) = page::after(&query, &request.page_token)? {
            start = next.parse().map_err(|_| Error::invalid("page_token", "is not a token of this list"))?;
        }
        let mut found = Vec::with_capacity(request.sensor_ids.len());
        for sensor_id in &request.sensor_ids {
            let buckets = match self.series(caller, sensor_id)? {
                Some(series) => {
                    let history = History::with_headers(&self.engine, &series, (start, end)).await?.raw(request.raw);
                    buckets_of(history, width, size).await?
                }
                None => Vec::new(),
            };
            found.push((sensor_id, buckets));
        }
        // every sensor's page ends before the first bucket that did not fit for one of them
        let next = found.iter().filter_map(|(_, buckets)| buckets.get(size)).map(|bucket| bucket.start).min();
        let until = next.unwrap_or(i64::MAX);
        let whole_from = request.start_time.as_ref().filter(|_| width.is_none()).map(|_| from);
        let sensors = found
            .into_iter()
            .map(|(sensor_id, buckets)| pb::SensorAggregates {
                sensor_id: sensor_id.clone(),
                unit: self.unit(caller, sensor_id, request.raw),
                buckets: buckets.into_iter().filter(|b| b.start < until).map(|b| bucket(b, whole_from)).collect(),
            })
            .collect();
        let next_page_token = next.map(|next| page::token(&query, &next.to_string())).unwrap_or_default();
        Ok(pb::AggregateReadingsResponse { sensors, next_page_token, as_of })
    }

    pub(super) fn latest(
        &self,
        caller: &Caller,
        request: &pb::ListLatestReadingsRequest,
    ) -> Result<pb::ListLatestReadingsResponse> {
        let size = page::size(request.page_size, 1000, 10_000)? as usize;
        let query = format!("latest/{}/{:?}", caller.tenant(), request.sensor_ids);
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let as_of = Some(self.now());
        let mut readings: Vec<pb::Reading> = Vec::new();
        let mut take = |series: &Arc<Series>| {
            if series.is_visible(&caller.scope)
                && let Some(latest) = series.tail.lock().latest
            {
                readings.push(row(&series.sensor_id, series.told(latest, request.raw)));
            }
            readings.len() <= size
        };
        let _steady = self.engine.hub.steady();
        if request.sensor_ids.is_empty() {
            self.engine.catalog.scan(caller.tenant(), &after, take);
        } else {
            let mut ids: Vec<&str> = request.sensor_ids.iter().map(String::as_str).filter(|id| *id > &*after).collect();
            ids.sort_unstable();
            ids.dedup();
            for id in ids {
                let series = self.engine.catalog.find(caller.tenant(), id).and_then(|known| known.series);
                if series.is_some_and(|series| !take(&series)) {
                    break;
                }
            }
        }
        let more = readings.len() > size;
        readings.truncate(size);
        let next_page_token = match readings.last().filter(|_| more) {
            Some(last) => page::token(&query, &last.sensor_id),
            None => String::new(),
        };
        Ok(pb::ListLatestReadingsResponse { readings, next_page_token, as_of })
    }
}

/// The first buckets of a history, and one more than `size` where there are more.
async fn buckets_of(mut history: History, width: Option<i64>, size: usize) -> Result<Vec<Bucket>> {
    let mut buckets = width.map_or_else(Buckets::whole, Buckets::aligned);
    for run in 0..history.runs() {
        history.summarise(run, &mut buckets).await?;
        // the last one may not be complete before the next run
        if buckets.len() > size + 1 {
            break;
        }
    }
    Ok(buckets.finish())
}

fn width(interval: &prost_types::Duration) -> Result<i64> {
    let nanos = time::to_duration(interval).and_then(|d| i64::try_from(d.as_nanos()).ok());
    nanos
        .filter(|nanos| (SECOND..=LONGEST_INTERVAL).contains(nanos))
        .ok_or_else(|| Error::invalid("interval", "must be from 1 s to 366 d"))
}

fn bucket(bucket: Bucket, whole_from: Option<i64>) -> pb::Bucket {
    let aggregate = bucket.aggregate;
    pb::Bucket {
        start: Some(time::from_nanos(whole_from.unwrap_or(bucket.start))),
        count: u32::try_from(aggregate.count).unwrap_or(u32::MAX),
        mean: aggregate.mean(),
        min: aggregate.min,
        max: aggregate.max,
        sum: aggregate.sum.value(),
        first: aggregate.first.1,
        last: aggregate.last.1,
    }
}
