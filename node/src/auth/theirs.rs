//! Auth: the database of somebody else's, as `sql` asks it: a query with texts for parameters, rows of texts by the names of their columns.
//!
//! Which driver it is follows from the URL. What a column's type is does not matter: numbers are written out, yes and no are 1 and 0, bytes
//! must be UTF-8; what is neither can be in the row as long as nobody asks for it. Nothing is written: the connections are read-only.

use std::collections::HashMap;
use std::str::FromStr;

use config::Bounds;
use futures_util::FutureExt;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions, MySqlRow, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{AssertSqlSafe, Column, ConnectOptions, Executor, Row, TypeInfo, ValueRef};

/// A pool; nothing is opened before the first question.
pub(super) enum Theirs {
    /// A file.
    Sqlite(SqlitePool),
    /// PostgreSQL.
    Postgres(PgPool),
    /// MySQL, MariaDB.
    MySql(MySqlPool),
}

/// A row: each column's text, NULL as none; an error where it has no text.
#[derive(Debug, Default)]
pub(super) struct Columns(HashMap<String, Result<Option<String>, String>>);

impl Columns {
    /// A column that must be there; what is empty counts as NULL.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, String> {
        match self.0.get(name) {
            None => Err(format!("column {name}: there is none")),
            Some(Err(error)) => Err(format!("column {name}: {error}")),
            Some(Ok(text)) => Ok(text.as_deref().filter(|text| !text.is_empty())),
        }
    }

    /// A column that says yes: there, not NULL, not zero, not false.
    pub(super) fn flag(&self, name: &str) -> bool {
        let Some(Ok(Some(text))) = self.0.get(name) else { return false };
        // Of a column of fixed width it is padded.
        let text = text.trim().to_lowercase();
        !matches!(text.as_str(), "" | "0" | "f" | "false" | "n" | "no" | "off")
    }
}

impl Theirs {
    /// Of that URL.
    ///
    /// # Errors
    /// In words: it cannot be used.
    pub(super) fn new(url: &str, bounds: &Bounds) -> Result<Theirs, String> {
        let connections = u32::try_from(bounds.at_once_max).unwrap_or(u32::MAX);
        let asks_tls = url.split_once('?').is_some_and(|(_, asked)| asked.contains("ssl"));
        let wrong = |error: sqlx::Error| error.to_string();
        Ok(match url.split(':').next() {
            Some("postgres" | "postgresql") => {
                let options = PgConnectOptions::from_str(url).map_err(wrong)?;
                let options = if asks_tls { options } else { options.ssl_mode(PgSslMode::Disable) };
                let options = options.options([("default_transaction_read_only", "on")]);
                let pool = PgPoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(bounds.timeout);
                Theirs::Postgres(pool.connect_lazy_with(options.disable_statement_logging()))
            }
            Some("mysql" | "mariadb") => {
                let options = MySqlConnectOptions::from_str(url).map_err(wrong)?;
                let options =
                    if asks_tls { options } else { options.ssl_mode(MySqlSslMode::Disabled) };
                let pool = MySqlPoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(bounds.timeout)
                    .after_connect(|conn, _| {
                        let set = conn.execute("SET SESSION TRANSACTION READ ONLY");
                        set.map(|done| done.map(drop)).boxed()
                    });
                Theirs::MySql(pool.connect_lazy_with(options.disable_statement_logging()))
            }
            _ => {
                let options = SqliteConnectOptions::from_str(url).map_err(wrong)?;
                let pool = SqlitePoolOptions::new()
                    .max_connections(connections)
                    .acquire_timeout(bounds.timeout);
                let options = options.read_only(true).create_if_missing(false);
                Theirs::Sqlite(pool.connect_lazy_with(options))
            }
        })
    }

    /// How the `number`th parameter is written, from 1.
    pub(super) fn parameter(&self, number: usize) -> String {
        match self {
            Theirs::Sqlite(_) | Theirs::MySql(_) => "?".to_owned(),
            Theirs::Postgres(_) => format!("${number}"),
        }
    }

    /// Asks.
    ///
    /// # Errors
    /// In words, for the log.
    pub(super) async fn rows(
        &self,
        query: &str,
        values: Vec<String>,
    ) -> Result<Vec<Columns>, String> {
        let wrong = |error: sqlx::Error| error.to_string();
        // Written by the operator.
        let text = AssertSqlSafe(query.to_owned());
        match self {
            Theirs::Sqlite(pool) => {
                let query = values.into_iter().fold(sqlx::query(text), |q, value| q.bind(value));
                let rows = query.fetch_all(pool).await.map_err(wrong)?;
                Ok(rows.iter().map(|row| columns(row, of_sqlite)).collect())
            }
            Theirs::Postgres(pool) => {
                let query = values.into_iter().fold(sqlx::query(text), |q, value| q.bind(value));
                let rows = query.fetch_all(pool).await.map_err(wrong)?;
                Ok(rows.iter().map(|row| columns(row, of_postgres)).collect())
            }
            Theirs::MySql(pool) => {
                let query = values.into_iter().fold(sqlx::query(text), |q, value| q.bind(value));
                let rows = query.fetch_all(pool).await.map_err(wrong)?;
                Ok(rows.iter().map(|row| columns(row, of_mysql)).collect())
            }
        }
    }
}

/// What a column says that is not NULL; its type by name.
type Reader<R> = fn(&R, usize, &str) -> Result<String, sqlx::Error>;

fn columns<R: Row>(row: &R, reader: Reader<R>) -> Columns
where
    usize: sqlx::ColumnIndex<R>,
{
    let column = |column: &<R::Database as sqlx::Database>::Column| {
        let at = column.ordinal();
        let text = row.try_get_raw(at).and_then(|value| {
            let of = value.type_info().name().to_owned();
            if value.is_null() { Ok(None) } else { reader(row, at, &of).map(Some) }
        });
        (column.name().to_owned(), text.map_err(|error| error.to_string()))
    };
    Columns(row.columns().iter().map(column).collect())
}

fn utf8(bytes: Vec<u8>) -> Result<String, sqlx::Error> {
    String::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn of_sqlite(row: &SqliteRow, at: usize, of: &str) -> Result<String, sqlx::Error> {
    match of {
        "INTEGER" | "BOOLEAN" => row.try_get_unchecked::<i64, _>(at).map(|n| n.to_string()),
        "REAL" => row.try_get_unchecked::<f64, _>(at).map(|n| n.to_string()),
        _ => utf8(row.try_get_unchecked(at)?),
    }
}

fn of_postgres(row: &PgRow, at: usize, of: &str) -> Result<String, sqlx::Error> {
    match of {
        "BOOL" => row.try_get::<bool, _>(at).map(|yes| u8::from(yes).to_string()),
        "INT2" => row.try_get::<i16, _>(at).map(|n| n.to_string()),
        "INT4" => row.try_get::<i32, _>(at).map(|n| n.to_string()),
        "INT8" => row.try_get::<i64, _>(at).map(|n| n.to_string()),
        "FLOAT4" => row.try_get::<f32, _>(at).map(|n| n.to_string()),
        "FLOAT8" => row.try_get::<f64, _>(at).map(|n| n.to_string()),
        // Texts of all kinds, also those of extensions, and enumerations, are sent as UTF-8.
        _ => utf8(row.try_get_unchecked(at)?),
    }
}

fn of_mysql(row: &MySqlRow, at: usize, of: &str) -> Result<String, sqlx::Error> {
    match of {
        "FLOAT" => row.try_get_unchecked::<f32, _>(at).map(|n| n.to_string()),
        "DOUBLE" => row.try_get_unchecked::<f64, _>(at).map(|n| n.to_string()),
        _ if of.ends_with("UNSIGNED") => row.try_get_unchecked::<u64, _>(at).map(|n| n.to_string()),
        "BIT" => row.try_get_unchecked::<u64, _>(at).map(|n| n.to_string()),
        "BOOLEAN" | "TINYINT" | "SMALLINT" | "MEDIUMINT" | "INT" | "BIGINT" | "YEAR" => {
            row.try_get_unchecked::<i64, _>(at).map(|n| n.to_string())
        }
        _ => utf8(row.try_get_unchecked(at)?),
    }
}
