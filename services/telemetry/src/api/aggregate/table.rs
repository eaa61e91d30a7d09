//! One sensor's buckets on their way into an answer: a column for each statistic, from which rows are made where they are
//! asked for.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Statistic;
use sensormesh_series::{Bucket, Rollup, wire};
use sensormesh_types::time;

/// Buckets in the order of time.
pub struct Table {
    starts: Vec<i64>,
    counts: Vec<u32>,
    /// The statistics, then the percentiles; NaN where there is none.
    columns: Vec<pb::StatisticColumn>,
}

impl Table {
    /// A table of these columns with room for so many buckets.
    pub fn new(statistics: &[Statistic], percentiles: &[f64], size: usize) -> Self {
        let column = |statistic: Statistic, percentile| pb::StatisticColumn {
            statistic: statistic.into(),
            percentile,
            values: Vec::with_capacity(size),
        };
        let statistics = statistics.iter().map(|statistic| column(*statistic, None));
        let percentiles = percentiles.iter().map(|percentile| column(Statistic::Unspecified, Some(*percentile)));
        let columns = statistics.chain(percentiles).collect();
        Self { starts: Vec::with_capacity(size), counts: Vec::with_capacity(size), columns }
    }

    /// Appends buckets with readings, column by column.
    pub fn extend<'a>(&mut self, buckets: &(impl Iterator<Item = Bucket<'a>> + Clone)) {
        self.starts.extend(buckets.clone().map(|bucket| bucket.start));
        let count = |bucket: Bucket<'a>| u32::try_from(bucket.rollup.aggregate.count).unwrap_or(u32::MAX);
        self.counts.extend(buckets.clone().map(count));
        let mut percentiles = 0;
        for column in &mut self.columns {
            let (wanted, buckets) = (column.statistic(), buckets.clone());
            if column.percentile.is_some() {
                let percentile = |bucket: Bucket<'a>| bucket.detail.percentiles.get(percentiles).copied();
                column.values.extend(buckets.map(|bucket| percentile(bucket).unwrap_or(f64::NAN)));
                percentiles += 1;
            } else {
                column.values.extend(buckets.map(|bucket| statistic(wanted, bucket).unwrap_or(f64::NAN)));
            }
        }
    }

    /// Appends a bucket with a value for each column.
    pub fn push(&mut self, start: i64, count: u64, values: impl Iterator<Item = Option<f64>>) {
        self.starts.push(start);
        self.counts.push(u32::try_from(count).unwrap_or(u32::MAX));
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.values.push(value.unwrap_or(f64::NAN));
        }
    }

    /// Leaves out the buckets from a time on.
    pub fn cut(&mut self, until: i64) {
        let left = self.starts.partition_point(|start| *start < until);
        self.starts.truncate(left);
        self.counts.truncate(left);
        self.columns.iter_mut().for_each(|column| column.values.truncate(left));
    }

    /// Each bucket's start, number of readings and values.
    pub fn rows(&self) -> impl Iterator<Item = (i64, u32, impl Iterator<Item = Option<f64>>)> {
        let values =
            |row: usize| self.columns.iter().map(move |column| Some(column.values[row]).filter(|v| !v.is_nan()));
        let heads = self.starts.iter().zip(&self.counts).enumerate();
        heads.map(move |(row, (start, count))| (*start, *count, values(row)))
    }

    /// The contract's rows.
    pub fn into_buckets(self) -> Vec<pb::Bucket> {
        let mut buckets = Vec::with_capacity(self.starts.len());
        for (start, count, values) in self.rows() {
            let mut bucket = pb::Bucket { start: Some(time::from_nanos(start)), count, ..pb::Bucket::default() };
            for (column, value) in self.columns.iter().zip(values) {
                match place(&mut bucket, column.statistic()) {
                    Some(place) => *place = value,
                    None => bucket.percentiles.extend(value),
                }
            }
            buckets.push(bucket);
        }
        buckets
    }

    /// The contract's columns; `None` where there is no bucket.
    pub fn into_columns(self) -> Option<pb::BucketColumns> {
        let mut steps = match self.starts.as_slice() {
            [] => return None,
            // mostly each starts where the one before ends
            [first, second, ..]
                if self.starts.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == second - first) =>
            {
                wire::steps(&[*first, *second])?
            }
            starts => wire::steps(starts)?,
        };
        if steps.steps.iter().all(|step| *step == 1) {
            steps.steps.clear();
        }
        Some(pb::BucketColumns {
            start_ns: steps.start,
            tick_ns: steps.tick,
            steps: steps.steps,
            counts: self.counts,
            statistics: self.columns,
        })
    }
}

/// A statistic of a bucket with readings; `None` where it has none, or of what is no statistic of its values.
#[inline]
pub fn statistic(statistic: Statistic, bucket: Bucket<'_>) -> Option<f64> {
    let Bucket { rollup: Rollup { aggregate, .. }, detail, .. } = bucket;
    match statistic {
        Statistic::Mean => Some(aggregate.mean()),
        Statistic::Min => Some(aggregate.min),
        Statistic::Max => Some(aggregate.max),
        Statistic::Sum => Some(aggregate.sum.value()),
        Statistic::First => Some(aggregate.first.1),
        Statistic::Last => Some(aggregate.last.1),
        Statistic::Stddev => bucket.rollup.deviation(),
        Statistic::Increase => detail.increase.map(|increase| increase.total),
        Statistic::Rate => detail.increase.map(|increase| increase.per_second()),
        Statistic::Unspecified | Statistic::Count => None,
    }
}

/// Where the contract's bucket has a statistic; percentiles have places of their own.
fn place(bucket: &mut pb::Bucket, statistic: Statistic) -> Option<&mut Option<f64>> {
    match statistic {
        Statistic::Mean => Some(&mut bucket.mean),
        Statistic::Min => Some(&mut bucket.min),
        Statistic::Max => Some(&mut bucket.max),
        Statistic::Sum => Some(&mut bucket.sum),
        Statistic::First => Some(&mut bucket.first),
        Statistic::Last => Some(&mut bucket.last),
        Statistic::Stddev => Some(&mut bucket.stddev),
        Statistic::Increase => Some(&mut bucket.increase),
        Statistic::Rate => Some(&mut bucket.rate),
        Statistic::Unspecified | Statistic::Count => None,
    }
}
