//! Stanzas: received with one copy, changed by splicing, and always the same as a tree would say.

#![allow(clippy::unwrap_used)] // A test's failure is its message.

use bytes::Bytes;
use proptest::prelude::*;
use xmpp::stanza::{Kind, Type};
use xmpp::xml::framer::{Framer, Limits, Scan};
use xmpp::{Condition, Element, Jid, Stanza, StanzaError, StanzaReject, ns};

fn jid(text: &str) -> Jid {
    Jid::parse(text).unwrap()
}

/// As a session on a client stream would take it; the root declares the prefix `x`.
fn receive_on(default: &str, xml: &str) -> Result<Stanza, StanzaReject> {
    receive_from(default, xml, None)
}

/// The same on a stream of a language.
fn receive_from(default: &str, xml: &str, lang: Option<&str>) -> Result<Stanza, StanzaReject> {
    let root =
        format!("<stream:stream xmlns='{default}' xmlns:stream='{}' xmlns:x='urn:x'>", ns::STREAM);
    let mut framer = Framer::stream(Limits::STANZA);
    assert!(matches!(framer.scan(root.as_bytes()), Ok(Scan::Open(..))));
    match framer.scan(xml.as_bytes()) {
        Ok(Scan::Element(length, head)) => {
            Stanza::receive(&xml.as_bytes()[..length], &head, &jid("romeo@m.example/o"), lang)
        }
        other => panic!("{other:?}"),
    }
}

fn receive(xml: &str) -> Stanza {
    receive_on(ns::CLIENT, xml).expect("a good stanza")
}

fn text(stanza: &Stanza) -> &str {
    std::str::from_utf8(stanza.bytes()).unwrap()
}

/// What the ranges say must be what a fresh look at the bytes says.
fn check_sound(stanza: &Stanza) {
    let again = Stanza::parse(stanza.bytes().clone()).expect("canonical");
    assert_eq!(stanza.kind(), again.kind());
    assert_eq!(stanza.type_(), again.type_());
    assert_eq!(stanza.to(), again.to());
    assert_eq!(stanza.from(), again.from());
    assert_eq!(stanza.id(), again.id());
    assert_eq!(stanza.lang(), again.lang());
    let element = stanza.element();
    assert_eq!(element.attr("to"), stanza.to().map(Jid::as_str));
    assert_eq!(element.attr("from"), stanza.from().map(Jid::as_str));
    assert_eq!(element.attr("id"), stanza.id().as_deref());
    assert_eq!(element.attr("xml:lang"), stanza.lang().as_deref());
    let children: Vec<_> = stanza.children().collect();
    assert_eq!(children, again.children().collect::<Vec<_>>());
    assert_eq!(
        children,
        element.children().map(|child| (child.name(), child.ns())).collect::<Vec<_>>()
    );
    for (name, ns) in children {
        assert_eq!(stanza.child(name, ns).as_ref(), element.child(name, ns));
    }
}

#[test]
fn receiving_stamps_from_and_keeps_the_rest_verbatim() {
    let check = |input: &str, expected: &str| {
        let stanza = receive(input);
        assert_eq!(text(&stanza), expected);
        check_sound(&stanza);
    };
    check("<presence/>", "<presence from='romeo@m.example/o'/>");
    check("<presence />", "<presence  from='romeo@m.example/o'/>");
    check(
        "<message from='eve@evil.example' xmlns='jabber:client' to=\"juliet@c.example\" type='chat' id='&lt;1'><body>a &gt; b</body></message>",
        "<message to=\"juliet@c.example\" type='chat' id='&lt;1' from='romeo@m.example/o'><body>a &gt; b</body></message>",
    );
    check(
        "<message id='1'\n\tfrom = \"x\"  xmlns:p='urn:p'\n to='J@C.Example/x&apos;'  ><p:a k='1'/><b xmlns=''/></message >",
        "<message id='1'  xmlns:p='urn:p'   to='j@c.example/x&apos;' from='romeo@m.example/o'><p:a k='1'/><b xmlns=''/></message >",
    );
}

#[test]
fn what_leans_on_the_root_is_written_anew() {
    let check = |default: &str, input: &str, expected: &str| {
        let stanza = receive_on(default, input).unwrap();
        assert_eq!(text(&stanza), expected);
        check_sound(&stanza);
    };
    check(
        ns::CLIENT,
        "<message from='q' to='J@c.example'><x:y x:k='1'>&amp;</x:y></message>",
        "<message from='romeo@m.example/o' to='j@c.example'><y xmlns='urn:x' xmlns:a0='urn:x' a0:k='1'>&amp;</y></message>",
    );
    check(
        ns::CLIENT,
        "<c:iq xmlns:c='jabber:client' type='get' id='1'><c:a/><b/></c:iq>",
        "<iq type='get' id='1' from='romeo@m.example/o'><a/><b/></iq>",
    );
    check(
        ns::SERVER,
        "<message><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:server'/></forwarded></message>",
        "<message from='romeo@m.example/o'><forwarded xmlns='urn:xmpp:forward:0'><message xmlns='jabber:client'/></forwarded></message>",
    );
}

#[test]
fn a_namespace_cannot_be_hidden_behind_a_reference() {
    let stanza = receive("<message><stanza-id xmlns='urn:xmpp:sid:&#48;' id='fake'/></message>");
    assert!(stanza.has_child("stanza-id", ns::STANZA_ID));
    let stripped = stanza.without_children(|name, ns| (name, ns) == ("stanza-id", ns::STANZA_ID));
    assert_eq!(text(&stripped), "<message from='romeo@m.example/o'></message>");
}

#[test]
fn a_malformed_addressee_is_answered() {
    let rejected =
        receive_on(ns::CLIENT, "<iq type='get' id='a&amp;b' to='@nobody'><q xmlns='q'/></iq>")
            .unwrap_err();
    assert_eq!(rejected.error.condition, Condition::JidMalformed);
    assert_eq!(
        text(&rejected.reply.unwrap()),
        "<iq to='romeo@m.example/o' type='error' id='a&amp;b'><error type='modify'>\
         <jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    );
    let silent = receive_on(ns::CLIENT, "<iq type='result' id='1' to=''/>").unwrap_err();
    assert!(silent.reply.is_none());
    assert!(
        receive_on(ns::CLIENT, "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>")
            .unwrap_err()
            .reply
            .is_none()
    );
}

#[test]
fn types_follow_the_rules_of_the_kind() {
    let check = |xml: &str, kind: Kind, type_: Type| {
        let stanza = receive(xml);
        assert_eq!((stanza.kind(), stanza.type_()), (kind, type_), "{xml}");
    };
    check("<message/>", Kind::Message, Type::Normal);
    check("<message type='chat'/>", Kind::Message, Type::Chat);
    check("<message type='shout'/>", Kind::Message, Type::Normal);
    check("<message type='error'/>", Kind::Message, Type::Error);
    check("<presence/>", Kind::Presence, Type::Available);
    check("<presence type='unavailable'/>", Kind::Presence, Type::Unavailable);
    check("<presence type='chat'/>", Kind::Presence, Type::Invalid);
    check("<presence type=''/>", Kind::Presence, Type::Invalid);
    check("<iq type='get' id='1'/>", Kind::Iq, Type::Get);
    check("<iq id='1'/>", Kind::Iq, Type::Invalid);
    check("<iq type='GET' id='1'/>", Kind::Iq, Type::Invalid);
}

#[test]
fn addresses_are_replaced_without_touching_the_body() {
    let stanza = receive("<message to='a@b' id='1'><body xmlns='jabber:client'>x</body></message>");
    let other = stanza.with_to(&jid("c@d/it's")).with_from(&jid("e.example"));
    assert_eq!(
        text(&other),
        "<message id='1' to='c@d/it&apos;s' from='e.example'><body xmlns='jabber:client'>x</body></message>"
    );
    check_sound(&other);
    assert_eq!(
        text(&other.without_to()),
        "<message id='1' from='e.example'><body xmlns='jabber:client'>x</body></message>"
    );
}

#[test]
fn children_come_and_go_by_splicing() {
    let stanza = receive("<message xmlns:p='urn:p' />");
    let delay = Element::new("delay", ns::DELAY).with_attr("stamp", "2026-01-01T00:00:00Z");
    let with = stanza.with_child(&delay).with_child_xml(b"<body>hi</body>").unwrap();
    assert_eq!(
        text(&with),
        "<message xmlns:p='urn:p'  from='romeo@m.example/o'><delay xmlns='urn:xmpp:delay' stamp='2026-01-01T00:00:00Z'/>\
         <body>hi</body></message>"
    );
    check_sound(&with);
    assert_eq!(with.first_child(), Some(("delay", ns::DELAY)));
    let without = with.without_children(|name, _| name == "delay");
    check_sound(&without);
    assert!(!without.has_child("delay", ns::DELAY) && without.has_child("body", ns::CLIENT));
    assert!(stanza.with_child_xml(b"<a/><b/>").is_err());
    assert!(stanza.with_child_xml(b"<p:a/>").is_err());
}

#[test]
fn an_error_is_answered_with_nothing_and_all_else_turned_round() {
    let request = receive(
        "<iq type='set' id='7' to='juliet@c.example/b'><query xmlns='jabber:iq:roster'/></iq>",
    );
    let reply = request.error_reply(&StanzaError::service_unavailable()).unwrap();
    check_sound(&reply);
    assert_eq!(reply.to(), request.from());
    assert_eq!(reply.from(), request.to());
    assert_eq!((reply.type_(), reply.id()), (Type::Error, request.id()));
    assert!(reply.error_reply(&StanzaError::service_unavailable()).is_none());
    let result = Stanza::iq_result(&request, Some(Element::new("query", ns::ROSTER)));
    check_sound(&result);
    assert!(result.error_reply(&StanzaError::gone()).is_none());
}

#[test]
fn a_message_that_is_refused_brings_back_what_it_said() {
    for (sent, children) in [
        ("<body>hi</body><thread>t</thread>", "body thread error"),
        ("<x xmlns='urn:x'><error/></x><body>a &lt; b</body>", "x body error"),
        ("<error type='cancel'/><body>hi</body>", "body error"),
        ("", "error"),
    ] {
        let text = format!("<message to='juliet@c.example/b' id='7' type='chat'>{sent}</message>");
        let reply = receive(&text).error_reply(&StanzaError::service_unavailable()).unwrap();
        check_sound(&reply);
        let names: Vec<&str> = reply.children().map(|(name, _)| name).collect();
        assert_eq!(names.join(" "), children, "{sent}");
        assert_eq!(reply.type_(), Type::Error);
    }
}

#[test]
fn built_stanzas_are_canonical() {
    let presence = Stanza::presence(Some(&jid("a@b")), None, Type::Unavailable)
        .with_text_child("status", "<bye>\u{0}")
        .build();
    assert_eq!(
        text(&presence),
        "<presence to='a@b' type='unavailable'><status>&lt;bye&gt;</status></presence>"
    );
    check_sound(&presence);
    let mut wrapped = Vec::new();
    presence.write_with_ns(&mut wrapped, ns::CLIENT);
    assert_eq!(&wrapped[..34], b"<presence xmlns='jabber:client' to");
    assert!(Stanza::from_element(&Element::new("message", ns::SERVER)).is_err());
    assert!(Stanza::from_element(&Element::new("body", ns::CLIENT)).is_err());
    assert_eq!(Stanza::from_element(&presence.element()).unwrap(), presence);
}

#[test]
fn only_one_canonical_stanza_is_taken_back() {
    for bad in [
        "",
        "<message/> ",
        "<message/><message/>",
        "<message>",
        "<a/>",
        "<c:iq xmlns:c='jabber:client'/>",
        "<iq to='@'/>",
    ] {
        assert!(Stanza::parse(Bytes::from(bad.to_owned())).is_err(), "{bad}");
    }
}

#[test]
fn a_language_that_is_none_counts_as_absent() {
    // B-064.
    assert_eq!(receive("<message xml:lang='de-CH'/>").lang().as_deref(), Some("de-CH"));
    for bad in ["", "de CH", "&lt;", &"x".repeat(10 << 10)] {
        assert_eq!(receive(&format!("<message xml:lang='{bad}'/>")).lang(), None);
    }
}

#[test]
fn a_stanza_without_a_language_has_that_of_its_stream() {
    // RFC 6120 §8.1.5, also for a stanza that leans on the stream it came on.
    for (xml, expected) in [
        ("<message/>", "de"),
        ("<presence to='a@b' from='romeo@m.example'><status>da</status></presence>", "de"),
        ("<iq type='get' id='1'><x:y/></iq>", "de"),
        ("<message xml:lang='fr'/>", "fr"),
        ("<message xml:lang='fr'><x:y/></message>", "fr"),
    ] {
        let stanza = receive_from(ns::CLIENT, xml, Some("de")).expect("a good stanza");
        assert_eq!(stanza.lang().as_deref(), Some(expected), "{xml}");
        check_sound(&stanza);
        assert_eq!(text(&stanza).matches("xml:lang").count(), 1, "{xml}");
    }
}

#[test]
fn a_clone_shares_the_bytes() {
    assert_eq!(size_of::<Stanza>(), size_of::<usize>());
    let stanza = receive("<message/>");
    assert_eq!(stanza.clone().bytes().as_ptr(), stanza.bytes().as_ptr());
}

fn stanza_xml() -> impl Strategy<Value = String> {
    let attrs = prop::sample::subsequence(
        vec![
            " to='A@b.c/d'",
            " from=\"x\"",
            " id='&#65;1'",
            "\ttype = 'chat'",
            " xml:lang='en'",
            " xmlns='jabber:client'",
            " xmlns:p='u'",
            " p2='>'",
        ],
        0..8,
    );
    let child = prop::sample::select(vec![
        "<body>x</body>",
        "<a xmlns='u'><b/></a>",
        "<p:c xmlns:p='v'/>",
        "<x:d/>",
        "text",
        "<e xmlns=''>é</e>",
        "<![CDATA[<]]>",
        "<delay xmlns='urn:xmpp:delay'/>",
    ]);
    (attrs.prop_shuffle(), prop::collection::vec(child, 0..7), any::<bool>()).prop_map(
        |(attrs, children, blank)| {
            let (attrs, children, blank) =
                (attrs.concat(), children.concat(), if blank { " " } else { "" });
            if children.is_empty() {
                format!("<message{attrs}{blank}/>")
            } else {
                format!("<message{attrs}{blank}>{children}</message{blank}>")
            }
        },
    )
}

proptest! {
    #[test]
    fn receiving_and_splicing_agree_with_the_tree(xml in stanza_xml()) {
        let stanza = receive(&xml);
        check_sound(&stanza);
        let root = format!("<r xmlns='jabber:client' xmlns:x='urn:x'>{xml}</r>");
        let mut expected = Element::parse(root.as_bytes()).unwrap().into_children().remove(0);
        expected.set_attr("from", "romeo@m.example/o");
        if expected.attr("to").is_some() {
            expected.set_attr("to", "a@b.c/d");
        }
        let sorted = |element: &Element| {
            let mut attrs: Vec<_> = element.attrs().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            attrs.sort();
            (attrs, element.nodes().to_vec())
        };
        prop_assert_eq!(sorted(&stanza.element()), sorted(&expected));
        for other in [
            stanza.with_to(&jid("q@r/s")),
            stanza.with_from(&jid("q@r/s")),
            stanza.without_to(),
            stanza.with_child(&Element::new("n", "urn:n").with_text("t")),
            stanza.without_children(|name, _| name == "body" || name == "c"),
        ] {
            check_sound(&other);
        }
    }
}

/// A namespace that is written once, on the stream, would be written with every element that uses it.
#[test]
fn a_stanza_does_not_grow_without_bound_by_what_its_stream_declares() {
    let on = |uri: &str, count: usize| {
        let root = format!(
            "<stream:stream xmlns='{}' xmlns:stream='{}' xmlns:x='{uri}'>",
            ns::CLIENT,
            ns::STREAM
        );
        let xml = format!("<message to='juliet@c.example'>{}</message>", "<x:a/>".repeat(count));
        let mut framer = Framer::stream(Limits::STANZA);
        assert!(matches!(framer.scan(root.as_bytes()), Ok(Scan::Open(..))));
        let Ok(Scan::Element(_, head)) = framer.scan(xml.as_bytes()) else { panic!("{xml}") };
        Stanza::receive(xml.as_bytes(), &head, &jid("romeo@m.example/o"), None)
    };
    let long = "u".repeat(1000);
    check_sound(&on("urn:x", 4000).expect("it has grown a little"));
    check_sound(&on(&long, 10).expect("it has grown a little"));
    let rejected = on(&long, 4000).expect_err("four megabytes of a few thousand bytes");
    assert_eq!(rejected.error.condition, Condition::PolicyViolation);
}
