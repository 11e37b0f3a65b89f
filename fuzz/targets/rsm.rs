//! Result sets (XEP-0059): a request is read or refused, and what it named can be given back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use xmpp::payload::rsm::{Given, Wanted};
use xmpp::xml::element::Element;

fuzz_target!(|data: &[u8]| {
    let xml = [b"<q><set xmlns='http://jabber.org/protocol/rsm'>", data, b"</set></q>"].concat();
    let Ok(element) = Element::parse(&xml) else { return };
    let Ok(wanted) = Wanted::of(&element) else { return };
    let (after, before) = (wanted.after.unwrap_or_default(), wanted.before.unwrap_or_default());
    assert_eq!(wanted.max.map(|max| max.to_string().parse::<u32>().ok()), wanted.max.map(Some));
    let given = Given { ends: Some((after.clone(), before.clone())), count: Some(1), index: None }.element();
    let written = Element::parse(&given.to_bytes()).expect("well-formed");
    let text = |name: &str| written.child(name, xmpp::ns::RSM).map(Element::text);
    assert_eq!((text("first"), text("last")), (Some(after), Some(before)));
});
