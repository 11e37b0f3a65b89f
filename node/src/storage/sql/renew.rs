//! Other connections to the same database while it is used: another address, another password, more of them.
//!
//! That it is the same is known by the facts that it keeps about itself: the name of its log, or whose partition it is. And it must have all that
//! was committed: a stand-in that followed at its leisure may lack what was acknowledged. So every handle remembers what it has seen of what only
//! grows, whoever wrote it, and asks the one in use once more, if that still answers. What is under way on the old connections ends there; what
//! fails there is tried again on the new ones, as after any other loss of a connection.
//!
//! Deliberately absent: outboxes. A row of them is in no order with the rest, and what a node has put there it still has in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::ConnectOptions;
use tokio::time::timeout;

use super::driver::{Conn, Driver, RowOf, Value};
use super::write::Write;
use super::{Inner, Link, ServerConfig, failed_read, positioned};
use crate::storage::{Position, Renewal, StorageError};

/// The facts by which a database is known.
const FACTS: [&str; 2] = ["log", "partition"];

/// What is known of a database. Copies follow in the order of commits, so one that has all of this has all that was committed before.
#[derive(Debug, Default, Clone)]
pub(super) struct Known {
    facts: BTreeMap<&'static str, Vec<u8>>,
    /// The newest entry of its log.
    head: u64,
    /// How far other logs have been applied: other regions', and the own one in a partition.
    applied: BTreeMap<String, Position>,
    /// Who writes it: the term, and the newest beat.
    term: u64,
    beat: u64,
}

impl Known {
    /// A fact was read.
    pub(super) fn fact(&mut self, name: &str, value: &[u8]) {
        if let Some(fact) = FACTS.into_iter().find(|fact| *fact == name) {
            self.facts.insert(fact, value.to_vec());
        }
    }

    /// Its log goes to there, at least.
    pub(super) fn head(&mut self, seq: u64) {
        self.head = self.head.max(seq);
    }

    /// A log has been applied up to there, at least.
    pub(super) fn applied(&mut self, region: &str, position: Position) {
        match self.applied.get_mut(region) {
            Some(known) if known.log == position.log => known.seq = known.seq.max(position.seq),
            Some(known) => *known = position,
            None => drop(self.applied.insert(region.to_owned(), position)),
        }
    }

    /// Somebody writes it, and has come to that beat.
    pub(super) fn scribe(&mut self, term: u64, beat: u64) {
        self.term = self.term.max(term);
        self.beat = self.beat.max(beat);
    }

    /// Something was written.
    pub(super) fn written(&mut self, write: &Write) {
        match write {
            Write::Meta { name, value } => self.fact(name, value),
            Write::Home { entries, .. } => {
                entries.iter().for_each(|entry| self.head(entry.seq));
            }
            Write::Apply { home, position, .. } => self.applied(home, *position),
            Write::TakePen { term, .. } => self.scribe(*term, 0),
            _ => {}
        }
    }

    /// All of that is known too, if it is the same: another may answer under its address by now.
    fn saw(&mut self, other: Known) {
        if self.differs(&other).is_some() {
            return;
        }
        for (fact, value) in other.facts {
            self.facts.entry(fact).or_insert(value);
        }
        self.head(other.head);
        other.applied.iter().for_each(|(region, position)| self.applied(region, *position));
        self.scribe(other.term, other.beat);
    }

    /// Why that one does not take its place.
    fn refuses(&self, found: &Known) -> Option<String> {
        if self.facts.is_empty() {
            return Some("nothing is known yet of the one in use".to_owned());
        }
        if let Some(fact) = self.differs(found) {
            let what = if found.facts.contains_key(fact) { "another" } else { "no" };
            return Some(format!("it is another database: its {fact} is {what} one"));
        }
        self.lacks(found).map(|what| format!("it lacks changes that were acknowledged: {what}"))
    }

    /// The fact by which that is not the same database.
    fn differs(&self, found: &Known) -> Option<&'static str> {
        let differs = |(fact, value): &(&&str, &Vec<u8>)| found.facts.get(**fact) != Some(*value);
        self.facts.iter().find(differs).map(|(fact, _)| *fact)
    }

    /// What that one has not come to.
    fn lacks(&self, found: &Known) -> Option<String> {
        let (has, head) = (found.head, self.head);
        if has < head {
            return Some(format!("its log ends with {has}, not {head}"));
        }
        for (region, at) in &self.applied {
            // Of another life of that log: which is newer cannot be told.
            match found.applied.get(region) {
                Some(has) if has.log != at.log || has.seq >= at.seq => {}
                Some(has) => {
                    let (has, seq) = (has.seq, at.seq);
                    return Some(format!("it has {has} of the log of {region}, not {seq}"));
                }
                None => return Some(format!("it has nothing of the log of {region}")),
            }
        }
        if found.term < self.term || found.beat < self.beat {
            let (has, known) = ((found.term, found.beat), (self.term, self.beat));
            return Some(format!("its writer's term and beat are {has:?}, not {known:?}"));
        }
        None
    }
}

pub(super) async fn renew<D: Driver>(
    inner: &Arc<Inner<D>>,
    storage: &config::Storage,
) -> Result<Renewal, StorageError> {
    let refuse = |why: String| StorageError::NotTheSame {
        name: storage.database.to_string(),
        used: inner.reading.name(),
        why,
    };
    let url =
        D::url(&storage.database).ok_or_else(|| refuse("it is of another kind".to_owned()))?;
    let config = ServerConfig::of(storage, url);
    let options = D::options(&config).map_err(|error| refuse(error.to_string()))?;
    if let Ok(Ok(used)) = timeout(config.timeout, Asked::<D>::Used(inner).look()).await {
        inner.known.lock().saw(used);
    }
    // Before the new one is looked at: what is written meanwhile need not be there yet.
    let known = inner.known.lock().clone();
    let looked = timeout(config.timeout * 2, look_at::<D>(&options)).await;
    let looked = looked.map_err(|_| refuse(format!("no answer in {:?}", config.timeout * 2)))?;
    let found = looked.map_err(|error| refuse(error.to_string()))?;
    if let Some(why) = known.refuses(&found) {
        return Err(refuse(why));
    }
    let inner = inner.clone();
    Ok(Box::new(move || {
        let name = config.name.clone();
        *inner.link.write() = Arc::new(Link::new(&config, options));
        inner.reading.renewed(name.clone());
        inner.writing.renewed(name.clone());
        tracing::info!(database = %name, "the database has new connections");
    }))
}

/// What a database says of itself, over one connection of its own.
async fn look_at<D: Driver>(options: &super::Options<D>) -> Result<Known, StorageError> {
    use sqlx::Connection;
    let mut asked = Asked::<D>::New(options.connect().await.map_err(failed_read)?);
    let found = asked.look().await?;
    if let Asked::New(conn) = asked {
        conn.close().await.map_err(failed_read)?;
    }
    Ok(found)
}

/// Who is asked.
enum Asked<'a, D: Driver> {
    /// The one in use.
    Used(&'a Inner<D>),
    /// The one that is to take its place.
    New(Conn<D>),
}

impl<D: Driver> Asked<'_, D> {
    async fn select(
        &mut self,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> Result<Vec<RowOf<D>>, StorageError> {
        match self {
            Asked::Used(inner) => inner.read(sql, values).await,
            Asked::New(conn) => D::select(conn, sql, values).await.map_err(failed_read),
        }
    }

    /// What it says of itself.
    async fn look(&mut self) -> Result<Known, StorageError> {
        let mut found = Known::default();
        for name in FACTS {
            let values = [Value::Text(name)];
            let rows = self.select("SELECT value FROM meta WHERE name = ?", &values).await?;
            let value = rows.first().map_or(Ok(None), |row| D::bytes(row, 0));
            if let Some(value) = value.map_err(failed_read)? {
                found.fact(name, &value);
            }
        }
        let rows = self.select("SELECT seq FROM log_head WHERE one = 1", &[]).await?;
        let head = rows.first().map_or(Ok(0), |row| D::int(row, 0)).map_err(failed_read)?;
        found.head(head as u64);
        for row in self.select("SELECT region, log, seq FROM applied", &[]).await? {
            let (region, position) = positioned::<D>(&row)?;
            found.applied(&region, position);
        }
        let rows = self.select("SELECT s.term, b.beat FROM scribe s, beats b", &[]).await?;
        if let Some(row) = rows.first() {
            let number = |at| D::int(row, at).map_err(failed_read);
            found.scribe(number(0)? as u64, number(1)? as u64);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(log: u64, seq: u64) -> Position {
        Position { log, seq }
    }

    /// One whose log has that name.
    fn known(log: &[u8]) -> Known {
        let mut known = Known::default();
        known.fact("log", log);
        known
    }

    fn check(known: &Known, found: &Known, expected: Option<&str>) {
        let refused = known.refuses(found);
        match expected {
            None => assert_eq!(refused, None),
            Some(expected) => {
                assert!(refused.as_ref().is_some_and(|why| why.contains(expected)), "{refused:?}");
            }
        }
    }

    #[test]
    fn another_database_is_refused() {
        check(&Known::default(), &known(b"a"), Some("nothing is known yet"));
        check(&known(b"a"), &known(b"a"), None);
        check(&known(b"a"), &known(b"b"), Some("its log is another one"));
        check(&known(b"a"), &Known::default(), Some("its log is no one"));
        let mut partition = Known::default();
        partition.fact("partition", b"1");
        partition.fact("genesis", b"of no account");
        check(&partition, &known(b"a"), Some("its partition is no one"));
    }

    #[test]
    fn a_stand_in_that_lacks_what_was_only_read_is_refused() {
        let mut used = known(b"a");
        used.head(9);
        let mut found = known(b"a");
        found.head(7);
        check(&used, &found, Some("its log ends with 7, not 9"));
        found.head(9);
        check(&used, &found, None);
        found.head(12);
        check(&used, &found, None);
        used.scribe(5, 40);
        found.scribe(5, 39);
        check(&used, &found, Some("term and beat are (5, 39), not (5, 40)"));
        found.scribe(4, 40);
        check(&used, &found, None);
        used.scribe(6, 0);
        check(&used, &found, Some("not (6, 40)"));
    }

    #[test]
    fn a_stand_in_that_lacks_what_was_applied_is_refused() {
        // A partition has no log of its own; that of its region is one it follows.
        for region in ["us", "~log"] {
            let mut used = Known::default();
            used.fact("partition", b"1");
            let mut found = used.clone();
            let write = |seq| Write::Apply {
                home: region.to_owned(),
                position: at(3, seq),
                entries: Vec::new(),
            };
            used.written(&write(8));
            check(&used, &found, Some("it has nothing of the log of"));
            found.applied(region, at(3, 7));
            check(&used, &found, Some("it has 7 of the log of"));
            found.written(&write(8));
            check(&used, &found, None);
            // What is read late is no step back.
            used.applied(region, at(3, 5));
            found.applied(region, at(3, 5));
            used.applied(region, at(3, 9));
            check(&used, &found, Some("it has 8 of the log of"));
            found.applied(region, at(4, 1));
            check(&used, &found, None);
        }
    }

    #[test]
    fn what_the_one_in_use_says_at_last_counts() {
        let mut used = known(b"a");
        used.head(7);
        let mut another = known(b"another answers there");
        another.fact("partition", b"somebody's");
        another.head(100);
        used.saw(another);
        let mut now = known(b"a");
        now.head(9);
        now.scribe(5, 3);
        now.applied("us", at(1, 1));
        used.saw(now);
        let mut found = known(b"a");
        found.head(8);
        check(&used, &found, Some("its log ends with 8, not 9"));
        found.head(9);
        found.applied("us", at(1, 1));
        check(&used, &found, Some("term and beat"));
        found.scribe(5, 3);
        check(&used, &found, None);
    }
}
