//! Sealed readings.

use sensormesh_series::block::{self, Header};
use sensormesh_series::merge::Source;
use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::{Code, Error, Result};

use crate::catalog::Series;

/// The level of readings as they came; others are for summaries.
pub const RAW: i32 = 0;

/// A block to be written.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// The time of its first reading.
    pub start: i64,
    /// The time of its last reading.
    pub end: i64,
    /// How many readings.
    pub n: usize,
    /// The encoded header.
    pub header: Vec<u8>,
    /// The encoded readings.
    pub data: Vec<u8>,
}

/// Where a block is and what it spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The time of its first reading.
    pub start: i64,
    /// The place in the log up to which readings are in it.
    pub part: i64,
    /// The time of its last reading.
    pub end: i64,
}

impl Span {
    /// The span in a row's key columns.
    pub fn of(row: &Row) -> Result<Self> {
        Ok(Self { start: row.get("start_ns")?, part: row.get("part")?, end: row.get("end_ns")? })
    }
}

/// Writes a block. One that is there already, from an attempt whose end nobody saw, is the same and stays.
pub async fn insert(tx: &mut Tx, series: &Series, part: u64, sealed: &Sealed) -> Result<()> {
    tx.query(
        "INSERT INTO block (tenant, series, level, start_ns, part, end_ns, n, header, data) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING",
    )
    .bind(&*series.tenant)
    .bind(series.number)
    .bind(RAW)
    .bind(sealed.start)
    .bind(i64::try_from(part).map_err(Error::internal)?)
    .bind(sealed.end)
    .bind(i64::try_from(sealed.n).map_err(Error::internal)?)
    .bind(&sealed.header)
    .bind(&sealed.data)
    .execute()
    .await?;
    Ok(())
}

/// The blocks that may hold readings from `start` to `end`, both included, by start.
pub async fn spans(read: &mut Read, series: &Series, start: i64, end: i64) -> Result<Vec<Span>> {
    let rows = read
        .query(
            "SELECT start_ns, part, end_ns FROM block \
             WHERE tenant = $1 AND series = $2 AND level = $3 AND start_ns <= $4 AND end_ns >= $5 \
             ORDER BY start_ns, part",
        )
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(RAW)
        .bind(end)
        .bind(start)
        .fetch_all()
        .await?;
    rows.iter().map(Span::of).collect()
}

/// The last time of a series' blocks.
pub async fn end(read: &mut Read, series: &Series) -> Result<Option<i64>> {
    let query = read.query("SELECT MAX(end_ns) AS last FROM block WHERE tenant = $1 AND series = $2 AND level = $3");
    query.bind(&*series.tenant).bind(series.number).bind(RAW).fetch_one().await?.get("last")
}

/// Every block of a series with its number of readings, by start.
pub async fn list(read: &mut Read, series: &Series) -> Result<Vec<(Span, usize)>> {
    let rows = read
        .query(
            "SELECT start_ns, part, end_ns, n FROM block WHERE tenant = $1 AND series = $2 AND level = $3 \
             ORDER BY start_ns, part",
        )
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(RAW)
        .fetch_all()
        .await?;
    rows.iter().map(|row| Ok((Span::of(row)?, row.get("n")?))).collect()
}

/// How much room blocks take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// How many there are.
    pub blocks: u64,
    /// Bytes of their headers.
    pub headers: u64,
    /// Bytes of their readings in the codec.
    pub data: u64,
}

/// How much room all blocks take.
pub async fn sizes(read: &mut Read) -> Result<Sizes> {
    let row = read
        .query(
            "SELECT COUNT(*) AS blocks, COALESCE(SUM(LENGTH(header)), 0) AS headers, \
             COALESCE(SUM(LENGTH(data)), 0) AS data FROM block",
        )
        .fetch_one()
        .await?;
    Ok(Sizes { blocks: row.get("blocks")?, headers: row.get("headers")?, data: row.get("data")? })
}

/// Deletes a block; false where it has gone since.
pub async fn delete(tx: &mut Tx, series: &Series, span: Span) -> Result<bool> {
    let deleted = tx
        .query(
            "DELETE FROM block WHERE tenant = $1 AND series = $2 AND level = $3 AND start_ns = $4 AND part = $5 \
             AND end_ns = $6",
        )
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(RAW)
        .bind(span.start)
        .bind(span.part)
        .bind(span.end)
        .execute()
        .await?;
    Ok(deleted == 1)
}

/// The blocks that may hold readings from `start` to `end`, both included, by start, each with its header.
pub async fn headers(read: &mut Read, series: &Series, start: i64, end: i64) -> Result<Vec<(Span, Header)>> {
    let rows = read
        .query(
            "SELECT start_ns, part, end_ns, header FROM block \
             WHERE tenant = $1 AND series = $2 AND level = $3 AND start_ns <= $4 AND end_ns >= $5 \
             ORDER BY start_ns, part",
        )
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(RAW)
        .bind(end)
        .bind(start)
        .fetch_all()
        .await?;
    let mut headers = Vec::with_capacity(rows.len());
    for row in &rows {
        let span = Span::of(row)?;
        let header = block::header(&row.get::<Vec<u8>>("header")?, span.start, span.end);
        headers.push((span, header.map_err(|error| named(error, series, span))?));
    }
    Ok(headers)
}

/// A block's readings; nothing where the block has gone since.
pub async fn load(read: &mut Read, series: &Series, span: Span) -> Result<Option<Source>> {
    let found = fetch(read, series, &[span]).await?;
    found.first().map(|encoded| encoded.decode(series)).transpose()
}

/// A block that is not decoded yet.
#[derive(Debug)]
pub struct Encoded {
    /// Where it is.
    pub span: Span,
    header: Vec<u8>,
    data: Vec<u8>,
}

impl Encoded {
    /// Its readings.
    pub fn decode(&self, series: &Series) -> Result<Source> {
        let column = block::decode(&self.header, &self.data).map_err(|error| named(error, series, self.span))?;
        Ok(Source { rank: self.span.part, column })
    }
}

/// Blocks, by start, without those that have gone since.
pub async fn fetch(read: &mut Read, series: &Series, spans: &[Span]) -> Result<Vec<Encoded>> {
    let starts = || spans.iter().map(|span| span.start);
    let (Some(first), Some(last)) = (starts().min(), starts().max()) else { return Ok(Vec::new()) };
    let rows = read
        .query(
            "SELECT start_ns, part, end_ns, header, data FROM block \
             WHERE tenant = $1 AND series = $2 AND level = $3 AND start_ns >= $4 AND start_ns <= $5 \
             ORDER BY start_ns, part",
        )
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(RAW)
        .bind(first)
        .bind(last)
        .fetch_all()
        .await?;
    let mut found = Vec::with_capacity(spans.len());
    for row in &rows {
        let span = Span::of(row)?;
        if spans.contains(&span) {
            found.push(Encoded { span, header: row.get("header")?, data: row.get("data")? });
        }
    }
    Ok(found)
}

fn named(error: Error, series: &Series, span: Span) -> Error {
    error.with("sensor_id", &*series.sensor_id).with("start_ns", span.start.to_string())
}

/// A block as it stands on disk, with the sensor it is of.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The tenant it belongs to.
    pub tenant: String,
    /// The number of its series.
    pub series: u32,
    /// Where it is.
    pub span: Span,
    /// How many readings it is said to have.
    pub n: usize,
    /// The sensor; `None` where its series has gone.
    pub sensor_id: Option<String>,
    header: Vec<u8>,
    data: Vec<u8>,
}

impl Kept {
    /// Whether its readings are what was written, as many and of the times that the row says.
    pub fn verify(&self) -> Result<()> {
        let column = block::decode(&self.header, &self.data)?;
        let times = column.times();
        let said = (self.n, Some(self.span.start), Some(self.span.end));
        if (column.len(), times.first().copied(), times.last().copied()) == said {
            Ok(())
        } else {
            Err(Error::new(Code::Corrupt, "BLOCK_CORRUPT", "its readings are not those that its row tells of"))
        }
    }
}

/// Up to `limit` blocks of readings behind the key of `after`, in the order of their keys.
pub async fn page(read: &mut Read, after: Option<&Kept>, limit: u32) -> Result<Vec<Kept>> {
    let (tenant, series, span) = after
        .map_or((String::new(), 0, Span { start: i64::MIN, part: 0, end: i64::MIN }), |b| {
            (b.tenant.clone(), b.series, b.span)
        });
    let rows = read
        .query(
            "SELECT block.tenant, block.series, start_ns, part, end_ns, n, header, data, sensor_id FROM block \
             LEFT JOIN series ON series.tenant = block.tenant AND series.series = block.series \
             WHERE level = $1 AND (block.tenant, block.series, start_ns, part, end_ns) > ($2, $3, $4, $5, $6) \
             ORDER BY block.tenant, block.series, start_ns, part, end_ns LIMIT $7",
        )
        .bind(RAW)
        .bind(tenant)
        .bind(series)
        .bind(span.start)
        .bind(span.part)
        .bind(span.end)
        .bind(limit)
        .fetch_all()
        .await?;
    let kept = |row: &Row| {
        Ok(Kept {
            tenant: row.get("tenant")?,
            series: row.get("series")?,
            span: Span::of(row)?,
            n: row.get("n")?,
            sensor_id: row.get("sensor_id")?,
            header: row.get("header")?,
            data: row.get("data")?,
        })
    };
    rows.iter().map(kept).collect()
}
