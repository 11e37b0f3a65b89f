//! `kind = "program"`: a program of the operator's, spoken to over pipes as ejabberd does it (`extauth`).

use toml::de::DeValue;

use super::{Bounds, bounds};
use crate::table::Table;
use crate::value::{FromToml, describe};

/// One program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The program and its arguments. It is not run by a shell.
    pub command: Vec<String>,
    /// Its bounds; `at_once_max` is the number of processes.
    pub bounds: Bounds,
}

pub(super) fn read(table: &Table<'_>) -> Program {
    Program { command: table.required::<Command>("command").0, bounds: bounds(table, 2) }
}

struct Command(Vec<String>);

impl FromToml for Command {
    fn expected() -> String {
        "a program and its arguments, as in [\"/usr/local/bin/authenticate\", \"-v\"]".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let words = Vec::<String>::from_toml(value)?;
        match words.first() {
            Some(program) if !program.is_empty() => Ok(Command(words)),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        Command(Vec::new())
    }
}
