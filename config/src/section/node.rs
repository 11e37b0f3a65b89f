//! `[node]`: who this node is and where its files are. Its incarnation is made at start, never configured.

use std::path::PathBuf;
use std::time::Duration;

use crate::table::Table;
use crate::value::RegionName;

/// The `[node]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The region this node belongs to.
    pub region: String,
    /// Its number there, from 0; region and number together are its name, `eu-0`.
    pub index: u16,
    /// Where it keeps what it must not forget.
    pub data_dir: PathBuf,
    /// How long a graceful stop may take before what is left is cut.
    pub drain_deadline: Duration,
}

pub(crate) fn read(table: &Table<'_>) -> Node {
    Node {
        region: table.required::<RegionName>("region").0,
        index: table.value("index", 0),
        data_dir: table.path("data_dir", None),
        drain_deadline: table.between(
            "drain_deadline",
            Duration::from_secs(5),
            Duration::from_millis(100),
            Duration::from_secs(600),
            "a duration from \"100ms\" to \"10m\"",
        ),
    }
}
