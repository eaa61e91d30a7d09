//! A series' readings that are in the log but in no block yet, and its latest reading.

use std::sync::Arc;

use sensormesh_series::merge::Source;
use sensormesh_series::{Column, Quality, Reading};

/// A place in the log, with how much was logged up to it since ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The sequence number.
    pub seq: u64,
    /// Bytes of all batches up to and with this one.
    pub bytes: u64,
    /// Readings of all batches up to and with this one.
    pub readings: u64,
}

/// Readings that are being made into blocks.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// The readings.
    pub column: Arc<Column>,
    /// The log up to here is in them.
    pub upto: u64,
    from: Mark,
    late: Vec<(i64, u64)>,
}

/// What the database is to have of a series once some of its readings are sealed.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// The log was sealed up to here before, as far as this series is in it,
    pub before: u64,
    /// and readings were deleted so often.
    pub deletions: u64,
    /// The log is sealed up to here then.
    pub upto: u64,
    /// The first and the last time of what is sealed then.
    pub span: Option<(i64, i64)>,
    /// The latest reading, sealed or not.
    pub latest: Option<Reading>,
}

/// The end of a series.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// The latest reading ever taken, sealed or not.
    pub latest: Option<Reading>,
    /// The first and the last time of what was sealed.
    pub sealed_span: Option<(i64, i64)>,
    /// The last time of what is left as rollups only.
    pub rolled_end: Option<i64>,
    /// The log up to here is sealed, as far as this series is in it.
    pub sealed_seq: u64,
    /// How often readings were deleted because somebody asked for it, as far as this replica has heard.
    pub deletions: u64,
    /// The last time of all that was ever sealed: it stays when readings are deleted, so that replicas agree on what is late
    /// among those that come after.
    ended: Option<i64>,
    open: Column,
    /// The place of the first reading in `open`.
    from: Option<Mark>,
    upto: u64,
    /// The readings in `open` that were not newer than all before them: their times, and their places in the log.
    late: Vec<(i64, u64)>,
    sealing: Option<Sealing>,
}

impl Tail {
    /// The tail of a series that was sealed before. `start` is the first time of what is left of that, `ended` the last time
    /// of all that ever was.
    pub fn sealed(seq: u64, start: Option<i64>, ended: Option<i64>, latest: Option<Reading>) -> Self {
        Self { latest, sealed_span: start.zip(ended), ended, sealed_seq: seq, upto: seq, ..Self::default() }
    }

    /// The time of the latest reading: what is newer is new for certain.
    pub fn newest(&self) -> Option<i64> {
        self.latest.map(|reading| reading.time)
    }

    /// Takes readings that have become durable. `times` need not be in order.
    pub fn apply(&mut self, times: &[i64], values: &[f64], qualities: &[Quality], in_order: bool, mark: Mark) {
        if times.is_empty() {
            return;
        }
        self.from.get_or_insert(mark);
        self.upto = self.upto.max(mark.seq);
        let mut newest = self.newest().max(self.ended).max(self.open.end());
        let newer = in_order && times.first().copied() > newest;
        if newer && qualities.is_empty() {
            self.open.append(times, values);
        } else {
            for (index, (time, value)) in times.iter().zip(values).enumerate() {
                if Some(*time) > newest {
                    newest = Some(*time);
                } else {
                    self.late.push((*time, mark.seq));
                }
                self.open.upsert(*time, *value, qualities.get(index).copied().unwrap_or_default());
            }
        }
        let from = if in_order { times.len() - 1 } else { 0 };
        for index in from..times.len() {
            if Some(times[index]) >= self.newest() {
                let quality = qualities.get(index).copied().unwrap_or_default();
                self.latest = Some(Reading { time: times[index], value: values[index], quality });
            }
        }
    }

    /// How many readings wait to be sealed.
    pub fn open_len(&self) -> usize {
        self.open.len()
    }

    /// The place in the log up to which readings of this series are known.
    pub fn upto(&self) -> u64 {
        self.upto
    }

    /// The time of the first reading that waits to be sealed.
    pub fn open_start(&self) -> Option<i64> {
        self.open.start()
    }

    /// What was sealed starts here now; `None` where nothing of it is left. The rest is rolled up.
    pub fn starts_at(&mut self, start: Option<i64>, rolled_end: Option<i64>) {
        self.rolled_end = rolled_end;
        self.sealed_span = start.zip(self.sealed_span).map(|(start, (_, end))| (start, end));
    }

    /// The place in the log that must stay because of this series.
    pub fn oldest(&self) -> Option<Mark> {
        self.sealing.as_ref().map(|s| s.from).into_iter().chain(self.from).min_by_key(|mark| mark.seq)
    }

    /// The unsealed reading at this time.
    pub fn find(&self, time: i64) -> Option<Reading> {
        self.open.find(time).or_else(|| self.sealing.as_ref()?.column.find(time))
    }

    /// The unsealed readings from `start` up to but not including `end`, to be joined with blocks.
    pub fn sources(&self, start: i64, end: i64) -> Vec<Source> {
        let sealing = self.sealing.as_ref().map(|s| (s.upto, &*s.column));
        let open = (self.upto, &self.open);
        sealing
            .into_iter()
            .chain([open])
            .map(|(upto, column)| Source { rank: upto as i64, column: column.slice(column.range(start, end)) })
            .filter(|source| !source.column.is_empty())
            .collect()
    }

    /// Sets the open readings apart to be sealed; `None` where there are none or some are being sealed already.
    pub fn begin_sealing(&mut self) -> Option<Sealing> {
        if self.sealing.is_some() {
            return None;
        }
        let from = self.from.take()?;
        let (column, late) = (Arc::new(std::mem::take(&mut self.open)), std::mem::take(&mut self.late));
        let sealing = Sealing { column, upto: self.upto, from, late };
        self.sealing = Some(sealing.clone());
        Some(sealing)
    }

    /// The readings set apart are in blocks.
    pub fn finish_sealing(&mut self) {
        if let Some(sealing) = self.sealing.take() {
            self.sealed_seq = self.sealed_seq.max(sealing.upto);
            self.sealed_span = self.span_with(&sealing.column);
            self.ended = self.ended.max(sealing.column.end());
        }
    }

    /// The readings set apart could not be sealed: they are open again.
    pub fn undo_sealing(&mut self) {
        if let Some(sealing) = self.sealing.take() {
            let newer = std::mem::replace(&mut self.open, Arc::unwrap_or_clone(sealing.column));
            self.open.overlay(&newer);
            self.from = Some(sealing.from);
            self.late.splice(0..0, sealing.late);
        }
    }

    /// Lets go of what another replica made into blocks: everything of this series up to a place in the log, which the log
    /// must have been read up to here. `span` is the first and the last time of all its blocks. Answers how many readings
    /// that were; `None` while some are being sealed here: ask again.
    pub fn forget_sealed(&mut self, upto: u64, span: (i64, i64)) -> Option<usize> {
        if self.sealing.is_some() {
            return None;
        }
        if upto <= self.sealed_seq {
            return Some(0);
        }
        let before = self.open.len();
        self.late.retain(|(_, seq)| *seq > upto);
        let mut open = Column::default();
        if self.upto > upto {
            // what came later in order is newer than anything in a block; what came late is known by its place
            for (time, _) in &self.late {
                if let Some(reading) = self.open.find(*time) {
                    open.upsert(reading.time, reading.value, reading.quality);
                }
            }
            open.overlay(&self.open.slice(self.open.range(span.1.saturating_add(1), i64::MAX)));
        }
        self.open = open;
        self.from =
            self.from.filter(|_| !self.open.is_empty()).map(|from| Mark { seq: from.seq.max(upto + 1), ..from });
        self.sealed_seq = upto;
        self.sealed_span = Some(self.sealed_span.map_or(span, |(a, b)| (a.min(span.0), b.max(span.1))));
        self.ended = self.ended.max(Some(span.1));
        Some(before - self.open.len())
    }

    /// Readings were deleted out of blocks, for the time that `deletions` counts; `latest` is the last of those in blocks
    /// since. Does nothing where that was known.
    pub fn note_deleted(&mut self, deletions: u64, latest: Option<Reading>) {
        if deletions <= self.deletions {
            return;
        }
        self.deletions = deletions;
        let sealing = self.sealing.as_ref().and_then(|sealing| sealing.column.last());
        self.latest = latest.into_iter().chain(sealing).chain(self.open.last()).max_by_key(|reading| reading.time);
    }

    /// What is to be noted of this series once readings that were set apart are sealed.
    pub fn once_sealed(&self, sealing: &Sealing) -> Note {
        let (before, deletions) = (self.sealed_seq, self.deletions);
        Note { before, deletions, upto: sealing.upto, span: self.span_with(&sealing.column), latest: self.latest }
    }

    /// The last time of all that was ever sealed.
    pub fn ended(&self) -> Option<i64> {
        self.ended
    }

    /// The span of what will be sealed once this column is.
    fn span_with(&self, column: &Column) -> Option<(i64, i64)> {
        let span = column.start().zip(column.end());
        match (self.sealed_span, span) {
            (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
            (known, new) => known.or(new),
        }
    }

    /// Whether a block may hold a reading at this time.
    pub fn may_be_sealed(&self, time: i64) -> bool {
        self.sealed_span.is_some_and(|(start, end)| start <= time && time <= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sensormesh_series::merge;

    fn mark(seq: u64) -> Mark {
        Mark { seq, bytes: seq * 10, readings: seq }
    }

    fn read(tail: &Tail) -> Vec<(i64, f64)> {
        merge::join(tail.sources(i64::MIN, i64::MAX)).iter().map(|r| (r.time, r.value)).collect()
    }

    #[test]
    fn the_latest_reading_is_the_one_with_the_latest_time() {
        let mut tail = Tail::default();
        tail.apply(&[10, 20], &[1.0, 2.0], &[], true, mark(1));
        tail.apply(&[5], &[0.5], &[], true, mark(2));
        assert_eq!(tail.latest.map(|r| (r.time, r.value)), Some((20, 2.0)));
        tail.apply(&[20], &[9.0], &[], true, mark(3));
        assert_eq!(tail.latest.map(|r| (r.time, r.value)), Some((20, 9.0)));
        assert_eq!(read(&tail), [(5, 0.5), (10, 1.0), (20, 9.0)]);
        tail.apply(&[40, 30, 40], &[4.0, 3.0, 4.5], &[], false, mark(4));
        assert_eq!(tail.latest.map(|r| (r.time, r.value)), Some((40, 4.5)));
        assert_eq!(tail.oldest(), Some(mark(1)));
    }

    #[test]
    fn what_arrives_while_sealing_is_kept_apart() {
        let mut tail = Tail::default();
        tail.apply(&[10, 20], &[1.0, 2.0], &[], true, mark(1));
        let sealing = tail.begin_sealing().expect("something to seal");
        assert_eq!((sealing.upto, sealing.column.len()), (1, 2));
        assert!(tail.begin_sealing().is_none());
        tail.apply(&[20, 30], &[2.5, 3.0], &[], true, mark(2));
        assert_eq!(read(&tail), [(10, 1.0), (20, 2.5), (30, 3.0)]);
        assert_eq!(tail.find(10).map(|r| r.value), Some(1.0));
        tail.finish_sealing();
        assert_eq!(read(&tail), [(20, 2.5), (30, 3.0)]);
        assert_eq!((tail.sealed_seq, tail.oldest()), (1, Some(mark(2))));
        assert!(tail.may_be_sealed(15) && !tail.may_be_sealed(21));
    }

    #[test]
    fn what_another_replica_sealed_is_let_go_and_what_came_since_stays() {
        let mut tail = Tail::default();
        tail.apply(&[10, 20, 30], &[1.0, 2.0, 3.0], &[], true, mark(1));
        tail.apply(&[15], &[1.5], &[], true, mark(2));
        // sealed up to here elsewhere; what follows is a new, a late and a revised reading
        tail.apply(&[40], &[4.0], &[], true, mark(3));
        tail.apply(&[25], &[2.5], &[], true, mark(4));
        tail.apply(&[10], &[9.0], &[], true, mark(5));
        assert_eq!(tail.forget_sealed(2, (10, 30)), Some(3));
        assert_eq!(read(&tail), [(10, 9.0), (25, 2.5), (40, 4.0)]);
        assert_eq!((tail.sealed_seq, tail.sealed_span), (2, Some((10, 30))));
        assert_eq!(tail.oldest().map(|mark| mark.seq), Some(3));
        assert_eq!(tail.forget_sealed(2, (10, 30)), Some(0), "told twice");
        assert_eq!(tail.forget_sealed(5, (10, 40)), Some(3));
        assert_eq!((read(&tail), tail.oldest()), (vec![], None));
        assert_eq!(tail.latest.map(|reading| reading.time), Some(40));
    }

    #[test]
    fn what_comes_for_the_times_of_deleted_readings_is_told_from_them_by_its_place() {
        let mut tail = Tail::default();
        tail.apply(&[10, 20, 30], &[1.0, 2.0, 3.0], &[], true, mark(1));
        assert_eq!(tail.forget_sealed(1, (10, 30)), Some(3));
        let left = Some(Reading { time: 10, value: 1.0, quality: Quality::USUAL });
        tail.note_deleted(1, left);
        assert_eq!((tail.latest, tail.ended()), (left, Some(30)));
        tail.apply(&[15], &[1.5], &[], true, mark(2));
        tail.apply(&[25], &[2.5], &[], true, mark(3));
        // told again, and of what was sealed since by a replica whose blocks once went up to 30
        tail.note_deleted(1, left);
        assert_eq!(tail.newest(), Some(25));
        assert_eq!(tail.forget_sealed(2, (10, 30)), Some(1));
        assert_eq!(read(&tail), [(25, 2.5)]);
        // what is not in blocks is no less the latest
        tail.note_deleted(2, None);
        assert_eq!((tail.newest(), tail.deletions), (Some(25), 2));
    }

    #[test]
    fn nothing_is_let_go_while_it_is_being_sealed_here() {
        let mut tail = Tail::default();
        tail.apply(&[10, 5], &[1.0, 0.5], &[], false, mark(1));
        tail.begin_sealing().expect("something to seal");
        assert_eq!(tail.forget_sealed(1, (5, 10)), None);
        tail.apply(&[20], &[2.0], &[], true, mark(2));
        tail.apply(&[7], &[0.7], &[], true, mark(3));
        tail.undo_sealing();
        assert_eq!(tail.forget_sealed(1, (5, 10)), Some(2));
        assert_eq!(read(&tail), [(7, 0.7), (20, 2.0)]);
    }

    #[test]
    fn sealing_that_failed_is_undone() {
        let mut tail = Tail::default();
        tail.apply(&[10, 20], &[1.0, 2.0], &[], true, mark(1));
        tail.begin_sealing().expect("something to seal");
        tail.apply(&[20], &[2.5], &[], true, mark(2));
        tail.undo_sealing();
        assert_eq!(read(&tail), [(10, 1.0), (20, 2.5)]);
        assert_eq!((tail.oldest(), tail.sealed_span), (Some(mark(1)), None));
    }
}
