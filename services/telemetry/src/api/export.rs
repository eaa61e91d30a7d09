//! History and summaries as CSV: all of a range, as fast as the reader takes it.

use jiff::tz::TimeZone;
use sensormesh_proto::google::api::HttpBody;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::{Quality, Statistic};
use sensormesh_series::Reading;
use sensormesh_types::csv::{self, Table};
use sensormesh_types::{Caller, Result, time};

use super::aggregate::{Asked, place};
use super::{Answers, Api, range};
use crate::flags;
use crate::history::History;

/// Buckets that are looked up at once.
const PAGE: i32 = 10_000;
/// A message is sent when it has so many bytes.
const CHUNK: usize = 32 << 10;

impl Api {
    pub(super) async fn export(
        &self,
        caller: &Caller,
        request: pb::ExportReadingsRequest,
    ) -> Result<Answers<pb::ExportReadingsResponse>> {
        let range = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        let zone = time::zone("time_zone", &request.time_zone)?;
        self.reach(&request.min_seq).await?;
        let series = self.series(caller, &request.sensor_id)?;
        let (engine, raw) = (self.engine.clone(), request.raw);
        Ok(sensormesh_mesh::produce(|answers| async move {
            let mut table = Table::new(["time", "sensor_id", "value", "unit", "quality"]);
            if let Some(series) = series {
                let unit = series.unit(raw);
                let mut history = History::open(&engine, &series, range).await?.raw(raw);
                for run in 0..history.runs() {
                    let column = history.load(run).await?;
                    history.release();
                    for reading in column.iter() {
                        write(&mut table, &series.sensor_id, &unit, reading, &zone);
                        if table.len() >= CHUNK {
                            answers.send(pb::ExportReadingsResponse { body: Some(body(&mut table)) }).await;
                        }
                    }
                }
            }
            answers.send(pb::ExportReadingsResponse { body: Some(body(&mut table)) }).await;
            Ok(())
        }))
    }

    pub(super) async fn export_summaries(
        &self,
        caller: &Caller,
        request: pb::ExportAggregatesRequest,
    ) -> Result<Answers<pb::ExportAggregatesResponse>> {
        let mut page = pb::AggregateReadingsRequest {
            sensor_ids: Vec::new(),
            interval: request.interval,
            start_time: request.start_time,
            end_time: request.end_time,
            page_size: PAGE,
            page_token: String::new(),
            min_seq: request.min_seq,
            statistics: request.statistics,
            percentiles: request.percentiles,
            calendar: request.calendar,
            time_zone: request.time_zone,
            gap: request.gap,
            raw: request.raw,
        };
        let asked = Asked::of(&page)?;
        let zone = time::zone("time_zone", &page.time_zone)?;
        self.reach(&page.min_seq).await?;
        page.min_seq.clear();
        for sensor_id in &request.sensor_ids {
            self.series(caller, sensor_id)?;
        }
        let (api, caller) = (self.clone(), caller.clone());
        Ok(sensormesh_mesh::produce(|answers| async move {
            let statistics: Vec<Statistic> =
                asked.statistics.iter().copied().filter(|statistic| *statistic != Statistic::Count).collect();
            let mut table = heading(&statistics, &page.percentiles);
            for sensor_id in request.sensor_ids {
                page.sensor_ids = vec![sensor_id];
                loop {
                    let answer = api.aggregate(&caller, page.clone()).await?;
                    for sensor in answer.sensors {
                        for mut bucket in sensor.buckets {
                            let at = bucket.start.as_ref().and_then(time::to_nanos).unwrap_or_default();
                            table.text(&time::rfc3339_in(at, &zone));
                            table.text(&sensor.sensor_id);
                            table.text(&sensor.unit);
                            table.count(bucket.count.into());
                            for statistic in &statistics {
                                table.number(place(&mut bucket, *statistic).and_then(|place| *place));
                            }
                            for percentile in 0..page.percentiles.len() {
                                table.number(bucket.percentiles.get(percentile).copied());
                            }
                            table.end();
                        }
                        if table.len() >= CHUNK {
                            answers.send(pb::ExportAggregatesResponse { body: Some(body(&mut table)) }).await;
                        }
                    }
                    page.page_token = answer.next_page_token;
                    if page.page_token.is_empty() {
                        break;
                    }
                }
            }
            answers.send(pb::ExportAggregatesResponse { body: Some(body(&mut table)) }).await;
            Ok(())
        }))
    }
}

fn write(table: &mut Table, sensor_id: &str, unit: &str, reading: Reading, zone: &TimeZone) {
    table.text(&time::rfc3339_in(reading.time, zone));
    table.text(sensor_id);
    table.number(Some(reading.value));
    table.text(unit);
    table.text(match flags::flag(reading.quality) {
        Quality::Unspecified => "",
        quality => quality.as_str_name().trim_start_matches("QUALITY_"),
    });
    table.end();
}

fn heading(statistics: &[Statistic], percentiles: &[f64]) -> Table {
    let statistics = statistics.iter().map(|s| s.as_str_name().trim_start_matches("STATISTIC_").to_lowercase());
    let percentiles = percentiles.iter().map(|p| format!("p{p}"));
    let names: Vec<String> = statistics.chain(percentiles).collect();
    Table::new(["start", "sensor_id", "unit", "count"].into_iter().chain(names.iter().map(String::as_str)))
}

fn body(table: &mut Table) -> HttpBody {
    HttpBody { content_type: csv::CONTENT_TYPE.to_owned(), data: table.take().into(), extensions: Vec::new() }
}
