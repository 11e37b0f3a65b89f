//! `[node]`: who this node is and where its files are. Its incarnation is made at start, never configured.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use crate::table::Table;
use crate::value::{FromToml, RegionName, describe};

/// Where the sessions of a node go that is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainTo {
    /// To other nodes of its region; if it has none, they end.
    Region,
    /// If it has none, to nodes of other regions.
    Anywhere,
}

impl FromToml for DrainTo {
    fn expected() -> String {
        "\"region\" or \"anywhere\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("region") => Ok(DrainTo::Region),
            Some("anywhere") => Ok(DrainTo::Anywhere),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        DrainTo::Region
    }
}

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
    /// How many sessions a second leave a node that is emptied, if nobody says otherwise; a graceful stop takes as many as it needs.
    pub drain_rate: u32,
    /// Where they go.
    pub drain_to: DrainTo,
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
        drain_rate: table.between("drain_rate", 200, 1, 1_000_000, "a number from 1 to 1000000"),
        drain_to: table.value("drain_to", DrainTo::Region),
    }
}
