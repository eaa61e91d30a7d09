//! What was stored of a series between two times: blocks and tail as one column, read piece by piece.

use std::sync::Arc;

use sensormesh_series::block::Header;
use sensormesh_series::merge::{self, Source};
use sensormesh_series::{Aggregate, Buckets, Column};
use sensormesh_store::{Read, Store};
use sensormesh_types::{Result, Scope};

use crate::calibration::Calibration;
use crate::catalog::Series;
use crate::db;
use crate::db::block::{Encoded, Span};
use crate::engine::State;
use crate::rollup::Rolled;

/// Blocks that are read at once for who reads one after the other.
const AHEAD: usize = 16;

/// A part of a series' history.
enum Piece {
    Block(Span, Option<Header>),
    Tail(Source),
}

/// A series' readings from one time up to but not including another. Pieces that overlap are read together, in runs.
pub struct History {
    store: Store,
    read: Option<Read>,
    series: Arc<Series>,
    start: i64,
    end: i64,
    calibration: Option<Arc<Calibration>>,
    pieces: Vec<Piece>,
    runs: Vec<Vec<usize>>,
    /// The last time of what is rolled up, as it was known with the tail.
    rolled_end: Option<i64>,
    /// The place of the block that was read last, and those that were read with it, the next one last.
    before: Option<usize>,
    ahead: Vec<Encoded>,
}

impl History {
    /// Looks up which pieces there are. What was acknowledged before is in it.
    pub async fn open(state: &State, series: &Arc<Series>, range: (i64, i64)) -> Result<Self> {
        Self::look_up(state, series, range, false).await
    }

    /// The same with the blocks' headers, to be summarised.
    pub async fn with_headers(state: &State, series: &Arc<Series>, range: (i64, i64)) -> Result<Self> {
        Self::look_up(state, series, range, true).await
    }

    async fn look_up(state: &State, series: &Arc<Series>, (start, end): (i64, i64), headers: bool) -> Result<Self> {
        // the tail first: what is sealed in between is then seen twice, which does no harm, and not missed
        let (tail, span, rolled_end) = {
            let tail = series.tail.lock();
            (tail.sources(start, end), tail.sealed_span, tail.rolled_end)
        };
        let (mut pieces, mut read) = (Vec::new(), None);
        if start < end && span.is_some_and(|(first, last)| first < end && start <= last) {
            let read = read.insert(state.databases.main.read(&Scope::system()).await?);
            if headers {
                let blocks = db::block::headers(read, series, start, end - 1).await?;
                pieces.extend(blocks.into_iter().map(|(span, header)| Piece::Block(span, Some(header))));
            } else {
                let blocks = db::block::spans(read, series, start, end - 1).await?;
                pieces.extend(blocks.into_iter().map(|span| Piece::Block(span, None)));
            }
        }
        pieces.extend(tail.into_iter().map(Piece::Tail));
        let runs = merge::runs(&pieces.iter().map(Piece::span).collect::<Vec<_>>());
        let (store, series) = (state.databases.main.clone(), Arc::clone(series));
        let calibration = series.calibration();
        let (before, ahead) = (None, Vec::new());
        Ok(Self { store, read, series, start, end, calibration, pieces, runs, rolled_end, before, ahead })
    }

    /// The values as they were measured where `raw`; else they are calibrated.
    #[must_use]
    pub fn raw(mut self, raw: bool) -> Self {
        if raw {
            self.calibration = None;
        }
        self
    }

    /// How many runs there are, by time.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Gives the database connection back; the next run takes one again. For readers that may be slow.
    pub fn release(&mut self) {
        self.read = None;
    }

    /// The readings of a run that lie in the range.
    pub async fn load(&mut self, run: usize) -> Result<Column> {
        self.fetch(run).await?.column()
    }

    /// The same, yet to be decoded.
    pub async fn fetch(&mut self, run: usize) -> Result<Fetched> {
        let places = self.runs.get(run).cloned().unwrap_or_default();
        let mut parts = Vec::with_capacity(places.len());
        let (mut gone, mut within) = (false, (i64::MAX, i64::MIN));
        for place in places {
            let piece = &self.pieces[place];
            within = (within.0.min(piece.span().0), within.1.max(piece.span().1));
            match piece {
                Piece::Tail(source) => parts.push(Part::Tail(source.clone())),
                Piece::Block(_, _) if gone => {}
                Piece::Block(span, _) => {
                    let block = self.block(place, *span).await?;
                    gone = block.is_none();
                    parts.extend(block.map(Part::Block));
                }
            }
        }
        if gone {
            let read = reading(&mut self.read, &self.store).await?;
            // merged into others since it was looked up, maybe with some of another run: the readings of this one are taken
            for span in db::block::spans(read, &self.series, within.0, within.1).await? {
                parts.extend(db::block::load(read, &self.series, span).await?.map(Part::Tail));
            }
        }
        Ok(Fetched {
            series: Arc::clone(&self.series),
            parts,
            range: (self.start.max(within.0), self.end.min(within.1.saturating_add(1))),
            calibration: self.calibration.clone(),
        })
    }

    /// A block; nothing where it has gone since.
    async fn block(&mut self, place: usize, span: Span) -> Result<Option<Encoded>> {
        let follows = self.before.is_some_and(|before| before + 1 == place);
        self.before = Some(place);
        if self.ahead.last().is_none_or(|next| next.span != span) {
            let spans = self.pieces[place..].iter().take(if follows { AHEAD } else { 1 });
            let spans: Vec<Span> = spans.map_while(Piece::block).collect();
            let read = reading(&mut self.read, &self.store).await?;
            self.ahead = db::block::fetch(read, &self.series, &spans).await?;
            self.ahead.reverse();
        }
        Ok(self.ahead.pop_if(|next| next.span == span))
    }

    /// When a run starts.
    pub fn start_of(&self, run: usize) -> Option<i64> {
        self.runs.get(run)?.iter().map(|place| self.pieces[*place].span().0).min()
    }

    /// Adds what is left of the range's readings as rollups only, until buckets are `enough`. Seen in the same moment as the
    /// blocks: what is in the one is not in the other.
    pub async fn summarise_rolled(&mut self, buckets: &mut Buckets, enough: impl Fn(&Buckets) -> bool) -> Result<()> {
        let Some((rolled, read)) = self.rolled().await? else { return Ok(()) };
        rolled.add(read, buckets, enough).await
    }

    /// The time of the range's last reading that is left as a rollup only.
    pub async fn last_rolled(&mut self) -> Result<Option<i64>> {
        let Some((rolled, read)) = self.rolled().await? else { return Ok(None) };
        rolled.last_time(read).await
    }

    /// The time of the range's first reading that is left as a rollup only.
    pub async fn first_rolled(&mut self) -> Result<Option<i64>> {
        let Some((rolled, read)) = self.rolled().await? else { return Ok(None) };
        rolled.first_time(read).await
    }

    /// The rollups, where there may be some in the range.
    ///
    /// What the tail knew is older than the view of the blocks: an expiry in between has taken blocks out of that view, and rolled
    /// them up beyond what the tail knew. So where blocks were looked up, the same view says how far the rollups reach. Where
    /// none were, the tail knew of none in the range, and no expiry since can have taken any.
    async fn rolled(&mut self) -> Result<Option<(Rolled<'_>, &mut Read)>> {
        let range = self.start..self.end;
        let end = match &mut self.read {
            Some(read) => db::series::rolled_end(read, &self.series).await?,
            None => self.rolled_end,
        };
        let Some(end) = end.filter(|end| range.start <= *end && !range.is_empty()) else { return Ok(None) };
        let read = reading(&mut self.read, &self.store).await?;
        let rolled = Rolled { series: &self.series, calibration: self.calibration.as_deref(), range, end };
        Ok(Some((rolled, read)))
    }

    /// Adds a run to buckets: by its block's header where that answers, else reading by reading.
    pub async fn summarise(&mut self, run: usize, buckets: &mut Buckets) -> Result<()> {
        match self.header(run, buckets) {
            Some(aggregate) => buckets.add_whole(&aggregate),
            None => buckets.add_column(&self.load(run).await?)?,
        }
        Ok(())
    }

    /// The header's summary of a block that is alone, wholly in range and wholly in one bucket.
    fn header(&self, run: usize, buckets: &Buckets) -> Option<Aggregate> {
        let [place] = self.runs.get(run)?.as_slice() else { return None };
        let Piece::Block(span, Some(header)) = &self.pieces[*place] else { return None };
        let inside = span.start >= self.start && span.end < self.end && buckets.holds(span.start, span.end);
        let told = |aggregate: &Aggregate| inside && header.all_count && aggregate.sum.value().is_finite();
        let aggregate = header.aggregate.filter(told)?;
        match &self.calibration {
            Some(calibration) => calibration.aggregate(aggregate, span.start, span.end),
            None => Some(aggregate),
        }
    }
}

/// What a run holds, as it was read: nothing but computing is left.
pub struct Fetched {
    series: Arc<Series>,
    parts: Vec<Part>,
    /// From one time up to but not including another.
    range: (i64, i64),
    calibration: Option<Arc<Calibration>>,
}

/// A part of a run.
enum Part {
    Block(Encoded),
    Tail(Source),
}

impl Fetched {
    /// Its readings.
    pub fn column(self) -> Result<Column> {
        let decode = |part| match part {
            Part::Block(block) => block.decode(&self.series),
            Part::Tail(source) => Ok(source),
        };
        let column = merge::join(self.parts.into_iter().map(decode).collect::<Result<_>>()?);
        let range = column.range(self.range.0, self.range.1);
        let column = if range.len() == column.len() { column } else { column.slice(range) };
        Ok(match &self.calibration {
            Some(calibration) => calibration.column(column),
            None => column,
        })
    }
}

/// The connection that is held, or a new one.
async fn reading<'a>(held: &'a mut Option<Read>, store: &Store) -> Result<&'a mut Read> {
    Ok(match held {
        Some(read) => read,
        none => none.insert(store.read(&Scope::system()).await?),
    })
}

impl Piece {
    fn block(&self) -> Option<Span> {
        match self {
            Piece::Block(span, _) => Some(*span),
            Piece::Tail(_) => None,
        }
    }

    fn span(&self) -> (i64, i64) {
        match self {
            Piece::Block(span, _) => (span.start, span.end),
            Piece::Tail(source) => (source.column.start().unwrap_or(0), source.column.end().unwrap_or(0)),
        }
    }
}
