//! Subscription stanzas between accounts (RFC 6121 §3) and what a grant means for presence. The sender's home decides, then the
//! receiver's home; this is the walk between the two. What follows for presence is an effect of applying the committed change
//! (`granted`, `withdrawn`), in every region for its own sessions, so it needs no message that could be lost.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use replication::Change;
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use crate::app::Node;
use crate::feature::{Action, Ctx};
use crate::features::blocking;
use crate::features::roster;
use crate::features::roster::home::{Answer, Request};
use crate::features::roster::record::{Contact, Effect, ROSTER};
use crate::features::roster::subscription::Kind;
use crate::geo::abroad::{Sender, is_abroad};
use crate::geo::presence::{Presence, parted};
use crate::router::perform::seats_of;

/// The kind of a presence type; `None` for other presence.
pub fn kind_of(type_: Type) -> Option<Kind> {
    Some(match type_ {
        Type::Subscribe => Kind::Subscribe,
        Type::Subscribed => Kind::Subscribed,
        Type::Unsubscribe => Kind::Unsubscribe,
        Type::Unsubscribed => Kind::Unsubscribed,
        _ => return None,
    })
}

fn type_of(kind: Kind) -> Type {
    match kind {
        Kind::Subscribe => Type::Subscribe,
        Kind::Subscribed => Type::Subscribed,
        Kind::Unsubscribe => Type::Unsubscribe,
        Kind::Unsubscribed => Type::Unsubscribed,
    }
}

/// A local user sends a subscription stanza (§3.1.2, §3.1.5, §3.2.2, §3.3.2). `stanza`'s `from` is already the bare JID.
pub async fn send(
    node: &Arc<Node>,
    account: &BareJid,
    contact: &BareJid,
    kind: Kind,
    stanza: Stanza,
) -> Vec<Action> {
    let items_max = items_max(node);
    let request = Request::Out { contact: contact.clone(), kind, items_max };
    let sender = (kind == Kind::Subscribed).then(|| Sender::new(node, account, contact)).flatten();
    let mut actions = match roster::ask(node, account, &request).await {
        Ok(Answer::Subscription { pass: true, .. }) => {
            deliver(node, account, contact, kind, Some(stanza)).await
        }
        Ok(Answer::TooMany) => refuse(&stanza, &StanzaError::resource_constraint()),
        // A guest: there will be nobody to keep what it subscribes to.
        Ok(Answer::NoAccount) if node.domains.has_guests(account.domain()) => {
            refuse(&stanza, &StanzaError::not_allowed())
        }
        Ok(_) => Vec::new(),
        Err(error) => refuse(&stanza, &error.stanza_error()),
    };
    actions.extend(shown_now(node, sender));
    actions
}

/// Behind the `subscribed` to a contact at another domain: what [`granted`] has left to whoever sends that.
fn shown_now(node: &Node, sender: Option<Sender>) -> Vec<Action> {
    let Some(sender) = sender else { return Vec::new() };
    let (account, contact) = sender.of().clone();
    if sender.sent() { grants(node, &account, &contact).collect() } else { Vec::new() }
}

fn refuse(stanza: &Stanza, error: &StanzaError) -> Vec<Action> {
    stanza.error_reply(error).map(Action::Reply).into_iter().collect()
}

fn items_max(node: &Node) -> u32 {
    u32::try_from(node.config.limits.roster_items_max).unwrap_or(u32::MAX)
}

/// RFC 6121 §3.1.3 has the whole request kept until it is answered, by somebody who has not asked for it: so it is as short as anybody needs, or
/// says nothing.
fn bounded(stanza: Stanza, bytes_max: usize) -> Stanza {
    if stanza.bytes().len() <= bytes_max {
        return stanza;
    }
    let bare = stanza.without_children(|_, _| true);
    if bare.bytes().len() <= bytes_max {
        return bare;
    }
    Stanza::presence(stanza.to(), stanza.from(), stanza.type_()).build()
}

/// Hands a subscription stanza to the contact's home and does what that says. `stanza` is made if there is none.
pub fn deliver<'a>(
    node: &'a Arc<Node>,
    account: &'a BareJid,
    contact: &'a BareJid,
    kind: Kind,
    stanza: Option<Stanza>,
) -> BoxFuture<'a, Vec<Action>> {
    Box::pin(async move {
        let stanza = stanza.unwrap_or_else(|| {
            Stanza::presence(Some(&Jid::from(contact)), Some(&Jid::from(account)), type_of(kind))
                .build()
        });
        let (from, to) = (Jid::from(account), Jid::from(contact));
        if !node.domains.has_accounts(contact.domain()) || node.domains.leaves(Some(&from), &to) {
            return vec![Action::Route(stanza)];
        }
        let stanza = bounded(stanza, node.config.limits.subscription_bytes_max);
        let request = Request::In {
            contact: account.clone(),
            kind,
            stanza: stanza.bytes().to_vec(),
            items_max: items_max(node),
        };
        let asks = kind == Kind::Subscribe;
        let sender = asks.then(|| Sender::new(node, contact, account)).flatten();
        let mut actions = match roster::ask(node, contact, &request).await {
            // That it is delivered is an effect of the committed change, in every region (`roster::changed`).
            Ok(Answer::Subscription { auto_reply: true, .. }) => {
                deliver(node, contact, account, Kind::Subscribed, None).await
            }
            // XEP-0379 §3.5: approved, and asked in return.
            Ok(Answer::Invited) => {
                let mut actions = deliver(node, contact, account, Kind::Subscribed, None).await;
                let (from, to) = (Jid::from(contact), Jid::from(account));
                let back = Stanza::presence(Some(&to), Some(&from), Type::Subscribe).build();
                actions.extend(send(node, contact, account, Kind::Subscribe, back).await);
                // A refusal of that is not for whoever brought the invitation.
                actions.retain(|action| !matches!(action, Action::Reply(_)));
                actions
            }
            // §8.5.1: to an account that does not exist, silence.
            Ok(_) => Vec::new(),
            Err(error) => refuse(&stanza, &error.stanza_error()),
        };
        actions.extend(shown_now(node, sender));
        actions
    })
}

/// The contact was granted this account's presence: our sessions of it tell the contact (§3.1.5). One at another domain hears first that it was.
pub fn granted(ctx: &mut Ctx<'_>, account: &BareJid, contact: &BareJid) {
    if is_abroad(ctx.node, account.domain(), contact)
        && ctx.node.geo.abroad.defers(account, contact)
    {
        return;
    }
    ctx.actions.extend(grants(ctx.node, account, contact));
}

fn grants(node: &Node, account: &BareJid, contact: &BareJid) -> impl Iterator<Item = Action> {
    let to = Jid::from(contact);
    let seats = seats_of(node, account.as_str()).into_iter();
    let seats = seats.filter(move |seat| seat.available() && !blocking::hides(seat, &to));
    seats.map(|seat| Action::Grant { seat, to: contact.clone() })
}

/// The contact granted its presence to this account: our sessions of the account ask for it. (`granted`, at the other end, may have come
/// before this region knew, and was then not heard; or a resource of the contact came up in between, and only `granted` tells of it.) Another server tells by itself
/// (§3.1.5), and what it tells is delivered whatever is known here by then.
pub fn gained(ctx: &mut Ctx<'_>, account: &BareJid, contact: &BareJid) {
    if is_abroad(ctx.node, account.domain(), contact) {
        return;
    }
    for seat in seats_of(ctx.node, account.as_str()) {
        if seat.available() {
            ctx.actions.push(Action::Probe { from: seat.full.clone(), to: vec![contact.clone()] });
        }
    }
}

/// What a change of a roster ends (§3.2, §3.3), in this region.
#[derive(Debug)]
pub struct Parting {
    contact: BareJid,
    /// The contact, which is one of ours, is not to see the account any more.
    withdrawn: bool,
    /// The account watched the contact and does not any more.
    parted: bool,
}

impl Parting {
    /// Of a change that is about to be applied; `None` when it ends nothing.
    pub fn of(node: &Node, account: &BareJid, change: &Change) -> Option<Self> {
        let (key, withdrawn, watches) = match change {
            Change::Put { store, key, value, .. } if store.as_str() == ROSTER => {
                let contact = Contact::decode(value)?;
                (key, contact.effect == Effect::Withdrawn, contact.state.to)
            }
            Change::Delete { store, key, .. } if store.as_str() == ROSTER => (key, false, false),
            _ => return None,
        };
        // Those at other domains have rosters of which nothing is known here: what ends is told once, by each session.
        if BareJid::parse(key).is_ok_and(|contact| is_abroad(node, account.domain(), &contact)) {
            return None;
        }
        // A roster that is not held is nobody's here: nobody can see anybody by it.
        let parted = !watches
            && node.rosters.is_held(account)
            && node.rosters.watches(account.as_str(), key);
        if watches {
            node.geo.partings.resume(key, account.as_str());
        } else if !parted {
            node.geo.partings.forget(key, account.as_str());
        }
        (withdrawn || parted).then(|| BareJid::parse(key).ok()).flatten().map(|contact| Self {
            contact,
            withdrawn,
            parted,
        })
    }

    /// Before anybody sees the change: [`withdrawn`] tells the contact, at each session's own node, unless the session or the node is gone by
    /// then.
    pub fn begin(&self, node: &Node, account: &BareJid) {
        if self.withdrawn {
            node.geo.partings.begin(account, &self.contact);
        }
    }

    /// Behind it: our sessions of the account see nobody of the contact any more, whatever arrives.
    pub fn end(self, node: &Arc<Node>, account: &BareJid) {
        if self.parted {
            parted(node, account, &self.contact);
        }
    }
}

/// The account is being removed: its roster goes before its sessions do, and they are to tell those who see them. To be called before the
/// roster says so.
pub fn ended(node: &Node, account: &BareJid) {
    for contact in node.rosters.cached(account).iter().flat_map(|roster| roster.subscribers()) {
        node.geo.partings.begin(account, contact);
    }
}

/// And no longer (§3.2.2, §3.3.3).
pub fn withdrawn(ctx: &mut Ctx<'_>, account: &BareJid, contact: &BareJid) {
    let to = Jid::from(contact);
    for seat in seats_of(ctx.node, account.as_str()) {
        if seat.is_shown() && !blocking::hides(&seat, &to) {
            let stanza = Stanza::presence(None, Some(seat.address()), Type::Unavailable).build();
            // It is still there; to this contact it is not.
            let presence =
                Presence { stanza, generation: seat.generation, node: None, withdrawn: true };
            ctx.actions.push(Action::Multicast { presence, to: vec![contact.clone()] });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::stanza;

    #[test]
    fn a_request_that_is_too_long_goes_without_what_it_says() {
        let request = |id: &str, status: &str| {
            stanza(&format!(
                "<presence from='romeo@chat.example' to='juliet@chat.example' type='subscribe' id='{id}'><status>{status}</status></presence>"
            ))
        };
        let text = |stanza: &Stanza| String::from_utf8_lossy(stanza.bytes()).into_owned();
        let short = request("1", "It is I");
        assert_eq!(bounded(short.clone(), 1_000).bytes(), short.bytes());
        let silent = text(&bounded(request("1", &"x".repeat(1_000)), 1_000));
        assert!(silent.contains("id='1'") && !silent.contains("status"), "{silent}");
        let bare = bounded(request(&"x".repeat(1_000), "It is I"), 1_000);
        assert!(bare.bytes().len() < 200 && bare.type_() == Type::Subscribe, "{}", text(&bare));
        assert_eq!(bare.from().map(Jid::as_str), Some("romeo@chat.example"));
    }
}
