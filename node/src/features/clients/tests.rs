//! Tests of the list of clients, of their tokens, and of what ends their sessions.

use std::time::Duration;

use xmpp::sasl::token::{is_answer, message};
use xmpp::sasl::{
    ChannelBindings, Exchange, Failure, Mechanism, Secret, Step, Terms, TokenBinding,
};
use xmpp::stream::negotiate::sasl2::UserAgent;
use xmpp::stream::negotiate::{SignIn, Used};

use super::home::{NewToken, Seen, UsedToken, decide};
use super::record::key;
use super::*;
use crate::homes::Tx;
use crate::homes::accounts::{self, ACCOUNTS, Account};
use crate::session::Seat;
use crate::testing::{House, bare, mail, words};
use xmpp::sasl::token::Verifier;

const ROMEO: &str = "romeo@chat.example";
const PLAIN: Mechanism = Mechanism::Plain;
const NONE: TokenBinding = TokenBinding::None;

fn tx() -> Tx {
    let mut tx = Tx::of(ROMEO);
    tx.put(ACCOUNTS, "", vec![]);
    tx.changed();
    tx
}

fn seen(client: &str, now_ms: u64) -> Seen {
    Seen { client: client.into(), now_ms, password: true, clients_max: 3, ..Seen::default() }
}

fn issued(client: &str, now_ms: u64) -> Seen {
    let verifier = Verifier::new(&"a".repeat(80), NONE);
    let issue = Some(NewToken { binding: NONE, verifier, expires_ms: now_ms + 100 });
    Seen { issue, ..seen(client, now_ms) }
}

async fn ask(tx: &mut Tx, seen: Seen) -> Answer {
    decide(tx, Request::Seen(Box::new(seen))).await.expect("decided")
}

async fn kept(tx: &Tx) -> Vec<String> {
    tx.map(CLIENTS).await.expect("read").into_keys().collect()
}

#[tokio::test]
async fn a_count_is_used_up_once_for_all_regions() {
    let mut tx = tx();
    assert_eq!(ask(&mut tx, issued("a", 1)).await, Answer::Done);
    let used =
        |id, count| Seen { used: Some(UsedToken { id, count, over: false }), ..seen("a", 2) };
    assert_eq!(ask(&mut tx, used(0, Some(5))).await, Answer::Done);
    assert_eq!(ask(&mut tx, used(0, Some(5))).await, Answer::Replayed);
    assert_eq!(ask(&mut tx, used(0, Some(6))).await, Answer::Done);
    assert_eq!(ask(&mut tx, used(9, Some(7))).await, Answer::Gone);
    tx.changed();
    let other = Seen { used: Some(UsedToken { id: 0, count: None, over: false }), ..seen("b", 2) };
    assert_eq!(ask(&mut tx, other).await, Answer::Gone);
    assert!(tx.changed().is_empty(), "nothing has happened");
    assert_eq!(ask(&mut Tx::of(ROMEO), seen("a", 1)).await, Answer::NoAccount);
}

#[tokio::test]
async fn the_client_that_was_away_longest_makes_room() {
    let mut tx = tx();
    assert_eq!(ask(&mut tx, issued("with token", 1)).await, Answer::Done);
    for (name, at) in [("old", 2), ("older", 1), ("new", 50)] {
        assert_eq!(ask(&mut tx, seen(name, at)).await, Answer::Done);
    }
    assert_eq!(kept(&tx).await, ["new", "old", "with token"]);
    let forgetting = Seen { forget_before_ms: 10, ..seen("newer", 60) };
    assert_eq!(ask(&mut tx, forgetting).await, Answer::Done);
    assert_eq!(kept(&tx).await, ["new", "newer", "with token"]);
    // Its token's time is over.
    assert_eq!(ask(&mut tx, seen("newest", 200)).await, Answer::Done);
    assert_eq!(kept(&tx).await, ["new", "newer", "newest"]);
}

#[tokio::test]
async fn another_password_voids_every_token() {
    let mut tx = tx();
    ask(&mut tx, issued("a", 1)).await;
    ask(&mut tx, seen("b", 1)).await;
    home::password_changed(&mut tx).await.expect("done");
    for bytes in tx.map(CLIENTS).await.expect("read").into_values() {
        let client = Client::decode(&bytes).expect("a client");
        assert!(!client.password && !client.has_token(2));
    }
    tx.changed();
    home::password_changed(&mut tx).await.expect("done");
    assert!(tx.changed().is_empty());
}

#[tokio::test]
async fn who_is_revoked_is_told_apart_by_what_it_knows() {
    let mut tx = tx();
    ask(&mut tx, issued("a", 1)).await;
    ask(&mut tx, Seen { password: false, ..issued("b", 1) }).await;
    let mut revoke = async |client: &str| {
        let client = client.to_owned();
        decide(&mut tx, Request::Revoke { client, now_ms: 2 }).await.expect("decided")
    };
    assert_eq!(revoke("a").await, Answer::KnowsPassword);
    assert_eq!(revoke("b").await, Answer::Done);
    assert_eq!(revoke("c").await, Answer::NoClient);
    assert_eq!(kept(&tx).await, ["a", "b"], "no trace of the signal");
}

fn agent(id: &str) -> UserAgent {
    UserAgent { id: Some(id.into()), software: Some("Awesome".into()), device: None }
}

fn asking(mechanism: Mechanism, used: Option<Used>, wants: bool) -> SignIn {
    let request_token = wants.then_some(NONE);
    let (account, agent) = (bare("romeo"), agent("id-1"));
    SignIn { account, mechanism, agent, used, request_token, resume: None }
}

fn used(token: u64, count: Option<u64>, invalidate: bool) -> Option<Used> {
    Some(Used { token, binding: NONE, count, invalidate })
}

/// Signs in with a token, as far as the exchange goes.
async fn exchange(house: &House, id: &str, token: &str) -> Result<u64, Failure> {
    let terms = Terms {
        domain: "chat.example".into(),
        nonce: String::new(),
        bindings: ChannelBindings::default(),
        plus_offered: false,
        fake_secret: Secret::new(vec![]),
        fake_iterations: 1,
        identities: vec![],
        anonymous: String::new(),
        offered: None,
    };
    let mut exchange = Exchange::new(Mechanism::Token(NONE), terms);
    let step = exchange.message(Some(&message("romeo", token, b"")));
    let Step::LookUpTokens { account } = step else { panic!("{step:?}") };
    match exchange.tokens(sign_in::tokens(&house.node, &account, id).await) {
        Step::Success { data, token: Some(id), .. } => {
            assert!(is_answer(&data.expect("an answer"), token, b""));
            Ok(id)
        }
        Step::Fail(failure) => Err(failure),
        step => panic!("{step:?}"),
    }
}

/// A client signs in and its session begins.
async fn signs_in(house: &House, asked: &SignIn, full: &str) -> (Option<String>, Arc<Seat>) {
    let (handed, client) = sign_in::sign_in(&house.node, asked).await;
    let token = handed.expect("signed in").map(|handed| handed.token);
    let seat = house.bound(full);
    sign_in::begin(&house.node, &seat, client.expect("a client"), true);
    (token, seat)
}

async fn client(house: &House) -> Option<Client> {
    let key = key(&bare("romeo"), "id-1");
    let bytes = house.node.storage.get(CLIENTS, ROMEO, &key).await.expect("read");
    bytes.map(|bytes| Client::decode(&bytes).expect("a client"))
}

/// Waits until the home has heard of what it is told afterwards.
async fn until(house: &House, what: &str, holds: impl Fn(&Client) -> bool) {
    for _ in 0..5000 {
        if client(house).await.is_some_and(|client| holds(&client)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{what}: {:?}", client(house).await);
}

#[tokio::test]
async fn a_token_is_handed_out_used_replaced_and_taken_back() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let (token, _seat) = signs_in(&house, &asking(PLAIN, None, true), "romeo/a").await;
    let first = token.expect("a token");
    assert_eq!(exchange(&house, "id-1", &first).await, Ok(0));
    assert_eq!(exchange(&house, "id-2", &first).await, Err(Failure::NotAuthorized)); // B-109
    assert_eq!(exchange(&house, "id-1", &"x".repeat(80)).await, Err(Failure::NotAuthorized));

    let by_token = Mechanism::Token(NONE);
    let (token, _seat) =
        signs_in(&house, &asking(by_token, used(0, None, false), false), "romeo/a").await;
    assert_eq!(token, None, "not due");
    until(&house, "the first use is noted", |client| client.current.is_some()).await;
    // Its count, at the home.
    let counted = |count| asking(by_token, used(0, Some(count), false), false);
    let replayed = async |count| sign_in::sign_in(&house.node, &counted(count)).await.0.err();
    assert_eq!(replayed(3).await, None);
    assert_eq!(replayed(3).await, Some(Failure::NotAuthorized));
    assert_eq!(replayed(4).await, None);

    // One that was made two days ago is due.
    let (now_ms, old) = (house.node.wall_ms(), "y".repeat(80));
    let issue = NewToken {
        binding: NONE,
        verifier: Verifier::new(&old, NONE),
        expires_ms: now_ms + 86_400_000,
    };
    let seen = Seen { issue: Some(issue), ..seen(&key(&romeo, "id-1"), now_ms - 2 * 86_400_000) };
    let request = Request::Seen(Box::new(seen));
    let made = house.node.homes.exchange::<_, Answer>(&romeo, OP, &request).await;
    assert_eq!(made, Ok(Answer::Done));
    assert_eq!(exchange(&house, "id-1", &old).await, Ok(1));
    let due = asking(by_token, used(1, Some(1), false), false);
    let rotated = sign_in::sign_in(&house.node, &due).await.0;
    let second = rotated.expect("signed in").expect("a new one").token;
    assert_eq!(exchange(&house, "id-1", &first).await, Err(Failure::NotAuthorized));
    assert_eq!(exchange(&house, "id-1", &old).await, Ok(1), "it may not have got the new one");
    assert_eq!(exchange(&house, "id-1", &second).await, Ok(2));
    let last = asking(by_token, used(2, None, true), false);
    assert_eq!(sign_in::sign_in(&house.node, &last).await.0, Ok(None), "no new one at the end");
    assert_eq!(exchange(&house, "id-1", &second).await, Err(Failure::CredentialsExpired));
    assert_eq!(exchange(&house, "id-1", &first).await, Err(Failure::NotAuthorized));
    let again = asking(by_token, used(2, Some(9), false), false);
    assert_eq!(sign_in::sign_in(&house.node, &again).await.0, Err(Failure::CredentialsExpired));
}

#[tokio::test]
async fn a_suspended_account_or_another_password_ends_tokens() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let asked = asking(PLAIN, None, true);
    let token = sign_in::sign_in(&house.node, &asked).await.0.expect("signed in");
    let token = token.expect("a token").token;
    accounts::set_disabled(&house.node.homes, &romeo, true).await.expect("done");
    assert_eq!(exchange(&house, "id-1", &token).await, Err(Failure::AccountDisabled));
    accounts::set_disabled(&house.node.homes, &romeo, false).await.expect("done");
    assert_eq!(exchange(&house, "id-1", &token).await, Ok(0));
    let account = Account::load(house.node.storage.as_ref(), &romeo).await.expect("read");
    let keys = account.expect("romeo");
    accounts::set_keys(&house.node.homes, &romeo, &keys, None).await.expect("done");
    assert_eq!(exchange(&house, "id-1", &token).await, Err(Failure::CredentialsExpired));
    assert!(accounts::remove(&house.node.homes, &romeo).await.expect("removed"));
    assert_eq!(exchange(&house, "id-1", &token).await, Err(Failure::NotAuthorized));
    assert!(client(&house).await.is_none());
}

#[tokio::test]
async fn tokens_are_not_made_where_the_operator_wants_none() {
    let house = House::with("[clients]\ntokens = false\nkeep_user_agent = false\n").await;
    house.accounts(["romeo"]).await;
    let (token, _seat) = signs_in(&house, &asking(PLAIN, None, true), "romeo/a").await;
    assert_eq!(token, None);
    until(&house, "the client is kept", |client| client.resource.as_deref() == Some("a")).await;
    assert_eq!(client(&house).await.expect("a client").software, None);
}

#[tokio::test]
async fn nobody_tells_the_home_twice_what_it_knows() {
    let house = House::new().await;
    house.accounts(["romeo"]).await;
    let (_, _seat) = signs_in(&house, &asking(PLAIN, None, false), "romeo/a").await;
    until(&house, "the client is kept", |client| client.resource.is_some()).await;
    let head = house.node.homes.log_head();
    let (_, seat) = signs_in(&house, &asking(PLAIN, None, false), "romeo/a").await;
    let (_, other) = signs_in(&house, &asking(PLAIN, None, false), "romeo/b").await;
    until(&house, "it moved", |client| client.resource.as_deref() == Some("b")).await;
    assert_eq!(house.node.homes.log_head(), head + 1);
    // And its earlier session has ended.
    house.until("an order", || seat.mailbox.depth().items > 0).await;
    assert!(mail(&seat)[0].contains("Conflict"));
    assert_eq!(other.mailbox.depth().items, 0);
    // The word of a session that was bound before comes late, from another region: it ends nobody and is not kept.
    let late = Seen {
        resource: Some("a".into()),
        bound: seat.generation.0,
        ..seen(&key(&bare("romeo"), "id-1"), 1)
    };
    let request = Request::Seen(Box::new(late));
    let told = house.node.homes.exchange::<_, Answer>(&bare("romeo"), OP, &request).await;
    assert!(matches!(told, Ok(Answer::Done)), "{told:?}");
    assert_eq!(client(&house).await.expect("known").resource.as_deref(), Some("b"));
    assert_eq!(other.mailbox.depth().items, 0);
}

async fn asks(house: &House, seat: &Arc<Seat>, type_: &str, payload: &str) -> String {
    let text = format!("<iq type='{type_}' id='i1'>{payload}</iq>");
    let stanza = crate::testing::stanza(&text).with_from(seat.address());
    let target = Target::Account { account: seat.bare.clone(), own: true };
    let mut ctx = Ctx::new(&house.node, Some(seat));
    let flow = Clients.iq(&mut ctx, &Iq { stanza, target });
    let mut actions = ctx.actions;
    if let Flow::Later(later) = flow {
        actions.extend(later.await);
    }
    words(&actions).join("\n")
}

#[tokio::test]
async fn its_owner_sees_a_client_and_ends_its_access() {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    let (token, seat) = signs_in(&house, &asking(PLAIN, None, true), "romeo/a").await;
    until(&house, "the client is kept", |client| client.resource.is_some()).await;
    let other = house.bound("romeo/other");
    let list = "<list xmlns='urn:xmpp:cam:0'/>";
    let listed = asks(&house, &other, "get", list).await;
    let id = key(&bare("romeo"), "id-1");
    for part in [
        format!("<client connected='true' id='{id}' type='session'><first-seen>"),
        "<auth><password/><fast/></auth><permission status='unrestricted'/>".to_owned(),
        "<user-agent><software>Awesome</software></user-agent></client></clients>".to_owned(),
    ] {
        assert!(listed.contains(&part), "{part} in {listed}");
    }
    let revoke = |id: &str| format!("<revoke xmlns='urn:xmpp:cam:0' id='{id}'/>");
    let answer = asks(&house, &other, "set", &revoke(&id)).await;
    assert!(
        answer.contains("service-unavailable") && answer.contains("password-reset-required"),
        "{answer}"
    );
    assert_eq!(
        exchange(&house, "id-1", &token.expect("a token")).await,
        Err(Failure::CredentialsExpired)
    );
    assert!(mail(&seat)[0].contains("NotAuthorized"));
    assert_eq!(other.mailbox.depth().items, 0, "nobody else's session");
    for (type_, payload, expected) in [
        ("set", revoke("nobody"), "item-not-found"),
        ("set", revoke(""), "bad-request"),
        ("set", "<revoke xmlns='urn:xmpp:cam:0'/>".to_owned(), "bad-request"),
        ("set", list.to_owned(), "bad-request"),
        ("get", revoke(&id), "bad-request"),
        ("get", "<clients xmlns='urn:xmpp:cam:0'/>".to_owned(), "bad-request"),
    ] {
        let answer = asks(&house, &other, type_, &payload).await;
        assert!(answer.contains(expected), "{payload}: {answer}");
    }
    let juliet = house.bound("juliet/balcony");
    let listed = asks(&house, &juliet, "get", list).await;
    assert!(listed.contains("<clients xmlns='urn:xmpp:cam:0'/>"), "{listed}");
}

#[tokio::test]
async fn a_client_that_has_only_a_token_loses_it_and_is_gone_from_the_list() {
    let house = House::new().await;
    let [romeo] = house.accounts(["romeo"]).await;
    let asked = asking(Mechanism::External, None, true);
    let token = sign_in::sign_in(&house.node, &asked).await.0.expect("signed in");
    let other = house.bound("romeo/other");
    let list = "<list xmlns='urn:xmpp:cam:0'/>";
    let listed = asks(&house, &other, "get", list).await;
    assert!(
        listed.contains("connected='false'") && listed.contains("<auth><fast/></auth>"),
        "{listed}"
    );
    let id = key(&romeo, "id-1");
    let revoke = format!("<revoke xmlns='urn:xmpp:cam:0' id='{id}'/>");
    let answer = asks(&house, &other, "set", &revoke).await;
    assert!(answer.contains("type='result'"), "{answer}");
    assert!(asks(&house, &other, "get", list).await.contains("<clients xmlns='urn:xmpp:cam:0'/>"));
    let token = token.expect("a token").token;
    assert_eq!(exchange(&house, "id-1", &token).await, Err(Failure::CredentialsExpired));
}
