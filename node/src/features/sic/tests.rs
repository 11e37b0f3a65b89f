//! XEP-0279: given this question, expect this answer.

use super::*;
use crate::features::tests::iq;

#[test]
fn one_hears_ones_own_address_and_nobody_elses() {
    let ask = |to: &str, payload: &str, peer: &str| {
        let answer = answer(&iq("get", to, payload), peer.parse().ok()).expect("answered");
        answer.map(|element| {
            let texts: Vec<String> = element.children().map(Element::text).collect();
            if texts.is_empty() { element.text() } else { texts.join(" ") }
        })
    };
    let (new, old) = ("<address xmlns='urn:xmpp:sic:1'/>", "<ip xmlns='urn:xmpp:sic:0'/>");
    let own = "romeo@example.org";
    assert_eq!(ask(own, new, "192.0.2.1:5000"), Ok("192.0.2.1 5000".into()));
    assert_eq!(ask("example.org", new, "[2001:db8::9:1]:6"), Ok("2001:db8::9:1 6".into()));
    assert_eq!(ask(own, old, "[::ffff:192.0.2.1]:5000"), Ok("192.0.2.1".into()));
    assert_eq!(ask("juliet@example.org", new, "192.0.2.1:5000"), Err(StanzaError::forbidden()));
    assert_eq!(
        ask(own, "<ip xmlns='urn:xmpp:sic:1'/>", "192.0.2.1:1"),
        Err(StanzaError::bad_request())
    );
    assert_eq!(ask(own, new, ""), Err(StanzaError::item_not_found()));
}
