//! A new life for a database that was restored.

use std::path::Path;

use sensormesh_types::{Error, Result, random};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::error::translate;

/// Draws a new incarnation in a SQLite file that no program uses: every cursor of its other life is refused, and those who
/// follow its log start again.
pub async fn database(path: &Path) -> Result<()> {
    let fail = |error: sqlx::Error| translate(error).0;
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(false);
    let mut connection = options.connect().await.map_err(fail)?;
    let incarnation = i64::from_le_bytes(random::bytes()) & i64::MAX;
    let renewed = sqlx::query("UPDATE identity SET incarnation = $1 WHERE id = 1").bind(incarnation);
    let rows = renewed.execute(&mut connection).await.map_err(fail)?.rows_affected();
    connection.close().await.map_err(fail)?;
    if rows == 1 { Ok(()) } else { Err(Error::precondition("DATABASE_FILE", "it is no database of sensormesh")) }
}
