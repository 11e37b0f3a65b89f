//! The operator's desk, accounts that come: checked as a whole, then written at the account's home, in one part or several.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::sasl::{Hash, Password, ScramKeys, Secret};
use xmpp::stanza::{Kind, Stanza, Type};
use xmpp::xml::element::Element;

use super::{Done, ask, privacy};
use crate::admin::{Refusal, ScramCredentials, UserExport};
use crate::app::Node;
use crate::app::operator::unusable;
use crate::features::private;
use crate::features::roster::record::Contact;
use crate::features::roster::subscription::State;
use crate::homes::accounts::Account;
use crate::pie::MECHANISMS;
use crate::pie::home::{
    Answer, Kept, MESSAGES_MAX, PART_BYTES_MAX, Part, ROW_BYTES_MAX, Request, Shelf,
};
use crate::router::delayed;

/// PBKDF2 rounds of imported keys: each sign-in with PLAIN computes as many.
const ITERATIONS_MAX: u32 = 10_000_000;
/// What a row takes besides, in an entry of the durable log: the name of its store, its owner, lengths.
const ROW_BYTES_MORE: usize = 128;
/// Bytes of an imported salt.
const SALT_BYTES_MAX: usize = 1_024;
/// Makes an account of what has come.
pub(in crate::app) async fn import(node: &Node, jid: &BareJid, user: UserExport) -> Done<()> {
    let limits = &node.config.limits;
    let contacts = contacts(jid, &user)?;
    let within = |what: &str, count: usize, name: &str, most: usize| match count > most {
        true => Err(Refusal::invalid(format!("{count} {what}: limits.{name} is {most}"))),
        false => Ok(()),
    };
    within("contacts", contacts.len(), "roster_items_max", limits.roster_items_max)?;
    within("messages", user.offline.len(), "offline_messages_max", limits.offline_messages_max)?;
    let messages = messages(node, jid, &user.offline)?;
    let kept = kept(&user, limits)?;
    let size = |shelf| {
        let of = kept.iter().filter(move |(other, ..)| *other == shelf);
        of.map(|(_, key, element)| key.len() + element.len()).sum()
    };
    let (card, private) = (size(Shelf::Vcard), size(Shelf::Private));
    within("bytes of a vCard", card, "vcard_bytes_max", limits.vcard_bytes_max)?;
    within("bytes of private data", private, "private_bytes_max", limits.private_bytes_max)?;
    let account = account(node, &user).await?;
    let import = getrandom::u64().map_err(|error| Refusal::failed(error.to_string()))?;
    for part in parts(import, &account, kept, contacts, messages)? {
        let number = part.number;
        let answer = ask(node, jid, &Request::Write(Box::new(part))).await;
        let answer = answer.map_err(|mut refusal| {
            if number > 0 {
                refusal.message += "; it is there in part, and disabled: repeat its import";
            }
            refusal
        })?;
        match answer {
            Answer::Written => {}
            Answer::Exists => return Err(Refusal::conflict(format!("{jid} is there already"))),
            Answer::Overtaken => {
                return Err(Refusal::conflict(
                    "somebody else imports or removes it at the same time",
                ));
            }
            other => return Err(Refusal::failed(format!("its home answers {other:?}"))),
        }
    }
    Ok(())
}

async fn account(node: &Node, user: &UserExport) -> Done<Account> {
    let created = user.created.unwrap_or_else(|| node.wall_ms());
    let mut given = [None, None, None];
    for scram in &user.scram {
        let known = MECHANISMS.iter().position(|(name, _)| *name == scram.mechanism);
        let place = known.ok_or_else(|| invalid(format!("{} is not known", scram.mechanism)))?;
        if given[place].replace(keys(MECHANISMS[place].1, scram)?).is_some() {
            return Err(invalid(format!("{} stands there twice", scram.mechanism)));
        }
    }
    let [sha1, sha256, sha512] = match (&user.password, given) {
        (_, [Some(sha1), Some(sha256), Some(sha512)]) => [sha1, sha256, sha512],
        (Some(password), [sha1, sha256, sha512]) => {
            let made =
                node.authenticator.derive(Password::new(password)).await.map_err(unusable)?;
            [
                sha1.unwrap_or(made.sha1),
                sha256.unwrap_or(made.sha256),
                sha512.unwrap_or(made.sha512),
            ]
        }
        (None, [None, None, None]) => {
            return Err(invalid("no password, and no credentials for SCRAM: nobody could sign in"));
        }
        (None, [sha1, sha256, sha512]) => {
            [(sha1, Hash::Sha1), (sha256, Hash::Sha256), (sha512, Hash::Sha512)]
                .map(|(keys, hash)| keys.unwrap_or_else(|| Account::no_keys(hash)))
        }
    };
    Ok(Account {
        scram_sha1: sha1,
        scram_sha256: sha256,
        scram_sha512: sha512,
        created,
        disabled: user.disabled,
    })
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::invalid(text)
}

fn keys(hash: Hash, given: &ScramCredentials) -> Done<ScramKeys> {
    let bytes = |text: &str| {
        BASE64
            .decode(text)
            .map_err(|_| invalid(format!("{} credentials: not base64", given.mechanism)))
    };
    let key = |text: &str| {
        let right = Some(bytes(text)?).filter(|key| key.len() == hash.digest_bytes());
        let wrong = || invalid(format!("{} credentials: a key of another length", given.mechanism));
        right.map(Secret::new).ok_or_else(wrong)
    };
    let salt = bytes(&given.salt)?;
    if salt.is_empty() || salt.len() > SALT_BYTES_MAX {
        return Err(invalid(format!("a salt of {} bytes", salt.len())));
    }
    if !(1..=ITERATIONS_MAX).contains(&given.iterations) {
        let most = ITERATIONS_MAX;
        return Err(invalid(format!(
            "an iteration count of {}, not 1 to {most}",
            given.iterations
        )));
    }
    Ok(ScramKeys {
        hash,
        salt,
        iterations: given.iterations,
        stored_key: key(&given.stored_key)?,
        server_key: key(&given.server_key)?,
    })
}

/// The user's own XML, each element where it is found again.
fn kept(user: &UserExport, limits: &config::Limits) -> Done<Vec<Kept>> {
    let element = |text: &String| {
        Element::parse(text.as_bytes())
            .map_err(|error| invalid(format!("an element that cannot be read: {error}")))
    };
    let mut kept = Vec::new();
    if let Some(text) = &user.vcard {
        let card = element(text)?;
        if !card.is("vCard", ns::VCARD) {
            return Err(invalid("a vCard is <vCard xmlns='vcard-temp'/>"));
        }
        kept.push((Shelf::Vcard, String::new(), card.to_bytes()));
    }
    for text in &user.private {
        let element = element(text)?;
        if matches!(element.ns(), "" | ns::PRIVATE | ns::CLIENT) {
            return Err(invalid("a private element has a namespace of its own"));
        }
        let key = private::key(element.name(), element.ns());
        kept.push((Shelf::Private, key, element.to_bytes()));
    }
    if let Some(text) = &user.privacy {
        let rows = privacy::rows(&element(text)?, limits)?;
        kept.extend(rows.into_iter().map(|(key, row)| (Shelf::Privacy, key, row)));
    }
    Ok(kept)
}

/// The roster and those who only ask, as one.
fn contacts(own: &BareJid, user: &UserExport) -> Done<BTreeMap<BareJid, Contact>> {
    let mut contacts = BTreeMap::new();
    for item in &user.roster {
        let jid = BareJid::parse(&item.jid)
            .map_err(|error| invalid(format!("the contact {:?}: {error}", item.jid)))?;
        let (to, from) = (item.subscription.is_to(), item.subscription.is_from());
        let state = State {
            to,
            from,
            pending_out: item.ask && !to,
            pending_in: false,
            approved: item.approved && !from,
        };
        let contact = Contact {
            name: item.name.clone(),
            groups: item.groups.clone(),
            state,
            listed: true,
            ..Contact::default()
        };
        if contacts.insert(jid, contact).is_some() {
            return Err(invalid(format!("{} stands in the roster twice", item.jid)));
        }
    }
    for text in &user.requests {
        let stanza = addressed(stanza(text)?, own);
        let from = stanza.from().map(Jid::bare);
        let subscribe = stanza.kind() == Kind::Presence && stanza.type_() == Type::Subscribe;
        let Some(from) = from.filter(|_| subscribe) else {
            return Err(invalid("a request that is no <presence type='subscribe' from='…'/>"));
        };
        let contact: &mut Contact = contacts.entry(from).or_default();
        // RFC 6121 §3.1.3: to one who is approved already, or receives already, a request asks for nothing.
        if !contact.state.from && !contact.state.approved {
            contact.state.pending_in = true;
            contact.request = Some(stanza.bytes().to_vec());
        }
    }
    Ok(contacts)
}

fn stanza(text: &str) -> Done<Stanza> {
    Stanza::parse(Bytes::from(text.to_owned()))
        .map_err(|error| invalid(format!("a stanza that cannot be read: {error}")))
}

/// To the account, if it is to nobody or somebody else.
fn addressed(stanza: Stanza, own: &BareJid) -> Stanza {
    match stanza.to().is_some_and(|to| to.bare() == *own) {
        true => stanza,
        false => stanza.with_to(&Jid::from(own)),
    }
}

fn messages(node: &Node, own: &BareJid, given: &[String]) -> Done<Vec<Vec<u8>>> {
    let now = node.wall_ms();
    let message = |text: &String| {
        let message = addressed(stanza(text)?, own);
        if message.kind() != Kind::Message {
            return Err(invalid("offline messages are messages"));
        }
        // What has no stamp was held back at least until now.
        let is_stamped = message.has_child("delay", ns::DELAY);
        let message = if is_stamped { message } else { delayed(node, &message, now) };
        Ok(message.bytes().to_vec())
    };
    given.iter().map(message).collect()
}

/// Cut so that each part fits into one entry.
fn parts(
    import: u64,
    account: &Account,
    kept: Vec<Kept>,
    contacts: BTreeMap<BareJid, Contact>,
    messages: Vec<Vec<u8>>,
) -> Done<Vec<Part>> {
    let empty = |number| Part {
        import,
        number,
        last: false,
        account: account.clone(),
        kept: Vec::new(),
        contacts: Vec::new(),
        messages: Vec::new(),
    };
    let mut parts = vec![empty(0)];
    let mut bytes = 0;
    let mut room = |parts: &mut Vec<Part>, row: usize, what: &str| {
        if row > ROW_BYTES_MAX {
            return Err(invalid(format!("{what} of {row} bytes: {ROW_BYTES_MAX} is the most")));
        }
        if bytes > PART_BYTES_MAX {
            bytes = 0;
            parts.push(empty(u32::try_from(parts.len()).expect("few parts: a request is bounded")));
        }
        bytes += row + ROW_BYTES_MORE;
        Ok(parts.len() - 1)
    };
    for own in kept {
        let place = room(&mut parts, own.1.len() + own.2.len(), "an element")?;
        parts[place].kept.push(own);
    }
    for (jid, contact) in contacts {
        let place = room(&mut parts, jid.as_str().len() + contact.encode().len(), "a contact")?;
        parts[place].contacts.push((jid, contact));
    }
    for (id, message) in (1..=MESSAGES_MAX).zip(messages) {
        let place = room(&mut parts, message.len(), "a message")?;
        parts[place].messages.push((id, message));
    }
    parts.last_mut().expect("there is one").last = true;
    Ok(parts)
}
