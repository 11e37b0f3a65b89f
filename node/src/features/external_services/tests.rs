//! XEP-0215: given this question, expect this answer.

use std::time::Duration;

use xmpp::stanza::error::Condition;

use super::*;
use crate::features::tests::iq;

fn service(type_: &str, host: &str, port: u16) -> ExternalService {
    ExternalService {
        type_: type_.into(),
        host: host.into(),
        port: Some(port),
        transport: Some("udp".into()),
        name: None,
        region: None,
        secret: None,
        valid_for: Duration::from_secs(86_400),
        username: None,
        password: None,
    }
}

fn services() -> Vec<ExternalService> {
    let secret = Some("north".to_owned());
    let turn = |region: &str, port| ExternalService {
        region: Some(region.into()),
        secret: secret.clone(),
        ..service("turn", &format!("turn.{region}.example"), port)
    };
    let guest = Some("guest".to_owned());
    let ftp = service("ftp", "ftp.example", 20);
    vec![
        service("stun", "stun.example", 3478),
        turn("us", 3478),
        turn("eu", 3478),
        turn("eu", 443),
        ExternalService { username: guest.clone(), password: guest, transport: None, ..ftp },
    ]
}

fn ask(payload: &str) -> Result<Element, StanzaError> {
    let services = services();
    let known = Known { services: &services, region: "eu", now_s: 1_000_000 };
    let romeo = BareJid::parse("romeo@example.org").expect("a JID");
    let answer = known.answer(&iq("get", "example.org", payload).stanza, &romeo)?;
    Ok(answer.element().children().next().expect("a payload").clone())
}

fn hosts(answer: &Element) -> Vec<String> {
    let one = |service: &Element| {
        let attr = |name| service.attr(name).unwrap_or_default();
        format!("{} {}:{}", attr("type"), attr("host"), attr("port"))
    };
    answer.children().map(one).collect()
}

#[test]
fn the_own_regions_services_come_first() {
    let all = ask("<services xmlns='urn:xmpp:extdisco:2'/>").expect("answered");
    assert_eq!(
        hosts(&all),
        [
            "turn turn.eu.example:3478",
            "turn turn.eu.example:443",
            "stun stun.example:3478",
            "turn turn.us.example:3478",
            "ftp ftp.example:20",
        ]
    );
    let ftp = all.children().last().expect("five");
    assert_eq!((ftp.attr("username"), ftp.attr("password")), (Some("guest"), Some("guest")));
    assert_eq!((ftp.attr("expires"), ftp.attr("transport")), (None, None));
    let stun = all.children().nth(2).expect("five");
    assert_eq!((stun.attr("restricted"), stun.attr("username")), (None, None));
}

#[test]
fn one_type_alone_may_be_asked_for() {
    let some = ask("<services xmlns='urn:xmpp:extdisco:2' type='stun'/>").expect("answered");
    assert_eq!((some.attr("type"), hosts(&some).len()), (Some("stun"), 1));
    let none = ask("<services xmlns='urn:xmpp:extdisco:2' type='sip'/>").expect("answered");
    assert!(hosts(&none).is_empty());
}

#[test]
fn credentials_end_by_themselves_and_name_nobody() {
    let turn = ask("<services xmlns='urn:xmpp:extdisco:2' type='turn'/>").expect("answered");
    let turn = turn.children().next().expect("three");
    let name = turn.attr("username").expect("a name");
    assert!(name.starts_with("1086400:") && !name.contains("romeo"), "{name}");
    assert_eq!(turn.attr("expires"), Some("1970-01-13T13:46:40.000Z"));
    assert_eq!(turn.attr("restricted"), Some("1"));
    // What coturn computes.
    let romeo = BareJid::parse("romeo@example.org").expect("a JID");
    let (_, password) = time_limited("north", 1_086_400, &romeo);
    assert_eq!(turn.attr("password"), Some(password.as_str()));
    assert_eq!(STANDARD.decode(password).expect("base64").len(), 20);
    let juliet = BareJid::parse("juliet@example.org").expect("a JID");
    assert_ne!(time_limited("north", 1_086_400, &juliet).0, name);
}

#[test]
fn credentials_are_asked_for_by_host_and_type_and_perhaps_port() {
    let of = |services: &str| {
        ask(&format!("<credentials xmlns='urn:xmpp:extdisco:2'>{services}</credentials>"))
    };
    let both = of("<service host='turn.eu.example' type='turn'/>").expect("answered");
    assert_eq!((both.name(), hosts(&both).len()), ("credentials", 2));
    let one = of("<service host='turn.eu.example' type='turn' port='443'/>").expect("answered");
    assert_eq!(hosts(&one), ["turn turn.eu.example:443"]);
    let condition = |services: &str| of(services).expect_err("refused").condition;
    assert_eq!(condition("<service host='nowhere' type='turn'/>"), Condition::ItemNotFound);
    assert_eq!(condition("<service host='stun.example' type='turn'/>"), Condition::ItemNotFound);
    assert_eq!(condition("<service host='turn.eu.example'/>"), Condition::BadRequest);
    assert_eq!(condition("<service type='turn'/>"), Condition::BadRequest);
    assert_eq!(condition(""), Condition::BadRequest);
}
