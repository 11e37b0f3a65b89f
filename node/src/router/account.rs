//! Room: RFC 6121 §8.5, delivery to an account: which of its resources get a stanza. Pure: header and rows in, choice out.
//! Called through `Carrier::choose`, on the sender's node with all rows and on the receiving node with its own.

use global_distrib::{Choice, Row};
use smallvec::SmallVec;
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::stanza::{Kind, Stanza, Type};

/// The resources for a message or IQ (or presence to a full JID), RFC 6121 §8.5.2 and §8.5.3. Those of this node that must not have it, by
/// the privacy list in effect for them (XEP-0016 §2.2), are `refused`: if there is nobody else, nobody gets it, and it is not filed.
pub fn choose<H: Clone>(
    stanza: &Stanza,
    rows: &[Row<H>],
    refused: impl Fn(&H) -> bool,
) -> Choice<H> {
    let willing = |row: &&Row<H>| !row.here().is_some_and(&refused);
    let resource = stanza.to().and_then(Jid::resource);
    if let Some(resource) = resource
        && let Some(row) = rows.iter().find(|row| row.full.resource() == resource)
    {
        return if willing(&row) { send(std::iter::once(row)) } else { Choice::Refuse };
    }
    match (stanza.kind(), stanza.type_(), resource) {
        // §8.5.2.1.1, and §8.5.3.2.1: what was for a resource that is gone is for the others if it is chat, and for nobody else if not.
        (Kind::Message, Type::Normal, None) | (Kind::Message, Type::Chat, _) => {
            if !rows.iter().any(takes) {
                return Choice::Nobody { file: storable(stanza) };
            }
            let best = best(rows, &refused);
            send(rows.iter().filter(willing).filter(|row| takes(row) && Some(rank(row)) == best))
        }
        // §8.5.2.1.1: to all non-negative resources.
        (Kind::Message, Type::Headline, None) => {
            let mut takers = rows.iter().filter(|row| takes(row)).peekable();
            match takers.peek() {
                Some(_) => send(takers.filter(willing)),
                None => Choice::Nobody { file: false },
            }
        }
        (Kind::Message, Type::Groupchat, None) => Choice::Refuse,
        _ => Choice::Nobody { file: false },
    }
}

/// Whether it takes messages of the account (§8.5.2.1.1: a negative priority takes none).
fn takes<H>(row: &Row<H>) -> bool {
    row.available && row.priority >= 0
}

/// How much a message should go there: dark ones come last, then the priority says it.
fn rank<H>(row: &Row<H>) -> (bool, i8) {
    (row.lit, row.priority)
}

/// The rank of those that get a message to the account: §8.5.2.1.1 leaves open which of several, and it is those of the highest priority,
/// as in other servers; the others get carbon copies if they want them.
pub fn best<H>(rows: &[Row<H>], refused: impl Fn(&H) -> bool) -> Option<(bool, i8)> {
    let willing = rows.iter().filter(|row| takes(row) && !row.here().is_some_and(&refused));
    willing.map(rank).max()
}

/// Whether a message to the account goes by a resource of it that gets none: that one may want a carbon copy (XEP-0280 §6).
pub fn passes_over<H: Clone>(stanza: &Stanza, rows: &[Row<H>]) -> bool {
    let resource = stanza.to().and_then(Jid::resource);
    let first = rows.first().map(rank);
    stanza.kind() == Kind::Message
        && !rows.iter().all(|row| takes(row) && Some(rank(row)) == first)
        && resource.is_none_or(|resource| rows.iter().all(|row| row.full.resource() != resource))
}

/// XEP-0160 §3 and XEP-0334: what may be stored for a user who is away.
fn storable(stanza: &Stanza) -> bool {
    let hint = |name: &str| stanza.has_child(name, ns::HINTS);
    if hint("no-store") {
        return false; // The other one, no-permanent-store, is about archives (XEP-0334 §4.1): what is offline is handed out and gone.
    }
    // A chat state alone is of no use later (XEP-0160 §3); it may come with a thread (XEP-0085 §5.6) and with hints.
    let is_state = stanza.children().any(|(_, namespace)| namespace == ns::CHAT_STATES);
    let says_nothing = |(name, namespace): (&str, &str)| match namespace {
        ns::CHAT_STATES | ns::HINTS => true,
        _ => name == "thread" && namespace == ns::CLIENT,
    };
    !is_state || hint("store") || !stanza.children().all(says_nothing)
}

/// To these; `Refuse`, if all of them are refused.
fn send<'a, H: Clone + 'a>(rows: impl Iterator<Item = &'a Row<H>>) -> Choice<H> {
    let mut here = SmallVec::new();
    let mut there = SmallVec::new();
    for row in rows {
        match (row.here(), row.there()) {
            (Some(handle), _) => here.push(handle.clone()),
            (None, Some(node)) if !there.contains(&node) => there.push(node),
            _ => {}
        }
    }
    match here.is_empty() && there.is_empty() {
        true => Choice::Refuse,
        false => Choice::Send { here, there },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use global_distrib::Place;
    use replication::Hlc;
    use xmpp::jid::FullJid;

    use super::*;

    /// `a:5` available, `a:-1` too but not for messages, `a:x` connected only, `a:5?` on a node that has gone dark.
    fn rows(text: &str) -> Vec<Row<String>> {
        let row = |text: &str| {
            let (resource, rest) = text.split_once(':').expect("resource:priority");
            let full = FullJid::parse(&format!("juliet@chat.example/{resource}")).expect("a JID");
            let shown = rest.trim_end_matches('?').parse();
            let (available, priority) = (shown.is_ok(), shown.unwrap_or(0));
            let row = Row::new(full, Place::Here(resource.to_owned()), Hlc::ZERO);
            Row { priority, available, lit: !rest.ends_with('?'), ..row }
        };
        text.split_whitespace().map(row).collect()
    }

    fn stanza(kind: &str, type_: &str, resource: &str) -> Stanza {
        let attr = if type_.is_empty() { String::new() } else { format!(" type='{type_}'") };
        let to = format!("juliet@chat.example{resource}");
        let text = format!("<{kind} to='{to}'{attr} id='1'><body>x</body></{kind}>");
        Stanza::parse(Bytes::from(text)).expect("a stanza")
    }

    fn word(choice: Choice<String>) -> String {
        match choice {
            Choice::Send { here, .. } => here.join(" "),
            Choice::Nobody { file: true } => "filed".into(),
            Choice::Nobody { file: false } => "nobody".into(),
            Choice::Refuse => "refused".into(),
        }
    }

    /// What the last column says: who gets it (here resources), `filed`, `refused` (at once), or `nobody`: `bounce::undeliverable`
    /// then ignores presence, headlines and errors and answers everything else with `service-unavailable`.
    #[test]
    fn every_stanza_goes_where_rfc_6121_8_5_says() {
        const ONE: &str = "a:0";
        const MANY: &str = "a:5 b:0 c:-1 d:x";
        const EQUAL: &str = "a:3 b:3 c:2";
        const NEGATIVE: &str = "a:-1 b:-128 d:x";
        const DARK: &str = "a:5? b:0 c:1";
        const ALL_DARK: &str = "a:5? b:0?";
        const NONE: &str = "";
        // Section, kind, type, resource of the addressee, who is connected, what follows.
        let table = [
            // To the bare JID, somebody takes messages. §8.5.2.1.1 leaves open who of several; it is all of the highest priority.
            ("8.5.2.1.1", "message", "", "", ONE, "a"),
            ("8.5.2.1.1", "message", "", "", MANY, "a"),
            ("8.5.2.1.1", "message", "", "", EQUAL, "a b"),
            ("8.5.2.1.1", "message", "normal", "", MANY, "a"),
            ("8.5.2.1.1", "message", "chat", "", ONE, "a"),
            ("8.5.2.1.1", "message", "chat", "", MANY, "a"),
            ("8.5.2.1.1", "message", "chat", "", EQUAL, "a b"),
            ("8.5.2.1.1", "message", "headline", "", MANY, "a b"),
            ("8.5.2.1.1", "message", "groupchat", "", MANY, "refused"),
            ("8.5.2.1.1", "message", "error", "", MANY, "nobody"),
            ("8.5.2.1.1", "message", "unheard-of", "", MANY, "a"), // §5.2.2: as normal.
            // Dark: blueprint §7, a resource elsewhere is preferred; if there is none, the message waits in the link.
            ("8.5.2.1.1", "message", "chat", "", DARK, "c"),
            ("8.5.2.1.1", "message", "normal", "", ALL_DARK, "a"),
            ("8.5.2.1.1", "message", "headline", "", DARK, "a b c"),
            // Nobody takes messages: negative priorities do not count.
            ("8.5.2.2.1", "message", "", "", NONE, "filed"),
            ("8.5.2.2.1", "message", "normal", "", NEGATIVE, "filed"),
            ("8.5.2.2.1", "message", "chat", "", NONE, "filed"),
            ("8.5.2.2.1", "message", "chat", "", NEGATIVE, "filed"),
            ("8.5.2.2.1", "message", "groupchat", "", NONE, "refused"),
            ("8.5.2.2.1", "message", "headline", "", NONE, "nobody"),
            ("8.5.2.2.1", "message", "headline", "", NEGATIVE, "nobody"),
            ("8.5.2.2.1", "message", "error", "", NONE, "nobody"),
            // To a full JID that is connected, available or not.
            ("8.5.3.1", "message", "normal", "/b", MANY, "b"),
            ("8.5.3.1", "message", "chat", "/c", MANY, "c"),
            ("8.5.3.1", "message", "chat", "/d", MANY, "d"),
            ("8.5.3.1", "message", "chat", "/a", DARK, "a"),
            ("8.5.3.1", "message", "groupchat", "/a", MANY, "a"),
            ("8.5.3.1", "message", "headline", "/c", MANY, "c"),
            ("8.5.3.1", "message", "error", "/d", MANY, "d"),
            ("8.5.3.1", "presence", "", "/c", MANY, "c"),
            ("8.5.3.1", "presence", "unavailable", "/d", MANY, "d"),
            ("8.5.3.1", "iq", "get", "/d", MANY, "d"),
            ("8.5.3.1", "iq", "set", "/c", MANY, "c"),
            ("8.5.3.1", "iq", "result", "/a", MANY, "a"),
            ("8.5.3.1", "iq", "error", "/a", MANY, "a"),
            // To a full JID that is gone.
            ("8.5.3.2.1", "message", "", "/z", MANY, "nobody"),
            ("8.5.3.2.1", "message", "normal", "/z", MANY, "nobody"),
            ("8.5.3.2.1", "message", "normal", "/z", NONE, "nobody"),
            ("8.5.3.2.1", "message", "groupchat", "/z", MANY, "nobody"),
            ("8.5.3.2.1", "message", "headline", "/z", MANY, "nobody"),
            ("8.5.3.2.1", "message", "error", "/z", MANY, "nobody"),
            ("8.5.3.2.1", "message", "chat", "/z", MANY, "a"),
            ("8.5.3.2.1", "message", "chat", "/z", DARK, "c"),
            ("8.5.3.2.1", "message", "chat", "/z", NEGATIVE, "filed"),
            ("8.5.3.2.1", "message", "chat", "/z", NONE, "filed"),
            ("8.5.3.2.2", "presence", "", "/z", MANY, "nobody"),
            ("8.5.3.2.2", "presence", "unavailable", "/z", NONE, "nobody"),
            ("8.5.3.2.3", "iq", "get", "/z", MANY, "nobody"),
            ("8.5.3.2.3", "iq", "set", "/z", NONE, "nobody"),
            ("8.5.3.2.3", "iq", "result", "/z", MANY, "nobody"),
            // Handled by features before it comes here (§8.5.2.1.2, §8.5.2.1.3); were it not, it would reach no resource.
            ("8.5.2.1.3", "iq", "get", "", MANY, "nobody"),
            ("8.5.2.1.2", "presence", "probe", "", MANY, "nobody"),
            ("8.5.2.1.2", "presence", "subscribe", "", MANY, "nobody"),
        ];
        for (section, kind, type_, resource, connected, expected) in table {
            let chosen = word(choose(&stanza(kind, type_, resource), &rows(connected), |_| false));
            assert_eq!(chosen, expected, "§{section}: {kind} {type_} to {resource:?}, {connected}");
        }
    }

    /// Who is refused stands in brackets.
    #[test]
    fn who_refuses_it_gets_nothing_and_nobody_is_nobody() {
        for (kind, type_, resource, connected, refused, expected) in [
            ("message", "chat", "", "a:5 b:0", "a", "b"),
            ("message", "chat", "", "a:5 b:0", "ab", "refused"),
            ("message", "chat", "", "a:5 b:-1", "a", "refused"),
            ("message", "chat", "", "a:5 b:0?", "a", "b"),
            ("message", "chat", "", "a:-1", "a", "filed"),
            ("message", "chat", "/z", "a:0", "a", "refused"),
            ("message", "headline", "", "a:5 b:0", "b", "a"),
            ("message", "headline", "", "a:5", "a", "refused"),
            ("message", "chat", "/b", "a:5 b:0", "b", "refused"),
            ("iq", "get", "/b", "a:5 b:0", "b", "refused"),
            ("iq", "get", "/b", "a:5 b:0", "a", "b"),
            ("presence", "", "/a", "a:5", "a", "refused"),
        ] {
            let refuses = |here: &String| refused.contains(here.as_str());
            let chosen = word(choose(&stanza(kind, type_, resource), &rows(connected), refuses));
            assert_eq!(chosen, expected, "{kind} {type_} to {resource:?}, {connected} [{refused}]");
        }
    }

    #[test]
    fn a_message_to_the_account_passes_over_who_takes_none() {
        for (to, connected, expected) in [
            ("", "a:5 b:5", false),
            ("", "a:5 b:0", true),
            ("", "a:5 b:5?", true),
            ("", "a:5 b:-1", true),
            ("", "a:5 b:x", true),
            ("/b", "a:5 b:-1", false),
            ("/z", "a:5 b:-1", true),
        ] {
            let passes = passes_over(&stanza("message", "chat", to), &rows(connected));
            assert_eq!(passes, expected, "to {to:?}, {connected}");
        }
    }

    #[test]
    fn what_says_nothing_later_is_not_stored() {
        let state = "<composing xmlns='http://jabber.org/protocol/chatstates'/>";
        let hint = |name: &str| format!("<{name} xmlns='urn:xmpp:hints'/>");
        for (payload, kept) in [
            (String::new(), true),
            ("<body>x</body>".into(), true),
            (format!("<body>x</body>{state}"), true),
            ("<received xmlns='urn:xmpp:receipts' id='1'/>".into(), true),
            (state.into(), false),
            (format!("{state}<thread>t</thread>"), false),
            (format!("{state}{}", hint("no-copy")), false),
            (format!("{state}{}", hint("store")), true),
            (format!("<body>x</body>{}", hint("no-store")), false),
            (format!("<body>x</body>{}", hint("no-permanent-store")), true),
            (format!("{}{}", hint("store"), hint("no-store")), false),
            ("<propose xmlns='urn:xmpp:jingle-message:0' id='1'/>".into(), true),
            ("<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>".into(), true),
            (format!("<body>x</body>{}", hint("no-copy")), true),
        ] {
            let text = format!("<message to='juliet@chat.example' type='chat'>{payload}</message>");
            let message = Stanza::parse(Bytes::from(text)).expect("a message");
            assert_eq!(storable(&message), kept, "{payload}");
        }
    }
}
