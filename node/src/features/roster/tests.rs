//! RFC 6121 §2: given this roster set, expect this change or this refusal; and what clients see of changes, through a real home.

use bytes::Bytes;
use xmpp::stanza::error::Condition;

use super::*;
use crate::features::tests::iq;
use crate::router::perform;
use crate::testing::{House, all, bare, limits, mail, stanza};

const ITEM: &str = "jid='juliet@chat.example'";

fn parse(items: &str) -> Result<Request, Condition> {
    let query = format!("<query xmlns='jabber:iq:roster'>{items}</query>");
    let text = format!("<iq type='set' id='1'>{query}</iq>");
    let set = Stanza::parse(Bytes::from(text)).expect("an iq");
    let own = BareJid::parse("romeo@chat.example").expect("a JID");
    parse_set(&set.element(), &own, &limits()).map_err(|error| error.condition)
}

#[test]
fn a_set_that_cannot_be_kept_is_refused() {
    let limits = limits();
    let long = "x".repeat(limits.roster_name_bytes_max + 1);
    let many: String =
        (0..=limits.roster_groups_max).map(|n| format!("<group>{n}</group>")).collect();
    for (number, items, expected) in [
        ("B-160", format!("<item {ITEM}/><item jid='nurse@chat.example'/>"), Condition::BadRequest),
        ("B-160", String::new(), Condition::BadRequest),
        ("B-160", "<thing/>".into(), Condition::BadRequest),
        ("B-160", "<item xmlns='other' jid='a@b'/>".into(), Condition::BadRequest),
        ("", "<item/>".into(), Condition::BadRequest),
        ("", "<item jid='@@'/>".into(), Condition::JidMalformed),
        (
            "B-161",
            format!("<item {ITEM}><group>a</group><group>a</group></item>"),
            Condition::BadRequest,
        ),
        ("B-163", format!("<item {ITEM} name='{long}'/>"), Condition::NotAcceptable),
        ("B-163", format!("<item {ITEM}><group>{long}</group></item>"), Condition::NotAcceptable),
        // RFC 6121 §2.3.3: an empty group is not acceptable.
        ("B-163", format!("<item {ITEM}><group/></item>"), Condition::NotAcceptable),
        ("B-163", format!("<item {ITEM}>{many}</item>"), Condition::NotAcceptable),
        ("B-167", "<item jid='romeo@chat.example'/>".into(), Condition::NotAllowed),
        ("B-167", "<item jid='romeo@chat.example/orchard'/>".into(), Condition::NotAllowed),
    ] {
        assert_eq!(parse(&items).expect_err(&items), expected, "{number} {items}");
    }
}

#[test]
fn what_a_client_may_not_decide_is_ignored() {
    // B-166: the server keeps subscriptions (§2.1.2); only `remove` is a wish.
    let item = "<item jid='juliet@chat.example/balcony' subscription='both' ask='subscribe' approved='true' name=''/>";
    let Ok(Request::Set { contact, name, groups, .. }) = parse(item) else { panic!("{item}") };
    assert_eq!((contact, name, groups), (bare("juliet"), None, vec![]));
    let removal = format!("<item {ITEM} subscription='remove' name='x'><group/></item>");
    assert!(matches!(parse(&removal), Ok(Request::Remove { .. })));
}

#[tokio::test]
async fn nobody_touches_the_roster_of_another() {
    // B-164.
    let house = House::new().await;
    let seat = house.bound("romeo/orchard");
    for type_ in ["get", "set"] {
        let mut ctx = Ctx::new(&house.node, Some(&seat));
        let asked = iq(type_, "juliet@chat.example", "<query xmlns='jabber:iq:roster'/>");
        let flow = RosterFeature.iq(&mut ctx, &asked);
        let actions = all(ctx, flow).await;
        let [Action::Reply(reply)] = actions.as_slice() else { panic!("{actions:?}") };
        let error =
            StanzaError::parse(reply.element().child("error", ns::CLIENT).expect("an error"));
        assert_eq!(error.condition, Condition::Forbidden);
    }
}

async fn asks(house: &House, seat: &Arc<crate::session::Seat>, payload: &str) -> String {
    let type_ = if payload.contains("item") { "set" } else { "get" };
    let text = format!("<iq id='r1' type='{type_}' from='{}'>{payload}</iq>", seat.full);
    let target = Target::Account { account: seat.bare.clone(), own: true };
    let mut ctx = Ctx::new(&house.node, Some(seat));
    let flow = RosterFeature.iq(&mut ctx, &Iq { stanza: stanza(&text), target });
    let actions = all(ctx, flow).await;
    match actions.into_iter().next() {
        Some(Action::Reply(answer)) => format!("{answer:?}"),
        Some(Action::Roster { seat, version, answer }) => {
            let text = format!("{answer:?}");
            seat.answer_roster(version, answer, |stanza| {
                // The answer itself is looked at here; what waited for it goes to the mailbox.
                if stanza.type_() == Type::Set {
                    perform::to_seat(&house.node, &seat, stanza);
                }
            });
            text
        }
        other => panic!("no answer: {other:?}"),
    }
}

#[tokio::test]
async fn only_resources_that_asked_for_the_roster_get_pushes_and_the_answer_comes_after_them() {
    let house = House::new().await;
    house.accounts(["romeo"]).await;
    let (one, two) = (house.bound("romeo/one"), house.bound("romeo/two"));
    let empty = asks(&house, &one, "<query xmlns='jabber:iq:roster' ver=''/>").await;
    assert!(empty.contains("ver='0'") && !empty.contains("<item"), "{empty}");
    let set = format!("<query xmlns='jabber:iq:roster'><item {ITEM} name='J'/></query>");
    assert!(asks(&house, &one, &set).await.contains("type='result'"));
    let pushes = mail(&one);
    assert_eq!(pushes.len(), 1, "{pushes:?}");
    assert!(pushes[0].contains("ver='1'") && pushes[0].contains("name='J'"), "{pushes:?}");
    assert!(pushes[0].contains("to='romeo@chat.example/one'"), "{pushes:?}");
    assert!(mail(&two).is_empty());
    // §2.6.3: who knows the version gets an empty result.
    let same = asks(&house, &two, "<query xmlns='jabber:iq:roster' ver='1'/>").await;
    assert!(!same.contains("<query"), "{same}");
    let removal =
        format!("<query xmlns='jabber:iq:roster'><item {ITEM} subscription='remove'/></query>");
    asks(&house, &two, &removal).await;
    for seat in [&one, &two] {
        let pushes = mail(seat);
        assert_eq!(pushes.len(), 1, "{pushes:?}");
        assert!(pushes[0].contains("subscription='remove'") && pushes[0].contains("ver='2'"));
    }
}
