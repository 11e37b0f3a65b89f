//! `[invitations]`: tokens that make a contact of whoever brings them (XEP-0379), or an account (XEP-0401, XEP-0445).

use std::time::Duration;

use toml::de::DeValue;

use crate::table::Table;
use crate::value::{FromToml, describe};

/// What stands for the token in `invitations.landing_url`.
const TOKEN: &str = "{token}";

/// Whose invitations may be used to make an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inviters {
    /// Nobody's: there are none.
    Nobody,
    /// The operator's, made with `pangaea ctl invite`, alone.
    Operator,
    /// Those of the accounts of `[admin]` too.
    Admins,
    /// Those of every account.
    Users,
}

impl FromToml for Inviters {
    fn expected() -> String {
        "\"nobody\", \"operator\", \"admins\" or \"users\"".to_owned()
    }
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str() {
            Some("nobody") => Ok(Inviters::Nobody),
            Some("operator") => Ok(Inviters::Operator),
            Some("admins") => Ok(Inviters::Admins),
            Some("users") => Ok(Inviters::Users),
            _ => Err(describe(value)),
        }
    }
    fn stand_in() -> Self {
        Inviters::Nobody
    }
}

/// The `[invitations]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invitations {
    /// Whether users may make invitations to become their contact. If not: `forbidden`.
    pub contacts: bool,
    /// Whose invitations may be used to make an account.
    pub accounts: Inviters,
    /// How long an invitation is good.
    pub expire: Duration,
    /// Invitations of one account, or of the operator, that are still good. Beyond: refused with `resource-constraint`.
    pub open_max: usize,
    /// Where a page about an invitation is, with `{token}` in the token's place. Named beside the URI.
    pub landing_url: Option<String>,
}

pub(crate) fn read(table: &Table<'_>) -> Invitations {
    let invitations = Invitations {
        contacts: table.value("contacts", true),
        accounts: table.value("accounts", Inviters::Admins),
        expire: table.between(
            "expire",
            Duration::from_secs(7 * 86_400),
            Duration::from_secs(60),
            Duration::from_secs(365 * 86_400),
            "a duration from \"1m\" to \"365d\"",
        ),
        open_max: table.between("open_max", 100, 1, 10_000, "a number from 1 to 10000"),
        landing_url: table.optional("landing_url"),
    };
    if let Some(url) = invitations.landing_url.as_ref()
        && !(url.starts_with("https://") && url.contains(TOKEN))
    {
        table.refuse(
            "landing_url",
            format!("a URL that begins with https:// and has {TOKEN} in it"),
            format!("{url:?}"),
        );
    }
    invitations
}
