//! What is asked of a stream that is bound, and what it is answered.

use xmpp::ns;
use xmpp::stanza::error::{Condition, StanzaError};

use super::answer;
use crate::features::tests::iq;

#[test]
fn the_session_is_there_and_a_second_resource_is_not() {
    let session = "<session xmlns='urn:ietf:params:xml:ns:xmpp-session'/>";
    let bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>x</resource></bind>";
    for to in ["example.org", "romeo@example.org"] {
        // B-125, B-119.
        let reply = answer(&iq("set", to, session)).expect("answered");
        assert_eq!((reply.element().attr("type"), reply.children().count()), (Some("result"), 0));
        let reply = answer(&iq("set", to, bind)).expect("answered");
        let error = reply.element().child("error", ns::CLIENT).map(StanzaError::parse);
        assert_eq!(error.expect("an error").condition, Condition::NotAllowed);
    }
    for (type_, to, payload) in [
        ("get", "example.org", session),
        ("set", "juliet@example.org", session),
        ("set", "example.org", "<x xmlns='urn:ietf:params:xml:ns:xmpp-session'/>"),
    ] {
        assert!(answer(&iq(type_, to, payload)).is_none(), "{type_} {to} {payload}");
    }
}
