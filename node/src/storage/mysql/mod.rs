//! Storage in MySQL (8.0 or newer) or MariaDB (10.5 or newer), over [`super::sql`]. Opened by [`super::open`].
//!
//! Many rows are one statement with as many groups of parameters; there are few sizes of those, so few prepared statements. TLS is as the URL
//! asks for it (`ssl-mode`, `ssl-ca`, …), by rustls; without `ssl-mode` there is none. Deliberately absent: MySQL's exchange of passwords
//! under an RSA key, for connections without TLS; its accounts need TLS, or `mysql_native_password`.
//! * `schema` the tables

mod schema;

use std::collections::HashMap;
use std::ops::Range;
use std::str::FromStr;

use sqlx::mysql::{
    MySqlArguments, MySqlConnectOptions, MySqlDatabaseError, MySqlRow, MySqlSslMode,
};
use sqlx::query::Query;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Error, MySql as Driver, MySqlConnection, Row,
};

use super::sql::driver::{self, Bulk, BulkRead, Column, Found, Value};
use super::sql::{Server, ServerConfig};
use super::{Storage, StorageError, Trouble};

/// What is different in MySQL.
struct MySql;

/// Opens a database and brings it to this version's tables.
///
/// # Errors
/// It cannot be reached, or not be brought there.
pub async fn open(config: ServerConfig) -> Result<Box<dyn Storage>, StorageError> {
    let opened = try_open(&config).await;
    opened.map_err(|cause| StorageError::Open { name: config.name, cause: cause.into() })
}

async fn try_open(config: &ServerConfig) -> Result<Box<dyn Storage>, Error> {
    let options = options(&config.url)?;
    let mut conn = options.connect().await?;
    schema::migrate(&mut conn).await?;
    conn.close().await?;
    Ok(Box::new(Server::<MySql>::new(config, options)))
}

/// Makes a database on the server unless it is there. False: it is.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub async fn create(url: &str, database: &str) -> Result<bool, Error> {
    let mut conn = options(&without_database(url))?.connect().await?;
    let there = sqlx::query("SELECT 1 FROM information_schema.schemata WHERE schema_name = ?");
    let is_there = there.bind(database).fetch_optional(&mut conn).await?.is_some();
    if !is_there {
        let quoted = database.replace('`', "``");
        let sql = format!("CREATE DATABASE IF NOT EXISTS `{quoted}` CHARACTER SET utf8mb4");
        // The name is quoted.
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await?;
    }
    conn.close().await?;
    Ok(!is_there)
}

/// The URL without its path.
fn without_database(url: &str) -> String {
    let (url, asked) = url.split_once('?').map_or((url, None), |(url, asked)| (url, Some(asked)));
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    asked.map_or_else(|| url[..end].to_owned(), |asked| format!("{}?{asked}", &url[..end]))
}

fn options(url: &str) -> Result<MySqlConnectOptions, Error> {
    let options = MySqlConnectOptions::from_str(url)?;
    let asks = url.split_once('?').is_some_and(|(_, asked)| asked.contains("ssl"));
    let options = if asks { options } else { options.ssl_mode(MySqlSslMode::Disabled) };
    Ok(options.disable_statement_logging())
}

type Asked<'q> = Query<'q, Driver, MySqlArguments>;

fn bound<'q>(sql: &'static str, values: &[Value<'_>]) -> Asked<'q> {
    let mut query = sqlx::query(sql);
    for value in values {
        query = match value {
            Value::Int(number) => query.bind(*number),
            Value::Text(text) => query.bind(text.as_bytes()),
            Value::Bytes(bytes) => query.bind(*bytes),
        };
    }
    query
}

/// Groups of parameters in a statement.
const SIZES: [usize; 4] = [200, 40, 8, 1];

/// What comes before the groups, one group, what stands between them, what comes after.
const fn bulk(bulk: Bulk) -> [&'static str; 4] {
    match bulk {
        Bulk::PutValues => [
            "INSERT INTO kv (store, owner, name, whole_name, value) VALUES ",
            "(?,?,?,?,?)",
            ",",
            " ON DUPLICATE KEY UPDATE value = VALUES(value)",
        ],
        Bulk::PutItems => [
            "INSERT INTO archive (store, owner, id, value) VALUES ",
            "(?,?,?,?)",
            ",",
            " ON DUPLICATE KEY UPDATE value = VALUES(value)",
        ],
        Bulk::PutLog => {
            ["INSERT INTO durable_log (seq, shard, epoch, entry) VALUES ", "(?,?,?,?)", ",", ""]
        }
        Bulk::DeleteValues => {
            ["DELETE FROM kv WHERE (store, owner, name) IN (", "(?,?,?)", ",", ")"]
        }
        Bulk::DeleteItems => {
            ["DELETE FROM archive WHERE (store, owner, id) IN (", "(?,?,?)", ",", ")"]
        }
        Bulk::ClearValues => ["DELETE FROM kv WHERE (store, owner) IN (", "(?,?)", ",", ")"],
        Bulk::TrimItems => {
            ["DELETE FROM archive WHERE ", "(store = ? AND owner = ? AND id <= ?)", " OR ", ""]
        }
        Bulk::PutOutbox => [
            "INSERT INTO outbox (node, place, line) VALUES ",
            "(?,?,?)",
            ",",
            " ON DUPLICATE KEY UPDATE line = VALUES(line)",
        ],
        Bulk::DeleteOutbox => ["DELETE FROM outbox WHERE (node, place) IN (", "(?,?)", ",", ")"],
    }
}

const fn bulk_read(bulk: BulkRead) -> [&'static str; 4] {
    match bulk {
        BulkRead::Values => [
            "SELECT store, owner, name, value FROM kv WHERE (store, owner, name) IN (",
            "(?,?,?)",
            ",",
            ")",
        ],
        BulkRead::Maps => [
            "SELECT store, owner, COALESCE(whole_name, name), value FROM kv WHERE (store, owner) IN (",
            "(?,?)",
            ",",
            ")",
        ],
    }
}

/// The statement for so many groups, with their parameters.
fn asked<'q>(text: [&str; 4], columns: &[Column<'_>], rows: Range<usize>) -> Asked<'q> {
    let [head, group, between, tail] = text;
    let groups = vec![group; rows.len()].join(between);
    // Our own text.
    let mut query = sqlx::query(AssertSqlSafe(format!("{head}{groups}{tail}")));
    for row in rows {
        for column in columns {
            query = match column {
                Column::Ints(numbers) => query.bind(numbers[row]),
                Column::Texts(texts) => query.bind(texts[row].as_bytes()),
                Column::Bytes(bytes) => query.bind(bytes[row]),
                Column::Maybe(bytes) => query.bind(bytes[row]),
            };
        }
    }
    query
}

/// Rows in parts of the few sizes.
fn parts(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut from = rows.start;
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rows.end - from)?;
        from += size;
        Some(from - size..from)
    })
}

impl driver::Driver for MySql {
    type Db = Driver;

    // Nothing is locked but rows that are there; nothing is cut to fit; the server notices that we are gone.
    const GREETING: &'static [&'static str] = &[
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
        "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')",
        "SET SESSION wait_timeout = 600",
    ];
    const PUT_APPLIED: &'static str = "INSERT INTO applied (region, log, seq) VALUES (?, ?, ?) \
         ON DUPLICATE KEY UPDATE log = VALUES(log), seq = VALUES(seq)";
    const SHARE_TERM: &'static str = "SELECT term FROM scribe WHERE one = 1 LOCK IN SHARE MODE";
    const PUT_META: &'static str = "INSERT INTO meta (name, value) VALUES (?, ?) \
         ON DUPLICATE KEY UPDATE value = VALUES(value)";

    fn options(config: &ServerConfig) -> Result<MySqlConnectOptions, Error> {
        options(&config.url)
    }

    fn url(database: &config::Database) -> Option<&config::DatabaseUrl> {
        match database {
            config::Database::Mysql(url) => Some(url),
            _ => None,
        }
    }

    async fn simple(conn: &mut MySqlConnection, sql: &'static str) -> Result<(), Error> {
        sqlx::raw_sql(sql).execute(conn).await.map(drop)
    }

    async fn run(
        conn: &mut MySqlConnection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<(), Error> {
        bound(sql, values).execute(conn).await.map(drop)
    }

    async fn select(
        conn: &mut MySqlConnection,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<MySqlRow>, Error> {
        bound(sql, values).fetch_all(conn).await
    }

    async fn bulk(
        conn: &mut MySqlConnection,
        what: Bulk,
        columns: &[Column<'_>],
        rows: Range<usize>,
    ) -> Result<(), Error> {
        for part in parts(rows) {
            asked(bulk(what), columns, part).execute(&mut *conn).await?;
        }
        Ok(())
    }

    async fn bulk_select(
        conn: &mut MySqlConnection,
        what: BulkRead,
        columns: &[Column<'_>],
    ) -> Result<Vec<Found>, Error> {
        let keys = match what {
            BulkRead::Values => 3,
            BulkRead::Maps => 2,
        };
        // Several may ask for the same.
        let mut askers: HashMap<Vec<&[u8]>, Vec<usize>> = HashMap::new();
        for row in 0..columns.first().map_or(0, Column::len) {
            let key = columns.iter().map(|column| match column {
                Column::Texts(texts) => texts[row].as_bytes(),
                Column::Bytes(bytes) => bytes[row],
                Column::Ints(_) | Column::Maybe(_) => &[],
            });
            askers.entry(key.collect()).or_default().push(row);
        }
        let distinct: Vec<&Vec<&[u8]>> = askers.keys().collect();
        let column = |at: usize| Column::Bytes(distinct.iter().map(|key| key[at]).collect());
        let columns: Vec<Column<'_>> = (0..keys).map(column).collect();
        let mut found = Vec::new();
        for part in parts(0..distinct.len()) {
            for row in asked(bulk_read(what), &columns, part).fetch_all(&mut *conn).await? {
                let cell = |at: usize| row.try_get::<&[u8], _>(at);
                let key = (0..keys).map(cell).collect::<Result<Vec<_>, _>>()?;
                let cells = (keys..4).map(|at| Ok(cell(at)?.to_vec()));
                let cells = cells.collect::<Result<Vec<_>, Error>>()?;
                let of = askers.get(&key).map(Vec::as_slice).unwrap_or_default();
                found.extend(of.iter().map(|of| (*of, cells.clone())));
            }
        }
        Ok(found)
    }

    fn int(row: &MySqlRow, at: usize) -> Result<i64, Error> {
        row.try_get(at)
    }

    fn text(row: &MySqlRow, at: usize) -> Result<String, Error> {
        let bytes: Vec<u8> = row.try_get(at)?;
        String::from_utf8(bytes).map_err(|error| Error::Decode(error.into()))
    }

    fn bytes(row: &MySqlRow, at: usize) -> Result<Option<Vec<u8>>, Error> {
        row.try_get(at)
    }

    fn trouble(error: &Error) -> Option<Trouble> {
        match error.as_database_error() {
            Some(said) => trouble(said.downcast_ref::<MySqlDatabaseError>().number()),
            None => driver::trouble_on_the_way(error),
        }
    }
}

/// MySQL's and MariaDB's numbers of errors.
fn trouble(number: u16) -> Option<Trouble> {
    Some(match number {
        // The option --read-only, read-only transactions, read-only mode.
        1290 | 1792 | 1836 | 4031 => Trouble::ReadOnly,
        // EE_/ER_DISK_FULL, a full table, an error while writing.
        3 | 1021 | 1026 | 1114 => Trouble::Full,
        // ER_LOCK_DEADLOCK, ER_CHECKREAD.
        1020 | 1213 => Trouble::Conflict,
        // Waiting for a lock, statements that took too long.
        1205 | 1317 | 1969 | 3024 => Trouble::Slow,
        // Connections, memory, resources of a user.
        1037 | 1040 | 1041 | 1203 | 1226 => Trouble::Crowded,
        // It stops, or has killed the connection.
        1053 | 1077 | 1079 | 1152 | 1184 | 1927 | 3169 => Trouble::Gone,
        // Users, passwords, hosts that are not let in, databases that are not there: as it may be for a while after an outage.
        1044 | 1045 | 1049 | 1129 | 1130 => Trouble::Refuses,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_rows_go_in_parts_of_few_sizes() {
        let all: Vec<_> = parts(3..256).collect();
        assert_eq!(
            all,
            [3..203, 203..243, 243..251, 251..252, 252..253, 253..254, 254..255, 255..256]
        );
        assert_eq!(parts(4..4).count(), 0);
    }

    #[test]
    fn what_passes_is_told_from_what_stays() {
        assert_eq!(trouble(1290), Some(Trouble::ReadOnly));
        assert_eq!(trouble(1213), Some(Trouble::Conflict));
        for number in [1044, 1045, 1049, 1129, 1130] {
            assert_eq!(trouble(number), Some(Trouble::Refuses), "{number}");
        }
        assert_eq!(trouble(1146), None);
    }

    #[test]
    fn a_url_loses_its_database_and_nothing_else() {
        let check = |url, expected: &str| assert_eq!(without_database(url), expected);
        check("mysql://u:p@h:1/d", "mysql://u:p@h:1");
        check("mysql://u@h/d?ssl-mode=REQUIRED", "mysql://u@h?ssl-mode=REQUIRED");
        check("mysql://h", "mysql://h");
    }
}
