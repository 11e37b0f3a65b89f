//! Presence that other regions tell late, out of rosters or behind rows of another time. The other region is a row in the table and what it would
//! say; nothing is linked.

use global_distrib::{Place, Shows};

use super::*;
use crate::features::roster::home::Request;
use crate::features::roster::{self, subscription::Kind};
use crate::geo::light;
use crate::testing::{House, bare, jid, mail, stanza};

const FULL: &str = "juliet@chat.example/phone";

/// Romeo watches Juliet, and is here.
async fn verona() -> (House, Arc<Seat>) {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    house.watches("romeo", "juliet").await;
    let romeo = house.available("romeo/orchard", 0).await;
    drop(mail(&romeo));
    (house, romeo)
}

/// A session of that full JID in another region, bound an hour later than any here.
struct Elsewhere {
    ix: NodeIx,
    generation: Hlc,
}

impl Elsewhere {
    fn new(house: &House) -> Self {
        let ix = house.node.geo.nodes.index("ap-0").expect("few nodes");
        Self { ix, generation: Hlc::new(house.node.wall_ms() + 3_600_000, 0) }
    }

    /// Its node tells of its row.
    fn is_bound(&self, house: &House) {
        let row = Row::new(jid("juliet/phone"), Place::There(self.ix), self.generation);
        house.node.directory.bind(Row { available: true, ..row }, |_| true);
    }

    /// Its node says that the session goes on at that one.
    fn passes_to(&self, house: &House, to: &str) {
        let full = jid("juliet/phone");
        let to = house.node.geo.nodes.index(to);
        light::passes(&house.node, (self.ix, to), &full, self.generation);
        let road = crate::router::road::Road::new(&house.node);
        let now = house.node.now_ms();
        house.node.directory.unbind_there(self.ix, &full, self.generation, now, &road);
        road.finish();
    }

    /// And what the session shows.
    fn says(&self, house: &House, text: &str) {
        let presence = Presence {
            stanza: stanza(text),
            generation: self.generation,
            node: Some(self.ix),
            withdrawn: false,
        };
        local_presence(&house.node, "romeo@chat.example", &presence);
    }
}

fn shows(what: &str) -> String {
    format!("<presence from='{FULL}'><status>{what}</status></presence>")
}

fn gone() -> String {
    format!("<presence from='{FULL}' type='unavailable'/>")
}

#[tokio::test]
async fn who_came_and_went_unseen_by_a_clock_ahead_hides_no_successor() {
    let (house, romeo) = verona().await;
    let juliet = house.bound("juliet/phone");
    house.says(&juliet, "<presence><status>here</status></presence>").await;
    assert!(mail(&romeo).join("").contains("here"));
    // The line heals: its row is gone again already, what it has shown and its end come behind.
    let before = Elsewhere::new(&house);
    assert!(before.generation > juliet.generation);
    before.says(&house, &shows("before"));
    before.says(&house, &gone());
    assert_eq!(mail(&romeo), [""; 0]);
    // Its successor's own end is heard.
    house.says(&juliet, "<presence type='unavailable'/>").await;
    assert!(mail(&romeo).join("").contains("type='unavailable'"));
    // While nobody is there, nothing but an end is believed of who has no row.
    before.says(&house, &shows("before"));
    assert_eq!(mail(&romeo), [""; 0]);
    before.says(&house, &gone());
    assert_eq!(mail(&romeo).len(), 1);
}

#[tokio::test]
async fn a_session_elsewhere_is_seen_from_its_row_to_its_end() {
    let (house, romeo) = verona().await;
    let there = Elsewhere::new(&house);
    there.is_bound(&house);
    there.says(&house, &shows("there"));
    assert!(mail(&romeo).join("").contains("there"));
    // Its row says otherwise: that it is gone is out of date.
    there.says(&house, &gone());
    assert_eq!(mail(&romeo), [""; 0]);
    let shows = Shows { priority: 0, available: false, hidden: false };
    house.node.directory.update_there(there.ix, &jid("juliet/phone"), there.generation, shows);
    there.says(&house, &gone());
    assert!(mail(&romeo).join("").contains("type='unavailable'"));
}

#[tokio::test]
async fn who_does_not_watch_is_shown_nobody_though_the_other_roster_is_behind() {
    let house = House::new().await;
    house.accounts(["romeo", "juliet"]).await;
    house.watches("romeo", "juliet").await;
    // While nobody is here, Romeo's roster comes further than the copy of Juliet's.
    let word = b"<presence type='unsubscribed'/>".to_vec();
    let request = Request::In {
        contact: bare("juliet"),
        kind: Kind::Unsubscribed,
        stanza: word,
        items_max: 9,
    };
    roster::ask(&house.node, &bare("romeo"), &request).await.expect("done");
    let romeo = house.available("romeo/orchard", 0).await;
    drop(mail(&romeo));
    let roster = house.node.rosters.load(&house.node, &bare("juliet")).await.expect("read");
    assert!(roster.has_subscriber(&bare("romeo")) && house.node.geo.partings.is_empty());
    house.available("juliet/phone", 0).await;
    assert_eq!(mail(&romeo), [""; 0]);
}

#[tokio::test]
async fn the_end_of_one_is_heard_though_another_comes_out_from_under_it() {
    let (house, romeo) = verona().await;
    let under = Elsewhere::new(&house);
    under.is_bound(&house);
    let over = Elsewhere {
        ix: house.node.geo.nodes.index("us-0").expect("few nodes"),
        generation: Hlc(under.generation.0 + 1),
    };
    over.is_bound(&house);
    over.says(&house, &shows("over"));
    assert!(mail(&romeo).join("").contains("over"));
    // Its row goes. What the other shows has been asked for; it may have ended meanwhile, without a word of what it was not seen to show.
    let road = crate::router::road::Road::new(&house.node);
    let now = house.node.now_ms();
    house.node.directory.unbind_there(over.ix, &jid("juliet/phone"), over.generation, now, &road);
    road.finish();
    over.says(&house, &gone());
    assert!(mail(&romeo).join("").contains("type='unavailable'"));
    // It shows itself: now nothing late hides it.
    under.says(&house, &shows("under"));
    assert!(mail(&romeo).join("").contains("under"));
    over.says(&house, &gone());
    assert_eq!(mail(&romeo), [""; 0]);
}

#[tokio::test]
async fn who_watches_no_more_hears_the_end_of_those_on_a_silent_node_too() {
    let (house, romeo) = verona().await;
    let there = Elsewhere::new(&house);
    there.is_bound(&house);
    there.says(&house, &shows("there"));
    drop(mail(&romeo));
    // That its node is silent is told to those in Juliet's roster, which Romeo has left before.
    house.node.directory.light(there.ix, false);
    parted(&house.node, &bare("romeo"), &bare("juliet"));
    let heard = mail(&romeo).join("");
    assert!(heard.contains("type='unavailable'") && heard.contains(FULL), "{heard}");
}

#[tokio::test]
async fn who_watches_no_more_hears_the_end_of_those_that_ended_while_no_roster_was_told_of() {
    let (house, romeo) = verona().await;
    let there = Elsewhere::new(&house);
    there.is_bound(&house);
    there.says(&house, &shows("there"));
    let (node, row) = (&house.node, || (jid("juliet/phone"), there.generation));
    drop(mail(&romeo));
    let ends = || {
        let (full, generation) = row();
        let road = crate::router::road::Road::new(node);
        node.directory.unbind_there(there.ix, &full, generation, node.now_ms(), &road);
        road.finish();
        light::brought_out(node, std::iter::once((&full, generation)));
        parted(node, &bare("romeo"), &bare("juliet"));
        mail(&romeo).join("")
    };
    // This node writes its database itself, and would have known him for one who may still see her.
    assert_eq!(ends(), "");
    node.geo.departed.note(&jid("juliet/phone"), node.now_ms());
    let heard = ends();
    assert!(heard.contains("type='unavailable'") && heard.contains(FULL), "{heard}");
}

#[tokio::test]
async fn a_session_between_two_nodes_is_seen_until_it_is_lost_or_its_watcher_leaves() {
    let (house, romeo) = verona().await;
    let there = Elsewhere::new(&house);
    let next = Elsewhere {
        ix: house.node.geo.nodes.index("us-0").expect("few nodes"),
        generation: Hlc(there.generation.0 + 1),
    };
    let seen = || {
        light::lost_on_the_way(&house.node);
        mail(&romeo)
    };
    // It arrives: he sees nothing of that.
    there.is_bound(&house);
    there.passes_to(&house, "us-0");
    assert_eq!(house.node.geo.passings.of("juliet@chat.example"), [jid("juliet/phone")]);
    next.is_bound(&house);
    assert_eq!(seen(), [""; 0]);
    assert!(house.node.geo.passings.is_empty());
    // He watches no more while neither has a row.
    next.passes_to(&house, "ap-0");
    parted(&house.node, &bare("romeo"), &bare("juliet"));
    let heard = mail(&romeo).join("");
    assert!(heard.contains("type='unavailable'") && heard.contains(FULL), "{heard}");
    // It does not arrive, and its new node has said all it knew.
    light::lost_on_the_way(&house.node);
    let heard = house.mail(&romeo).await.join("");
    assert!(heard.contains("type='unavailable'") && heard.contains(FULL), "{heard}");
    assert!(house.node.geo.passings.is_empty());
    // One that came out from under a newer one is not seen.
    there.is_bound(&house);
    next.is_bound(&house);
    next.passes_to(&house, "us-0");
    there.passes_to(&house, "us-0");
    assert_eq!(house.node.geo.passings.of("juliet@chat.example").len(), 1);
}

#[tokio::test]
async fn what_was_asked_for_comes_too_late_for_one_that_is_not_available_now() {
    let (house, romeo) = verona().await;
    let there = Elsewhere::new(&house);
    there.is_bound(&house);
    // He has asked for her when he showed himself, and her node answers when it can.
    let answer = || {
        let presence = Presence {
            stanza: stanza(&shows("there")),
            generation: there.generation,
            node: Some(there.ix),
            withdrawn: false,
        };
        answered(&house.node, &presence, &jid("romeo/orchard"));
        mail(&romeo).join("")
    };
    assert!(answer().contains("there"));
    house.says(&romeo, "<presence type='unavailable'/>").await;
    drop(mail(&romeo));
    assert_eq!(answer(), "");
    // A client that asks by itself is answered all the same, until it shows itself, or is there without that, and is gone again.
    house.says(&romeo, "<presence type='probe' to='juliet@chat.example'/>").await;
    assert!(answer().contains("there"));
    romeo.hide();
    romeo.probes();
    romeo.unhide();
    assert_eq!(answer(), "");
}
