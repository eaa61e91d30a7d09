//! What is new, what was there already, and what had another value.
//!
//! A reading that is newer than its series' newest is new for certain. Any other is compared with the tail, with the blocks
//! that cover its time, and with what the same commit is about to store.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use sensormesh_proto::telemetry::v1::Verdict;
use sensormesh_series::{Column, Quality, Upsert, merge};
use sensormesh_types::{Result, Scope};

use crate::batch::{Channel, Group};
use crate::catalog::Series;
use crate::db;
use crate::engine::State;

/// A reading that is not simply new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The group within the request.
    pub group: u32,
    /// The channel within the group.
    pub channel: u32,
    /// The reading within the channel.
    pub index: u32,
    /// `DUPLICATE`, `REVISED` or `LATE`.
    pub verdict: Verdict,
}

/// Judges the readings of one commit, one request after the other.
pub struct Judge<'a> {
    state: &'a State,
    /// What this commit is about to store of each series it has touched.
    staged: FxHashMap<u32, Staged>,
}

#[derive(Default)]
struct Staged {
    newest: Option<i64>,
    /// The requests that have readings of it, by their number in the commit.
    requests: Vec<usize>,
}

impl<'a> Judge<'a> {
    /// A judge of one commit.
    pub fn new(state: &'a State) -> Self {
        Self { state, staged: FxHashMap::default() }
    }

    /// Takes duplicates out of the next request's groups and says what was found. Readings that are older than the newest
    /// one stored are late, unless they are recorded data (`backfill`), which always is. `before` are the requests of this
    /// commit that were judged already.
    pub async fn judge(
        &mut self,
        before: &[impl AsRef<[Group]>],
        groups: &mut Vec<Group>,
        backfill: bool,
    ) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for g in 0..groups.len() {
            for c in 0..groups[g].channels.len() {
                self.judge_channel(before, groups, (g, c), &mut found).await?;
            }
        }
        if backfill {
            found.retain(|found| found.verdict != Verdict::Late);
        }
        if found.iter().any(|f| f.verdict == Verdict::Duplicate) {
            *groups = without_duplicates(groups, &found);
        }
        Ok(found)
    }

    async fn judge_channel(
        &mut self,
        before: &[impl AsRef<[Group]>],
        groups: &[Group],
        (g, c): (usize, usize),
        found: &mut Vec<Found>,
    ) -> Result<()> {
        let (group, channel) = (&groups[g], &groups[g].channels[c]);
        let (Some(first), Some(last)) = (group.times.first(), group.times.last()) else { return Ok(()) };
        let staged = self.staged.entry(channel.series.number).or_default();
        if staged.requests.last() != Some(&before.len()) {
            staged.requests.push(before.len());
        }
        let newest = channel.series.tail.lock().newest().max(staged.newest);
        if group.in_order && Some(*first) > newest {
            staged.newest = Some(*last);
            return Ok(());
        }
        let mut known = self.stored(&channel.series, group).await?;
        let staged = self.staged.entry(channel.series.number).or_default();
        let earlier = staged.requests.iter().filter_map(|request| before.get(*request));
        for groups in earlier.map(AsRef::as_ref).chain([&groups[..g]]) {
            groups.iter().for_each(|group| stage(&mut known, group, &group.channels, &channel.series));
        }
        stage(&mut known, group, &group.channels[..c], &channel.series);
        for (index, (time, value)) in group.times.iter().zip(&channel.values).enumerate() {
            let quality = channel.qualities.get(index).copied().unwrap_or_default();
            let verdict = match known.upsert(*time, *value, quality) {
                Upsert::Inserted if Some(*time) < newest => Some(Verdict::Late),
                Upsert::Inserted => None,
                Upsert::Same => Some(Verdict::Duplicate),
                Upsert::Revised => Some(Verdict::Revised),
            };
            if verdict != Some(Verdict::Duplicate) {
                staged.newest = staged.newest.max(Some(*time));
            }
            if let Some(verdict) = verdict {
                found.push(Found { group: g as u32, channel: c as u32, index: index as u32, verdict });
            }
        }
        Ok(())
    }

    /// The stored readings of the series at the times of the group.
    async fn stored(&self, series: &Arc<Series>, group: &Group) -> Result<Column> {
        let mut stored = Column::default();
        let (mut from, mut to) = (i64::MAX, i64::MIN);
        {
            let tail = series.tail.lock();
            for time in &group.times {
                if let Some(reading) = tail.find(*time) {
                    stored.upsert(reading.time, reading.value, reading.quality);
                } else if tail.may_be_sealed(*time) {
                    (from, to) = (from.min(*time), to.max(*time));
                }
            }
        }
        if from > to {
            return Ok(stored);
        }
        let mut read = self.state.databases.main.read(&Scope::system()).await?;
        let mut sources = Vec::new();
        for span in db::block::spans(&mut read, series, from, to).await? {
            sources.extend(db::block::load(&mut read, series, span).await?);
        }
        let blocks = merge::join(sources);
        for time in &group.times {
            if let Some(reading) = blocks.find(*time)
                && stored.find(*time).is_none()
            {
                stored.upsert(reading.time, reading.value, reading.quality);
            }
        }
        Ok(stored)
    }
}

/// Adds what some channels of a group have of a series.
fn stage(known: &mut Column, group: &Group, channels: &[Channel], series: &Series) {
    for channel in channels.iter().filter(|channel| channel.series.number == series.number) {
        for (index, (time, value)) in group.times.iter().zip(&channel.values).enumerate() {
            known.upsert(*time, *value, channel.qualities.get(index).copied().unwrap_or(Quality::USUAL));
        }
    }
}

/// The groups without the readings that were there already. Channels that lose some get a group of their own.
fn without_duplicates(groups: &[Group], found: &[Found]) -> Vec<Group> {
    let mut duplicates: FxHashMap<(u32, u32), Vec<u32>> = FxHashMap::default();
    for f in found.iter().filter(|f| f.verdict == Verdict::Duplicate) {
        duplicates.entry((f.group, f.channel)).or_default().push(f.index);
    }
    let mut kept = Vec::with_capacity(groups.len());
    for (g, group) in groups.iter().enumerate() {
        let mut whole = Vec::with_capacity(group.channels.len());
        for (c, channel) in group.channels.iter().enumerate() {
            match duplicates.get(&(g as u32, c as u32)) {
                None => whole.push(channel.clone()),
                Some(gone) if gone.len() == group.times.len() => {}
                Some(gone) => kept.push(group.filtered(channel, |i| gone.binary_search(&(i as u32)).is_err())),
            }
        }
        if !whole.is_empty() {
            kept.push(Group { times: group.times.clone(), in_order: group.in_order, channels: whole });
        }
    }
    kept
}
