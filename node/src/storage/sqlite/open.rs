//! How a file is opened: what of it is SQLite's business, and the connections that write and read.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection, SqliteConnection};

use super::{Sqlite, load, schema};
use crate::storage::StorageError;

/// How a file is opened.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The file; made if missing, with `-wal` and `-shm` beside it.
    pub path: PathBuf,
    /// Sync the disk at every commit (`synchronous = FULL`). Without it (`NORMAL`) a power cut may take the last
    /// commits with it, a crash of the process may not.
    pub sync: bool,
    /// Connections that read.
    pub readers: u32,
    /// Bytes of the file that are mapped into memory.
    pub mmap_bytes: u64,
}

impl SqliteConfig {
    /// The defaults: synced commits, two readers, 256 MiB mapped.
    pub fn new(path: impl AsRef<Path>) -> SqliteConfig {
        SqliteConfig {
            path: path.as_ref().to_owned(),
            sync: true,
            readers: 2,
            mmap_bytes: 256 << 20,
        }
    }
}

impl Sqlite {
    /// Opens the file and brings it to this version's tables.
    pub async fn open(config: SqliteConfig) -> Result<Sqlite, StorageError> {
        let name = config.path.display().to_string();
        let opened = Sqlite::try_open(config).await;
        opened.map_err(|cause| StorageError::Open { name, cause: cause.into() })
    }

    async fn try_open(config: SqliteConfig) -> Result<Sqlite, sqlx::Error> {
        let sync = if config.sync { SqliteSynchronous::Full } else { SqliteSynchronous::Normal };
        let options = SqliteConnectOptions::new()
            .filename(&config.path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(sync)
            .busy_timeout(Duration::from_secs(10))
            .pragma("mmap_size", config.mmap_bytes.to_string())
            .pragma("cache_size", "-8000")
            // A page that many commits touch goes to the file once for all of them; the log stays below about 64 MiB.
            .pragma("wal_autocheckpoint", "8000")
            .pragma("journal_size_limit", "67108864");
        let pool = |connections| {
            SqlitePoolOptions::new()
                .min_connections(1)
                .max_connections(connections)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                .acquire_timeout(Duration::from_secs(30))
                .after_release(|conn, _| is_idle(conn).boxed())
        };
        let writer =
            pool(1).connect_with(options.clone().thread_name(|_| "sqlite-write".into())).await?;
        schema::migrate(&mut *writer.acquire().await?).await?;
        // One more than asked for: the loader keeps one busy by itself.
        let readers = pool(config.readers.max(1) + 1)
            .connect_with(options.pragma("query_only", "on").thread_name(|_| "sqlite-read".into()))
            .await?;
        let loader = load::start(readers.clone());
        Ok(Sqlite { writer, readers, loader, path: config.path, pen: AtomicU64::new(0) })
    }
}

/// Whether a connection may be used again. When the disk is full SQLite may roll a transaction back by itself; the driver's own attempt then fails, and
/// it would take the connection for one within a transaction for good.
async fn is_idle(conn: &mut SqliteConnection) -> Result<bool, sqlx::Error> {
    if conn.is_in_transaction() {
        conn.ping().await?; // Behind the rollback, if it is only under way.
    }
    Ok(!conn.is_in_transaction())
}
