//! Room: RFC 6121 §8.5, delivery to an account: which of its resources get a stanza. Pure: header and rows in, choice out.
//! Called through `Carrier::choose`, on the sender's node with all rows and on the receiving node with its own.

use global_distrib::{Choice, Row};
use smallvec::SmallVec;
use xmpp::jid::Jid;
use xmpp::ns;
use xmpp::stanza::{Kind, Stanza, Type};

/// The resources for a message or IQ (or presence to a full JID), RFC 6121 §8.5.2 and §8.5.3.
pub fn choose<H: Clone>(stanza: &Stanza, rows: &[Row<H>]) -> Choice<H> {
    let resource = stanza.to().and_then(Jid::resource);
    if let Some(resource) = resource
        && let Some(row) = rows.iter().find(|row| row.full.resource() == resource)
    {
        return send(std::iter::once(row));
    }
    match (stanza.kind(), stanza.type_()) {
        // §8.5.2.1.1 and §8.5.3.2.1: like a message to the bare JID.
        (Kind::Message, Type::Normal | Type::Chat) => {
            let takers = || rows.iter().filter(|row| row.available && row.priority >= 0);
            let lit = takers().any(|row| row.lit);
            match takers().next() {
                Some(_) => send(takers().filter(|row| row.lit || !lit)),
                None => Choice::Nobody { file: storable(stanza) },
            }
        }
        // §8.5.2.1.1: to all non-negative resources; §8.5.3.2.1: to a resource that is gone, to nobody.
        (Kind::Message, Type::Headline) if resource.is_none() => {
            let mut takers =
                rows.iter().filter(|row| row.available && row.priority >= 0).peekable();
            if takers.peek().is_some() { send(takers) } else { Choice::Nobody { file: false } }
        }
        (Kind::Message, Type::Groupchat) if resource.is_none() => Choice::Refuse,
        _ => Choice::Nobody { file: false },
    }
}

/// XEP-0160 §3 and XEP-0334: what may be stored for a user who is away.
fn storable(stanza: &Stanza) -> bool {
    if stanza.has_child("no-store", ns::HINTS) || stanza.has_child("no-permanent-store", ns::HINTS)
    {
        return false;
    }
    // A chat state alone is of no use later (XEP-0160 §3, XEP-0085 §5.6).
    let mut children = stanza.children().peekable();
    children.peek().is_none() || children.any(|(_, namespace)| namespace != ns::CHAT_STATES)
}

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
    Choice::Send { here, there }
}
