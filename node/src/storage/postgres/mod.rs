//! Storage in PostgreSQL (13 or newer), over [`super::sql`]. Opened by [`super::open`].
//!
//! Many rows are one statement with an array for each column, so its text is the same for any number of them and is prepared once. TLS is
//! as the URL asks for it (`sslmode`, `sslrootcert`, …), by rustls; without `sslmode` there is none.
//! * `schema` the tables

mod schema;

use std::ops::Range;
use std::str::FromStr;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgDatabaseError, PgRow, PgSslMode};
use sqlx::query::Query;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Error, PgConnection, Postgres as Driver, Row,
};

use super::sql::driver::{self, Bulk, BulkRead, Column, Found, Value};
use super::sql::{Server, ServerConfig};
use super::{Storage, StorageError, Trouble};

/// What is different in PostgreSQL.
pub(super) struct Postgres;

/// Opens a database and brings it to this version's tables.
///
/// # Errors
/// It cannot be reached, or not be brought there.
pub async fn open(config: ServerConfig) -> Result<Box<dyn Storage>, StorageError> {
    let opened = try_open(&config).await;
    opened.map_err(|cause| StorageError::Open { name: config.name, cause: cause.into() })
}

async fn try_open(config: &ServerConfig) -> Result<Box<dyn Storage>, Error> {
    let options = options(config)?;
    let mut conn = options.connect().await?;
    schema::migrate(&mut conn).await?;
    conn.close().await?;
    Ok(Box::new(Server::<Postgres>::new(config, options)))
}

/// Makes a database on the server unless it is there. False: it is.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub async fn create(url: &str, database: &str) -> Result<bool, Error> {
    let options = base(url)?;
    // By default there is one of that name in every server.
    let mut conn = options.database("postgres").connect().await?;
    let there = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1").bind(database);
    let is_there = there.fetch_optional(&mut conn).await?.is_some();
    if !is_there {
        let quoted = database.replace('"', "\"\"");
        let sql = format!(
            "CREATE DATABASE \"{quoted}\" ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        );
        // The name is quoted.
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await?;
    }
    conn.close().await?;
    Ok(!is_there)
}

fn base(url: &str) -> Result<PgConnectOptions, Error> {
    let options = PgConnectOptions::from_str(url)?;
    let asks = url.split_once('?').is_some_and(|(_, asked)| asked.contains("ssl"));
    let options = if asks { options } else { options.ssl_mode(PgSslMode::Disable) };
    Ok(options.application_name("pangaea").disable_statement_logging())
}

fn options(config: &ServerConfig) -> Result<PgConnectOptions, Error> {
    let timeout = config.timeout.as_millis().to_string();
    // With it commits wait for what the server is configured to wait for.
    let no_sync = (!config.sync).then_some(("synchronous_commit", "off"));
    // The server gives up what we have given up.
    let times = [
        ("statement_timeout", timeout.as_str()),
        ("idle_in_transaction_session_timeout", timeout.as_str()),
    ];
    Ok(base(&config.url)?.options(times.into_iter().chain(no_sync)))
}

type Asked<'q> = Query<'q, Driver, PgArguments>;

/// `?` as `$1`, `$2`, …
fn numbered(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len() + 8);
    for (at, part) in sql.split('?').enumerate() {
        if at > 0 {
            out.push('$');
            out.push_str(&at.to_string());
        }
        out.push_str(part);
    }
    out
}

fn bound<'q>(sql: &'static str, values: &[Value<'_>]) -> Asked<'q> {
    // Our own text.
    let mut query = sqlx::query(AssertSqlSafe(numbered(sql)));
    for value in values {
        query = match value {
            Value::Int(number) => query.bind(*number),
            Value::Text(text) => query.bind(*text),
            Value::Bytes(bytes) => query.bind(*bytes),
        };
    }
    query
}

fn bound_columns<'q>(sql: &'static str, columns: &[Column<'_>], rows: Range<usize>) -> Asked<'q> {
    let mut query = sqlx::query(sql);
    for column in columns {
        let rows = rows.clone();
        query = match column {
            Column::Ints(numbers) => query.bind(&numbers[rows]),
            Column::Texts(texts) => query.bind(&texts[rows]),
            Column::Bytes(bytes) => query.bind(&bytes[rows]),
            Column::Maybe(bytes) => query.bind(&bytes[rows]),
        };
    }
    query
}

const fn bulk(bulk: Bulk) -> &'static str {
    match bulk {
        Bulk::PutValues => {
            "INSERT INTO kv (store, owner, name, whole_name, value) \
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[]) \
             ON CONFLICT (store, owner, name) DO UPDATE SET value = EXCLUDED.value"
        }
        Bulk::PutItems => {
            "INSERT INTO archive (store, owner, id, value) \
             SELECT * FROM UNNEST($1::text[], $2::text[], $3::bigint[], $4::bytea[]) \
             ON CONFLICT (store, owner, id) DO UPDATE SET value = EXCLUDED.value"
        }
        Bulk::PutLog => {
            "INSERT INTO durable_log (seq, shard, epoch, entry) \
             SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[])"
        }
        Bulk::DeleteValues => {
            "DELETE FROM kv USING UNNEST($1::text[], $2::text[], $3::bytea[]) AS q (s, o, n) \
             WHERE store = q.s AND owner = q.o AND name = q.n"
        }
        Bulk::DeleteItems => {
            "DELETE FROM archive USING UNNEST($1::text[], $2::text[], $3::bigint[]) AS q (s, o, i) \
             WHERE store = q.s AND owner = q.o AND id = q.i"
        }
        Bulk::ClearValues => {
            "DELETE FROM kv USING UNNEST($1::text[], $2::text[]) AS q (s, o) \
             WHERE store = q.s AND owner = q.o"
        }
        Bulk::TrimItems => {
            "DELETE FROM archive USING UNNEST($1::text[], $2::text[], $3::bigint[]) AS q (s, o, i) \
             WHERE store = q.s AND owner = q.o AND id <= q.i"
        }
        Bulk::PutOutbox => {
            "INSERT INTO outbox (node, place, line) \
             SELECT * FROM UNNEST($1::text[], $2::bigint[], $3::bytea[]) \
             ON CONFLICT (node, place) DO UPDATE SET line = EXCLUDED.line"
        }
        Bulk::DeleteOutbox => {
            "DELETE FROM outbox USING UNNEST($1::text[], $2::bigint[]) AS q (n, p) \
             WHERE node = q.n AND place = q.p"
        }
    }
}

// The subqueries make it one look into the index for each of those asked for, whatever the planner thinks of tables it knows nothing of yet.
const fn bulk_read(bulk: BulkRead) -> &'static str {
    match bulk {
        BulkRead::Values => {
            "SELECT q.i, f.value \
             FROM UNNEST($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY AS q (s, o, n, i), \
             LATERAL (SELECT value FROM kv WHERE store = q.s AND owner = q.o AND name = q.n LIMIT 1) f"
        }
        BulkRead::Maps => {
            "SELECT q.i, f.name, f.value \
             FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS q (s, o, i), \
             LATERAL (SELECT COALESCE(whole_name, name) AS name, value FROM kv \
                      WHERE store = q.s AND owner = q.o OFFSET 0) f"
        }
    }
}

impl driver::Driver for Postgres {
    type Db = Driver;

    // It is among the options of the connection.
    const GREETING: &'static [&'static str] = &[];
    const PUT_APPLIED: &'static str = "INSERT INTO applied (region, log, seq) VALUES (?, ?, ?) \
         ON CONFLICT (region) DO UPDATE SET log = EXCLUDED.log, seq = EXCLUDED.seq";
    const SHARE_TERM: &'static str = "SELECT term FROM scribe WHERE one = 1 FOR SHARE";
    const PUT_META: &'static str = "INSERT INTO meta (name, value) VALUES (?, ?) \
         ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value";

    fn options(config: &ServerConfig) -> Result<PgConnectOptions, Error> {
        options(config)
    }

    fn url(database: &config::Database) -> Option<&config::DatabaseUrl> {
        match database {
            config::Database::Postgres(url) => Some(url),
            _ => None,
        }
    }

    async fn simple(conn: &mut PgConnection, sql: &'static str) -> Result<(), Error> {
        sqlx::raw_sql(sql).execute(conn).await.map(drop)
    }

    async fn run(
        conn: &mut PgConnection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<(), Error> {
        bound(sql, values).execute(conn).await.map(drop)
    }

    async fn select(
        conn: &mut PgConnection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<PgRow>, Error> {
        bound(sql, values).fetch_all(conn).await
    }

    async fn bulk(
        conn: &mut PgConnection,
        what: Bulk,
        columns: &[Column<'_>],
        rows: Range<usize>,
    ) -> Result<(), Error> {
        bound_columns(bulk(what), columns, rows).execute(conn).await.map(drop)
    }

    async fn bulk_select(
        conn: &mut PgConnection,
        what: BulkRead,
        columns: &[Column<'_>],
    ) -> Result<Vec<Found>, Error> {
        let rows = 0..columns.first().map_or(0, Column::len);
        let cells = match what {
            BulkRead::Values => 1..2,
            BulkRead::Maps => 1..3,
        };
        let row = |row: PgRow| {
            let of: i64 = row.try_get(0)?;
            let found = cells.clone().map(|at| row.try_get(at)).collect::<Result<_, _>>()?;
            Ok((of as usize - 1, found))
        };
        let found = bound_columns(bulk_read(what), columns, rows).fetch_all(conn).await?;
        found.into_iter().map(row).collect()
    }

    fn int(row: &PgRow, at: usize) -> Result<i64, Error> {
        row.try_get(at)
    }

    fn text(row: &PgRow, at: usize) -> Result<String, Error> {
        row.try_get(at)
    }

    fn bytes(row: &PgRow, at: usize) -> Result<Option<Vec<u8>>, Error> {
        row.try_get(at)
    }

    fn trouble(error: &Error) -> Option<Trouble> {
        match error.as_database_error() {
            Some(said) => trouble(said.downcast_ref::<PgDatabaseError>().code()),
            None => driver::trouble_on_the_way(error),
        }
    }
}

/// PostgreSQL, appendix A.
fn trouble(code: &str) -> Option<Trouble> {
    Some(match code {
        "25006" => Trouble::ReadOnly,
        "53100" => Trouble::Full,
        "40001" | "40P01" => Trouble::Conflict,
        "57014" | "55P03" | "25P03" => Trouble::Slow,
        // admin_shutdown, crash_shutdown, cannot_connect_now, io_error
        "57P01" | "57P02" | "57P03" | "57P05" | "58030" => Trouble::Gone,
        _ if code.starts_with("08") => Trouble::Gone,
        _ if code.starts_with("53") => Trouble::Crowded,
        // invalid_authorization_specification, invalid_password, invalid_catalog_name: as it may be for a while after an outage.
        "28000" | "28P01" | "3D000" => Trouble::Refuses,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered() {
        assert_eq!(numbered("a = ? AND b = ?"), "a = $1 AND b = $2");
        assert_eq!(numbered("nothing"), "nothing");
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        assert_eq!(trouble("25006"), Some(Trouble::ReadOnly));
        assert_eq!(trouble("53100"), Some(Trouble::Full));
        assert_eq!(trouble("53300"), Some(Trouble::Crowded));
        assert_eq!(trouble("08006"), Some(Trouble::Gone));
        for code in ["28000", "28P01", "3D000"] {
            assert_eq!(trouble(code), Some(Trouble::Refuses), "{code}");
        }
        assert_eq!(trouble("42P01"), None);
    }

    #[test]
    fn tls_is_as_the_url_asks() {
        let mode = |url: &str| base(url).unwrap().get_ssl_mode();
        assert!(matches!(mode("postgres://u@h/d"), PgSslMode::Disable));
        let asked = mode("postgres://u@h/d?sslmode=verify-full&sslrootcert=/x");
        assert!(matches!(asked, PgSslMode::VerifyFull));
    }
}
