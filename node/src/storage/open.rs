//! The database that the configuration names, opened: which backend, with which settings. Called by `app`, `pangaea migrate`, quickstart.

use std::sync::Arc;
use std::time::Duration;

use config::{Database, DatabaseUrl};
use tokio::time::Instant;

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
    let sync = storage.sync == config::Sync::Full;
    let server = |url: &DatabaseUrl| ServerConfig {
        url: url.expose().to_owned(),
        name: url.to_string(),
        connections: storage.connections,
        timeout: storage.timeout,
        retry: storage.retry,
        sync,
    };
    match &storage.database {
        Database::Sqlite(file) => {
            let sqlite = SqliteConfig { sync, ..SqliteConfig::new(file) };
            Ok(Arc::new(Sqlite::open(sqlite).await?))
        }
        Database::Postgres(url) => {
            let server = server(url);
            patiently(|| postgres::open(server.clone())).await
        }
        Database::Mysql(url) => {
            let server = server(url);
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
