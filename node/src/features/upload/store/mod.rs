//! Where files are: what a store can do. `disk` is a directory that the nodes of a region share, `s3` a bucket. A file has its token as its name,
//! is written once, and is there whole or not at all. Who may write what is `http`'s business, how much there may be `home`'s.

pub(crate) mod disk;
pub(crate) mod s3;
mod sign;

use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use super::slot::Token;

/// Why a store did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is a file of that name, or it is on its way.
    #[error("it is there already")]
    Exists,
    /// The disk or the bucket.
    #[error("{0}")]
    Failed(String),
}

impl From<std::io::Error> for StoreError {
    fn from(cause: std::io::Error) -> StoreError {
        match cause.kind() {
            std::io::ErrorKind::AlreadyExists => StoreError::Exists,
            _ => StoreError::Failed(cause.to_string()),
        }
    }
}

/// What a store says of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Its bytes.
    pub(crate) size: u64,
    /// What it was said to be.
    pub(crate) content_type: String,
    /// Whose it is, as `slot::owner` writes it.
    pub(crate) owner: String,
    /// When it came, in seconds since 1970.
    pub(crate) since_s: u64,
}

/// What a store answers.
pub(crate) type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Bytes of a file, in order.
pub(crate) type Content = BoxStream<'static, std::io::Result<Bytes>>;

/// A store.
pub(crate) trait Store: Send + Sync {
    /// Makes what it needs before the first file, in that life of the node: what is left of others goes. Blocks; called once.
    fn prepare(&self, _life: u64) -> std::io::Result<()> {
        Ok(())
    }

    /// Begins a file. It will be as large as `meta` says.
    fn create<'a>(&'a self, token: &'a Token, meta: Meta) -> Answer<'a, Box<dyn Sink>>;

    /// What is known of a file; `None`: there is none.
    fn meta<'a>(&'a self, token: &'a Token) -> Answer<'a, Option<Meta>>;

    /// These bytes of a file that is there.
    fn read<'a>(&'a self, token: &'a Token, range: Range<u64>) -> Answer<'a, Content>;

    /// Removes a file, if it is there.
    fn remove<'a>(&'a self, token: &'a Token, owner: &'a str) -> Answer<'a, ()>;

    /// Removes all files of one owner.
    fn remove_owner<'a>(&'a self, owner: &'a str) -> Answer<'a, usize>;

    /// Removes what is past, and says how many that were.
    fn sweep(&self, now_s: u64) -> Answer<'_, usize>;
}

/// A file that is on its way in. Dropped before it is finished, it leaves nothing.
pub(crate) trait Sink: Send {
    /// The next bytes.
    fn write(&mut self, bytes: Bytes) -> Answer<'_, ()>;

    /// It is whole: durable, and there for everybody, when this is answered.
    fn finish(self: Box<Self>) -> Answer<'static, ()>;
}
