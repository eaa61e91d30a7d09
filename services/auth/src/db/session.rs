//! Sessions and refresh tokens.

use sensormesh_store::{Read, Row, Tx};
use sensormesh_types::Result;

use crate::session::{Asker, MOST_SESSIONS, Session};

macro_rules! columns {
    () => {
        "tenant, session_id, user_id, client, user_agent, address, create_time, use_time, expire_time"
    };
}

fn read_session(row: &Row) -> Result<Session> {
    Ok(Session {
        tenant: row.get("tenant")?,
        session_id: row.get("session_id")?,
        user_id: row.get("user_id")?,
        client: row.get("client")?,
        asker: Asker {
            address: Some(row.get::<String>("address")?).filter(|address| !address.is_empty()),
            user_agent: row.get("user_agent")?,
        },
        create_time: row.get("create_time")?,
        use_time: row.get("use_time")?,
        expire_time: row.get("expire_time")?,
    })
}

/// Adds a session with its first refresh token. The sessions of the user that were unused for longest give way.
pub async fn insert(tx: &mut Tx, session: &Session, token_hash: [u8; 32]) -> Result<()> {
    let excess = "SELECT session_id FROM session WHERE tenant = $1 AND user_id = $2 \
                  ORDER BY use_time DESC, session_id DESC LIMIT 1000 OFFSET $3";
    let rows =
        tx.query(excess).bind(&session.tenant).bind(&session.user_id).bind(MOST_SESSIONS - 1).fetch_all().await?;
    for row in rows {
        delete(tx, &session.tenant, &row.get::<String>("session_id")?).await?;
    }
    tx.query(concat!("INSERT INTO session (", columns!(), ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"))
        .bind(&session.tenant)
        .bind(&session.session_id)
        .bind(&session.user_id)
        .bind(&session.client)
        .bind(&session.asker.user_agent)
        .bind(session.asker.address.as_deref().unwrap_or_default())
        .bind(session.create_time)
        .bind(session.use_time)
        .bind(session.expire_time)
        .execute()
        .await?;
    insert_token(tx, session, token_hash).await
}

/// Gives a session its next refresh token.
pub async fn insert_token(tx: &mut Tx, session: &Session, token_hash: [u8; 32]) -> Result<()> {
    tx.query("INSERT INTO refresh_token (tenant, token_hash, session_id, use_time) VALUES ($1, $2, $3, $4)")
        .bind(&session.tenant)
        .bind(token_hash)
        .bind(&session.session_id)
        .bind(None::<i64>)
        .execute()
        .await?;
    Ok(())
}

/// What a presented refresh token is.
#[derive(Debug)]
pub enum Presented {
    /// It was good, and is used up now.
    Good(Session),
    /// It was used before: somebody else has it too.
    Reused(Session),
    /// There is no such token, or its session has ended.
    Unknown,
}

/// Uses up a refresh token. Of several at once, one is good. The session is locked before its tokens, as whoever ends it
/// does, so that nobody waits for the other.
pub async fn take_token(tx: &mut Tx, token_hash: [u8; 32], now: i64) -> Result<Presented> {
    let query = tx.query("SELECT tenant, session_id FROM refresh_token WHERE token_hash = $1").bind(token_hash);
    let Some(token) = query.fetch_optional().await? else { return Ok(Presented::Unknown) };
    let (tenant, session_id): (String, String) = (token.get("tenant")?, token.get("session_id")?);
    let locked = tx
        .query(concat!(
            "UPDATE session SET use_time = $1 WHERE tenant = $2 AND session_id = $3 AND expire_time > $1 RETURNING ",
            columns!()
        ))
        .bind(now)
        .bind(&tenant)
        .bind(&session_id)
        .fetch_optional()
        .await?;
    let Some(session) = locked.as_ref().map(read_session).transpose()? else { return Ok(Presented::Unknown) };
    let used = tx
        .query("UPDATE refresh_token SET use_time = $1 WHERE tenant = $2 AND token_hash = $3 AND use_time IS NULL")
        .bind(now)
        .bind(&tenant)
        .bind(token_hash)
        .execute()
        .await?;
    Ok(if used == 1 { Presented::Good(session) } else { Presented::Reused(session) })
}

/// Moves a session's end, and notes from where it is used.
pub async fn extend(tx: &mut Tx, session: &Session) -> Result<()> {
    tx.query(
        "UPDATE session SET expire_time = $1, user_agent = $2, address = $3 WHERE tenant = $4 AND session_id = $5",
    )
    .bind(session.expire_time)
    .bind(&session.asker.user_agent)
    .bind(session.asker.address.as_deref().unwrap_or_default())
    .bind(&session.tenant)
    .bind(&session.session_id)
    .execute()
    .await?;
    Ok(())
}

/// Ends a session; false where there is none. The session goes first: a refresh that holds it has then committed, and
/// the token it added is seen.
pub async fn delete(tx: &mut Tx, tenant: &str, session_id: &str) -> Result<bool> {
    let query = tx.query("DELETE FROM session WHERE tenant = $1 AND session_id = $2").bind(tenant).bind(session_id);
    let ended = query.execute().await? == 1;
    delete_tokens(tx, tenant, session_id).await?;
    Ok(ended)
}

async fn delete_tokens(tx: &mut Tx, tenant: &str, session_id: &str) -> Result<()> {
    let query = tx.query("DELETE FROM refresh_token WHERE tenant = $1 AND session_id = $2");
    query.bind(tenant).bind(session_id).execute().await?;
    Ok(())
}

/// A user's sessions, the last used first.
pub async fn list(read: &mut Read, tenant: &str, user_id: &str) -> Result<Vec<Session>> {
    let query = read.query(concat!(
        "SELECT ",
        columns!(),
        " FROM session WHERE tenant = $1 AND user_id = $2 ORDER BY use_time DESC, session_id DESC"
    ));
    let rows = query.bind(tenant).bind(user_id).fetch_all().await?;
    rows.iter().map(read_session).collect()
}

/// Whether a session is a user's.
pub async fn is_of(read: &mut Read, tenant: &str, user_id: &str, session_id: &str) -> Result<bool> {
    let query = read.query("SELECT 1 AS found FROM session WHERE tenant = $1 AND session_id = $2 AND user_id = $3");
    Ok(query.bind(tenant).bind(session_id).bind(user_id).fetch_optional().await?.is_some())
}

/// Ends every session of a user.
pub async fn delete_all(tx: &mut Tx, tenant: &str, user_id: &str) -> Result<()> {
    let query = tx.query("DELETE FROM session WHERE tenant = $1 AND user_id = $2 RETURNING session_id");
    let rows = query.bind(tenant).bind(user_id).fetch_all().await?;
    for row in rows {
        delete_tokens(tx, tenant, &row.get::<String>("session_id")?).await?;
    }
    Ok(())
}

/// Removes sessions that have expired, at most a thousand at a time, and says how many.
pub async fn delete_expired(tx: &mut Tx, now: i64) -> Result<usize> {
    let query = tx.query("SELECT tenant, session_id FROM session WHERE expire_time <= $1 LIMIT 1000");
    let rows = query.bind(now).fetch_all().await?;
    for row in &rows {
        delete(tx, &row.get::<String>("tenant")?, &row.get::<String>("session_id")?).await?;
    }
    Ok(rows.len())
}
