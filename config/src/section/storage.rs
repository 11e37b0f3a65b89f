//! `[storage]`: the region's database.

use std::path::PathBuf;

use crate::table::Table;
use crate::value::{FromToml, describe};

/// The `[storage]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    /// The SQLite file; by default `pangaea.sqlite` in the data directory. Made when it is not there.
    pub sqlite: PathBuf,
    /// When a commit counts as done.
    pub sync: Sync,
}

/// When a commit counts as done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// When it is on the disk: survives a power cut.
    Full,
    /// When the operating system has it: survives a crash of the process.
    Normal,
}

impl FromToml for Sync {
    fn expected() -> String {
        "\"full\" or \"normal\"".to_owned()
    }
    fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("full") => Ok(Sync::Full),
            Some("normal") => Ok(Sync::Normal),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        Sync::Full
    }
}

pub(crate) fn read(table: &Table<'_>) -> Storage {
    Storage {
        // Joined to node.data_dir by `check` when it is left out.
        sqlite: table.path("sqlite", Some(PathBuf::new())),
        sync: table.value("sync", Sync::Full),
    }
}
