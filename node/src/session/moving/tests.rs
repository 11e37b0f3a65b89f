//! What needs no second node: ids, what of a seat goes along, and what becomes of sessions whose taker does not answer. That sessions move is
//! shown by the plays `sm_resumes_elsewhere*`, by `tests/drain.rs` and by the simulator.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use replication::Hlc;
use s2s::link::{
    Dialer, FrameKind, Incarnation, Io, LinkConfig, LinkLimits, LinkTimers, LinkUser, Links,
    PeerConfig, PeerId, Road, Taken,
};
use s2s::tls::Fingerprint;
use tokio::time::timeout;

use super::*;
use crate::app::{drain, start_links};
use crate::session::mailbox::{Mailbox, MailboxLimits};
use crate::session::{Delivery, Handover, Seat, State, end, sm};
use crate::testing::{House, mail, peers, stanza};

#[tokio::test]
async fn an_id_names_where_it_was_given_and_is_nobodys_guess() {
    let house = House::new().await;
    let id = new_id(&house.node);
    let me = house.node.geo.me.to_string();
    assert_eq!(born(&id), Some((me.as_str(), house.node.incarnation)));
    assert!(id.split('.').next().is_some_and(|token| token.len() >= 24), "{id}");
    assert_ne!(id, new_id(&house.node));
    for strange in ["", "a", "a.b", "a.eu-0.xyz", "no-such-session"] {
        assert_eq!(born(strange), None, "{strange}");
    }
    assert_eq!(born("t.east.eu-0.1f"), Some(("east.eu-0", 31)));
}

#[tokio::test]
async fn all_that_was_said_since_the_bind_goes_along() {
    let house = House::new().await;
    house.accounts(["juliet"]).await;
    let seat = house.available("juliet/balcony", 5).await;
    house.says(&seat, "<presence to='nurse@chat.example/x'/>").await;
    seat.set_carbons(true);
    seat.follow_blocklist();
    seat.set_inactive(true);
    seat.set_client("a client", true);
    seat.ask_roster();
    seat.answer_roster(Some(7), stanza("<iq type='result' id='r'/>"), |_| {});

    let sent = postcard::to_stdvec(&seat.state(0, 9)).expect("a plain value");
    let state: State = postcard::from_bytes(&sent).expect("what was written");
    assert!(state.is_fresh && state.roster_version == 9 && !state.slept);
    let generation = Hlc(seat.generation.0 + 1);
    let there = Seat::arrived(&state, generation, Mailbox::new(MailboxLimits::default()))
        .expect("a seat of ours");
    assert_eq!((&there.full, there.generation), (&seat.full, generation));
    assert!(there.available() && there.takes_messages() && there.carbons());
    assert!(there.follows_blocklist() && !there.follows_privacy() && !there.invisible());
    // Who resumes is active until it says otherwise (XEP-0352 §3).
    assert!(!there.inactive());
    assert_eq!((there.priority(), there.took_at()), (5, 5));
    assert_eq!(there.client(), Some(("a client", true)));
    assert_eq!(there.presence(), seat.presence());
    assert_eq!(there.directed(), seat.directed());
    assert_eq!(there.directed().len(), 1);
    // What it has been told of is not pushed again.
    assert_eq!(there.roster_told(), Some(9));
    there.push_roster(9, || stanza("<iq type='set' id='p'/>"), |_| panic!("it has that"));
}

#[tokio::test]
async fn a_session_that_moves_to_nobody_is_not_waited_for() {
    let house = House::new().await;
    let node = &house.node;
    let elsewhere = NodeIx(3);
    let (answer, answered) = oneshot::channel();
    node.moving.asked.lock().insert(1, Asked { of: elsewhere, arrived: Vec::new(), answer });
    node.moving.node_silent(NodeIx(4));
    assert_eq!(node.moving.asked.lock().len(), 1);
    node.moving.node_silent(elsewhere);
    assert!(matches!(answered.await, Ok(Given::Silent)));
    let (offer, offered) = oneshot::channel();
    let offer = Offer { answer: offer, ours: Vec::new() };
    node.moving.offered.lock().insert((elsewhere, Call::Pushed(1)), offer);
    // A line that is cut settles nothing.
    node.moving.node_silent(elsewhere);
    assert_eq!(node.moving.offers(), 1);
    node.moving.node_gone(elsewhere);
    assert_eq!(offered.await, Ok(Answer::Over));
    assert_eq!(node.moving.offers(), 0);
}

#[tokio::test]
async fn what_waits_behind_older_messages_goes_along_or_waits_on() {
    let house = House::new().await;
    house.accounts(["juliet"]).await;
    let say = |seat: &Seat, text: &str| {
        let message = format!("<message from='romeo@chat.example/x'><body>{text}</body></message>");
        assert!(seat.take(Delivery::light(stanza(&message))));
    };
    let said = |seat: &Seat| {
        let order = |text: String| {
            let at = text.find("<body>").expect("a message") + "<body>".len();
            text[at..=at].to_owned()
        };
        mail(seat).into_iter().map(order).collect::<String>()
    };
    for ends_meanwhile in [false, true] {
        let seat = house.bound("juliet/balcony");
        assert!(seat.take_waiting().is_none());
        seat.begin_catching_up();
        say(&seat, "1");
        say(&seat, "2");
        let waiting = seat.take_waiting().expect("it catches up");
        assert_eq!(waiting.len(), 2);
        say(&seat, "3");
        if ends_meanwhile {
            assert_eq!(seat.end_catching_up(true).len(), 0);
        }
        assert_eq!(said(&seat), "");
        // Nobody takes it.
        assert_eq!(seat.waits_again(waiting).len(), 0);
        assert_eq!(seat.end_catching_up(true).len(), 0);
        assert_eq!(said(&seat), if ends_meanwhile { "123" } else { "" });
        if !ends_meanwhile {
            assert_eq!(seat.end_catching_up(true).len(), 0);
            assert_eq!(said(&seat), "123");
        }
    }
    // Where it goes to, it waits ahead of what comes.
    let there = house.bound("juliet/balcony");
    there.begin_catching_up();
    say(&there, "2");
    let waiting = there.take_waiting().expect("it catches up");
    say(&there, "3");
    assert_eq!(there.waits_again(waiting).len(), 0);
    let all = there.close();
    assert_eq!(all.len(), 2);
    assert_eq!(there.waits_again(all).len(), 2, "it is over, and says so");
}

/// Seed 2006102 found a message that waited half a minute in such a one, behind a line that was cut.
#[tokio::test]
async fn what_came_to_a_session_on_offer_is_not_kept_when_another_takes_its_place() {
    let house = House::new().await;
    house.accounts(["juliet", "romeo"]).await;
    let romeo = house.available("romeo/orchard", 0).await;
    let old = house.available("juliet/balcony", 0).await;
    mail(&old);
    house
        .says(&romeo, "<message to='juliet@chat.example' type='chat'><body>1</body></message>")
        .await;
    let presence = "<presence from='nurse@chat.example/x' to='juliet@chat.example'/>";
    assert!(old.take(Delivery::light(stanza(presence))));
    let parked = || house.node.directory.parked().0;
    give::pass_on(&house.node, &old);
    assert_eq!(parked(), 0, "it has its row: that would come back");
    house.bound("juliet/balcony");
    give::pass_on(&house.node, &old);
    // In front of what is newer, until the old one has said what else it leaves behind.
    assert_eq!(parked(), 1);
    let kept = mail(&old);
    assert!(kept.len() == 2 && kept[0].starts_with("<presence"), "and that it is over: {kept:?}");
}

/// A capsule that was on its way behind a line that was cut.
#[tokio::test]
async fn a_session_whose_client_has_bound_anew_meanwhile_is_over_when_it_comes() {
    let house = House::new().await;
    house.accounts(["juliet"]).await;
    let on_its_way = house.available("juliet/balcony", 0).await.state(0, 0);
    let anew = house.available("juliet/balcony", 0).await;
    let late = house.node.arriving(&on_its_way).expect("it makes sense");
    assert!(!house.node.arrive(&late), "it would drive out the one of now");
    let moved = house.node.arriving(&anew.state(0, 0)).expect("it makes sense");
    assert!(house.node.arrive(&moved), "of one that nobody has replaced the row is no newer one");
}

#[test]
fn what_is_doubted_is_certain_once_and_only_of_that_life() {
    let (moving, a, b) = (Moving::default(), NodeIx(1), NodeIx(2));
    moving.doubt(a, vec![1, 2], Mark::default());
    moving.doubt(b, vec![3], Mark::default());
    assert!(moving.certain(|_| false).is_empty());
    // Whoever took it says so; and the other one has begun another life.
    moving.is_known(a, 2);
    moving.node_gone(b);
    let certain: Vec<_> = moving.certain(|_| true).into_iter().collect();
    assert_eq!(certain, [(a, BTreeSet::from([1]))]);
    assert!(moving.certain(|_| true).is_empty());
}

/// Another node of the region, of which nothing is there but its end of the link. It takes what it is offered, or does not answer.
struct Fellow {
    takes: Arc<AtomicBool>,
    links: OnceLock<Links>,
}

impl Fellow {
    fn start(number: u16, takes: &Arc<AtomicBool>) -> (PeerId, Links) {
        let me = PeerId::new("eu", number);
        let fellow = Arc::new(Fellow { takes: takes.clone(), links: OnceLock::new() });
        let (address, fingerprint) = (String::new(), Fingerprint([0; 32]));
        let config = LinkConfig {
            me: me.clone(),
            incarnation: Incarnation(1),
            road: Road::Bare(Arc::new(Region(Vec::new()))),
            peers: vec![PeerConfig { id: PeerId::new("eu", 0), address, fingerprint }],
            timers: LinkTimers::default(),
            limits: LinkLimits::default(),
            chance: Arc::new(|| 1),
        };
        let links = Links::start(config, fellow.clone()).expect("a bare road needs nothing");
        assert!(fellow.links.set(links.clone()).is_ok());
        (me, links)
    }
}

impl LinkUser for Fellow {
    fn up(&self, _: &PeerId, _: Incarnation, _: bool) {}

    fn down(&self, _: &PeerId) {}

    fn lost(&self, _: &PeerId, _: Vec<(u64, FrameKind, Bytes)>) {}

    fn frame(&self, peer: &PeerId, _: u64, kind: FrameKind, body: Bytes) -> Taken {
        if self.takes.load(Ordering::Acquire)
            && kind == frame::MOVE
            && let Ok(Word::Part { call, last: true, .. }) = postcard::from_bytes(&body)
        {
            let word = postcard::to_stdvec(&Word::Took { call }).expect("a plain value");
            let link = self.links.get().and_then(|links| links.link(peer)).expect("it is known");
            link.send(frame::MOVE, &[&word]).expect("room for it");
        }
        Taken::Now
    }
}

/// The other nodes of the region, which are dialled.
struct Region(Vec<(PeerId, Links)>);

impl Dialer for Region {
    fn connect(&self, to: &PeerId) -> BoxFuture<'static, std::io::Result<Box<dyn Io>>> {
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let (_, links) = self.0.iter().find(|(name, _)| name == to).expect("it is dialled by us");
        links.accept_bare(Box::new(theirs));
        Box::pin(async move { Ok(Box::new(ours) as Box<dyn Io>) })
    }
}

/// The clock stands still from then on, but for who waits.
async fn linked(house: &House, fellows: Vec<(PeerId, Links)>) {
    let count = fellows.len();
    let road = Road::Bare(Arc::new(Region(fellows)));
    start_links(&house.node, road).expect("a bare road needs nothing");
    tokio::time::pause();
    let up = || house.node.geo.all_peers().iter().filter(|peer| peer.link.is_up()).count();
    house.until("all are linked", || up() == count).await;
}

/// So many sessions whose clients have lost their connection.
fn sleeping(house: &House, count: usize) {
    for number in 0..count {
        let seat = house.bound(&format!("user{number}/x"));
        let (sm, _) = sm::enable(&house.node, &seat, true, None);
        let alive = end::Alive::new(&house.node, &seat);
        give::sleep_on(&house.node, Handover { seat, sm, alive });
    }
}

/// What it had to say of the first ones may have been lost, and its line is there.
#[tokio::test]
async fn a_node_that_was_late_is_given_the_rest_as_soon_as_it_answers() {
    const SESSIONS: usize = 12;
    let house = House::with(&peers(&[("eu", 1)])).await;
    let takes = Arc::new(AtomicBool::new(false));
    linked(&house, vec![Fellow::start(1, &takes)]).await;
    sleeping(&house, SESSIONS);
    drain::start(&house.node, 1, Duration::from_secs(600));
    // One a second, and it is late after five; half a minute later it is tried again.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let lost = house.node.moving.offers();
    assert!((4..8).contains(&lost), "{lost} on offer");
    takes.store(true, Ordering::Release);
    tokio::time::sleep(Duration::from_secs(10)).await;
    house.until("the rest has moved", || house.node.directory.sessions_here() == lost).await;
    assert_eq!(house.node.moving.offers(), lost);
}

#[tokio::test]
async fn a_node_that_does_not_answer_holds_up_no_drain() {
    /// More than are on their way at one time, twice.
    const SESSIONS: usize = 300;
    const ON_THEIR_WAY: usize = 128;
    let house = House::with(&peers(&[("eu", 1), ("eu", 2)])).await;
    let node = &house.node;
    let [silent, willing] = [false, true].map(|takes| Arc::new(AtomicBool::new(takes)));
    linked(&house, vec![Fellow::start(1, &silent), Fellow::start(2, &willing)]).await;
    sleeping(&house, SESSIONS);
    let within = Duration::from_secs(15);
    let emptied = drain::start(node, 1_000, within);
    let here = || node.directory.sessions_here();
    // The other one takes all that the silent one has not been offered.
    house.until("the rest has moved", || here() <= ON_THEIR_WAY).await;
    let offered = node.moving.offers();
    assert!(offered > 0 && offered == here(), "{offered} of {}", here());
    assert_eq!(node.drain.progress(node).ended, 0);
    let ends = within + drain::CLOSED_WITHIN + Duration::from_secs(1);
    timeout(ends, emptied).await.expect("it ends").expect("no panic");
    // Nobody can say whether that node has them: they are not two nodes', nor nobody's.
    assert_eq!((node.moving.offers(), here()), (offered, offered));
    let silent = node.geo.peer(&PeerId::new("eu", 1)).expect("it is known");
    node.moving.node_gone(silent.ix);
    house.until("they end here, as they were told to", || here() == 0).await;
    assert_eq!(node.drain.progress(node).ended, offered as u64);
}
