//! The metrics one viewer sees, and what it has told of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use sensormesh_proto::rooms::v1::RoomMetric;
use sensormesh_types::Scope;

use super::batch::{Batch, Sample};
use super::cursor::hash;
use super::hub::View;
use crate::metrics::{Reading, Traits, show};
use crate::model::{Filter, Model};

/// One metric of one room.
#[derive(Clone, Debug)]
pub struct Member {
    /// The room.
    pub room: Arc<str>,
    /// What the sensor is called there.
    pub metric: Arc<str>,
    /// Readings before this time were taken elsewhere.
    pub start: i64,
    /// What is known of the sensor.
    pub traits: Arc<Traits>,
    /// The last reading told; `None` = none since the viewer was opened.
    pub sent: Option<Reading>,
    /// Whether it was stale when last told; `None` = not told since the viewer was opened.
    pub stale: Option<bool>,
    /// The hash of the sensor's id.
    key: u64,
}

impl Member {
    /// What the room says of the sensor.
    pub fn show(&self, sensor: &str, reading: Option<&Reading>, now: i64, followed: bool) -> RoomMetric {
        show(&self.metric, sensor, &self.traits, reading, now, followed)
    }

    fn is_still(&self, other: &Member) -> bool {
        self.room == other.room && self.metric == other.metric
    }
}

/// A metric that is no longer in a room.
#[derive(Clone, Debug)]
pub struct Left {
    /// The room.
    pub room: Arc<str>,
    /// What the sensor was called there.
    pub metric: Arc<str>,
}

/// The members by sensor.
#[derive(Clone, Debug)]
pub struct Members {
    by_sensor: BTreeMap<Arc<str>, Member>,
    version: u64,
    digest: u64,
}

impl Members {
    /// What somebody with this scope sees through the filter.
    pub fn new(model: &Model, filter: &Filter, scope: &Scope) -> Self {
        let tenant = model.tenant(scope.tenant());
        let by_sensor: BTreeMap<Arc<str>, Member> = filter
            .placements(&tenant, scope)
            .map(|placement| {
                let member = Member {
                    room: placement.room.as_str().into(),
                    metric: placement.metric.as_str().into(),
                    start: placement.start,
                    traits: tenant.traits(&placement.sensor),
                    sent: None,
                    stale: None,
                    key: hash(&[&placement.sensor]),
                };
                (placement.sensor.as_str().into(), member)
            })
            .collect();
        let digest = by_sensor
            .values()
            .map(|member| member.key ^ hash(&[&member.room, &member.metric]))
            .fold(0, u64::wrapping_add);
        Self { by_sensor, version: model.version, digest }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_sensor.is_empty()
    }

    /// The version of the model that was last looked at.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The sensors, in order.
    pub fn sensors(&self) -> impl Iterator<Item = &str> {
        self.by_sensor.keys().map(|sensor| &**sensor)
    }

    /// The sensors and what they are, in the same order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Member)> {
        self.by_sensor.iter_mut().map(|(sensor, member)| (&**sensor, member))
    }

    /// What a sensor was at a time.
    pub fn of(&mut self, sensor: &str, time: i64) -> Option<&mut Member> {
        self.by_sensor.get_mut(sensor).filter(|member| time >= member.start)
    }

    /// Whether readings of a member were deleted: what was told of it no longer holds.
    pub fn lose_some(&self, batch: &Batch) -> bool {
        batch.deleted.iter().any(|(sensor, _)| self.by_sensor.contains_key(sensor))
    }

    /// Whether a sample is of a member and has not been told.
    pub fn lacks(&self, sample: &Sample) -> bool {
        self.by_sensor
            .get(&sample.sensor)
            .is_some_and(|member| sample.reading.time >= member.start && sample.reading.replaces(member.sent.as_ref()))
    }

    /// Takes over a newer model. Returns the rooms and metrics that are no longer there, and the sensors that came or
    /// whose traits changed.
    pub fn update(&mut self, model: &Model, filter: &Filter, scope: &Scope) -> (Vec<Left>, Vec<Arc<str>>) {
        let mut now = Self::new(model, filter, scope);
        let mut news = Vec::new();
        for (sensor, member) in &mut now.by_sensor {
            match self.by_sensor.get(sensor) {
                Some(before) if before.is_still(member) => {
                    (member.sent, member.stale) = (before.sent, before.stale);
                    if before.traits != member.traits {
                        news.push(Arc::clone(sensor));
                    }
                }
                _ => news.push(Arc::clone(sensor)),
            }
        }
        let left = self
            .by_sensor
            .iter()
            .filter(|(sensor, before)| !now.by_sensor.get(*sensor).is_some_and(|member| before.is_still(member)))
            .map(|(_, before)| Left { room: Arc::clone(&before.room), metric: Arc::clone(&before.metric) })
            .collect();
        *self = now;
        (left, news)
    }

    /// Names which sensor is which metric of which room.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Names the members that were told to be stale.
    pub fn stale_digest(&self) -> u64 {
        let stale = self.by_sensor.values().filter(|member| member.stale == Some(true));
        stale.map(|member| member.key).fold(0, u64::wrapping_add)
    }

    /// The same for what holds at `now`; `view` is of these members.
    pub fn stale_digest_at(&self, view: &View, now: i64) -> u64 {
        let stale = self.by_sensor.iter().zip(&view.latest).filter(|((sensor, member), latest)| {
            let latest = latest.filter(|latest| latest.time >= member.start);
            member.show(sensor, latest.as_ref(), now, view.followed).stale
        });
        stale.map(|((_, member), _)| member.key).fold(0, u64::wrapping_add)
    }
}
