//! `[log]`: how much is logged, and in which form. The log goes to standard error.

use crate::table::Table;
use crate::value::{FromToml, describe};

/// The `[log]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level (`"info"`), or levels by target as `tracing` writes them (`"info,s2s=debug"`). `PANGAEA_LOG` wins.
    pub filter: String,
    /// Lines for people or for machines.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

impl FromToml for LogFormat {
    fn expected() -> String {
        "\"text\" or \"json\"".to_owned()
    }
    fn from_toml(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("text") => Ok(LogFormat::Text),
            Some("json") => Ok(LogFormat::Json),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        LogFormat::Text
    }
}

pub(crate) fn read(table: &Table<'_>) -> Log {
    Log {
        filter: table.value("filter", "info".to_owned()),
        format: table.value("format", LogFormat::Text),
    }
}
