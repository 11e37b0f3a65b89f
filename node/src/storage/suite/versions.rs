//! Databases that an older or a newer version has written, of every backend that has tables.

use config::Database;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, SqliteConnection};

use super::{ROMEO, append, commit, new_database, put};
use crate::storage::{Page, open};

/// Statements that the storage knows nothing of.
async fn behind_its_back(config: &config::Storage, sql: &str) {
    for statement in sql.split(';').filter(|statement| !statement.is_empty()) {
        let statement = AssertSqlSafe(statement.to_owned());
        match &config.database {
            Database::Postgres(url) => {
                let mut conn = PgConnection::connect(url.expose()).await.unwrap();
                sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
            }
            Database::Mysql(url) => {
                let mut conn = MySqlConnection::connect(url.expose()).await.unwrap();
                sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
            }
            Database::Sqlite(file) => {
                let url = format!("sqlite:{}", file.display());
                let mut conn = SqliteConnection::connect(&url).await.unwrap();
                sqlx::raw_sql(statement).execute(&mut conn).await.unwrap();
            }
        }
    }
}

/// `undo` takes away what later steps have made. Opened again, everything is there, what was written before and what is needed now.
async fn an_older_one_is_brought_up(config: config::Storage, undo: &str) {
    let storage = open::open(&config).await.unwrap();
    commit(&*storage, vec![put("a", ROMEO, "", b"x"), append("b", ROMEO, 7, b"12345678")]).await;
    storage.set_meta("fact", b"y".to_vec()).await.unwrap();
    storage.close().await;
    behind_its_back(&config, undo).await;
    for time in 1..3 {
        let storage = open::open(&config).await.unwrap();
        assert_eq!(storage.get("a", ROMEO, "").await.unwrap(), Some(b"x".to_vec()));
        assert_eq!(storage.meta("fact").await.unwrap(), Some(b"y".to_vec()));
        let marked = Page { mark: Some(*b"12345678"), ..Page::after(None, 9) };
        let found = storage.archive("b", ROMEO, marked).await.unwrap();
        assert_eq!(found, [(7, b"12345678".to_vec())]);
        let term = storage.scribe().await.unwrap().map_or(0, |scribe| scribe.term);
        assert!(storage.take_pen(term, term + 1, "eu-0").await.unwrap());
        storage.outbox_write("eu-0", vec![(time, b"z".to_vec())], vec![]).await.unwrap();
        commit(&*storage, vec![put("c", ROMEO, "", b"x")]).await;
        assert_eq!(storage.log_head().await.unwrap(), 1 + time);
        storage.close().await;
    }
}

async fn a_newer_one_is_refused(config: config::Storage) {
    open::open(&config).await.unwrap().close().await;
    behind_its_back(&config, "INSERT INTO version (step) VALUES (99)").await;
    let error = open::open(&config).await.err().unwrap().to_string();
    assert!(error.contains("step 99"), "{error}");
    behind_its_back(&config, "DELETE FROM version WHERE step = 99").await;
    open::open(&config).await.unwrap();
}

const SERVERS_UNDO: &str =
    "DROP TABLE scribe; DROP TABLE beats; DELETE FROM version WHERE step > 1";

pub(super) async fn an_older_one_is_brought_up_to_this(variable: &str) {
    an_older_one_is_brought_up(new_database(variable).await, SERVERS_UNDO).await;
}

pub(super) async fn one_of_a_newer_version_is_refused(variable: &str) {
    a_newer_one_is_refused(new_database(variable).await).await;
}

/// A file in a directory that goes when the second is dropped.
fn new_file() -> (config::Storage, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (config::Storage::of(Database::Sqlite(dir.path().join("a.sqlite"))), dir)
}

#[tokio::test]
async fn a_file_of_each_older_version_is_brought_up_to_this() {
    let mut undo = String::new();
    for (step, made) in
        [(4, "DROP TABLE scribe"), (3, "DROP INDEX archive_mark"), (2, "DROP TABLE outbox")]
    {
        undo += &format!("{made}; DELETE FROM version WHERE step = {step};");
        let (config, _dir) = new_file();
        an_older_one_is_brought_up(config, &undo).await;
    }
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let (config, _dir) = new_file();
    a_newer_one_is_refused(config).await;
}
