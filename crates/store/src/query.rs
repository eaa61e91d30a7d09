//! One statement with its parameters, run on whichever engine the transaction is on.

use std::borrow::Cow;

use sensormesh_types::{Error, Result};
use sqlx::query::Query as SqlxQuery;
use sqlx::{AssertSqlSafe, Postgres, Sqlite};

use crate::value::{Bind, EngineRow, Kind, Row, Value};
use crate::{Read, Session};

/// A statement being given its parameters.
#[must_use = "a statement does nothing until it is run"]
pub struct Query<'q> {
    read: &'q mut Read,
    sql: Cow<'static, str>,
    values: Vec<Value>,
}

impl<'q> Query<'q> {
    pub(crate) fn new(read: &'q mut Read, sql: Cow<'static, str>) -> Self {
        Self { read, sql, values: Vec::new() }
    }

    /// The next parameter: the first call is `$1`.
    pub fn bind(mut self, value: impl Bind) -> Self {
        self.values.push(value.into_value());
        self
    }

    /// Several parameters in order, for a list of placeholders (`store::placeholders`).
    pub fn bind_all<T: Bind>(mut self, values: impl IntoIterator<Item = T>) -> Self {
        self.values.extend(values.into_iter().map(T::into_value));
        self
    }

    /// Runs it and says how many rows it changed.
    pub async fn execute(self) -> Result<u64> {
        let Self { read, sql, values } = self;
        let done = match read.session()? {
            Session::Sqlite(tx) => sqlite(sql, values).execute(&mut **tx).await.map(|done| done.rows_affected()),
            Session::Postgres(tx) => postgres(sql, values).execute(&mut **tx).await.map(|done| done.rows_affected()),
        };
        done.map_err(|error| read.fail(error))
    }

    /// Runs it and returns every row.
    pub async fn fetch_all(self) -> Result<Vec<Row>> {
        let Self { read, sql, values } = self;
        let rows = match read.session()? {
            Session::Sqlite(tx) => sqlite(sql, values)
                .fetch_all(&mut **tx)
                .await
                .map(|rows| rows.into_iter().map(|row| Row(EngineRow::Sqlite(row))).collect()),
            Session::Postgres(tx) => postgres(sql, values)
                .fetch_all(&mut **tx)
                .await
                .map(|rows| rows.into_iter().map(|row| Row(EngineRow::Postgres(row))).collect()),
        };
        rows.map_err(|error| read.fail(error))
    }

    /// Runs it and returns the first row, if there is one.
    pub async fn fetch_optional(self) -> Result<Option<Row>> {
        let Self { read, sql, values } = self;
        let row = match read.session()? {
            Session::Sqlite(tx) => {
                sqlite(sql, values).fetch_optional(&mut **tx).await.map(|row| row.map(EngineRow::Sqlite))
            }
            Session::Postgres(tx) => {
                postgres(sql, values).fetch_optional(&mut **tx).await.map(|row| row.map(EngineRow::Postgres))
            }
        };
        row.map(|row| row.map(Row)).map_err(|error| read.fail(error))
    }

    /// Runs it and returns its one row; no row is a bug of ours (an aggregate, `RETURNING`).
    pub async fn fetch_one(self) -> Result<Row> {
        self.fetch_optional().await?.ok_or_else(|| Error::internal("a statement that returns a row returned none"))
    }
}

fn sqlite(sql: Cow<'static, str>, values: Vec<Value>) -> SqlxQuery<'static, Sqlite, sqlx::sqlite::SqliteArguments> {
    let mut query = match sql {
        Cow::Borrowed(text) => sqlx::query(text),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)),
    };
    for value in values {
        query = match value {
            Value::Null(_) => query.bind(None::<i64>),
            Value::Int(value) => query.bind(value),
            Value::Real(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
        };
    }
    query
}

fn postgres(sql: Cow<'static, str>, values: Vec<Value>) -> SqlxQuery<'static, Postgres, sqlx::postgres::PgArguments> {
    let mut query = match sql {
        Cow::Borrowed(text) => sqlx::query(text),
        Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)),
    };
    for value in values {
        query = match value {
            Value::Null(Kind::Int) => query.bind(None::<i64>),
            Value::Null(Kind::Real) => query.bind(None::<f64>),
            Value::Null(Kind::Text) => query.bind(None::<String>),
            Value::Null(Kind::Bytes) => query.bind(None::<Vec<u8>>),
            Value::Int(value) => query.bind(value),
            Value::Real(value) => query.bind(value),
            Value::Text(value) => query.bind(value),
            Value::Bytes(value) => query.bind(value),
        };
    }
    query
}

/// `$3, $4, $5` for `count` parameters from number `first` on, for `IN (…)` and `VALUES (…)`.
///
/// ```
/// assert_eq!(sensormesh_store::placeholders(3, 2), "$3, $4");
/// ```
pub fn placeholders(first: usize, count: usize) -> String {
    (first..first + count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}
