//! The tables, as numbered steps. Called once by `open`.
//!
//! A step is never edited after it has shipped; what is wrong with it is a further step. MySQL commits at each statement that makes a table, so
//! every statement of a step may be done already, by a node that died in the middle. One node at a time: they wait for a lock. Texts are
//! `VARBINARY`, which compares by bytes (collations also fold blanks at the end).

use sqlx::{AssertSqlSafe, Error, MySqlConnection, Row};

/// Each step's statements; its number is its place, from 1.
const STEPS: &[&[&str]] = &[
    // 1: the shapes, the log and its head, positions, facts about the database, what a node has promised.
    &[
        "CREATE TABLE IF NOT EXISTS kv (
            store VARBINARY(64) NOT NULL, owner VARBINARY(1280) NOT NULL, name VARBINARY(1025) NOT NULL,
            whole_name BLOB, value LONGBLOB NOT NULL,
            PRIMARY KEY (store, owner, name)
         ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
        "CREATE TABLE IF NOT EXISTS archive (
            store VARBINARY(64) NOT NULL, owner VARBINARY(1280) NOT NULL, id BIGINT NOT NULL,
            value LONGBLOB NOT NULL,
            mark VARBINARY(8) GENERATED ALWAYS AS (LEFT(value, 8)) STORED,
            PRIMARY KEY (store, owner, id), KEY archive_mark (store, owner, mark, id)
         ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
        "CREATE TABLE IF NOT EXISTS durable_log (
            seq BIGINT NOT NULL PRIMARY KEY, shard SMALLINT NOT NULL, epoch BIGINT NOT NULL,
            entry LONGBLOB NOT NULL
         ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
        "CREATE TABLE IF NOT EXISTS log_head (one TINYINT NOT NULL PRIMARY KEY, seq BIGINT NOT NULL)
         ENGINE = InnoDB",
        "INSERT IGNORE INTO log_head (one, seq) VALUES (1, 0)",
        "CREATE TABLE IF NOT EXISTS applied (
            region VARBINARY(255) NOT NULL PRIMARY KEY, log BIGINT NOT NULL, seq BIGINT NOT NULL
         ) ENGINE = InnoDB",
        "CREATE TABLE IF NOT EXISTS meta (
            name VARBINARY(255) NOT NULL PRIMARY KEY, value LONGBLOB NOT NULL
         ) ENGINE = InnoDB",
        "CREATE TABLE IF NOT EXISTS outbox (
            node VARBINARY(255) NOT NULL, place BIGINT NOT NULL, line LONGBLOB NOT NULL,
            PRIMARY KEY (node, place)
         ) ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
    ],
    // 2: which of the region's nodes writes, and its beats: apart, so that they and commits do not wait for each other.
    &[
        "CREATE TABLE IF NOT EXISTS scribe (
            one TINYINT NOT NULL PRIMARY KEY, term BIGINT NOT NULL, node VARBINARY(255) NOT NULL
         ) ENGINE = InnoDB",
        "INSERT IGNORE INTO scribe (one, term, node) VALUES (1, 0, '')",
        "CREATE TABLE IF NOT EXISTS beats (one TINYINT NOT NULL PRIMARY KEY, beat BIGINT NOT NULL)
         ENGINE = InnoDB",
        "INSERT IGNORE INTO beats (one, beat) VALUES (1, 0)",
    ],
];

/// How long another node's migration is waited for.
const LOCK_SECONDS: i64 = 600;

/// Brings a database to this version's tables. Refuses one that a newer version has written.
pub(super) async fn migrate(conn: &mut MySqlConnection) -> Result<(), Error> {
    const LOCK: &str = "SELECT GET_LOCK(CONCAT('pangaea ', SHA1(DATABASE())), ?)";
    let row = sqlx::query(LOCK).bind(LOCK_SECONDS).fetch_one(&mut *conn).await?;
    if row.try_get_unchecked::<Option<i64>, _>(0)? != Some(1) {
        return Err(Error::Configuration("another node has been migrating it for too long".into()));
    }
    // The lock goes with the connection, also after an error.
    steps(conn).await
}

async fn steps(conn: &mut MySqlConnection) -> Result<(), Error> {
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS version (step BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB",
    )
    .execute(&mut *conn)
    .await?;
    let row = sqlx::query("SELECT CAST(COALESCE(MAX(step), 0) AS SIGNED) FROM version")
        .fetch_one(&mut *conn)
        .await?;
    let done = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
    if done > STEPS.len() {
        return Err(Error::Configuration(
            format!("its tables are of step {done}, this version knows {}", STEPS.len()).into(),
        ));
    }
    for (number, step) in (1i64..).zip(STEPS).skip(done) {
        for statement in *step {
            sqlx::raw_sql(AssertSqlSafe(*statement)).execute(&mut *conn).await?;
        }
        sqlx::query("INSERT INTO version (step) VALUES (?)")
            .bind(number)
            .execute(&mut *conn)
            .await?;
    }
    Ok(())
}
