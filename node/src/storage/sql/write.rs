//! What is written, each in one transaction that may be tried again: it says what is to be, and finds it there when it has been done.
//!
//! Called by `mod.rs`, on a task of its own, so that a caller who goes away leaves either everything or nothing. Every transaction begins by
//! changing a row that all of its kind change (the log's head, a position, an outbox's own rows): one that was given up, and that the server
//! is still working on, is therefore over before the next one of its kind reads anything.

use std::collections::BTreeMap;

use replication::{Change, Entry};
use sqlx::Error;

use super::driver::{Bulk, Column, Driver, Value};
use super::effect::Effect;
use super::lent::Lent;
use crate::storage::{Place, Position, Row, StorageError, changes, check_order, to_sql};

/// Why an attempt did not succeed.
#[derive(Debug)]
pub(super) enum Failed {
    /// What the driver says.
    Sql(Error),
    /// The answer did not come in time.
    Slow,
    /// What was asked cannot be.
    Storage(StorageError),
}

impl From<StorageError> for Failed {
    fn from(error: StorageError) -> Failed {
        Failed::Storage(error)
    }
}

/// One transaction, and the term of whoever wants it; 0: it is not checked.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) pen: u64,
    pub(super) write: Write,
}

/// One transaction.
#[derive(Debug)]
pub(super) enum Write {
    /// The home's commit; with each entry its bytes. `here`: only these of the changes.
    Home { entries: Vec<Entry>, encoded: Vec<Vec<u8>>, here: Option<Vec<Change>> },
    /// The replica's.
    Apply { home: String, position: Position, entries: Vec<Entry> },
    /// Our log up to there goes, but for its newest entry.
    Trim(u64),
    /// Places go, rows come.
    Replace { gone: Vec<Place>, rows: Vec<Row> },
    /// Lines of outboxes, by node and place, come; None: go.
    Outbox(BTreeMap<(String, u64), Option<Vec<u8>>>),
    /// All of one outbox goes into another.
    MoveOutbox { from: String, to: String },
    /// A fact about the database.
    Meta { name: String, value: Vec<u8> },
    /// Another node writes from now on.
    TakePen { former: u64, term: u64, node: String },
    /// The one that writes lives.
    Beat,
}

/// How far attempts came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// Nothing of it can be there.
    Nothing,
    /// COMMIT was sent: unless the server says so, nobody knows.
    Commit,
}

impl Write {
    /// The home's commit of these; `here`: of their changes only those.
    pub(super) fn home(entries: Vec<Entry>, here: Option<Vec<Change>>) -> Write {
        let encoded = entries.iter().map(Entry::encode).collect();
        Write::Home { entries, encoded, here }
    }

    /// Whether it must be known in the end if it was done: others count on.
    pub(super) fn must_be_known(&self) -> bool {
        matches!(self, Write::Home { .. })
    }
}

impl Signed {
    /// One attempt. `reached`: how far the earlier ones came, and then how far any of them did. If this one fails after `Reached::Commit` in doubt,
    /// nothing can be said about what is there before another one has succeeded.
    pub(super) async fn attempt<D: Driver>(
        &self,
        lent: &mut Lent<D>,
        reached: &mut Reached,
    ) -> Result<(), Failed> {
        if !self.prepare(lent, reached).await? {
            // It has been done before, and nothing is left to do.
            return lent.commit().await;
        }
        let before = std::mem::replace(reached, Reached::Commit);
        let done = lent.commit().await;
        if let Err(Failed::Sql(Error::Database(_))) = &done {
            // The server has said no.
            *reached = before;
        }
        done
    }

    /// All of the transaction but its end. False: it has been done before.
    async fn prepare<D: Driver>(
        &self,
        lent: &mut Lent<D>,
        reached: &mut Reached,
    ) -> Result<bool, Failed> {
        // What nobody knows is found out also from a server that is slow with everything.
        lent.begin(*reached == Reached::Commit && self.write.must_be_known()).await?;
        if self.pen != 0 {
            // Locked against a change of hands until this transaction has ended, not against others of the same hand.
            let rows = lent.select(D::SHARE_TERM, &[]).await?;
            let term = rows.first().map_or(Ok(0), |row| D::int(row, 0)).map_err(Failed::Sql)?;
            if term as u64 != self.pen {
                return Err(StorageError::Superseded.into());
            }
        }
        match &self.write {
            Write::Home { entries, encoded, here } => {
                return commit_home(lent, entries, encoded, here.as_deref(), reached).await;
            }
            Write::Apply { home, position, entries } => {
                let set = [
                    Value::Text(home),
                    Value::Int(position.log as i64),
                    Value::Int(position.seq as i64),
                ];
                lent.run(D::PUT_APPLIED, &set).await?;
                effect(lent, &Effect::of(changes(entries))).await?;
            }
            Write::Trim(upto) => {
                const TRIM: &str = "DELETE FROM durable_log WHERE seq <= ? \
                     AND seq < (SELECT seq FROM log_head WHERE one = 1)";
                let upto = i64::try_from(*upto).unwrap_or(i64::MAX);
                lent.run(TRIM, &[Value::Int(upto)]).await?;
            }
            Write::Replace { gone, rows } => effect(lent, &Effect::of_rows(gone, rows)).await?,
            Write::Outbox(lines) => outbox(lent, lines).await?,
            // It is there already.
            Write::MoveOutbox { from, to } if from == to => {}
            Write::MoveOutbox { from, to } => {
                // What both have is the newer one's. MySQL takes the table that it deletes from only as one that is not merged (DISTINCT).
                const ROOM: &str = "DELETE FROM outbox WHERE node = ? AND place IN \
                     (SELECT place FROM (SELECT DISTINCT place FROM outbox WHERE node = ?) AS newer)";
                const MOVE: &str = "UPDATE outbox SET node = ? WHERE node = ?";
                let both = [Value::Text(to), Value::Text(from)];
                lent.run(ROOM, &both).await?;
                lent.run(MOVE, &both).await?;
            }
            Write::Meta { name, value } => {
                lent.run(D::PUT_META, &[Value::Text(name), Value::Bytes(value)]).await?;
            }
            Write::TakePen { former, term, node } => {
                return take_pen(lent, *former, *term, node).await;
            }
            Write::Beat => {
                lent.run("UPDATE beats SET beat = beat + 1 WHERE one = 1", &[]).await?;
            }
        }
        Ok(true)
    }
}

/// False: it has been done before.
async fn take_pen<D: Driver>(
    lent: &mut Lent<D>,
    former: u64,
    term: u64,
    node: &str,
) -> Result<bool, Failed> {
    const KNOWN: &str = "SELECT term, node FROM scribe WHERE one = 1 FOR UPDATE";
    const TAKE: &str = "UPDATE scribe SET term = ?, node = ? WHERE one = 1";
    let rows = lent.select(KNOWN, &[]).await?;
    let Some(row) = rows.first() else {
        return Err(StorageError::Damaged("the scribe's row is missing".into()).into());
    };
    let known = D::int(row, 0).map_err(Failed::Sql)? as u64;
    if known == term && D::text(row, 1).map_err(Failed::Sql)? == node {
        return Ok(false);
    }
    if known != former {
        return Err(StorageError::Superseded.into());
    }
    lent.run(TAKE, &[Value::Int(term as i64), Value::Text(node)]).await?;
    Ok(true)
}

/// False: it has been done before.
async fn commit_home<D: Driver>(
    lent: &mut Lent<D>,
    entries: &[Entry],
    encoded: &[Vec<u8>],
    here: Option<&[Change]>,
    reached: &mut Reached,
) -> Result<bool, Failed> {
    const HEAD: &str = "SELECT seq FROM log_head WHERE one = 1 FOR UPDATE";
    const ENTRY: &str = "SELECT entry FROM durable_log WHERE seq = ?";
    const SET_HEAD: &str = "UPDATE log_head SET seq = ? WHERE one = 1";
    let (Some(last), Some(last_encoded)) = (entries.last(), encoded.last()) else {
        return Ok(true);
    };
    let rows = lent.select(HEAD, &[]).await?;
    let head = rows.first().map_or(Ok(0), |row| D::int(row, 0)).map_err(Failed::Sql)?;
    if *reached == Reached::Commit && head as u64 == last.seq {
        let rows = lent.select(ENTRY, &[Value::Int(head)]).await?;
        let entry = rows.first().map_or(Ok(None), |row| D::bytes(row, 0)).map_err(Failed::Sql)?;
        if entry.as_ref() == Some(last_encoded) {
            return Ok(false);
        }
    }
    check_order(head as u64, entries)?;
    // What was in doubt is not: this follows the head, whose row is locked, so no earlier attempt has been done or is on its way.
    *reached = Reached::Nothing;
    match here {
        None => effect(lent, &Effect::of(changes(entries))).await?,
        Some(here) => effect(lent, &Effect::of(here.iter())).await?,
    }
    let columns = [
        Column::Ints(entries.iter().map(|entry| entry.seq as i64).collect()),
        Column::Ints(entries.iter().map(|entry| i64::from(entry.shard)).collect()),
        Column::Ints(entries.iter().map(|entry| entry.epoch as i64).collect()),
        Column::Bytes(encoded.iter().map(|entry| &**entry).collect()),
    ];
    lent.bulk(Bulk::PutLog, &columns).await?;
    lent.run(SET_HEAD, &[Value::Int(last.seq as i64)]).await?;
    Ok(true)
}

async fn outbox<D: Driver>(
    lent: &mut Lent<D>,
    lines: &BTreeMap<(String, u64), Option<Vec<u8>>>,
) -> Result<(), Failed> {
    let (mut nodes, mut places, mut put) = (Vec::new(), Vec::new(), Vec::new());
    let (mut nodes_gone, mut places_gone) = (Vec::new(), Vec::new());
    for ((node, place), line) in lines {
        match line {
            Some(line) => {
                nodes.push(&**node);
                places.push(to_sql(*place));
                put.push(&**line);
            }
            None => {
                nodes_gone.push(&**node);
                places_gone.push(to_sql(*place));
            }
        }
    }
    let columns = [Column::Texts(nodes), Column::Ints(places), Column::Bytes(put)];
    lent.bulk(Bulk::PutOutbox, &columns).await?;
    let columns = [Column::Texts(nodes_gone), Column::Ints(places_gone)];
    lent.bulk(Bulk::DeleteOutbox, &columns).await
}

async fn effect<D: Driver>(lent: &mut Lent<D>, effect: &Effect<'_>) -> Result<(), Failed> {
    let names = effect.names();
    for (bulk, columns) in effect.statements(&names) {
        lent.bulk(bulk, &columns).await?;
    }
    Ok(())
}
