//! The operator's desk, accounts that come: checked as a whole, then written at the account's home, in one part or several.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::stanza_id;
use xmpp::sasl::{Hash, Password, ScramKeys, Secret};
use xmpp::stanza::{Kind, Stanza, Type};
use xmpp::xml::element::Element;

use super::{Done, ask, privacy};
use crate::admin::{ArchivePart, Archived, Imported, Refusal, ScramCredentials, UserExport};
use crate::app::Node;
use crate::app::refusals::unusable;
use crate::features::archive::item::{Item, Uid};
use crate::features::archive::prefs::Prefs;
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
pub(in crate::app) async fn import(node: &Node, jid: &BareJid, user: UserExport) -> Done<Imported> {
    let limits = &node.config.limits;
    let contacts = contacts(jid, &user)?;
    let within = |what: &str, count: usize, name: &str, most: usize| match count > most {
        true => Err(Refusal::invalid(format!("{count} {what}: limits.{name} is {most}"))),
        false => Ok(()),
    };
    within("contacts", contacts.len(), "roster_items_max", limits.roster_items_max)?;
    within("messages", user.offline.len(), "offline_messages_max", limits.offline_messages_max)?;
    let messages = messages(node, jid, &user.offline)?;
    let kept = kept(&user, node)?;
    let size = |shelf| {
        let of = kept.iter().filter(move |(other, ..)| *other == shelf);
        of.map(|(_, key, element)| key.len() + element.len()).sum()
    };
    let (card, private) = (size(Shelf::Vcard), size(Shelf::Private));
    within("bytes of a vCard", card, "vcard_bytes_max", limits.vcard_bytes_max)?;
    within("bytes of private data", private, "private_bytes_max", limits.private_bytes_max)?;
    let account = account(node, &user).await?;
    let import = getrandom::u64().map_err(|error| Refusal::failed(error.to_string()))?;
    let mut parts = parts(import, &account, kept, contacts, messages)?;
    parts.last_mut().expect("there is one").last = !user.archive_follows;
    let done = Imported { import, parts: 0, archived: 0 };
    write(node, jid, parts, done).await
}

/// What was archived, after [`import`] or another part. Of one import the parts come one by one.
pub(in crate::app) async fn import_archive(
    node: &Node,
    jid: &BareJid,
    part: ArchivePart,
) -> Done<Imported> {
    let ArchivePart { after, archive, last } = part;
    let mut cut = Cut::begin(after.import, after.parts);
    for (place, archived) in (after.archived + 1..=MESSAGES_MAX).zip(archive) {
        let item = item(jid, archived)?;
        let part =
            cut.room(item.stanza.len() + item.with.len() + ROW_BYTES_MORE, "an archived message")?;
        part.archive.push((place, item));
    }
    let mut parts = cut.parts;
    parts.last_mut().expect("there is one").last = last;
    write(node, jid, parts, after).await
}

async fn write(node: &Node, jid: &BareJid, parts: Vec<Part>, mut done: Imported) -> Done<Imported> {
    for part in parts {
        let archived = part.archive.len() as u64;
        let number = part.number;
        let answer = ask(node, jid, &Request::Write(Box::new(part))).await;
        let answer = answer.map_err(|mut refusal| {
            if number > 0 {
                refusal.message += "; it is there in part, and disabled: repeat its import";
            }
            refusal
        })?;
        match answer {
            Answer::Written => {
                done.parts = number + 1;
                done.archived += archived;
            }
            Answer::Exists => return Err(Refusal::conflict(format!("{jid} is there already"))),
            Answer::Overtaken => {
                return Err(Refusal::conflict(
                    "somebody else imports or removes it at the same time",
                ));
            }
            other => return Err(Refusal::failed(format!("its home answers {other:?}"))),
        }
    }
    Ok(done)
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
fn kept(user: &UserExport, node: &Node) -> Done<Vec<Kept>> {
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
        let rows = privacy::rows(&element(text)?, &node.config.limits)?;
        kept.extend(rows.into_iter().map(|(key, row)| (Shelf::Privacy, key, row)));
    }
    if let Some(text) = &user.preferences {
        let prefs = element(text)?;
        let most = node.config.archive.preferences_max;
        let prefs = Some(prefs).filter(|prefs| prefs.is("prefs", ns::MAM));
        let prefs = prefs.and_then(|prefs| Prefs::parse(&prefs, most).ok());
        let prefs = prefs.ok_or_else(|| {
            invalid(format!(
                "archive preferences that do not add up, or more than archive.preferences_max ({most})"
            ))
        })?;
        let value = postcard::to_stdvec(&prefs).expect("a plain value");
        kept.push((Shelf::Preferences, String::new(), value));
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

/// A message of an archive, as this server keeps it.
fn item(own: &BareJid, archived: Archived) -> Done<Item> {
    let message = stanza(&archived.message)?;
    if message.kind() != Kind::Message {
        return Err(invalid("archived are messages"));
    }
    // What the other server called it is true no longer.
    let message = stanza_id::without(&message, &Jid::from(own));
    let sent = message.from().is_none_or(|from| from.bare() == *own);
    let other = if sent { message.to() } else { message.from() };
    let with = other.map_or_else(|| own.as_str().to_owned(), |jid| jid.as_str().to_owned());
    let uid = Uid::parse(&archived.id).unwrap_or_else(|| foreign(&archived));
    Ok(Item { uid, at_ms: archived.at, with, sent, stanza: message.bytes().to_vec() })
}

/// An id for a message that had one of another kind: always the same, so that an import that is repeated leaves none behind.
fn foreign(archived: &Archived) -> Uid {
    let hash = match archived.id.as_str() {
        "" => Sha256::digest(format!("{} {}", archived.at, archived.message)),
        id => Sha256::digest(id),
    };
    let (order, salt) = (hash[..8].try_into(), hash[8..12].try_into());
    let (order, salt) = (order.expect("eight bytes"), salt.expect("four bytes"));
    Uid { order: u64::from_be_bytes(order), salt: u32::from_be_bytes(salt) }
}

/// Cut so that each part fits into one entry.
struct Cut {
    parts: Vec<Part>,
    bytes: usize,
}

impl Cut {
    fn begin(import: u64, number: u32) -> Cut {
        Cut { parts: vec![Part::empty(import, number)], bytes: 0 }
    }

    /// The part where a row of so many bytes has room.
    fn room(&mut self, row: usize, what: &str) -> Done<&mut Part> {
        if row > ROW_BYTES_MAX {
            return Err(invalid(format!("{what} of {row} bytes: {ROW_BYTES_MAX} is the most")));
        }
        let last = self.parts.last().expect("there is one");
        if self.bytes > PART_BYTES_MAX {
            self.bytes = 0;
            let next =
                Part { account: last.account.clone(), ..Part::empty(last.import, last.number + 1) };
            self.parts.push(next);
        }
        self.bytes += row + ROW_BYTES_MORE;
        Ok(self.parts.last_mut().expect("there is one"))
    }
}

fn parts(
    import: u64,
    account: &Account,
    kept: Vec<Kept>,
    contacts: BTreeMap<BareJid, Contact>,
    messages: Vec<Vec<u8>>,
) -> Done<Vec<Part>> {
    let mut cut = Cut::begin(import, 0);
    cut.parts[0].account = Some(account.clone());
    for own in kept {
        cut.room(own.1.len() + own.2.len(), "an element")?.kept.push(own);
    }
    for (jid, contact) in contacts {
        let row = jid.as_str().len() + contact.encode().len();
        cut.room(row, "a contact")?.contacts.push((jid, contact));
    }
    for (id, message) in (1..=MESSAGES_MAX).zip(messages) {
        cut.room(message.len(), "a message")?.messages.push((id, message));
    }
    Ok(cut.parts)
}
