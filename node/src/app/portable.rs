//! The operator's desk, accounts that leave and come: between the values of the admin API and what an account's home keeps.
//!
//! Called by `operator`; asks the home through `pie::home`, so what is exported is what was committed, wherever the
//! administrator connects. What comes in is in `import`. Deliberately absent: XML documents.

mod import;
mod privacy;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use xmpp::jid::{BareJid, Jid};
use xmpp::sasl::ScramKeys;
use xmpp::stanza::{Stanza, Type};

pub(super) use self::import::{import, import_archive};
use super::Node;
use super::refusals::refused;
use crate::admin::{
    ArchivePage, Archived, OfflinePage, Refusal, RosterItem, ScramCredentials, Subscription,
    UserExport,
};
use crate::features::archive::prefs::Prefs;
use crate::features::roster::record::Contact;
use crate::pie::MECHANISMS;
use crate::pie::home::{After, Answer, OP, Request, Shelf};

/// Bytes of messages in one answer, about. More are asked for apart.
const ANSWER_BYTES_MAX: usize = 4 << 20;

type Done<T> = Result<T, Refusal>;

async fn ask(node: &Node, account: &BareJid, request: &Request) -> Done<Answer> {
    node.homes.exchange(account, OP, request).await.map_err(refused)
}

/// Everything, of the messages the first.
pub(super) async fn export(node: &Node, account: &BareJid) -> Done<UserExport> {
    let mut user = UserExport { account: account.to_string(), ..UserExport::default() };
    read(node, account, After::Nothing, &mut user).await?;
    Ok(user)
}

/// Messages after a number of [`UserExport::more`].
pub(super) async fn offline(node: &Node, account: &BareJid, after: u64) -> Done<OfflinePage> {
    let mut user = UserExport::default();
    read(node, account, After::Message(after), &mut user).await?;
    Ok(OfflinePage { offline: user.offline, more: user.more })
}

/// What is archived, after a number of [`ArchivePage::more`].
pub(super) async fn archive(
    node: &Node,
    account: &BareJid,
    mut after: Option<u64>,
) -> Done<ArchivePage> {
    let (mut page, mut bytes) = (ArchivePage::default(), 0);
    loop {
        let (items, more) = match ask(node, account, &Request::Archive(after)).await? {
            Answer::Archive { items, more } => (items, more),
            Answer::NoAccount => return Err(missing(account)),
            other => return Err(Refusal::failed(format!("its home answers {other:?}"))),
        };
        for (place, item) in items {
            bytes += item.stanza.len();
            after = Some(place);
            let message = text(item.stanza)?;
            page.archive.push(Archived { id: item.uid.to_string(), at: item.at_ms, message });
        }
        if more && bytes < ANSWER_BYTES_MAX {
            continue;
        }
        page.more = after.filter(|_| more);
        return Ok(page);
    }
}

fn missing(account: &BareJid) -> Refusal {
    Refusal::not_found(format!("there is no account {account}"))
}

async fn read(node: &Node, jid: &BareJid, mut after: After, user: &mut UserExport) -> Done<()> {
    let mut bytes = 0;
    let mut lists = Vec::new();
    loop {
        let (account, contacts, messages, next) =
            match ask(node, jid, &Request::Read(after)).await? {
                Answer::Page { account, kept, contacts, messages, next } => {
                    for (shelf, key, element) in kept {
                        match shelf {
                            Shelf::Vcard => user.vcard = Some(text(element)?),
                            Shelf::Private => user.private.push(text(element)?),
                            Shelf::Privacy => lists.push((key, element)),
                            Shelf::Preferences => user.preferences = Some(preferences(&element)?),
                        }
                    }
                    (account, contacts, messages, next)
                }
                Answer::NoAccount => return Err(missing(jid)),
                Answer::Unfinished => {
                    return Err(Refusal::conflict(
                        "its import has not come to its end: repeat that first",
                    ));
                }
                other => return Err(Refusal::failed(format!("its home answers {other:?}"))),
            };
        user.created = Some(account.created);
        user.disabled = account.disabled;
        user.scram = account.keys().map(credentials).collect();
        for (contact, record) in contacts {
            if record.state.pending_in {
                user.requests.push(request(&contact, record.request.as_deref())?);
            }
            if record.listed {
                user.roster.push(item(contact, record));
            }
        }
        for (_, message) in messages {
            bytes += message.len();
            user.offline.push(text(message)?);
        }
        match next {
            Some(After::Message(id)) if bytes >= ANSWER_BYTES_MAX => {
                user.more = Some(id);
                break;
            }
            Some(next) => after = next,
            None => break,
        }
    }
    let lists = privacy::element(&lists)?;
    user.privacy = lists.map(|query| text(query.to_bytes())).transpose()?;
    Ok(())
}

fn preferences(value: &[u8]) -> Done<String> {
    let damaged = |_| Refusal::failed("archive preferences that are kept cannot be read");
    text(postcard::from_bytes::<Prefs>(value).map_err(damaged)?.element().to_bytes())
}

fn credentials(keys: &ScramKeys) -> ScramCredentials {
    let name = MECHANISMS.iter().find(|(_, hash)| *hash == keys.hash).map(|(name, _)| *name);
    ScramCredentials {
        mechanism: name.unwrap_or_default().to_owned(),
        iterations: keys.iterations,
        salt: BASE64.encode(&keys.salt),
        server_key: BASE64.encode(keys.server_key.expose()),
        stored_key: BASE64.encode(keys.stored_key.expose()),
    }
}

fn item(jid: String, contact: Contact) -> RosterItem {
    RosterItem {
        jid,
        name: contact.name,
        subscription: match (contact.state.to, contact.state.from) {
            (false, false) => Subscription::None,
            (true, false) => Subscription::To,
            (false, true) => Subscription::From,
            (true, true) => Subscription::Both,
        },
        ask: contact.state.pending_out,
        approved: contact.state.approved,
        groups: contact.groups,
    }
}

fn request(from: &str, stanza: Option<&[u8]>) -> Done<String> {
    match stanza {
        Some(bytes) => text(bytes.to_vec()),
        None => {
            let from = Jid::parse(from).map_err(|error| Refusal::failed(error.to_string()))?;
            let stanza = Stanza::presence(None, Some(&from), Type::Subscribe).build();
            text(stanza.bytes().to_vec())
        }
    }
}

fn text(bytes: Vec<u8>) -> Done<String> {
    String::from_utf8(bytes).map_err(|_| Refusal::failed("a stanza that is kept is no text"))
}
