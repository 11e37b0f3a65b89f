//! Room: the log of changes in Redis, a stream, as a [`RouteLog`]: numbered densely (the stream's ids are those numbers), trimmed at about
//! `redis.log_entries_max`. Over connections of its own: one for questions, one that waits. Called by `follow`, and by the suite of route logs.

use std::time::Duration;

use bytes::Bytes;
use config::Redis;
use futures_util::future::BoxFuture;
use redis::{RedisResult, Value};
use replication::route_log::{RouteLog, RouteLogError, Tail};
use tokio::sync::Mutex;

use super::connect::{Conn, connect};
use super::script::{self, APPEND, TAIL};

/// How long Redis is asked to wait for an entry; then it is asked again.
const BLOCK: Duration = Duration::from_secs(5);

/// See the room.
pub struct RedisLog {
    config: Redis,
    base: String,
    conn: Conn,
    /// A command that waits holds up all others of its connection: it has one to itself.
    waiting: Mutex<Option<Conn>>,
}

impl RedisLog {
    /// The log of the region that `config` names.
    ///
    /// # Errors
    /// What Redis, the network or TLS says.
    pub async fn open(config: &Redis) -> RedisResult<RedisLog> {
        let conn = connect(config, config.timeout).await?;
        let (config, base) = (config.clone(), script::base(&config.prefix));
        Ok(RedisLog { config, base, conn, waiting: Mutex::default() })
    }

    /// As [`RouteLog::tail`], with the name of this life of the log: a cursor counts within one of them.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn tail_of_life(
        &self,
        cursor: u64,
        max: usize,
    ) -> RedisResult<(String, Tail<Bytes>)> {
        let raw: (String, u64, u64, Vec<Vec<u8>>) = TAIL
            .key(format!("{}log", self.base))
            .arg((&self.base, cursor, max))
            .invoke_async(&mut self.conn.clone())
            .await?;
        let (life, head, gone, entries) = raw;
        let entries = entries.into_iter().map(Bytes::from).collect();
        let batch = Tail::Batch { first: cursor + 1, entries };
        Ok((life, if gone == 1 { Tail::Trimmed { head } } else { batch }))
    }

    /// For other questions.
    pub(super) fn conn(&self) -> (Conn, &str) {
        (self.conn.clone(), &self.base)
    }

    async fn append_all(&self, entries: Vec<Bytes>) -> RedisResult<u64> {
        let mut asked = APPEND.key(format!("{}log", self.base));
        asked.arg((&self.base, self.config.log_entries_max));
        for entry in &entries {
            asked.arg(&entry[..]);
        }
        asked.invoke_async(&mut self.conn.clone()).await
    }

    async fn head_now(&self) -> RedisResult<u64> {
        self.append_all(Vec::new()).await
    }

    /// Until the head is another than `cursor`.
    async fn wait(&self, cursor: u64) -> RedisResult<()> {
        let mut waiting = self.waiting.lock().await;
        while self.head_now().await? == cursor {
            // Taken out: if this is dropped while it waits, the connection is not used again.
            let mut conn = match waiting.take() {
                Some(conn) => conn,
                None => connect(&self.config, BLOCK + self.config.timeout).await?,
            };
            let _: Value = redis::cmd("XREAD")
                .arg(("BLOCK", BLOCK.as_millis() as u64, "COUNT", 1, "STREAMS"))
                .arg((format!("{}log", self.base), format!("{cursor}-1")))
                .query_async(&mut conn)
                .await?;
            *waiting = Some(conn);
        }
        Ok(())
    }
}

fn failed(error: redis::RedisError) -> RouteLogError {
    RouteLogError(std::io::Error::other(error))
}

impl RouteLog for RedisLog {
    fn append(&self, entries: Vec<Bytes>) -> BoxFuture<'_, Result<u64, RouteLogError>> {
        Box::pin(async move { self.append_all(entries).await.map_err(failed) })
    }

    fn tail(&self, cursor: u64, max: usize) -> BoxFuture<'_, Result<Tail<Bytes>, RouteLogError>> {
        Box::pin(async move {
            self.tail_of_life(cursor, max).await.map(|(_, tail)| tail).map_err(failed)
        })
    }

    fn head(&self) -> BoxFuture<'_, Result<u64, RouteLogError>> {
        Box::pin(async move { self.head_now().await.map_err(failed) })
    }

    fn wait_past(&self, cursor: u64) -> BoxFuture<'_, Result<(), RouteLogError>> {
        Box::pin(async move { self.wait(cursor).await.map_err(failed) })
    }
}
