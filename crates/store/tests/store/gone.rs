//! Database files that are removed, emptied or replaced: nobody begins anew in silence, and nobody writes to what is lost.

use std::fs;
use std::time::Duration;

use sensormesh_store::Store;
use sensormesh_testkit::system::eventually;
use sensormesh_types::{Clock, Code, Scope};

use super::{MIGRATIONS, Place};

async fn add(store: &Store, id: &str) -> sensormesh_types::Result<()> {
    let mut tx = store.tx(&Scope::tenant_of("a")).await?;
    tx.query("INSERT INTO thing (tenant, id, n) VALUES ('a', $1, 1)").bind(id.to_owned()).execute().await?;
    tx.commit().await?;
    Ok(())
}

#[tokio::test]
async fn a_database_that_was_made_is_not_made_again() {
    let place = Place::sqlite();
    let store = place.open().await;
    add(&store, "one").await.expect("added");
    store.close().await;
    let file = place.file();
    let kept = fs::read(&file).expect("the file");
    for empty in [false, true] {
        if empty {
            fs::write(&file, "").expect("emptied");
        } else {
            fs::remove_file(&file).expect("removed");
        }
        let clock = Clock::system;
        let started = Store::open("things", &place.config, MIGRATIONS, clock()).await;
        let copied = sensormesh_store::copy_database(&file, &file.with_extension("copy")).await;
        let inspected = Store::inspect("things", &place.config, clock()).await;
        let errors = [started.err(), copied.err(), inspected.err()];
        for error in errors.map(|error| error.expect("refused")) {
            assert_eq!((error.code(), error.reason()), (Code::Corrupt, "DATABASE_GONE"), "empty: {empty}: {error}");
            assert!(error.to_string().contains("things.db"), "{error}");
        }
        assert_eq!(file.exists(), empty, "nothing was made");
    }
    fs::write(&file, kept).expect("restored");
    let store = place.open().await;
    add(&store, "two").await.expect("it goes on");
    store.close().await;
    // who means it says so
    for end in ["", "-wal", "-shm"] {
        fs::remove_file(format!("{}{end}", file.display())).ok();
    }
    fs::write(file.with_file_name("databases"), "others.db\n").expect("written");
    add(&place.open().await, "one").await.expect("it is new");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_removed_or_replaced_under_a_process_is_noticed() {
    let place = Place::sqlite();
    let store = place.open().await;
    add(&store, "one").await.expect("added");
    let (file, elsewhere) = (place.file(), place.file().with_extension("elsewhere"));
    let turns = |gone: bool| {
        let store = store.clone();
        async move {
            let turned = eventually(Duration::from_secs(10), || async { (store.is_gone() == gone).then_some(()) });
            turned.await.expect("noticed");
        }
    };
    for replaced in [false, true] {
        fs::rename(&file, &elsewhere).expect("moved away");
        if replaced {
            fs::copy(&elsewhere, &file).expect("another of its name");
        }
        turns(true).await;
        let error = add(&store, "two").await.expect_err("refused");
        assert_eq!((error.code(), error.reason()), (Code::Unavailable, "DATABASE_GONE"));
        assert!(error.retry_after().is_some());
        fs::rename(&elsewhere, &file).expect("moved back");
        turns(false).await;
    }
    add(&store, "two").await.expect("it goes on");
}
