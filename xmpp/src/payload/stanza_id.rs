//! Unique and stable stanza ids (XEP-0359): the archive's name for a stanza, and the client's. Called by archives and rooms.

use crate::jid::Jid;
use crate::ns;
use crate::stanza::Stanza;
use crate::xml::element::Element;

/// `<stanza-id/>`: `by` gives the stanza this id.
#[must_use]
pub fn element(id: &str, by: &Jid) -> Element {
    Element::new("stanza-id", ns::STANZA_ID).with_attr("by", by.as_str()).with_attr("id", id)
}

/// The id `by` gave the stanza.
#[must_use]
pub fn find(stanza: &Element, by: &Jid) -> Option<String> {
    let own = stanza.children().find(|child| is_by(child, by))?;
    own.attr("id").filter(|id| !id.is_empty()).map(str::to_owned)
}

/// The id the sending client gave the stanza. Anybody can send any: it identifies nothing on its own.
#[must_use]
pub fn origin_id(stanza: &Stanza) -> Option<String> {
    let origin = stanza.child("origin-id", ns::STANZA_ID)?;
    origin.attr("id").filter(|id| !id.is_empty()).map(str::to_owned)
}

/// The stanza without any id that claims to be by `by`: all of them, for only we may say so (§5, bad-inputs S-069,
/// S-070). Those of others stay. A stanza without one comes back as it is.
#[must_use]
pub fn without(stanza: &Stanza, by: &Jid) -> Stanza {
    if !stanza.has_child("stanza-id", ns::STANZA_ID) {
        return stanza.clone();
    }
    let mut element = stanza.element();
    if !element.children().any(|child| is_by(child, by)) {
        return stanza.clone();
    }
    element.retain_children(|child| !is_by(child, by));
    // Written anew it may break a limit that its sender's way of writing kept (prefixed attributes grow): then every
    // id goes, by cutting bytes.
    Stanza::from_element(&element).unwrap_or_else(|_| {
        stanza.without_children(|name, child_ns| name == "stanza-id" && child_ns == ns::STANZA_ID)
    })
}

/// Spelt in whatever way: what cannot be read as an address is nobody's.
fn is_by(child: &Element, by: &Jid) -> bool {
    let claimed = || child.attr("by").and_then(|claimed| Jid::parse(claimed).ok());
    child.is("stanza-id", ns::STANZA_ID) && claimed().is_some_and(|claimed| claimed == *by)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_forged_id_goes_and_the_others_stay() {
        let us = Jid::parse("juliet@b.example").expect("a JID");
        let xml: &[u8] = b"<message><stanza-id xmlns='urn:xmpp:sid:0' by='juliet@b.example' id='1'/><body>x</body>\
            <stanza-id xmlns='urn:xmpp:sid:0' by='room@muc.example' id='2'/>\
            <stanza-id xmlns='urn:xmpp:sid:0' by='JULIET@B.example' id='3'/>\
            <stanza-id xmlns='urn:xmpp:sid:0' id='4'/><origin-id xmlns='urn:xmpp:sid:0' id='5'/></message>";
        let stanza = Stanza::parse(bytes::Bytes::from_static(xml)).expect("canonical");
        let clean = without(&stanza, &us);
        assert_eq!(find(&clean.element(), &us), None);
        assert_eq!(clean.element().children().count(), 4);
        assert_eq!(
            find(&clean.element(), &Jid::parse("room@muc.example").expect("a JID")).as_deref(),
            Some("2")
        );
        assert_eq!(origin_id(&clean).as_deref(), Some("5"));
        assert_eq!(without(&clean, &us).bytes(), clean.bytes());
        let named = clean.with_child(&element("6", &us));
        assert_eq!(find(&named.element(), &us).as_deref(), Some("6"));
    }
}
