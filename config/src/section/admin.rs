//! `[admin]`: who may use the admin API and `pangaea ctl`.

use crate::table::Table;
use crate::value::AccountName;

/// The `[admin]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Bare JIDs whose password opens the admin API. Empty: nobody.
    pub accounts: Vec<String>,
}

pub(crate) fn read(table: &Table<'_>) -> Admin {
    let accounts: Vec<AccountName> = table.value("accounts", Vec::new());
    Admin { accounts: accounts.into_iter().map(|account| account.0).collect() }
}
