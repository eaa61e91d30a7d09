//! What PostgreSQL must have before a service can use it: a database, a schema, a role.
//!
//! Row-level security does not bind a superuser, nor the tables' owner unless it is forced. So each service works as a
//! role of its own that cannot log in (`sensormesh_rooms`), owns the service's schema and sees nothing of the others',
//! wherever the user of the URL may make roles.

use std::str::FromStr as _;

use sensormesh_types::{Error, Result};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use crate::pools::{EVERY_TENANT, TENANT_SETTING, quoted};

/// What a connection does without for so long it does without for good.
const TIMEOUTS: [(&str, &str); 3] =
    [("statement_timeout", "5s"), ("lock_timeout", "2s"), ("idle_in_transaction_session_timeout", "10s")];

/// Makes what is missing, and returns how to connect. With `separate`, the service has a database of its own.
pub(crate) async fn prepare(url: &str, service: &str, separate: bool) -> Result<PgConnectOptions> {
    let options = PgConnectOptions::from_str(url).map_err(|error| {
        Error::precondition("DATABASE_URL", "the PostgreSQL URL could not be understood").caused_by(error)
    })?;
    let options = options.application_name(service);
    let schema = service.replace('-', "_");
    let prepared = async {
        if separate {
            create_database(&options, service).await?;
        }
        let mut admin = options.clone().connect().await?;
        // until this connection is closed
        let lock = format!("SELECT pg_advisory_lock(hashtext({}))", quoted(&schema));
        admin.execute(AssertSqlSafe(lock)).await?;
        let role = create_role(&mut admin, &format!("sensormesh_{schema}")).await?;
        let role = create_schema(&mut admin, &schema, role).await?;
        admin.close().await.ok();
        Ok(role)
    };
    let role: Option<String> = prepared.await.map_err(|error| crate::error::translate(error).0)?;
    let options = options.options(TIMEOUTS).options([("search_path", schema.as_str())]);
    Ok(match role {
        Some(role) => options.options([("role", role.as_str())]),
        None => options,
    })
}

async fn create_database(options: &PgConnectOptions, service: &str) -> sqlx::Result<()> {
    let name = options.get_database().unwrap_or(service).to_owned();
    let mut admin = options.clone().database("postgres").connect().await?;
    let exists = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(&name);
    if exists.fetch_optional(&mut admin).await?.is_none() {
        let create = format!("CREATE DATABASE {}", identifier(&name));
        unless_another_was_faster(admin.execute(AssertSqlSafe(create)).await.map(|_| ()))?;
    }
    admin.close().await
}

/// Makes the role where the user may, and returns it where the user may act as it.
async fn create_role(admin: &mut PgConnection, role: &str) -> sqlx::Result<Option<String>> {
    const MAY: &str = "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user";
    const MEMBER: &str = "SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = $1";
    let (may,): (bool,) = sqlx::query_as(MAY).fetch_one(&mut *admin).await?;
    let mut member = sqlx::query_as::<_, (bool,)>(MEMBER).bind(role).fetch_optional(&mut *admin).await?;
    if may && member.is_none() {
        let create = format!("CREATE ROLE {} NOLOGIN", identifier(role));
        unless_another_was_faster(admin.execute(AssertSqlSafe(create)).await.map(|_| ()))?;
        member = sqlx::query_as(MEMBER).bind(role).fetch_optional(&mut *admin).await?;
    }
    if may && member == Some((false,)) {
        let grant = format!("GRANT {} TO CURRENT_USER", identifier(role));
        unless_another_was_faster(admin.execute(AssertSqlSafe(grant)).await.map(|_| ()))?;
        member = sqlx::query_as(MEMBER).bind(role).fetch_optional(&mut *admin).await?;
    }
    Ok((member == Some((true,))).then(|| role.to_owned()))
}

/// Makes the schema, owned by the role. A schema that somebody else owns is used as the user of the URL.
async fn create_schema(admin: &mut PgConnection, schema: &str, role: Option<String>) -> sqlx::Result<Option<String>> {
    const OWNER: &str = "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $1";
    let owner = sqlx::query_as::<_, (String,)>(OWNER).bind(schema).fetch_optional(&mut *admin).await?;
    if let Some((owner,)) = owner {
        return Ok(role.filter(|role| *role == owner));
    }
    let authorization = role.as_deref().map(|role| format!(" AUTHORIZATION {}", identifier(role)));
    let create = format!("CREATE SCHEMA {}{}", identifier(schema), authorization.unwrap_or_default());
    admin.execute(AssertSqlSafe(create)).await?;
    Ok(role)
}

/// Puts every table with a `tenant` column under row-level security: a transaction for a tenant sees its rows only, one
/// that names no tenant sees none. The log stays open, because a reader must see that nothing is missing; its readers
/// are kept to their scope by `watch`.
pub(crate) async fn protect_tenants(tx: &mut PgConnection) -> sqlx::Result<()> {
    const OPEN: &str = "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
         WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p') AND a.attname = 'tenant' \
         AND NOT a.attisdropped AND NOT c.relforcerowsecurity AND c.relname <> 'log' ORDER BY 1";
    for (table,) in sqlx::query_as::<_, (String,)>(OPEN).fetch_all(&mut *tx).await? {
        let table = identifier(&table);
        let policy = format!(
            "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} FORCE ROW LEVEL SECURITY; \
             CREATE POLICY tenant ON {table} USING (current_setting('{TENANT_SETTING}', true) IN ('{EVERY_TENANT}', tenant))"
        );
        tx.execute(sqlx::raw_sql(AssertSqlSafe(policy))).await?;
    }
    Ok(())
}

/// Roles and databases belong to the whole server, which has no lock for making them.
fn unless_another_was_faster(done: sqlx::Result<()>) -> sqlx::Result<()> {
    match done {
        Err(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("42P04" | "42710" | "23505" | "XX000")) =>
        {
            Ok(())
        }
        done => done,
    }
}

pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
