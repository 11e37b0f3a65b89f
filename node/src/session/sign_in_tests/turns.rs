//! Whose turn it is when many sign in at once by SASL2 (XEP-0388), with tokens (XEP-0484) and without: who waits, who does not, and what is
//! written meanwhile.

use std::sync::atomic::Ordering;

use xmpp::sasl::token::message;

use super::*;

const BIND2: &str = "<bind xmlns='urn:xmpp:bind:0'/>";
const REQUEST: &str = "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>";
/// A session that no node has.
const GONE: &str = "<resume xmlns='urn:xmpp:sm:3' previd='gone' h='0'/>";
const UNBOUNDED: config::Rate = config::Rate { per_second: 0, burst: 1 };

/// `<authenticate/>` of a client of romeo's.
fn authenticate(mechanism: &str, message: &[u8], client: &str, inside: &str) -> String {
    let message = STANDARD.encode(message);
    format!(
        "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='{mechanism}'><initial-response>{message}</initial-response>\
         <user-agent id='{client}'/>{inside}</authenticate>"
    )
}

/// The same, by a token of another kind than XEP-0484's: also where there is no TLS.
fn romeo(client: &str, inside: &str) -> String {
    let bearer = bearer(r#"{"sub":"romeo"}"#);
    authenticate("OAUTHBEARER", bearer.as_bytes(), client, inside)
}

/// From now on nobody's turn comes for five seconds.
fn close(house: &House) {
    house.node.turnstile.set_rate(config::Rate { per_second: 1, burst: 1 });
    for _ in 0..10 {
        house.node.turnstile.pass_first();
    }
}

async fn until_waiting(house: &House, count: usize) {
    house.until("they wait for their turn", || house.node.turnstile.waiting() == count).await;
}

#[tokio::test]
async fn a_sign_in_by_sasl2_writes_nothing_before_its_turn() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = house_of_tokens_with(dir.path(), "[limits]\nsign_ins_waiting_max = 2\n").await;
    let mut first = tls_client(&house, None).await;
    first.opens().await;
    first.sends(&romeo("one", REQUEST)).await;
    let success = first.reads("</success>").await;
    let token = success.split(" token='").nth(1).and_then(|rest| rest.split('\'').next());
    let token = token.expect("a token");

    let mut one = tls_client(&house, None).await;
    let mut two = tls_client(&house, None).await;
    let mut three = client(&house);
    one.opens().await;
    two.opens().await;
    three.opens().await;
    close(&house);
    let writes = || house.database.writes.load(Ordering::SeqCst);
    let (before, failed) = (writes(), house.node.metrics.auth_failed.get());
    // A count that is used up; what it would go on with is nowhere.
    let counted = format!("<fast xmlns='urn:xmpp:fast:0' count='1'/>{GONE}{BIND2}");
    let proof = message("romeo", token, b"");
    one.sends(&authenticate("HT-SHA-256-NONE", &proof, "one", &counted)).await;
    // A new token.
    two.sends(&romeo("two", &format!("{REQUEST}{BIND2}"))).await;
    until_waiting(&house, 2).await;
    // Nobody else may wait, which is not the fault of who comes.
    three.sends(&romeo("three", BIND2)).await;
    three.reads("<resource-constraint").await;
    assert_eq!(house.node.metrics.auth_failed.get(), failed);
    assert_eq!(writes(), before, "written before its turn");
    house.node.turnstile.set_rate(UNBOUNDED);
    let success = one.reads("</success>").await;
    assert!(success.contains("<failed") && success.contains("<bound"), "{success}");
    let success = two.reads("</success>").await;
    assert!(success.contains("<token") && success.contains("<bound"), "{success}");
    assert!(writes() > before);
}

#[tokio::test]
async fn who_resumes_inside_sasl2_does_not_wait_to_sign_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = house_of_tokens(dir.path()).await;
    let seat = house.bound("romeo/one");
    let (sm, enabled) = sm::enable(&house.node, &seat, true, None);
    let Nonza::Enabled { id: Some(id), .. } = enabled else { panic!("{enabled:?}") };
    let alive = end::Alive::new(&house.node, &seat);
    let mut back = client(&house);
    back.opens().await;
    close(&house);
    let resume = format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='0'/>{BIND2}");
    back.sends(&romeo("one", &resume)).await;
    let mut mail = Vec::new();
    house
        .until("the old task is asked", || {
            assert_eq!(house.node.turnstile.waiting(), 0, "it waits");
            mail.append(&mut seat.mailbox.drain());
            !mail.is_empty()
        })
        .await;
    let Some(Item::Control(Control::Resume(reply))) = mail.pop() else { panic!("{mail:?}") };
    assert!(reply.send(Handover { seat: seat.clone(), sm, alive }).is_ok(), "nobody waits for it");
    back.reads("<resumed ").await;
    assert_eq!(house.node.turnstile.waiting(), 0);
}

#[tokio::test]
async fn who_goes_first_to_resume_is_counted_before_it_has_resumed() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = house_of_tokens(dir.path()).await;
    let seat = house.bound("romeo/one");
    let (_sm, enabled) = sm::enable(&house.node, &seat, true, None);
    let Nonza::Enabled { id: Some(id), .. } = enabled else { panic!("{enabled:?}") };
    let mut back = client(&house);
    back.opens().await;
    tokio::time::pause();
    house.node.turnstile.set_rate(config::Rate { per_second: 1, burst: 2 });
    let resume = format!("<resume xmlns='urn:xmpp:sm:3' previd='{id}' h='0'/>");
    back.sends(&romeo("one", &resume)).await;
    house.until("the old task is asked", || seat.mailbox.depth().items > 0).await;
    house.node.turnstile.pass(0).await.expect("one of two is left");
    assert!(house.node.turnstile.pass(0).await.is_err(), "and no other");
}

#[tokio::test]
async fn who_signs_in_by_sasl2_takes_one_turn() {
    let dir = tempfile::tempdir().expect("a directory");
    let slow = "[limits]\nsign_ins_per_second = 1\nsign_ins_burst = 3\n";
    let house = house_of_tokens_with(dir.path(), slow).await;
    let mut inline = client(&house);
    inline.opens().await;
    let mut plainly = client(&house);
    plainly.opens().await;
    inline.sends(&romeo("one", BIND2)).await;
    inline.reads("</success>").await;
    plainly.sends(&romeo("two", "")).await;
    plainly.reads("</success>").await;
    plainly.sends(BIND).await;
    plainly.reads("</iq>").await;
    // Two of three have gone.
    house.node.turnstile.pass(0).await.expect("one is left");
}

#[tokio::test]
async fn the_time_a_client_waits_for_its_turn_is_not_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = house_of_tokens(dir.path()).await;
    let mut back = client(&house);
    back.opens().await;
    close(&house);
    back.sends(&romeo("one", "")).await;
    until_waiting(&house, 1).await;
    later(6).await; // Of five seconds to be bound in.
    back.reads("</success>").await;
    back.sends(BIND).await;
    assert!(back.reads("</iq>").await.contains("type='result'"));
}

#[tokio::test]
async fn who_leaves_before_its_turn_has_not_failed_to_sign_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let house = house_of_tokens(dir.path()).await;
    let (transport, line) = Wire::pair();
    let node = house.node.clone();
    let negotiated =
        tokio::spawn(
            async move { negotiate::run(&node, accepted(transport), false).await.is_some() },
        );
    let mut romeo = Client { line, got: String::new() };
    romeo.opens().await;
    close(&house);
    romeo.sends(&self::romeo("one", BIND2)).await;
    until_waiting(&house, 1).await;
    drop(romeo);
    assert!(!negotiated.await.expect("negotiated"), "a session for nobody");
    assert_eq!(house.node.turnstile.waiting(), 0);
    assert_eq!(house.node.metrics.auth_failed.get(), 0);
}
