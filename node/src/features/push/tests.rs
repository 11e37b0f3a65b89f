//! XEP-0357: the elements as values, and a node with an app server that is a client of ours.

use std::sync::Arc;

use xmpp::jid::BareJid;

use super::payload::{Says, publication};
use super::*;
use crate::feature::Iq;
use crate::features::tests::iq;
use crate::router;
use crate::testing::{House, all, bare, jid, mail, stanza};

const APP: &str = "app@chat.example/server";
const FORM: &str = "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE'><value>http://jabber.org/protocol/pubsub#publish-options\
    </value></field><field var='secret'><value>eruio234vzxc2kla-91</value></field></x>";

fn parsed(payload: &str) -> Result<Ask, String> {
    let asked = iq("set", "romeo@example.org", payload).stanza;
    payload::parse(&asked, 1_000).map_err(|error| error.condition.name().to_owned())
}

#[test]
fn what_a_client_may_ask_for() {
    let jid = || "push.example".to_owned();
    let enabled = |node: Option<&str>| {
        Ok(Ask::Enable { jid: jid(), node: node.map(str::to_owned), options: None })
    };
    let push = "xmlns='urn:xmpp:push:0'";
    for (payload, expected) in [
        (format!("<enable {push} jid='push.example' node='n1'/>"), enabled(Some("n1"))),
        (format!("<enable {push} jid='push.example'/>"), enabled(None)),
        (
            format!("<disable {push} jid='push.example'/>"),
            Ok(Ask::Disable { jid: jid(), node: None }),
        ),
        (
            format!("<disable {push} jid='push.example' node='n1'/>"),
            Ok(Ask::Disable { jid: jid(), node: Some("n1".into()) }),
        ),
        (format!("<enable {push} node='n1'/>"), Err("bad-request".into())),
        (format!("<disable {push}/>"), Err("bad-request".into())),
        (
            format!("<enable {push} jid='push.example' node='{}'/>", "n".repeat(1_024)),
            Err("not-acceptable".into()),
        ),
        (format!("<enable {push} jid='@'/>"), Err("jid-malformed".into())),
        (format!("<maybe {push} jid='push.example'/>"), Err("bad-request".into())),
        (
            format!(
                "<enable {push} jid='push.example'><x xmlns='jabber:x:data'>{}</x></enable>",
                "x".repeat(1_000)
            ),
            Err("not-acceptable".into()),
        ),
    ] {
        assert_eq!(parsed(&payload), expected, "{payload}");
    }
    let own = iq("set", "romeo@example.org", "<enable xmlns='urn:xmpp:push:0' jid='JID'/>").stanza;
    let from = own.from().expect("stamped").to_string();
    let own = stanza(&String::from_utf8_lossy(own.bytes()).replace("JID", &from));
    assert!(payload::parse(&own, 1_000).is_err(), "its own JID");
}

#[test]
fn a_publication_says_what_it_may() {
    let message = stanza(
        "<message from='juliet@chat.example/x' type='chat'><body>Wherefore?</body></message>",
    );
    let registration = Registration {
        jid: "push.example".into(),
        node: Some("n1".into()),
        options: Some(FORM.into()),
        resource: "phone".into(),
        token: 0xabc,
        since: 0,
    };
    let published = |says| {
        let note = Note::of(&message);
        let iq = publication(&bare("romeo"), &registration, &note, says, 7).expect("an address");
        String::from_utf8_lossy(iq.bytes()).into_owned()
    };
    let nothing = published(Says { sender: false, body: false, placeholder: "" });
    for part in [
        "to='push.example'",
        "from='romeo@chat.example'",
        "<publish node='n1'><item><notification xmlns='urn:xmpp:push:0'>",
        "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:push:summary</value>",
        "<value>1</value>",
        "<publish-options><x xmlns='jabber:x:data' type='submit'>",
        "<value>eruio234vzxc2kla-91</value>",
    ] {
        assert!(nothing.contains(part), "{part} in {nothing}");
    }
    assert!(!nothing.contains("juliet") && !nothing.contains("last-message"), "{nothing}");
    let hidden = published(Says { sender: false, body: false, placeholder: "New Message!" });
    assert!(hidden.contains("<value>New Message!</value>") && !hidden.contains("Wherefore"));
    let said = published(Says { sender: true, body: true, placeholder: "New Message!" });
    assert!(said.contains("<value>juliet@chat.example/x</value>"), "{said}");
    assert!(said.contains("<value>Wherefore?</value>") && !said.contains("New Message!"));
    let id = stanza(&nothing).id().expect("an id").into_owned();
    assert_eq!(payload::answered(&id), Some(0xabc));
    for other in ["push7", "push-abc-7", "push-000000000000zabc-7", "x"] {
        assert_eq!(payload::answered(other), None, "{other}");
    }
}

/// Romeo has a phone, which registers the app server's node `n1`.
struct Verona {
    house: House,
    romeo: BareJid,
    phone: Arc<Seat>,
    app: Arc<Seat>,
}

impl Verona {
    async fn new() -> Verona {
        Verona::with("").await
    }

    async fn with(more: &str) -> Verona {
        let house = House::with(more).await;
        let [romeo, ..] = house.accounts(["romeo", "juliet", "app"]).await;
        let app = house.bound("app/server");
        let phone = house.bound("romeo/phone");
        let verona = Verona { house, romeo, phone, app };
        verona.asks(&verona.phone, &format!("<enable jid='{APP}' node='n1'")).await;
        verona
    }

    /// Asks and is answered; what for, without its end and namespace.
    async fn asks(&self, seat: &Arc<Seat>, what: &str) -> String {
        let text = format!(
            "<iq type='set' id='e1' from='{}'>{what} xmlns='urn:xmpp:push:0'/></iq>",
            seat.full.as_str()
        );
        let target = Target::Account { account: self.romeo.clone(), own: true };
        let asked = Iq { stanza: stanza(&text), target };
        let mut ctx = Ctx::new(&self.house.node, Some(seat));
        let flow = Push.iq(&mut ctx, &asked);
        let actions = all(ctx, flow).await;
        router::perform(&self.house.node, Some(seat), actions);
        mail(seat).join("")
    }

    fn message(&self, to: &str, id: &str) {
        let text = format!(
            "<message from='juliet@chat.example/x' to='{to}' type='chat' id='{id}'><body>x</body></message>"
        );
        router::route(&self.house.node, stanza(&text));
    }

    async fn pushed(&self, count: u64) {
        self.house.until("it is pushed", || self.house.node.metrics.pushed.get() >= count).await;
        self.house.until("it arrives", || self.app.mailbox.depth().items > 0).await;
    }

    /// What the app server has.
    fn at_app(&self) -> Vec<String> {
        mail(&self.app)
    }

    async fn gone(&self, seat: &Arc<Seat>) {
        let node = &self.house.node;
        let road = crate::router::road::Road::new(node);
        node.directory.unbind_here(&seat.full, seat.generation, node.now_ms(), &road, Vec::new);
        road.finish();
    }
}

#[tokio::test]
async fn what_is_filed_is_told_to_every_device_once() {
    let verona = Verona::new().await;
    let tablet = verona.house.bound("romeo/tablet");
    assert!(
        verona.asks(&tablet, &format!("<enable jid='{APP}' node='n2'")).await.contains("result")
    );
    verona.gone(&verona.phone).await;
    verona.gone(&tablet).await;
    verona.message("romeo@chat.example", "m1");
    verona.pushed(2).await;
    verona.house.until("both arrive", || verona.app.mailbox.depth().items == 2).await;
    let mut all = verona.at_app();
    all.sort_by_key(|text| text.find("node='n2'").is_some());
    assert!(all[0].contains("node='n1'") && all[1].contains("node='n2'"), "{all:?}");
}

#[tokio::test]
async fn a_device_that_is_away_hears_of_what_another_takes_and_one_that_is_there_does_not() {
    let verona = Verona::new().await;
    let node = &verona.house.node;
    let laptop = verona.house.available("romeo/laptop", 0).await;
    node.pushes.load(node, &laptop).await;
    mail(&laptop);
    assert!(laptop.pushes());
    verona.message("romeo@chat.example", "m1");
    assert_eq!(verona.house.mail(&laptop).await.len(), 1);
    assert_eq!(node.metrics.pushed.get(), 0, "the phone is connected");
    verona.gone(&verona.phone).await;
    verona.message("romeo@chat.example", "m2");
    verona.message("romeo@chat.example/laptop", "m3");
    verona.pushed(2).await;
    // What can wait is nothing to call for, nor what he said himself.
    let state = "<message from='juliet@chat.example/x' to='romeo@chat.example' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>";
    let own = "<message from='romeo@chat.example/laptop' to='romeo@chat.example' type='chat'><body>x</body></message>";
    for text in [state, own] {
        router::route(node, stanza(text));
    }
    assert!(verona.asks(&laptop, &format!("<disable jid='{APP}'")).await.contains("result"));
    verona.house.until("nobody is registered", || !laptop.pushes()).await;
    verona.message("romeo@chat.example", "m4");
    assert_eq!(node.metrics.pushed.get(), 2);
}

#[tokio::test]
async fn of_one_message_a_device_hears_once_whoever_tells() {
    let verona = Verona::new().await;
    let node = &verona.house.node;
    let devices = vec![record::key(APP, Some("n1"))];
    let tell = |orders: &[u64]| Request::Tell {
        devices: devices.clone(),
        of: orders.iter().map(|order| ("us-0".to_owned(), *order)).collect(),
        note: Note::default(),
    };
    for (orders, expected) in
        [(&[1][..], 1), (&[1], 1), (&[2, 3], 2), (&[3], 2), (&[3, 4], 3), (&[4], 3)]
    {
        let done: Result<(), _> = node.homes.exchange(&verona.romeo, OP, &tell(orders)).await;
        done.expect("told");
        assert_eq!(node.metrics.pushed.get(), expected, "{orders:?}");
    }
}

#[tokio::test]
async fn an_app_server_that_refuses_gets_no_more() {
    let verona = Verona::new().await;
    let node = &verona.house.node;
    verona.gone(&verona.phone).await;
    let answer = |published: &str, from: &str, kind: &str| {
        let id = stanza(published).id().expect("an id").into_owned();
        let text = format!(
            "<iq type='error' from='{from}' to='romeo@chat.example' id='{id}'><error type='{kind}'>\
             <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
        );
        answered(node, &verona.romeo, &stanza(&text));
    };
    let registered = async || {
        node.homes.request(&verona.romeo, "no-such-op", Vec::new()).await.ok();
        node.storage.map(record::PUSH, verona.romeo.as_str()).await.expect("read").len()
    };
    verona.message("romeo@chat.example", "m1");
    verona.pushed(1).await;
    let published = verona.at_app().remove(0);
    // It asks to try again later; somebody else answers; it refuses.
    answer(&published, APP, "wait");
    answer(&published, "juliet@chat.example/x", "cancel");
    assert_eq!(registered().await, 1);
    answer(&published, APP, "cancel");
    let forgotten = async {
        while registered().await > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), forgotten).await.expect("forgotten");
    verona.message("romeo@chat.example", "m2");
    verona.house.until("it is filed", || node.metrics.routed.offline.get() == 2).await;
    assert_eq!(node.metrics.pushed.get(), 1);
}

#[tokio::test]
async fn beyond_the_bound_the_oldest_registration_makes_room() {
    let verona = Verona::with("[push]\nregistrations_max = 2\n").await;
    let node = &verona.house.node;
    for what in ["n2", "n1", "n3"] {
        verona.asks(&verona.phone, &format!("<enable jid='{APP}' node='{what}'")).await;
    }
    let kept = node.storage.map(record::PUSH, verona.romeo.as_str()).await.expect("read");
    let keys: Vec<String> = kept.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, [record::key(APP, Some("n1")), record::key(APP, Some("n3"))]);
    assert!(verona.asks(&verona.phone, &format!("<disable jid='{APP}'")).await.contains("result"));
    assert!(node.storage.map(record::PUSH, verona.romeo.as_str()).await.expect("read").is_empty());
    assert_eq!(jid("romeo/phone"), verona.phone.full);
}
