//! The rules of a privacy list, and what they say of a stanza. Pure. XEP-0016 §2.1 and §2.2, XEP-0191 §6 (which JIDs match).
//! Called by `guard` for sessions, by `record` for homes and replicas.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use xmpp::jid::{BareJid, Jid};

use crate::features::roster::record::{Contact, Roster};

/// Whom no rule speaks of: the account itself (XEP-0016 §2.1, note), and its server, which acts for it.
pub fn is_exempt(account: &BareJid, who: &Jid) -> bool {
    who.bare_str() == account.as_str()
        || (who.local().is_none() && who.domain() == account.domain())
}

/// What a rule may be about, seen from the list's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// A message to the owner.
    Message,
    /// An IQ to the owner.
    Iq,
    /// A presence notification to the owner: available or unavailable, no subscription stanza.
    PresenceIn,
    /// A presence notification of the owner's.
    PresenceOut,
    /// Anything else, in either direction: only a rule for all stanzas speaks of it.
    Other,
}

/// Which stanzas a rule is about: those it names, or all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kinds(u8);

impl Kinds {
    /// `<message/>`
    pub const MESSAGE: Kinds = Kinds(1);
    /// `<iq/>`
    pub const IQ: Kinds = Kinds(2);
    /// `<presence-in/>`
    pub const PRESENCE_IN: Kinds = Kinds(4);
    /// `<presence-out/>`
    pub const PRESENCE_OUT: Kinds = Kinds(8);
    /// Their element names, in the order of the schema.
    pub const NAMES: [(&'static str, Kinds); 4] = [
        ("iq", Kinds::IQ),
        ("message", Kinds::MESSAGE),
        ("presence-in", Kinds::PRESENCE_IN),
        ("presence-out", Kinds::PRESENCE_OUT),
    ];

    /// It names none, and so is about all.
    pub fn is_all(self) -> bool {
        self.0 == 0
    }

    /// Whether it names that one.
    pub fn names(self, kind: Kinds) -> bool {
        self.0 & kind.0 != 0
    }

    /// Names one more.
    pub fn add(&mut self, kind: Kinds) {
        self.0 |= kind.0;
    }

    fn covers(self, traffic: Traffic) -> bool {
        self.is_all()
            || match traffic {
                Traffic::Message => self.names(Kinds::MESSAGE),
                Traffic::Iq => self.names(Kinds::IQ),
                Traffic::PresenceIn => self.names(Kinds::PRESENCE_IN),
                Traffic::PresenceOut => self.names(Kinds::PRESENCE_OUT),
                Traffic::Other => false,
            }
    }
}

/// A subscription, as a rule names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Subscription {
    /// Also who is not in the roster at all.
    None,
    /// The owner receives the contact's presence.
    To,
    /// The contact receives the owner's.
    From,
    /// Both.
    Both,
}

impl Subscription {
    /// The word of the `value` attribute.
    pub fn name(self) -> &'static str {
        match self {
            Subscription::None => "none",
            Subscription::To => "to",
            Subscription::From => "from",
            Subscription::Both => "both",
        }
    }

    /// The other way.
    pub fn of(name: &str) -> Option<Self> {
        use Subscription::{Both, From, None, To};
        [None, To, From, Both].into_iter().find(|one| one.name() == name)
    }
}

/// Of whom a rule speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Whom {
    /// Everybody: the fall-through case.
    Everybody,
    /// An address and what belongs to it.
    Jid(Jid),
    /// A group of the owner's roster.
    Group(String),
    /// A subscription.
    Subscription(Subscription),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// Its place.
    pub order: u32,
    /// `allow` or `deny`.
    pub allow: bool,
    /// For which stanzas.
    pub kinds: Kinds,
    /// Of whom.
    pub whom: Whom,
}

impl Item {
    /// A blocked address as XEP-0191 §5 maps it.
    pub fn blocked(jid: Jid) -> Self {
        Item { order: 0, allow: false, kinds: Kinds::default(), whom: Whom::Jid(jid) }
    }

    /// The address, if this is what XEP-0191 can show: type "jid", action "deny", all stanzas.
    pub fn as_blocked(&self) -> Option<&Jid> {
        match &self.whom {
            Whom::Jid(jid) if !self.allow && self.kinds.is_all() => Some(jid),
            _ => None,
        }
    }
}

/// A list. Its items stand in ascending order, and no order is there twice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    items: Vec<Item>,
}

impl List {
    /// A list of these; `None` if two have the same order.
    pub fn new(mut items: Vec<Item>) -> Option<Self> {
        items.sort_by_key(|item| item.order);
        let unique = items.windows(2).all(|two| two[0].order < two[1].order);
        unique.then_some(Self { items })
    }

    /// The items, in order.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The block list in it (XEP-0191 §5).
    pub fn blocked(&self) -> impl Iterator<Item = &Jid> {
        self.items.iter().filter_map(Item::as_blocked)
    }

    /// The same with these blocked, ahead of everything else (XEP-0191 §5), and those not blocked any more. Everything is numbered anew.
    pub fn with_blocked(&self, more: &[Jid], fewer: &[Jid]) -> Self {
        let fewer: HashSet<&Jid> = fewer.iter().collect();
        let mut known = HashSet::new();
        let kept = self.blocked().filter(|jid| !fewer.contains(jid));
        let once = kept.chain(more).filter(|jid| known.insert(*jid));
        let blocked: Vec<Jid> = once.cloned().collect();
        let others = self.items.iter().filter(|item| item.as_blocked().is_none()).cloned();
        let all = blocked.into_iter().map(Item::blocked).chain(others);
        let items = (1..).zip(all).map(|(order, item)| Item { order, ..item }).collect();
        Self { items }
    }

    /// Whether its rules ask for the owner's roster.
    pub fn asks_roster(&self) -> bool {
        self.items.iter().any(|item| matches!(item.whom, Whom::Group(_) | Whom::Subscription(_)))
    }

    /// The first rule that speaks of such a stanza from or to that address (§2.2 rules 5 to 7); none: it is allowed. For one question;
    /// who asks often makes [`Rules`]. `contact` is the owner's roster item of that address.
    pub fn judge(&self, who: &Jid, traffic: Traffic, contact: Option<&Contact>) -> Option<&Item> {
        let keys = keys(who);
        self.items.iter().find(|item| {
            item.kinds.covers(traffic)
                && match &item.whom {
                    Whom::Jid(jid) => keys.contains(&jid.as_str()),
                    whom => speaks_of(whom, contact),
                }
        })
    }
}

/// The rules of a list, ready to be asked for every stanza: its length costs nothing where its items are addresses.
#[derive(Debug)]
pub struct Rules {
    list: List,
    by_jid: HashMap<Box<str>, SmallVec<[u32; 1]>, foldhash::fast::RandomState>,
    /// Those that are not for an address, ascending.
    others: Vec<u32>,
}

impl Rules {
    /// Of that list.
    pub fn new(list: List) -> Self {
        let mut by_jid: HashMap<Box<str>, SmallVec<[u32; 1]>, _> = HashMap::default();
        let mut others = Vec::new();
        for (at, item) in (0..).zip(&list.items) {
            match &item.whom {
                Whom::Jid(jid) => by_jid.entry(jid.as_str().into()).or_default().push(at),
                _ => others.push(at),
            }
        }
        Self { list, by_jid, others }
    }

    /// The list.
    pub fn list(&self) -> &List {
        &self.list
    }

    /// As [`List::judge`], with the whole roster.
    pub fn judge(&self, who: &Jid, traffic: Traffic, roster: Option<&Roster>) -> Option<&Item> {
        let item = |at: u32| &self.list.items[at as usize];
        let covers = |at: &u32| item(*at).kinds.covers(traffic);
        let named = keys(who)
            .iter()
            .filter_map(|key| self.by_jid.get(*key)?.iter().copied().find(covers))
            .min();
        let before = named.unwrap_or(u32::MAX);
        let mut others = self.others.iter().copied().take_while(|at| *at < before).filter(covers);
        let contact = || roster?.contacts.get(who.bare_str());
        let other = others.find(|at| speaks_of(&item(*at).whom, contact()));
        other.or(named).map(item)
    }
}

fn speaks_of(whom: &Whom, contact: Option<&Contact>) -> bool {
    match whom {
        Whom::Everybody => true,
        Whom::Jid(_) => false,
        Whom::Group(group) => contact.is_some_and(|contact| contact.groups.contains(group)),
        Whom::Subscription(subscription) => {
            contact.map_or("none", Contact::subscription) == subscription.name()
        }
    }
}

/// The addresses a rule may name to speak of `who` (XEP-0016 §2.1): itself, without its resource, its domain and what that is below.
/// `domain/resource` speaks of that resource only, for it is an address of its own.
fn keys(who: &Jid) -> SmallVec<[&str; 6]> {
    let mut keys = SmallVec::new();
    for key in [who.as_str(), who.bare_str(), who.domain()] {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut domain = who.domain();
    while let Some((_, parent)) = domain.split_once('.') {
        keys.push(parent);
        domain = parent;
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::roster::subscription::State;

    fn jid(text: &str) -> Jid {
        Jid::parse(text).expect("a JID")
    }

    /// `+jid`, `-jid`, `-@group`, `-:both`, `-*`; `/miop` behind it names kinds.
    fn list(text: &str) -> List {
        let item = |(order, word): (u32, &str)| {
            let (word, kinds) = word.split_once('|').unwrap_or((word, ""));
            let allow = word.starts_with('+');
            let whom = match &word[1..] {
                "*" => Whom::Everybody,
                rest => match (rest.strip_prefix('@'), rest.strip_prefix(':')) {
                    (Some(group), _) => Whom::Group(group.to_owned()),
                    (_, Some(word)) => {
                        Whom::Subscription(Subscription::of(word).expect("a subscription"))
                    }
                    _ => Whom::Jid(jid(rest)),
                },
            };
            let mut named = Kinds::default();
            for kind in kinds.chars() {
                named.add(match kind {
                    'm' => Kinds::MESSAGE,
                    'q' => Kinds::IQ,
                    'i' => Kinds::PRESENCE_IN,
                    _ => Kinds::PRESENCE_OUT,
                });
            }
            Item { order, allow, kinds: named, whom }
        };
        List::new((1..).zip(text.split_whitespace()).map(item).collect()).expect("unique")
    }

    fn roster() -> Roster {
        let mut roster = Roster::default();
        for (name, to, from, group) in [
            ("nurse", true, true, "Servants"),
            ("paris", false, true, ""),
            ("rosaline", true, false, ""),
        ] {
            let state = State { to, from, ..State::default() };
            let groups = (!group.is_empty()).then(|| group.to_owned()).into_iter().collect();
            let contact = Contact { state, groups, listed: true, ..Contact::default() };
            let jid = BareJid::parse(&format!("{name}@capulet.example")).expect("a JID");
            roster.contacts.insert(jid, contact);
        }
        roster
    }

    #[track_caller]
    fn check(text: &str, who: &str, traffic: Traffic, allowed: bool) {
        let (list, roster, who) = (list(text), roster(), jid(who));
        let contact = roster.contacts.get(who.bare_str());
        let slow = list.judge(&who, traffic, contact).is_none_or(|item| item.allow);
        let rules = Rules::new(list.clone());
        let quick = rules.judge(&who, traffic, Some(&roster));
        assert_eq!(list.judge(&who, traffic, contact), quick, "{text}: {who:?}");
        assert_eq!(slow, allowed, "{text}: {who:?} {traffic:?}");
    }

    #[test]
    fn addresses_match_as_the_table_of_xep_0016_says() {
        use Traffic::Message;
        for (rule, who, matches) in [
            ("user@domain.example/home", "user@domain.example/home", true),
            ("user@domain.example/home", "user@domain.example/work", false),
            ("user@domain.example/home", "user@domain.example", false),
            ("user@domain.example", "user@domain.example/home", true),
            ("user@domain.example", "user@domain.example", true),
            ("user@domain.example", "other@domain.example", false),
            ("user@domain.example", "domain.example", false),
            ("domain.example/home", "domain.example/home", true),
            ("domain.example/home", "user@domain.example/home", false),
            ("domain.example/home", "domain.example", false),
            ("domain.example", "domain.example", true),
            ("domain.example", "user@domain.example/home", true),
            ("domain.example", "domain.example/home", true),
            ("domain.example", "user@sub.domain.example", true),
            ("domain.example", "user@notdomain.example", false),
            ("sub.domain.example", "user@domain.example", false),
        ] {
            check(&format!("-{rule}"), who, Message, !matches);
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        use Traffic::{Iq, Message, Other, PresenceIn, PresenceOut};
        const NURSE: &str = "nurse@capulet.example/kitchen";
        const PARIS: &str = "paris@capulet.example/hall";
        const NOBODY: &str = "tybalt@example.com/pda";
        for (text, who, traffic, allowed) in [
            ("", NURSE, Message, true),
            ("-*", NURSE, Message, false),
            ("-*", NURSE, Other, false),
            ("+nurse@capulet.example -*", NURSE, Other, true),
            ("+nurse@capulet.example -*", PARIS, Iq, false),
            ("-* +nurse@capulet.example", NURSE, Message, false),
            ("-capulet.example +nurse@capulet.example", NURSE, Message, false),
            ("+nurse@capulet.example -capulet.example", NURSE, Message, true),
            ("-nurse@capulet.example|m", NURSE, Message, false),
            ("-nurse@capulet.example|m", NURSE, Iq, true),
            ("-nurse@capulet.example|m", NURSE, Other, true),
            ("-nurse@capulet.example|mqi", NURSE, PresenceIn, false),
            ("-nurse@capulet.example|mqi", NURSE, PresenceOut, true),
            ("-*|o", NURSE, PresenceOut, false),
            ("+nurse@capulet.example|m -nurse@capulet.example", NURSE, Message, true),
            ("+nurse@capulet.example|m -nurse@capulet.example", NURSE, Iq, false),
            ("-@Servants", NURSE, Message, false),
            ("-@Servants", PARIS, Message, true),
            ("-:both", NURSE, Iq, false),
            ("-:both", PARIS, Iq, true),
            ("-:from|o", PARIS, PresenceOut, false),
            ("-:to|i", "rosaline@capulet.example/a", PresenceIn, false),
            ("-:none", NOBODY, Message, false),
            ("-:none", PARIS, Message, true),
            ("+:both -*", PARIS, Message, false),
            ("+:both -*", NURSE, Message, true),
            ("-:none +tybalt@example.com", NOBODY, Message, false),
            ("+tybalt@example.com -:none", NOBODY, Message, true),
        ] {
            check(text, who, traffic, allowed);
        }
    }

    #[test]
    fn what_is_blocked_comes_first_and_the_rest_keeps_its_order() {
        let mixed = list("-*|m -a@x.example +b@x.example -c@x.example|q");
        let shown = |list: &List| list.blocked().map(Jid::as_str).collect::<Vec<_>>().join(" ");
        assert_eq!(shown(&mixed), "a@x.example");
        let more = mixed.with_blocked(&[jid("d@x.example"), jid("a@x.example")], &[]);
        assert_eq!(shown(&more), "a@x.example d@x.example");
        let orders: Vec<u32> = more.items().iter().map(|item| item.order).collect();
        assert_eq!(orders, [1, 2, 3, 4, 5]);
        assert!(more.items()[2].whom == Whom::Everybody);
        let fewer = more.with_blocked(&[], &[jid("a@x.example"), jid("z@x.example")]);
        assert_eq!((shown(&fewer).as_str(), fewer.items().len()), ("d@x.example", 4));
        assert_eq!(List::new(vec![Item::blocked(jid("a@x")), Item::blocked(jid("b@x"))]), None);
    }
}
