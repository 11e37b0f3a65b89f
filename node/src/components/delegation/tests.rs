//! What is delegated, who answers it, and what is said of it.

use super::super::tests::{CONFIG, Line};
use super::*;
use crate::testing::{House, romeo, stanza};

const DELEGATED: &str = "
[[components.component]]
domain = 'pep.chat.example'
privileged_iq_set = ['jabber:iq:private']
[[components.component.delegation]]
namespace = 'jabber:iq:private'
[[components.component.delegation]]
namespace = 'jabber:iq:last'
attributes = ['node', 'x']
[[components.component.delegation]]
namespace = 'urn:xmpp:delegation:2:bare:disco#info:*'
[[components.component.delegation]]
namespace = 'urn:xmpp:delegation:2:bare:disco#items:*'
";

fn of(text: &str, attr: &str) -> String {
    let value = text.split(&format!(" {attr}='")).nth(1).and_then(|rest| rest.split('\'').next());
    value.unwrap_or_else(|| panic!("{attr} in {text}")).to_owned()
}

/// The component, and what it is asked of itself first is answered: `info` at each node.
async fn pep(house: &House, info: &str) -> Line {
    let mut pep = Line::connected(house, "pep.chat.example", "of all").await;
    let told = pep.reads("</delegation></message>").await;
    assert!(told.contains("<delegated namespace='jabber:iq:private'/>"), "{told}");
    let filtered = "<delegated namespace='jabber:iq:last'><attribute name='node'/><attribute name='x'/></delegated>";
    assert!(told.contains(filtered), "{told}");
    for _ in 0..4 {
        let asked = pep.reads("</iq>").await;
        let (id, node) = (of(&asked, "id"), of(&asked, "node"));
        assert!(asked.contains("from='chat.example'") && asked.contains("type='get'"), "{asked}");
        pep.says(&format!(
            "<iq type='result' id='{id}' from='pep.chat.example' to='chat.example'>\
             <query xmlns='http://jabber.org/protocol/disco#info' node='{node}'>{}</query></iq>",
            info.replace("NODE", &node)
        ))
        .await;
    }
    house.until("all is nested", || said(house) == 4).await;
    pep
}

/// At how many nodes components have said something.
fn said(house: &House) -> usize {
    let nested = house.node.components.delegations.nested.lock();
    nested.values().filter(|nested| nested.said.is_some()).count()
}

/// The next request that is handed on: the id of its wrapper, and it.
async fn handed(pep: &mut Line) -> (String, String) {
    let outer = pep.reads("<forwarded xmlns='urn:xmpp:forward:0'>").await;
    assert!(
        outer.contains("to='pep.chat.example'")
            && outer.contains("<delegation xmlns='urn:xmpp:delegation:2'>"),
        "{outer}"
    );
    assert!(outer.contains("from='chat.example'") && of(&outer, "type") == "set", "{outer}");
    let inner = pep.reads("</forwarded></delegation></iq>").await;
    (of(&outer, "id"), inner)
}

async fn answers(pep: &mut Line, id: &str, inner: &str) {
    pep.says(&format!(
        "<iq type='result' id='{id}' from='pep.chat.example' to='chat.example'><delegation xmlns='urn:xmpp:delegation:2'>\
         <forwarded xmlns='urn:xmpp:forward:0'>{inner}</forwarded></delegation></iq>"
    ))
    .await;
}

/// As a session does with a request of its client.
async fn asks(house: &House, seat: &Arc<Seat>, text: &str) {
    let mut ctx = Ctx::new(&house.node, Some(seat));
    let flow = crate::session::handle(&mut ctx, stanza(text).with_from(seat.address()));
    let actions = crate::testing::all(ctx, flow).await;
    router::perform(&house.node, Some(seat), actions);
}

const ASKED: &str = "<query xmlns='jabber:iq:private'><x xmlns='y'/></query>";

#[tokio::test]
async fn a_component_answers_in_the_name_of_accounts() {
    let (house, romeo) = romeo(&format!("{CONFIG}{DELEGATED}")).await;
    // §4.3: while it is not there, nobody else answers.
    asks(&house, &romeo, &format!("<iq type='get' id='1'>{ASKED}</iq>")).await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("service-unavailable") && mail.contains("id='1'"), "{mail}");
    let mut pep = pep(&house, "").await;
    for (to, from) in [("", ""), (" to='romeo@chat.example'", " from='romeo@chat.example'")] {
        asks(&house, &romeo, &format!("<iq type='get' id='2'{to}>{ASKED}</iq>")).await;
        let (id, inner) = handed(&mut pep).await;
        assert!(
            inner.contains("from='romeo@chat.example/orchard'") && inner.contains(ASKED),
            "{inner}"
        );
        assert!(
            inner.starts_with("<iq xmlns='jabber:client' ") && of(&inner, "id") == "2",
            "{inner}"
        );
        let answer = "<iq xmlns='jabber:client' type='result' id='2' to='romeo@chat.example/orchard'><said xmlns='y'/></iq>";
        answers(&mut pep, &id, answer).await;
        let mail = house.mail(&romeo).await.join("");
        assert!(mail.contains("type='result'") && mail.contains("<said xmlns='y'/>"), "{mail}");
        assert_eq!(mail.matches(" from='").count(), usize::from(!from.is_empty()), "{mail}");
        assert!(mail.contains(from) && !mail.contains("pep.chat.example"), "{mail}");
    }
    // An error is an answer too.
    asks(&house, &romeo, &format!("<iq type='set' id='3'>{ASKED}</iq>")).await;
    let (id, _) = handed(&mut pep).await;
    let error = "<iq xmlns='jabber:client' type='error' id='3' to='romeo@chat.example/orchard'><error type='auth'>\
                 <forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>";
    answers(&mut pep, &id, error).await;
    assert!(house.mail(&romeo).await.join("").contains("<forbidden "));
    // Answers that are none.
    for wrong in [
        "type='result' id='other' to='romeo@chat.example/orchard'",
        "type='result' id='4' to='juliet@chat.example/x'",
        "type='result' id='4' to='romeo@chat.example/orchard' from='juliet@chat.example'",
        "type='set' id='4' to='romeo@chat.example/orchard'",
    ] {
        asks(&house, &romeo, &format!("<iq type='get' id='4'>{ASKED}</iq>")).await;
        let (id, _) = handed(&mut pep).await;
        answers(&mut pep, &id, &format!("<iq xmlns='jabber:client' {wrong}/>")).await;
        let mail = house.mail(&romeo).await.join("");
        assert!(mail.contains("service-unavailable") && mail.contains("id='4'"), "{wrong}: {mail}");
    }
    asks(&house, &romeo, &format!("<iq type='get' id='5'>{ASKED}</iq>")).await;
    let (id, _) = handed(&mut pep).await;
    pep.says(&format!(
        "<iq type='error' id='{id}' from='pep.chat.example' to='chat.example'><error type='cancel'>\
         <item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"
    ))
    .await;
    assert!(house.mail(&romeo).await.join("").contains("service-unavailable"));
    // Another component is nobody to answer it.
    let mut other = Line::connected(&house, "other.chat.example", "of all").await;
    asks(&house, &romeo, &format!("<iq type='get' id='6'>{ASKED}</iq>")).await;
    let (id, _) = handed(&mut pep).await;
    other
        .says(&format!("<iq type='result' id='{id}' from='other.chat.example' to='chat.example'/>"))
        .await;
    assert!(house.mail(&romeo).await.join("").contains("service-unavailable"));
    assert!(house.node.components.delegations.waiting.lock().is_empty());
}

#[tokio::test]
async fn what_it_asks_itself_is_answered_by_the_server() {
    let (house, romeo) = romeo(&format!("{CONFIG}{DELEGATED}")).await;
    let mut pep = pep(&house, "").await;
    // In romeo's name (XEP-0356).
    pep.says(
        "<iq from='pep.chat.example' to='romeo@chat.example' type='set' id='1'><privileged_iq xmlns='urn:xmpp:privilege:2'>\
         <iq xmlns='jabber:client' type='set' id='in1'><query xmlns='jabber:iq:private'><x xmlns='y'>kept</x></query></iq></privileged_iq></iq>",
    )
    .await;
    let done = pep.reads("</forwarded></privilege></iq>").await;
    assert!(of(&done, "type") == "result" && done.contains("id='in1'"), "{done}");
    // Filtered: as long as not all attributes are there, nothing is delegated.
    asks(
        &house,
        &romeo,
        "<iq type='get' id='2' to='chat.example'><query xmlns='jabber:iq:last' node='n'/></iq>",
    )
    .await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("type='result'") && mail.contains("seconds="), "{mail}");
    asks(&house, &romeo, "<iq type='get' id='3' to='chat.example'><query xmlns='jabber:iq:last' node='n' x=''/></iq>").await;
    let (id, _) = handed(&mut pep).await;
    let answer = "<iq xmlns='jabber:client' type='result' id='3' to='romeo@chat.example/orchard' from='chat.example'/>";
    answers(&mut pep, &id, answer).await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("id='3'") && mail.contains("from='chat.example'"), "{mail}");
}

#[tokio::test(start_paused = true)]
async fn what_it_has_left_unanswered_is_an_error_in_the_end() {
    let (house, romeo) = romeo(&format!("{CONFIG}{DELEGATED}")).await;
    let mut pep = pep(&house, "").await;
    asks(&house, &romeo, &format!("<iq type='get' id='4'>{ASKED}</iq>")).await;
    handed(&mut pep).await;
    pep.says("</stream:stream>").await;
    pep.rest().await;
    // What is asked then is refused at once.
    asks(&house, &romeo, &format!("<iq type='get' id='5'>{ASKED}</iq>")).await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("service-unavailable") && mail.contains("id='5'"), "{mail}");
    assert!(!mail.contains("id='4'"), "{mail}");
    tokio::time::sleep(std::time::Duration::from_secs(31)).await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("service-unavailable") && mail.contains("id='4'"), "{mail}");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_in_time_is_not_there() {
    let (house, romeo) = romeo(&format!("{CONFIG}{DELEGATED}")).await;
    let mut pep = pep(&house, "").await;
    asks(&house, &romeo, &format!("<iq type='get' id='1'>{ASKED}</iq>")).await;
    let (id, _) = handed(&mut pep).await;
    tokio::time::sleep(std::time::Duration::from_secs(31)).await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("service-unavailable") && mail.contains("id='1'"), "{mail}");
    // Too late.
    answers(
        &mut pep,
        &id,
        "<iq xmlns='jabber:client' type='result' id='1' to='romeo@chat.example/orchard'/>",
    )
    .await;
    asks(
        &house,
        &romeo,
        "<iq type='get' id='2' to='chat.example'><ping xmlns='urn:xmpp:ping'/></iq>",
    )
    .await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("id='2'") && !mail.contains("id='1'"), "{mail}");
}

#[tokio::test]
async fn what_it_says_of_itself_is_nested() {
    let house = House::with(&format!("{CONFIG}{DELEGATED}")).await;
    house.accounts(["romeo", "juliet"]).await;
    house.watches("juliet", "romeo").await;
    let romeo = house.available("romeo/orchard", 0).await;
    house.mail(&romeo).await;
    let info = |to: &str, node: &str| {
        format!(
            "<iq type='get' id='i'{to}><query xmlns='http://jabber.org/protocol/disco#info'{node}/></iq>"
        )
    };
    let server = " to='chat.example'";
    asks(&house, &romeo, &info(server, "")).await;
    let before = house.mail(&romeo).await.join("");
    assert!(before.contains("var='urn:xmpp:delegation:2'"), "{before}");
    // What nobody answers is not advertised.
    assert!(
        !before.contains("'jabber:iq:private'") && !before.contains("'jabber:iq:last'"),
        "{before}"
    );
    let mut pep =
        pep(&house, "<identity category='pubsub' type='pep'/><feature var='of NODE'/>").await;
    for (to, of_it, of_other) in [
        (server, "of urn:xmpp:delegation:2::jabber:iq:private", "of urn:xmpp:delegation:2:bare:"),
        ("", "of urn:xmpp:delegation:2:bare:jabber:iq:private", "of urn:xmpp:delegation:2::"),
    ] {
        asks(&house, &romeo, &info(to, "")).await;
        let said = house.mail(&romeo).await.join("");
        assert!(said.contains(of_it) && !said.contains(of_other), "{said}");
        assert_eq!(said.matches("<identity category='pubsub' type='pep'/>").count(), 1, "{said}");
    }
    // Nodes and items of accounts that nobody here knows.
    for asked in [
        info("", " node='urn:x'"),
        info("", " node='urn:x'").replace("#info", "#items"),
        info("", "").replace("#info", "#items"),
    ] {
        asks(&house, &romeo, &asked).await;
        let (id, inner) = handed(&mut pep).await;
        assert!(inner.contains("from='romeo@chat.example/orchard'"), "{inner}");
        answers(&mut pep, &id, "<iq xmlns='jabber:client' type='result' id='i' to='romeo@chat.example/orchard'><y xmlns='z'/></iq>").await;
        assert!(house.mail(&romeo).await.join("").contains("<y xmlns='z'/>"));
    }
    // Of others, for whom their presence is.
    let juliet = house.available("juliet/balcony", 0).await;
    house.mail(&juliet).await;
    let of_romeo = info(" to='romeo@chat.example'", " node='urn:x'");
    asks(&house, &juliet, &of_romeo).await;
    let (id, _) = handed(&mut pep).await;
    answers(&mut pep, &id, "<iq xmlns='jabber:client' type='result' id='i' to='juliet@chat.example/balcony'><y xmlns='z'/></iq>").await;
    let mut mail = String::new();
    while !mail.contains("<y xmlns='z'/>") {
        mail += &house.mail(&juliet).await.join("");
    }
    asks(&house, &romeo, &of_romeo.replace("romeo@", "juliet@")).await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("service-unavailable"), "{mail}");
    // When it is gone, so is what it said.
    pep.says("</stream:stream>").await;
    pep.rest().await;
    asks(&house, &romeo, &info("", "")).await;
    let said = house.mail(&romeo).await.join("");
    assert!(!said.contains("pubsub") && !said.contains("of urn:"), "{said}");
}

#[tokio::test]
async fn nobody_asks_in_a_pseudo_namespace() {
    let (house, romeo) = romeo(&format!("{CONFIG}{DELEGATED}")).await;
    let _pep = pep(&house, "").await;
    let of = super::INFO;
    asks(&house, &romeo, &format!("<iq type='get' id='1'><query xmlns='{of}'/></iq>")).await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("service-unavailable") && mail.contains("id='1'"), "{mail}");
}

#[tokio::test(start_paused = true)]
async fn a_question_that_nobody_answered_does_not_undo_a_newer_one() {
    // Whatever else waits: there is always room to ask what it says.
    let few = CONFIG.replace("[components]", "[components]\ndelegated_max = 1");
    let house = House::with(&format!("{few}{DELEGATED}")).await;
    let mut first = Line::connected(&house, "pep.chat.example", "of all").await;
    first.reads("</delegation></message>").await;
    for _ in 0..4 {
        first.reads("</iq>").await;
    }
    drop(first);
    house.until("it is gone", || house.node.components.connections() == 0).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let _pep = pep(&house, "<feature var='of NODE'/>").await;
    assert!(house.node.components.delegations.waiting.lock().is_empty());
    tokio::time::sleep(std::time::Duration::from_secs(31)).await;
    assert_eq!(said(&house), 4);
}

#[tokio::test]
async fn an_answer_is_handed_on_once() {
    let house = House::with(&format!("{CONFIG}{DELEGATED}")).await;
    let asked = Asked::own(&house.node, "urn:x");
    let answer =
        format!("<iq type='result' id='{}' from='pep.chat.example' to='chat.example'/>", asked.id);
    answered(&house.node, &stanza(&answer));
    let to = BareJid::parse("pep.chat.example").expect("a JID");
    assert!(asked.answer(&to).await.is_some());
    // Of a node that is not known, or of no request at all.
    for id in ["delegation/us-0/x", "delegation/x", "x"] {
        answered(&house.node, &stanza(&format!("<iq type='result' id='{id}'/>")));
    }
}

#[tokio::test]
async fn an_answer_goes_after_a_session_that_is_elsewhere_by_then() {
    let (house, romeo) = romeo(&format!("{CONFIG}{DELEGATED}")).await;
    let mut pep = pep(&house, "").await;
    asks(&house, &romeo, &format!("<iq type='get' id='1'>{ASKED}</iq>")).await;
    let (id, _) = handed(&mut pep).await;
    crate::session::component_over(&house.node, &romeo, Vec::new());
    let romeo = house.available("romeo/orchard", 0).await;
    house.mail(&romeo).await;
    let answer = "<iq xmlns='jabber:client' type='result' id='1' to='romeo@chat.example/orchard'><said xmlns='y'/></iq>";
    answers(&mut pep, &id, answer).await;
    let mail = house.mail(&romeo).await.join("");
    assert!(mail.contains("id='1'") && mail.contains("<said xmlns='y'/>"), "{mail}");
    assert!(mail.contains("from='romeo@chat.example'"), "{mail}");
}

#[tokio::test]
async fn nobody_has_more_requests_that_wait_than_may() {
    let few = format!("{CONFIG}{DELEGATED}");
    let few = few.replace(
        "[components]",
        "[components]\ndelegated_component_max = 5\ndelegated_asker_max = 2",
    );
    let house = House::with(&few).await;
    house.accounts(["romeo", "juliet"]).await;
    let mut pep = pep(&house, "").await;
    let mut seats = Vec::new();
    for full in ["romeo/orchard", "romeo/hall", "juliet/balcony"] {
        let seat = house.available(full, 0).await;
        house.until("it hears itself", || seat.mailbox.depth().items > 0).await;
        seats.push(seat);
    }
    let refused = |seat: &Arc<Seat>| {
        let mail = crate::testing::mail(seat).join("");
        assert_eq!(mail.matches("type='error'").count(), mail.matches("<iq ").count(), "{mail}");
        mail.matches("<resource-constraint ").count()
    };
    for seat in &seats {
        refused(seat);
        asks(&house, seat, &format!("<iq type='get' id='1'>{ASKED}</iq>")).await;
    }
    // All of an account together.
    asks(&house, &seats[0], &format!("<iq type='get' id='2'>{ASKED}</iq>")).await;
    assert_eq!([refused(&seats[0]), refused(&seats[1]), refused(&seats[2])], [1, 0, 0]);
    // All of a domain.
    house.abroad();
    let foreign = |n: usize| {
        format!("<iq type='get' id='{n}' from='{n}@other.example/x' to='chat.example'>{ASKED}</iq>")
    };
    let counted = Arc::new(crate::testing::Counted::default());
    let handled = || counted.0.load(std::sync::atomic::Ordering::Acquire);
    let comes = |text: &str| {
        let handled = s2s::federation::Handled::new(counted.clone(), 0);
        crate::federation::inbound::inbound(&house.node, stanza(text), handled);
    };
    comes(&foreign(1));
    comes(&foreign(2));
    assert_eq!((handled(), house.abroad().len()), (0, 0));
    comes(&foreign(3));
    let abroad = house.abroad().join("");
    assert!(abroad.contains("<resource-constraint ") && abroad.contains("id='3'"), "{abroad}");
    assert_eq!(handled(), 1);
    // All of the component; what its stream has sent is not handled before it has the answer.
    comes(&foreign(4).replace("other.example", "third.example"));
    let abroad = house.abroad().join("");
    assert!(abroad.contains("<resource-constraint ") && abroad.contains("id='4'"), "{abroad}");
    for _ in 0..5 {
        let (id, inner) = handed(&mut pep).await;
        let (to, of) = (of(&inner, "from"), of(&inner, "id"));
        answers(
            &mut pep,
            &id,
            &format!("<iq xmlns='jabber:client' type='result' id='{of}' to='{to}'/>"),
        )
        .await;
    }
    house.until("all have their answers", || handled() == 4).await;
    assert_eq!(house.abroad().len(), 2);
    assert!(house.node.components.delegations.waiting.lock().is_empty());
}

#[tokio::test]
async fn what_it_asks_in_an_accounts_name_does_not_come_back_to_it() {
    let may = "privileged_iq_get = ['http://jabber.org/protocol/disco#items', 'http://jabber.org/protocol/disco#info']";
    let may = DELEGATED.replace("privileged_iq_set", &format!("{may}\nprivileged_iq_set"));
    let house = House::with(&format!("{CONFIG}{may}")).await;
    house.accounts(["romeo"]).await;
    let mut pep = pep(&house, "").await;
    for (asked, expected) in [
        ("<query xmlns='http://jabber.org/protocol/disco#items'/>", "type='result'"),
        ("<query xmlns='http://jabber.org/protocol/disco#info' node='urn:x'/>", "<item-not-found "),
    ] {
        pep.says(&format!(
            "<iq from='pep.chat.example' to='romeo@chat.example' type='get' id='1'><privileged_iq xmlns='urn:xmpp:privilege:2'>\
             <iq xmlns='jabber:client' type='get' id='in1'>{asked}</iq></privileged_iq></iq>"
        ))
        .await;
        let said = pep.reads("</iq>").await;
        assert!(!said.contains("<delegation ") && said.contains("<privilege "), "{said}");
        assert!(said.contains("id='in1'") && said.contains(expected), "{said}");
        pep.reads("</iq>").await;
    }
}

#[tokio::test]
async fn while_something_is_delegated_there_is_no_hash_of_what_the_server_is() {
    for (delegated, has) in [("", true), (DELEGATED, false)] {
        let house = House::with(&format!("{CONFIG}{delegated}")).await;
        let offered = house.node.features.stream_features();
        let offered = String::from_utf8(offered).expect("text");
        assert_eq!(offered.contains("<c xmlns='http://jabber.org/protocol/caps'"), has);
        assert_eq!(house.node.features.disco.server.contains(&ns::CAPS), has);
    }
}
