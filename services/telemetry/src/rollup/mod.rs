//! What is left of readings when their raw retention has ended: sums of 15 minutes and of days.
//!
//! Rollups hold exactly what has left the raw blocks, and the transaction that deletes one writes the other. So a summary is
//! that of the rollups and of the raw readings together, whatever came late: what arrives for a time long gone is raw for its
//! own retention and is then added. They stay uncalibrated; calibrations are applied where they are read.

mod read;

use std::ops::Range;

use sensormesh_series::rollup::{merged, widened};
use sensormesh_series::{Column, Rollup, bucket_start};
use sensormesh_store::Tx;
use sensormesh_types::Result;

use crate::catalog::Series;
use crate::db;
use crate::db::rollup::Level;

pub use read::{Rolled, rolled_up};

/// Adds readings that are about to be deleted to the rollups of their series.
pub async fn absorb(tx: &mut Tx, series: &Series, column: &Column) -> Result<()> {
    let quarters = Rollup::of_column(column, Level::Quarters.width());
    add(tx, series, Level::Quarters, &quarters).await?;
    add(tx, series, Level::Days, &widened(&quarters, Level::Days.width())).await
}

async fn add(tx: &mut Tx, series: &Series, level: Level, new: &[Rollup]) -> Result<()> {
    let period = |rollup: &Rollup| bucket_start(rollup.aggregate.first.0, level.period());
    for some in new.chunk_by(|one, next| period(one) == period(next)) {
        let Some(start) = some.first().map(period) else { continue };
        let kept = db::rollup::load(tx, series, level, (start, start)).await?;
        db::rollup::put(tx, series, level, start, &merged(&kept, some, level.width())).await?;
    }
    Ok(())
}

/// Takes what lies in a range out of the rollups up to `end`; answers how many readings that were. Fails with ROLLED_UP where
/// the range divides one.
pub async fn cut_out(tx: &mut Tx, series: &Series, range: &Range<i64>, end: i64) -> Result<u64> {
    let bounds = (range.start, end.min(range.end.saturating_sub(1)));
    let inside = |rollup: &Rollup| {
        let (first, last) = (rollup.aggregate.first.0, rollup.aggregate.last.0);
        match (range.contains(&first) && range.contains(&last), first >= range.end || last < range.start) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            (false, false) => Err(rolled_up(end, "15 minutes")),
        }
    };
    let mut deleted = 0;
    let days = db::rollup::load(tx, series, Level::Days, bounds).await?;
    for some in days.chunk_by(|one, next| one.start(Level::Days.period()) == next.start(Level::Days.period())) {
        let mut kept = Vec::with_capacity(some.len());
        for day in some {
            let start = day.start(Level::Quarters.period());
            let quarters = db::rollup::load(tx, series, Level::Quarters, (start, start)).await?;
            if quarters.iter().map(|quarter| quarter.aggregate.count).sum::<u64>() < day.aggregate.count {
                // its quarters are past their own retention
                if inside(day)? {
                    deleted += day.aggregate.count;
                } else {
                    kept.push(*day);
                }
                continue;
            }
            let mut left = Vec::with_capacity(quarters.len());
            for quarter in quarters {
                if inside(&quarter)? {
                    deleted += quarter.aggregate.count;
                } else {
                    left.push(quarter);
                }
            }
            kept.extend(widened(&left, Level::Days.width()));
            db::rollup::put(tx, series, Level::Quarters, start, &left).await?;
        }
        let Some(first) = some.first() else { continue };
        db::rollup::put(tx, series, Level::Days, first.start(Level::Days.period()), &kept).await?;
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests;
