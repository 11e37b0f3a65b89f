//! Invitations through real homes: what they are good for, how often, how long, and for whom.

use xmpp::jid::BareJid;

use super::home::{Answer, OP, Request};
use super::token::Token;
use super::*;
use crate::features::roster;
use crate::features::roster::home::{Answer as RosterAnswer, Request as RosterRequest};
use crate::testing::{House, bare};

fn wish(owner: &BareJid) -> Wish {
    Wish {
        owner: owner.clone(),
        register: true,
        contact: true,
        username: None,
        uses: 1,
        expire: Duration::from_secs(60),
    }
}

async fn subscribe(house: &House, who: &str, to: &BareJid, token: &Token) -> RosterAnswer {
    let stanza = format!(
        "<presence xmlns='jabber:client' type='subscribe' from='{who}@chat.example' to='{to}'>\
         <preauth xmlns='urn:xmpp:pars:0' token='{}'/></presence>",
        token.expose()
    );
    let request = RosterRequest::In {
        contact: bare(who),
        kind: Kind::Subscribe,
        stanza: stanza.into_bytes(),
        items_max: 10,
    };
    roster::ask(&house.node, to, &request).await.expect("answered")
}

#[tokio::test]
async fn an_invitation_is_used_as_often_as_it_says_and_no_more() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let issued = issue(&house.node, Wish { uses: 2, ..wish(&romeo) }).await.expect("made");
    assert_eq!(issued.uri, issued.token.roster_uri(true));
    assert!(look(&house.node, &issued.token).await.expect("asked").is_some());
    let first = take(&house.node, &issued.token).await.expect("asked").expect("good");
    assert!(take(&house.node, &issued.token).await.expect("asked").is_some());
    assert!(take(&house.node, &issued.token).await.expect("asked").is_none());
    assert!(look(&house.node, &issued.token).await.expect("asked").is_none());
    give_back(&house.node, &issued.token, first).await;
    assert!(take(&house.node, &issued.token).await.expect("asked").is_some());
    assert!(take(&house.node, &issued.token).await.expect("asked").is_none());
}

#[tokio::test]
async fn a_request_that_brings_a_token_is_approved_and_returned_and_a_second_one_waits() {
    let house = House::new().await;
    let [romeo, nurse] = house.accounts(["romeo", "nurse"]).await;
    let issued = issue(&house.node, wish(&romeo)).await.expect("made");
    let waits = RosterAnswer::Subscription { pass: true, auto_reply: false };
    // Another's token is no token.
    assert_eq!(subscribe(&house, "juliet", &nurse, &issued.token).await, waits);
    assert_eq!(subscribe(&house, "juliet", &romeo, &issued.token).await, RosterAnswer::Invited);
    assert_eq!(subscribe(&house, "tybalt", &romeo, &issued.token).await, waits);
    let roster = house.node.rosters.load(&house.node, &romeo).await.expect("read");
    assert!(roster.contacts[&bare("juliet")].state.from && roster.contacts[&bare("juliet")].listed);
    assert!(roster.contacts[&bare("tybalt")].state.pending_in);
}

#[tokio::test]
async fn a_token_for_an_account_alone_makes_no_contact() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let issued = issue(&house.node, Wish { contact: false, ..wish(&romeo) }).await.expect("made");
    assert_eq!(issued.uri, issued.token.register_uri(&bare_domain()));
    let waits = RosterAnswer::Subscription { pass: true, auto_reply: false };
    assert_eq!(subscribe(&house, "juliet", &romeo, &issued.token).await, waits);
    assert!(look(&house.node, &issued.token).await.expect("asked").is_some());
}

fn bare_domain() -> BareJid {
    BareJid::parse("chat.example").expect("a domain")
}

#[tokio::test]
async fn the_number_of_open_invitations_is_bounded() {
    let house = House::with("[invitations]\nopen_max = 2").await;
    let [romeo] = house.accounts(["romeo"]).await;
    let mut made = Vec::new();
    for owner in [&romeo, &romeo, &bare_domain(), &bare_domain()] {
        made.push(issue(&house.node, wish(owner)).await.expect("made"));
    }
    for owner in [&romeo, &bare_domain()] {
        let refused = issue(&house.node, wish(owner)).await.expect_err("full");
        assert_eq!(refused.condition, StanzaError::resource_constraint().condition);
        assert_eq!(list(&house.node, owner).await.expect("asked").len(), 2);
    }
    assert!(revoke(&house.node, &romeo, &made[0].token.key()).await.expect("asked"));
    assert!(!revoke(&house.node, &romeo, &made[0].token.key()).await.expect("asked"));
    issue(&house.node, wish(&romeo)).await.expect("made");
    let nobody = issue(&house.node, wish(&bare("nobody"))).await.expect_err("no account");
    assert_eq!(nobody.condition, StanzaError::item_not_found().condition);
}

#[tokio::test]
async fn what_has_expired_is_no_good_but_who_showed_it_in_time_may_finish() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let token = Token::new([3; 16], &romeo);
    let now = house.node.wall_ms();
    let put = async |token: &Token, expires| {
        let invitation = record::Invitation {
            register: true,
            contact: true,
            username: None,
            created: 0,
            expires,
            uses: 1,
        };
        let request = Request::Issue { key: token.key(), invitation, max: 10 };
        assert!(matches!(ask(&house.node, &romeo, &request).await, Ok(Answer::Done)));
    };
    put(&token, now - 1_000).await;
    assert!(look(&house.node, &token).await.expect("asked").is_none());
    assert!(list(&house.node, &romeo).await.expect("asked").is_empty());
    assert!(take(&house.node, &token).await.expect("asked").is_some());
    let old = Token::new([4; 16], &romeo);
    put(&old, now - 7_200_000).await;
    assert!(list(&house.node, &romeo).await.expect("asked").is_empty());
    assert!(take(&house.node, &old).await.expect("asked").is_none(), "it was tidied away");
}

#[tokio::test]
async fn a_name_is_kept_for_its_invitation_until_that_is_used_or_revoked() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let for_juliet = || Wish { username: Some("Juliet".into()), contact: false, ..wish(&romeo) };
    let issued = issue(&house.node, for_juliet()).await.expect("made");
    assert_eq!(issued.uri, issued.token.register_uri(&bare("juliet")));
    let taken = StanzaError::conflict().condition;
    assert_eq!(issue(&house.node, for_juliet()).await.expect_err("kept").condition, taken);
    let romeos = Wish { username: Some("romeo".into()), ..wish(&romeo) };
    assert_eq!(issue(&house.node, romeos).await.expect_err("exists").condition, taken);
    let bad = Wish { username: Some("jul iet".into()), ..wish(&romeo) };
    let refused = issue(&house.node, bad).await.expect_err("no name");
    assert_eq!(refused.condition, StanzaError::not_acceptable().condition);
    let record = crate::homes::accounts::Account::load(&*house.node.storage, &romeo).await;
    let account = Box::new(record.expect("read").expect("exists"));
    let register = async |by: Option<String>| {
        let request = Request::Register { account: account.clone(), by };
        let answer: Answer =
            house.node.homes.exchange(&bare("juliet"), OP, &request).await.expect("asked");
        answer
    };
    assert_eq!(register(None).await, Answer::Taken);
    assert_eq!(register(Some("another".into())).await, Answer::Taken);
    assert_eq!(register(Some(issued.token.key())).await, Answer::Done);
    assert_eq!(register(Some(issued.token.key())).await, Answer::Taken);
    // Revoked, a name is free.
    let nurse = Wish { username: Some("nurse".into()), ..wish(&romeo) };
    let issued = issue(&house.node, nurse.clone()).await.expect("made");
    assert!(revoke(&house.node, &romeo, &issued.token.key()).await.expect("asked"));
    issue(&house.node, nurse).await.expect("made");
}

#[tokio::test]
async fn friends_are_made_by_their_own_approvals() {
    let house = House::new().await;
    let [romeo, juliet] = house.accounts(["romeo", "juliet"]).await;
    befriend(&house.node, &romeo, &juliet).await;
    for (account, contact) in [(&romeo, &juliet), (&juliet, &romeo)] {
        let roster = house.node.rosters.load(&house.node, account).await.expect("read");
        let state = roster.contacts[contact].state;
        assert!(state.to && state.from && !state.approved && !state.pending_out, "{state:?}");
    }
}

#[tokio::test]
async fn the_page_about_an_invitation_shows_its_uri_and_nothing_of_others() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let page = async |token: &str| {
        let response = page::page(&house.node, token).await;
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
        let policy = parts.headers["content-security-policy"].to_str().expect("text").to_owned();
        assert!(policy.starts_with("default-src 'none'"));
        (parts.status.as_u16(), String::from_utf8(body.to_vec()).expect("text"))
    };
    let issued = issue(&house.node, wish(&romeo)).await.expect("made");
    let (status, text) = page(issued.token.expose()).await;
    assert_eq!(status, 200);
    assert!(text.contains(&format!("href='{}'", issued.uri.replace('&', "&amp;"))), "{text}");
    assert!(text.contains("<strong>romeo@chat.example</strong>"), "{text}");
    // While nobody knows, it is not said to be used.
    house.database.go(true);
    let (status, text) = page(issued.token.expose()).await;
    assert!(status == 503 && text.contains("try again"), "{status} {text}");
    assert_eq!(page("x").await.0, 404, "no token at all");
    house.database.go(false);
    // To look at it uses nothing up.
    assert!(take(&house.node, &issued.token).await.expect("asked").is_some());
    for token in [issued.token.expose(), "", "x", &"a".repeat(100_000)] {
        assert_eq!(page(token).await.0, 404);
    }
}
