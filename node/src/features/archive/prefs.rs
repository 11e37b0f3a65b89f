//! What an account wants archived (XEP-0441 0.2.0). Read where a message enters, so that a copy that is not archived carries no id; those who have said
//! nothing cost a look at an empty table. Written at the home.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use config::ArchiveDefault;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

/// The preferences: one value.
pub const PREFS: &str = "archive.prefs";

/// What happens to messages with somebody who is in neither list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rest {
    /// They are archived.
    Always,
    /// They are, if the other party is in the roster.
    Roster,
    /// They are not.
    Never,
}

impl Rest {
    const ALL: [Rest; 3] = [Rest::Always, Rest::Roster, Rest::Never];

    fn name(self) -> &'static str {
        match self {
            Rest::Always => "always",
            Rest::Roster => "roster",
            Rest::Never => "never",
        }
    }
}

impl From<ArchiveDefault> for Rest {
    fn from(default: ArchiveDefault) -> Self {
        match default {
            ArchiveDefault::Always => Rest::Always,
            ArchiveDefault::Roster => Rest::Roster,
            ArchiveDefault::Never => Rest::Never,
        }
    }
}

/// Whether a message is to be archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Yes.
    Yes,
    /// If the other party is in the roster: the home knows.
    IfContact,
    /// No.
    No,
}

/// See the room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefs {
    /// For those in neither list.
    pub rest: Rest,
    /// With these, always.
    pub always: Vec<String>,
    /// With these, never.
    pub never: Vec<String>,
}

impl Prefs {
    /// Of an account that has said nothing.
    pub fn new(rest: Rest) -> Self {
        Self { rest, always: Vec::new(), never: Vec::new() }
    }

    /// Reads `<prefs/>`.
    ///
    /// # Errors
    /// `bad-request` for a default that is none of the three; `jid-malformed`; `resource-constraint` beyond `most` addresses.
    pub fn parse(element: &Element, most: usize) -> Result<Self, StanzaError> {
        let default = element.attr("default").ok_or_else(StanzaError::bad_request)?;
        let rest = Rest::ALL.into_iter().find(|rest| rest.name() == default);
        let rest = rest.ok_or_else(StanzaError::bad_request)?;
        let list = |name: &str| -> Result<Vec<String>, StanzaError> {
            let Some(list) = element.child(name, ns::MAM) else { return Ok(Vec::new()) };
            let jids = list.children().filter(|child| child.is("jid", ns::MAM));
            let jids = jids.map(|jid| Jid::parse(jid.text().trim()));
            jids.map(|jid| jid.map(|jid| jid.as_str().to_owned()))
                .collect::<Result<_, _>>()
                .map_err(|_| StanzaError::jid_malformed())
        };
        let prefs = Self { rest, always: list("always")?, never: list("never")? };
        if prefs.always.len() + prefs.never.len() > most {
            return Err(StanzaError::resource_constraint());
        }
        Ok(prefs)
    }

    /// `<prefs/>`.
    pub fn element(&self) -> Element {
        let list = |name: &str, jids: &[String]| {
            let jids = jids.iter().map(|jid| Element::new("jid", ns::MAM).with_text(jid));
            Element::new(name, ns::MAM).with_children(jids)
        };
        Element::new("prefs", ns::MAM)
            .with_attr("default", self.rest.name())
            .with_child(list("always", &self.always))
            .with_child(list("never", &self.never))
    }

    /// Whether a message with that party is archived (§3: a bare JID in a list stands for all its resources).
    pub fn keep(&self, party: &Jid) -> Keep {
        let listed = |list: &[String]| {
            list.iter().any(|jid| jid == party.as_str() || jid == party.bare_str())
        };
        if listed(&self.never) {
            return Keep::No;
        }
        if listed(&self.always) {
            return Keep::Yes;
        }
        match self.rest {
            Rest::Always => Keep::Yes,
            Rest::Roster => Keep::IfContact,
            Rest::Never => Keep::No,
        }
    }
}

/// The preferences of those who have some. Memory: what they have said, at most `archive.preferences_max` addresses each.
#[derive(Debug)]
pub struct AllPrefs {
    rest: Rest,
    said: AtomicBool,
    by_account: RwLock<HashMap<String, Prefs>>,
}

impl AllPrefs {
    /// Nobody has said anything.
    pub fn new(rest: Rest) -> Self {
        Self { rest, said: AtomicBool::new(false), by_account: RwLock::default() }
    }

    /// What an account wants that has said nothing.
    pub fn of_the_silent(&self) -> Prefs {
        Prefs::new(self.rest)
    }

    /// Whether a message of an account with that party is archived.
    pub fn keep(&self, account: &BareJid, party: &Jid) -> Keep {
        if self.said.load(Ordering::Acquire)
            && let Some(prefs) = self.by_account.read().get(account.as_str())
        {
            return prefs.keep(party);
        }
        match self.rest {
            Rest::Always => Keep::Yes,
            Rest::Roster => Keep::IfContact,
            Rest::Never => Keep::No,
        }
    }

    /// An account has said this; `None`: it has said nothing any more.
    pub fn set(&self, account: &str, said: Option<Prefs>) {
        let mut all = self.by_account.write();
        match said {
            Some(prefs) => drop(all.insert(account.to_owned(), prefs)),
            None => drop(all.remove(account)),
        }
        self.said.store(!all.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefs(xml: &str) -> Result<Prefs, StanzaError> {
        Prefs::parse(&Element::parse(xml.as_bytes()).expect("well-formed"), 2)
    }

    #[test]
    fn what_was_said_is_what_is_given_back() {
        let xml = "<prefs xmlns='urn:xmpp:mam:2' default='roster'><always><jid>romeo@montague.lit</jid></always>\
            <never><jid>montague@montague.lit/x</jid></never></prefs>";
        let said = prefs(xml).expect("good");
        assert_eq!(Prefs::parse(&said.element(), 2), Ok(said.clone()));
        let party = |text: &str| Jid::parse(text).expect("a JID");
        for (with, expected) in [
            ("romeo@montague.lit", Keep::Yes),
            ("romeo@montague.lit/orchard", Keep::Yes),
            ("montague@montague.lit/x", Keep::No),
            ("montague@montague.lit/y", Keep::IfContact),
            ("nurse@capulet.lit", Keep::IfContact),
        ] {
            assert_eq!(said.keep(&party(with)), expected, "{with}");
        }
    }

    #[test]
    fn what_is_wrong_is_refused_with_the_reason() {
        let jids = |count: usize| "<jid>a@b.example</jid>".repeat(count);
        for (xml, expected) in [
            ("<prefs xmlns='urn:xmpp:mam:2'/>".to_owned(), StanzaError::bad_request()),
            (
                "<prefs xmlns='urn:xmpp:mam:2' default='sometimes'/>".to_owned(),
                StanzaError::bad_request(),
            ),
            (
                "<prefs xmlns='urn:xmpp:mam:2' default='always'><never><jid>@x</jid></never></prefs>"
                    .to_owned(),
                StanzaError::jid_malformed(),
            ),
            (
                format!(
                    "<prefs xmlns='urn:xmpp:mam:2' default='always'><never>{}</never></prefs>",
                    jids(3)
                ),
                StanzaError::resource_constraint(),
            ),
        ] {
            assert_eq!(prefs(&xml), Err(expected), "{xml}");
        }
    }

    #[test]
    fn those_who_say_nothing_have_the_default() {
        let all = AllPrefs::new(Rest::Always);
        let juliet = BareJid::parse("juliet@chat.example").expect("a JID");
        let romeo = Jid::parse("romeo@chat.example/x").expect("a JID");
        assert_eq!(all.keep(&juliet, &romeo), Keep::Yes);
        all.set(juliet.as_str(), Some(Prefs::new(Rest::Never)));
        assert_eq!(all.keep(&juliet, &romeo), Keep::No);
        all.set(juliet.as_str(), None);
        assert_eq!(all.keep(&juliet, &romeo), Keep::Yes);
    }
}
