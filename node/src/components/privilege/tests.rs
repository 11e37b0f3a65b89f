//! What a component may, and what comes of it.

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::*;
use crate::testing::{House, bare, stanza};

fn may() -> Privileges {
    Privileges {
        roster_get: true,
        roster_set: false,
        messages: true,
        iq_get: vec!["jabber:iq:private".into(), "vcard-temp".into()],
        iq_set: vec!["jabber:iq:private".into()],
        ..Privileges::default()
    }
}

fn word(may: &Privileges, text: &str) -> String {
    let is_account = |jid: &Jid| jid.local().is_some() && jid.domain() == "chat.example";
    match asked(may, "chat.example", is_account, &stanza(text)) {
        Ok(Asked::Nothing) => "nothing".into(),
        Ok(Asked::Message(message)) => {
            format!("from {}", message.from().map_or("?", Jid::as_str))
        }
        Ok(Asked::Request(account, request, wrapped)) => {
            let payload = request.first_child().map_or("", |(_, ns)| ns);
            format!("{account} {payload} {wrapped}")
        }
        Err(error) => error.condition.name().to_owned(),
    }
}

fn message(to: &str, inner: &str) -> String {
    format!(
        "<message from='bot.chat.example' to='{to}'><privilege xmlns='urn:xmpp:privilege:2'>\
         <forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded></privilege></message>"
    )
}

fn sent(from: &str, rest: &str) -> String {
    format!("<message xmlns='jabber:client' from='{from}'{rest}><body>x</body></message>")
}

fn wrapped(to: &str, type_: &str, inner: &str) -> String {
    format!(
        "<iq from='bot.chat.example' to='{to}' type='{type_}' id='1'>\
         <privileged_iq xmlns='urn:xmpp:privilege:2'>{inner}</privileged_iq></iq>"
    )
}

fn inner(attrs: &str, payload: &str) -> String {
    format!("<iq xmlns='jabber:client' {attrs}><query xmlns='{payload}'/></iq>")
}

#[test]
fn what_is_asked_is_what_may_be() {
    let to = " to='romeo@other.example'";
    let romeo = "romeo@chat.example";
    for (text, expected) in [
        (message("chat.example", &sent("juliet@chat.example", to)), "from juliet@chat.example"),
        (message("chat.example", &sent("chat.example", to)), "from chat.example"),
        (message("chat.example", &sent("juliet@chat.example/x", to)), "forbidden"),
        (message("chat.example", &sent("juliet@other.example", to)), "forbidden"),
        (message("chat.example", &sent("bot.chat.example", to)), "forbidden"),
        (message("chat.example", &sent("juliet@chat.example", "")), "bad-request"),
        (message("chat.example", "<presence xmlns='jabber:client'/>"), "bad-request"),
        (message("chat.example", ""), "bad-request"),
        // To somebody else it is somebody else's.
        (message(romeo, &sent("juliet@chat.example", to)), "nothing"),
        ("<message from='bot.chat.example' to='chat.example'/>".into(), "nothing"),
        (
            format!(
                "<iq from='bot.chat.example' to='{romeo}' type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>"
            ),
            "romeo@chat.example jabber:iq:roster false",
        ),
        (
            format!(
                "<iq from='bot.chat.example' to='{romeo}' type='set' id='1'><query xmlns='jabber:iq:roster'/></iq>"
            ),
            "forbidden",
        ),
        (
            format!(
                "<iq from='bot.chat.example' to='{romeo}/x' type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>"
            ),
            "nothing",
        ),
        (
            wrapped(romeo, "get", &inner("type='get' id='2'", "vcard-temp")),
            "romeo@chat.example vcard-temp true",
        ),
        (
            wrapped(
                romeo,
                "set",
                &inner("type='set' id='2' from='romeo@chat.example'", "jabber:iq:private"),
            ),
            "romeo@chat.example jabber:iq:private true",
        ),
        (wrapped(romeo, "set", &inner("type='set' id='2'", "vcard-temp")), "forbidden"),
        (wrapped(romeo, "get", &inner("type='set' id='2'", "jabber:iq:private")), "forbidden"),
        (wrapped(romeo, "get", &inner("type='get' id='2'", "jabber:iq:last")), "forbidden"),
        (
            wrapped(
                romeo,
                "get",
                &inner("type='get' id='2' from='juliet@chat.example'", "vcard-temp"),
            ),
            "forbidden",
        ),
        (wrapped(romeo, "get", &inner("type='get'", "vcard-temp")), "bad-request"),
        (wrapped(romeo, "get", ""), "bad-request"),
        (wrapped("chat.example", "get", &inner("type='get' id='2'", "vcard-temp")), "nothing"),
    ] {
        assert_eq!(word(&may(), &text), expected, "{text}");
    }
    let nothing = Privileges { roster_set: true, ..Privileges::default() };
    for (text, expected) in [
        (message("chat.example", &sent("juliet@chat.example", to)), "forbidden"),
        (wrapped(romeo, "get", &inner("type='get' id='2'", "vcard-temp")), "forbidden"),
    ] {
        assert_eq!(word(&nothing, &text), expected, "{text}");
    }
}

#[test]
fn it_is_told_what_it_may() {
    let jid = |text: &str| Jid::parse(text).expect("a JID");
    let told = advertised(&jid("chat.example"), &jid("bot.chat.example"), &may());
    assert_eq!(
        format!("{told:?}"),
        "<message to='bot.chat.example' from='chat.example'><privilege xmlns='urn:xmpp:privilege:2'>\
         <perm access='roster' type='get' push='false'/><perm access='message' type='outgoing'/>\
         <perm access='iq'><namespace ns='jabber:iq:private' type='both'/><namespace ns='vcard-temp' type='get'/></perm>\
         </privilege></message>"
    );
    let may = Privileges {
        roster_get: true,
        roster_push: true,
        presence: WatchedPresence::Roster,
        ..Privileges::default()
    };
    let told = advertised(&jid("chat.example"), &jid("bot.chat.example"), &may);
    assert_eq!(
        format!("{told:?}"),
        "<message to='bot.chat.example' from='chat.example'><privilege xmlns='urn:xmpp:privilege:2'>\
         <perm access='roster' type='get' push='true'/><perm access='presence' type='roster'/></privilege></message>"
    );
}

#[tokio::test]
async fn an_answer_is_heard_whoever_makes_it_and_whenever() {
    let house = House::new().await;
    let acting = || {
        let full = bare("romeo").with_resource("x").expect("a JID");
        let mailbox = Mailbox::new(MailboxLimits::default());
        let seat = Arc::new(Seat::new(full, house.node.tick_clock(), mailbox));
        Acting { seat, later: None }
    };
    let one = acting();
    let (node, seat) = (house.node.clone(), one.seat.clone());
    let other = tokio::spawn(async move {
        for text in ["<message/>", "<iq type='result' id='other'/>", "<iq type='result' id='it'/>"]
        {
            tokio::task::yield_now().await;
            router::perform(&node, Some(&seat), vec![Action::Reply(stanza(text))]);
        }
    });
    let answer = one.answer(&house.node, Some("it")).await;
    assert_eq!(answer.and_then(|answer| answer.id().map(|id| id.into_owned())), Some("it".into()));
    other.await.expect("it ends");
    // Where nobody is left who could answer, nothing is waited for.
    let answer = acting().answer(&house.node, Some("it")).now_or_never();
    assert!(answer.expect("at once").is_none());
    // Nor for somebody who has gone without an answer.
    tokio::time::pause();
    let began = Instant::now();
    let one = acting();
    let seat = one.seat.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        drop(seat);
    });
    assert!(one.answer(&house.node, Some("it")).await.is_none());
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

/// Of a component at a node of eu.
#[tokio::test]
async fn it_acts_for_accounts_of_its_region_and_of_others_if_they_are_linked() {
    for (linked, account, acts) in [
        (false, "bob@us.chat.example", false),
        (true, "bob@us.chat.example", true),
        (false, "alice@eu.chat.example", true),
        (false, "juliet@chat.example", true),
    ] {
        let house = House::beside_us(linked, "").await;
        let bot = BareJid::parse("bot.chat.example").expect("a JID");
        let take = |text: &str| {
            let handled = Handled::new(std::sync::Arc::new(crate::testing::Counted::default()), 0);
            take(&house.node, &bot, &may(), stanza(text), handled).is_none()
        };
        let request = format!(
            "<iq from='bot.chat.example' to='{account}' type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>"
        );
        assert_eq!(take(&request), acts, "{account}, linked: {linked}");
        let request = wrapped(account, "get", &inner("type='get' id='2'", "jabber:iq:private"));
        assert_eq!(take(&request), acts, "{account}, linked: {linked}");
        house.abroad();
        let text = sent(account, " to='friar@other.example'");
        assert!(take(&message("chat.example", &text)), "it asks for something");
        let left = || !house.abroad().is_empty();
        match acts {
            true if linked => {} // His region speaks for him.
            true => house.until("it leaves", left).await,
            false => assert!(!left(), "{account}, linked: {linked}"),
        }
    }
}
