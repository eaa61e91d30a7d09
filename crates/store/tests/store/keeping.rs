//! Whether a database is what was written, and copies of it while it is in use.

use std::time::Duration;

use sensormesh_store::{Config, Entry, Store};
use sensormesh_types::{Clock, Code, Scope};

use super::{MIGRATIONS, Place, places};

async fn write(store: &Store, id: &str, bytes: usize) {
    let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
    let insert = "INSERT INTO thing (tenant, id, n, b) VALUES ('a', $1, 1, $2)";
    tx.query(insert).bind(id).bind(vec![7_u8; bytes]).execute().await.expect("insert");
    tx.append(Entry { kind: "thing.made".into(), subject: id.into(), ..Entry::default() });
    tx.commit().await.expect("commit");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_log_that_was_changed_is_named() {
    for place in places() {
        let store = place.open().await;
        for id in ["1", "2", "3"] {
            write(&store, id, 10).await;
        }
        assert_eq!(store.check().await.expect("checked"), []);
        let mut tx = store.tx(&Scope::system()).await.expect("tx");
        tx.query("UPDATE log SET actor = 'somebody else' WHERE seq = 2").execute().await.expect("changed");
        tx.commit().await.expect("commit");
        let found = store.check().await.expect("checked");
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].place.as_str(), found[0].object["seq"].as_str()), ("log", "2"), "{found:?}");
    }
}

/// The copy has everything committed before it was begun, and is one state: of the rows that each transaction writes
/// together, all or none, and the chain of the log unbroken.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_database_in_use_is_one_state_of_it() {
    let place = Place::sqlite();
    let store = place.open().await;
    let folder = tempfile::tempdir().expect("a folder");
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for i in 0_u64.. {
                let size = usize::try_from(i * 7919 % 30_000).expect("small");
                let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
                for half in ["left", "right"] {
                    let insert = "INSERT INTO thing (tenant, id, n, b) VALUES ('a', $1, $2, $3)";
                    let query = tx.query(insert).bind(format!("{half}-{i}")).bind(i64::try_from(i).expect("small"));
                    query.bind(vec![7_u8; size]).execute().await.expect("insert");
                }
                if i % 3 == 0 {
                    let old = i64::try_from(i / 2).expect("small");
                    tx.query("DELETE FROM thing WHERE n = $1").bind(old).execute().await.expect("deleted");
                    tx.query("PRAGMA incremental_vacuum(50)").fetch_all().await.expect("vacuum");
                }
                tx.append(Entry { kind: "thing.made".into(), ..Entry::default() });
                tx.commit().await.expect("commit");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    for i in 0..12 {
        // checkpoints come between: the upkeep makes one each second when there is enough
        tokio::time::sleep(Duration::from_millis(if i % 4 == 0 { 1200 } else { 50 })).await;
        let before = store.summary().await.expect("summary").log_seq;
        let copy = folder.path().join(i.to_string()).join("things.db");
        std::fs::create_dir(copy.parent().expect("a folder")).expect("made");
        sensormesh_store::copy_database(&place.file(), &copy).await.expect("copied");
        let url = format!("sqlite:{}", copy.display());
        let config = Config::at(url);
        let copy = Store::open("things", &config, MIGRATIONS, Clock::system()).await.expect("the copy opens");
        assert_eq!(copy.check().await.expect("checked"), [], "copy {i}");
        assert!(copy.summary().await.expect("summary").log_seq >= before, "all that was committed before is in it");
        let mut read = copy.read(&Scope::system()).await.expect("read");
        let odd = "SELECT COUNT(*) AS n FROM (SELECT n FROM thing GROUP BY n HAVING COUNT(*) <> 2) AS odd";
        let halves: i64 = read.query(odd).fetch_one().await.expect("count").get("n").expect("n");
        assert_eq!(halves, 0, "transactions are whole");
    }
    writer.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_while_it_was_closed_is_not_opened() {
    let place = Place::sqlite();
    let store = place.open().await;
    write(&store, "1", 100_000).await;
    store.close().await;
    drop(store);
    sensormesh_store::seal_database(&place.file()).await.expect("sealed");
    let honest = std::fs::read(place.file()).expect("read");
    let mut bent = honest.clone();
    let at = bent.len() / 2;
    bent[at] ^= 4;
    std::fs::write(place.file(), &bent).expect("written");
    let error = Store::open("things", &place.config, MIGRATIONS, Clock::system()).await.expect_err("refused");
    assert_eq!((error.code(), error.reason()), (Code::Corrupt, "DATABASE_CORRUPT"), "{error:?}");
    let inspected = Store::inspect("things", &place.config, Clock::system()).await.expect("inspected");
    let found = inspected.check().await.expect("checked");
    assert!(found.iter().any(|finding| finding.place == "file" && finding.object.contains_key("bytes")), "{found:?}");
    inspected.close().await;
    std::fs::write(place.file(), &honest).expect("written");
    let store = place.open().await;
    write(&store, "2", 10).await;
    store.close().await;
    let again = place.open().await;
    assert_eq!(again.check().await.expect("checked"), [], "what was changed since by ourselves is no damage");
}
