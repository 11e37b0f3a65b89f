//! Room: who follows all session rows of a region: reads the log of changes, and all rows again when what comes next in it is gone, or it has begun
//! anew. Never a gap: between two answers of [`Follower::next`] nothing is missed, though something may be told twice.
//! For tools and caches beyond the nodes; between nodes the links carry the same (`geo::route`).

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::RedisResult;
use replication::route_log::{RouteLog, Tail};
use xmpp::jid::FullJid;

use super::RegistryError;
use super::log::RedisLog;
use super::row::{StoredRow, Told};

/// Entries asked for at one time.
const ENTRIES_MAX: usize = 1_000;
/// Full JIDs asked for at one time.
const SCAN: usize = 500;

/// What is to be done with what was known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// These changes, in order. None: nothing is new.
    Changes(Vec<Told>),
    /// Forget all of it: these are the rows. Those of lives without a lease do not count.
    Anew(BTreeMap<FullJid, StoredRow>),
}

/// See the room.
pub struct Follower {
    log: RedisLog,
    at: Option<(String, u64)>,
}

impl Follower {
    /// One that knows nothing yet.
    pub fn new(log: RedisLog) -> Follower {
        Follower { log, at: None }
    }

    /// What is new since the last time; at first, all rows. Does not wait for something to be new.
    ///
    /// # Errors
    /// Redis does not answer; ask again.
    pub async fn next(&mut self) -> Result<Heard, RegistryError> {
        if let Some((life, cursor)) = &mut self.at {
            let (now, tail) = self.log.tail_of_life(*cursor, ENTRIES_MAX).await?;
            if let Tail::Batch { entries, .. } = tail
                && now == *life
            {
                *cursor += entries.len() as u64;
                return Ok(Heard::Changes(entries.iter().filter_map(read).collect()));
            }
        }
        // The end of the log first: what changes while the rows are read is told once more.
        let (life, tail) = self.log.tail_of_life(u64::MAX >> 12, 1).await?;
        let head = match tail {
            Tail::Trimmed { head } => head,
            Tail::Batch { first, .. } => first - 1,
        };
        let rows = self.all().await?;
        self.at = Some((life, head));
        Ok(Heard::Anew(rows))
    }

    /// Waits until something may be new.
    ///
    /// # Errors
    /// Redis does not answer; ask again.
    pub async fn wait(&self) -> Result<(), RegistryError> {
        let cursor = self.at.as_ref().map_or(0, |(_, cursor)| *cursor);
        let waited = self.log.wait_past(cursor).await;
        waited.map_err(|error| RegistryError::Away(error.to_string()))
    }

    /// All rows, by the sets of who has written them.
    async fn all(&self) -> RedisResult<BTreeMap<FullJid, StoredRow>> {
        let (mut conn, base) = self.log.conn();
        let mut rows = BTreeMap::new();
        let lives: Vec<String> =
            redis::cmd("HKEYS").arg(format!("{base}lives")).query_async(&mut conn).await?;
        for life in lives {
            let mut cursor = "0".to_owned();
            loop {
                let (next, fulls): (String, Vec<String>) = redis::cmd("SSCAN")
                    .arg((format!("{base}s:{life}"), &cursor, "COUNT", SCAN))
                    .query_async(&mut conn)
                    .await?;
                let mut asked = redis::pipe();
                let fulls: Vec<FullJid> =
                    fulls.iter().filter_map(|full| FullJid::parse(full).ok()).collect();
                for full in &fulls {
                    let key = format!("{base}u:{}", full.bare_str());
                    asked.cmd("HGET").arg((key, full.resource()));
                }
                if !fulls.is_empty() {
                    let found: Vec<Option<String>> = asked.query_async(&mut conn).await?;
                    rows.extend(fulls.into_iter().zip(found).filter_map(|(full, row)| {
                        let row = StoredRow::parse(&row?)?;
                        (row.life.text() == life).then_some((full, row))
                    }));
                }
                if next == "0" {
                    break;
                }
                cursor = next;
            }
        }
        Ok(rows)
    }
}

fn read(entry: &Bytes) -> Option<Told> {
    let told = std::str::from_utf8(entry).ok().and_then(Told::parse);
    if told.is_none() {
        tracing::warn!(?entry, "an entry of the log in Redis that cannot be read");
    }
    told
}
