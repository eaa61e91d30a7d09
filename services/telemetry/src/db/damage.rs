//! Damage, for tests of what finds it.

use sensormesh_types::Scope;

use super::Databases;

/// Changes one bit of every block of a level, or of the second batch of the log. Twice, everything is whole again.
/// Answers how many there were.
pub async fn flip(databases: &Databases, level: Option<i32>) -> usize {
    let (store, table, column, filter) = match level {
        Some(level) => (&databases.main, "block", "data", format!("level = {level}")),
        None => (&databases.log, "reading_log", "body", "seq = 2".to_owned()),
    };
    let mut tx = store.tx(&Scope::system()).await.expect("tx");
    let select = format!("SELECT {column} AS bytes FROM {table} WHERE {filter}");
    let rows = tx.query_built(select).fetch_all().await.expect("rows");
    for row in &rows {
        let before = row.get::<Vec<u8>>("bytes").expect("bytes");
        let mut damaged = before.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        let update = format!("UPDATE {table} SET {column} = $1 WHERE {column} = $2");
        assert_eq!(tx.query_built(update).bind(damaged).bind(before).execute().await.expect("changed"), 1);
    }
    tx.commit().await.expect("commit");
    rows.len()
}

/// How many blocks there are, of every series and level.
pub async fn count_blocks(databases: &Databases) -> i64 {
    let mut read = databases.main.read(&Scope::system()).await.expect("read");
    let row = read.query("SELECT COUNT(*) AS n FROM block").fetch_one().await.expect("row");
    row.get("n").expect("number")
}
