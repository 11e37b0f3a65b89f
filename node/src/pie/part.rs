//! The children of a user in a document: which of them mean something here. Called by `read` for each; `user` makes values
//! of them.
//!
//! A child is read to its end whatever is wrong with it, so that the next user is found.

use xmpp::ns;
use xmpp::xml::element::Element;

use super::read::Include;
use super::source::{Piece, Source, Tag};
use super::{ARCHIVED_BYTES_MAX, Hosts, Spool, USER_BYTES_MAX, Unknown, Wrong, user};
use crate::admin::UserExport;

/// Why a user cannot be taken: the user, or all that follows too.
pub(super) enum Fault {
    Document(Wrong),
    User(Wrong),
}

impl From<Wrong> for Fault {
    fn from(wrong: Wrong) -> Fault {
        Fault::Document(wrong)
    }
}

/// One child of a user, and what is needed to read it.
pub(super) struct Part<'a> {
    pub(super) source: &'a mut Source,
    pub(super) user: &'a mut UserExport,
    pub(super) hosts: &'a Hosts,
    pub(super) unknown: &'a mut Unknown,
    pub(super) room: &'a mut usize,
    pub(super) archive: &'a mut Spool,
    /// What is not understood, if it is to be put aside.
    pub(super) aside: &'a mut Option<Vec<Element>>,
    pub(super) include: Include<'a>,
}

impl Part<'_> {
    /// Reads the child whose start tag has come, to its end.
    pub(super) fn read(&mut self, tag: &Tag) -> Result<(), Fault> {
        let ours = tag.ns == ns::PIE || tag.ns == ns::PIE_OLD;
        match (tag.name.as_str(), tag.ns.as_str()) {
            ("scram-credentials", ns::PIE_SCRAM) => {
                let element = self.element(tag)?;
                let read = user::scram(self.user, &element, self.unknown);
                self.at(tag, read)
            }
            ("query", ns::ROSTER) => {
                let element = self.element(tag)?;
                let read = user::roster(self.user, &element, self.hosts, self.unknown);
                self.at(tag, read)
            }
            ("vCard", ns::VCARD) => {
                let element = self.element(tag)?;
                let read = user::vcard(self.user, &element);
                self.at(tag, read)
            }
            ("query", ns::PRIVATE) => {
                let element = self.element(tag)?;
                let read = user::private(self.user, &element, self.unknown);
                self.at(tag, read)
            }
            ("query", ns::PRIVACY) => {
                let element = self.element(tag)?;
                let read = user::privacy(self.user, element, self.hosts);
                self.at(tag, read)
            }
            ("presence", ns)
                if (ours || ns == ns::CLIENT) && tag.attr("type") == Some("subscribe") =>
            {
                let element = self.element(tag)?;
                let read = user::request(self.user, element, self.hosts);
                self.at(tag, read)
            }
            ("offline-messages", _) if ours => self.offline(),
            ("prefs", ns::MAM) => {
                let element = self.element(tag)?;
                let read = user::preferences(self.user, element, self.hosts);
                self.at(tag, read)
            }
            ("archive", ns::PIE_MAM) => self.archive(),
            ("account", ns::EXPORT) => {
                self.source.skip()?;
                let read = user::account(self.user, tag.attr("created"), tag.attr("disabled"));
                self.at(tag, read)
            }
            ("include", ns::XINCLUDE) => {
                self.source.skip()?;
                self.included(tag)
            }
            (name, ns) => {
                self.unknown.note_element("", name, ns);
                if self.aside.is_none() {
                    return Ok(self.source.skip()?);
                }
                let element = self.element(tag)?;
                self.aside.get_or_insert_default().push(element);
                Ok(())
            }
        }
    }

    /// A file that stands for a child of the user.
    fn included(&mut self, tag: &Tag) -> Result<(), Fault> {
        let opened = self.include.open(tag, self.source);
        let (mut source, directory) = opened.map_err(Fault::User)?;
        let include = Include { directory: Some(&directory), open: self.include.open + 1 };
        loop {
            let mut part = Part {
                source: &mut source,
                user: self.user,
                hosts: self.hosts,
                unknown: self.unknown,
                room: self.room,
                archive: self.archive,
                aside: self.aside,
                include,
            };
            match part.source.next()? {
                Piece::Start(tag) => part.read(&tag)?,
                Piece::Eof => return Ok(()),
                Piece::Text(_) | Piece::End => {}
            }
        }
    }

    fn archive(&mut self) -> Result<(), Fault> {
        let passed_over = "archived messages that cannot be read";
        let mut fault = Ok(());
        loop {
            let tag = match self.source.next()? {
                Piece::End | Piece::Eof => return fault,
                Piece::Text(_) => continue,
                Piece::Start(_) if fault.is_err() => {
                    self.source.skip()?;
                    continue;
                }
                Piece::Start(tag) => tag,
            };
            match (tag.name.as_str(), tag.ns.as_str()) {
                ("result", ns::MAM) => {
                    // Not of the user's room: as much may be archived as will.
                    let mut room = 2 * ARCHIVED_BYTES_MAX;
                    let element = self.source.element(&tag, &mut room)?;
                    let account = &self.user.account;
                    match element.map(|result| user::archived(account, &result, self.hosts)) {
                        Some(Some(archived)) if archived.message.len() <= ARCHIVED_BYTES_MAX => {
                            let kept = self.archive.push(&archived);
                            kept.map_err(|error| {
                                let what = format!(
                                    "an archive cannot be put in a temporary file: {error}"
                                );
                                Fault::Document(self.source.wrong_at(tag.line, what))
                            })?;
                        }
                        Some(None) => self.unknown.note(passed_over),
                        _ => self.unknown.note("archived messages that are too large"),
                    }
                }
                ("include", ns::XINCLUDE) => {
                    self.source.skip()?;
                    match self.included(&tag) {
                        Err(Fault::Document(wrong)) => return Err(Fault::Document(wrong)),
                        done => fault = done,
                    }
                }
                (name, ns) => {
                    self.unknown.note_element("archive", name, ns);
                    self.source.skip()?;
                }
            }
        }
    }

    fn offline(&mut self) -> Result<(), Fault> {
        let mut fault = Ok(());
        loop {
            match self.source.next()? {
                Piece::End | Piece::Eof => return fault,
                Piece::Text(_) => {}
                Piece::Start(_) if fault.is_err() => self.source.skip()?,
                Piece::Start(tag) if tag.name == "message" && is_content(&tag.ns) => {
                    let element = match self.element(&tag) {
                        Ok(element) => element,
                        Err(Fault::User(wrong)) => {
                            fault = Err(Fault::User(wrong));
                            continue;
                        }
                        Err(document) => return Err(document),
                    };
                    let read = user::message(self.user, element, self.hosts);
                    fault = self.at(&tag, read);
                }
                Piece::Start(tag) => {
                    self.unknown.note_element("offline-messages", &tag.name, &tag.ns);
                    self.source.skip()?;
                }
            }
        }
    }

    fn element(&mut self, tag: &Tag) -> Result<Element, Fault> {
        let element = self.source.element(tag, self.room)?;
        element.ok_or_else(|| {
            let what = format!("more than {USER_BYTES_MAX} bytes in one user");
            Fault::User(self.source.wrong_at(tag.line, what))
        })
    }

    fn at<T>(&self, tag: &Tag, read: Result<T, String>) -> Result<T, Fault> {
        read.map_err(|what| Fault::User(self.source.wrong_at(tag.line, what)))
    }
}

/// Stanzas stand in `jabber:client`; servers that forget to say so leave them in the document's namespace.
fn is_content(ns: &str) -> bool {
    [ns::CLIENT, ns::PIE, ns::PIE_OLD].contains(&ns)
}
