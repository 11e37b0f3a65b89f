//! `[archive]`: what of people's messages is kept (XEP-0313), and for how long.

use std::time::Duration;

use crate::table::Table;
use crate::value::{FromToml, Size, describe};

/// What is archived for an account that has not said anything else (XEP-0441).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveDefault {
    /// Every message.
    Always,
    /// Messages with contacts.
    Roster,
    /// None.
    Never,
}

impl FromToml for ArchiveDefault {
    fn expected() -> String {
        "\"always\", \"roster\" or \"never\"".to_owned()
    }
    fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("always") => Ok(ArchiveDefault::Always),
            Some("roster") => Ok(ArchiveDefault::Roster),
            Some("never") => Ok(ArchiveDefault::Never),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        ArchiveDefault::Always
    }
}

/// The `[archive]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// Whether there are archives at all.
    pub enabled: bool,
    /// What is archived for an account that has not said anything else.
    pub default: ArchiveDefault,
    /// Messages kept for one account. Beyond: the oldest go, a hundredth of them at once.
    pub messages_max: usize,
    /// How long a message is kept; `None`: as long as there is room. Beyond: it goes when its account's archive is next written to, if the clocks
    /// of its home and of the node where that message enters both say so.
    pub age_max: Option<Duration>,
    /// Messages in one answer. Beyond: the answer says that there are more.
    pub page_max: usize,
    /// Bytes of messages on their way into archives from this node. Beyond: nothing more is read from those who send; to an account whose home
    /// cannot be reached the sender gets `resource-constraint` from half of it on.
    pub pending_bytes_max: usize,
    /// Addresses in one account's preferences. Beyond: refused with `resource-constraint`.
    pub preferences_max: usize,
}

pub(crate) fn read(table: &Table<'_>) -> Archive {
    let count = |key, default: usize| {
        table.between(key, default, 1, 1_000_000_000, "a number from 1 to 1000000000")
    };
    Archive {
        enabled: table.value("enabled", true),
        default: table.value("default", ArchiveDefault::Always),
        messages_max: count("messages_max", 100_000),
        age_max: table.optional("age_max"),
        page_max: count("page_max", 250),
        pending_bytes_max: table
            .between(
                "pending_bytes_max",
                Size(64 << 20),
                Size(1 << 20),
                Size(16 << 30),
                "a size from \"1MiB\" to \"16GiB\"",
            )
            .0,
        preferences_max: count("preferences_max", 500),
    }
}
