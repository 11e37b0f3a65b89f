//! `[reports]`: what users report of others when they block them (XEP-0377).

use crate::table::Table;
use crate::value::AccountName;

/// The `[reports]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reports {
    /// Bare JIDs that are sent each report as a message. Empty: nobody.
    pub forward_to: Vec<String>,
    /// Reports kept on the platform. Beyond: the oldest goes.
    pub kept_max: u32,
    /// Reports of one account in a day. Beyond: the address is blocked, and the report is passed over.
    pub per_account_per_day: u32,
}

pub(crate) fn read(table: &Table<'_>) -> Reports {
    let most = "a number from 1 to 1000000";
    let forward_to: Vec<AccountName> = table.value("forward_to", Vec::new());
    Reports {
        forward_to: forward_to.into_iter().map(|account| account.0).collect(),
        kept_max: table.between("kept_max", 10_000, 1, 1_000_000, most),
        per_account_per_day: table.between("per_account_per_day", 20, 1, 1_000_000, most),
    }
}
