//! Readings of sensors nobody has registered.

use sensormesh_series::Quality;
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use crate::validate::device_of;

/// Readings that one statement removes.
const REMOVED_AT_ONCE: usize = 100;

/// A reading that is kept aside.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The tenant it belongs to.
    pub tenant: String,
    /// The sensor's id as it was sent.
    pub sensor_id: String,
    /// When it was measured, nanoseconds since the Unix epoch.
    pub time: i64,
    /// The value.
    pub value: f64,
    /// What is known of its quality.
    pub quality: Quality,
    /// When it was received, microseconds since the Unix epoch.
    pub received: i64,
    /// Who sent it.
    pub sender: String,
    /// The site that a sender speaks for who is a bridge; empty = the whole tenant.
    pub site: String,
    /// The sender may register sensors, and `devices` could not be asked.
    pub register: bool,
}

/// A sensor with readings that are kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The sensor's id as it was sent.
    pub sensor_id: String,
    /// How many readings.
    pub readings: u64,
    /// When the first one was received, microseconds since the Unix epoch.
    pub first: i64,
    /// When the last one was received.
    pub last: i64,
    /// Who sent the last one.
    pub sender: String,
}

/// Keeps a reading aside; one of the same sensor, time and sender gives way.
pub async fn insert(tx: &mut Tx, kept: &Kept) -> Result<()> {
    tx.query(
        "INSERT INTO quarantine (tenant, sensor_id, time_ns, bits, quality, received, sender, register, site) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, sensor_id, time_ns, sender) \
         DO UPDATE SET bits = $4, quality = $5, received = $6, register = $8, site = $9",
    )
    .bind(&kept.tenant)
    .bind(&kept.sensor_id)
    .bind(kept.time)
    .bind(kept.value.to_bits() as i64)
    .bind(i64::from(kept.quality.0))
    .bind(kept.received)
    .bind(&kept.sender)
    .bind(kept.register)
    .bind(&kept.site)
    .execute()
    .await?;
    Ok(())
}

/// How many readings of a tenant are kept aside; of one sender, unless that is empty.
pub async fn count(read: &mut Read, tenant: &str, sender: &str) -> Result<u64> {
    let query = match sender {
        "" => read.query("SELECT COUNT(*) AS n FROM quarantine WHERE tenant = $1").bind(tenant),
        sender => {
            let query = read.query("SELECT COUNT(*) AS n FROM quarantine WHERE tenant = $1 AND sender = $2");
            query.bind(tenant).bind(sender)
        }
    };
    query.fetch_one().await?.get("n")
}

/// A page of a tenant's waiting sensors, by id.
pub async fn page(read: &mut Read, tenant: &str, after: &str, limit: u32) -> Result<Vec<Waiting>> {
    let rows = read
        .query(
            "SELECT q.sensor_id AS sensor_id, COUNT(*) AS n, MIN(q.received) AS first, MAX(q.received) AS last, \
             (SELECT MAX(l.sender) FROM quarantine l WHERE l.tenant = q.tenant AND l.sensor_id = q.sensor_id \
              AND l.received = MAX(q.received)) AS sender \
             FROM quarantine q WHERE q.tenant = $1 AND q.sensor_id > $2 GROUP BY q.tenant, q.sensor_id \
             ORDER BY q.sensor_id LIMIT $3",
        )
        .bind(tenant)
        .bind(after)
        .bind(limit)
        .fetch_all()
        .await?;
    rows.iter()
        .map(|row| {
            Ok(Waiting {
                sensor_id: row.get("sensor_id")?,
                readings: row.get("n")?,
                first: row.get("first")?,
                last: row.get("last")?,
                sender: row.get("sender")?,
            })
        })
        .collect()
}

/// Every sensor with readings kept aside: tenant, id, and whether it is to be registered.
pub async fn waiting(read: &mut Read) -> Result<Vec<(String, String, bool)>> {
    let rows = read
        .query("SELECT tenant, sensor_id, MAX(register) AS register FROM quarantine GROUP BY tenant, sensor_id")
        .fetch_all()
        .await?;
    rows.iter().map(|row| Ok((row.get("tenant")?, row.get("sensor_id")?, row.get("register")?))).collect()
}

/// Readings of a sensor in order of time, at most `limit`.
pub async fn list(read: &mut Read, tenant: &str, sensor_id: &str, limit: u32) -> Result<Vec<Kept>> {
    let query = read.query(
        "SELECT time_ns, bits, quality, received, sender, site, register FROM quarantine \
         WHERE tenant = $1 AND sensor_id = $2 ORDER BY time_ns, received DESC, sender LIMIT $3",
    );
    read_kept(tenant, sensor_id, &query.bind(tenant).bind(sensor_id).bind(limit).fetch_all().await?)
}

/// The same, without what the sensor's device and site do not admit: what another device has sent, and what a bridge has that speaks
/// for another site, or that sent it for another device.
pub async fn list_admitted(
    read: &mut Read,
    tenant: &str,
    sensor_id: &str,
    (device, site): (&str, &str),
    limit: u32,
) -> Result<Vec<Kept>> {
    let query = read.query(
        "SELECT time_ns, bits, quality, received, sender, site, register FROM quarantine \
         WHERE tenant = $1 AND sensor_id = $2 AND (sender = $3 \
         OR (sender LIKE 'bridge:%' AND $4 = 1 AND (site = '' OR site = $5)) \
         OR (sender NOT LIKE 'device:%' AND sender NOT LIKE 'bridge:%')) \
         ORDER BY time_ns, received DESC, sender LIMIT $6",
    );
    let sender = format!("device:{device}");
    let query = query.bind(tenant).bind(sensor_id).bind(sender).bind(device == device_of(sensor_id)).bind(site);
    read_kept(tenant, sensor_id, &query.bind(limit).fetch_all().await?)
}

fn read_kept(tenant: &str, sensor_id: &str, rows: &[Row]) -> Result<Vec<Kept>> {
    rows.iter()
        .map(|row| {
            Ok(Kept {
                tenant: tenant.to_owned(),
                sensor_id: sensor_id.to_owned(),
                time: row.get("time_ns")?,
                value: f64::from_bits(row.get::<i64>("bits")? as u64),
                quality: Quality(u8::try_from(row.get::<i64>("quality")?).map_err(Error::internal)?),
                received: row.get("received")?,
                sender: row.get("sender")?,
                site: row.get("site")?,
                register: row.get("register")?,
            })
        })
        .collect()
}

/// The sensors of a tenant with readings kept aside, by id, behind one of them.
pub async fn sensors(read: &mut Read, tenant: &str, after: &str, limit: u32) -> Result<Vec<String>> {
    let rows = read
        .query(
            "SELECT sensor_id FROM quarantine WHERE tenant = $1 AND sensor_id > $2 GROUP BY sensor_id \
             ORDER BY sensor_id LIMIT $3",
        )
        .bind(tenant)
        .bind(after)
        .bind(limit)
        .fetch_all()
        .await?;
    rows.iter().map(|row| row.get("sensor_id")).collect()
}

/// Whether any reading of a sensor is kept aside.
pub async fn exists(read: &mut Read, tenant: &str, sensor_id: &str) -> Result<bool> {
    let query = read.query("SELECT 1 AS n FROM quarantine WHERE tenant = $1 AND sensor_id = $2 LIMIT 1");
    Ok(query.bind(tenant).bind(sensor_id).fetch_optional().await?.is_some())
}

/// How many sensors of a tenant have readings kept aside.
pub async fn count_sensors(read: &mut Read, tenant: &str) -> Result<u64> {
    let query = read.query("SELECT COUNT(DISTINCT sensor_id) AS n FROM quarantine WHERE tenant = $1");
    query.bind(tenant).fetch_one().await?.get("n")
}

/// Throws away what is kept of one sensor, or of all of the tenant's; answers how many readings.
pub async fn drop_readings(tx: &mut Tx, tenant: &str, sensor_id: Option<&str>) -> Result<u64> {
    match sensor_id {
        Some(id) => {
            let query = tx.query("DELETE FROM quarantine WHERE tenant = $1 AND sensor_id = $2");
            query.bind(tenant).bind(id).execute().await
        }
        None => tx.query("DELETE FROM quarantine WHERE tenant = $1").bind(tenant).execute().await,
    }
}

/// Removes readings of a sensor that are in the log now. What was kept aside since they were taken stays.
pub async fn remove(tx: &mut Tx, tenant: &str, sensor_id: &str, kept: &[Kept]) -> Result<u64> {
    let mut removed = 0;
    for some in kept.chunks(REMOVED_AT_ONCE) {
        let pairs: Vec<String> =
            (0..some.len()).map(|i| format!("({})", sensormesh_store::placeholders(i * 2 + 3, 2))).collect();
        let sql = format!(
            "DELETE FROM quarantine WHERE tenant = $1 AND sensor_id = $2 AND (time_ns, bits) IN (VALUES {})",
            pairs.join(", ")
        );
        let values = some.iter().flat_map(|kept| [kept.time, kept.value.to_bits() as i64]);
        removed += tx.query_built(sql).bind(tenant).bind(sensor_id).bind_all(values).execute().await?;
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::LOG;
    use sensormesh_store::Store;
    use sensormesh_types::{Clock, Scope};

    fn kept(time: i64, value: f64) -> Kept {
        Kept {
            tenant: "acme".into(),
            sensor_id: "lab.a".into(),
            time,
            value,
            quality: Quality::USUAL,
            received: time,
            sender: "user:ada".into(),
            site: String::new(),
            register: false,
        }
    }

    #[tokio::test]
    async fn what_the_sensors_device_and_site_do_not_admit_stays_aside() {
        let temporary = Store::open_temp("telemetry-log", LOG, Clock::fixed(0)).await.expect("store");
        let mut tx = temporary.store.tx(&Scope::system()).await.expect("tx");
        let sent = [("user:ada", ""), ("device:lab", ""), ("device:b", ""), ("bridge:a", ""), ("bridge:n", "north")];
        for (sender, site) in sent {
            // at the same time: none takes the place of another
            insert(&mut tx, &Kept { sender: sender.into(), site: site.into(), ..kept(7, 1.0) }).await.expect("kept");
        }
        let mut senders = async |device: &str, site: &str| {
            let kept = list_admitted(&mut tx, "acme", "lab.a", (device, site), 10).await.expect("listed");
            kept.into_iter().map(|kept| kept.sender).collect::<Vec<_>>()
        };
        assert_eq!(senders("lab", "north").await, ["bridge:a", "bridge:n", "device:lab", "user:ada"]);
        assert_eq!(senders("lab", "south").await, ["bridge:a", "device:lab", "user:ada"]);
        assert_eq!(senders("b", "north").await, ["device:b", "user:ada"], "registered for another device");
        assert_eq!(list(&mut tx, "acme", "lab.a", 10).await.expect("listed").len(), 5);
        let counted = [("", 5), ("device:b", 1), ("device:c", 0)];
        for (sender, readings) in counted {
            assert_eq!(count(&mut tx, "acme", sender).await.expect("counted"), readings, "{sender}");
        }
    }

    #[tokio::test]
    async fn what_was_kept_aside_since_the_others_were_taken_is_not_removed_with_them() {
        let temporary = Store::open_temp("telemetry-log", LOG, Clock::fixed(0)).await.expect("store");
        let mut tx = temporary.store.tx(&Scope::system()).await.expect("tx");
        for i in 0..150 {
            insert(&mut tx, &kept(i * 10, -0.0)).await.expect("kept");
        }
        let taken = list(&mut tx, "acme", "lab.a", 1000).await.expect("taken");
        insert(&mut tx, &kept(5, 2.0)).await.expect("a new one");
        insert(&mut tx, &kept(20, 3.0)).await.expect("another value");
        remove(&mut tx, "acme", "lab.a", &taken).await.expect("removed");
        let left = list(&mut tx, "acme", "lab.a", 1000).await.expect("left");
        assert_eq!(left, [kept(5, 2.0), kept(20, 3.0)].map(|k| Kept { tenant: "acme".into(), ..k }));
    }
}
