//! Delayed delivery (XEP-0203): "this was meant for you then". Called by offline storage, archives and resumption.

use super::date_time;
use crate::jid::Jid;
use crate::ns;
use crate::stanza::Stanza;
use crate::xml::element::Element;

/// What a delay element says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// When the stanza was sent first, in Unix milliseconds.
    pub stamp_ms: i64,
    /// Who held it back.
    pub from: Option<Jid>,
}

/// `<delay/>`: sent at `unix_ms`, held back by `from`, because of `reason` (English).
#[must_use]
pub fn element(unix_ms: u64, from: Option<&Jid>, reason: Option<&str>) -> Element {
    let delay = Element::new("delay", ns::DELAY)
        .with_attr_opt("from", from.map(Jid::as_str))
        .with_attr("stamp", &date_time::format(unix_ms));
    match reason {
        Some(reason) => delay.with_text(reason),
        None => delay,
    }
}

/// Reads a delay element; `None` if it is none or its stamp is no time.
#[must_use]
pub fn parse(element: &Element) -> Option<Delay> {
    if !element.is("delay", ns::DELAY) {
        return None;
    }
    let stamp_ms = date_time::parse(element.attr("stamp")?)?;
    Some(Delay { stamp_ms, from: element.attr("from").and_then(|from| Jid::parse(from).ok()) })
}

/// The first delay of a stanza. Parses the stanza only if there is one.
#[must_use]
pub fn of(stanza: &Stanza) -> Option<Delay> {
    stanza.child("delay", ns::DELAY).as_ref().and_then(parse)
}

/// The stanza without delays in the name of those: only they may say so (bad-inputs B-241). Those of others stay. A stanza without one comes back as
/// it is.
#[must_use]
pub fn without(stanza: &Stanza, who: impl Fn(&Jid) -> bool) -> Stanza {
    if !stanza.has_child("delay", ns::DELAY) {
        return stanza.clone();
    }
    let is_theirs = |child: &Element| {
        let from = || child.attr("from").and_then(|from| Jid::parse(from).ok());
        child.is("delay", ns::DELAY) && from().is_some_and(|from| who(&from))
    };
    let mut element = stanza.element();
    if !element.children().any(is_theirs) {
        return stanza.clone();
    }
    element.retain_children(|child| !is_theirs(child));
    // Written anew it may break a limit that its sender's way of writing kept: then every delay goes, by cutting bytes.
    Stanza::from_element(&element).unwrap_or_else(|_| {
        stanza.without_children(|name, child_ns| name == "delay" && child_ns == ns::DELAY)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stanza::Type;

    #[test]
    fn a_delay_is_read_back_as_it_was_written() {
        let server = Jid::parse("capulet.example").expect("a JID");
        let delay = element(1_709_251_199_999, Some(&server), Some("Offline Storage"));
        assert_eq!(
            delay.to_string(),
            "<delay xmlns='urn:xmpp:delay' from='capulet.example' stamp='2024-02-29T23:59:59.999Z'>Offline Storage</delay>"
        );
        let stanza = Stanza::message(None, None, Type::Chat).with_child(delay).build();
        assert_eq!(of(&stanza), Some(Delay { stamp_ms: 1_709_251_199_999, from: Some(server) }));
    }

    #[test]
    fn a_delay_in_a_name_that_is_not_the_senders_goes() {
        let xml: &[u8] = b"<message><delay xmlns='urn:xmpp:delay' from='CAPULET.example' stamp='2001-01-01T00:00:00Z'/><body>x</body>\
            <delay xmlns='urn:xmpp:delay' from='juliet@capulet.example' stamp='2001-01-01T00:00:00Z'/>\
            <delay xmlns='urn:xmpp:delay' stamp='2001-01-01T00:00:00Z'/></message>";
        let stanza = Stanza::parse(bytes::Bytes::from_static(xml)).expect("canonical");
        let server = Jid::parse("capulet.example").expect("a JID");
        let clean = without(&stanza, |from| *from == server);
        assert_eq!(clean.element().children().count(), 3);
        assert_eq!(without(&clean, |from| *from == server).bytes(), clean.bytes());
    }

    #[test]
    fn a_delay_without_a_time_is_none() {
        for xml in [
            "<delay xmlns='urn:xmpp:delay'/>",
            "<delay xmlns='urn:xmpp:delay' stamp='yesterday'/>",
            "<delay xmlns='jabber:x:delay' stamp='1970-01-01T00:00:00Z'/>",
        ] {
            assert_eq!(parse(&Element::parse(xml.as_bytes()).expect("well-formed")), None, "{xml}");
        }
    }
}
