//! Placements.

use std::collections::HashMap;

use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::Result;

use crate::placement::Placement;

const COLUMNS: &str = "sensor_id, start_ns, end_ns, room_id, metric, site";

/// Which placements a list shows, after which one it goes on, and how many.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Only in this room; empty = all.
    pub room: String,
    /// Only of this sensor; empty = all.
    pub sensor: String,
    /// Those that have ended, too.
    pub include_ended: bool,
    /// The room, metric, start and sensor of the last one shown.
    pub after: Option<(String, String, i64, String)>,
    /// At most so many.
    pub size: u32,
}

/// A page of placements, by room, metric, start and sensor.
pub async fn list_placements(read: &mut Read, tenant: &str, page: &Page) -> Result<Vec<Placement>> {
    let (room, metric, start, sensor) =
        page.after.clone().unwrap_or((String::new(), String::new(), i64::MIN, String::new()));
    let sql = format!(
        "SELECT {COLUMNS} FROM placement WHERE tenant = $1 AND ($2 = '' OR room_id = $2) AND ($3 = '' OR sensor_id = $3) \
         AND ($4 = 1 OR end_ns IS NULL) AND (room_id, metric, start_ns, sensor_id) > ($5, $6, $7, $8) \
         ORDER BY room_id, metric, start_ns, sensor_id LIMIT $9"
    );
    let rows = read
        .query_built(sql)
        .bind(tenant)
        .bind(&page.room)
        .bind(&page.sensor)
        .bind(i64::from(page.include_ended))
        .bind(room)
        .bind(metric)
        .bind(start)
        .bind(sensor)
        .bind(page.size)
        .fetch_all()
        .await?;
    rows.iter().map(placement).collect()
}

/// Every placement a sensor ever had, by start.
pub async fn list_of_sensor(read: &mut Read, tenant: &str, sensor: &str) -> Result<Vec<Placement>> {
    let sql = format!("SELECT {COLUMNS} FROM placement WHERE tenant = $1 AND sensor_id = $2 ORDER BY start_ns");
    read.query_built(sql).bind(tenant).bind(sensor).fetch_all().await?.iter().map(placement).collect()
}

/// Every placement, present and ended, that was one metric of a room, by start.
pub async fn list_of_metric(read: &mut Read, tenant: &str, room: &str, metric: &str) -> Result<Vec<Placement>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM placement WHERE tenant = $1 AND room_id = $2 AND metric = $3 ORDER BY start_ns, sensor_id"
    );
    read.query_built(sql).bind(tenant).bind(room).bind(metric).fetch_all().await?.iter().map(placement).collect()
}

/// The present placements: of a room by metric, or of all rooms where it is empty.
pub async fn list_current(read: &mut Read, tenant: &str, room: &str) -> Result<Vec<Placement>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM placement WHERE tenant = $1 AND ($2 = '' OR room_id = $2) AND end_ns IS NULL \
         ORDER BY room_id, metric"
    );
    read.query_built(sql).bind(tenant).bind(room).fetch_all().await?.iter().map(placement).collect()
}

/// How many sensors are in each room, within the sites given (empty = all).
pub async fn count_sensors(read: &mut Read, tenant: &str, sites: &[String]) -> Result<HashMap<String, u32>> {
    let rows = read
        .query(
            "SELECT room_id, site, COUNT(*) AS sensors FROM placement WHERE tenant = $1 AND end_ns IS NULL \
             GROUP BY room_id, site",
        )
        .bind(tenant)
        .fetch_all()
        .await?;
    let mut counts = HashMap::new();
    for row in rows {
        let site: String = row.get("site")?;
        if sites.is_empty() || sites.contains(&site) {
            *counts.entry(row.get("room_id")?).or_default() += row.get::<u32>("sensors")?;
        }
    }
    Ok(counts)
}

/// Writes a placement as it is now.
pub async fn save_placement(tx: &mut Tx, tenant: &str, placement: &Placement) -> Result<()> {
    tx.query(
        "INSERT INTO placement (tenant, sensor_id, start_ns, end_ns, room_id, metric, site) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (tenant, sensor_id, start_ns) DO UPDATE SET end_ns = excluded.end_ns, \
         metric = excluded.metric, site = excluded.site",
    )
    .bind(tenant)
    .bind(&placement.sensor)
    .bind(placement.start)
    .bind(placement.end)
    .bind(&placement.room)
    .bind(&placement.metric)
    .bind(&placement.site)
    .execute()
    .await?;
    Ok(())
}

fn placement(row: &Row) -> Result<Placement> {
    Ok(Placement {
        sensor: row.get("sensor_id")?,
        room: row.get("room_id")?,
        metric: row.get("metric")?,
        start: row.get("start_ns")?,
        end: row.get("end_ns")?,
        site: row.get("site")?,
    })
}
