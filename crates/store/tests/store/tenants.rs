//! One tenant's transactions do not reach another's rows, nor one service's another's tables.

use sensormesh_store::{Config, Migration, Store};
use sensormesh_testkit::postgres;
use sensormesh_types::{Clock, Scope};

use super::places;

async fn count(store: &Store, scope: &Scope) -> i64 {
    let mut read = store.read(scope).await.expect("read");
    let row = read.query("SELECT COUNT(*) AS n FROM thing").fetch_one().await.expect("count");
    row.get("n").expect("n")
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_keeps_tenants_apart_even_where_a_statement_forgets_to() {
    for place in places().into_iter().filter(|place| place.config.url.starts_with("postgres")) {
        let store = place.open().await;
        let insert = "INSERT INTO thing (tenant, id, n) VALUES ($1, '1', 1)";
        for tenant in ["a", "b"] {
            let mut tx = store.tx(&Scope::tenant_of(tenant)).await.expect("tx");
            tx.query(insert).bind(tenant).execute().await.expect("the own row");
            tx.commit().await.expect("commit");
        }
        assert_eq!(count(&store, &Scope::tenant_of("a")).await, 1);
        assert_eq!(count(&store, &Scope::tenant_of("it's another")).await, 0);
        assert_eq!(count(&store, &Scope::tenant_of("*'; RESET ROLE; --")).await, 0);
        assert_eq!(count(&store, &Scope::system()).await, 2);
        let mut tx = store.tx(&Scope::tenant_of("a")).await.expect("tx");
        tx.query(insert).bind("c").execute().await.expect_err("a row of another tenant");
        // the connection goes back to the pool, and the next one is for somebody else
        drop(tx);
        let mut tx = store.tx(&Scope::tenant_of("b")).await.expect("tx");
        assert_eq!(tx.query("DELETE FROM thing").execute().await.expect("deleted"), 1);
        tx.commit().await.expect("commit");
        assert_eq!(count(&store, &Scope::system()).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_share_a_database_have_schemas_and_roles_of_their_own() {
    const SECRETS: &[Migration] = &[Migration {
        version: 1,
        name: "secrets",
        sql: "CREATE TABLE secret (id $int NOT NULL PRIMARY KEY) $strict;",
    }];
    let Some(url) = postgres::url_for_new_database() else { return };
    let config = Config::at(url);
    let one = Store::open("one", &config, SECRETS, Clock::system()).await.expect("one");
    let two = Store::open("two", &config, SECRETS, Clock::system()).await.expect("the same table names do not clash");
    let mut read = one.read(&Scope::system()).await.expect("read");
    read.query("SELECT id FROM secret").fetch_all().await.expect("the own table");
    drop(read);
    let mut read = two.read(&Scope::system()).await.expect("read");
    let error = read.query("SELECT id FROM one.secret").fetch_all().await.expect_err("another service's table");
    assert!(format!("{error:?}").contains("permission denied"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_can_have_a_database_of_its_own() {
    let Some(url) = postgres::url_for_new_database() else { return };
    let config = Config::at(format!("{url}_{{service}}"));
    for _ in 0..2 {
        let store = Store::open("things", &config, super::MIGRATIONS, Clock::system()).await.expect("made, then found");
        assert_eq!(count(&store, &Scope::system()).await, 0);
    }
}
