//! XEP-0030: given this question, expect this answer.

use xmpp::payload::disco::Item;

use super::*;
use crate::features::tests::iq;

/// A feature that is advertised twice, and all that a feature may add.
struct Rich;

impl Feature for Rich {
    fn name(&self) -> &'static str {
        "rich"
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.extend([ns::PING, ns::CARBONS, ns::PING]);
        disco.account.push(ns::CARBONS);
        disco.account_kept.push(ns::MAM);
        disco.server_identities.push(Identity::new("pubsub", "service", None));
        disco.account_identities.push(Identity::new("pubsub", "pep", None));
    }
}

fn features() -> Features {
    let contact = config::Contact {
        abuse: vec!["mailto:abuse@example.org".into(), "xmpp:abuse@example.org".into()],
        ..config::Contact::default()
    };
    Features::of(vec![Box::new(Rich), Box::new(DiscoFeature { contact, alone: true })])
}

const INFO: &str = "<query xmlns='http://jabber.org/protocol/disco#info'/>";
const ITEMS: &str = "<query xmlns='http://jabber.org/protocol/disco#items'/>";

fn ask(to: &str, payload: &str) -> Result<Stanza, StanzaError> {
    let files = Item { jid: "upload.example.org".into(), node: None, name: Some("Files".into()) };
    let iq = iq("get", to, payload);
    answer(&features(), &iq, Some("anon.example.org"), || vec![files], |info, _| info)
}

fn info(to: &str) -> Info {
    let answer = ask(to, INFO).expect("answered").element();
    Info::parse(answer.child("query", ns::DISCO_INFO).expect("a query")).expect("an answer")
}

fn items(to: &str) -> Vec<String> {
    let answer = ask(to, ITEMS).expect("answered").element();
    let items = answer.child("query", ns::DISCO_ITEMS).and_then(Items::parse).expect("an answer");
    items.items.into_iter().map(|item| item.jid).collect()
}

fn names(info: &Info) -> Vec<String> {
    info.identities.iter().map(|one| format!("{}/{}", one.category, one.type_)).collect()
}

#[test]
fn the_server_says_what_it_is_and_what_it_has_each_once() {
    let info = info("example.org");
    let disco = [ns::CAPS, ns::DISCO_INFO, ns::DISCO_ITEMS];
    assert_eq!(info.features, [&disco[..], &[ns::CARBONS, ns::PING]].concat());
    assert_eq!(names(&info), ["server/im", "pubsub/service"]);
    assert_eq!(info.forms.len(), 1);
    assert_eq!(info.forms[0].form_type(), Some(ns::SERVER_INFO));
    assert_eq!(info.forms[0].values("abuse-addresses").len(), 2);
    assert!(info.forms[0].field("admin-addresses").is_none());
}

#[test]
fn an_account_is_an_account() {
    let info = info("romeo@example.org");
    assert_eq!(info.features, [ns::DISCO_INFO, ns::DISCO_ITEMS, ns::CARBONS, ns::MAM]);
    assert_eq!(names(&info), ["account/registered", "pubsub/pep"]);
    assert!(info.forms.is_empty());
    let guest = super::tests::info("x@anon.example.org");
    assert_eq!(names(&guest)[0], "account/anonymous");
    assert!(!guest.features.iter().any(|feature| feature == ns::MAM), "nothing is kept of it");
}

#[test]
fn the_servers_items_are_its_services_and_an_account_has_none() {
    assert_eq!(items("example.org"), ["upload.example.org"]);
    assert!(items("romeo@example.org").is_empty());
}

#[test]
fn an_unknown_node_is_not_found() {
    for to in ["example.org", "romeo@example.org"] {
        for kind in ["info", "items"] {
            let query =
                format!("<query xmlns='http://jabber.org/protocol/disco#{kind}' node='x'/>");
            assert_eq!(ask(to, &query).err(), Some(StanzaError::item_not_found()), "{to} {kind}");
        }
    }
}

#[test]
fn the_servers_capabilities_can_be_looked_up() {
    let caps = features().caps.clone().expect("nothing is delegated");
    let node = caps.disco_node();
    let query = format!("<query xmlns='http://jabber.org/protocol/disco#info' node='{node}'/>");
    let answer = ask("example.org", &query).expect("answered").element();
    let found = answer.child("query", ns::DISCO_INFO).and_then(Info::parse).expect("an answer");
    assert_eq!(found.node.as_deref(), Some(node.as_str()));
    assert_eq!(xmpp::payload::caps::ver(&found), caps.ver);
    let features = String::from_utf8(features().stream_features()).expect("text");
    assert!(features.contains("<c xmlns='http://jabber.org/protocol/caps' hash='sha-1'"));
    assert_eq!(ask("romeo@example.org", &query).err(), Some(StanzaError::item_not_found()));
}

#[test]
fn without_contacts_there_is_no_form_and_administrators_stand_in() {
    assert_eq!(contact::form(&config::Contact::default()), None);
    let text = include_str!("../../../../config/examples/one-node.toml");
    let config = Config::parse(text, "example", "/nowhere".as_ref()).expect("good");
    let silent = Config { contact: config::Contact::default(), ..config };
    assert_eq!(contact::of(&silent).admin, ["xmpp:admin@chat.example"]);
}
