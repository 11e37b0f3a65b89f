//! The database that the configuration names, opened: which backend, with which settings. Called by `app`, `pangaea migrate`, quickstart.

use std::sync::Arc;
use std::time::Duration;

use config::Database;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::partitioned::{self, Partitioned};
use super::sql::ServerConfig;
use super::sqlite::{Sqlite, SqliteConfig};
use super::{Storage, StorageError, mysql, postgres};

/// Before a server that is not there is asked again.
const AGAIN: Duration = Duration::from_millis(500);
/// How long: both may have been started at the same moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens it and brings it to this version's tables. A server that is not there is waited for a little.
///
/// # Errors
/// [`StorageError::Open`].
pub async fn open(storage: &config::Storage) -> Result<Arc<dyn Storage>, StorageError> {
    let main = one(storage, &storage.database).await?;
    let name = storage.database.to_string();
    // Also where there are none: another node may be told of some, and move there what is here now.
    let parts = storage.partitions.iter().map(|database| async move {
        Ok::<_, StorageError>((database.to_string(), one(storage, database).await?))
    });
    let parts = try_join_all(parts).await?;
    let settings = partitioned::Settings { patience: storage.timeout, ..Default::default() };
    Ok(Arc::new(Partitioned::open((name, main), parts, settings).await?))
}

/// Brings every database to this version's tables, and closes it.
///
/// # Errors
/// [`StorageError::Open`].
pub async fn migrate(storage: &config::Storage) -> Result<(), StorageError> {
    for database in std::iter::once(&storage.database).chain(&storage.partitions) {
        one(storage, database).await?.close().await;
    }
    Ok(())
}

/// One of the databases, by itself.
pub(super) async fn one(
    storage: &config::Storage,
    database: &Database,
) -> Result<Arc<dyn Storage>, StorageError> {
    let sync = storage.sync == config::Sync::Full;
    match database {
        Database::Sqlite(file) => {
            let sqlite = SqliteConfig { sync, ..SqliteConfig::new(file) };
            Ok(Arc::new(Sqlite::open(sqlite).await?))
        }
        Database::Postgres(url) => {
            let server = ServerConfig::of(storage, url);
            patiently(|| postgres::open(server.clone())).await
        }
        Database::Mysql(url) => {
            let server = ServerConfig::of(storage, url);
            patiently(|| mysql::open(server.clone())).await
        }
    }
}

async fn patiently<F>(open: impl Fn() -> F) -> Result<Arc<dyn Storage>, StorageError>
where
    F: Future<Output = Result<Box<dyn Storage>, StorageError>>,
{
    let until = Instant::now() + PATIENCE;
    loop {
        match open().await {
            Ok(storage) => return Ok(Arc::from(storage)),
            Err(error) if Instant::now() + AGAIN > until || !is_away(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "asked again");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Whether it may be there in a moment.
fn is_away(error: &StorageError) -> bool {
    let StorageError::Open { cause, .. } = error else { return false };
    matches!(cause.downcast_ref::<sqlx::Error>(), Some(sqlx::Error::Io(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_was_opened_whole_does_not_write_where_another_node_has_divided_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| Database::Sqlite(dir.path().join(name));
        let whole = config::Storage::of(file("main.sqlite"));
        let divided = config::Storage { partitions: vec![file("one.sqlite")], ..whole.clone() };
        let storage = open(&whole).await.unwrap();
        // Nobody has anything there yet, so all of it is in the partition at once.
        let other = open(&divided).await.unwrap();
        assert!(other.take_pen(0, 1, "eu-0").await.unwrap());
        let refused = storage.take_pen(1, 2, "eu-1").await.unwrap_err().to_string();
        assert!(refused.contains("storage.partitions names 0"), "{refused}");
        assert_eq!(other.scribe().await.unwrap().unwrap().term, 1);
        let refused = open(&whole).await.err().unwrap().to_string();
        assert!(refused.contains("storage.partitions names 0"), "{refused}");
    }
}
