//! History and summaries as CSV: all of a range, as fast as the reader takes it.

use std::slice;
use std::sync::Arc;

use jiff::tz::TimeZone;
use sensormesh_proto::google::api::HttpBody;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Quality;
use sensormesh_series::Reading;
use sensormesh_types::csv::{self, Table as Csv};
use sensormesh_types::{Caller, Result, time};

use super::aggregate::{Asked, Table};
use super::{Answers, Api, range};
use crate::flags;
use crate::history::History;

/// Buckets that are looked up at once.
const PAGE: usize = 10_000;
/// Readings that are written at once, while nobody else has the thread.
const ROWS: usize = 1000;
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
        self.turns.admit(caller).await?;
        let (api, caller, raw) = (self.clone(), caller.clone(), request.raw);
        Ok(sensormesh_mesh::produce(|answers| async move {
            let mut table = Csv::new(["time", "sensor_id", "value", "unit", "quality"]);
            if let Some(series) = series {
                let columns = Arc::new((Arc::clone(&series.sensor_id), series.unit(raw), zone));
                let mut history = History::open(&api.engine, &series, range).await?.raw(raw);
                for run in 0..history.runs() {
                    let turn = api.turns.wait(&caller).await?;
                    let found = history.fetch(run).await?;
                    history.release();
                    drop(turn); // the reader may be slow
                    let column = Arc::new(api.background.run(&caller, move || found.column()).await?);
                    for from in (0..column.len()).step_by(ROWS) {
                        let (columns, column) = (Arc::clone(&columns), Arc::clone(&column));
                        let write = move || {
                            let (sensor_id, unit, zone) = &*columns;
                            let rows = column.slice(from..column.len().min(from + ROWS));
                            rows.iter().for_each(|reading| write(&mut table, sensor_id, unit, reading, zone));
                            Ok(table)
                        };
                        table = api.background.run(&caller, write).await?;
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
        let asked = Asked::of(&pb::AggregateReadingsRequest {
            interval: request.interval,
            start_time: request.start_time,
            end_time: request.end_time,
            statistics: request.statistics,
            percentiles: request.percentiles,
            calendar: request.calendar,
            time_zone: request.time_zone.clone(),
            gap: request.gap,
            raw: request.raw,
            ..pb::AggregateReadingsRequest::default()
        })?;
        let zone = time::zone("time_zone", &request.time_zone)?;
        self.reach(&request.min_seq).await?;
        for sensor_id in &request.sensor_ids {
            self.series(caller, sensor_id)?;
        }
        self.turns.admit(caller).await?;
        let (api, caller) = (self.clone(), caller.clone());
        Ok(sensormesh_mesh::produce(|answers| async move {
            let mut csv = heading(&asked);
            for sensor_id in request.sensor_ids {
                let unit = api.unit(&caller, &sensor_id, asked.raw);
                let mut next = Some(asked.start);
                while let Some(start) = next {
                    let turn = api.turns.wait(&caller).await?;
                    let tables;
                    (tables, next) = api.tables(&caller, &asked, slice::from_ref(&sensor_id), start, PAGE).await?;
                    drop(turn); // the reader may be slow
                    for (start, count, values) in tables.iter().flat_map(Table::rows) {
                        csv.text(&time::rfc3339_in(start, &zone));
                        csv.text(&sensor_id);
                        csv.text(&unit);
                        csv.count(count.into());
                        values.for_each(|value| csv.number(value));
                        csv.end();
                    }
                    if csv.len() >= CHUNK {
                        answers.send(pb::ExportAggregatesResponse { body: Some(body(&mut csv)) }).await;
                    }
                }
            }
            answers.send(pb::ExportAggregatesResponse { body: Some(body(&mut csv)) }).await;
            Ok(())
        }))
    }
}

fn write(table: &mut Csv, sensor_id: &str, unit: &str, reading: Reading, zone: &TimeZone) {
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

fn heading(asked: &Asked) -> Csv {
    let statistics = asked.statistics.iter().map(|s| s.as_str_name().trim_start_matches("STATISTIC_").to_lowercase());
    let percentiles = asked.wanted.percentiles.iter().map(|p| format!("p{p}"));
    let names: Vec<String> = statistics.chain(percentiles).collect();
    Csv::new(["start", "sensor_id", "unit", "count"].into_iter().chain(names.iter().map(String::as_str)))
}

fn body(table: &mut Csv) -> HttpBody {
    HttpBody { content_type: csv::CONTENT_TYPE.to_owned(), data: table.take().into(), extensions: Vec::new() }
}
