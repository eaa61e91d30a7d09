//! What a request for summaries asks, checked.

use sensormesh_proto::telemetry::v1 as pb;
use sensormesh_proto::telemetry::v1::{CalendarUnit, Gap, Statistic};
use sensormesh_series::{Bucket, Grid, Summaries, Unit, Wanted};
use sensormesh_types::{Error, Result, time};

use super::table::{Table, statistic};
use crate::api::range;

const SECOND: i64 = 1_000_000_000;
const LONGEST_INTERVAL: i64 = 366 * 86_400 * SECOND;

/// What is given where nobody says.
const USUAL: [Statistic; 6] =
    [Statistic::Mean, Statistic::Min, Statistic::Max, Statistic::Sum, Statistic::First, Statistic::Last];

/// What a request for summaries asks.
pub struct Asked {
    /// The buckets.
    pub grid: Grid,
    /// From when: the start of a bucket, or the first reading.
    pub start: i64,
    /// Until when, not included.
    pub end: i64,
    /// The start of the one bucket of a whole range, where the request has one.
    pub whole_from: Option<i64>,
    /// What is wanted beside the count, each once.
    pub statistics: Vec<Statistic>,
    /// What takes every reading to know.
    pub wanted: Wanted,
    /// What is shown of buckets without readings; `None` = they are left out.
    pub gap: Option<Gap>,
    /// How many numbers a bucket has.
    pub width: usize,
    /// The values as they were measured.
    pub raw: bool,
}

impl Asked {
    /// Checks a request.
    pub fn of(request: &pb::AggregateReadingsRequest) -> Result<Self> {
        let (from, end) = range(request.start_time.as_ref(), request.end_time.as_ref())?;
        let zone = time::zone("time_zone", &request.time_zone)?;
        let unit = match request.calendar() {
            CalendarUnit::Unspecified => None,
            CalendarUnit::Day => Some(Unit::Day),
            CalendarUnit::Week => Some(Unit::Week),
            CalendarUnit::Month => Some(Unit::Month),
            CalendarUnit::Year => Some(Unit::Year),
        };
        let grid = match (unit, &request.interval) {
            (Some(_), Some(_)) => return Err(Error::invalid("calendar", "cannot be given together with `interval`")),
            (Some(unit), None) => Grid::Calendar(unit, zone),
            (None, Some(interval)) => Grid::Fixed(width(interval)?),
            (None, None) => Grid::Whole,
        };
        let gap = Some(request.gap()).filter(|gap| !matches!(gap, Gap::Unspecified | Gap::None));
        if gap.is_some() {
            let bounded = request.start_time.is_some() && request.end_time.is_some() && grid != Grid::Whole;
            if !bounded {
                let message = "needs `start_time`, `end_time`, and `interval` or `calendar`";
                return Err(Error::invalid("gap", message));
            }
        }
        let mut statistics: Vec<Statistic> = request.statistics().collect();
        if statistics.is_empty() {
            statistics.extend(USUAL);
        }
        let mut seen = vec![Statistic::Count];
        statistics.retain(|statistic| {
            !seen.contains(statistic) && {
                seen.push(*statistic);
                true
            }
        });
        let wanted = Wanted {
            deviation: statistics.contains(&Statistic::Stddev),
            percentiles: request.percentiles.clone(),
            increase: statistics.iter().any(|s| matches!(s, Statistic::Increase | Statistic::Rate)),
        };
        let width = statistics.len() + wanted.percentiles.len();
        // the count of a row takes as much as another number
        let width = if request.columns { width.max(1) } else { width + 1 };
        let whole_from = Some(from).filter(|_| grid == Grid::Whole && request.start_time.is_some());
        let start = if from == i64::MIN || grid == Grid::Whole { from } else { grid.start_of(from) };
        Ok(Self { grid, start, end, whole_from, statistics, wanted, gap, width, raw: request.raw })
    }

    /// The statistics that a gap can be filled with, the percentiles last.
    pub fn levels(&self, bucket: Bucket<'_>) -> Vec<f64> {
        let levels = self.statistics.iter().filter(|s| is_level(**s)).filter_map(|s| statistic(*s, bucket));
        levels.chain(bucket.detail.percentiles.iter().copied()).collect()
    }

    /// An empty table for so many buckets.
    pub fn table(&self, size: usize) -> Table {
        Table::new(&self.statistics, &self.wanted.percentiles, size)
    }

    /// The table of the first `size` buckets that hold readings.
    pub fn tabulate(&self, found: &Summaries, size: usize) -> Table {
        let size = found.len().min(size);
        let mut table = self.table(size);
        match self.whole_from {
            Some(start) => table.extend(&found.iter().take(size).map(|bucket| Bucket { start, ..bucket })),
            None => table.extend(&found.iter().take(size)),
        }
        table
    }

    /// Appends a bucket without readings, with the levels that stand in for them.
    pub fn put_gap(&self, start: i64, levels: Option<&[f64]>, table: &mut Table) {
        let mut levels = levels.unwrap_or_default().iter().copied();
        let has_level = self.statistics.iter().map(|wanted| is_level(*wanted));
        let has_level = has_level.chain(self.wanted.percentiles.iter().map(|_| true));
        table.push(start, 0, has_level.map(|has_level| if has_level { levels.next() } else { None }));
    }
}

fn width(interval: &prost_types::Duration) -> Result<i64> {
    let nanos = time::to_duration(interval).and_then(|d| i64::try_from(d.as_nanos()).ok());
    nanos
        .filter(|nanos| (SECOND..=LONGEST_INTERVAL).contains(nanos))
        .ok_or_else(|| Error::invalid("interval", "must be from 1 s to 366 d"))
}

/// Whether it says how high readings are, and not how many there are or what they add up to.
fn is_level(statistic: Statistic) -> bool {
    use Statistic::{First, Last, Max, Mean, Min, Stddev};
    matches!(statistic, Mean | Min | Max | First | Last | Stddev)
}
