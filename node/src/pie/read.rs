//! A document, user by user: where a user stands (`<server-data/>`, `<host/>`), what is in it, which files belong to it.
//!
//! Called by `cli::user`; below it are `source` (XML), `part` and `user` (what a user has). A fault within a user costs that user only;
//! what is no XML ends the reading. XInclude (XEP-0227 §5) is followed where a host or a user may stand, to files beside
//! the document or below, never above.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::xml::element::Element;

use super::part::{Fault, Part};
use super::source::{Piece, Source, Tag};
use super::{FILES_OPEN_MAX, Hosts, Spool, UNKNOWN_MAX, USER_BYTES_MAX, Wrong, user};
use crate::admin::UserExport;

/// Attributes that Prosody makes of what XEP-0227 has no place for.
const PROSODY: &str = "http://prosody.im/protocol/extended-xep0227";

/// A user of the document.
#[derive(Debug)]
pub struct User {
    /// Where it begins; `what` says what it is, for a message of one's own.
    pub at: Wrong,
    /// The user, or what is wrong with it.
    pub read: Result<UserExport, Wrong>,
    /// What was archived of it.
    pub archive: Spool,
    /// What means nothing here, if it is asked for.
    pub aside: Vec<Element>,
}

/// What was passed over, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unknown(pub BTreeMap<String, u64>);

impl Unknown {
    /// Something that is kept nowhere here.
    pub(super) fn note(&mut self, what: &str) {
        let what = match self.0.len() < UNKNOWN_MAX || self.0.contains_key(what) {
            true => what,
            false => "others",
        };
        match self.0.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(what.to_owned(), 1)),
        }
    }

    pub(super) fn note_element(&mut self, place: &str, name: &str, ns: &str) {
        let place = if place.is_empty() { String::new() } else { format!(" in <{place}/>") };
        self.note(&format!("<{name} xmlns='{ns}'/>{place}"));
    }
}

/// Where the reading stands in a file.
#[derive(Clone)]
enum Place {
    Outside,
    Data,
    Host(String),
}

/// A file that is being read.
struct File {
    source: Source,
    /// Its directory; `None` for standard input.
    directory: Option<PathBuf>,
    /// Elements around what comes next; the first is what stands around the file.
    places: Vec<Place>,
}

/// A document.
pub struct Reader {
    files: Vec<File>,
    hosts: Hosts,
    unknown: Unknown,
    aside: bool,
}

/// How files are found that stand for something within a user.
#[derive(Clone, Copy)]
pub(super) struct Include<'a> {
    /// Where the file is that names them; `None`: nowhere.
    pub(super) directory: Option<&'a Path>,
    /// Files that include each other by then.
    pub(super) open: usize,
}

impl Include<'_> {
    /// The file that an `<include/>` names, and its directory.
    pub(super) fn open(self, tag: &Tag, from: &Source) -> Result<(Source, PathBuf), Wrong> {
        let wrong = |what: String| from.wrong_at(tag.line, what);
        let href = tag.attr("href").unwrap_or_default();
        if tag.attr("parse").is_some_and(|parse| parse != "xml") || tag.attr("xpointer").is_some() {
            return Err(wrong(format!(
                "only whole XML files are included, not this part of {href:?}"
            )));
        }
        let Some(directory) = self.directory else {
            return Err(wrong(format!(
                "{href:?} is included: give the document as a file, not as -"
            )));
        };
        let Some(path) = beside(href) else {
            return Err(wrong(format!("{href:?} is no file beside the document, or below it")));
        };
        if self.open == FILES_OPEN_MAX {
            return Err(wrong(format!(
                "{href:?}: more than {FILES_OPEN_MAX} files include each other"
            )));
        }
        let path = directory.join(path);
        let opened = std::fs::File::open(&path)
            .map_err(|cause| wrong(format!("cannot read {}: {cause}", path.display())))?;
        let source = Source::new(path.display().to_string(), Box::new(opened));
        Ok((source, path.parent().map(Path::to_owned).unwrap_or_default()))
    }
}

impl Reader {
    /// Of a file, or of standard input (`-`).
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, hosts: Hosts) -> std::io::Result<Reader> {
        if path.as_os_str() == "-" {
            return Ok(Reader::new("standard input", Box::new(std::io::stdin()), hosts));
        }
        let opened = std::fs::File::open(path)?;
        let mut reader = Reader::new(&path.display().to_string(), Box::new(opened), hosts);
        reader.files[0].directory = Some(path.parent().unwrap_or(Path::new("")).to_owned());
        Ok(reader)
    }

    /// Of anything; includes are refused.
    pub fn new(name: &str, from: Box<dyn Read>, hosts: Hosts) -> Reader {
        let source = Source::new(name.to_owned(), from);
        let file = File { source, directory: None, places: vec![Place::Outside] };
        Reader { files: vec![file], hosts, unknown: Unknown::default(), aside: false }
    }

    /// Puts aside what means nothing here, with its user.
    #[must_use]
    pub fn with_aside(self, aside: bool) -> Reader {
        Reader { aside, ..self }
    }

    /// What was passed over so far.
    #[must_use]
    pub fn unknown(&self) -> &Unknown {
        &self.unknown
    }

    /// The next user; `None` at the end of the document.
    ///
    /// # Errors
    /// It cannot be read any further.
    pub fn next_user(&mut self) -> Result<Option<User>, Wrong> {
        while let Some(file) = self.files.last_mut() {
            match file.source.next()? {
                Piece::Eof => drop(self.files.pop()),
                Piece::End => drop(file.places.pop()),
                Piece::Text(text) if text.trim().is_empty() => {}
                Piece::Text(_) => self.unknown.note("text between the elements"),
                Piece::Start(tag) => {
                    if let Some(user) = self.start(&tag)? {
                        return Ok(Some(user));
                    }
                }
            }
        }
        Ok(None)
    }

    /// An element that is not within a user.
    fn start(&mut self, tag: &Tag) -> Result<Option<User>, Wrong> {
        let file = self.files.last_mut().expect("a file is open");
        let ours = tag.ns == ns::PIE || tag.ns == ns::PIE_OLD;
        let place = file.places.last().expect("something stands around every element").clone();
        match (place, tag.name.as_str()) {
            (Place::Outside, "server-data") if ours => file.places.push(Place::Data),
            (Place::Outside, name) => {
                let what = format!(
                    "<{name} xmlns='{}'/> is no <server-data xmlns='{}'/>",
                    tag.ns,
                    ns::PIE
                );
                return Err(file.source.wrong_at(tag.line, what));
            }
            (Place::Data, "host") if ours => {
                let jid = tag.attr("jid").unwrap_or_default();
                let domain = BareJid::parse(jid).ok().filter(|jid| jid.local().is_none());
                let Some(domain) = domain else {
                    return Err(file.source.wrong_at(tag.line, format!("{jid:?} is no host")));
                };
                file.places.push(Place::Host(self.hosts.of(domain.domain()).to_owned()));
            }
            (Place::Host(host), "user") if ours => return self.user(tag, &host).map(Some),
            (place, "include") if tag.ns == ns::XINCLUDE => self.include(tag, place)?,
            (place, name) => {
                let around = if matches!(place, Place::Data) { "server-data" } else { "host" };
                self.unknown.note_element(around, name, &tag.ns);
                file.source.skip()?;
            }
        }
        Ok(None)
    }

    /// A file that stands for a host or a user.
    fn include(&mut self, tag: &Tag, place: Place) -> Result<(), Wrong> {
        let open = self.files.len();
        let file = self.files.last_mut().expect("a file is open");
        file.source.skip()?;
        let include = Include { directory: file.directory.as_deref(), open };
        let (source, directory) = include.open(tag, &file.source)?;
        let directory = Some(directory);
        self.files.push(File { source, directory, places: vec![place] });
        Ok(())
    }

    fn user(&mut self, tag: &Tag, host: &str) -> Result<User, Wrong> {
        let name = tag.attr("name").unwrap_or_default();
        let open = self.files.len();
        let file = self.files.last_mut().expect("a file is open");
        let source = &mut file.source;
        let include = Include { directory: file.directory.as_deref(), open };
        let (mut archive, mut aside) = (Spool::default(), self.aside.then(Vec::new));
        let mut at = source.wrong_at(tag.line, format!("{name}@{host}"));
        let mut user = UserExport::default();
        let mut fault = None;
        let mut properties = user::Properties::default();
        match BareJid::new(Some(name), host)
            .ok()
            .filter(|jid| !name.is_empty() && jid.local().is_some())
        {
            Some(account) => {
                at.what = account.to_string();
                user.account = account.to_string();
            }
            None => {
                fault = Some(source.wrong_at(tag.line, format!("{name:?} is no name of a user")))
            }
        }
        for (ns, name, value) in &tag.attrs {
            match (ns.as_str(), name.as_str()) {
                ("", "name") => {}
                ("", "password") => user::password(&mut user, value),
                // How ejabberd once said that there is SCRAM in `password`.
                ("", "password-format") => {}
                ("", name) => self.unknown.note(&format!("the attribute {name} of <user/>")),
                (PROSODY, name) if user::property(&mut properties, name, value) => {}
                (ns, name) => {
                    self.unknown.note(&format!("the attribute {{{ns}}}{name} of <user/>"))
                }
            }
        }
        let mut room = USER_BYTES_MAX;
        loop {
            match source.next()? {
                Piece::End | Piece::Eof => break,
                Piece::Text(text) if text.trim().is_empty() => {}
                Piece::Text(_) => self.unknown.note("text in <user/>"),
                Piece::Start(_) if fault.is_some() => source.skip()?,
                Piece::Start(tag) => {
                    let mut part = Part {
                        source,
                        user: &mut user,
                        hosts: &self.hosts,
                        unknown: &mut self.unknown,
                        room: &mut room,
                        archive: &mut archive,
                        aside: &mut aside,
                        include,
                    };
                    match part.read(&tag) {
                        Err(Fault::Document(wrong)) => return Err(wrong),
                        Err(Fault::User(wrong)) => fault = Some(wrong),
                        Ok(()) => {}
                    }
                }
            }
        }
        if fault.is_none()
            && let Err(what) = properties.finish(&mut user)
        {
            fault = Some(Wrong { what, ..at.clone() });
        }
        let aside = aside.unwrap_or_default();
        Ok(User { at, read: fault.map_or(Ok(user), Err), archive, aside })
    }
}

/// A file below the directory of the one that names it: `capulet.com/juliet.xml`.
fn beside(href: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(href.len());
    let mut rest = href.bytes();
    while let Some(byte) = rest.next() {
        let code = (byte == b'%').then(|| rest.clone().take(2).map(char::from).collect::<String>());
        match code.and_then(|code| u8::from_str_radix(&code, 16).ok().filter(|_| code.len() == 2)) {
            Some(byte) => {
                bytes.push(byte);
                rest.nth(1);
            }
            None => bytes.push(byte),
        }
    }
    let path = PathBuf::from(String::from_utf8(bytes).ok()?);
    let below = path.components().all(|part| matches!(part, Component::Normal(_)));
    (below && path.components().next().is_some() && !href.contains(':')).then_some(path)
}
