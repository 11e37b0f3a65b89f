//! XEP-0030 Service Discovery, version 2.5rc3: what the server is and has, and the same for an account. With it what hangs on the server's
//! answer: extended information (XEP-0128 1.0.1), contact addresses (XEP-0157 1.1.2, `contact`), and the server's own entity
//! capabilities (XEP-0115 1.6.0 §6.3: `<c/>` in the stream features, answered at `node#ver`).
//!
//! The features say it themselves (`Feature::disco`); the list collects it once. An account answers its owner and whoever receives its
//! presence (§8); to everybody else it is as if it did not exist: no items, and no word of what it is. A feature that has nodes of its own
//! asks for the disco namespaces too, stands before this one in the list, and answers for those nodes; what is left is `item-not-found`
//! (§7).
//!
//! Left out: items of an account (those that have some answer for it before), publishing items.

mod contact;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use config::Config;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::caps::Caps;
use xmpp::payload::disco::{Identity, Info, Item, Items};
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use crate::app::Node;
use crate::components;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::features::{Features, roster};
use crate::session::{Receipt, Seat};

/// See the room.
pub struct DiscoFeature {
    contact: config::Contact,
    /// Whether what the server says is ours alone to say: a hash of it (XEP-0115) is made once.
    alone: bool,
}

impl DiscoFeature {
    /// With the addresses of the configuration. Where something is delegated to components (XEP-0355) they say a part of it, and there is no hash.
    pub fn new(config: &Config) -> Self {
        let mut all = config.components.component.iter();
        let alone = all.all(|component| component.delegations.is_empty());
        Self { contact: contact::of(config), alone }
    }
}

impl Feature for DiscoFeature {
    fn name(&self) -> &'static str {
        "disco"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::DISCO_INFO, ns::DISCO_ITEMS], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.extend([ns::DISCO_INFO, ns::DISCO_ITEMS]);
        disco.server.extend(self.alone.then_some(ns::CAPS));
        disco.account.extend([ns::DISCO_INFO, ns::DISCO_ITEMS]);
        disco.server_forms.extend(contact::form(&self.contact));
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        if iq.stanza.type_() != Type::Get || !iq.is("query") {
            return Flow::Next;
        }
        let anonymous = ctx.node.config.domains.anon.as_deref();
        let items = || ctx.node.services.items().chain(components::items(ctx.node)).collect();
        let nested = |info, bare| components::nested(ctx.node, info, bare);
        let answer = answer(&ctx.node.features, iq, anonymous, items, nested)
            .map_or_else(|error| iq.stanza.error_reply(&error), Some)
            .map(Action::Reply);
        match &iq.target {
            Target::Server | Target::Account { own: true, .. } => {
                let theirs = delegated(ctx.node, ctx.component, (ctx.seat, ctx.receipt.take()), iq);
                ctx.actions.extend(theirs.or(answer));
                Flow::Done
            }
            Target::Account { account, own: false } => {
                let (node, account, asked) = (ctx.node.clone(), account.clone(), iq.stanza.clone());
                let (seat, target) = (ctx.seat.cloned(), iq.target.clone());
                let (receipt, by) = (ctx.receipt.take(), ctx.component.cloned());
                Flow::Later(Box::pin(async move {
                    if roster::shows_presence(&node, &account, &asked).await {
                        let iq = Iq { stanza: asked, target };
                        let asker = (seat.as_ref(), receipt);
                        let theirs = delegated(&node, by.as_ref(), asker, &iq);
                        theirs.or(answer).into_iter().collect()
                    } else {
                        Action::answer(&asked, nothing(&asked)).into_iter().collect()
                    }
                }))
            }
        }
    }
}

/// What is asked of an account that nothing here answers, and a component might (XEP-0355 §7.2).
fn delegated(
    node: &Arc<Node>,
    by: Option<&BareJid>,
    asker: (Option<&Arc<Seat>>, Option<Receipt>),
    iq: &Iq,
) -> Option<Action> {
    if iq.target == Target::Server {
        return None;
    }
    let of = match iq.stanza.first_child()? {
        (_, ns::DISCO_ITEMS) => components::ITEMS,
        _ if node_of(&iq.stanza).is_some() => components::INFO,
        _ => return None,
    };
    components::remaining(node, by, asker, of, &iq.stanza)
}

impl Disco {
    /// What the server says (§3.1).
    pub fn server_info(&self) -> Info {
        let all = Info::default().with_identity("server", "im", Some("Pangaea"));
        let forms = self.server_forms.clone();
        Info { forms, ..with(all, &self.server_identities, &self.server) }
    }

    /// What an account says (§8), an anonymous one or one that is kept.
    pub fn account_info(&self, anonymous: bool) -> Info {
        let kind = if anonymous { "anonymous" } else { "registered" };
        let all = Info::default().with_identity("account", kind, None);
        let kept = if anonymous { &[][..] } else { &self.account_kept };
        with(all, &self.account_identities, &[&self.account, kept].concat())
    }
}

/// Each feature once.
fn with(mut info: Info, identities: &[Identity], features: &[&str]) -> Info {
    for identity in identities {
        if !info.identities.contains(identity) {
            info.identities.push(identity.clone());
        }
    }
    let sorted: BTreeSet<&str> = features.iter().copied().collect();
    info.with_features(sorted)
}

/// The node a disco query asks about; an empty one is none.
pub fn node_of(iq: &Stanza) -> Option<String> {
    let asked = iq.element();
    let node = asked.children().next()?.attr("node")?;
    (!node.is_empty()).then(|| node.to_owned())
}

/// What is asked of the server or of an account, whoever asks. The server's items are its services and the components that are connected (§4.1); what
/// components answer is `nested` in what either says.
fn answer(
    all: &Features,
    iq: &Iq,
    anonymous: Option<&str>,
    items: impl FnOnce() -> Vec<Item>,
    nested: impl FnOnce(Info, bool) -> Info,
) -> Result<Stanza, StanzaError> {
    let node = node_of(&iq.stanza);
    let server = iq.target == Target::Server;
    let is_items = iq.stanza.first_child().is_some_and(|(_, ns)| ns == ns::DISCO_ITEMS);
    // XEP-0115 §6.2: at that node the server says the same.
    let caps = all.caps.as_ref().map(Caps::disco_node);
    let is_caps = node.is_some() && node == caps;
    if node.is_some() && !(is_caps && server && !is_items) {
        return Err(StanzaError::item_not_found()); // §7
    }
    let answer = match &iq.target {
        Target::Server if is_items => Items { node: None, items: items() }.element(),
        Target::Server if node.is_some() => Info { node, ..all.disco.server_info() }.element(),
        Target::Server => nested(all.disco.server_info(), false).element(),
        Target::Account { .. } if is_items => Items::default().element(),
        Target::Account { account, .. } => {
            nested(all.disco.account_info(is_anonymous(account, anonymous)), true).element()
        }
    };
    Ok(Stanza::iq_result(&iq.stanza, Some(answer)))
}

/// §8: what somebody who may not see the account's presence hears, as of an account that does not exist: it has no items, whatever the node,
/// and does not say what it is.
fn nothing(asked: &Stanza) -> Result<Option<Element>, StanzaError> {
    match asked.first_child() {
        Some((_, ns::DISCO_ITEMS)) => {
            Ok(Some(Items { node: node_of(asked), ..Items::default() }.element()))
        }
        _ => Err(StanzaError::service_unavailable()),
    }
}

fn is_anonymous(account: &BareJid, anonymous: Option<&str>) -> bool {
    anonymous == Some(account.domain())
}
