//! Every block there is, for those who verify them.

use sensormesh_store::Read;
use sensormesh_types::Result;

use super::block::{RAW, Span};
use crate::catalog::Series;

/// Where a block is among those of its series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// 0 = readings, 1 and 2 = rollups.
    pub level: i32,
    /// The rest of its key.
    pub span: Span,
}

impl Key {
    /// Behind every block of readings, before the rollups.
    pub const LAST_RAW: Self = Self { level: RAW, span: Span { start: i64::MAX, part: i64::MAX, end: i64::MAX } };
}

/// The next blocks of a series behind one, of every level.
pub async fn blocks(read: &mut Read, series: &Series, after: Option<Key>, limit: u32) -> Result<Vec<Key>> {
    let first = Key { level: -1, span: Span { start: 0, part: 0, end: 0 } };
    let Key { level, span } = after.unwrap_or(first);
    let rows = read
        .query(
            "SELECT level, start_ns, part, end_ns FROM block WHERE tenant = $1 AND series = $2 \
             AND (level, start_ns, part, end_ns) > ($3, $4, $5, $6) ORDER BY level, start_ns, part, end_ns LIMIT $7",
        )
        .bind(&*series.tenant)
        .bind(series.number)
        .bind(level)
        .bind(span.start)
        .bind(span.part)
        .bind(span.end)
        .bind(limit)
        .fetch_all()
        .await?;
    rows.iter().map(|row| Ok(Key { level: row.get::<i64>("level")? as i32, span: Span::of(row)? })).collect()
}
