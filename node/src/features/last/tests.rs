//! XEP-0012: what is kept, and what is said.

use super::*;
use crate::homes::Tx;
use crate::homes::accounts::ACCOUNTS;

fn left_at(at_ms: u64) -> Left {
    Left { at_ms, login_ms: 1, status: "Heading Home".into() }
}

#[tokio::test]
async fn the_latest_is_kept_of_accounts_that_are_there() {
    let mut tx = Tx::of("juliet@example.org");
    let mut ask = async |request| home::decide(&mut tx, request).await.expect("decided");
    assert_eq!(ask(Request::Left(left_at(5))).await, Answer::Done);
    assert_eq!(ask(Request::Read).await, Answer::Known(None), "there is no account");
    tx.put(ACCOUNTS, "", Vec::new());
    for (at, known) in [(5, 5), (7, 7), (6, 7)] {
        let mut ask = async |request| home::decide(&mut tx, request).await.expect("decided");
        assert_eq!(ask(Request::Left(left_at(at))).await, Answer::Done);
        assert_eq!(ask(Request::Read).await, Answer::Known(Some(left_at(known))));
    }
}

#[test]
fn seconds_always_and_words_if_there_are_some() {
    let said = |status| {
        let query = query(903, status);
        (query.attr("seconds").map(str::to_owned), query.text())
    };
    assert_eq!(said(Some("Heading Home")), (Some("903".into()), "Heading Home".into()));
    assert_eq!(said(Some("")), (Some("903".into()), String::new()));
    assert_eq!(said(None), (Some("903".into()), String::new()));
}
