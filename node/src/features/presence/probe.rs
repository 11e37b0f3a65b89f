//! RFC 6121 §4.3: somebody asks for the presence of somebody. Servers probe for their users, and those of other domains are answered here
//! ([`of_another_domain`]): the presence of each available resource, wherever it is, if the account's roster says that they may see it, `unsubscribed`
//! if not. A client that probes itself gets the same answer, by its own roster. Whether the account exists is not told.

use std::sync::Arc;

use global_distrib::Row;
use xmpp::jid::{BareJid, FullJid, Jid};
use xmpp::stanza::{Stanza, Type};

use crate::app::Node;
use crate::feature::{Action, Ctx, Flow};
use crate::features::blocking::{self, Traffic};
use crate::features::roster::subscription::State;
use crate::geo::abroad::Show;
use crate::homes::look::look;
use crate::session::Seat;

/// A probe of a local client. What it asks of other domains is routed as it is.
pub(super) fn ask(ctx: &mut Ctx<'_>, seat: &Arc<Seat>, stanza: &Stanza, to: &Jid) -> Flow {
    let domains = &ctx.node.domains;
    let is_ours = domains.has_accounts(to.domain()) && !domains.leaves(Some(seat.address()), to);
    if !is_ours || to.local().is_none() {
        ctx.actions.push(Action::Route(stanza.clone()));
        return Flow::Done;
    }
    seat.probes();
    let (node, seat, to) = (ctx.node.clone(), seat.clone(), to.clone());
    Flow::Later(Box::pin(async move { answer(&node, &seat, &to).await }))
}

async fn answer(node: &Arc<Node>, seat: &Arc<Seat>, to: &Jid) -> Vec<Action> {
    let contact = to.bare();
    // XEP-0191 §3.3: who is blocked gets no answer, not even that nobody is there.
    let traffic = Traffic::PresenceOut;
    match blocking::is_blocked_here(&*node.storage, &contact, seat.address(), traffic).await {
        Ok(false) => {}
        Ok(true) => return Vec::new(),
        Err(error) => {
            tracing::error!(%error, "a privacy list cannot be read");
            return Vec::new();
        }
    }
    let of = |type_| Action::Reply(Stanza::presence(Some(seat.address()), Some(to), type_).build());
    let state = match node.rosters.load(node, &seat.bare).await {
        Ok(roster) => {
            roster.contacts.get(&contact).map(|contact| contact.state).unwrap_or_default()
        }
        Err(error) => {
            tracing::error!(%error, "a roster cannot be read");
            return Vec::new();
        }
    };
    if contact != seat.bare && !state.to {
        // Who has been asked and has not answered yet says nothing.
        return if state.pending_out { Vec::new() } else { vec![of(Type::Unsubscribed)] };
    }
    if is_there(node, Some(&seat.full), &contact, to.resource()) {
        vec![Action::Probe { from: seat.full.clone(), to: vec![contact] }]
    } else {
        vec![of(Type::Unavailable)]
    }
}

/// A probe of another domain's user for one of our accounts (§4.3.2).
pub async fn of_another_domain(node: &Arc<Node>, probe: &Stanza) -> Vec<Action> {
    let (Some(from), Some(to)) = (probe.from(), probe.to()) else { return Vec::new() };
    let (asker, contact) = (from.bare(), to.bare());
    match blocking::is_blocked_here(&*node.storage, &contact, from, Traffic::PresenceOut).await {
        Ok(false) => {}
        Ok(true) => return Vec::new(),
        Err(error) => {
            tracing::error!(%error, "a privacy list cannot be read");
            return Vec::new();
        }
    }
    let Some(mut state) = granted(node, &contact, &asker).await else { return Vec::new() };
    if !state.from && !node.homes.is_home(contact.as_str()) {
        // It may have heard of a grant that is not here yet: its home knows.
        look(&node.homes, &contact).await;
        let Some(newer) = granted(node, &contact, &asker).await else { return Vec::new() };
        state = newer;
    }
    let of = |to: &Jid, from: &Jid, type_| {
        let answer = Stanza::presence(Some(to), Some(from), type_);
        vec![Action::Route(answer.id_opt(probe.id().as_deref()).build())]
    };
    if !state.from {
        // Who has asked and has no answer yet hears nothing: it would end his request.
        let (to, from) = (Jid::from(&asker), Jid::from(&contact));
        return if state.pending_in { Vec::new() } else { of(&to, &from, Type::Unsubscribed) };
    }
    if !is_there(node, None, &contact, to.resource()) {
        return of(from, to, Type::Unavailable);
    }
    let resource = to.resource().map(str::to_owned);
    vec![Action::Show(Show { account: contact, resource, to: from.clone() })]
}

/// What the account's roster, as it is here, says of somebody.
async fn granted(node: &Arc<Node>, account: &BareJid, asker: &BareJid) -> Option<State> {
    match node.rosters.load(node, account).await {
        Ok(roster) => Some(roster.contacts.get(asker).map(|asker| asker.state).unwrap_or_default()),
        Err(error) => {
            tracing::error!(%error, "a roster cannot be read");
            None
        }
    }
}

/// Whether somebody of the account shows that he is available, besides the one who asks.
fn is_there(
    node: &Node,
    asker: Option<&FullJid>,
    account: &BareJid,
    resource: Option<&str>,
) -> bool {
    let shows = |row: &Row<Arc<Seat>>| {
        row.available
            && row.lit
            && !row.hidden
            && asker != Some(&row.full)
            && resource.is_none_or(|resource| row.full.resource() == resource)
            && row.here().is_none_or(|seat| seat.is_shown())
    };
    node.directory.read(account.as_str(), |rows| rows.iter().any(shows)).unwrap_or(false)
}
