//! The end of an account (XEP-0077 §3.2), by its owner or the operator: everything of it goes at its home, in one step, and what follows
//! from that is done in every region (its sessions end, its contacts see them leave). Its subscriptions are cancelled at its contacts'
//! homes, as its roster had them.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use xmpp::jid::BareJid;

use crate::app::Node;
use crate::feature::Action;
use crate::features::presence::relation;
use crate::features::roster::record::{Contact, ROSTER};
use crate::features::roster::subscription::Kind;
use crate::homes::{HomeError, accounts};
use crate::router::perform;

/// Contacts told at the same time.
const AT_ONCE: usize = 8;

/// Removes it. `false`: there is no such account.
///
/// # Errors
/// Its home cannot be asked; or cannot be read here, whose contacts would not be told.
pub async fn remove(node: &Arc<Node>, account: &BareJid) -> Result<bool, HomeError> {
    let roster = node.storage.map(ROSTER, account.as_str()).await?;
    if !accounts::remove(&node.homes, account).await? {
        return Ok(false);
    }
    tracing::info!(%account, "removed");
    if !roster.is_empty() {
        // Nobody waits for that: the account is gone. Bounded by the roster, and by the deadline of each request to a home.
        let (node, account) = (node.clone(), account.clone());
        tokio::spawn(async move {
            let cancel = cancelled(&roster);
            let tell = |(contact, kind)| {
                let (node, account) = (node.clone(), account.clone());
                async move { relation::deliver(&node, &account, &contact, kind, None).await }
            };
            let mut told = stream::iter(cancel).map(tell).buffered(AT_ONCE);
            while let Some(mut actions) = told.next().await {
                actions.retain(|action| !matches!(action, Action::Reply(_)));
                perform::perform(&node, None, actions);
            }
        });
    }
    Ok(true)
}

/// What ends each subscription that there was, or was asked for.
fn cancelled(roster: &[(String, Vec<u8>)]) -> Vec<(BareJid, Kind)> {
    let mut all = Vec::new();
    for (jid, bytes) in roster {
        let (Ok(jid), Some(contact)) = (BareJid::parse(jid), Contact::decode(bytes)) else {
            continue;
        };
        let state = contact.state;
        if state.to || state.pending_out {
            all.push((jid.clone(), Kind::Unsubscribe));
        }
        if state.from || state.pending_in {
            all.push((jid, Kind::Unsubscribed));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::roster::subscription::State;

    #[test]
    fn every_subscription_is_cancelled_in_both_directions() {
        let with = |state| Contact { state, ..Contact::default() }.encode();
        let roster = [
            ("a@x", State { to: true, from: true, ..State::default() }),
            ("b@x", State { pending_out: true, ..State::default() }),
            ("c@x", State { pending_in: true, ..State::default() }),
            ("d@x", State { approved: true, ..State::default() }),
        ];
        let roster = roster.map(|(jid, state)| (jid.to_owned(), with(state)));
        let told: Vec<_> =
            cancelled(&roster).into_iter().map(|(jid, kind)| (jid.to_string(), kind)).collect();
        let expected = [
            ("a@x", Kind::Unsubscribe),
            ("a@x", Kind::Unsubscribed),
            ("b@x", Kind::Unsubscribe),
            ("c@x", Kind::Unsubscribed),
        ];
        assert_eq!(told, expected.map(|(jid, kind)| (jid.to_owned(), kind)));
    }
}
