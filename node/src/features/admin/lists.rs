//! XEP-0133 §4.13 to §4.22: how many users there are, and who. Registered and disabled ones are counted in the local replica, which has
//! all of them; who is online is in the session table, which knows every region's.

use std::collections::BTreeMap;

use xmpp::jid::BareJid;
use xmpp::payload::data_form::{Field, FieldKind};
use xmpp::stanza::error::StanzaError;

use super::{AdminCommand, node, result};
use crate::app::Node;
use crate::features::adhoc::command::{Asked, Done, Note};
use crate::homes::accounts::{ACCOUNTS, Account};
use crate::storage::Place;

/// Names in one list, whatever was asked for: more do not fit into an answer. A note says that it was cut.
const LIST_MAX: usize = 5_000;
/// Bytes of accounts read at once.
const PAGE_BYTES: usize = 256 << 10;

/// Which users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Registered,
    Disabled,
    Online,
    Active,
    Idle,
}

impl Which {
    /// In the names of fields.
    fn name(self) -> &'static str {
        match self {
            Which::Registered => "registered",
            Which::Disabled => "disabled",
            Which::Online => "online",
            Which::Active => "active",
            Which::Idle => "idle",
        }
    }
}

/// Those here.
pub(super) fn commands() -> Vec<AdminCommand> {
    macro_rules! number {
        ($node:literal, $which:ident) => {
            AdminCommand {
                node: node!($node),
                name: concat!("Get the number of ", stringify!($which), " users"),
                fields: None,
                run: |asked| Box::pin(number(asked, Which::$which)),
            }
        };
    }
    macro_rules! list {
        ($node:literal, $which:ident) => {
            AdminCommand {
                node: node!($node),
                name: concat!("Get a list of ", stringify!($which), " users"),
                fields: Some(|| vec![max_items()]),
                run: |asked| Box::pin(list(asked, Which::$which)),
            }
        };
    }
    vec![
        number!("get-registered-users-num", Registered),
        number!("get-disabled-users-num", Disabled),
        number!("get-online-users-num", Online),
        number!("get-active-users-num", Active),
        number!("get-idle-users-num", Idle),
        list!("get-registered-users-list", Registered),
        list!("get-disabled-users-list", Disabled),
        list!("get-online-users-list", Online),
        list!("get-active-users", Active),
        list!("get-idle-users", Idle),
    ]
}

fn max_items() -> Field {
    let field = Field::empty("max_items", FieldKind::ListSingle).with_label("How many at most");
    let numbers = ["25", "50", "75", "100", "150", "200", "none"];
    numbers.iter().fold(field, |field, number| field.with_option(number, number))
}

async fn number(asked: Asked, which: Which) -> Result<Done, StanzaError> {
    let mut count = 0u64;
    users(&asked.node, which, |_| {
        count += 1;
        true
    })
    .await?;
    let var = format!("{}usersnum", which.name());
    let field = Field::new(&var, FieldKind::TextSingle, &count.to_string())
        .with_label(&format!("The number of {} users", which.name()));
    Ok(Done::form(&result().with_field(field)))
}

async fn list(asked: Asked, which: Which) -> Result<Done, StanzaError> {
    let wanted = match asked.value("max_items") {
        // Prosody's word for it is the second.
        None | Some("none" | "all") => LIST_MAX,
        Some(number) => number.parse().map_err(|_| StanzaError::not_acceptable())?,
    };
    let max = wanted.min(LIST_MAX);
    let mut found = Vec::new();
    let mut cut = false;
    users(&asked.node, which, |jid| {
        cut = found.len() >= max;
        if !cut {
            found.push(jid.to_owned());
        }
        !cut
    })
    .await?;
    let var = format!("{}userjids", which.name());
    let field = Field { values: found, ..Field::empty(&var, FieldKind::JidMulti) }
        .with_label(&format!("The list of {} users", which.name()));
    let mut done = Done::form(&result().with_field(field));
    if cut && wanted > max {
        done.notes.push((Note::Warn, format!("These are the first {max}.")));
    }
    Ok(done)
}

/// Each of them once, in order of name, until `visit` has enough.
async fn users(
    node: &Node,
    which: Which,
    mut visit: impl FnMut(&str) -> bool,
) -> Result<(), StanzaError> {
    if matches!(which, Which::Registered | Which::Disabled) {
        return registered(node, which == Which::Disabled, visit).await;
    }
    let mut online = BTreeMap::<BareJid, bool>::new();
    node.directory.for_each(|row| {
        if node.domains.has_accounts(row.full.domain()) {
            *online.entry(row.full.bare()).or_default() |= row.available && !row.hidden;
        }
    });
    for (jid, active) in online {
        let counts = match which {
            Which::Active => active,
            Which::Idle => !active,
            _ => true,
        };
        if counts && !visit(jid.as_str()) {
            break;
        }
    }
    Ok(())
}

async fn registered(
    node: &Node,
    disabled_only: bool,
    mut visit: impl FnMut(&str) -> bool,
) -> Result<(), StanzaError> {
    let mut after = Place::Value(ACCOUNTS.to_owned(), String::new(), String::new());
    loop {
        let rows = node.storage.rows(Some(after.clone()), PAGE_BYTES).await.map_err(|error| {
            tracing::error!(%error, "the accounts cannot be read");
            error.stanza_error()
        })?;
        let Some((last, _)) = rows.last() else { return Ok(()) };
        after = last.clone();
        for (place, value) in rows {
            let Place::Value(store, owner, _) = place else { return Ok(()) };
            if store != ACCOUNTS {
                return Ok(());
            }
            let disabled = || Account::decode(&value).is_ok_and(|account| account.disabled);
            if (!disabled_only || disabled()) && !visit(&owner) {
                return Ok(());
            }
        }
    }
}
