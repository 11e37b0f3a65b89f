//! XEP-0199: given this stanza, expect this answer.

use super::*;
use crate::features::tests::iq;

#[test]
fn the_server_and_the_own_account_answer_at_once() {
    for (to, answered) in
        [("example.org", true), ("romeo@example.org", true), ("juliet@example.org", false)]
    {
        let ping = iq("get", to, "<ping xmlns='urn:xmpp:ping'/>");
        let reply = answer(&ping);
        assert_eq!(reply.is_some(), answered, "{to}");
        if let Some(reply) = reply {
            assert_eq!((reply.type_(), reply.id().as_deref()), (Type::Result, Some("i1")));
            assert_eq!(
                reply.to().map(ToString::to_string).as_deref(),
                Some("romeo@example.org/orchard")
            );
            assert_eq!(reply.first_child(), None);
        }
    }
    assert!(answer(&iq("set", "example.org", "<ping xmlns='urn:xmpp:ping'/>")).is_none());
    assert!(answer(&iq("get", "example.org", "<pong xmlns='urn:xmpp:ping'/>")).is_none());
}
