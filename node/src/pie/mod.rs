//! XEP-0227 1.1, accounts as a portable document: `<server-data/>` with hosts, users, and what each of them has.
//!
//! `write` makes such a document, `read` takes one apart (over `source`, the XML below it, `part` and `user`, what a
//! user has), both as a stream: never more than one user is in memory, and of its archive (`spool`) a part. `home` is what an account's home does for it. Called
//! by `cli::user` and `app::portable`. The values are those of `admin`.
//!
//! Read, not written: a `password`, in clear or as ejabberd writes SCRAM (`scram:…`); SCRAM as old versions of Prosody write it, as
//! attributes of their own namespace; the namespace of the drafts; files
//! that include each other (XInclude, §5). What the XEP has no place for, when an account was made and whether it is
//! disabled, is in `<account xmlns='urn:pangaea:export:0' created='…' disabled='true'/>`; what is to be archived in `<prefs/>` of XEP-0441.
//!
//! Left out: what this server does not keep (PEP). It is passed over and counted, and put aside for whoever asks for that: in a document of
//! its own.

pub mod home;
mod part;
mod read;
mod source;
mod spool;
#[cfg(test)]
mod tests;
mod user;
mod write;

use std::fmt;

pub use read::{Reader, Unknown, User};
pub use spool::Spool;
pub(crate) use user::MECHANISMS;
pub use write::Writer;

/// One user of a document, in bytes of names, values and text; a larger one is refused. It must fit into one request to
/// the admin API.
pub const USER_BYTES_MAX: usize = 32 << 20;
/// One tag, or one run of text; a longer one ends the reading.
pub const TOKEN_BYTES_MAX: u64 = 16 << 20;
/// A larger archived message is passed over.
pub const ARCHIVED_BYTES_MAX: usize = 300 << 10;
/// Of an archive so much is in memory; the rest is in a temporary file, for as long as its user is read and imported.
pub const SPOOL_BYTES_MAX: usize = 8 << 20;
/// Elements open at once; a deeper document ends the reading.
pub const DEPTH_MAX: usize = 200;
/// Files that include each other: the document, its hosts, their users, and what is of them in files of its own.
pub const FILES_OPEN_MAX: usize = 4;
/// Names of what is passed over that are counted apart; beyond it all are counted together.
pub const UNKNOWN_MAX: usize = 100;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The file, as it was named.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// A sentence.
    pub what: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}, line {}: {}", self.file, self.line, self.what)
    }
}

impl std::error::Error for Wrong {}

/// Hosts of the document that are others here: `OLD=NEW`.
#[derive(Clone, Debug, Default)]
pub struct Hosts(Vec<(String, String)>);

impl Hosts {
    /// From what an operator typed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(given: &[String]) -> Result<Hosts, String> {
        let pair = |text: &String| {
            let (old, new) =
                text.split_once('=').ok_or_else(|| format!("{text:?} is not OLD=NEW"))?;
            let domain = |name: &str| {
                let jid = xmpp::jid::BareJid::parse(name).ok().filter(|jid| jid.local().is_none());
                jid.map(|jid| jid.domain().to_owned()).ok_or(format!("{name:?} is no domain"))
            };
            Ok((domain(old)?, domain(new)?))
        };
        Ok(Hosts(given.iter().map(pair).collect::<Result<_, String>>()?))
    }

    /// The host it is here.
    fn of<'a>(&'a self, domain: &'a str) -> &'a str {
        self.0.iter().find(|(old, _)| old == domain).map_or(domain, |(_, new)| new)
    }

    /// The same address here.
    fn jid(&self, jid: &xmpp::jid::Jid) -> Option<xmpp::jid::Jid> {
        let host = self.of(jid.domain());
        if host == jid.domain() {
            return Some(jid.clone());
        }
        let local = jid.local().map(|local| format!("{local}@")).unwrap_or_default();
        let resource = jid.resource().map(|name| format!("/{name}")).unwrap_or_default();
        xmpp::jid::Jid::parse(&format!("{local}{host}{resource}")).ok()
    }
}
