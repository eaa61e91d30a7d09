//! Changes and the log entries that tell of them, in the same transaction.

use prost::Message;
use sensormesh_proto::rooms::v1 as proto;
use sensormesh_store::{Entry, Tx};
use sensormesh_types::{self as types, Caller, Error, Result, time};

use crate::db;
use crate::place::Place;
use crate::placement::{Placement, Plan};

/// Who makes a change.
#[derive(Clone, Debug)]
pub struct Author {
    /// The tenant it is made in.
    pub tenant: String,
    /// Who, and from where.
    pub by: types::Author,
}

impl Author {
    /// The caller.
    pub fn of(caller: &Caller) -> Self {
        Self { tenant: caller.tenant().to_owned(), by: caller.author() }
    }

    /// The service itself.
    pub fn service(tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), by: types::Author::named("service:rooms") }
    }

    fn write(&self, tx: &mut Tx, kind: &str, site: &str, subject: &str, payload: Vec<u8>) {
        tx.append_for(&*self.tenant, self.entry(kind, site, subject, payload));
    }

    fn entry(&self, kind: &str, site: &str, subject: &str, payload: Vec<u8>) -> Entry {
        Entry {
            site: site.to_owned(),
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            author: self.by.clone(),
            payload,
            ..Entry::default()
        }
    }
}

/// Tells that a place was created, updated or deleted: `place.created`.
pub fn place(tx: &mut Tx, author: &Author, kind: &str, place: &Place) {
    author.write(tx, kind, &place.site, &place.id, encode_place(place).encode_to_vec());
}

/// Tells that a place was updated, and what of it changed.
pub fn changed_place(tx: &mut Tx, author: &Author, before: Option<&Place>, place: &Place) {
    let entry = author.entry("place.updated", &place.site, &place.id, encode_place(place).encode_to_vec());
    let changes = before.map(|before| before.changes(place)).unwrap_or_default();
    tx.append_for(&*author.tenant, Entry { changes, ..entry });
}

/// Tells that what `devices` says has changed. For the service's own replicas: what they show follows from it.
pub fn projection(tx: &mut Tx, author: &Author) {
    author.write(tx, "projection.changed", "", "", Vec::new());
}

/// Carries out what was planned for a sensor.
pub async fn carry_out(tx: &mut Tx, author: &Author, plan: Plan) -> Result<Placement> {
    match plan {
        Plan::Kept(placement) => Ok(placement),
        Plan::Renamed { from, to } => {
            check_metric(tx, &author.tenant, &to).await?;
            db::save_placement(tx, &author.tenant, &to).await?;
            placement(tx, author, "placement.ended", &from);
            placement(tx, author, "placement.created", &to);
            Ok(to)
        }
        Plan::Placed { ended, placed } => {
            if placed.is_current() {
                check_metric(tx, &author.tenant, &placed).await?;
            }
            if let Some(ended) = ended {
                db::save_placement(tx, &author.tenant, &ended).await?;
                placement(tx, author, "placement.ended", &ended);
            }
            db::save_placement(tx, &author.tenant, &placed).await?;
            placement(tx, author, "placement.created", &placed);
            Ok(placed)
        }
    }
}

/// Ends a placement at `now`, nanoseconds since the Unix epoch.
pub async fn end(tx: &mut Tx, author: &Author, current: Placement, now: i64) -> Result<()> {
    let ended = current.ended(now);
    db::save_placement(tx, &author.tenant, &ended).await?;
    placement(tx, author, "placement.ended", &ended);
    Ok(())
}

/// A metric names one sensor of a room at a time.
async fn check_metric(tx: &mut Tx, tenant: &str, wanted: &Placement) -> Result<()> {
    let there = db::list_current(tx, tenant, &wanted.room).await?;
    match there.iter().find(|other| other.metric == wanted.metric && other.sensor != wanted.sensor) {
        Some(other) => Err(Error::exists("metric", &wanted.metric).with("sensor", &*other.sensor)),
        None => Ok(()),
    }
}

/// A sensor's site is its device's; a room of another site cannot hold it.
pub fn check_site(room: &str, sensor: &str, id: &str) -> Result<()> {
    if room.is_empty() || sensor.is_empty() || room == sensor {
        return Ok(());
    }
    let message = format!("sensor {id:?} belongs to site {sensor:?} and the room to site {room:?}");
    Err(Error::precondition("SITE_MISMATCH", message).with("sensor_site", sensor).with("room_site", room))
}

fn placement(tx: &mut Tx, author: &Author, kind: &str, placement: &Placement) {
    let payload = encode_placement(placement).encode_to_vec();
    author.write(tx, kind, &placement.site, &placement.sensor, payload);
}

/// A place as the contract has it.
pub fn encode_place(place: &Place) -> proto::Place {
    proto::Place {
        place_id: place.id.clone(),
        kind: place.kind as i32,
        name: place.name.clone(),
        parent_id: place.parent.clone(),
        site_id: place.site.clone(),
        create_time: Some(time::from_micros(place.created)),
        update_time: Some(time::from_micros(place.updated)),
        etag: place.etag(),
    }
}

/// A placement as the contract has it.
pub fn encode_placement(placement: &Placement) -> proto::Placement {
    proto::Placement {
        sensor_id: placement.sensor.clone(),
        room_id: placement.room.clone(),
        metric: placement.metric.clone(),
        start_time: Some(placement.start).filter(|start| *start != 0).map(time::from_nanos),
        end_time: placement.end.map(time::from_nanos),
    }
}
