//! Values that go into a statement and come out of a row, the same for both engines.

use bytes::Bytes;
use sensormesh_types::{Error, Result};
use sqlx::{Row as _, TypeInfo as _, ValueRef as _};

/// The kind of a column: what an absent value must be declared as on PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `$int`
    Int,
    /// `$real`
    Real,
    /// `$text`
    Text,
    /// `$bytes`
    Bytes,
}

/// A parameter of a statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value, in a column of this kind.
    Null(Kind),
    /// A whole number.
    Int(i64),
    /// A floating-point number. SQLite keeps NaN as NULL.
    Real(f64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// What can be a parameter.
pub trait Bind {
    /// The kind of column it goes into.
    const KIND: Kind;

    /// The parameter.
    fn into_value(self) -> Value;
}

macro_rules! bind {
    ($($type:ty, $kind:ident, $self:ident => $value:expr;)*) => {$(
        impl Bind for $type {
            const KIND: Kind = Kind::$kind;

            fn into_value($self) -> Value {
                Value::$kind($value)
            }
        }
    )*};
}

bind! {
    i64, Int, self => self;
    &i64, Int, self => *self;
    i32, Int, self => i64::from(self);
    u32, Int, self => i64::from(self);
    u16, Int, self => i64::from(self);
    bool, Int, self => i64::from(self);
    f64, Real, self => self;
    &f64, Real, self => *self;
    &str, Text, self => self.to_owned();
    String, Text, self => self;
    &String, Text, self => self.clone();
    Vec<u8>, Bytes, self => self;
    &Vec<u8>, Bytes, self => self.clone();
    &[u8], Bytes, self => self.to_vec();
    Bytes, Bytes, self => Vec::from(self);
    &Bytes, Bytes, self => self.to_vec();
}

impl<const N: usize> Bind for [u8; N] {
    const KIND: Kind = Kind::Bytes;

    fn into_value(self) -> Value {
        Value::Bytes(self.to_vec())
    }
}

impl<const N: usize> Bind for &[u8; N] {
    const KIND: Kind = Kind::Bytes;

    fn into_value(self) -> Value {
        Value::Bytes(self.to_vec())
    }
}

impl<T: Bind> Bind for Option<T> {
    const KIND: Kind = T::KIND;

    fn into_value(self) -> Value {
        self.map_or(Value::Null(T::KIND), T::into_value)
    }
}

/// A row that a statement returned.
pub struct Row(pub(crate) EngineRow);

pub(crate) enum EngineRow {
    Sqlite(sqlx::sqlite::SqliteRow),
    Postgres(sqlx::postgres::PgRow),
}

impl Row {
    /// The value of a column by its name: `i64`, `u64`, `u32`, `bool`, `f64`, `String`, `Vec<u8>`, or an `Option` of one.
    ///
    /// PostgreSQL adds whole numbers up as `numeric`; write `CAST(SUM(n) AS BIGINT)`.
    pub fn get<T: FromColumn>(&self, column: &str) -> Result<T> {
        T::from_cell(self.cell(column)?, column)
    }

    fn cell(&self, column: &str) -> Result<Cell> {
        match &self.0 {
            EngineRow::Sqlite(row) => sqlite_cell(row, column),
            EngineRow::Postgres(row) => postgres_cell(row, column),
        }
    }

    /// The names of the columns, in order.
    pub fn columns(&self) -> Vec<&str> {
        match &self.0 {
            EngineRow::Sqlite(row) => row.columns().iter().map(sqlx::Column::name).collect(),
            EngineRow::Postgres(row) => row.columns().iter().map(sqlx::Column::name).collect(),
        }
    }
}

impl std::fmt::Debug for Row {
    /// The names only: what is in them may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Row").field(&self.columns()).finish()
    }
}

/// A value of a row before it is asked for as a type.
#[doc(hidden)]
#[derive(Debug)]
pub enum Cell {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Bytes(Vec<u8>),
}

fn sqlite_cell(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<Cell> {
    let raw = row.try_get_raw(column).map_err(|error| unreadable(column, error))?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let kind = raw.type_info();
    let cell = match kind.name() {
        "INTEGER" | "BOOLEAN" => row.try_get_unchecked::<i64, _>(column).map(Cell::Int),
        "REAL" => row.try_get_unchecked::<f64, _>(column).map(Cell::Real),
        "TEXT" => row.try_get_unchecked::<String, _>(column).map(Cell::Text),
        "BLOB" => row.try_get_unchecked::<Vec<u8>, _>(column).map(Cell::Bytes),
        other => return Err(unreadable(column, format!("columns of type {other} are not used"))),
    };
    cell.map_err(|error| unreadable(column, error))
}

fn postgres_cell(row: &sqlx::postgres::PgRow, column: &str) -> Result<Cell> {
    let raw = row.try_get_raw(column).map_err(|error| unreadable(column, error))?;
    if raw.is_null() {
        return Ok(Cell::Null);
    }
    let kind = raw.type_info();
    let cell = match kind.name() {
        "INT8" => row.try_get::<i64, _>(column).map(Cell::Int),
        "INT4" => row.try_get::<i32, _>(column).map(|n| Cell::Int(n.into())),
        "INT2" => row.try_get::<i16, _>(column).map(|n| Cell::Int(n.into())),
        "BOOL" => row.try_get::<bool, _>(column).map(|b| Cell::Int(b.into())),
        "FLOAT8" => row.try_get::<f64, _>(column).map(Cell::Real),
        "FLOAT4" => row.try_get::<f32, _>(column).map(|x| Cell::Real(x.into())),
        "TEXT" | "VARCHAR" | "NAME" | "UNKNOWN" => row.try_get_unchecked::<String, _>(column).map(Cell::Text),
        "BYTEA" => row.try_get::<Vec<u8>, _>(column).map(Cell::Bytes),
        "NUMERIC" => return Err(unreadable(column, "it is numeric: write CAST(… AS BIGINT)")),
        other => return Err(unreadable(column, format!("columns of type {other} are not used"))),
    };
    cell.map_err(|error| unreadable(column, error))
}

fn unreadable(column: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::internal(format!("column {column:?} could not be read: {}", why.into()))
}

/// What a column can be read as.
pub trait FromColumn: Sized {
    /// Reads it; `column` is for the message.
    #[doc(hidden)]
    fn from_cell(cell: Cell, column: &str) -> Result<Self>;
}

fn mismatch<T>(cell: &Cell, column: &str) -> Error {
    let found = match cell {
        Cell::Null => "null",
        Cell::Int(_) => "a whole number",
        Cell::Real(_) => "a real number",
        Cell::Text(_) => "text",
        Cell::Bytes(_) => "bytes",
    };
    unreadable(column, format!("it is {found}, not {}", std::any::type_name::<T>()))
}

impl FromColumn for i64 {
    fn from_cell(cell: Cell, column: &str) -> Result<Self> {
        match cell {
            Cell::Int(value) => Ok(value),
            other => Err(mismatch::<Self>(&other, column)),
        }
    }
}

macro_rules! whole {
    ($($type:ty),*) => {$(
        impl FromColumn for $type {
            fn from_cell(cell: Cell, column: &str) -> Result<Self> {
                let value = i64::from_cell(cell, column)?;
                <$type>::try_from(value).map_err(|error| unreadable(column, error))
            }
        }
    )*};
}

whole!(u64, u32, i32, u16, usize);

impl FromColumn for bool {
    fn from_cell(cell: Cell, column: &str) -> Result<Self> {
        Ok(i64::from_cell(cell, column)? != 0)
    }
}

impl FromColumn for f64 {
    #[allow(clippy::cast_precision_loss)] // an integer literal in an expression, never a counter
    fn from_cell(cell: Cell, column: &str) -> Result<Self> {
        match cell {
            Cell::Real(value) => Ok(value),
            Cell::Int(value) => Ok(value as f64),
            other => Err(mismatch::<Self>(&other, column)),
        }
    }
}

impl FromColumn for String {
    fn from_cell(cell: Cell, column: &str) -> Result<Self> {
        match cell {
            Cell::Text(value) => Ok(value),
            other => Err(mismatch::<Self>(&other, column)),
        }
    }
}

impl FromColumn for Vec<u8> {
    fn from_cell(cell: Cell, column: &str) -> Result<Self> {
        match cell {
            Cell::Bytes(value) => Ok(value),
            other => Err(mismatch::<Self>(&other, column)),
        }
    }
}

impl FromColumn for Bytes {
    fn from_cell(cell: Cell, column: &str) -> Result<Self> {
        Vec::from_cell(cell, column).map(Bytes::from)
    }
}

impl<T: FromColumn> FromColumn for Option<T> {
    fn from_cell(cell: Cell, column: &str) -> Result<Self> {
        match cell {
            Cell::Null => Ok(None),
            cell => T::from_cell(cell, column).map(Some),
        }
    }
}
