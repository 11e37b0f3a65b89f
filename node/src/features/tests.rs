//! Features: what their tests share, and what they all say while the database is away.

use bytes::Bytes;
use xmpp::jid::Jid;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::{Condition, ErrorType, StanzaError};

use crate::feature::{Ctx, Iq, Target};
use crate::testing::{House, all, stanza};
use crate::{router, session};

/// An iq from romeo@example.org/orchard with id `i1`, as the router hands it to the features: `to` is the server (`example.org`) or
/// a bare JID.
pub(crate) fn iq(type_: &str, to: &str, payload: &str) -> Iq {
    let text = format!(
        "<iq to='{to}' from='romeo@example.org/orchard' id='i1' type='{type_}'>{payload}</iq>"
    );
    let stanza = Stanza::parse(Bytes::from(text)).expect("an iq");
    let account = Jid::parse(to).expect("a JID").bare();
    let target = match account.local() {
        None => Target::Server,
        Some(local) => Target::Account { own: local == "romeo", account },
    };
    Iq { stanza, target }
}

/// Requests that need the database, as clients send them.
const READS: [&str; 13] = [
    "<iq type='get' id='1'><query xmlns='jabber:iq:roster'/></iq>",
    "<iq type='get' id='1'><vCard xmlns='vcard-temp'/></iq>",
    "<iq type='get' id='1'><query xmlns='jabber:iq:private'><x xmlns='y'/></query></iq>",
    "<iq type='get' id='1'><blocklist xmlns='urn:xmpp:blocking'/></iq>",
    "<iq type='get' id='1'><query xmlns='jabber:iq:privacy'/></iq>",
    "<iq type='get' id='1'><query xmlns='jabber:iq:privacy'><list name='a'/></query></iq>",
    "<iq type='get' id='1'><list xmlns='urn:xmpp:cam:0'/></iq>",
    "<iq type='get' id='1'><query xmlns='jabber:iq:last'/></iq>",
    "<iq type='set' id='1'><query xmlns='urn:xmpp:mam:2'/></iq>",
    "<iq type='get' id='1'><metadata xmlns='urn:xmpp:mam:2'/></iq>",
    "<iq type='get' id='1'><prefs xmlns='urn:xmpp:mam:2'/></iq>",
    // Whatever is asked of another: first it is looked whom that one blocks.
    "<iq type='get' id='1' to='juliet@chat.example'><vCard xmlns='vcard-temp'/></iq>",
    "<iq type='set' id='1' to='chat.example'><command xmlns='http://jabber.org/protocol/commands' \
     node='http://jabber.org/protocol/admin#get-registered-users-num'/></iq>",
];

#[tokio::test]
async fn who_reads_while_the_database_is_away_is_told_to_wait() {
    let house = House::with("[admin]\naccounts = ['romeo@chat.example']\n").await;
    house.accounts(["romeo", "juliet"]).await;
    // Of somebody who is available the last activity is known without reading (XEP-0012 §4).
    let romeo = house.bound("romeo/orchard");
    let answered = async |text: &str| {
        let mut ctx = Ctx::new(&house.node, Some(&romeo));
        let flow = session::handle(&mut ctx, stanza(text).with_from(romeo.address()));
        router::perform(&house.node, Some(&romeo), all(ctx, flow).await);
        match &house.mail(&romeo).await[..] {
            [answer] => stanza(answer).element(),
            other => panic!("{text}: {other:?}"),
        }
    };
    house.database.go(true);
    for text in READS {
        let answer = answered(text).await;
        let error = answer.children().find(|child| child.name() == "error");
        let error = StanzaError::parse(error.unwrap_or_else(|| panic!("{text}: {answer:?}")));
        let said = (error.condition, error.type_);
        assert_eq!(said, (Condition::ResourceConstraint, ErrorType::Wait), "{text}");
    }
    house.database.go(false);
    for text in READS {
        let answer = answered(text).await;
        // There is no list of that name.
        let expected = if text.contains("name='a'") { "error" } else { "result" };
        assert_eq!(answer.attr("type"), Some(expected), "{text}: {answer:?}");
    }
}
