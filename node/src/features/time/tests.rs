//! XEP-0202: given this stanza and this moment, expect this answer.

use super::*;
use crate::features::tests::iq;

#[test]
fn the_server_says_the_time() {
    let asked = "<time xmlns='urn:xmpp:time'/>";
    let reply = answer(&iq("get", "example.org", asked), 0).expect("answered").element();
    let time = reply.child("time", ns::TIME).expect("a time");
    assert_eq!(time.child("tzo", ns::TIME).expect("there").text(), "+00:00");
    assert_eq!(time.child("utc", ns::TIME).expect("there").text(), "1970-01-01T00:00:00.000Z");
    assert!(answer(&iq("get", "romeo@example.org", asked), 0).is_none());
    assert!(answer(&iq("get", "example.org", "<query xmlns='urn:xmpp:time'/>"), 0).is_none());
}
