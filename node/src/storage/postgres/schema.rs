//! The tables, as numbered steps. Called once by `open`.
//!
//! A step is never edited after it has shipped; what is wrong with it is a further step. All steps that are missing run in one transaction,
//! under a lock that one node has at a time: several may start at once. Texts compare by their bytes (`COLLATE "C"`); a name is `bytea`, for
//! it may hold a zero.

use sqlx::{Connection, Error, PgConnection, Row};

/// Each step's statements; its number is its place, from 1.
const STEPS: &[&str] = &[
    // 1: the shapes, the log and its head, positions, facts about the database, what a node has promised.
    r#"CREATE TABLE kv (
        store text COLLATE "C" NOT NULL, owner text COLLATE "C" NOT NULL, name bytea NOT NULL,
        whole_name bytea, value bytea NOT NULL,
        PRIMARY KEY (store, owner, name)
     );
     CREATE TABLE archive (
        store text COLLATE "C" NOT NULL, owner text COLLATE "C" NOT NULL, id bigint NOT NULL,
        value bytea NOT NULL,
        mark bytea GENERATED ALWAYS AS (substr(value, 1, 8)) STORED,
        PRIMARY KEY (store, owner, id)
     );
     CREATE INDEX archive_mark ON archive (store, owner, mark, id);
     CREATE TABLE durable_log (
        seq bigint PRIMARY KEY, shard smallint NOT NULL, epoch bigint NOT NULL, entry bytea NOT NULL
     );
     CREATE TABLE log_head (one smallint PRIMARY KEY CHECK (one = 1), seq bigint NOT NULL);
     INSERT INTO log_head (one, seq) VALUES (1, 0);
     CREATE TABLE applied (
        region text COLLATE "C" PRIMARY KEY, log bigint NOT NULL, seq bigint NOT NULL
     );
     CREATE TABLE meta (name text COLLATE "C" PRIMARY KEY, value bytea NOT NULL);
     CREATE TABLE outbox (
        node text COLLATE "C" NOT NULL, place bigint NOT NULL, line bytea NOT NULL,
        PRIMARY KEY (node, place)
     );"#,
    // 2: which of the region's nodes writes, and its beats: apart, so that they and commits do not wait for each other.
    r#"CREATE TABLE scribe (
        one smallint PRIMARY KEY CHECK (one = 1), term bigint NOT NULL, node text COLLATE "C" NOT NULL
     );
     INSERT INTO scribe (one, term, node) VALUES (1, 0, '');
     CREATE TABLE beats (one smallint PRIMARY KEY CHECK (one = 1), beat bigint NOT NULL);
     INSERT INTO beats (one, beat) VALUES (1, 0);"#,
];

/// What the lock is taken on: a number that nobody else uses by chance.
const LOCK: i64 = 0x7061_6e67_6165_6100;

/// Brings a database to this version's tables. Refuses one that a newer version has written.
pub(super) async fn migrate(conn: &mut PgConnection) -> Result<(), Error> {
    let encoding = sqlx::query("SHOW server_encoding").fetch_one(&mut *conn).await?;
    let encoding: String = encoding.try_get(0)?;
    if encoding != "UTF8" {
        let text = format!("its encoding is {encoding}, it must be made with ENCODING 'UTF8'");
        return Err(Error::Configuration(text.into()));
    }
    let mut tx = conn.begin().await?;
    // Waiting for another node that does the same may take longer than a statement usually may.
    sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *tx).await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS version (step bigint PRIMARY KEY)")
        .execute(&mut *tx)
        .await?;
    let row = sqlx::query("SELECT COALESCE(MAX(step), 0) FROM version").fetch_one(&mut *tx).await?;
    let done = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
    if done > STEPS.len() {
        return Err(Error::Configuration(
            format!("its tables are of step {done}, this version knows {}", STEPS.len()).into(),
        ));
    }
    for (number, step) in (1i64..).zip(STEPS).skip(done) {
        sqlx::raw_sql(*step).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO version (step) VALUES ($1)")
            .bind(number)
            .execute(&mut *tx)
            .await?;
    }
    tx.commit().await
}
