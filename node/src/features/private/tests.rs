//! XEP-0049: given this stanza, expect this.

use super::*;
use crate::features::tests::iq;
use crate::homes::Tx;
use crate::homes::accounts::ACCOUNTS;

fn check(type_: &str, inside: &str) -> Result<Wish, &'static str> {
    let payload = format!("<query xmlns='jabber:iq:private'>{inside}</query>");
    wish(&iq(type_, "romeo@example.org", &payload).stanza).map_err(|error| error.condition.name())
}

#[test]
fn a_get_names_one_element_and_a_set_at_least_one() {
    const PREFS: &str = "<exodus xmlns='exodus:prefs'/>";
    const MORE: &str = "<more xmlns='exodus:prefs'><a/></more>";
    let prefs = Element::new("exodus", "exodus:prefs");
    assert_eq!(check("get", PREFS), Ok(Wish::Get(prefs)));
    assert_eq!(check("get", ""), Err("bad-request"));
    assert_eq!(check("get", &format!("{PREFS}{MORE}")), Err("bad-request"));
    assert_eq!(check("set", ""), Err("not-acceptable"));
    let Ok(Wish::Set(both)) = check("set", &format!("{PREFS}{MORE}")) else { panic!("a set") };
    let keys: Vec<_> = both.iter().map(|(key, value)| (key.as_str(), value.is_some())).collect();
    assert_eq!(keys, [("{exodus:prefs}exodus", false), ("{exodus:prefs}more", true)]);
}

#[test]
fn an_element_needs_a_namespace_of_its_own() {
    for inside in ["<a/>", "<a xmlns='jabber:client'/>", "<a xmlns=''/>"] {
        assert_eq!(check("get", inside), Err("not-acceptable"), "{inside}");
        assert_eq!(check("set", inside), Err("not-acceptable"), "{inside}");
    }
}

#[tokio::test]
async fn what_an_account_keeps_is_bounded_and_can_always_be_made_less() {
    let mut tx = Tx::of("romeo@example.org");
    let mut set = async |key: &str, bytes: usize, bytes_max| {
        let value = (bytes > 0).then(|| vec![b'x'; bytes]);
        let elements = vec![(key.to_owned(), value)];
        let answer = home::decide(&mut tx, Request::Set { elements, bytes_max }).await;
        tx.put(ACCOUNTS, "", Vec::new());
        let kept = tx.map(PRIVATE).await.expect("read").into_values().map(|value| value.len());
        (answer.expect("decided"), kept.sum::<usize>())
    };
    assert_eq!(set("a", 10, 100).await, (Answer::NoAccount, 0));
    assert_eq!(set("a", 60, 100).await, (Answer::Done, 60));
    assert_eq!(set("b", 60, 100).await, (Answer::Full, 60));
    assert_eq!(set("a", 90, 100).await, (Answer::Done, 90));
    assert_eq!(set("a", 80, 50).await, (Answer::Done, 80), "less than before");
    assert_eq!(set("a", 85, 50).await, (Answer::Full, 80));
    assert_eq!(set("a", 0, 50).await, (Answer::Done, 0));
}
