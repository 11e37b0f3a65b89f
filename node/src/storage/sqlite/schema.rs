//! The tables, as numbered steps. Called once by `Sqlite::open`, on the one writing connection.
//!
//! A step is never edited after it has shipped; what is wrong with it is a further step. All steps that are missing run
//! in one transaction, so a crash in between leaves the old version.

use sqlx::{Connection, Row, SqliteConnection};

/// Each step's statements; its number is its place, from 1.
const STEPS: &[&str] = &[
    // 1: the shapes, the log, positions, facts about the database.
    "CREATE TABLE kv (
        store TEXT NOT NULL, owner TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (store, owner, key)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE archive (
        store TEXT NOT NULL, owner TEXT NOT NULL, id INTEGER NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (store, owner, id)
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE durable_log (
        seq INTEGER PRIMARY KEY, shard INTEGER NOT NULL, epoch INTEGER NOT NULL, entry BLOB NOT NULL
     ) STRICT;
     CREATE TABLE applied (
        region TEXT PRIMARY KEY, log INTEGER NOT NULL, seq INTEGER NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;",
    // 2: what a node has promised and not handed on.
    "CREATE TABLE outbox (
        node TEXT NOT NULL, place INTEGER NOT NULL, row BLOB NOT NULL, PRIMARY KEY (node, place)
     ) STRICT, WITHOUT ROWID;",
    // 3: items by their mark, the first eight bytes of their value.
    "CREATE INDEX archive_mark ON archive (store, owner, substr(value, 1, 8), id);",
    // 4: which of the region's nodes writes.
    "CREATE TABLE scribe (
        one INTEGER PRIMARY KEY CHECK (one = 1), term INTEGER NOT NULL, node TEXT NOT NULL,
        beat INTEGER NOT NULL
     ) STRICT;
     INSERT INTO scribe (one, term, node, beat) VALUES (1, 0, '', 0);",
];

/// Brings a database to this version's tables. Refuses one that a newer version has written.
pub(super) async fn migrate(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let mut tx = conn.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql("CREATE TABLE IF NOT EXISTS version (step INTEGER NOT NULL) STRICT")
        .execute(&mut *tx)
        .await?;
    let row = sqlx::query("SELECT COALESCE(MAX(step), 0) FROM version").fetch_one(&mut *tx).await?;
    let done = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
    if done > STEPS.len() {
        return Err(sqlx::Error::Configuration(
            format!("its tables are of step {done}, this version knows {}", STEPS.len()).into(),
        ));
    }
    for (number, step) in (1i64..).zip(STEPS).skip(done) {
        sqlx::raw_sql(*step).execute(&mut *tx).await?;
        sqlx::query("INSERT INTO version (step) VALUES (?)").bind(number).execute(&mut *tx).await?;
    }
    tx.commit().await
}
