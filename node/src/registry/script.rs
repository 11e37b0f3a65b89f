//! Room: what the registry asks of Redis. Each question is one script, so that it is done as a whole or not at all, and one command on the wire.
//! `lua/*.lua` are the scripts; here are their words and their answers. Called by the driver, the reader and the log.
//!
//! Keys, all behind the same `{PREFIX}:`, so that a Redis Cluster keeps them together:
//!
//! | key | what |
//! |---|---|
//! | `life` | a random name, made by whoever finds none: the cursor of a follower counts within one of them |
//! | `nodes` | hash: a node's name → its record, JSON |
//! | `lease:NODE` | the incarnation, gone when it is not renewed |
//! | `map` | hash: `version`, `nodes`: the platform's nodes, for one that joins |
//! | `lives` | hash: `NODE INCARNATION` → the number of its last batch |
//! | `dead` | set of those whose rows are being removed |
//! | `u:BARE` | hash: resource → row |
//! | `s:NODE INCARNATION` | set of the full JIDs it has written rows of |
//! | `log`, `seq` | the log of changes, a stream; its last number |

use std::sync::LazyLock;

use redis::{RedisResult, Script};
use xmpp::jid::FullJid;

use super::connect::Conn;
use super::row::{Change, Life, StoredRow, generation};

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("lua/", $file, ".lua"))));
    };
}
script!(BEAT, "beat");
script!(WRITE, "write");
script!(CLEAR, "clear");
script!(ROWS, "rows");
script!(BYE, "bye");
script!(APPEND, "append");
script!(TAIL, "tail");

/// Where all keys of a region begin: `{pangaea:eu}:`.
pub(super) fn base(prefix: &str) -> String {
    format!("{{{prefix}}}:")
}

/// What a node says and asks once in a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    /// Its record, JSON.
    pub record: String,
    /// How long it counts as alive without another.
    pub lease_ms: u64,
    /// The platform's nodes by metadata (version, JSON), when they are not known to be there.
    pub map: Option<(u64, String)>,
    /// The log's name is to be a new one: what was written last is not there any more.
    pub new_life: bool,
}

/// What it hears.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Beaten {
    /// The name of this life of the log.
    pub life: String,
    /// Records, JSON, with the incarnation whose lease is there.
    pub nodes: Vec<(String, Option<u64>)>,
    /// Who has rows, and the number of its last batch.
    pub lives: Vec<(Life, u64)>,
    /// Whose rows are being removed.
    pub dead: Vec<Life>,
    /// The platform's nodes, JSON, as some node of this region knows them.
    pub map: Option<String>,
    /// Another life of this very node has the lease, and is newer.
    pub superseded: bool,
}

type RawBeat =
    (i64, String, Vec<String>, Vec<Option<u64>>, Vec<String>, Vec<String>, Option<String>);

impl Beat {
    /// Asks it.
    pub(super) async fn ask(&self, conn: &mut Conn, base: &str, me: &Life) -> RedisResult<Beaten> {
        let (version, map) = match &self.map {
            Some((version, map)) => (*version, map.as_str()),
            None => (0, ""),
        };
        let mut chance = [0; 8];
        // Only has to be another than before: without random numbers the time in `incarnation` is.
        let _ = getrandom::fill(&mut chance);
        let life = format!("{:016x}{:x}", u64::from_le_bytes(chance), me.incarnation);
        let raw: RawBeat = BEAT
            .key(format!("{base}log"))
            .arg((base, &me.node, me.incarnation, &self.record, self.lease_ms, life))
            .arg((version, map, u8::from(self.new_life)))
            .invoke_async(conn)
            .await?;
        let (superseded, life, records, leases, lives, dead, map) = raw;
        let pairs = lives.chunks_exact(2);
        Ok(Beaten {
            life,
            nodes: records.into_iter().zip(leases).collect(),
            lives: pairs
                .filter_map(|pair| Some((Life::parse(&pair[0])?, pair[1].parse().ok()?)))
                .collect(),
            dead: dead.iter().filter_map(|life| Life::parse(life)).collect(),
            map,
            superseded: superseded == 1,
        })
    }
}

/// Changed rows, written with as many entries of the log in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// Grows by one with each batch of this life of the node.
    pub number: u64,
    /// The how-manieth full writing of all rows this is in.
    pub writing: u64,
    /// The rows.
    pub changes: Vec<(FullJid, Change)>,
}

impl Batch {
    /// Writes it. How many of them changed something.
    pub(super) async fn ask(
        &self,
        conn: &mut Conn,
        base: &str,
        me: &Life,
        log_max: usize,
    ) -> RedisResult<u64> {
        let mut asked = WRITE.key(format!("{base}log"));
        asked.arg((base, &me.node, me.incarnation, self.number, log_max));
        for (full, change) in &self.changes {
            match change {
                Change::Is(generation, shows) => {
                    let (life, writing) = (me.clone(), self.writing);
                    let row = StoredRow { life, writing, generation: *generation, shows: *shows };
                    asked.arg(("b", full.as_str(), row.text()));
                }
                Change::Gone(gone) => drop(asked.arg(("u", full.as_str(), generation(*gone)))),
            }
        }
        asked.invoke_async(conn).await
    }
}

/// Removes rows of a life that an earlier writing left over; or all of a dead one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clear {
    /// Whose.
    pub life: Life,
    /// Those of earlier writings than this; none: all, if it is dead.
    pub before: Option<u64>,
    /// Where to go on: "0" at first.
    pub cursor: String,
    /// About so many rows are looked at.
    pub count: usize,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cleared {
    /// Where to go on; "0": it has been round.
    pub cursor: String,
    /// Rows that were looked at.
    pub seen: u64,
    /// Rows that are gone.
    pub removed: u64,
    /// It is not dead after all: nothing was removed.
    pub alive: bool,
}

impl Clear {
    /// Does it.
    pub(super) async fn ask(
        &self,
        conn: &mut Conn,
        base: &str,
        log_max: usize,
    ) -> RedisResult<Cleared> {
        let before = self.before.map(|before| before.to_string()).unwrap_or_default();
        let raw: (String, u64, u64, u64) = CLEAR
            .key(format!("{base}log"))
            .arg((base, &self.life.node, self.life.incarnation, before))
            .arg((&self.cursor, self.count, log_max))
            .invoke_async(conn)
            .await?;
        let (cursor, seen, removed, alive) = raw;
        Ok(Cleared { cursor, seen, removed, alive: alive == 1 })
    }
}

/// The rows of a user that count: resource and row.
pub(super) async fn rows(
    conn: &mut Conn,
    base: &str,
    bare: &str,
) -> RedisResult<Vec<(String, StoredRow)>> {
    let raw: Vec<String> = ROWS.key(format!("{base}u:{bare}")).arg(base).invoke_async(conn).await?;
    let pairs = raw.chunks_exact(2);
    Ok(pairs.filter_map(|pair| Some((pair[0].clone(), StoredRow::parse(&pair[1])?))).collect())
}

/// This life ends: from now on nothing it wrote counts.
pub(super) async fn bye(conn: &mut Conn, base: &str, me: &Life) -> RedisResult<()> {
    BYE.key(format!("{base}log")).arg((base, &me.node, me.incarnation)).invoke_async(conn).await
}
