//! XEP-0077: given this iq, expect this request or this error.

use super::payload::*;
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

fn iq(type_: &str, query: &str) -> Element {
    let text = format!(
        "<iq id='r1' type='{type_}'><query xmlns='jabber:iq:register'>{query}</query></iq>"
    );
    Element::parse(text.as_bytes()).expect("an iq")
}

#[test]
fn each_request_is_told_from_the_others() {
    assert!(matches!(parse(&iq("get", "")), Ok(Asked::Fields)));
    assert!(matches!(parse(&iq("set", "<remove/>")), Ok(Asked::Remove)));
    let asked = parse(&iq(
        "set",
        "<username>romeo</username><password> secret </password><email>x</email>",
    ));
    let Ok(Asked::Register { username, password }) = asked else { panic!("{asked:?}") };
    assert_eq!((username.as_str(), password.expose()), ("romeo", " secret "));
}

#[test]
fn half_a_request_is_a_bad_one() {
    for query in [
        "",
        "<username>romeo</username>",
        "<password>x</password>",
        "<remove/><username>x</username>",
    ] {
        assert_eq!(parse(&iq("set", query)).err(), Some(StanzaError::bad_request()), "{query}");
    }
}

#[test]
fn a_name_is_prepared_and_cannot_smuggle_an_address() {
    assert_eq!(account_of("Romeo", "example.org").expect("fine").as_str(), "romeo@example.org");
    for name in ["", "romeo@example.net", "example.net/romeo", "ro meo", "ro\"meo", "\u{7}"] {
        assert_eq!(
            account_of(name, "example.org").err(),
            Some(StanzaError::not_acceptable()),
            "{name:?}"
        );
    }
}

#[test]
fn a_stranger_is_asked_for_name_and_password_and_a_user_is_told_who_he_is() {
    let form = fields();
    assert!(form.has_child("username", ns::REGISTER) && form.has_child("password", ns::REGISTER));
    assert!(!form.has_child("registered", ns::REGISTER));
    let told = registered(&account_of("romeo", "example.org").expect("fine"));
    assert!(told.has_child("registered", ns::REGISTER));
    assert_eq!(told.child("username", ns::REGISTER).expect("there").text(), "romeo");
}

#[test]
fn an_answer_goes_back_under_the_same_id() {
    let done = reply(&iq("set", ""), "example.org", Ok(None));
    assert_eq!(
        (done.attr("id"), done.attr("type"), done.attr("from")),
        (Some("r1"), Some("result"), Some("example.org"))
    );
    let refused = reply(&iq("set", ""), "example.org", Err(StanzaError::conflict()));
    assert_eq!(refused.attr("type"), Some("error"));
    assert!(refused.has_child("error", ns::CLIENT));
}
