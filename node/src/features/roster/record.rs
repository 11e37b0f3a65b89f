//! The roster as it is stored and replicated: one record a contact in store `roster` (owner: the account's bare JID, key: the contact's),
//! and the version in `roster_version`. Written only at the account's home (`roster::home`); read from the local replica.

use std::collections::BTreeMap;

use replication::durable_log::Change;
use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::xml::element::Element;

use super::subscription::State;

/// Contacts, by bare JID.
pub const ROSTER: &str = "roster";
/// The version, a little-endian `u64` under the empty key.
pub const VERSION: &str = "roster_version";

/// What a committed change means for presence: each region applies it to its own sessions when the change reaches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Nothing.
    #[default]
    None,
    /// The contact now receives the user's presence.
    Granted,
    /// The contact no longer does.
    Withdrawn,
    /// The user now receives the contact's presence: it is asked for.
    Gained,
}

/// One contact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// The user's name for it.
    pub name: Option<String>,
    /// The user's groups.
    pub groups: Vec<String>,
    /// RFC 6121 appendix A.
    pub state: State,
    /// False while there is nothing but a request from the contact: such an item is not shown (§2.1.2.2, "None + Pending In").
    pub listed: bool,
    /// The contact's request, for resources that become available later (§3.1.3).
    pub request: Option<Vec<u8>>,
    /// What the last change means for presence.
    pub effect: Effect,
    /// Whether the last change is to be pushed: it changed something a client can see.
    pub push: bool,
    /// A subscription stanza from the contact that came with the last change, for the account's available resources (§3.1.3).
    pub deliver: Option<Vec<u8>>,
}

impl Contact {
    /// What a client sees of it.
    fn seen(&self) -> Option<impl PartialEq + '_> {
        let State { to, from, pending_out, approved, .. } = self.state;
        self.listed.then_some((to, from, pending_out, approved, &self.name, &self.groups))
    }

    /// The record that follows `before`: notes what the change means.
    pub fn following(mut self, before: Option<&Contact>, deliver: Option<Vec<u8>>) -> Self {
        let was = before.map_or(State::default(), |before| before.state);
        self.effect = match (was.from, self.state.from) {
            (false, true) => Effect::Granted,
            (true, false) => Effect::Withdrawn,
            _ if !was.to && self.state.to => Effect::Gained,
            _ => Effect::None,
        };
        if !self.state.pending_in {
            self.request = None;
        }
        self.push = self.listed && before.and_then(Contact::seen) != self.seen();
        self.deliver = deliver;
        self
    }

    /// The `subscription` attribute.
    pub fn subscription(&self) -> &'static str {
        match (self.state.to, self.state.from) {
            (false, false) => "none",
            (true, false) => "to",
            (false, true) => "from",
            (true, true) => "both",
        }
    }

    /// The `<item/>`.
    pub fn element(&self, jid: &BareJid) -> Element {
        Element::new("item", ns::ROSTER)
            .with_attr("jid", jid.as_str())
            .with_attr_opt("name", self.name.as_deref())
            .with_attr("subscription", self.subscription())
            .with_attr_opt("ask", self.state.pending_out.then_some("subscribe"))
            .with_attr_opt("approved", self.state.approved.then_some("true"))
            .with_children(
                self.groups.iter().map(|group| Element::new("group", ns::ROSTER).with_text(group)),
            )
    }

    /// Bytes for storage.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("a contact is a plain value")
    }

    /// From storage; `None` when it is not ours.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }
}

/// A whole roster at one version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    /// Grows with every change; 0 when there never was one.
    pub version: u64,
    /// All contacts, listed or not.
    pub contacts: BTreeMap<BareJid, Contact>,
}

impl Roster {
    /// Who receives the user's presence.
    pub fn subscribers(&self) -> impl Iterator<Item = &BareJid> {
        self.contacts.iter().filter(|(_, contact)| contact.state.from).map(|(jid, _)| jid)
    }

    /// Whether that account does.
    pub fn has_subscriber(&self, who: &BareJid) -> bool {
        self.contacts.get(who).is_some_and(|contact| contact.state.from)
    }

    /// Whether a removal is of a contact that the user could see.
    pub fn shows(&self, removal: &Change) -> bool {
        let Change::Delete { key, .. } = removal else { return false };
        self.contacts.get(key.as_str()).is_some_and(|contact| contact.listed)
    }

    /// Whether the user receives that account's presence.
    pub fn has_subscription(&self, whose: &str) -> bool {
        self.contacts.get(whose).is_some_and(|contact| contact.state.to)
    }

    /// Whose presence the user receives.
    pub fn subscriptions(&self) -> impl Iterator<Item = &BareJid> {
        self.contacts.iter().filter(|(_, contact)| contact.state.to).map(|(jid, _)| jid)
    }
}
