//! What was stored, page by page: readings, latest values.

use std::sync::Arc;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::{Caller, Error, Result, page};

use super::rows::row;
use super::{Api, range};
use crate::catalog::Series;
use crate::history::History;

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
        let (as_of, stale) = (Some(self.now()), self.is_stale());
        let Some(series) = self.series(caller, &request.sensor_id)? else {
            return Ok(pb::ListReadingsResponse {
                unit: self.unit(caller, &request.sensor_id, request.raw),
                as_of,
                stale,
                ..Default::default()
            });
        };
        if let Some(last) = page::after(&query, &request.page_token)? {
            let last: i64 = last.parse().map_err(|_| Error::invalid("page_token", "is not a token of this list"))?;
            if request.newest_first {
                end = end.min(last);
            } else {
                start = start.max(last.saturating_add(1));
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
            stale,
        })
    }

    pub(super) fn unit(&self, caller: &Caller, sensor_id: &str, raw: bool) -> String {
        self.engine.catalog.find(caller.tenant(), sensor_id).map(|known| known.unit(raw)).unwrap_or_default()
    }

    pub(super) fn latest(
        &self,
        caller: &Caller,
        request: &pb::ListLatestReadingsRequest,
    ) -> Result<pb::ListLatestReadingsResponse> {
        let size = page::size(request.page_size, 1000, 10_000)? as usize;
        let query = format!("latest/{}/{:?}", caller.tenant(), request.sensor_ids);
        let after = page::after(&query, &request.page_token)?.unwrap_or_default();
        let (as_of, stale) = (Some(self.now()), self.is_stale());
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
        Ok(pb::ListLatestReadingsResponse { readings, next_page_token, as_of, stale })
    }
}
