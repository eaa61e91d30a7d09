//! `StreamReadings`: many sensors' history in columns, as fast as the reader takes it.

use std::sync::Arc;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::{Caller, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Answers, Api, range};
use crate::batch;
use crate::catalog::Series;
use crate::engine::Engine;
use crate::history::History;

/// Readings of one message: about 32 KiB.
const READINGS: usize = 4096;

type Sending = mpsc::Sender<Result<pb::StreamReadingsResponse>>;

impl Api {
    pub(super) async fn stream(
        &self,
        caller: &Caller,
        request: pb::StreamReadingsRequest,
    ) -> Result<Answers<pb::StreamReadingsResponse>> {
        let (start, end) = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        self.reach(&request.min_seq).await?;
        let mut series = Vec::with_capacity(request.sensor_ids.len());
        for sensor_id in &request.sensor_ids {
            series.extend(self.series(caller, sensor_id)?);
        }
        let (answers, outgoing) = mpsc::channel(2);
        let (engine, raw) = (self.engine.clone(), request.raw);
        tokio::spawn(async move {
            for series in series {
                match send(&engine, &series, (start, end), raw, &answers).await {
                    Ok(true) => {}
                    Ok(false) => return,
                    Err(error) => {
                        let _ = answers.send(Err(error)).await; // the reader may have gone
                        return;
                    }
                }
            }
        });
        Ok(sensormesh_mesh::stream(ReceiverStream::new(outgoing)))
    }
}

/// Sends one series; answers whether the reader is still there.
async fn send(engine: &Engine, series: &Arc<Series>, range: (i64, i64), raw: bool, answers: &Sending) -> Result<bool> {
    let name =
        pb::SeriesName { series: series.number, sensor_id: series.sensor_id.to_string(), unit: series.unit(raw) };
    let mut names = vec![name];
    let mut history = History::open(engine, series, range).await?.raw(raw);
    for run in 0..history.runs() {
        let column = history.load(run).await?;
        history.release();
        let mut from = 0;
        while from < column.len() {
            let to = column.len().min(from + READINGS);
            let groups = vec![batch::pack_column(series.number, &column.slice(from..to))];
            let message = pb::StreamReadingsResponse { names: std::mem::take(&mut names), groups };
            if answers.send(Ok(message)).await.is_err() {
                return Ok(false);
            }
            from = to;
        }
    }
    if names.is_empty() {
        return Ok(true);
    }
    // a series without readings in the range is named all the same
    let message = pb::StreamReadingsResponse { names, groups: Vec::new() };
    Ok(answers.send(Ok(message)).await.is_ok())
}
