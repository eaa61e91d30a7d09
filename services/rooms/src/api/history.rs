//! What a metric showed over time.

use futures::{StreamExt, TryStreamExt, stream};
use sensormesh_mesh::Streaming;
use sensormesh_proto::google::api::HttpBody;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_types::csv::{self, Table};
use sensormesh_types::{Caller, Error, Result, page, time};

use super::Api;
use crate::db;
use crate::history::{Merged, Summary, bucket_start, stays, stretches};

/// The length of a bucket where nobody says: 1 h.
const USUAL_INTERVAL: i64 = 3_600_000_000_000;
const SHORTEST: i64 = 1_000_000_000;
const LONGEST: i64 = 366 * 86_400_000_000_000;
/// Buckets that an export looks up at once.
const EXPORTED_AT_ONCE: i32 = 10_000;
/// How many questions to telemetry are under way at once.
const AT_ONCE: usize = 8;

impl Api {
    pub(super) async fn get_room_history(
        &self,
        caller: &Caller,
        request: proto::GetRoomHistoryRequest,
    ) -> Result<proto::GetRoomHistoryResponse> {
        let (room, metric) = (&request.room_id, &request.metric);
        let size = page::size(request.page_size, 1000, 10_000)?;
        let interval = interval(request.interval.as_ref())?;
        let start = nanos("start_time", request.start_time.as_ref())?;
        let end = nanos("end_time", request.end_time.as_ref())?;
        if start.zip(end).is_some_and(|(start, end)| end <= start) {
            return Err(Error::invalid("end_time", "must be after start_time"));
        }
        let query = format!("history/{}/{room}/{metric}/{interval}/{start:?}/{end:?}", caller.tenant());
        let from = match page::after(&query, &request.page_token)? {
            Some(from) => Some(from.parse::<i64>().map_err(|_| Error::invalid("page_token", "is not of this list"))?),
            None => start.map(|start| bucket_start(start, interval)),
        };
        let mut read = self.store.read(&caller.scope).await?;
        self.room(caller, &mut read, room).await?;
        let mut placements = db::list_of_metric(&mut read, caller.tenant(), room, metric).await?;
        drop(read);
        placements.retain(|placement| caller.scope.admits(caller.tenant(), &placement.site));
        if placements.is_empty() {
            return Err(Error::not_found("metric", metric).with("room", &**room));
        }
        let questions: Vec<_> = stays(&placements, from, end)
            .iter()
            .flat_map(|stay| stretches(stay, interval).into_iter().map(|stretch| (stay.sensor.clone(), stretch)))
            .collect();
        let page_size = i32::try_from(size).unwrap_or(i32::MAX).max(1);
        let answers: Vec<_> = stream::iter(questions)
            .map(|(sensor, stretch)| async move {
                // a rest of a bucket is at most 366 buckets of a finer interval, and 60 of seconds
                let page_size = if stretch.interval == interval { page_size } else { 10_000 };
                self.telemetry.aggregate(&sensor, &stretch, page_size).await
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let mut merged = Merged::new(interval);
        let mut unit = String::new();
        let (as_of, stale) = (Some(time::from_micros(self.mesh.clock().now_micros())), answers.iter().any(|a| a.stale));
        for answer in answers {
            for sensor in answer.sensors {
                if !sensor.unit.is_empty() {
                    unit = sensor.unit;
                }
                let mut last = None;
                for bucket in sensor.buckets {
                    let Some(start) = bucket.start.as_ref().and_then(time::to_nanos) else { continue };
                    last = Some(start);
                    if let (Some(sum), Some(min), Some(max)) = (bucket.sum, bucket.min, bucket.max) {
                        merged.add(start, Summary { count: bucket.count.into(), sum, min, max });
                    }
                }
                if let Some(last) = last.filter(|_| !answer.next_page_token.is_empty()) {
                    merged.cut_after(last);
                }
            }
        }
        let (buckets, next) = merged.page(size as usize);
        let encode = |(start, summary): (i64, Summary)| proto::HistoryBucket {
            start: Some(time::from_nanos(start)),
            count: u32::try_from(summary.count).unwrap_or(u32::MAX),
            mean: summary.mean(),
            min: summary.min,
            max: summary.max,
        };
        Ok(proto::GetRoomHistoryResponse {
            buckets: buckets.into_iter().map(encode).collect(),
            next_page_token: next.map(|next| page::token(&query, &next.to_string())).unwrap_or_default(),
            unit,
            as_of,
            stale,
        })
    }

    pub(super) async fn export_room_history(
        &self,
        caller: &Caller,
        request: proto::ExportRoomHistoryRequest,
    ) -> Result<Streaming<proto::ExportRoomHistoryResponse>> {
        let zone = time::zone("time_zone", &request.time_zone)?;
        let mut page = proto::GetRoomHistoryRequest {
            room_id: request.room_id,
            metric: request.metric,
            interval: request.interval,
            start_time: request.start_time,
            end_time: request.end_time,
            page_size: EXPORTED_AT_ONCE,
            page_token: String::new(),
        };
        // what is wrong with the request is said before the first byte
        let mut answer = self.get_room_history(caller, page.clone()).await?;
        let (api, caller) = (self.clone(), caller.clone());
        Ok(sensormesh_mesh::produce(|answers| async move {
            let mut table = Table::new(["start", "room_id", "metric", "unit", "count", "mean", "min", "max"]);
            loop {
                for bucket in &answer.buckets {
                    let at = bucket.start.as_ref().and_then(time::to_nanos).unwrap_or_default();
                    table.text(&time::rfc3339_in(at, &zone));
                    table.text(&page.room_id);
                    table.text(&page.metric);
                    table.text(&answer.unit);
                    table.count(bucket.count.into());
                    table.number(Some(bucket.mean));
                    table.number(Some(bucket.min));
                    table.number(Some(bucket.max));
                    table.end();
                }
                let (content_type, data) = (csv::CONTENT_TYPE.to_owned(), table.take().into());
                let body = Some(HttpBody { content_type, data, extensions: Vec::new() });
                answers.send(proto::ExportRoomHistoryResponse { body }).await;
                if answer.next_page_token.is_empty() {
                    return Ok(());
                }
                page.page_token = answer.next_page_token;
                answer = api.get_room_history(&caller, page.clone()).await?;
            }
        }))
    }
}

fn interval(interval: Option<&prost_types::Duration>) -> Result<i64> {
    let Some(interval) = interval else { return Ok(USUAL_INTERVAL) };
    time::to_duration(interval)
        .and_then(|interval| i64::try_from(interval.as_nanos()).ok())
        .filter(|nanos| (SHORTEST..=LONGEST).contains(nanos))
        .ok_or_else(|| Error::invalid("interval", "must be from 1 s to 366 d"))
}

fn nanos(field: &str, time: Option<&prost_types::Timestamp>) -> Result<Option<i64>> {
    time.map(|at| time::nanos(field, at)).transpose()
}
