//! `DownsampleReadings`: the points of a chart.

use std::sync::Arc;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_series::{Buckets, Lttb};
use sensormesh_types::{Caller, Error, Result, time};

use super::{Api, range};
use crate::catalog::Series;
use crate::history::History;

const USUAL_POINTS: usize = 1000;
/// The most points in an answer: about 6 MiB.
const MOST_POINTS: usize = 200_000;

impl Api {
    pub(super) async fn downsample(
        &self,
        caller: &Caller,
        request: pb::DownsampleReadingsRequest,
    ) -> Result<pb::DownsampleReadingsResponse> {
        let range = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        let points = match usize::try_from(request.max_points) {
            Ok(0) => USUAL_POINTS,
            Ok(points @ 3..) => points,
            _ => return Err(Error::invalid("max_points", "must be at least 3")),
        };
        if points.saturating_mul(request.sensor_ids.len()) > MOST_POINTS {
            return Err(Error::invalid("max_points", "is more than 200,000 of all sensors together"));
        }
        self.reach(&request.min_seq).await?;
        let _turn = self.turns.take(caller).await?;
        let (as_of, stale) = (Some(self.now()), self.is_stale());
        let mut sensors = Vec::with_capacity(request.sensor_ids.len());
        for sensor_id in &request.sensor_ids {
            let (readings, picked) = match self.series(caller, sensor_id)? {
                Some(series) => self.points(&series, range, points, request.raw).await?,
                None => (0, Vec::new()),
            };
            let point = |(at, value)| pb::Point { time: Some(time::from_nanos(at)), value };
            sensors.push(pb::SensorPoints {
                sensor_id: sensor_id.clone(),
                unit: self.unit(caller, sensor_id, request.raw),
                readings,
                points: picked.into_iter().map(point).collect(),
            });
        }
        Ok(pb::DownsampleReadingsResponse { sensors, as_of, stale })
    }

    /// How many readings of a series lie in a range, and the points that stand for them.
    async fn points(
        &self,
        series: &Arc<Series>,
        range: (i64, i64),
        points: usize,
        raw: bool,
    ) -> Result<(u64, Vec<(i64, f64)>)> {
        let mut history = History::with_headers(&self.engine, series, range).await?.raw(raw);
        let mut counted = Buckets::whole();
        for run in 0..history.runs() {
            history.summarise(run, &mut counted).await?;
        }
        let total = counted.finish().get(0).map_or(0, |bucket| bucket.rollup.aggregate.count);
        let mut picking = Lttb::new(total, points)?;
        for run in 0..history.runs() {
            let column = history.load(run).await?;
            for reading in column.iter().filter(|reading| reading.quality.counts()) {
                picking.add(reading.time, reading.value);
            }
        }
        Ok((total, picking.finish()))
    }
}
