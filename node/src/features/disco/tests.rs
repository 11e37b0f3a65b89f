//! XEP-0030: given this question, expect this answer.

use super::*;
use crate::features::tests::iq;

fn disco() -> Disco {
    let mut all =
        Disco { server: vec![ns::PING, ns::CARBONS, ns::PING], account: vec![ns::CARBONS] };
    DiscoFeature.disco(&mut all);
    all
}

const INFO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
const ITEMS: &str = "<query xmlns='http://jabber.org/protocol/disco#items'/>";

fn features(answer: &Stanza) -> Vec<String> {
    let element = answer.element();
    let query = element.child("query", ns::DISCO_INFO).expect("a query");
    query.children().filter_map(|child| child.attr("var").map(str::to_owned)).collect()
}

#[test]
fn the_server_says_what_it_is_and_what_it_has_each_once() {
    let asked = iq("get", "example.org", INFO);
    let answer = answer(&disco(), &asked.stanza, true, std::iter::empty()).expect("answered");
    assert_eq!(features(&answer), [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::CARBONS, ns::PING]);
    let element = answer.element();
    let identity = element
        .child("query", ns::DISCO_INFO)
        .and_then(|query| query.child("identity", ns::DISCO_INFO))
        .expect("an identity");
    assert_eq!((identity.attr("category"), identity.attr("type")), (Some("server"), Some("im")));
}

#[test]
fn an_account_is_an_account() {
    let asked = iq("get", "romeo@example.org", INFO);
    let answer = answer(&disco(), &asked.stanza, false, std::iter::empty()).expect("answered");
    assert_eq!(features(&answer), [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::CARBONS]);
}

#[test]
fn the_servers_items_are_its_services_and_an_account_has_none() {
    let asked = iq("get", "example.org", ITEMS);
    let services = [("rooms.example.org", "Rooms"), ("upload.example.org", "Files")];
    let items = |server| {
        let answer = answer(&disco(), &asked.stanza, server, services.into_iter())
            .expect("answered")
            .element();
        let query = answer.child("query", ns::DISCO_ITEMS).expect("a query");
        query
            .children()
            .filter_map(|child| child.attr("jid").map(str::to_owned))
            .collect::<Vec<_>>()
    };
    assert_eq!(items(true), services.map(|(host, _)| host));
    assert!(items(false).is_empty());
}

#[test]
fn an_unknown_node_is_not_found() {
    let asked =
        iq("get", "example.org", "<query xmlns='http://jabber.org/protocol/disco#info' node='x'/>");
    assert_eq!(
        answer(&disco(), &asked.stanza, true, std::iter::empty()).err(),
        Some(StanzaError::item_not_found())
    );
}
