//! Room: a roster that has come as a whole, to a region that was away for longer than its log goes back. Nobody says what is new in it, so what the
//! sessions here were told goes by the roster that was held before: pushes (RFC 6121 §2.1.6), requests (§3.1.3), and who is seen no longer (§3.2, §3.3).
//! Who is seen from now on is asked and told for every contact alike. Called by `geo::light`.

use std::sync::Arc;

use xmpp::jid::BareJid;
use xmpp::stanza::Stanza;
use xmpp::xml::element::Element;

use super::record::Roster;
use crate::app::Node;
use crate::feature::{Action, Ctx};
use crate::features::presence::relation;
use crate::geo::abroad::is_abroad;
use crate::geo::presence::parted;
use crate::router;
use crate::router::perform::{seats_of, to_seat};

/// Tells sessions here what is other than `before`. `now` is what is held.
pub fn tell(node: &Arc<Node>, account: &BareJid, before: &Roster, now: &Roster) {
    let mut ctx = Ctx::new(node, None);
    let ended = before.subscriptions().filter(|contact| !now.has_subscription(contact.as_str()));
    for contact in ended.filter(|contact| !is_abroad(node, account.domain(), contact)) {
        parted(node, account, contact);
    }
    for contact in before.subscribers().filter(|contact| !now.has_subscriber(contact)) {
        if !is_abroad(node, account.domain(), contact) {
            node.geo.partings.begin(account, contact);
        }
        relation::withdrawn(&mut ctx, account, contact);
    }
    // Should the changes themselves come behind the copy, a request is seen twice, which says nothing new.
    let requests =
        requests(before, now).map(|request| Action::ToAvailable(account.clone(), request));
    ctx.actions.extend(requests);
    router::perform(node, None, std::mem::take(&mut ctx.actions));
    let pushes = pushes(account, before, now);
    for seat in seats_of(node, account.as_str()) {
        let pushes = pushes.iter().map(|push| push.with_to(seat.address()));
        seat.push_copied(now.version, pushes, |push| to_seat(node, &seat, push));
    }
}

fn pushes(account: &BareJid, before: &Roster, now: &Roster) -> Vec<Stanza> {
    let mut items = items(before, now);
    let last = items.pop();
    // A client that has got some of them and no more asks again by what they say: not as if it had them all.
    let versions = items.into_iter().map(|item| (before.version, item));
    let versions = versions.chain(last.map(|item| (now.version, item)));
    versions.map(|(version, item)| super::push_of(account, version, item)).collect()
}

/// What a client is to be pushed that has the one and is to have the other.
fn items(before: &Roster, now: &Roster) -> Vec<Element> {
    let seen = |roster: &Roster, jid: &BareJid| -> Option<Element> {
        roster
            .contacts
            .get(jid)
            .filter(|contact| contact.listed)
            .map(|contact| contact.element(jid))
    };
    let gone = before.contacts.keys().filter(|jid| seen(before, jid).is_some());
    let gone = gone.filter(|jid| seen(now, jid).is_none()).map(|jid| super::removed(jid.as_str()));
    let other = now.contacts.keys().filter_map(|jid| {
        let item = seen(now, jid)?;
        (seen(before, jid).as_ref() != Some(&item)).then_some(item)
    });
    gone.chain(other).collect()
}

/// Requests that have come since.
fn requests(before: &Roster, now: &Roster) -> impl Iterator<Item = Stanza> {
    let asked =
        |jid: &BareJid| before.contacts.get(jid).is_some_and(|known| known.request.is_some());
    let new = now.contacts.iter().filter(move |(jid, _)| !asked(jid));
    new.filter_map(|(_, contact)| Stanza::parse(contact.request.clone()?.into()).ok())
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use xmpp::stanza::Type;

    use super::*;
    use crate::features::roster;
    use crate::features::roster::home::Request;
    use crate::features::roster::record::Contact;
    use crate::features::roster::subscription::State;
    use crate::geo::light;
    use crate::testing::{House, bare, mail};

    fn roster(version: u64, contacts: &[(&str, &str, bool)]) -> Roster {
        let contact = |&(name, subscription, listed): &(&str, &str, bool)| {
            let state = State {
                to: matches!(subscription, "to" | "both"),
                from: matches!(subscription, "from" | "both"),
                ..State::default()
            };
            let request = (!listed).then(|| {
                format!("<presence type='subscribe' from='{}'/>", bare(name)).into_bytes()
            });
            (bare(name), Contact { state, listed, request, ..Contact::default() })
        };
        Roster { version, contacts: contacts.iter().map(contact).collect() }
    }

    #[test]
    fn what_differs_is_pushed_and_nothing_else() {
        let before =
            roster(3, &[("juliet", "both", true), ("nurse", "to", true), ("paris", "none", true)]);
        let now = roster(
            7,
            &[
                ("juliet", "from", true),
                ("nurse", "to", true),
                ("friar", "none", true),
                ("tybalt", "none", false),
            ],
        );
        let items = items(&before, &now);
        let items: Vec<_> =
            items.iter().map(|item| (item.attr("jid"), item.attr("subscription"))).collect();
        let expected = [
            (Some("paris@chat.example"), Some("remove")),
            (Some("friar@chat.example"), Some("none")),
            (Some("juliet@chat.example"), Some("from")),
        ];
        assert_eq!(items, expected);
        let requests: Vec<_> = requests(&before, &now).collect();
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].from().map(|from| from.as_str()), Some("tybalt@chat.example"));
        assert_eq!(super::requests(&now, &now).count(), 0);
    }

    /// A session that came from a node where it had been pushed more than a copy began with.
    #[tokio::test]
    async fn no_push_of_a_copy_goes_behind_what_a_session_knows() {
        let house = House::new().await;
        let romeo = house.available("romeo/orchard", 0).await;
        let answer = Stanza::presence(None, None, Type::Available).build();
        let before = roster(2, &[]);
        let now = roster(4, &[("juliet", "both", true), ("nurse", "to", true)]);
        let heard = Mutex::new(Vec::new());
        let hear = |push: Stanza| heard.lock().extend(roster::version_of_push(&push));
        let copied = || pushes(&bare("romeo"), &before, &now).into_iter();
        // While it asks; and when it has what it asked for.
        romeo.ask_roster();
        romeo.push_copied(4, copied(), hear);
        romeo.answer_roster(Some(3), answer, hear);
        assert_eq!(std::mem::take(&mut *heard.lock()), [3, 4]);
        let paris = house.available("paris/street", 0).await;
        paris.ask_roster();
        paris.answer_roster(Some(3), Stanza::presence(None, None, Type::Available).build(), |_| ());
        paris.push_copied(4, copied(), hear);
        assert_eq!(std::mem::take(&mut *heard.lock()), [3, 4]);
    }

    #[tokio::test]
    async fn who_is_watched_no_longer_is_seen_no_longer() {
        let house = House::new().await;
        let [account, juliet] = house.accounts(["romeo", "juliet"]).await;
        house.watches("romeo", "juliet").await;
        let romeo = house.available("romeo/orchard", 0).await;
        house.available("juliet/balcony", 0).await;
        romeo.ask_roster();
        let answer = Stanza::presence(None, None, xmpp::stanza::Type::Available).build();
        romeo.answer_roster(None, answer, |_| {});
        drop(mail(&romeo));
        // A copy begins, and brings a roster without her.
        house.node.rosters.forget(&account, true);
        roster::ask(&house.node, &account, &Request::Remove { contact: juliet })
            .await
            .expect("done");
        assert_eq!(mail(&romeo), [""; 0]);
        light::retell(&house.node, &account);
        let seen = house.mail(&romeo).await.join("\n");
        for part in ["from='juliet@chat.example/balcony'", "type='unavailable'"] {
            assert!(seen.contains(part), "{part} in {seen}");
        }
        assert_eq!(seen.matches("jabber:iq:roster").count(), 1, "{seen}");
        assert!(seen.contains("jid='juliet@chat.example' subscription='remove'"), "{seen}");
        // What made it so comes by itself after all.
        let roster = house.node.rosters.load(&house.node, &account).await.expect("read");
        romeo.push_roster(roster.version, || unreachable!("it has that"), |_| ());
    }
}
