//! `[registration]`: accounts that people make for themselves (XEP-0077).

use crate::table::Table;

/// The `[registration]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Whether anybody may make an account.
    pub enabled: bool,
    /// Accounts from one IP address in ten minutes. Beyond: refused with `resource-constraint`.
    pub per_address_per_10min: u32,
}

pub(crate) fn read(table: &Table<'_>) -> Registration {
    Registration {
        enabled: table.value("enabled", false),
        per_address_per_10min: table.between(
            "per_address_per_10min",
            5,
            1,
            1_000_000,
            "a number from 1 to 1000000",
        ),
    }
}
