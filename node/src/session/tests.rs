//! Sessions with a client on a wire in memory: their ends and what is left, stream management, conflicts. What reaches the client is
//! read as text; what reaches nobody is looked for at the home.

use global_distrib::{NodeIx, Place, Row};
use replication::Hlc;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use xmpp::jid::BareJid;
use xmpp::xml::framer::{Framer, Limits};

use super::sm::{self, Refused};
use super::*;
use crate::features::offline::home::OFFLINE;
use crate::router::road::Road;
use crate::storage::Page;
use crate::testing::{House, Wire, bare, jid};
use crate::transport::Buffer;
use crate::transport::tcp::{Accepted, Gate, GateLimits};
use std::time::Duration;

const OPEN: &[u8] = b"<stream:stream xmlns='jabber:client' \
    xmlns:stream='http://etherx.jabber.org/streams' to='chat.example' version='1.0'>";
const ACKS: &str = "<enable xmlns='urn:xmpp:sm:3'/>";
const RESUMABLE: &str = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>";

/// A client whose session runs.
struct Client {
    seat: Arc<Seat>,
    line: DuplexStream,
    task: JoinHandle<()>,
    /// Read and not yet looked at.
    got: String,
}

impl Client {
    /// Bound as `name/resource`.
    fn new(house: &House, full: &str) -> Client {
        let seat = house.bound(full);
        Client::begin(house, seat, Buffer::new(), None)
    }

    fn begin(
        house: &House,
        seat: Arc<Seat>,
        output: Buffer,
        resumed: Option<(Box<sm::Sm>, end::Alive)>,
    ) -> Client {
        let (transport, line) = Wire::pair();
        let mut framer = Framer::stream(Limits::STANZA);
        framer.scan(OPEN).expect("a stream");
        let (sm, alive) = resumed.unzip();
        let input = Buffer::new();
        let (kept, lang) = (seat.clone(), None);
        let ready = negotiate::Ready { transport, framer, lang, input, output, seat, sm, alive };
        let session = task::Session::begin(house.node.clone(), ready);
        let seat = kept;
        Client { seat, line, task: tokio::spawn(session.run()), got: String::new() }
    }

    /// Bound, with stream management, available.
    async fn managed(house: &House, full: &str, enable: &str) -> Client {
        let mut client = Client::new(house, full);
        client.sends(enable).await;
        client.reads("<enabled").await;
        client.sends("<presence/>").await;
        client.reads("<presence").await;
        client
    }

    async fn resume(house: &House, account: &str, id: &str, h: u32) -> Result<Client, Refused> {
        let Handover { seat, sm, alive } = sm::resume(&house.node, &bare(account), id, h).await?;
        let mut output = Buffer::new();
        sm.resend(&house.node, &mut output);
        Ok(Client::begin(house, seat, output, Some((sm, alive))))
    }

    async fn sends(&mut self, text: &str) {
        self.line.write_all(text.as_bytes()).await.expect("sent");
    }

    /// Everything up to and with `what`.
    async fn reads(&mut self, what: &str) -> String {
        loop {
            if let Some(at) = self.got.find(what) {
                let rest = self.got.split_off(at + what.len());
                return std::mem::replace(&mut self.got, rest);
            }
            assert!(self.more().await > 0, "{what} in {:?}", self.got);
        }
    }

    async fn more(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let read = tokio::time::timeout(Duration::from_secs(10), self.line.read(&mut bytes));
        let count = read.await.unwrap_or_else(|_| panic!("nothing behind {:?}", self.got));
        let count = count.expect("read");
        self.got.push_str(&String::from_utf8_lossy(&bytes[..count]));
        count
    }

    /// All that still comes until the stream ends.
    async fn rest(mut self) -> String {
        while self.more().await > 0 {}
        drop(self.line);
        self.task.await.expect("the session ends");
        self.got
    }

    /// The connection is lost. Returns what the session does from now on.
    fn cut(self) -> JoinHandle<()> {
        self.task
    }

    /// What it was given as its resumption id.
    async fn enabled(house: &House, full: &str) -> (Client, String) {
        let mut client = Client::new(house, full);
        client.sends(RESUMABLE).await;
        client.reads("<enabled").await;
        let enabled = client.reads("/>").await;
        let id = enabled.split("id='").nth(1).and_then(|rest| rest.split('\'').next());
        let id = id.expect("an id").to_owned();
        client.sends("<presence/>").await;
        client.reads("'/>").await;
        (client, id)
    }
}

fn message(to: &str, id: &str) -> String {
    format!("<message to='{to}' type='chat' id='{id}'><body>x</body></message>")
}

mod csi;
mod missed;
mod resume;

const ROMEO: &str = "romeo@chat.example";

/// Ids of the messages kept for romeo, in order.
async fn filed(house: &House) -> Vec<String> {
    let node = &house.node;
    house
        .until("nothing is on its way", || node.filing() == 0 && node.directory.parked().0 == 0)
        .await;
    let kept = node.storage.archive(OFFLINE, ROMEO, Page::after(None, 100)).await.expect("read");
    kept.iter().map(|(_, bytes)| id(&String::from_utf8_lossy(bytes))).collect()
}

fn id(text: &str) -> String {
    text.split("id='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default().into()
}

async fn verona() -> (House, Client) {
    verona_with("").await
}

async fn verona_with(more: &str) -> (House, Client) {
    let house = House::with(more).await;
    house.accounts(["romeo", "juliet"]).await;
    let juliet = Client::new(&house, "juliet/balcony");
    (house, juliet)
}

/// Juliet asks the server something, so all she has sent before has been handled.
async fn settled(juliet: &mut Client) {
    juliet
        .sends("<iq type='get' id='settled' to='chat.example'><ping xmlns='urn:xmpp:ping'/></iq>")
        .await;
    juliet.reads("settled").await;
    juliet.reads("/>").await;
}

#[tokio::test]
async fn an_answer_leaves_before_the_stream_error_it_belongs_to() {
    let (house, mut juliet) = verona().await;
    let remove = "<query xmlns='jabber:iq:register'><remove/></query>";
    juliet.sends(&format!("<iq type='set' id='r1'>{remove}</iq>")).await;
    let said = juliet.rest().await;
    let at = |what: &str| said.find(what).unwrap_or_else(|| panic!("{what} in {said}"));
    assert!(at("id='r1'") < at("not-authorized") && said.contains("type='result'"), "{said}");
    house.until("the row is gone", || house.node.directory.sessions_here() == 0).await;
}

#[tokio::test]
async fn what_only_the_lost_session_had_goes_to_another_resource_in_order() {
    let (house, mut juliet) = verona().await;
    let one = Client::managed(&house, "romeo/one", ACKS).await;
    for id in ["m1", "m2"] {
        juliet.sends(&message(ROMEO, id)).await;
    }
    settled(&mut juliet).await;
    let mut two = Client::new(&house, "romeo/two");
    two.sends("<presence/>").await;
    two.reads("'/>").await;
    one.cut().await.expect("ends");
    juliet.sends(&message(ROMEO, "m3")).await;
    let got = two.reads("id='m3'").await;
    let at = |what: &str| got.find(what).unwrap_or_else(|| panic!("{what} in {got}"));
    assert!(at("id='m1'") < at("id='m2'"), "{got}");
    assert_eq!(filed(&house).await, [""; 0]);
}

#[tokio::test]
async fn what_only_the_lost_session_had_is_filed_if_nobody_else_is_there() {
    let (house, mut juliet) = verona().await;
    let one = Client::managed(&house, "romeo/one", ACKS).await;
    juliet.sends(&message(ROMEO, "m1")).await;
    juliet.sends(&message("romeo@chat.example/one", "m2")).await;
    settled(&mut juliet).await;
    one.cut().await.expect("ends");
    juliet.sends(&message(ROMEO, "m3")).await;
    settled(&mut juliet).await;
    assert_eq!(filed(&house).await, ["m1", "m2", "m3"]);
}

#[tokio::test]
async fn what_was_acknowledged_is_gone() {
    let (house, mut juliet) = verona().await;
    let mut one = Client::managed(&house, "romeo/one", ACKS).await;
    juliet.sends(&message(ROMEO, "m1")).await;
    juliet.sends(&message(ROMEO, "m2")).await;
    one.reads("id='m2'").await;
    // Own presence was the first stanza, m1 the second.
    one.sends("<a xmlns='urn:xmpp:sm:3' h='2'/><r xmlns='urn:xmpp:sm:3'/>").await;
    one.reads("<a ").await;
    one.cut().await.expect("ends");
    assert_eq!(filed(&house).await, ["m2"]);
}

#[tokio::test]
async fn a_copy_is_not_handed_on_while_another_resource_has_one_and_filed_once_at_the_end() {
    let (house, mut juliet) = verona().await;
    let one = Client::managed(&house, "romeo/one", ACKS).await;
    let mut two = Client::managed(&house, "romeo/two", ACKS).await;
    juliet.sends(&message(ROMEO, "m1")).await;
    settled(&mut juliet).await;
    two.reads("id='m1'").await;
    one.cut().await.expect("ends");
    juliet.sends(&message(ROMEO, "m2")).await;
    let got = two.reads("id='m2'").await;
    assert!(!got.contains("id='m1'"), "{got}");
    two.cut().await.expect("ends");
    assert_eq!(filed(&house).await.iter().filter(|id| *id == "m1").count(), 1);
}

#[tokio::test]
async fn copies_and_messages_nobody_else_has_keep_their_order() {
    let (house, mut juliet) = verona().await;
    let one = Client::managed(&house, "romeo/one", ACKS).await;
    let two = Client::managed(&house, "romeo/two", ACKS).await;
    juliet.sends(&message(ROMEO, "m1")).await;
    settled(&mut juliet).await;
    two.cut().await.expect("ends");
    juliet.sends(&message(ROMEO, "m2")).await;
    settled(&mut juliet).await;
    one.cut().await.expect("ends");
    assert_eq!(filed(&house).await, ["m1", "m2"]);
}

#[tokio::test]
async fn a_request_that_nobody_will_answer_is_answered_with_an_error() {
    let (house, mut juliet) = verona().await;
    let one = Client::managed(&house, "romeo/one", ACKS).await;
    let ping = "<ping xmlns='urn:xmpp:ping'/>";
    juliet.sends(&format!("<iq to='romeo@chat.example/one' type='get' id='q1'>{ping}</iq>")).await;
    juliet.sends("<iq to='romeo@chat.example/one' type='result' id='q2'/>").await;
    settled(&mut juliet).await;
    one.cut().await.expect("ends");
    let got = juliet.reads("</iq>").await;
    assert!(got.contains("id='q1'") && got.contains("service-unavailable"), "{got}");
    settled(&mut juliet).await;
    drop(house);
}

#[tokio::test]
async fn contacts_and_those_who_were_written_to_see_the_session_end() {
    let (house, mut juliet) = verona().await;
    house.watches("juliet", "romeo").await;
    juliet.sends("<presence/>").await;
    juliet.reads("'/>").await;
    let mut nurse = Client::new(&house, "nurse/room");
    let mut one = Client::new(&house, "romeo/one");
    one.sends("<presence/><presence to='nurse@chat.example/room'/>").await;
    one.reads("'/>").await;
    nurse.reads("from='romeo@chat.example/one'").await;
    juliet.reads("from='romeo@chat.example/one'").await;
    one.cut().await.expect("ends");
    for client in [&mut juliet, &mut nurse] {
        let got = client.reads("type='unavailable'").await + &client.reads(">").await;
        assert!(got.contains("<presence"), "{got}");
    }
    settled(&mut juliet).await;
    assert!(!juliet.got.contains("unavailable"), "once is enough");
}

#[tokio::test]
async fn a_hibernating_session_stays_available_and_has_all_its_mail_when_it_is_resumed() {
    let (house, mut juliet) = verona().await;
    let (mut one, id) = Client::enabled(&house, "romeo/one").await;
    juliet.sends(&message(ROMEO, "m1")).await;
    juliet.sends(&message(ROMEO, "m2")).await;
    one.reads("id='m2'").await;
    let asleep = one.cut();
    house.until("it sleeps", || house.node.metrics.hibernating.get() == 1).await;
    juliet.sends(&message(ROMEO, "m3")).await;
    settled(&mut juliet).await;
    // Presence and m1 were received before the cut.
    let mut back =
        Client::resume(&house, "romeo", &id, 2).await.unwrap_or_else(|_| panic!("resumed"));
    asleep.await.expect("the old task ends");
    let got = back.reads("id='m3'").await;
    assert!(got.contains("id='m2'") && !got.contains("id='m1'"), "{got}");
    assert!(back.seat.available());
    assert_eq!(house.node.metrics.hibernating.get(), 0);
    juliet.sends(&message(ROMEO, "m4")).await;
    back.reads("id='m4'").await;
    assert_eq!(filed(&house).await, [""; 0]);
    // And again, with the same id, in the new task.
    let asleep = back.cut();
    let mut again =
        Client::resume(&house, "romeo", &id, 3).await.unwrap_or_else(|_| panic!("resumed"));
    asleep.await.expect("the old task ends");
    let got = again.reads("id='m4'").await;
    assert!(got.contains("id='m3'") && !got.contains("id='m2'"), "{got}");
}

#[tokio::test]
async fn a_session_is_taken_over_while_its_old_connection_still_hangs() {
    let (house, mut juliet) = verona().await;
    let (mut one, id) = Client::enabled(&house, "romeo/one").await;
    juliet.sends(&message(ROMEO, "m1")).await;
    one.reads("id='m1'").await;
    let mut two =
        Client::resume(&house, "romeo", &id, 1).await.unwrap_or_else(|_| panic!("resumed"));
    two.reads("id='m1'").await;
    let rest = one.rest().await;
    assert!(!rest.contains("<message"), "{rest}");
    assert_eq!(house.node.directory.sessions_here(), 2);
}

#[tokio::test]
async fn nobody_resumes_what_is_not_there_or_not_his_and_a_wrong_count_ends_the_session() {
    let (house, mut juliet) = verona().await;
    let (one, id) = Client::enabled(&house, "romeo/one").await;
    let not_found = |account: &'static str, id: &str| {
        let (house, id) = (&house, id.to_owned());
        async move {
            let refused = Client::resume(house, account, &id, 0).await;
            assert!(matches!(refused, Err(Refused::NotFound { .. })), "{account}");
        }
    };
    not_found("romeo", "no-such-id").await;
    not_found("juliet", &id).await;
    juliet.sends(&message(ROMEO, "m1")).await;
    settled(&mut juliet).await;
    let refused = Client::resume(&house, "romeo", &id, 1_000).await;
    assert!(matches!(refused, Err(Refused::Broken(_))));
    one.rest().await;
    assert_eq!(filed(&house).await, ["m1"]);
    not_found("romeo", &id).await;
}

#[tokio::test]
async fn who_does_not_come_back_in_time_has_his_mail_filed() {
    let (house, mut juliet) = verona_with("[limits]\nsm_timeout = '1s'\n").await;
    let (one, id) = Client::enabled(&house, "romeo/one").await;
    juliet.sends(&message(ROMEO, "m1")).await;
    settled(&mut juliet).await;
    let seat = one.seat.clone();
    let asleep = one.cut();
    juliet.sends(&message(ROMEO, "m2")).await;
    settled(&mut juliet).await;
    asleep.await.expect("ends");
    assert!(!seat.available());
    assert_eq!(filed(&house).await, ["m1", "m2"]);
    let late = Client::resume(&house, "romeo", &id, 0).await;
    assert!(matches!(late, Err(Refused::NotFound { .. })));
}

#[tokio::test]
async fn a_client_that_acknowledges_nothing_is_closed_and_loses_nothing() {
    let (house, mut juliet) = verona_with("[limits]\nsm_queue_max = 3\n").await;
    let one = Client::managed(&house, "romeo/one", ACKS).await;
    for id in ["m1", "m2", "m3", "m4"] {
        juliet.sends(&message(ROMEO, id)).await;
    }
    settled(&mut juliet).await;
    let said = one.rest().await;
    assert!(said.contains("resource-constraint"), "{said}");
    juliet.sends(&message(ROMEO, "m5")).await;
    settled(&mut juliet).await;
    assert_eq!(filed(&house).await, ["m1", "m2", "m3", "m4", "m5"]);
}

#[tokio::test]
async fn the_newer_of_two_binds_of_one_full_jid_stays_and_gets_what_the_older_had() {
    let (house, mut juliet) = verona().await;
    let older = Client::managed(&house, "romeo/one", ACKS).await;
    juliet.sends(&message("romeo@chat.example/one", "m1")).await;
    settled(&mut juliet).await;
    let mut newer = Client::new(&house, "romeo/one");
    let said = older.rest().await;
    assert!(said.contains("<conflict"), "{said}");
    newer.reads("id='m1'").await;
    assert_eq!(house.node.directory.sessions_here(), 2);
    // The late unbind of the older one does not take the newer one's row.
    juliet.sends(&message("romeo@chat.example/one", "m2")).await;
    newer.reads("id='m2'").await;
    assert_eq!(newer.seat.full, jid("romeo/one"));
}

#[tokio::test]
async fn the_older_of_two_binds_is_seen_to_leave_before_the_newer_one_speaks() {
    let (house, mut juliet) = verona().await;
    let mut older = Client::new(&house, "romeo/one");
    older.sends("<presence to='juliet@chat.example/balcony'/>").await;
    juliet.reads("romeo@chat.example/one").await;
    let _newer = Client::new(&house, "romeo/one");
    older.rest().await;
    juliet.reads("type='unavailable'").await;
}

#[tokio::test]
async fn an_account_has_so_many_sessions_and_no_more() {
    let house = House::with("[limits]\nsessions_per_account_max = 2\n").await;
    house.bound("romeo/one");
    house.bound("romeo/two");
    let third = house.node.bind(&bare("romeo"), Some("three"));
    assert!(third.is_err());
    // One that takes the place of another is not one more; and others are others.
    house.bound("romeo/two");
    house.bound("juliet/one");
    let nonsense = house.node.bind(&BareJid::parse("nurse@chat.example").expect("a JID"), Some(""));
    assert!(nonsense.is_err());
}

#[tokio::test]
async fn who_does_not_get_to_the_bind_in_time_is_told_so() {
    // B-059; B-058: a tag that never ends is no different.
    let house = House::new().await;
    let open = std::str::from_utf8(OPEN).expect("text");
    for begun in ["", open, "<stream:stream xmlns='jabber:client'"] {
        let (transport, mut line) = Wire::pair();
        let peer = transport.peer_addr().expect("an address");
        let admission = Gate::new(GateLimits::default()).admit(peer.ip()).expect("let in");
        let accepted = Accepted { transport, peer, admission };
        line.write_all(begun.as_bytes()).await.expect("sent");
        tokio::time::pause();
        let node = house.node.clone();
        let task = tokio::spawn(async move { serve(node, accepted, false).await });
        let mut said = String::new();
        let read = line.read_to_string(&mut said).await;
        tokio::time::resume();
        read.expect("read");
        task.await.expect("the session ends");
        assert!(said.contains("<stream:stream"), "{said}");
        assert!(
            said.contains("<connection-timeout") && said.ends_with("</stream:stream>"),
            "{said}"
        );
    }
}

fn pings(count: usize, prefix: &str) -> String {
    let ping = |n| format!("<iq type='get' id='{prefix}{n}'><ping xmlns='urn:xmpp:ping'/></iq>");
    (0..count).map(ping).collect()
}

#[tokio::test]
async fn who_sends_faster_than_it_may_is_read_from_more_slowly_and_loses_nothing() {
    let house = House::with("[limits]\nstanzas_per_second = 10\nstanzas_burst = 5\n").await;
    tokio::time::pause();
    let mut romeo = Client::new(&house, "romeo/one");
    let began = tokio::time::Instant::now();
    romeo.sends(&pings(25, "a")).await;
    romeo.reads("id='a24'").await;
    assert!(began.elapsed() < Duration::from_secs(1));
    romeo.sends(&pings(1, "b")).await;
    romeo.reads("id='b0'").await;
    let elapsed = began.elapsed();
    assert!(elapsed >= Duration::from_millis(1_900), "{elapsed:?}");
    assert_eq!(house.node.metrics.too_fast.get(), 2);
}

#[tokio::test]
async fn who_sends_presence_or_changes_its_roster_too_fast_is_closed_where_that_is_wanted() {
    for (key, stanza) in [
        ("presence", "<presence/>"),
        ("roster_changes", "<presence type='unsubscribe' to='juliet@chat.example'/>"),
    ] {
        let limits =
            format!("[limits]\nrate_exceeded = 'close'\n{key}_per_second = 1\n{key}_burst = 3\n");
        let house = House::with(&limits).await;
        let mut romeo = Client::new(&house, "romeo/one");
        romeo.sends(&stanza.repeat(3)).await;
        romeo.sends(&pings(1, "a")).await;
        romeo.reads("id='a0'").await;
        romeo.sends(&stanza.repeat(3)).await;
        let said = romeo.rest().await;
        assert!(said.contains("<policy-violation") && said.contains("<too-many-stanzas"), "{said}");
    }
}

#[tokio::test]
async fn a_client_is_told_how_much_it_may_say_at_once() {
    // XEP-0478: before the sign-in, and after it.
    let house = House::with("[limits]\nstanza_bytes_max = '20000B'\n").await;
    let offer = house.node.offer(true);
    for (features, bytes) in [
        (&offer.features_before_auth, "<max-bytes>16384</max-bytes>"),
        (&offer.features_after_auth, "<max-bytes>20000</max-bytes>"),
    ] {
        let features = String::from_utf8_lossy(features);
        assert!(features.contains("<limits xmlns='urn:xmpp:stream-limits:0'>"), "{features}");
        assert!(features.contains(bytes), "{features}");
    }
}

#[tokio::test]
async fn what_is_bound_over_a_clock_that_is_ahead_has_a_generation_of_its_own() {
    let house = House::new().await;
    let full = bare("juliet").with_resource("balcony").expect("a resource");
    let there =
        |node: u16, generation: Hlc| Row::new(full.clone(), Place::There(NodeIx(node)), generation);
    let far = Hlc::new(4_000_000_000_000, 0);
    house.node.directory.bind(there(7, far), |_| true);
    let first = house.bound("juliet/balcony");
    assert!(first.generation > far);
    // It is superseded, and that one ends, while the first has still something to do.
    let newer = Hlc(first.generation.0 + 1);
    house.node.directory.bind(there(8, newer), |_| true);
    let road = Road::new(&house.node);
    house.node.directory.unbind_there(NodeIx(8), &full, newer, house.node.now_ms(), &road);
    road.finish();
    let second = house.bound("juliet/balcony");
    assert!(second.generation > first.generation, "the end of the first would be its own");
}
