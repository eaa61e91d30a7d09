//! Summaries out of rollups.

use std::ops::Range;

use sensormesh_series::rollup::DAY;
use sensormesh_series::{Buckets, Rollup, bucket_start};
use sensormesh_store::Read;
use sensormesh_types::{Error, Result, time};

use crate::calibration::Calibration;
use crate::catalog::Series;
use crate::db;
use crate::db::rollup::Level;

/// Days whose quarters are read at once.
const DAYS_AT_ONCE: usize = 64;

/// The rollups of a series, as a summary reads them.
pub struct Rolled<'a> {
    /// The series.
    pub series: &'a Series,
    /// How its values are calibrated.
    pub calibration: Option<&'a Calibration>,
    /// From which time up to but not including which readings are wanted.
    pub range: Range<i64>,
    /// The last time of what is rolled up.
    pub end: i64,
}

impl Rolled<'_> {
    /// Adds what lies in the range, the oldest first, until buckets are `enough`. Fails with ROLLED_UP where rollups cannot
    /// tell it.
    pub async fn add(&self, read: &mut Read, buckets: &mut Buckets, enough: impl Fn(&Buckets) -> bool) -> Result<()> {
        let days = db::rollup::load(read, self.series, Level::Days, (self.range.start, self.last())).await?;
        let days: Vec<Rollup> = days.into_iter().filter(|day| self.touches(day)).collect();
        let mut at = 0;
        while at < days.len() && !enough(buckets) {
            if let Some(day) = self.told(&days[at], buckets) {
                buckets.add_rollup(&day);
                at += 1;
                continue;
            }
            let parts = days[at..].iter().take(DAYS_AT_ONCE).take_while(|day| self.told(day, buckets).is_none());
            let until = at + parts.count();
            self.add_quarters(read, buckets, &days[at..until]).await?;
            at = until;
        }
        Ok(())
    }

    async fn add_quarters(&self, read: &mut Read, buckets: &mut Buckets, days: &[Rollup]) -> Result<()> {
        let (Some(first), Some(last)) = (days.first(), days.last()) else { return Ok(()) };
        let range = (first.aggregate.first.0, last.aggregate.last.0);
        let quarters = db::rollup::load(read, self.series, Level::Quarters, range).await?;
        let counted = |day: &Rollup| -> u64 {
            let same = quarters.iter().filter(|quarter| quarter.start(DAY) == day.start(DAY));
            same.map(|quarter| quarter.aggregate.count).sum()
        };
        if days.iter().any(|day| counted(day) < day.aggregate.count) {
            return Err(self.rolled_up("days in UTC"));
        }
        let wanted = |quarter: &&Rollup| days.iter().any(|day| day.start(DAY) == quarter.start(DAY));
        for quarter in quarters.iter().filter(wanted).filter(|quarter| self.touches(quarter)) {
            let told = self.told(quarter, buckets).ok_or_else(|| self.rolled_up("15 minutes"))?;
            buckets.add_rollup(&told);
        }
        Ok(())
    }

    /// The time of the last reading in the range, as far as rollups know; where one reaches beyond it, that of its first.
    pub async fn last_time(&self, read: &mut Read) -> Result<Option<i64>> {
        let days = db::rollup::load(read, self.series, Level::Days, (self.range.start, self.last())).await?;
        let Some(day) = days.iter().rev().find(|day| self.touches(day)) else { return Ok(None) };
        let mut last = *day;
        if !self.range.contains(&day.aggregate.last.0) {
            let day = bucket_start(day.aggregate.first.0, DAY);
            let quarters = db::rollup::load(read, self.series, Level::Quarters, (day, day)).await?;
            last = quarters.into_iter().rev().find(|quarter| self.touches(quarter)).unwrap_or(last);
        }
        let (first, last) = (last.aggregate.first.0, last.aggregate.last.0);
        Ok(Some(if self.range.contains(&last) { last } else { first }))
    }

    /// The time of the first reading in the range, as far as rollups know; where one begins before it, that of its last.
    pub async fn first_time(&self, read: &mut Read) -> Result<Option<i64>> {
        let days = db::rollup::load(read, self.series, Level::Days, (self.range.start, self.last())).await?;
        let Some(day) = days.iter().find(|day| self.touches(day)) else { return Ok(None) };
        let mut first = *day;
        if !self.range.contains(&day.aggregate.first.0) {
            let day = bucket_start(day.aggregate.first.0, DAY);
            let quarters = db::rollup::load(read, self.series, Level::Quarters, (day, day)).await?;
            first = quarters.into_iter().find(|quarter| self.touches(quarter)).unwrap_or(first);
        }
        let (first, last) = (first.aggregate.first.0, first.aggregate.last.0);
        Ok(Some(if self.range.contains(&first) { first } else { last }))
    }

    fn last(&self) -> i64 {
        self.end.min(self.range.end.saturating_sub(1))
    }

    /// Whether it may have readings in the range.
    fn touches(&self, rollup: &Rollup) -> bool {
        rollup.aggregate.first.0 < self.range.end && rollup.aggregate.last.0 >= self.range.start
    }

    /// The rollup calibrated, where it lies in the range and says what its bucket needs.
    fn told(&self, rollup: &Rollup, buckets: &Buckets) -> Option<Rollup> {
        let (first, last) = (rollup.aggregate.first.0, rollup.aggregate.last.0);
        let inside = self.range.contains(&first) && self.range.contains(&last) && buckets.fits(rollup);
        match (inside, self.calibration) {
            (false, _) => None,
            (true, None) => Some(*rollup),
            (true, Some(calibration)) => calibration.rollup(*rollup),
        }
    }

    fn rolled_up(&self, of: &str) -> Error {
        rolled_up(self.end, of)
    }
}

/// What is answered where a summary needs raw readings that have been deleted: up to `end`, with sums `of` what is left.
pub fn rolled_up(end: i64, of: &str) -> Error {
    let until = time::rfc3339(end);
    let message = format!(
        "raw readings up to {until} have been deleted, and for some of them only sums of {of} are left: they give no \
             `percentiles`, INCREASE or RATE, no `interval` or `calendar` unit, `start_time` or `end_time` that divides them, and \
             no values calibrated by anything but one straight line (ask for `raw`)"
    );
    Error::precondition("ROLLED_UP", message).with("rolled_up_until", until)
}
