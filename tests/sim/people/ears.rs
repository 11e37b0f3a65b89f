//! What a client makes of the stanzas it gets: notes them in the journal.

use xmpp::ns;
use xmpp::xml::element::Element;

use super::device::{Around, Device, Stage};
use super::journal::{Heard, RosterSeen, Seen};

/// A stanza came.
pub(super) fn stanza(device: &mut Device, around: &mut Around<'_>, element: &Element) {
    match element.name() {
        "message" => message(device, around, element),
        "presence" => presence(device, around, element),
        _ => iq(device, around, element),
    }
}

/// A message for another domain that came back as an error. False: it is none.
fn came_back(device: &Device, around: &mut Around<'_>, element: &Element) -> bool {
    let id = element.attr("id").and_then(|id| id.strip_prefix('a'));
    let Some(number) = id.and_then(|id| id.parse::<usize>().ok()) else { return false };
    let why = condition(element);
    let is_ours = around.journal.abroad.get(number).is_some_and(|sent| {
        around.journal.sessions[sent.session].device == device.id
            && element.attr("type") == Some("error")
    });
    if is_ours {
        let name = device.name();
        around.story.tell(around.now, || format!("{name}: message a{number} came back: {why}"));
        around.journal.abroad[number].refused = Some((around.now, why));
    }
    is_ours
}

fn message(device: &mut Device, around: &mut Around<'_>, element: &Element) {
    let name = device.name();
    let number = element
        .attr("id")
        .and_then(|id| id.strip_prefix('m'))
        .and_then(|id| id.parse::<usize>().ok())
        .filter(|number| *number < around.journal.sent.len());
    if number.is_none() && came_back(device, around, element) {
        return;
    }
    let Some(number) = number else {
        let what = String::from_utf8_lossy(&element.to_bytes()).into_owned();
        return around
            .journal
            .is_wrong("no_phantom", format!("{name} got a message nobody sent: {what}"));
    };
    let sent = around.journal.sent[number].clone();
    if element.attr("type") == Some("error") {
        let why = condition(element);
        around.story.tell(around.now, || format!("{name}: message {number} came back: {why}"));
        if sent.device != device.id {
            around.journal.is_wrong(
                "no_phantom",
                format!("{name} got an error for message {number}, which it did not send"),
            );
        }
        around.journal.sent[number].refused = Some((around.now, why));
        return;
    }
    let late = element.has_child("delay", "urn:xmpp:delay");
    let late_word = if late { ", late" } else { "" };
    around.story.tell(around.now, || {
        let from = element.attr("from").unwrap_or_default();
        format!("{name} reads message {number} (from {from}, their {}.{late_word})", sent.serial)
    });
    let body = element.child("body", ns::CLIENT).map(Element::text).unwrap_or_default();
    if sent.to_user != device.user || body != number.to_string() {
        around.journal.is_wrong(
            "no_phantom",
            format!("{name} got message {number}, which is not for it (or not as sent: {body:?})"),
        );
        return;
    }
    let (Some(bound), Some(line)) = (&device.bound, device.line) else { return };
    let seen = Seen {
        message: number,
        device: device.id,
        session: bound.number,
        conn: line.conn,
        count: bound.received,
        at: around.now,
        late,
    };
    around.journal.seen.push(seen);
}

/// The defined condition of an error.
fn condition(element: &Element) -> String {
    let error = element.child("error", ns::CLIENT);
    let condition = error.and_then(|error| error.children().next());
    condition.map(|condition| condition.name().to_owned()).unwrap_or_default()
}

fn presence(device: &mut Device, around: &mut Around<'_>, element: &Element) {
    if element.attr("type") == Some("subscribe") {
        // Everybody says yes.
        let asks = element.attr("from").and_then(|from| user_of(from.split('/').next()?));
        if let Some(user) = asks {
            device.relate(around, "subscribed", user);
        }
        return;
    }
    let Some((user, resource)) = element.attr("from").and_then(parse) else { return };
    let status = match element.attr("type") {
        None => {
            let text = element.child("status", ns::CLIENT).map(Element::text).unwrap_or_default();
            match text.parse::<u64>() {
                Ok(status) => Some(status),
                Err(_) => return,
            }
        }
        Some("unavailable") => None,
        Some(_) => return,
    };
    let name = device.name();
    around.story.tell(around.now, || {
        let shown = status.map_or("unavailable".to_owned(), |status| {
            format!("available ({})", status & 0xffff_ffff)
        });
        format!("{name} sees u{user}/{resource} {shown}")
    });
    let Some(who) = super::number_of(user, &resource) else { return };
    if device.shows.is_none() {
        return;
    }
    around.journal.heard.insert((device.id, who), Heard { status, at: around.now });
}

/// `u3@chat.example/phone`.
fn parse(full: &str) -> Option<(usize, String)> {
    let (bare, resource) = full.split_once('/')?;
    Some((user_of(bare)?, resource.to_owned()))
}

/// `u3@chat.example`.
fn user_of(bare: &str) -> Option<usize> {
    bare.strip_prefix('u')?.split('@').next()?.parse().ok()
}

fn iq(device: &mut Device, around: &mut Around<'_>, element: &Element) {
    let id = element.attr("id").unwrap_or_default().to_owned();
    let type_ = element.attr("type").unwrap_or_default();
    if device.stage == Stage::Binding && id == "bind" {
        if type_ == "result" {
            device.bound(around);
        } else {
            let name = device.name();
            around.story.tell(around.now, || format!("{name} may not bind"));
            // Nothing can be newer than the bind that follows it at the same node.
            let same =
                device.host().is_some_and(|host| device.last == Some((host, around.lives[host])));
            if same {
                let at = around.now;
                around.journal.is_wrong(
                    "one_owner",
                    format!("{name} may not bind where it was bound last, at {at}"),
                );
            }
            device.drop_line(around);
            device.dial_at = Some(around.now + 1_000);
            device.dial_to = usize::MAX;
        }
        return;
    }
    let Some(session) = device.session() else { return };
    if type_ == "get" {
        let to = element.attr("from").unwrap_or_default();
        return device.say(around, format!("<iq type='result' id='{id}' to='{to}'/>").into_bytes());
    }
    if let Some(number) = id.strip_prefix('p').and_then(|number| number.parse::<usize>().ok()) {
        let error = (type_ == "error").then(|| condition(element));
        let name = device.name();
        around.story.tell(around.now, || {
            format!("{name}: ping {number} is answered: {}", error.as_deref().unwrap_or("result"))
        });
        if let Some(ping) = around.journal.pings.get_mut(number) {
            ping.answer = Some((around.now, error));
        }
        return;
    }
    if type_ == "set" {
        if let Some(query) = element.child("query", ns::ROSTER) {
            roster(device, around, session, query, false);
        }
        device.say(around, format!("<iq type='result' id='{id}'/>").into_bytes());
        return;
    }
    if id == "roster" {
        if let Some(query) = element.child("query", ns::ROSTER) {
            roster(device, around, session, query, true);
        }
        return;
    }
    let set = id.strip_prefix('s').and_then(|number| number.parse::<usize>().ok());
    if let Some(set) = set
        && let Some(known) = around.journal.sets.get_mut(set)
    {
        let yes = type_ == "result";
        known.answer = Some((around.now, yes));
        let name = device.name();
        around.story.tell(around.now, || format!("{name}: set {set} is answered: {type_}"));
    }
}

fn roster(device: &Device, around: &mut Around<'_>, session: usize, query: &Element, whole: bool) {
    let items = query
        .children()
        .filter_map(|item| {
            let contact = item.attr("jid")?.strip_prefix('c')?.split('@').next()?.parse().ok()?;
            Some((contact, item.attr("name")?.parse().ok()?))
        })
        .collect();
    let version = query.attr("ver").and_then(|version| version.parse().ok());
    let seen = RosterSeen { device: device.id, session, version, items, whole, at: around.now };
    let name = device.name();
    around
        .story
        .tell(around.now, || format!("{name} has roster version {version:?}: {:?}", seen.items));
    around.journal.rosters.push(seen);
}
