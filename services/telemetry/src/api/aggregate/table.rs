//! One sensor's buckets on their way into an answer: a column for each statistic, from which rows are made where they are
//! asked for.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::Statistic;
use sensormesh_series::wire;
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
        let mut steps = wire::steps(&self.starts)?;
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
