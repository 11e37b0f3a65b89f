//! XEP-0077: given this iq, expect this request or this error; then strangers at a real home, with tokens (XEP-0445) and without.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::data_form::{FieldKind, Form, FormKind};
use xmpp::stanza::error::{Condition, StanzaError};
use xmpp::xml::element::Element;

use super::payload::*;
use super::*;
use crate::features::invitations::{self, Wish as Invite};
use crate::testing::{House, bare};

fn iq(type_: &str, query: &str) -> Element {
    let text = format!(
        "<iq xmlns='jabber:client' id='r1' type='{type_}'><query xmlns='jabber:iq:register'>{query}</query></iq>"
    );
    Element::parse(text.as_bytes()).expect("an iq")
}

fn form(form_type: &str, fields: &[(&str, &str)]) -> String {
    let field =
        |(var, value): &(&str, &str)| format!("<field var='{var}'><value>{value}</value></field>");
    let fields: String = fields.iter().map(field).collect();
    format!(
        "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>{form_type}</value></field>{fields}</x>"
    )
}

fn read(query: &str) -> String {
    match parse(&iq("set", query)) {
        Ok(Asked::Register { username, password }) => {
            let password = password.map(|password| password.expose().to_owned());
            format!("{username:?} {password:?}")
        }
        Ok(asked) => format!("{asked:?}"),
        Err(error) => error.condition.name().to_owned(),
    }
}

#[test]
fn each_request_is_told_from_the_others() {
    assert!(matches!(parse(&iq("get", "")), Ok(Asked::Fields)));
    for (query, expected) in [
        ("<remove/>", "Remove"),
        ("<remove/><username>x</username>", "bad-request"),
        (
            "<username>romeo</username><password> secret </password><email>x</email>",
            "Some(\"romeo\") Some(\" secret \")",
        ),
        ("", "None None"),
        ("<username/><password/>", "Some(\"\") Some(\"\")"),
        ("<x xmlns='jabber:x:data' type='form'/>", "bad-request"),
        ("<x xmlns='jabber:x:data' type='cancel'/>", "bad-request"),
        ("<x xmlns='jabber:x:data' type='submit'><field/></x>", "bad-request"),
        ("<x xmlns='jabber:x:data' type='submit'/>", "None None"),
    ] {
        assert_eq!(read(query), expected, "{query}");
    }
}

#[test]
fn a_form_comes_before_the_elements_and_must_be_of_the_right_type() {
    let fields = [("username", "romeo"), ("password", "pw"), ("old_password", "x")];
    let both = "<username>juliet</username><password>other</password>";
    for form_type in ["jabber:iq:register", "jabber:iq:register:changepassword"] {
        let query = form(form_type, &fields) + both;
        assert_eq!(read(&query), "Some(\"romeo\") Some(\"pw\")");
    }
    for form_type in ["jabber:iq:register:cancel", "urn:x"] {
        assert_eq!(read(&form(form_type, &fields)), "bad-request");
    }
}

#[test]
fn a_name_is_prepared_and_cannot_smuggle_an_address() {
    assert_eq!(account_of("Romeo", "example.org").expect("fine").as_str(), "romeo@example.org");
    for name in ["", "romeo@example.net", "example.net/romeo", "ro meo", "ro\"meo", "\u{7}"] {
        let refused = account_of(name, "example.org").expect_err("no name");
        assert_eq!(refused.condition, Condition::NotAcceptable, "{name:?}");
    }
    let romeo = account_of("romeo", "example.org").expect("fine");
    for (name, own) in [
        ("romeo", true),
        ("ROMEO", true),
        ("romeo@example.org", true),
        ("romeo@example.net", false),
        ("juliet", false),
        ("", false),
    ] {
        assert_eq!(is_own(name, &romeo), own, "{name:?}");
    }
}

#[test]
fn a_stranger_is_asked_for_name_and_password_and_a_user_is_told_who_he_is() {
    let rules = config::Registration {
        enabled: true,
        per_address_per_10min: 1,
        instructions: Some("Be kind.".into()),
        url: Some("https://example.org/register".into()),
        password_length_min: 1,
        password_bits_min: 0,
        change_password: true,
        remove_account: true,
        reserved: Vec::new(),
    };
    let query = fields(&rules);
    for child in ["username", "password"] {
        assert!(query.has_child(child, ns::REGISTER));
    }
    assert_eq!(query.child("instructions", ns::REGISTER).expect("there").text(), "Be kind.");
    assert!(!query.has_child("registered", ns::REGISTER));
    let form = Form::parse(query.child("x", ns::DATA_FORMS).expect("a form")).expect("read");
    assert_eq!((form.kind, form.form_type()), (FormKind::Form, Some("jabber:iq:register")));
    let kind = |var| form.field(var).map(|field| (field.kind, field.required));
    assert_eq!(kind("username"), Some((Some(FieldKind::TextSingle), true)));
    assert_eq!(kind("password"), Some((Some(FieldKind::TextPrivate), true)));
    let url = |query: &Element| {
        let oob = query.child("x", ns::OOB).and_then(|x| x.child("url", ns::OOB));
        oob.map(Element::text)
    };
    assert_eq!(url(&query).as_deref(), Some("https://example.org/register"));

    let elsewhere = redirection(&rules, "https://example.org/register");
    assert_eq!(elsewhere.children().count(), 2);
    assert!(url(&elsewhere).is_some() && elsewhere.has_child("instructions", ns::REGISTER));

    let told = registered(&account_of("romeo", "example.org").expect("fine"));
    assert!(told.has_child("registered", ns::REGISTER));
    assert_eq!(told.child("username", ns::REGISTER).expect("there").text(), "romeo");
    assert_eq!(told.child("password", ns::REGISTER).expect("there").text(), "");
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

/// One stream to a house.
struct Door<'a> {
    house: &'a House,
    stranger: Stranger,
    from: IpAddr,
}

impl<'a> Door<'a> {
    fn new(house: &'a House) -> Self {
        let from = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { house, stranger: Stranger::default(), from }
    }

    /// `ok`, the names of a result's payload, or a condition; `closed`: the stream ends.
    async fn ask(&mut self, iq: Element) -> String {
        let answer = self.stranger.ask(&self.house.node, self.from, "chat.example", &iq).await;
        let Ok(answer) = answer else { return "closed".into() };
        if let Some(error) = answer.child("error", ns::CLIENT) {
            return StanzaError::parse(error).condition.name().to_owned();
        }
        match answer.child("query", ns::REGISTER) {
            Some(query) => query.children().map(Element::name).collect::<Vec<_>>().join(" "),
            None => "ok".into(),
        }
    }

    async fn register(&mut self, name: &str, password: &str) -> String {
        let query = format!("<username>{name}</username><password>{password}</password>");
        self.ask(iq("set", &query)).await
    }

    async fn show(&mut self, token: &str) -> String {
        let text = format!(
            "<iq xmlns='jabber:client' type='set' id='p'><preauth xmlns='urn:xmpp:pars:0' token='{token}'/></iq>"
        );
        self.ask(Element::parse(text.as_bytes()).expect("an iq")).await
    }
}

const OPEN: &str = "[registration]\nenabled = true\nper_address_per_10min = 3";

async fn exists(house: &House, name: &str) -> bool {
    Account::load(&*house.node.storage, &bare(name)).await.expect("read").is_some()
}

#[tokio::test]
async fn strangers_get_accounts_or_the_reason_why_not() {
    let house = House::with(OPEN).await;
    house.accounts(["juliet"]).await;
    let mut door = Door::new(&house);
    assert_eq!(door.ask(iq("get", "")).await, "instructions username password x");
    for (query, expected) in [
        ("", "not-acceptable"),
        ("<username>romeo</username>", "not-acceptable"),
        ("<password>long enough</password>", "not-acceptable"),
        ("<username/><password>long enough</password>", "not-acceptable"),
        ("<username>romeo</username><password/>", "not-acceptable"),
        ("<username>romeo</username><password>short</password>", "not-acceptable"),
        ("<username>ro meo</username><password>long enough</password>", "not-acceptable"),
        ("<username>Admin</username><password>long enough</password>", "not-acceptable"),
        ("<remove/>", "registration-required"),
        ("<remove/><username>romeo</username>", "bad-request"),
        ("<username>juliet</username><password>long enough</password>", "conflict"),
        ("<username>romeo</username><password>long enough</password>", "ok"),
        ("<username>Romeo</username><password>long enough</password>", "conflict"),
        ("<username>nurse</username><password>long enough</password>", "resource-constraint"),
    ] {
        assert_eq!(door.ask(iq("set", query)).await, expected, "{query}");
    }
    assert!(exists(&house, "romeo").await && !exists(&house, "nurse").await);
    door.from = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(
        door.ask(iq(
            "set",
            &form("jabber:iq:register", &[("username", "nurse"), ("password", "long enough")])
        ))
        .await,
        "ok"
    );
    assert_eq!(door.ask(iq("result", "")).await, "bad-request");
}

#[tokio::test]
async fn a_stream_that_only_asks_is_ended() {
    let house = House::with(OPEN).await;
    let mut door = Door::new(&house);
    for _ in 0..50 {
        assert_ne!(door.ask(iq("get", "")).await, "closed");
    }
    assert_eq!(door.ask(iq("get", "")).await, "closed");
}

#[tokio::test]
async fn where_nobody_registers_that_is_what_is_said() {
    for (config, get, set, show) in [
        (
            "[invitations]\naccounts = 'nobody'",
            "service-unavailable",
            "service-unavailable",
            "service-unavailable",
        ),
        ("", "service-unavailable", "not-allowed", "item-not-found"),
        (
            "[registration]\nurl = 'https://chat.example/register'",
            "instructions x",
            "not-allowed",
            "item-not-found",
        ),
    ] {
        let house = House::with(config).await;
        let mut door = Door::new(&house);
        assert_eq!(door.ask(iq("get", "")).await, get, "{config}");
        assert_eq!(door.register("romeo", "long enough").await, set, "{config}");
        assert_eq!(door.show("ff").await, show, "{config}");
    }
}

fn invite(owner: &str) -> Invite {
    Invite {
        owner: BareJid::parse(owner).expect("a JID"),
        register: true,
        contact: true,
        username: None,
        uses: 1,
        expire: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn who_has_a_token_registers_though_nobody_else_may_and_finds_a_contact() {
    let house = House::new().await;
    house.accounts(["juliet"]).await;
    let issued =
        invitations::issue(&house.node, invite("juliet@chat.example")).await.expect("made");
    let token = issued.token.expose();
    let mut door = Door::new(&house);
    assert_eq!(door.show("").await, "item-not-found");
    assert_eq!(door.show(token).await, "ok");
    assert_eq!(door.ask(iq("get", "")).await, "instructions username password x");
    // It is not used by what comes to nothing.
    assert_eq!(door.register("romeo", "short").await, "not-acceptable");
    assert_eq!(door.register("juliet", "long enough").await, "conflict");
    assert_eq!(door.register("root", "long enough").await, "not-acceptable");
    let mut second = Door::new(&house);
    assert_eq!(second.show(token).await, "ok");
    assert_eq!(door.register("romeo", "long enough").await, "ok");
    assert_eq!(door.register("nurse", "long enough").await, "not-allowed", "it was for one");
    assert_eq!(second.register("nurse", "long enough").await, "item-not-found");
    assert_eq!(second.show(token).await, "item-not-found");
    for (account, contact) in [("romeo", "juliet"), ("juliet", "romeo")] {
        let roster = house.node.rosters.load(&house.node, &bare(account)).await.expect("read");
        let state = roster.contacts[&bare(contact)].state;
        assert!(state.to && state.from, "{account}: {state:?}");
    }
}

#[tokio::test]
async fn an_invitation_for_a_name_is_for_no_other() {
    let house = House::with(OPEN).await;
    let owner = "chat.example";
    let wish = Invite { username: Some("postmaster".into()), ..invite(owner) };
    let issued = invitations::issue(&house.node, wish).await.expect("made");
    let mut door = Door::new(&house);
    assert_eq!(door.show(issued.token.expose()).await, "ok");
    assert_eq!(door.register("romeo", "long enough").await, "not-acceptable");
    assert_eq!(door.register("postmaster", "long enough").await, "ok");
    let wish = Invite { username: Some("nurse".into()), ..invite(owner) };
    invitations::issue(&house.node, wish).await.expect("made");
    assert_eq!(Door::new(&house).register("nurse", "long enough").await, "conflict");
}

#[tokio::test]
async fn tokens_are_not_found_by_trying() {
    let house = House::new().await;
    let mut answers = Vec::new();
    for _ in 0..3 {
        let mut door = Door::new(&house);
        for _ in 0..40 {
            answers.push(door.show("00000000000000000000000000000000").await);
        }
    }
    let limited = answers.iter().position(|answer| answer == "resource-constraint");
    assert_eq!(limited, Some(100));
}

#[tokio::test]
async fn another_password_ends_the_sessions_that_did_not_ask_for_it_if_it_is_to() {
    for (more, by, ended) in [
        ("", Some("a"), &["b", "c"][..]),
        ("", None, &["a", "b", "c"]),
        ("[clients]\npassword_ends_sessions = false\n", None, &[]),
    ] {
        let house = House::with(more).await;
        let [romeo, _] = house.accounts(["romeo", "juliet"]).await;
        let other = house.bound("juliet/a");
        let seats = ["a", "b", "c"].map(|name| house.bound(&format!("romeo/{name}")));
        let record = Account::load(house.node.storage.as_ref(), &romeo).await.expect("read");
        let record = record.expect("romeo");
        accounts::set_keys(&house.node.homes, &romeo, &record, by).await.expect("done");
        let closed = |seat: &std::sync::Arc<crate::session::Seat>| seat.mailbox.depth().items > 0;
        let (gone, stay): (Vec<_>, Vec<_>) =
            seats.iter().partition(|seat| ended.contains(&seat.full.resource()));
        for seat in gone {
            house.until("it is closed", || closed(seat)).await;
            let mail = crate::testing::mail(seat);
            assert!(mail[0].contains("condition: Reset"), "{mail:?}");
        }
        assert!(stay.into_iter().all(|seat| !closed(seat)) && !closed(&other), "{by:?} {more:?}");
    }
}
