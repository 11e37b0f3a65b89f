//! The databases of a region as the admin API says them: plain values, JSON on the wire, described by OpenAPI.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /admin/storage`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageInfo {
    /// The main one first.
    pub databases: Vec<DatabaseInfo>,
    /// How far accounts are moved between them; absent where there is only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<MovesInfo>,
}

/// One database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatabaseInfo {
    /// 0: `storage.database`; else its place in `storage.partitions`, from 1.
    pub number: u8,
    /// File or URL, without secrets.
    pub name: String,
    /// How many of the 256 parts of all accounts are in it.
    pub slots: usize,
    /// Changes that it may not have yet.
    pub behind: u64,
    /// Why it is not used now, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub away: Option<String>,
}

/// How far accounts are moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovesInfo {
    /// Whether that goes on.
    pub running: bool,
    /// Slots that have arrived.
    pub moved: usize,
    /// Slots that have yet to.
    pub left: usize,
    /// Rows that were copied.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
    /// All have arrived, and the old rows are being removed.
    pub cleaning: bool,
    /// For so many seconds.
    pub seconds: u64,
    /// What keeps it from going on now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// `POST /admin/storage/rebalance`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebalance {
    /// Partitions that shall have nothing in the end, by number. All of them: everything goes back into the main database.
    #[serde(default)]
    pub without: Vec<u8>,
}
