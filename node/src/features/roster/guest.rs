//! Rosters of guests (XEP-0175): they live as long as the session, in what is held here of it (`cache`), and nowhere else. A guest has one
//! session, so the node that has it is the one writer; what follows from a change is what follows from one that a home committed.
//! Deliberately absent: subscriptions. They would outlive the guest in the contact's roster.

use std::sync::Arc;

use replication::durable_log::Change;
use xmpp::jid::BareJid;

use super::home::{Answer, Request};
use super::record::{Contact, ROSTER, VERSION};
use crate::app::Node;
use crate::feature::Ctx;
use crate::router;
use crate::storage::StorageError;

/// Does to a guest's roster what a home would do to an account's. `NoAccount`: it is no guest of this node, or asks for what guests
/// do not have.
///
/// # Errors
/// The roster cannot be had.
pub async fn ask(
    node: &Arc<Node>,
    guest: &BareJid,
    request: &Request,
) -> Result<Answer, StorageError> {
    if router::perform::seats_of(node, guest.as_str()).is_empty() {
        return Ok(Answer::NoAccount);
    }
    let roster = node.rosters.load(node, guest).await?;
    let owner = || guest.as_str().to_owned();
    let (change, answer) = match request {
        Request::Set { contact, name, groups, items_max } => {
            let known = roster.contacts.get(contact);
            if known.is_none() && roster.contacts.len() >= *items_max as usize {
                return Ok(Answer::TooMany);
            }
            let record = Contact {
                name: name.clone(),
                groups: groups.clone(),
                listed: true,
                push: true,
                ..Contact::default()
            };
            let (key, value) = (contact.as_str().to_owned(), record.encode());
            (Change::Put { store: ROSTER.into(), owner: owner(), key, value }, Answer::Done)
        }
        Request::Remove { contact } => {
            let Some(known) = roster.contacts.get(contact) else { return Ok(Answer::NotFound) };
            let key = contact.as_str().to_owned();
            let answer = Answer::Removed(known.state);
            (Change::Delete { store: ROSTER.into(), owner: owner(), key }, answer)
        }
        Request::Out { .. } | Request::In { .. } => return Ok(Answer::NoAccount),
    };
    let version = Change::Put {
        store: VERSION.into(),
        owner: owner(),
        key: String::new(),
        value: (roster.version + 1).to_le_bytes().to_vec(),
    };
    let mut ctx = Ctx::new(node, None);
    for change in [version, change] {
        node.features.changed(&mut ctx, &change, false);
    }
    router::perform(node, None, ctx.actions);
    Ok(answer)
}
