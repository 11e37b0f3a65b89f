//! Export and import at the account's home: what is read there was committed, and what is imported is committed at once.
//!
//! Asked by `app::portable`. Answers and entries travel in one frame of a link, so both are cut: an export is read page
//! by page; an import that is too large for one entry comes in parts, and until the last of them the account exists but
//! is disabled, and a row in store `import` says who is at it. Whoever begins anew while that row is there replaces what
//! had come; so an import that failed on its way is simply repeated.
//!
//! Imported messages, those that wait and those of the archive, have the ids 1, 2, 3, …: far below every id the home's clock gives, so they
//! stand before whatever is filed meanwhile, and a part that comes twice writes the same rows. An archive that is longer or older than this
//! server keeps is cut by `features::archive` when it next files something. Deliberately absent: XML, limits.

use serde::{Deserialize, Serialize};
use xmpp::jid::BareJid;

use crate::features::archive::item::{ARCHIVE, Item, PLACES};
use crate::features::archive::prefs::PREFS;
use crate::features::blocking::record::PRIVACY;
use crate::features::offline::{self, home::OFFLINE};
use crate::features::private::home::PRIVATE;
use crate::features::roster::record::{Contact, ROSTER, VERSION};
use crate::features::vcard::home::VCARD;
use crate::homes::accounts::{ACCOUNTS, Account};
use crate::homes::{Decision, HomeError, Tx};
use crate::storage::Page;

/// Name of the operation.
pub const OP: &str = "pie";
/// The store that says that an import has not come to its end: one value.
pub const IMPORT: &str = "import";
/// Bytes of rows in one answer, unless a single row has more; and about as many in one request, one row more may be in it. A frame of a
/// link has 1 MiB, an entry of the durable log, and so a row, 768 KiB.
pub const PART_BYTES_MAX: usize = 384 << 10;
/// One contact, or one message: with it a part still fits.
pub const ROW_BYTES_MAX: usize = 320 << 10;
/// Imported messages; the first id that is no longer one of them is later than any import.
pub const MESSAGES_MAX: u64 = u32::MAX as u64;
/// Messages read from storage at once.
const READ_MAX: usize = 32;

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// A page of all that there is, without the archive.
    Read(After),
    /// Of the archive what comes after this.
    Archive(Option<u64>),
    /// A part of an import.
    Write(Box<Part>),
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum After {
    /// At the beginning.
    Nothing,
    /// After this of what is kept as it was sent.
    Kept(Shelf, String),
    /// After all that, and this contact.
    Contact(String),
    /// After the contacts, and this message.
    Message(u64),
}

/// Where a user's own XML is kept, by key, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Shelf {
    /// The vCard (XEP-0054); its key is `""`.
    Vcard,
    /// Private elements (XEP-0049).
    Private,
    /// Privacy lists (XEP-0016): not XML, but rows of `features::blocking`.
    Privacy,
    /// What is to be archived (XEP-0441): not XML, but the value of `features::archive`; its key is `""`.
    Preferences,
}

impl Shelf {
    /// In the order in which they are read.
    pub const ALL: [Shelf; 4] = [Shelf::Vcard, Shelf::Private, Shelf::Privacy, Shelf::Preferences];

    fn store(self) -> &'static str {
        match self {
            Shelf::Vcard => VCARD,
            Shelf::Private => PRIVATE,
            Shelf::Privacy => PRIVACY,
            Shelf::Preferences => PREFS,
        }
    }
}

/// What is kept there: an element.
pub type Kept = (Shelf, String, Vec<u8>);

/// A part of an import.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// One import, as it was begun once: a random number.
    pub import: u64,
    /// From 0.
    pub number: u32,
    /// No other follows.
    pub last: bool,
    /// The account, as it shall be; `None`: as the part before has it.
    pub account: Option<Account>,
    /// What is kept as it was sent.
    pub kept: Vec<Kept>,
    /// Contacts.
    pub contacts: Vec<(BareJid, Contact)>,
    /// Messages with their ids, at most [`MESSAGES_MAX`].
    pub messages: Vec<(u64, Vec<u8>)>,
    /// Archived messages with their places, at most [`MESSAGES_MAX`].
    pub archive: Vec<(u64, Item)>,
}

impl Part {
    /// The part that comes after another.
    pub fn empty(import: u64, number: u32) -> Part {
        Part {
            import,
            number,
            last: false,
            account: None,
            kept: Vec::new(),
            contacts: Vec::new(),
            messages: Vec::new(),
            archive: Vec::new(),
        }
    }
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// A page.
    Page {
        /// The account.
        account: Box<Account>,
        /// What is kept as it was sent, in order.
        kept: Vec<Kept>,
        /// Contacts, in order, after the last of that only.
        contacts: Vec<(String, Contact)>,
        /// Messages, after the last contact only.
        messages: Vec<(u64, Vec<u8>)>,
        /// There is more.
        next: Option<After>,
    },
    /// Of the archive.
    Archive {
        /// Items with their places.
        items: Vec<(u64, Item)>,
        /// There are more.
        more: bool,
    },
    /// The part is committed.
    Written,
    /// No such account.
    NoAccount,
    /// Reading: an import of it has not come to its end.
    Unfinished,
    /// Writing: the account exists.
    Exists,
    /// Writing: this is not the part that comes next; another import has begun, or the account was removed.
    Overtaken,
}

/// What store `import` has.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    import: u64,
    /// Parts that have come.
    parts: u32,
    /// So the account stays when all is there.
    disabled: bool,
}

/// The operation.
pub struct PieHome;

impl Decision for PieHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Answer;

    async fn decide(
        &self,
        tx: &mut Tx,
        _: &BareJid,
        request: Request,
    ) -> Result<Answer, HomeError> {
        match request {
            Request::Read(after) => read(tx, after).await,
            Request::Archive(after) => archive(tx, after).await,
            Request::Write(part) => write(tx, *part).await,
        }
    }
}

async fn read(tx: &Tx, after: After) -> Result<Answer, HomeError> {
    let Some(account) = tx.get(ACCOUNTS, "").await? else { return Ok(Answer::NoAccount) };
    if tx.get(IMPORT, "").await?.is_some() {
        return Ok(Answer::Unfinished);
    }
    let account = Box::new(Account::decode(&account)?);
    let (mut kept, mut contacts, mut messages, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    let page =
        |kept, contacts, messages, next| Answer::Page { account, kept, contacts, messages, next };
    if matches!(after, After::Nothing | After::Kept(..)) {
        for shelf in Shelf::ALL {
            for (key, value) in tx.map(shelf.store()).await? {
                if matches!(&after, After::Kept(last, at) if (shelf, &key) <= (*last, at)) {
                    continue;
                }
                let size = key.len() + value.len() + 16;
                if bytes > 0 && bytes + size > PART_BYTES_MAX {
                    let last = kept.last().map(|(shelf, key, _): &Kept| (*shelf, key.clone()));
                    let next = last.map(|(shelf, key)| After::Kept(shelf, key));
                    return Ok(page(kept, contacts, messages, next));
                }
                bytes += size;
                kept.push((shelf, key, value));
            }
        }
    }
    let mut upto = match &after {
        After::Message(id) => Some(*id),
        After::Nothing | After::Kept(..) | After::Contact(_) => None,
    };
    if upto.is_none() {
        for (jid, value) in tx.map(ROSTER).await? {
            if matches!(&after, After::Contact(last) if jid <= *last) {
                continue;
            }
            let size = jid.len() + value.len() + 16;
            if bytes > 0 && bytes + size > PART_BYTES_MAX {
                let last = contacts.last().map(|(jid, _): &(String, _)| jid.clone());
                let next = After::Contact(last.unwrap_or_default());
                return Ok(page(kept, contacts, messages, Some(next)));
            }
            let Some(contact) = Contact::decode(&value) else {
                return Err(HomeError::Storage(format!("the contact {jid} cannot be read")));
            };
            bytes += size;
            // What the last change meant is nobody's business any more.
            contacts.push((jid, Contact { deliver: None, ..contact }));
        }
    }
    loop {
        let items = tx.archive(OFFLINE, Page::after(upto, READ_MAX)).await?;
        let end = items.len() < READ_MAX;
        for (id, value) in items {
            let size = value.len() + 16;
            if bytes > 0 && bytes + size > PART_BYTES_MAX {
                return Ok(page(kept, contacts, messages, Some(After::Message(upto.unwrap_or(0)))));
            }
            bytes += size;
            upto = Some(id);
            messages.push((id, value));
        }
        if end {
            return Ok(page(kept, contacts, messages, None));
        }
    }
}

async fn archive(tx: &Tx, after: Option<u64>) -> Result<Answer, HomeError> {
    if tx.get(ACCOUNTS, "").await?.is_none() {
        return Ok(Answer::NoAccount);
    }
    let (mut items, mut bytes, mut upto) = (Vec::new(), 0, after);
    loop {
        let page = tx.archive(ARCHIVE, Page::after(upto, READ_MAX)).await?;
        let end = page.len() < READ_MAX;
        for (id, value) in page {
            let size = value.len() + 16;
            if !items.is_empty() && bytes + size > PART_BYTES_MAX {
                return Ok(Answer::Archive { items, more: true });
            }
            bytes += size;
            upto = Some(id);
            match Item::decode(&value) {
                Some(item) => items.push((id, item)),
                None => tracing::error!(id, "an archived message is damaged: it is not exported"),
            }
        }
        if end {
            return Ok(Answer::Archive { items, more: false });
        }
    }
}

async fn write(tx: &mut Tx, part: Part) -> Result<Answer, HomeError> {
    let there = tx.get(ACCOUNTS, "").await?;
    let open = match tx.get(IMPORT, "").await? {
        Some(bytes) => Some(
            postcard::from_bytes::<Open>(&bytes)
                .map_err(|_| HomeError::Storage("the row of an import cannot be read".into()))?,
        ),
        None => None,
    };
    match &open {
        None if there.is_some() => return Ok(Answer::Exists),
        _ if part.number == 0 && part.account.is_some() => {
            Shelf::ALL.into_iter().for_each(|shelf| tx.clear(shelf.store()));
            tx.clear(ROSTER);
            tx.trim(OFFLINE, MESSAGES_MAX);
            tx.trim(ARCHIVE, MESSAGES_MAX);
        }
        // A part that has come already writes the same rows again.
        Some(open) if open.import == part.import && part.number <= open.parts => {}
        _ => return Ok(Answer::Overtaken),
    }
    let account = match (part.account, &there, &open) {
        (Some(account), ..) => account,
        (None, Some(bytes), Some(open)) => {
            Account { disabled: open.disabled, ..Account::decode(bytes)? }
        }
        (None, ..) => return Ok(Answer::Overtaken),
    };
    let disabled = account.disabled;
    let account = Account { disabled: disabled || !part.last, ..account };
    // Whoever remembers something of the account forgets it with this change: the archive's length, for one.
    tx.put(ACCOUNTS, "", account.encode());
    // Later than every version of an account of this name that was removed: clients may remember those.
    tx.put(VERSION, "", tx.at().0.to_le_bytes().to_vec());
    for (shelf, key, element) in part.kept {
        tx.put(shelf.store(), key, element);
    }
    for (jid, contact) in part.contacts {
        tx.put(ROSTER, jid.as_str(), contact.encode());
    }
    let last = part.messages.iter().map(|(id, _)| *id).max();
    for (id, message) in part.messages {
        debug_assert!((1..=MESSAGES_MAX).contains(&id), "an imported message has a low id");
        tx.append(OFFLINE, id, message);
    }
    if let Some(last) = last {
        offline::home::imported(tx, last).await?;
    }
    for (id, item) in part.archive {
        debug_assert!((1..=MESSAGES_MAX).contains(&id), "an imported message has a low id");
        tx.put(PLACES, item.uid.to_string(), id.to_be_bytes().to_vec());
        tx.append(ARCHIVE, id, item.encode());
    }
    if part.last {
        if open.is_some() {
            tx.delete(IMPORT, "");
        }
    } else {
        let parts = open.filter(|open| open.import == part.import).map_or(0, |open| open.parts);
        let open = Open { import: part.import, parts: parts.max(part.number + 1), disabled };
        tx.put(IMPORT, "", postcard::to_stdvec(&open).expect("numbers always serialise"));
    }
    Ok(Answer::Written)
}

#[cfg(test)]
mod tests {
    use xmpp::sasl::{Hash, ScramKeys};

    use super::*;

    fn account() -> Account {
        let keys = |hash| ScramKeys::derive(hash, "pencil", b"salt", 1).expect("prepares");
        Account {
            scram_sha1: keys(Hash::Sha1),
            scram_sha256: keys(Hash::Sha256),
            scram_sha512: keys(Hash::Sha512),
            created: 7,
            disabled: false,
        }
    }

    fn part(import: u64, number: u32, last: bool) -> Part {
        let message = (u64::from(number) + 1, vec![b'm'; 1000]);
        let contact = Contact { listed: true, ..Contact::default() };
        let jid = BareJid::parse(&format!("c{number}@chat.example")).expect("a JID");
        Part {
            import,
            number,
            last,
            account: Some(account()),
            archive: Vec::new(),
            kept: vec![(Shelf::Private, number.to_string(), vec![b'p'; 1000])],
            contacts: vec![(jid, contact)],
            messages: vec![message],
        }
    }

    async fn rows(tx: &Tx) -> (usize, usize) {
        let messages = tx.archive(OFFLINE, Page::after(None, 99)).await.expect("read");
        (tx.map(ROSTER).await.expect("read").len(), messages.len())
    }

    async fn disabled(tx: &Tx) -> bool {
        let bytes = tx.get(ACCOUNTS, "").await.expect("read").expect("an account");
        Account::decode(&bytes).expect("decodes").disabled
    }

    #[tokio::test]
    async fn an_import_in_parts_can_be_repeated_until_its_end_and_not_after() {
        let mut tx = Tx::of("romeo@chat.example");
        let mut ask = async |part| {
            let answer = write(&mut tx, part).await.expect("decided");
            (format!("{answer:?}"), rows(&tx).await, disabled(&tx).await)
        };
        assert_eq!(ask(part(1, 0, false)).await, ("Written".into(), (1, 1), true));
        assert_eq!(
            ask(part(1, 0, false)).await,
            ("Written".into(), (1, 1), true),
            "it was repeated"
        );
        assert_eq!(ask(part(1, 1, false)).await, ("Written".into(), (2, 2), true));
        assert_eq!(
            ask(part(1, 3, false)).await,
            ("Overtaken".into(), (2, 2), true),
            "a part is missing"
        );
        assert_eq!(
            ask(part(2, 1, true)).await,
            ("Overtaken".into(), (2, 2), true),
            "of another import"
        );
        assert_eq!(
            ask(part(2, 0, false)).await,
            ("Written".into(), (1, 1), true),
            "it begins anew"
        );
        assert_eq!(ask(part(1, 2, true)).await, ("Overtaken".into(), (1, 1), true));
        assert_eq!(ask(part(2, 1, true)).await, ("Written".into(), (2, 2), false));
        assert_eq!(ask(part(3, 0, true)).await, ("Exists".into(), (2, 2), false));
    }

    #[tokio::test]
    async fn what_is_filed_during_an_import_stays_and_comes_last() {
        let mut tx = Tx::of("romeo@chat.example");
        write(&mut tx, part(1, 0, false)).await.expect("decided");
        tx.append(OFFLINE, 1 << 50, b"new".to_vec());
        write(&mut tx, part(2, 0, false)).await.expect("decided");
        write(&mut tx, part(2, 1, true)).await.expect("decided");
        let kept = tx.archive(OFFLINE, Page::after(None, 99)).await.expect("read");
        assert_eq!(kept.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 1 << 50]);
    }

    #[tokio::test]
    async fn an_export_is_cut_into_pages_that_leave_nothing_out() {
        let mut tx = Tx::of("romeo@chat.example");
        assert!(matches!(read(&tx, After::Nothing).await, Ok(Answer::NoAccount)));
        write(&mut tx, part(1, 0, false)).await.expect("decided");
        assert!(matches!(read(&tx, After::Nothing).await, Ok(Answer::Unfinished)));
        let mut last = part(1, 1, true);
        let named = |n: u64| Contact {
            name: Some("n".repeat(40_000)),
            groups: vec![n.to_string()],
            ..Contact::default()
        };
        last.contacts = (10..40)
            .map(|n| (BareJid::parse(&format!("c{n}@chat.example")).expect("a JID"), named(n)))
            .collect();
        last.kept = (10..40).map(|n| (Shelf::Private, n.to_string(), vec![b'p'; 30_000])).collect();
        last.kept.push((Shelf::Vcard, String::new(), vec![b'v'; 100_000]));
        last.messages = (2..80).map(|id| (id, vec![b'm'; 30_000])).collect();
        write(&mut tx, last).await.expect("decided");
        let (mut kept, mut contacts, mut ids, mut pages, mut after) =
            (0, 0, Vec::new(), 0, Some(After::Nothing));
        while let Some(from) = after {
            let answer = read(&tx, from).await.expect("read");
            let size = postcard::to_stdvec(&answer).expect("serialises").len();
            assert!(size < PART_BYTES_MAX + ROW_BYTES_MAX, "{size}");
            let Answer::Page { kept: own, contacts: more, messages, next, .. } = answer else {
                panic!("{answer:?}")
            };
            kept += own.len();
            contacts += more.len();
            ids.extend(messages.into_iter().map(|(id, _)| id));
            (pages, after) = (pages + 1, next);
        }
        assert_eq!((kept, contacts, ids), (32, 31, (1..80).collect::<Vec<u64>>()));
        assert!(pages > 5, "{pages}");
    }

    #[tokio::test]
    async fn a_long_row_of_an_export_has_a_page_for_itself() {
        let mut tx = Tx::of("romeo@chat.example");
        write(&mut tx, part(1, 0, false)).await.expect("decided");
        let mut last = part(1, 1, true);
        let list = |name: &str, bytes| (Shelf::Privacy, name.to_owned(), vec![b'p'; bytes]);
        last.kept = vec![list("a", 380_000), list("b", 740_000)];
        write(&mut tx, last).await.expect("decided");
        let (mut names, mut after) = (Vec::new(), Some(After::Nothing));
        while let Some(from) = after {
            let answer = read(&tx, from).await.expect("read");
            let size = postcard::to_stdvec(&answer).expect("serialises").len();
            assert!(size < s2s::link::BODY_BYTES_MAX, "{size}");
            let Answer::Page { kept, next, .. } = answer else { panic!("{answer:?}") };
            names.extend(kept.into_iter().map(|(_, name, _)| name));
            after = next;
        }
        assert_eq!(names, ["0", "a", "b"]);
    }
}
