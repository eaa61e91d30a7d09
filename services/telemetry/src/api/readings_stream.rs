//! `StreamReadings`: many sensors' history in columns, as fast as the reader takes it.

use std::sync::Arc;

use sensormesh_mesh::Sender;
use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::{Caller, Result};

use super::{Answers, Api, range};
use crate::batch;
use crate::catalog::Series;
use crate::history::History;

/// Readings of one message: about 32 KiB.
const READINGS: usize = 4096;

impl Api {
    pub(super) async fn stream(
        &self,
        caller: &Caller,
        request: pb::StreamReadingsRequest,
    ) -> Result<Answers<pb::StreamReadingsResponse>> {
        let range = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        self.reach(&request.min_seq).await?;
        let mut series = Vec::with_capacity(request.sensor_ids.len());
        for sensor_id in &request.sensor_ids {
            series.extend(self.series(caller, sensor_id)?);
        }
        let first =
            pb::StreamReadingsResponse { as_of: Some(self.now()), stale: self.is_stale(), ..Default::default() };
        self.turns.admit(caller).await?;
        let (api, caller, raw) = (self.clone(), caller.clone(), request.raw);
        Ok(sensormesh_mesh::produce(|answers| async move {
            answers.send(first).await;
            for series in series {
                send(&api, &caller, &series, range, raw, &answers).await?;
            }
            Ok(())
        }))
    }
}

/// Sends one series.
async fn send(
    api: &Api,
    caller: &Caller,
    series: &Arc<Series>,
    range: (i64, i64),
    raw: bool,
    answers: &Sender<pb::StreamReadingsResponse>,
) -> Result<()> {
    let name =
        pb::SeriesName { series: series.number, sensor_id: series.sensor_id.to_string(), unit: series.unit(raw) };
    let mut names = vec![name];
    let mut history = History::open(&api.engine, series, range).await?.raw(raw);
    for run in 0..history.runs() {
        let turn = api.turns.wait(caller).await?;
        let found = history.fetch(run).await?;
        history.release();
        drop(turn); // the reader may be slow
        let number = series.number;
        let pack = move || {
            let column = found.column()?;
            let parts = (0..column.len()).step_by(READINGS).map(|from| from..column.len().min(from + READINGS));
            Ok(parts.map(|part| batch::pack_column(number, &column.slice(part))).collect::<Vec<_>>())
        };
        for group in api.background.run(caller, pack).await? {
            let (names, groups) = (std::mem::take(&mut names), vec![group]);
            answers.send(pb::StreamReadingsResponse { names, groups, ..Default::default() }).await;
        }
    }
    if !names.is_empty() {
        // a series without readings in the range is named all the same
        answers.send(pb::StreamReadingsResponse { names, ..Default::default() }).await;
    }
    Ok(())
}
