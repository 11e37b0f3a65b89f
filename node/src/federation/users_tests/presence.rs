//! What their users see of ours.

use global_distrib::{NodeIx, Place, Row};
use replication::Hlc;
use xmpp::jid::FullJid;

use super::*;
use crate::feature::SessionEvent;
use crate::geo::abroad;
use crate::router::perform;
use crate::testing::{jid, mail};

/// The words of what left: type, from and to by their resources (`-`: bare), and what it says.
fn words(left: &[String]) -> Vec<String> {
    let word = |text: &String| {
        let stanza = stanza(text);
        let name = |jid: Option<&xmpp::jid::Jid>| {
            jid.and_then(|jid| jid.resource()).unwrap_or("-").to_owned()
        };
        let said = stanza.child("show", xmpp::ns::CLIENT).map(|show| show.text());
        let said = said.map(|said| format!(" {said}")).unwrap_or_default();
        let type_ = stanza.type_().name().unwrap_or("available");
        format!("{type_} {} {}{said}", name(stanza.from()), name(stanza.to()))
    };
    left.iter().map(word).collect()
}

fn left(house: &House) -> Vec<String> {
    words(&house.abroad())
}

/// As `session::end`: first its row goes.
async fn ends(house: &House, seat: &Arc<Seat>) {
    let road = router::road::Road::new(&house.node);
    let now = house.node.now_ms();
    house.node.directory.unbind_here(&seat.full, seat.generation, now, &road, Vec::new);
    road.finish();
    let mut ctx = Ctx::new(&house.node, Some(seat));
    let _ = house.node.features.session(&mut ctx, SessionEvent::Gone);
    perform::perform(&house.node, Some(seat), ctx.actions);
}

#[tokio::test]
async fn contacts_at_other_domains_see_us_come_change_and_go() {
    for (state, coming, changing, going) in [
        ("none", &[][..], &[][..], &[][..]),
        ("asks", &[], &[], &[]),
        ("approved", &[], &[], &[]),
        ("to", &["probe balcony -"], &[], &[]),
        (
            "from",
            &["available balcony -"],
            &["available balcony - away"],
            &["unavailable balcony -"],
        ),
        (
            "both",
            &["available balcony -", "probe balcony -"],
            &["available balcony - away"],
            &["unavailable balcony -"],
        ),
    ] {
        for by_word in [true, false] {
            let house = house().await;
            subscribed(&house, state).await;
            let juliet = house.available("juliet/balcony", 0).await;
            assert_eq!(left(&house), coming, "{state}");
            house.says(&juliet, "<presence><show>away</show></presence>").await;
            assert_eq!(left(&house), changing, "{state}");
            match by_word {
                true => house.says(&juliet, "<presence type='unavailable'/>").await,
                false => ends(&house, &juliet).await,
            }
            assert_eq!(left(&house), going, "{state}");
            ends(&house, &juliet).await;
            assert_eq!(left(&house), [""; 0], "{state}: told twice");
        }
    }
}

#[tokio::test]
async fn a_probe_of_another_domain_is_answered_as_rfc_6121_4_3_2_says() {
    // Her roster's word, who is there (`b` shows itself, `d` too, `i` is invisible, `c` is connected), whom he asks for, what he hears.
    let table = [
        ("none", "b", "", "unsubscribed - -"),
        ("to", "b", "", "unsubscribed - -"),
        ("approved", "b", "", "unsubscribed - -"),
        ("none", "", "/b", "unsubscribed - -"),
        ("asks", "b", "", ""),
        ("from", "", "", "unavailable - o"),
        ("from", "c i", "", "unavailable - o"),
        ("from", "b", "", "available b o"),
        ("both", "b c d i", "", "available b o, available d o"),
        ("both", "b d", "/d", "available d o"),
        ("both", "b d", "/z", "unavailable z o"),
        ("both", "b i", "/i", "unavailable i o"),
    ];
    for (state, there, resource, expected) in table {
        let house = house().await;
        subscribed(&house, state).await;
        for name in there.split_whitespace() {
            let full = format!("juliet/{name}");
            match name {
                "c" => drop(house.bound(&full)),
                _ => {
                    let seat = house.available(&full, 0).await;
                    if name == "i" {
                        asks(&house, &seat, "<invisible xmlns='urn:xmpp:invisible:1'/>").await;
                    }
                }
            }
        }
        house.abroad();
        let to = format!("juliet@chat.example{resource}");
        house.hears(&format!("<presence from='{ROMEO}/o' to='{to}' type='probe'/>")).await;
        let mut heard = left(&house);
        heard.sort();
        assert_eq!(heard.join(", "), expected, "{state}, {there:?}, {resource:?}");
    }
}

#[tokio::test]
async fn a_grant_shows_us_behind_its_word_and_its_end_hides_us() {
    let house = house().await;
    let juliet = house.available("juliet/balcony", 0).await;
    let hidden = house.available("juliet/hidden", 0).await;
    asks(&house, &hidden, "<invisible xmlns='urn:xmpp:invisible:1'/>").await;
    subscribed(&house, "asks").await;
    house.says(&juliet, &format!("<presence type='subscribed' to='{ROMEO}'/>")).await;
    assert_eq!(left(&house), ["subscribed - -", "available balcony -"]);
    house.says(&juliet, &format!("<presence type='subscribe' to='{ROMEO}'/>")).await;
    assert_eq!(left(&house), ["subscribe - -"]);
    drop(mail(&juliet));
    // His server tells who he is by itself.
    house
        .hears(&format!("<presence from='{ROMEO}' to='juliet@chat.example' type='subscribed'/>"))
        .await;
    assert_eq!(left(&house), [""; 0]);
    let got = mail(&juliet).join("\n");
    assert!(got.contains("type='subscribed'"), "{got}");
    // He does not want it any more; or she does not.
    house
        .hears(&format!("<presence from='{ROMEO}' to='juliet@chat.example' type='unsubscribe'/>"))
        .await;
    assert_eq!(left(&house), ["unavailable balcony -"]);
    subscribed(&house, "from").await;
    house.says(&juliet, &format!("<presence type='unsubscribed' to='{ROMEO}'/>")).await;
    let mut told = left(&house);
    told.sort();
    assert_eq!(told, ["unavailable balcony -", "unsubscribed - -"]);
    // Behind that he hears nothing of her, not even her end.
    house.says(&juliet, "<presence type='unavailable'/>").await;
    assert_eq!(left(&house), [""; 0]);
    assert!(house.node.geo.partings.is_empty());
}

#[tokio::test]
async fn a_contact_that_is_removed_hears_the_end_of_both() {
    let house = house().await;
    subscribed(&house, "both").await;
    let juliet = house.available("juliet/balcony", 0).await;
    house.abroad();
    let item = format!("<item jid='{ROMEO}' subscription='remove'/>");
    asks(&house, &juliet, &format!("<query xmlns='jabber:iq:roster'>{item}</query>")).await;
    let mut told = left(&house);
    told.sort();
    assert_eq!(told, ["unavailable balcony -", "unsubscribe - -", "unsubscribed - -"]);
}

#[tokio::test]
async fn directed_presence_abroad_is_taken_back_unless_the_broadcast_does_it() {
    let house = house().await;
    let juliet = house.available("juliet/balcony", 0).await;
    for to in ["hall@rooms.example/juliet", ROMEO, "nurse@far.example", "gone@rooms.example/x"] {
        house.says(&juliet, &format!("<presence to='{to}'/>")).await;
    }
    assert_eq!(left(&house).len(), 4);
    house
        .hears(
            "<presence type='error' from='gone@rooms.example/x' to='juliet@chat.example/balcony'/>",
        )
        .await;
    subscribed(&house, "from").await;
    house.says(&juliet, "<presence type='unavailable'/>").await;
    let told = house.abroad();
    let to = |who: &str| told.iter().filter(|text| text.contains(&format!("to='{who}'"))).count();
    let counts = [to("hall@rooms.example/juliet"), to(ROMEO), to("nurse@far.example")];
    assert_eq!((counts, told.len()), ([1, 1, 1], 3), "{told:?}");
}

#[tokio::test]
async fn who_hides_is_gone_for_contacts_abroad() {
    let house = house().await;
    subscribed(&house, "both").await;
    let juliet = house.available("juliet/balcony", 0).await;
    house.abroad();
    asks(&house, &juliet, "<invisible xmlns='urn:xmpp:invisible:1' probe='true'/>").await;
    assert_eq!(left(&house), ["unavailable balcony -", "probe balcony -"]);
    house.says(&juliet, "<presence><show>dnd</show></presence>").await;
    assert_eq!(left(&house), [""; 0]);
    asks(&house, &juliet, "<visible xmlns='urn:xmpp:invisible:1'/>").await;
    house.says(&juliet, "<presence/>").await;
    assert_eq!(left(&house), ["available balcony -", "probe balcony -"]);
}

#[tokio::test]
async fn a_contact_abroad_that_is_blocked_sees_nobody_until_it_is_unblocked() {
    let house = house().await;
    subscribed(&house, "both").await;
    let juliet = house.available("juliet/balcony", 0).await;
    house.abroad();
    for blocked in [ROMEO, "far.example"] {
        let item = format!("<item jid='{blocked}'/>");
        asks(&house, &juliet, &format!("<block xmlns='urn:xmpp:blocking'>{item}</block>")).await;
        house.until("hidden", || juliet.guard().is_some()).await;
        assert_eq!(left(&house), ["unavailable balcony -"], "{blocked}");
        house.says(&juliet, "<presence><show>away</show></presence>").await;
        let other = house.bound("juliet/chamber");
        let mut ctx = Ctx::new(&house.node, Some(&other));
        for flow in house.node.features.session(&mut ctx, SessionEvent::Bound) {
            all(Ctx::new(&house.node, None), flow).await;
        }
        house.says(&other, "<presence/>").await;
        ends(&house, &other).await;
        assert_eq!(left(&house), [""; 0], "{blocked}");
        asks(&house, &juliet, "<unblock xmlns='urn:xmpp:blocking'/>").await;
        house.until("shown", || juliet.guard().is_none()).await;
        let mut told = left(&house);
        told.sort();
        assert_eq!(told, ["available balcony - away", "probe balcony -"], "{blocked}");
    }
}

#[tokio::test]
async fn of_sessions_whose_node_is_gone_contacts_abroad_are_told_once() {
    let house = house().await;
    subscribed(&house, "from").await;
    let row = |full: FullJid, available, hidden, lit| {
        let row = Row::new(full, Place::There(NodeIx(7)), Hlc(1));
        Row { available, hidden, lit, ..row }
    };
    let rows = [
        row(jid("juliet/balcony"), true, false, true),
        // Dark before: nobody abroad was told.
        row(jid("juliet/tower"), true, false, false),
        row(jid("juliet/connected"), false, false, true),
        row(jid("juliet/invisible"), true, true, true),
        // Bound anew here, and shown.
        row(jid("juliet/anew"), true, false, true),
        row(jid("nurse/kitchen"), true, false, true),
    ];
    let anew = house.available("juliet/anew", 0).await;
    assert_eq!(left(&house), ["available anew -"]);
    let mut told = Vec::new();
    abroad::gone(&house.node, "us-0", &rows);
    for _ in 0..10_000 {
        told.extend(left(&house));
        if told.len() > 1 {
            break;
        }
        tokio::task::yield_now().await;
    }
    told.sort();
    assert_eq!(told, ["unavailable balcony -", "unavailable tower -"]);
    assert!(anew.is_shown());
}

#[tokio::test]
async fn a_node_that_counts_again_shows_its_users_again() {
    let house = house().await;
    subscribed(&house, "both").await;
    let _juliet = house.available("juliet/balcony", 0).await;
    let _bound = house.bound("juliet/chamber");
    house.abroad();
    for (counts, expected) in
        [(true, &[][..]), (false, &[]), (true, &["available balcony -"]), (true, &[])]
    {
        abroad::counts(&house.node, counts);
        let mut told = Vec::new();
        for _ in 0..1_000 {
            told.extend(left(&house));
            tokio::task::yield_now().await;
        }
        assert_eq!(told, expected, "{counts}");
    }
}

#[tokio::test]
async fn where_there_is_no_federation_presence_comes_back_and_probes_do_not() {
    let house = House::new().await;
    house.accounts(["juliet"]).await;
    says_of_him(&house, "both").await;
    let juliet = house.available("juliet/balcony", 0).await;
    let errors = mail(&juliet);
    let errors: Vec<_> = errors.iter().filter(|text| text.contains("type='error'")).collect();
    assert!(errors.len() == 1 && errors[0].contains("remote-server-not-found"), "{errors:?}");
}
