//! Buckets of aggregates: what a program makes of their columns, and when two are the same.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_types::time;

/// The buckets that columns hold, as a program would read them.
pub fn unroll(columns: Option<pb::BucketColumns>) -> Vec<pb::Bucket> {
    let Some(columns) = columns else { return Vec::new() };
    let mut start = columns.start_ns;
    let mut buckets = Vec::new();
    for (place, count) in columns.counts.iter().enumerate() {
        let mut bucket = pb::Bucket { start: Some(time::from_nanos(start)), count: *count, ..Default::default() };
        for column in &columns.statistics {
            let value = Some(column.values[place]).filter(|value| !value.is_nan());
            match column.statistic() {
                pb::Statistic::Mean => bucket.mean = value,
                pb::Statistic::Min => bucket.min = value,
                pb::Statistic::Max => bucket.max = value,
                pb::Statistic::Sum => bucket.sum = value,
                pb::Statistic::First => bucket.first = value,
                pb::Statistic::Last => bucket.last = value,
                pb::Statistic::Stddev => bucket.stddev = value,
                pb::Statistic::Increase => bucket.increase = value,
                pb::Statistic::Rate => bucket.rate = value,
                pb::Statistic::Unspecified | pb::Statistic::Count => {
                    assert!(column.percentile.is_some());
                    bucket.percentiles.extend(value);
                }
            }
        }
        buckets.push(bucket);
        let step = if columns.steps.is_empty() { 1 } else { columns.steps.get(place).copied().unwrap_or_default() };
        start += step * columns.tick_ns as i64;
    }
    buckets
}

/// Whether buckets are the same but for the last digits of their values.
pub fn alike((one, other): (&pb::Bucket, &pb::Bucket)) -> bool {
    let values = |bucket: &pb::Bucket| {
        let pb::Bucket { mean, min, max, sum, first, last, stddev, increase, rate, .. } = *bucket;
        let percentiles = bucket.percentiles.iter().map(|percentile| Some(*percentile));
        [mean, min, max, sum, first, last, stddev, increase, rate].into_iter().chain(percentiles).collect::<Vec<_>>()
    };
    let near = |(one, other): (&Option<f64>, &Option<f64>)| match (one, other) {
        (Some(one), Some(other)) => (one - other).abs() <= 1e-9 * one.abs().max(1.0),
        (one, other) => one == other,
    };
    let (left, right) = (values(one), values(other));
    one.start == other.start
        && one.count == other.count
        && left.len() == right.len()
        && left.iter().zip(&right).all(near)
}
