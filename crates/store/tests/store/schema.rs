//! Transactions, values, migrations, leases, remembered requests.

use std::time::Duration;

use sensormesh_store::{Migration, Store};
use sensormesh_types::{Clock, Code, Scope};

use super::{MIGRATIONS, Place, places};

#[tokio::test(flavor = "multi_thread")]
async fn values_come_back_as_they_went_in() {
    for place in places() {
        let store = place.open().await;
        let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
        let insert = "INSERT INTO thing (tenant, id, n, x, b) VALUES ($1, $2, $3, $4, $5)";
        tx.query(insert)
            .bind("a")
            .bind("1")
            .bind(i64::MIN)
            .bind(-0.0)
            .bind(vec![0_u8, 255])
            .execute()
            .await
            .expect("1");
        tx.query(insert)
            .bind("a")
            .bind("2")
            .bind(7)
            .bind(None::<f64>)
            .bind(None::<Vec<u8>>)
            .execute()
            .await
            .expect("2");
        tx.commit().await.expect("commit");
        let mut read = store.read(&Scope::tenant_of("a")).await.expect("read");
        let rows = read.query("SELECT n, x, b FROM thing ORDER BY id").fetch_all().await.expect("rows");
        assert_eq!(rows[0].get::<i64>("n").expect("n"), i64::MIN);
        assert_eq!(rows[0].get::<Vec<u8>>("b").expect("b"), [0, 255]);
        assert_eq!(rows[1].get::<Option<f64>>("x").expect("x"), None);
        assert!(rows[1].get::<f64>("x").is_err(), "null is no number");
        let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
        let error = tx.query(insert);
        let error = error.bind("a").bind("1").bind(0).bind(0.0).bind(vec![0_u8]).execute().await.expect_err("taken");
        assert_eq!(error.code(), Code::Exists);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zero_in_a_text_is_kept_or_is_the_callers_mistake() {
    for place in places() {
        let store = place.open().await;
        let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
        let insert = tx.query("INSERT INTO thing (tenant, id, n) VALUES ($1, $2, 1)").bind("a").bind("x\0y");
        if let Err(error) = insert.execute().await {
            assert_eq!((error.code(), error.reason()), (Code::Invalid, "TEXT_NOT_STORABLE"), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_transaction_is_undone_and_the_writer_is_free() {
    for place in places() {
        let store = place.open().await;
        for _ in 0..5 {
            let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("the writer is free");
            let work = tx.query("INSERT INTO thing (tenant, id, n) VALUES ('a', '1', 1)").execute();
            // Dropped at its first poll that does not finish, like a handler whose caller went away.
            tokio::time::timeout(Duration::ZERO, work).await.ok();
        }
        let mut read = store.read(&Scope::tenant_of("a")).await.expect("read");
        let count = read.query("SELECT COUNT(*) AS n FROM thing").fetch_one().await.expect("count");
        assert_eq!(count.get::<i64>("n").expect("n"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_schema_and_a_changed_step_are_refused_in_words() {
    const CHANGED: &[Migration] = &[Migration { version: 1, name: "things", sql: "CREATE TABLE other (id $int);" }];
    for place in places() {
        place.open().await.close().await;
        let open = |steps| Store::open("things", &place.config, steps, Clock::system());
        let newer = open(&[]).await.expect_err("refused");
        assert_eq!(newer.reason(), "SCHEMA_TOO_NEW");
        assert!(newer.message().contains("newer program"), "{newer}");
        assert_eq!(open(CHANGED).await.expect_err("refused").reason(), "MIGRATION_CHANGED");
        open(MIGRATIONS).await.expect("the right program opens it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_leaves_nothing_behind() {
    const BROKEN: &[Migration] = &[
        Migration { version: 1, name: "good", sql: "CREATE TABLE thing (id $int NOT NULL PRIMARY KEY) $strict;" },
        Migration {
            version: 2,
            name: "bad",
            sql: "CREATE TABLE more (id $int NOT NULL PRIMARY KEY) $strict; NONSENSE;",
        },
    ];
    for place in places() {
        Store::open("things", &place.config, BROKEN, Clock::system()).await.expect_err("broken");
        place.open().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_that_start_together_migrate_once() {
    for place in places() {
        let (one, two) = tokio::join!(place.open(), place.open());
        one.check_chain().await.expect("whole");
        two.check_chain().await.expect("whole");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_is_private_and_of_the_page_size_asked_for() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut place = Place::sqlite();
    place.config.page_size = 16_384;
    let store = place.open().await;
    let mode = std::fs::metadata(place.file()).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut read = store.read(&Scope::system()).await.expect("read");
    let pages = read.query("PRAGMA page_size").fetch_one().await.expect("a row").get::<i64>("page_size");
    assert_eq!(pages.expect("a number"), 16_384);
    let vacuum = read.query("PRAGMA auto_vacuum").fetch_one().await.expect("a row").get::<i64>("auto_vacuum");
    assert_eq!(vacuum.expect("a number"), 2, "incremental");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_holds_no_more_than_its_heap_however_many_connections_read() {
    let place = Place::sqlite();
    let mut read = place.open().await.read(&Scope::system()).await.expect("read");
    let heap = read.query("PRAGMA soft_heap_limit").fetch_one().await.expect("a row").get::<i64>("soft_heap_limit");
    assert_eq!(heap.expect("a number"), 8 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_has_one_holder_and_each_a_greater_epoch() {
    for place in places() {
        let store = place.open().await;
        let life = Duration::from_millis(300);
        let mut first = store.lease("work", life).await.expect("lease").expect("free");
        assert!(store.lease("work", life).await.expect("lease").is_none(), "held");
        assert!(first.renew().await.expect("renewed"));
        tokio::time::sleep(life + Duration::from_millis(50)).await;
        assert!(!first.is_held());
        let second = store.lease("work", life).await.expect("lease").expect("expired");
        assert!(second.epoch() > first.epoch());
        let mut tx = store.tx(&Scope::system()).await.expect("tx");
        tx.fence(&second).await.expect("the holder may write");
        let lost = tx.fence(&first).await.expect_err("the predecessor may not");
        assert_eq!((lost.code(), lost.reason()), (Code::Conflict, "LEASE_LOST"));
        drop(tx);
        assert!(!first.renew().await.expect("an answer"), "the predecessor is fenced off");
        second.release().await.expect("released");
        assert!(store.lease("work", life).await.expect("lease").is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_gives_the_same_answer_and_refuses_another_body() {
    for place in places() {
        let store = place.open().await;
        let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
        assert_eq!(tx.recall_request("Make", "r1", b"body").await.expect("recall"), None);
        tx.remember_request("Make", "r1", b"body", b"answer").await.expect("remembered");
        tx.commit().await.expect("commit");
        let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
        assert_eq!(tx.recall_request("Make", "r1", b"body").await.expect("recall").as_deref(), Some(&b"answer"[..]));
        assert_eq!(tx.recall_request("Make", "r1", b"other").await.expect_err("refused").code(), Code::Invalid);
        drop(tx);
        let mut other = store.tx(&Scope::tenant_of("b")).await.expect("tx");
        assert_eq!(other.recall_request("Make", "r1", b"body").await.expect("recall"), None, "another tenant's id");
    }
}
