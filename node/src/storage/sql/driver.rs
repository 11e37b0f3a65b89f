//! What PostgreSQL and MySQL differ in, as one trait: how a statement is sent, what a row says, what an error means.
//!
//! Called by the rooms beside it only. Statements are written once, with `?` for each parameter, and must mean the same to both;
//! where they cannot (many rows in one statement), there is a [`Bulk`] that each driver writes in its own way.

use std::future::Future;
use std::ops::Range;

use sqlx::{Database, Error};

use super::{Options, ServerConfig};
use crate::storage::Trouble;

/// A parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    /// A number.
    Int(i64),
    /// A store, an owner, a region.
    Text(&'a str),
    /// A name, a value.
    Bytes(&'a [u8]),
}

/// One parameter of each of many rows.
#[derive(Debug)]
pub(crate) enum Column<'a> {
    /// Numbers.
    Ints(Vec<i64>),
    /// Stores, owners.
    Texts(Vec<&'a str>),
    /// Names, values.
    Bytes(Vec<&'a [u8]>),
    /// The same, where some have none.
    Maybe(Vec<Option<&'a [u8]>>),
}

/// What is done with many rows in one statement, and with which columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bulk {
    /// kv: store, owner, name, whole_name, value. What is there is replaced.
    PutValues,
    /// archive: store, owner, id, value. What is there is replaced.
    PutItems,
    /// durable_log: seq, shard, epoch, entry.
    PutLog,
    /// kv: store, owner, name.
    DeleteValues,
    /// archive: store, owner, id.
    DeleteItems,
    /// kv: store, owner.
    ClearValues,
    /// archive: store, owner, and the greatest id that goes.
    TrimItems,
    /// outbox: node, place, line. What is there is replaced.
    PutOutbox,
    /// outbox: node, place.
    DeleteOutbox,
}

/// What is read for many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BulkRead {
    /// By store, owner, name: the value.
    Values,
    /// By store, owner: the whole key and the value, in any order.
    Maps,
}

/// What was found for one of many: its number, from 0, and the cells that [`BulkRead`] says.
pub(crate) type Found = (usize, Vec<Vec<u8>>);

/// The connection of a driver.
pub(crate) type Conn<D> = <<D as Driver>::Db as Database>::Connection;
/// A row of a driver.
pub(crate) type RowOf<D> = <<D as Driver>::Db as Database>::Row;

/// One kind of server.
pub(crate) trait Driver: Send + Sync + 'static {
    /// Of sqlx.
    type Db: Database;

    /// What each new connection is told first.
    const GREETING: &'static [&'static str];
    /// Sets a region's position: region, log, seq.
    const PUT_APPLIED: &'static str;
    /// Sets a fact about the database: name, value.
    const PUT_META: &'static str;
    /// The term of the one that writes, which nobody may change before the transaction has ended.
    const SHARE_TERM: &'static str;

    /// How to connect.
    fn options(config: &ServerConfig) -> Result<Options<Self>, Error>;

    /// Where a database is, if it is of this kind.
    fn url(database: &config::Database) -> Option<&config::DatabaseUrl>;

    /// Sends a statement that has no parameters, unprepared: the beginning and the end of transactions.
    fn simple(
        conn: &mut Conn<Self>,
        sql: &'static str,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Runs a statement.
    fn run(
        conn: &mut Conn<Self>,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Runs a statement that answers.
    fn select(
        conn: &mut Conn<Self>,
        sql: &'static str,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<RowOf<Self>>, Error>> + Send;

    /// Does something to these of the rows that the columns hold; no two of them have the same key.
    fn bulk(
        conn: &mut Conn<Self>,
        bulk: Bulk,
        columns: &[Column<'_>],
        rows: Range<usize>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Reads for many at once.
    fn bulk_select(
        conn: &mut Conn<Self>,
        bulk: BulkRead,
        columns: &[Column<'_>],
    ) -> impl Future<Output = Result<Vec<Found>, Error>> + Send;

    /// A number out of a row.
    fn int(row: &RowOf<Self>, at: usize) -> Result<i64, Error>;
    /// A text out of a row.
    fn text(row: &RowOf<Self>, at: usize) -> Result<String, Error>;
    /// Bytes out of a row; NULL is none.
    fn bytes(row: &RowOf<Self>, at: usize) -> Result<Option<Vec<u8>>, Error>;

    /// What an error of the server means; None: it will mean the same the next time.
    fn trouble(error: &Error) -> Option<Trouble>;
}

/// What an error means that did not come from the server itself.
pub(crate) fn trouble_on_the_way(error: &Error) -> Option<Trouble> {
    match error {
        Error::Io(_) | Error::Tls(_) | Error::Protocol(_) => Some(Trouble::Gone),
        Error::PoolTimedOut => Some(Trouble::Slow),
        _ => None,
    }
}
