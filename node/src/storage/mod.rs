//! Durable data in three shapes: one value (a map with the key `""`), a map of values, an archive (items with growing
//! ids). Every row has a store (`roster`, `offline`, …) and an owner (a bare JID: an account's or a room's).
//!
//! Features read here, from the local replica. Nobody but `homes` writes: its writer through [`Storage::commit_home`],
//! its replicas through [`Storage::apply`] and [`Storage::replace`]. A backend implements shapes and knows no feature;
//! it is finished when `suite.rs` passes. Deliberately absent: who may write what (that is `homes`), XML, transactions
//! that a feature could hold open.

pub mod holders;
pub mod memory;
pub mod mysql;
pub mod open;
mod paging;
pub mod partitioned;
pub mod postgres;
#[cfg(test)]
pub(crate) mod shaky;
mod sql;
pub mod sqlite;
#[cfg(test)]
mod suite;

use std::error::Error as StdError;
use std::fmt;

use futures_util::future::BoxFuture;
use replication::{Change, Entry};
use serde::{Deserialize, Serialize};
use xmpp::StanzaError;

use self::partitioned::Partitioned;

/// Why storage could not do what was asked. Nothing of the operation has happened, unless the variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The database could not be opened or brought to this version's tables.
    #[error("cannot open the database {name}: {cause}")]
    Open {
        /// File or URL, without secrets.
        name: String,
        /// What the driver said.
        cause: Cause,
    },
    /// A read failed.
    #[error("cannot read: {0}")]
    Read(Cause),
    /// A commit, an apply or a trim failed; its transaction was rolled back.
    #[error("cannot write: {0}")]
    Write(Cause),
    /// The entries handed to [`Storage::commit_home`] do not follow the log's head.
    #[error("log entry {found} handed in, the next one is {expected}")]
    Order {
        /// What the log needs next.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A stored value does not read back: another format, or damage.
    #[error("damaged or of an unknown format: {0}")]
    Damaged(String),
    /// The database cannot do it now, and may be able to later. It has been tried for a while.
    #[error("the database {name} {trouble}: {cause}")]
    Unavailable {
        /// File or URL, without secrets.
        name: String,
        /// In one word.
        trouble: Trouble,
        /// What the driver said.
        cause: String,
    },
    /// Another database does not take the place of the one in use.
    #[error("{name} does not take the place of {used}: {why}")]
    NotTheSame {
        /// The new one, without secrets.
        name: String,
        /// The one in use.
        used: String,
        /// What is different, or what went wrong.
        why: String,
    },
    /// Another node writes this database now ([`Storage::take_pen`]). Nothing was written, and nothing will be through this handle.
    #[error("another node of the region writes the database now")]
    Superseded,
    /// Storage is closing.
    #[error("storage is closed")]
    Closed,
}

/// What a user is told whose request needs a database that is not there now.
pub(crate) fn unavailable() -> StanzaError {
    StanzaError::resource_constraint()
        .with_text("the server's database is not available, try again later")
}

impl StorageError {
    /// What the user whose request it was is told. To wait, where waiting helps.
    pub fn stanza_error(&self) -> StanzaError {
        match self {
            StorageError::Unavailable { .. } => unavailable(),
            _ => StanzaError::internal_server_error(),
        }
    }

    /// The same for somebody else who waited for it: what the driver said as text.
    fn again(&self) -> StorageError {
        match self {
            StorageError::Open { name, cause } => {
                StorageError::Open { name: name.clone(), cause: cause.to_string().into() }
            }
            StorageError::Read(cause) => StorageError::Read(cause.to_string().into()),
            StorageError::Write(cause) => StorageError::Write(cause.to_string().into()),
            StorageError::Order { expected, found } => {
                StorageError::Order { expected: *expected, found: *found }
            }
            StorageError::Damaged(what) => StorageError::Damaged(what.clone()),
            StorageError::Unavailable { name, trouble, cause } => StorageError::Unavailable {
                name: name.clone(),
                trouble: *trouble,
                cause: cause.clone(),
            },
            StorageError::NotTheSame { name, used, why } => StorageError::NotTheSame {
                name: name.clone(),
                used: used.clone(),
                why: why.clone(),
            },
            StorageError::Superseded => StorageError::Superseded,
            StorageError::Closed => StorageError::Closed,
        }
    }
}

/// Who writes a database. The nodes of a region share one, and one of them writes it: its scribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scribe {
    /// Grows with every change of hands.
    pub term: u64,
    /// The node's name.
    pub node: String,
    /// Grows while it lives: [`Storage::beat`].
    pub beat: u64,
}

/// Why a database cannot do something now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be reached, or went away.
    Gone,
    /// It does not answer in time.
    Slow,
    /// It takes no changes: a stand-in, or an operator's wish.
    ReadOnly,
    /// Its disk is full.
    Full,
    /// It takes no more connections, or has no memory left.
    Crowded,
    /// Two transactions were in each other's way.
    Conflict,
    /// It does not let us in, or says something that we do not know.
    Refuses,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trouble::Gone => "cannot be reached",
            Trouble::Slow => "does not answer in time",
            Trouble::ReadOnly => "is read-only",
            Trouble::Full => "is full",
            Trouble::Crowded => "has no room for more work",
            Trouble::Conflict => "is at odds with itself",
            Trouble::Refuses => "refuses us",
        })
    }
}

/// What a driver said, kept whole.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// Puts other connections in force: see [`Storage::renew`].
pub type Renewal = Box<dyn FnOnce() + Send>;

/// What storage methods return. Dropping one before it is ready leaves either everything of a write or nothing.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, StorageError>>;

/// Which items of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Only ids greater than this.
    pub after: Option<u64>,
    /// Only ids smaller than this.
    pub before: Option<u64>,
    /// At most this many items.
    pub max: usize,
    /// Take the newest of what qualifies instead of the oldest. The answer is in growing order all the same.
    pub newest: bool,
    /// Only items with this mark.
    pub mark: Option<Mark>,
}

/// What an item's value begins with. A feature that puts something telling there (whom a message is with) can ask for items by it;
/// backends keep an index of it.
pub type Mark = [u8; MARK_BYTES];
/// How many bytes that is.
pub const MARK_BYTES: usize = 8;

impl Page {
    /// The oldest `max` items after `after`.
    pub const fn after(after: Option<u64>, max: usize) -> Page {
        Page { after, before: None, max, newest: false, mark: None }
    }

    /// The newest `max` items before `before`.
    pub const fn before(before: Option<u64>, max: usize) -> Page {
        Page { after: None, before, max, newest: true, mark: None }
    }

    /// Whether an item is one of those meant, whatever `max` says.
    pub fn has(&self, id: u64, value: &[u8]) -> bool {
        self.after.is_none_or(|after| id > after)
            && self.before.is_none_or(|before| id < before)
            && self.mark.is_none_or(|mark| value.starts_with(&mark))
    }
}

/// The place of one row among all rows: first all map rows, then all archive rows, each by store, owner and key or id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Place {
    /// Map shape: store, owner, key.
    Value(String, String, String),
    /// Archive shape: store, owner, id.
    Item(String, String, u64),
}

impl Place {
    /// Whose row.
    pub fn owner(&self) -> &str {
        match self {
            Place::Value(_, owner, _) | Place::Item(_, owner, _) => owner,
        }
    }
}

/// Where rows of one owner stand together: first all map shelves, then all archive shelves, each by store and owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shelf {
    /// Archive shape; else map shape.
    pub is_archive: bool,
    /// Of which store.
    pub store: String,
    /// Whose.
    pub owner: String,
}

/// One row as a snapshot carries it.
pub type Row = (Place, Vec<u8>);

/// How far a replica has applied a region's durable log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// Which life of that log: a region that lost its database begins another.
    pub log: u64,
    /// The last entry applied; 0 is before the first.
    pub seq: u64,
}

/// What a read of the log finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPage {
    /// The entries that follow, in order; empty at the head.
    Entries(Vec<Entry>),
    /// The entry that should come next was trimmed away: only a snapshot helps.
    Trimmed,
}

/// A range of places to be replaced by what another region has there (see [`Storage::replace`]).
pub struct Replace<'a> {
    /// Exclusive start; None: from the first place.
    pub from: Option<Place>,
    /// Inclusive end; None: to the last place.
    pub to: Option<Place>,
    /// Which owners' rows are replaced. Others' rows in the range stay, and rows for them are not taken.
    pub owned: &'a (dyn Fn(&str) -> bool + Sync),
    /// What stands in the range from now on, in order.
    pub rows: Vec<Row>,
}

/// A database. Object safe; every method may be called from many tasks at once.
pub trait Storage: Send + Sync + 'static {
    /// The value at one key (`""` for the one-value shape).
    fn get<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        key: &'a str,
    ) -> Answer<'a, Option<Vec<u8>>>;

    /// All values of one owner in one store, by key.
    fn map<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, Vec<(String, Vec<u8>)>>;

    /// A page of an archive, in growing order of ids.
    fn archive<'a>(
        &'a self,
        store: &'a str,
        owner: &'a str,
        page: Page,
    ) -> Answer<'a, Vec<(u64, Vec<u8>)>>;

    /// How many items a page of an archive has: its `max` at most. The items are not read.
    fn archive_count<'a>(&'a self, store: &'a str, owner: &'a str, page: Page) -> Answer<'a, u64>;

    /// How many items an owner's archive has.
    fn archive_len<'a>(&'a self, store: &'a str, owner: &'a str) -> Answer<'a, u64>;

    /// The first `max` owners after `after` (all: None) that have a value in a map store, in order of their bytes.
    fn owners<'a>(
        &'a self,
        store: &'a str,
        after: Option<&'a str>,
        max: usize,
    ) -> Answer<'a, Vec<String>>;

    /// The home's commit: the entries' changes and the entries themselves, in one transaction, durable when it returns.
    /// The first entry must follow the log's head.
    fn commit_home(&self, entries: Vec<Entry>) -> Answer<'_, ()>;

    /// The home's commit where rows live in several databases and the log in this one: all entries into the log, and of their changes only
    /// those that belong `here`. Else as [`Storage::commit_home`].
    fn commit_part(&self, entries: Vec<Entry>, here: Vec<Change>) -> Answer<'_, ()>;

    /// The replica's commit: changes of entries of `home`'s log and the position they lead to, in one transaction. The
    /// caller has checked their order; entries handed in here are not written to our own log.
    fn apply<'a>(
        &'a self,
        home: &'a str,
        position: Position,
        entries: Vec<Entry>,
    ) -> Answer<'a, ()>;

    /// How far `home`'s log has been applied here; None: never heard of it.
    fn applied<'a>(&'a self, home: &'a str) -> Answer<'a, Option<Position>>;

    /// The same of all logs of which anything has been.
    fn positions(&self) -> Answer<'_, Vec<(String, Position)>>;

    /// Entries of our own log after `after`, at most about `bytes_max` bytes but at least one entry if there is one.
    fn log_read(&self, after: u64, bytes_max: usize) -> Answer<'_, LogPage>;

    /// The sequence number of the newest entry of our own log; 0: none yet.
    fn log_head(&self) -> Answer<'_, u64>;

    /// Forgets entries up to `upto`, but never the newest one.
    fn log_trim(&self, upto: u64) -> Answer<'_, ()>;

    /// All rows after a place, in order, at most about `bytes_max` bytes but at least one row if there is one. Fewer
    /// than that does not mean the end; an empty answer does.
    fn rows(&self, after: Option<Place>, bytes_max: usize) -> Answer<'_, Vec<Row>>;

    /// The first `max` shelves after one that have anything, in order.
    fn shelves(&self, after: Option<Shelf>, max: usize) -> Answer<'_, Vec<Shelf>>;

    /// Makes a range equal to what a snapshot has there, in one transaction. Answers the places that are empty now.
    fn replace<'a>(&'a self, replace: Replace<'a>) -> Answer<'a, Vec<Place>>;

    /// What a node's outbox holds: orders and rows, in growing order. A node reads its own, once, at its start.
    fn outbox<'a>(&'a self, node: &'a str) -> Answer<'a, Vec<(u64, Vec<u8>)>>;

    /// Puts rows into a node's outbox and takes others out, in one transaction, durable when it returns. What is put again replaces,
    /// what is not there is as good as removed. Not part of any log: an outbox is one node's alone.
    fn outbox_write<'a>(
        &'a self,
        node: &'a str,
        put: Vec<(u64, Vec<u8>)>,
        remove: Vec<u64>,
    ) -> Answer<'a, ()>;

    /// Moves all that one outbox holds into another, in one transaction: whoever reads the former finds everything there or nothing. Of an
    /// order that both have the moved row stays.
    fn outbox_move<'a>(&'a self, from: &'a str, to: &'a str) -> Answer<'a, ()>;

    /// Who writes this database; None: nobody has yet.
    fn scribe(&self) -> Answer<'_, Option<Scribe>>;

    /// Becomes the one that writes, if the term is still `former` (0: nobody has yet). False: another was quicker. From then on every write of
    /// the former scribe is refused ([`StorageError::Superseded`]); what it had committed before is there to be read when this returns. A handle
    /// that has never taken the pen writes unchecked: tools before any node runs, and tests.
    fn take_pen<'a>(&'a self, former: u64, term: u64, node: &'a str) -> Answer<'a, bool>;

    /// Says that the scribe lives; see [`Scribe::beat`].
    fn beat(&self) -> Answer<'_, ()>;

    /// A small fact about this database itself (its log's identity, its genesis); not replicated.
    fn meta<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Vec<u8>>>;

    /// Writes such a fact.
    fn set_meta<'a>(&'a self, key: &'a str, value: Vec<u8>) -> Answer<'a, ()>;

    /// To a node that does not write: entries of `home`'s log (None: our own) were applied by the one that does, up to this position. What is read
    /// from now on has them, or is refused.
    fn heard(&self, _home: Option<&str>, _position: Position, _entries: &[Entry]) {}

    /// Why no change to that owner's data is to be begun now, as far as it is known without asking: the database they are in is away. What
    /// was begun all the same is done when it is back.
    fn refuses(&self, _owner: &str) -> Option<StorageError> {
        None
    }

    /// Connects as another configuration says, to the same database: under another address, with another password, with more connections. What is
    /// answered puts that in force: from then on it is used, and what is under way ends where it began, or is tried again there.
    fn renew<'a>(&'a self, storage: &'a config::Storage) -> Answer<'a, Renewal> {
        Box::pin(async move {
            Err(StorageError::NotTheSame {
                name: storage.database.to_string(),
                used: "this one".to_owned(),
                why: "it cannot be changed while it is in use".to_owned(),
            })
        })
    }

    /// Whether what was read last could be read, of that owner's database: from memory.
    fn is_well(&self, _owner: &str) -> bool {
        true
    }

    /// The several databases that this one is, if it is.
    fn partitions(&self) -> Option<&Partitioned> {
        None
    }

    /// Finishes what is running and closes; further calls answer [`StorageError::Closed`] or wait-free errors.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// About how many bytes a row takes in a page; pages are cut by this.
pub(crate) fn row_bytes(row: &Row) -> usize {
    let (store, owner, key) = match &row.0 {
        Place::Value(store, owner, key) => (store.len(), owner.len(), key.len()),
        Place::Item(store, owner, _) => (store.len(), owner.len(), 8),
    };
    store + owner + key + row.1.len() + 16
}

/// An id as a signed integer, in the same order: what databases have.
const fn to_sql(id: u64) -> i64 {
    (id ^ (1 << 63)) as i64
}

/// The id back from its column.
const fn from_sql(id: i64) -> u64 {
    (id as u64) ^ (1 << 63)
}

/// A change's effect by shape: on maps and archives alike.
pub(crate) fn changes(entries: &[Entry]) -> impl Iterator<Item = &Change> {
    entries.iter().flat_map(|entry| entry.changes.iter())
}

/// Checks that entries are dense and follow `head`.
pub(crate) fn check_order(head: u64, entries: &[Entry]) -> Result<(), StorageError> {
    match (head + 1..).zip(entries).find(|(expected, entry)| entry.seq != *expected) {
        Some((expected, entry)) => Err(StorageError::Order { expected, found: entry.seq }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_order_as_signed_numbers() {
        let ids = [0, 1, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX];
        assert!(ids.map(to_sql).is_sorted());
        assert_eq!(ids.map(to_sql).map(from_sql), ids);
    }

    #[test]
    fn who_can_wait_for_a_database_is_told_to() {
        use Trouble::{Conflict, Crowded, Full, Gone, ReadOnly, Slow};
        let away = [Gone, Slow, ReadOnly, Full, Crowded, Conflict].map(|trouble| {
            let (name, cause) = (String::new(), String::new());
            StorageError::Unavailable { name, trouble, cause }
        });
        let broken = [
            StorageError::Open { name: String::new(), cause: "x".into() },
            StorageError::Read("x".into()),
            StorageError::Write("x".into()),
            StorageError::Order { expected: 1, found: 2 },
            StorageError::Damaged(String::new()),
            StorageError::Superseded,
            StorageError::Closed,
        ];
        let check = |error: &StorageError, expected: &str| {
            let said = error.stanza_error();
            let said = format!("{}/{}", said.condition.name(), said.type_.name());
            assert_eq!(said, expected, "{error:?}");
        };
        away.iter().for_each(|error| check(error, "resource-constraint/wait"));
        broken.iter().for_each(|error| check(error, "internal-server-error/cancel"));
    }
}
