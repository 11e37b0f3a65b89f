//! XEP-0092: given this stanza, expect this answer.

use super::*;
use crate::features::tests::iq;

#[test]
fn the_server_says_its_name_and_version_and_an_account_does_not() {
    let asked = "<query xmlns='jabber:iq:version'/>";
    let reply = answer(&iq("get", "example.org", asked)).expect("answered").element();
    let query = reply.child("query", ns::VERSION).expect("a query");
    let text = |name| query.child(name, ns::VERSION).expect("there").text();
    assert_eq!(text("name"), "Pangaea");
    assert_eq!(text("version"), env!("CARGO_PKG_VERSION"));
    assert!(!query.has_child("os", ns::VERSION));
    assert!(answer(&iq("get", "romeo@example.org", asked)).is_none());
    assert!(answer(&iq("set", "example.org", asked)).is_none());
    assert!(answer(&iq("get", "example.org", "<version xmlns='jabber:iq:version'/>")).is_none());
}
