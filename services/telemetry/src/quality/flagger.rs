//! Puts what is about to be stored to its sensors' tests.

use std::collections::HashSet;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sensormesh_series::{Column, merge};
use sensormesh_types::Result;

use super::{Tests, Track};
use crate::batch::{Channel, Group};
use crate::catalog::Series;
use crate::engine::State;
use crate::history::History;

/// The ends of all series that have tests, in the writer's order. A series costs some 100 bytes and 16 more for each
/// neighbour that its tests look at.
#[derive(Debug, Default)]
pub struct Flagger {
    tracks: FxHashMap<u32, Track>,
}

impl Flagger {
    /// Marks what the tests find in new readings; answers whether anything was. An earlier reading that turns out to be a
    /// spike is put before them, with its new quality.
    pub async fn flag(&mut self, state: &State, groups: &mut Vec<Group>) -> Result<bool> {
        let mut changed = false;
        let mut earlier = Vec::new();
        for group in &mut *groups {
            for channel in &mut group.channels {
                let Some(tests) = channel.series.tests() else { continue };
                let track = self.track(state, &channel.series, tests).await?;
                let found = track.judge(&group.times, &channel.values, &mut channel.qualities, group.in_order);
                changed |= found.changed;
                earlier.extend(found.before.map(|reading| {
                    let (values, qualities) = (vec![reading.value], vec![reading.quality]);
                    let channel = Channel { series: Arc::clone(&channel.series), values, qualities };
                    Group::new(vec![reading.time], vec![channel])
                }));
            }
        }
        changed |= !earlier.is_empty();
        groups.splice(0..0, earlier);
        Ok(changed)
    }

    /// Forgets everything: what was last looked at may not have been stored. It is read again when it is needed.
    pub fn forget(&mut self) {
        self.tracks.clear();
    }

    /// Forgets some series, whose readings others have stored in between.
    pub fn forget_some(&mut self, series: &HashSet<u32>) {
        self.tracks.retain(|number, _| !series.contains(number));
    }

    async fn track(&mut self, state: &State, series: &Arc<Series>, tests: Tests) -> Result<&mut Track> {
        if self.tracks.get(&series.number).is_none_or(|track| *track.tests() != tests) {
            let track = Track::new(tests, &last_of(state, series, tests.reach()).await?);
            self.tracks.insert(series.number, track);
        }
        self.tracks.get_mut(&series.number).ok_or_else(|| sensormesh_types::Error::internal("it was just put there"))
    }
}

/// The last readings of a series, with so many neighbours among them where it has as many.
async fn last_of(state: &State, series: &Arc<Series>, neighbours: usize) -> Result<Column> {
    let enough = |column: &Column| Track::neighbours(column) >= neighbours;
    let (tail, sealed) = {
        let tail = series.tail.lock();
        (tail.sources(i64::MIN, i64::MAX), tail.sealed_span)
    };
    let tail = merge::join(tail);
    // a tail that begins behind all blocks says everything of its time
    let alone = sealed.is_none_or(|(_, end)| tail.start() > Some(end));
    if alone && enough(&tail) {
        return Ok(tail);
    }
    let mut history = History::open(state, series, (i64::MIN, i64::MAX)).await?.raw(true);
    let mut last = Column::default();
    for run in (0..history.runs()).rev() {
        let mut column = history.load(run).await?;
        column.overlay(&last);
        last = column;
        if enough(&last) {
            break;
        }
    }
    Ok(last)
}
