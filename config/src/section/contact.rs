//! `[contact]`: whom to write to about this server (XEP-0157).

use crate::table::Table;
use crate::value::ContactUri;

/// The `[contact]` section: lists of addresses, each a URI. If all are empty, the administrators of `[admin]` are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contact {
    /// About abuse and spam.
    pub abuse: Vec<String>,
    /// Those who run it.
    pub admin: Vec<String>,
    /// Praise and blame.
    pub feedback: Vec<String>,
    /// Offers.
    pub sales: Vec<String>,
    /// Holes.
    pub security: Vec<String>,
    /// Where it says whether it works.
    pub status: Vec<String>,
    /// Help.
    pub support: Vec<String>,
}

impl Contact {
    /// Each list with its key.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &Vec<String>); 7] {
        [
            ("abuse", &self.abuse),
            ("admin", &self.admin),
            ("feedback", &self.feedback),
            ("sales", &self.sales),
            ("security", &self.security),
            ("status", &self.status),
            ("support", &self.support),
        ]
    }
}

pub(crate) fn read(table: &Table<'_>) -> Contact {
    let list = |key| {
        let uris: Vec<ContactUri> = table.value(key, Vec::new());
        uris.into_iter().map(|uri| uri.0).collect()
    };
    Contact {
        abuse: list("abuse"),
        admin: list("admin"),
        feedback: list("feedback"),
        sales: list("sales"),
        security: list("security"),
        status: list("status"),
        support: list("support"),
    }
}
