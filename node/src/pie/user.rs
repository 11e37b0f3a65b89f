//! The parts of one user, from XML to values: credentials, roster, requests, messages, archive. Pure; called by `read`.
//!
//! Each function says what is wrong as a sentence; where it stands is known to the caller. What has no value here is
//! noted as unknown, never dropped in silence.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::date_time;
use xmpp::sasl::Hash;
use xmpp::stanza::Stanza;
use xmpp::xml::element::Element;

use super::{Hosts, Unknown};
use crate::admin::{Archived, RosterItem, ScramCredentials, Subscription, UserExport};

/// Mechanisms whose secrets an account has.
pub(crate) const MECHANISMS: [(&str, Hash); 3] =
    [("SCRAM-SHA-1", Hash::Sha1), ("SCRAM-SHA-256", Hash::Sha256), ("SCRAM-SHA-512", Hash::Sha512)];

type Result<T> = std::result::Result<T, String>;

/// The attribute `password` (XEP-0227 §4.2): in clear, or as ejabberd writes what SCRAM-SHA-1 needs.
pub(super) fn password(user: &mut UserExport, value: &str) {
    match value.strip_prefix("scram:").and_then(ejabberd) {
        Some(credentials) => user.scram.push(credentials),
        // Servers that know no password write an empty one.
        None => user.password = Some(value.to_owned()).filter(|value| !value.is_empty()),
    }
}

/// `stored key,server key,salt,iterations`, since it knows more hashes with `sha256,` or `sha512,` before all but SHA-1's; `None` if it is
/// anything else, hence a password that only looks like it.
fn ejabberd(text: &str) -> Option<ScramCredentials> {
    let (hash, text) = match text.split_once(',') {
        Some(("sha", rest)) => (Hash::Sha1, rest),
        Some(("sha256", rest)) => (Hash::Sha256, rest),
        Some(("sha512", rest)) => (Hash::Sha512, rest),
        _ => (Hash::Sha1, text),
    };
    let mut fields = text.split(',');
    let [stored, server, salt, count] = std::array::from_fn(|_| fields.next().unwrap_or_default());
    if fields.next().is_some() {
        return None;
    }
    let key = |text| bytes_of(text, "").ok().filter(|key| key.len() == hash.digest_bytes());
    (key(stored).is_some() && key(server).is_some()).then_some(())?;
    let (mechanism, _) = MECHANISMS.iter().find(|(_, known)| *known == hash)?;
    Some(ScramCredentials {
        mechanism: (*mechanism).to_owned(),
        iterations: count.parse().ok()?,
        salt: BASE64.encode(bytes_of(salt, "").ok()?),
        server_key: server.to_owned(),
        stored_key: stored.to_owned(),
    })
}

/// `<scram-credentials/>` (§4.3).
pub(super) fn scram(user: &mut UserExport, element: &Element, unknown: &mut Unknown) -> Result<()> {
    let name = element.attr("mechanism").ok_or("SCRAM credentials of no mechanism")?;
    let Some((_, hash)) = MECHANISMS.iter().find(|(known, _)| *known == name) else {
        unknown.note(&format!("SCRAM credentials of {name}"));
        return Ok(());
    };
    if user.scram.iter().any(|known| known.mechanism == name) {
        return Err(format!("{name} credentials stand here twice"));
    }
    let part = |part: &str| {
        let mut found = element.children().filter(|child| child.is(part, ns::PIE_SCRAM));
        let text = found.next().map(Element::text).filter(|_| found.next().is_none());
        text.ok_or_else(|| format!("{name} credentials need one <{part}/>"))
    };
    let key = |name: &str| {
        let bytes = bytes_of(&part(name)?, name)?;
        match bytes.len() == hash.digest_bytes() {
            true => Ok(BASE64.encode(bytes)),
            false => {
                Err(format!("<{name}/> has {} bytes, not {}", bytes.len(), hash.digest_bytes()))
            }
        }
    };
    let count = part("iter-count")?;
    let iterations = count.trim().parse().ok().filter(|count| *count > 0);
    user.scram.push(ScramCredentials {
        mechanism: name.to_owned(),
        iterations: iterations.ok_or_else(|| format!("{count:?} is no iteration count"))?,
        salt: BASE64.encode(bytes_of(&part("salt")?, "salt")?),
        server_key: key("server-key")?,
        stored_key: key("stored-key")?,
    });
    Ok(())
}

/// Base64, however it is broken into lines.
fn bytes_of(text: &str, name: &str) -> Result<Vec<u8>> {
    let text: String = text.split_whitespace().collect();
    BASE64.decode(text).map_err(|_| format!("<{name}/> is not base64"))
}

/// The roster (§4.4).
pub(super) fn roster(
    user: &mut UserExport,
    query: &Element,
    hosts: &Hosts,
    unknown: &mut Unknown,
) -> Result<()> {
    for child in query.children() {
        if !child.is("item", ns::ROSTER) {
            unknown.note_element("", child.name(), child.ns());
            continue;
        }
        let item = item(child, hosts, unknown)?;
        if user.roster.iter().any(|known| known.jid == item.jid) {
            return Err(format!("{} stands in the roster twice", item.jid));
        }
        user.roster.push(item);
    }
    Ok(())
}

fn item(element: &Element, hosts: &Hosts, unknown: &mut Unknown) -> Result<RosterItem> {
    let text = element.attr("jid").ok_or("a roster item of nobody")?;
    let jid = address(text, hosts)?;
    if jid.resource().is_some() {
        unknown.note("the resource of a roster item");
    }
    let subscription = match element.attr("subscription") {
        None => Subscription::None,
        Some(name) => Subscription::read(name)
            .ok_or_else(|| format!("the subscription of {jid} is {name:?}"))?,
    };
    let ask = match element.attr("ask") {
        None | Some("") => false,
        Some("subscribe") => true,
        Some(other) => {
            unknown.note(&format!("ask='{other}' of a roster item"));
            false
        }
    };
    let mut item = RosterItem {
        jid: jid.bare().to_string(),
        name: element.attr("name").filter(|name| !name.is_empty()).map(str::to_owned),
        subscription,
        ask,
        approved: matches!(element.attr("approved"), Some("true" | "1")),
        groups: Vec::new(),
    };
    for child in element.children() {
        match child.is("group", ns::ROSTER) {
            true if child.text().is_empty() => {}
            true if item.groups.contains(&child.text()) => {}
            true => item.groups.push(child.text()),
            false => unknown.note_element("", child.name(), child.ns()),
        }
    }
    for (name, _) in element.attrs() {
        if !["jid", "name", "subscription", "ask", "approved"].contains(&name) {
            unknown.note(&format!("the attribute {name} of a roster item"));
        }
    }
    Ok(item)
}

/// The vCard (§4.7). Servers that know of none write an empty one.
pub(super) fn vcard(user: &mut UserExport, card: &Element) -> Result<()> {
    if card.children().next().is_none() {
        return Ok(());
    }
    match user.vcard.replace(text(card)?) {
        None => Ok(()),
        Some(_) => Err("two vCards".to_owned()),
    }
}

/// Private storage (§4.8).
pub(super) fn private(user: &mut UserExport, query: &Element, unknown: &mut Unknown) -> Result<()> {
    for child in query.children() {
        match child.ns() {
            // It could not be found again: it has no namespace of its own.
            "" | ns::PRIVATE | ns::PIE | ns::PIE_OLD => {
                unknown.note_element("query", child.name(), child.ns());
            }
            _ => user.private.push(text(child)?),
        }
    }
    Ok(())
}

/// Privacy lists, as ejabberd writes them. An empty query says nothing.
pub(super) fn privacy(user: &mut UserExport, mut query: Element, hosts: &Hosts) -> Result<()> {
    if user.privacy.is_some() {
        return Err("privacy lists stand here twice".to_owned());
    }
    for list in query.children_mut() {
        for item in list.children_mut().filter(|item| item.attr("type") == Some("jid")) {
            readdress(item, "value", hosts)?;
        }
    }
    if query.children().next().is_some() {
        user.privacy = Some(text(&query)?);
    }
    Ok(())
}

fn text(element: &Element) -> Result<String> {
    String::from_utf8(element.to_bytes()).map_err(|error| error.to_string())
}

/// A pending request (§4.9), as Prosody (which forgets the namespace) and others write it.
pub(super) fn request(user: &mut UserExport, mut presence: Element, hosts: &Hosts) -> Result<()> {
    readdress(&mut presence, "from", hosts)?;
    if presence.attr("from").is_none() {
        return Err("a request of nobody".to_owned());
    }
    // It may name nobody, or the account as it was called elsewhere.
    presence.set_attr("to", &user.account);
    user.requests.push(stanza(presence, "a request")?);
    Ok(())
}

/// A message that waits (§4.5).
pub(super) fn message(user: &mut UserExport, mut message: Element, hosts: &Hosts) -> Result<()> {
    readdress(&mut message, "from", hosts)?;
    readdress(&mut message, "to", hosts)?;
    let own = BareJid::parse(&user.account).map_err(|error| error.to_string())?;
    let to = message.attr("to").and_then(|to| Jid::parse(to).ok());
    if to.is_none_or(|to| to.bare() != own) {
        message.set_attr("to", own.as_str());
    }
    user.offline.push(stanza(message, "a message")?);
    Ok(())
}

/// An archived message (XEP-0313 §4.2), from anybody to anybody; `None`: it lacks its message, or its time.
pub(super) fn archived(account: &str, result: &Element, hosts: &Hosts) -> Option<Archived> {
    let forwarded = result.child("forwarded", ns::FORWARD)?;
    let stamp = forwarded.child("delay", ns::DELAY)?.attr("stamp")?;
    let at = u64::try_from(date_time::parse(stamp)?).ok()?;
    let content = [ns::CLIENT, ns::FORWARD, ns::MAM, ns::PIE_MAM];
    let mut found = forwarded.children().filter(|child| child.name() == "message");
    let mut message = found.find(|child| content.contains(&child.ns()))?.clone();
    for old in content {
        if message.ns() == old && old != ns::CLIENT {
            message.rename_ns(old, ns::CLIENT);
        }
    }
    readdress(&mut message, "from", hosts).ok()?;
    readdress(&mut message, "to", hosts).ok()?;
    // What an account sends has no `from` before its server says so, and is to itself if it is to nobody.
    for name in ["from", "to"] {
        if message.attr(name).is_none() {
            message.set_attr(name, account);
        }
    }
    let message = stanza(message, "a message").ok()?;
    Some(Archived { id: result.attr("id").unwrap_or_default().to_owned(), at, message })
}

/// What is to be archived (XEP-0441).
pub(super) fn preferences(user: &mut UserExport, mut prefs: Element, hosts: &Hosts) -> Result<()> {
    for jid in prefs.children_mut().flat_map(Element::children_mut) {
        let there = address(jid.text().trim(), hosts)?;
        *jid = Element::new("jid", ns::MAM).with_text(there.as_str());
    }
    match user.preferences.replace(text(&prefs)?) {
        None => Ok(()),
        Some(_) => Err("archive preferences stand here twice".to_owned()),
    }
}

/// Text that will be read as a stanza again.
fn stanza(mut element: Element, what: &str) -> Result<String> {
    for old in [ns::PIE, ns::PIE_OLD] {
        if element.ns() == old {
            element.rename_ns(old, ns::CLIENT);
        }
    }
    let bytes = element.to_bytes();
    let text = String::from_utf8(bytes.clone()).map_err(|error| error.to_string())?;
    match Stanza::parse(Bytes::from(bytes)) {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("{what} that XMPP cannot carry: {error}")),
    }
}

fn readdress(element: &mut Element, attr: &str, hosts: &Hosts) -> Result<()> {
    if let Some(text) = element.attr(attr) {
        let jid = address(text, hosts)?;
        element.set_attr(attr, jid.as_str());
    }
    Ok(())
}

fn address(text: &str, hosts: &Hosts) -> Result<Jid> {
    let jid = Jid::parse(text).map_err(|error| format!("{text:?}: {error}"))?;
    hosts.jid(&jid).ok_or_else(|| format!("{text:?} has no address here"))
}

/// A property of an account that old versions of Prosody write as an attribute of their own namespace, of `mod_auth_internal_hashed`: what
/// SCRAM-SHA-1 needs, the keys in hexadecimal and the salt as it is. `false`: it is none.
pub(super) fn property(found: &mut Properties, name: &str, value: &str) -> bool {
    let slot = match name {
        "iteration_count" => &mut found.iteration_count,
        "salt" => &mut found.salt,
        "server_key" => &mut found.server_key,
        "stored_key" => &mut found.stored_key,
        // When it was last changed; nothing here.
        "updated" => return true,
        _ => return false,
    };
    *slot = Some(value.to_owned());
    true
}

/// See [`property`].
#[derive(Default)]
pub(super) struct Properties {
    iteration_count: Option<String>,
    salt: Option<String>,
    server_key: Option<String>,
    stored_key: Option<String>,
}

impl Properties {
    /// The credentials they make; nothing if there are none.
    pub(super) fn finish(self, user: &mut UserExport) -> Result<()> {
        let Self { iteration_count, salt, server_key, stored_key } = self;
        let (Some(count), Some(salt), Some(server_key), Some(stored_key)) =
            (iteration_count, salt, server_key, stored_key)
        else {
            return Ok(());
        };
        let name = MECHANISMS[0].0;
        if user.scram.iter().any(|known| known.mechanism == name) {
            return Ok(());
        }
        let key = |text: &str| {
            let bytes = unhex(text).filter(|key| key.len() == Hash::Sha1.digest_bytes());
            bytes.map(|key| BASE64.encode(key)).ok_or_else(|| format!("{text:?} is no key"))
        };
        // A number of Lua.
        let iterations = count.trim().split('.').next().and_then(|count| count.parse().ok());
        user.scram.push(ScramCredentials {
            mechanism: name.to_owned(),
            iterations: iterations
                .filter(|count| *count > 0)
                .ok_or_else(|| format!("{count:?} is no iteration count"))?,
            salt: BASE64.encode(salt),
            server_key: key(&server_key)?,
            stored_key: key(&stored_key)?,
        });
        Ok(())
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let is_hex = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).ok();
    is_hex.then(|| (0..text.len()).step_by(2).map(byte).collect()).flatten()
}

/// Our own element.
pub(super) fn account(
    user: &mut UserExport,
    created: Option<&str>,
    disabled: Option<&str>,
) -> Result<()> {
    if let Some(text) = created {
        let ms = date_time::parse(text).and_then(|ms| u64::try_from(ms).ok());
        user.created = Some(ms.ok_or_else(|| format!("created at {text:?} is no time"))?);
    }
    user.disabled = match disabled {
        None | Some("false" | "0") => false,
        Some("true" | "1") => true,
        Some(other) => return Err(format!("disabled is {other:?}")),
    };
    Ok(())
}
