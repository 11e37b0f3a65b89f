//! A document, written as it comes: a head, users under their hosts, a tail. Called by `cli::user`.
//!
//! Whoever stops before [`Writer::end`] leaves a document that is not well-formed, so that half an export is not taken
//! for a whole one.

use std::io::{self, Write};

use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::{date_time, delay};
use xmpp::xml::element::Element;
use xmpp::xml::write::attr;

use crate::admin::{Archived, RosterItem, ScramCredentials, UserExport};

/// See the room.
pub struct Writer<W> {
    out: W,
    /// The host that is open.
    host: Option<String>,
    /// The element within the user that is open, for messages.
    within: Option<&'static str>,
}

impl<W: Write> Writer<W> {
    /// Writes the head.
    ///
    /// # Errors
    /// Nobody takes it.
    pub fn begin(mut out: W) -> io::Result<Writer<W>> {
        out.write_all(b"<?xml version='1.0' encoding='UTF-8'?>\n")?;
        writeln!(out, "<server-data xmlns='{}'>", ns::PIE)?;
        Ok(Writer { out, host: None, within: None })
    }

    /// Opens a user and writes all that is there of it; messages may follow, then [`Writer::user_end`].
    ///
    /// # Errors
    /// Nobody takes it, or it is no user: [`io::ErrorKind::InvalidData`].
    pub fn user(&mut self, user: &UserExport) -> io::Result<()> {
        self.user_begin(&user.account)?;
        if user.created.is_some() || user.disabled {
            let created = user.created.map(date_time::format);
            let own = Element::new("account", ns::EXPORT)
                .with_attr_opt("created", created.as_deref())
                .with_attr_opt("disabled", user.disabled.then_some("true"));
            self.element(&own)?;
        }
        for credentials in &user.scram {
            self.element(&scram(credentials))?;
        }
        let roster = Element::new("query", ns::ROSTER);
        self.element(&roster.with_children(user.roster.iter().map(item)))?;
        for request in &user.requests {
            self.element(&Element::parse(request.as_bytes()).map_err(invalid)?)?;
        }
        if let Some(card) = &user.vcard {
            self.element(&Element::parse(card.as_bytes()).map_err(invalid)?)?;
        }
        if !user.private.is_empty() {
            let kept = user.private.iter().map(|text| Element::parse(text.as_bytes()));
            let kept = kept.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
            self.element(&Element::new("query", ns::PRIVATE).with_children(kept))?;
        }
        if let Some(lists) = &user.privacy {
            self.element(&Element::parse(lists.as_bytes()).map_err(invalid)?)?;
        }
        if let Some(prefs) = &user.preferences {
            self.element(&Element::parse(prefs.as_bytes()).map_err(invalid)?)?;
        }
        self.messages(&user.offline)
    }

    /// Opens a user of whom nothing is written but that.
    ///
    /// # Errors
    /// As [`Writer::user`].
    pub fn aside(&mut self, account: &str, elements: &[Element]) -> io::Result<()> {
        self.user_begin(account)?;
        elements.iter().try_for_each(|element| self.element(element))
    }

    fn user_begin(&mut self, account: &str) -> io::Result<()> {
        let account = BareJid::parse(account).map_err(invalid)?;
        if self.host.as_deref() != Some(account.domain()) {
            self.host_end()?;
            self.tag("host", "jid", account.domain())?;
            self.host = Some(account.domain().to_owned());
        }
        self.tag("user", "name", account.local().unwrap_or_default())
    }

    /// Messages of the user that is open.
    ///
    /// # Errors
    /// As [`Writer::user`].
    pub fn messages(&mut self, messages: &[String]) -> io::Result<()> {
        for message in messages {
            self.within("offline-messages", ns::PIE)?;
            self.element(&Element::parse(message.as_bytes()).map_err(invalid)?)?;
        }
        Ok(())
    }

    /// What is archived of the user that is open, behind its messages.
    ///
    /// # Errors
    /// As [`Writer::user`].
    pub fn archive(&mut self, archive: &[Archived]) -> io::Result<()> {
        for archived in archive {
            self.within("archive", ns::PIE_MAM)?;
            let message = Element::parse(archived.message.as_bytes()).map_err(invalid)?;
            let forwarded = Element::new("forwarded", ns::FORWARD)
                .with_child(delay::element(archived.at, None, None))
                .with_child(message);
            let result = Element::new("result", ns::MAM).with_attr("id", &archived.id);
            self.element(&result.with_child(forwarded))?;
        }
        Ok(())
    }

    /// Opens the element that messages stand in, if it is not open.
    fn within(&mut self, name: &'static str, ns: &str) -> io::Result<()> {
        if self.within == Some(name) {
            return Ok(());
        }
        self.within_end()?;
        self.within = Some(name);
        match ns {
            ns::PIE => writeln!(self.out, "<{name}>"),
            _ => self.tag(name, "xmlns", ns),
        }
    }

    fn within_end(&mut self) -> io::Result<()> {
        match self.within.take() {
            Some(name) => writeln!(self.out, "</{name}>"),
            None => Ok(()),
        }
    }

    /// Closes the user.
    ///
    /// # Errors
    /// Nobody takes it.
    pub fn user_end(&mut self) -> io::Result<()> {
        self.within_end()?;
        self.out.write_all(b"</user>\n")
    }

    /// Writes the tail.
    ///
    /// # Errors
    /// Nobody takes it.
    pub fn end(mut self) -> io::Result<W> {
        self.host_end()?;
        self.out.write_all(b"</server-data>\n")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn host_end(&mut self) -> io::Result<()> {
        match self.host.take() {
            Some(_) => self.out.write_all(b"</host>\n"),
            None => Ok(()),
        }
    }

    fn tag(&mut self, name: &str, key: &str, value: &str) -> io::Result<()> {
        let mut tag = format!("<{name}").into_bytes();
        attr(&mut tag, key, value);
        tag.extend_from_slice(b">\n");
        self.out.write_all(&tag)
    }

    fn element(&mut self, element: &Element) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(256);
        element.write_in(&mut bytes, ns::PIE);
        bytes.push(b'\n');
        self.out.write_all(&bytes)
    }
}

fn invalid(cause: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what the node says is no user: {cause}"))
}

fn scram(credentials: &ScramCredentials) -> Element {
    let child = |name: &str, text: &str| Element::new(name, ns::PIE_SCRAM).with_text(text);
    Element::new("scram-credentials", ns::PIE_SCRAM)
        .with_attr("mechanism", &credentials.mechanism)
        .with_child(child("iter-count", &credentials.iterations.to_string()))
        .with_child(child("salt", &credentials.salt))
        .with_child(child("server-key", &credentials.server_key))
        .with_child(child("stored-key", &credentials.stored_key))
}

fn item(item: &RosterItem) -> Element {
    let group = |group: &String| Element::new("group", ns::ROSTER).with_text(group);
    Element::new("item", ns::ROSTER)
        .with_attr("jid", &item.jid)
        .with_attr_opt("name", item.name.as_deref())
        .with_attr("subscription", item.subscription.name())
        .with_attr_opt("ask", item.ask.then_some("subscribe"))
        .with_attr_opt("approved", item.approved.then_some("true"))
        .with_children(item.groups.iter().map(group))
}
