//! What is left of readings when their raw retention has ended: sums of 15 minutes and of days.
//!
//! Rollups hold exactly what has left the raw blocks, and the transaction that deletes one writes the other. So a summary is
//! that of the rollups and of the raw readings together, whatever came late: what arrives for a time long gone is raw for its
//! own retention and is then added. They stay uncalibrated; calibrations are applied where they are read.

mod read;

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

#[cfg(test)]
mod tests;
