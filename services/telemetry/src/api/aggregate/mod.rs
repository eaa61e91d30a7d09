//! Summaries, page by page.

mod asked;
mod table;

use std::sync::Arc;

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Gap;
use sensormesh_series::{Buckets, Summaries, gap};
use sensormesh_types::{Caller, Error, Result, page};

pub(super) use asked::Asked;
pub(super) use table::Table;

use super::Api;
use crate::catalog::Series;
use crate::history::History;
use crate::rollup::rolled_up;

/// The most numbers in an answer, the counts among them in rows: about 10 MiB.
const MOST_NUMBERS: usize = 1_000_000;
/// The most buckets of a sensor in a page of rows, which take twice the bytes of columns and ten times the work.
const MOST_ROWS: u32 = 10_000;
/// The same of columns.
const MOST_IN_COLUMNS: u32 = 100_000;

/// The time of a reading, and its value where it is known.
type Neighbour = (i64, Option<f64>);

impl Api {
    pub(super) async fn aggregate(
        &self,
        caller: &Caller,
        request: pb::AggregateReadingsRequest,
    ) -> Result<pb::AggregateReadingsResponse> {
        let asked = Asked::of(&request)?;
        let most = if request.columns { MOST_IN_COLUMNS } else { MOST_ROWS };
        let size = page::size(request.page_size, 1000, most)? as usize;
        let unpaged = pb::AggregateReadingsRequest {
            page_size: 0,
            page_token: String::new(),
            min_seq: String::new(),
            ..request.clone()
        };
        let query = format!("aggregates/{}/{unpaged:?}", caller.tenant());
        self.reach(&request.min_seq).await?;
        let (as_of, stale) = (Some(self.now()), self.is_stale());
        let start = match page::after(&query, &request.page_token)? {
            Some(next) => {
                let next: i64 =
                    next.parse().map_err(|_| Error::invalid("page_token", "is not a token of this list"))?;
                next.max(asked.start)
            }
            None => asked.start,
        };
        let _turn = self.turns.take(caller).await?;
        let (tables, next) = self.tables(caller, &asked, &request.sensor_ids, start, size).await?;
        let sensors = request.sensor_ids.iter().zip(tables).map(|(sensor_id, table)| {
            let unit = self.unit(caller, sensor_id, asked.raw);
            let (buckets, columns) =
                if request.columns { (Vec::new(), table.into_columns()) } else { (table.into_buckets(), None) };
            pb::SensorAggregates { sensor_id: sensor_id.clone(), unit, buckets, columns }
        });
        let next_page_token = next.map(|next| page::token(&query, &next.to_string())).unwrap_or_default();
        Ok(pb::AggregateReadingsResponse { sensors: sensors.collect(), next_page_token, as_of, stale })
    }

    /// A page of at most `size` buckets of each sensor from `start` on, fewer where an answer holds no more; and where the
    /// next one starts.
    pub(super) async fn tables(
        &self,
        caller: &Caller,
        asked: &Asked,
        sensor_ids: &[String],
        start: i64,
        size: usize,
    ) -> Result<(Vec<Table>, Option<i64>)> {
        let room = MOST_NUMBERS / (asked.width * sensor_ids.len().max(1));
        let size = size.min(room).max(1);
        let mut series = Vec::with_capacity(sensor_ids.len());
        for sensor_id in sensor_ids {
            series.push(self.series(caller, sensor_id)?);
        }
        match asked.gap {
            Some(gap) => self.dense(asked, gap, &series, start, size).await,
            None => self.sparse(asked, &series, start, size).await,
        }
    }

    /// A page of the buckets that hold readings, and where the next one starts.
    async fn sparse(
        &self,
        asked: &Asked,
        series: &[Option<Arc<Series>>],
        start: i64,
        size: usize,
    ) -> Result<(Vec<Table>, Option<i64>)> {
        let mut tables = Vec::with_capacity(series.len());
        let mut next = None;
        for series in series {
            let Some(series) = series else {
                tables.push(asked.table(0));
                continue;
            };
            let found = self.buckets(asked, series, (start, asked.end), size).await?.finish();
            tables.push(asked.tabulate(&found, size));
            // every sensor's page ends before the first bucket that did not fit for one of them
            next = next.into_iter().chain(found.starts().get(size).copied()).min();
        }
        if let Some(next) = next {
            tables.iter_mut().for_each(|table| table.cut(next));
        }
        Ok((tables, next))
    }

    /// A page of all buckets of the range, and where the next one starts.
    async fn dense(
        &self,
        asked: &Asked,
        gap: Gap,
        series: &[Option<Arc<Series>>],
        start: i64,
        size: usize,
    ) -> Result<(Vec<Table>, Option<i64>)> {
        let (mut starts, mut until) = (Vec::new(), start);
        while until < asked.end && starts.len() < size {
            starts.push(until);
            until = asked.grid.span(until).1;
        }
        let mut tables = Vec::with_capacity(series.len());
        for series in series {
            let found = match series {
                Some(series) => self.buckets(asked, series, (start, until.min(asked.end)), size).await?.finish(),
                None => Summaries::default(),
            };
            let level = |start: &i64| (*start, found.find(*start).map(|bucket| asked.levels(bucket)));
            let mut rows: Vec<gap::Level> = starts.iter().map(level).collect();
            if let Some(series) = series {
                self.fill(asked, gap, series, &mut rows, until).await?;
            }
            let mut table = asked.table(rows.len());
            for (start, levels) in rows {
                match found.find(start) {
                    Some(bucket) => table.extend(&std::iter::once(bucket)),
                    None => asked.put_gap(start, levels.as_deref(), &mut table),
                }
            }
            tables.push(table);
        }
        Ok((tables, Some(until).filter(|until| *until < asked.end)))
    }

    /// Fills the rows of a page that ends at `until`. Its neighbours are looked up where its ends are empty.
    async fn fill(
        &self,
        asked: &Asked,
        gap: Gap,
        series: &Arc<Series>,
        rows: &mut [gap::Level],
        until: i64,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (rows.first().cloned(), rows.last().cloned()) else { return Ok(()) };
        let carried = matches!(gap, Gap::Previous | Gap::Linear) && first.1.is_none();
        let before = if carried { self.last_before(series, (asked.start, first.0), asked.raw).await? } else { None };
        let before = self.neighbour(asked, series, before).await?;
        match gap {
            Gap::Previous => gap::previous(rows, before.map(|(_, levels)| levels)),
            Gap::Linear => {
                let after = match last.1 {
                    None if until < asked.end => self.first_after(series, (until, asked.end), asked.raw).await?,
                    _ => None,
                };
                let after = self.neighbour(asked, series, after).await?;
                gap::linear(rows, before, after.as_ref());
            }
            Gap::Unspecified | Gap::None | Gap::Null => {}
        }
        Ok(())
    }

    /// The bucket that holds a reading: its start and levels.
    async fn neighbour(
        &self,
        asked: &Asked,
        series: &Arc<Series>,
        reading: Option<Neighbour>,
    ) -> Result<Option<(i64, Vec<f64>)>> {
        let Some((time, _)) = reading else { return Ok(None) };
        let (start, end) = asked.grid.span(time);
        let found = self.buckets(asked, series, (start, end.min(asked.end)), 1).await?;
        Ok(found.finish().get(0).map(|bucket| (bucket.start, asked.levels(bucket))))
    }

    /// The first buckets of a series in a range, and one more than `size` where there are more.
    async fn buckets(&self, asked: &Asked, series: &Arc<Series>, range: (i64, i64), size: usize) -> Result<Buckets> {
        let steps_in = asked.wanted.increase && range.0 > asked.start;
        let before = if steps_in { self.last_before(series, (asked.start, range.0), asked.raw).await? } else { None };
        let before = match before {
            Some((time, None)) => return Err(rolled_up(time, "15 minutes")),
            Some((time, Some(value))) => Some((time, value)),
            None => None,
        };
        let mut buckets = Buckets::of(asked.grid.clone(), asked.wanted.clone()).after(before);
        let mut history = History::with_headers(&self.engine, series, range).await?.raw(asked.raw);
        // the last one may not be complete before what comes next
        history.summarise_rolled(&mut buckets, |buckets| buckets.len() > size + 1).await?;
        for run in 0..history.runs() {
            if history.start_of(run).is_some_and(|next| buckets.are_complete(size, next)) {
                break;
            }
            history.summarise(run, &mut buckets).await?;
        }
        Ok(buckets)
    }

    /// The last reading in a range that takes part in aggregates: its time, and its value where that is not rolled up.
    async fn last_before(&self, series: &Arc<Series>, range: (i64, i64), raw: bool) -> Result<Option<Neighbour>> {
        let mut history = History::open(&self.engine, series, range).await?.raw(raw);
        let rolled = history.last_rolled().await?.map(|time| (time, None));
        for run in (0..history.runs()).rev() {
            let column = history.load(run).await?;
            if let Some(reading) = column.iter().rev().find(|reading| reading.quality.counts()) {
                let found = Some((reading.time, Some(reading.value)));
                return Ok(if rolled.map(|r| r.0) > Some(reading.time) { rolled } else { found });
            }
        }
        Ok(rolled)
    }

    /// The first reading in a range that takes part in aggregates.
    async fn first_after(&self, series: &Arc<Series>, range: (i64, i64), raw: bool) -> Result<Option<Neighbour>> {
        let mut history = History::open(&self.engine, series, range).await?.raw(raw);
        let rolled = history.first_rolled().await?.map(|time| (time, None));
        for run in 0..history.runs() {
            let column = history.load(run).await?;
            if let Some(reading) = column.iter().find(|reading| reading.quality.counts()) {
                let found = Some((reading.time, Some(reading.value)));
                return Ok(if rolled.is_some_and(|r| r.0 < reading.time) { rolled } else { found });
            }
        }
        Ok(rolled)
    }
}
