//! Tests.

use prost::Message;
use sensormesh_proto::commissioning::v1::StartTestRequest;
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Error, Result};

use crate::test::{State, Test};

const COLUMNS: &str = "t.tenant, t.test_id, t.site, t.state, t.actor, t.request, t.duration, t.readings, t.created, t.started, \
                       t.ended, t.heard, t.due, t.breaks, t.missed, t.note";
/// Tests that one transaction deletes at most.
const CHUNK: i64 = 200;

/// Which tests a list shows, after which one it goes on, and how many.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Only of this type; empty = all.
    pub sensor_type: String,
    /// Only of this sensor; empty = all.
    pub sensor: String,
    /// Only of this device; empty = all.
    pub device: String,
    /// Only in this state; 0 = all.
    pub state: i32,
    /// When the last one shown was asked for, and its id.
    pub after: Option<(i64, String)>,
    /// At most so many.
    pub size: u32,
}

/// One test.
pub async fn find_test(read: &mut Read, tenant: &str, id: &str) -> Result<Option<Test>> {
    let sql = format!("SELECT {COLUMNS} FROM test t WHERE t.tenant = $1 AND t.test_id = $2");
    read.query_built(sql).bind(tenant).bind(id).fetch_optional().await?.as_ref().map(test).transpose()
}

/// A page of tests, the newest first.
pub async fn list_tests(read: &mut Read, tenant: &str, page: &Page) -> Result<Vec<Test>> {
    let (created, id) = page.after.clone().unwrap_or((i64::MAX, String::new()));
    let sql = format!(
        "SELECT {COLUMNS} FROM test t WHERE t.tenant = $1 AND ($2 = '' OR t.sensor_type = $2) AND ($3 = 0 OR t.state = $3) \
         AND (t.created, t.test_id) < ($4, $5) AND (($6 = '' AND $7 = '') OR EXISTS (SELECT 1 FROM tested s \
         WHERE s.tenant = t.tenant AND s.test_id = t.test_id AND ($6 = '' OR s.sensor_id = $6) \
         AND ($7 = '' OR s.device_id = $7))) ORDER BY t.created DESC, t.test_id DESC LIMIT $8"
    );
    let rows = read
        .query_built(sql)
        .bind(tenant)
        .bind(&page.sensor_type)
        .bind(page.state)
        .bind(created)
        .bind(id)
        .bind(&page.sensor)
        .bind(&page.device)
        .bind(page.size)
        .fetch_all()
        .await?;
    rows.iter().map(test).collect()
}

/// Every test of every tenant that is not over, in the order of their turns.
pub async fn list_unfinished(read: &mut Read) -> Result<Vec<Test>> {
    let sql = format!("SELECT {COLUMNS} FROM test t WHERE t.ended = 0 ORDER BY t.created, t.test_id");
    read.query_built(sql).fetch_all().await?.iter().map(test).collect()
}

/// How many tests of a tenant are not over.
pub async fn count_unfinished(read: &mut Read, tenant: &str) -> Result<u32> {
    let sql = "SELECT COUNT(*) AS tests FROM test WHERE ended = 0 AND tenant = $1";
    read.query(sql).bind(tenant).fetch_one().await?.get("tests")
}

/// Writes a new test.
pub async fn insert_test(tx: &mut Tx, test: &Test) -> Result<()> {
    tx.query(
        "INSERT INTO test (tenant, test_id, sensor_type, device_id, site, state, actor, request, duration, readings, created, \
         started, ended, heard, due, breaks, missed, note) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(&test.tenant)
    .bind(&test.id)
    .bind(&test.request.sensor_type)
    .bind(&test.request.device_id)
    .bind(&test.site)
    .bind(test.state as i32)
    .bind(&test.actor)
    .bind(test.request.encode_to_vec())
    .bind(test.duration)
    .bind(test.readings)
    .bind(test.created)
    .bind(test.started)
    .bind(test.ended)
    .bind(test.heard)
    .bind(test.due)
    .bind(serde_json::to_string(&test.breaks).map_err(Error::internal)?)
    .bind(i64::from(test.missed))
    .bind(&test.note)
    .execute()
    .await?;
    Ok(())
}

/// Writes how far a test is, unless somebody has ended it in between; says whether it did.
pub async fn save_test(tx: &mut Tx, test: &Test) -> Result<bool> {
    let written = tx
        .query(
            "UPDATE test SET state = $3, started = $4, ended = $5, heard = $6, due = $7, breaks = $8 \
             WHERE tenant = $1 AND test_id = $2 AND ended = 0",
        )
        .bind(&test.tenant)
        .bind(&test.id)
        .bind(test.state as i32)
        .bind(test.started)
        .bind(test.ended)
        .bind(test.heard)
        .bind(test.due)
        .bind(serde_json::to_string(&test.breaks).map_err(Error::internal)?)
        .execute()
        .await?;
    Ok(written == 1)
}

/// Readings of every running test of every tenant were missed.
pub async fn mark_missed(tx: &mut Tx) -> Result<()> {
    let sql = "UPDATE test SET missed = 1 WHERE ended = 0 AND started > 0";
    tx.query(sql).execute().await?;
    Ok(())
}

/// Deletes tests of every tenant that were over before `before`, some at a time; says whether more are left.
pub async fn delete_old(tx: &mut Tx, before: i64) -> Result<bool> {
    let rows = tx
        .query("SELECT tenant, test_id FROM test WHERE ended > 0 AND ended < $1 LIMIT $2")
        .bind(before)
        .bind(CHUNK)
        .fetch_all()
        .await?;
    for row in &rows {
        let (tenant, id): (String, String) = (row.get("tenant")?, row.get("test_id")?);
        for sql in [
            "DELETE FROM tested WHERE tenant = $1 AND test_id = $2",
            "DELETE FROM test WHERE tenant = $1 AND test_id = $2",
        ] {
            tx.query(sql).bind(&tenant).bind(&id).execute().await?;
        }
    }
    Ok(i64::try_from(rows.len()).is_ok_and(|deleted| deleted == CHUNK))
}

fn test(row: &Row) -> Result<Test> {
    let (state, breaks): (i32, String) = (row.get("state")?, row.get("breaks")?);
    let request: Vec<u8> = row.get("request")?;
    Ok(Test {
        tenant: row.get("tenant")?,
        id: row.get("test_id")?,
        request: StartTestRequest::decode(request.as_slice()).map_err(Error::internal)?,
        site: row.get("site")?,
        state: State::from_i32(state).ok_or_else(|| Error::internal(format!("a test has the state {state}")))?,
        actor: row.get("actor")?,
        duration: row.get("duration")?,
        readings: row.get("readings")?,
        created: row.get("created")?,
        started: row.get("started")?,
        ended: row.get("ended")?,
        heard: row.get("heard")?,
        due: row.get("due")?,
        breaks: serde_json::from_str(&breaks).map_err(Error::internal)?,
        missed: row.get::<i64>("missed")? != 0,
        note: row.get("note")?,
    })
}
