//! Reading an archive: what a query asks for (XEP-0313 §4), and the page that answers it, from the local replica. What is asked is a value;
//! only [`run`] touches storage.

use std::sync::Arc;

use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::payload::data_form::{Field, FieldKind, Form, FormKind};
use xmpp::payload::date_time;
use xmpp::payload::rsm::{BadSet, Wanted};
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;
use xmpp::xml::element::Element;

use super::item::{ARCHIVE, Item, PLACES, mark};
use crate::app::Node;
use crate::storage::{Page, Storage, StorageError};

/// The field of XEP-0431.
const FULLTEXT: &str = "{urn:xmpp:fulltext:0}fulltext";
/// What it was called before that.
const WITHTEXT: &str = "withtext";
/// Whether what was said in rooms is wanted too (§4.1.4).
const GROUPCHAT: &str = "include-groupchat";
/// All that are known.
const FIELDS: [&str; 10] = [
    "FORM_TYPE",
    "with",
    "start",
    "end",
    "before-id",
    "after-id",
    "ids",
    GROUPCHAT,
    FULLTEXT,
    WITHTEXT,
];
/// XEP-0004 §3.3.
const BOOLEANS: [&str; 4] = ["true", "false", "1", "0"];
/// Items of one page when the query does not say.
const PAGE: usize = 50;
/// Items read at once while looking for those that match.
const LOOK: usize = 500;
/// So many are counted beside a page that is not all of them; of more the number is not said.
const COUNT_MAX: usize = 1_000;
/// Bytes of messages in one page, for one that has fewer leaves room in the client's mailbox.
const PAGE_BYTES: usize = 1 << 20;
/// Ids that may be asked for by name.
const IDS_MAX: usize = 250;
/// An item's place is given when its home has it: never earlier than it was received, but for clocks that differ.
const CLOCKS_MS: u64 = 60_000;
/// And never later than this, unless its home was away for longer.
const LATE_MS: u64 = 86_400_000;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The client's name for the query.
    pub queryid: Option<String>,
    /// With whom.
    pub with: Option<Jid>,
    /// Received at this time or later, in milliseconds since the Unix epoch.
    pub start_ms: Option<u64>,
    /// Received at this time or earlier.
    pub end_ms: Option<u64>,
    /// Before the item of this id.
    pub before_id: Option<String>,
    /// After the item of this id.
    pub after_id: Option<String>,
    /// These items.
    pub ids: Vec<String>,
    /// Words that the body has, in lower case.
    pub words: Vec<String>,
    /// Which part.
    pub wanted: Wanted,
    /// The newest first.
    pub flip: bool,
}

impl Query {
    /// Reads `<query/>`.
    ///
    /// # Errors
    /// `bad-request`, `jid-malformed`, and `feature-not-implemented` for a field that is not known (§4.1.5).
    pub fn parse(element: &Element) -> Result<Self, StanzaError> {
        let mut query = Self {
            queryid: element.attr("queryid").map(str::to_owned),
            flip: element.has_child("flip-page", ns::MAM),
            wanted: Wanted::of(element).map_err(|bad| match bad {
                BadSet::Max => StanzaError::bad_request(),
                BadSet::Index => StanzaError::feature_not_implemented(),
            })?,
            ..Self::default()
        };
        let Some(form) = element.child("x", ns::DATA_FORMS) else { return Ok(query) };
        let form = Form::parse(form).map_err(|_| StanzaError::bad_request())?;
        if form.kind != FormKind::Submit || form.form_type() != Some(ns::MAM) {
            return Err(StanzaError::bad_request());
        }
        for field in &form.fields {
            let Some(var) = field.var.as_deref() else { continue };
            if !FIELDS.contains(&var) {
                return Err(StanzaError::feature_not_implemented());
            }
            let first = field.values.first().map(String::as_str);
            let Some(value) = first.filter(|value| !value.is_empty()) else { continue };
            match var {
                "with" => {
                    let with = Jid::parse(value).map_err(|_| StanzaError::jid_malformed())?;
                    query.with = Some(with);
                }
                "start" => query.start_ms = Some(time(value)?),
                "end" => query.end_ms = Some(time(value)?),
                "before-id" => query.before_id = Some(value.to_owned()),
                "after-id" => query.after_id = Some(value.to_owned()),
                "ids" if field.values.len() > IDS_MAX => {
                    return Err(StanzaError::resource_constraint());
                }
                "ids" => query.ids.clone_from(&field.values),
                WITHTEXT | FULLTEXT => {
                    query.words = value.split_whitespace().map(str::to_lowercase).collect();
                }
                // There is nothing that was said in rooms: with it or without is the same.
                GROUPCHAT if !BOOLEANS.contains(&value) => return Err(StanzaError::bad_request()),
                _ => {}
            }
        }
        Ok(query)
    }

    /// Whether an item's place and mark say already that it is meant.
    fn is_plain(&self) -> bool {
        let whom = self.with.as_ref().is_none_or(|with| with.resource().is_none());
        whom && self.words.is_empty() && self.start_ms.is_none() && self.end_ms.is_none()
    }

    /// Whether an item is one of those meant, as far as its place does not say.
    fn has(&self, item: &Item) -> bool {
        self.start_ms.is_none_or(|start| item.at_ms >= start)
            && self.end_ms.is_none_or(|end| item.at_ms <= end)
            && self.with.as_ref().is_none_or(|with| item.is_with(with))
            && (self.words.is_empty() || self.is_said(item))
    }

    fn is_said(&self, item: &Item) -> bool {
        let stanza = Stanza::parse(bytes::Bytes::copy_from_slice(&item.stanza));
        let said = stanza.ok().and_then(|stanza| stanza.child("body", ns::CLIENT));
        let said = said.map(|body| body.text().to_lowercase()).unwrap_or_default();
        self.words.iter().all(|word| said.contains(word))
    }
}

fn time(value: &str) -> Result<u64, StanzaError> {
    let at = date_time::parse(value).ok_or_else(StanzaError::bad_request)?;
    Ok(u64::try_from(at).unwrap_or(0))
}

/// The form of a query: what can be asked for (§4.1.5).
pub fn form() -> Element {
    let field = |name: &str, kind| Field::empty(name, kind);
    let form = Form::typed(FormKind::Form, ns::MAM)
        .with_field(field("with", FieldKind::JidSingle))
        .with_field(field("start", FieldKind::TextSingle))
        .with_field(field("end", FieldKind::TextSingle))
        .with_field(field("before-id", FieldKind::TextSingle))
        .with_field(field("after-id", FieldKind::TextSingle))
        .with_field(field("ids", FieldKind::ListMulti))
        .with_field(field(GROUPCHAT, FieldKind::Boolean))
        .with_field(field(FULLTEXT, FieldKind::TextSingle));
    let mut element = form.element();
    // The list is open (§4.1.5, XEP-0122).
    const VALIDATE: &str = "http://jabber.org/protocol/xdata-validate";
    for field in element.children_mut().filter(|field| field.attr("var") == Some("ids")) {
        let open = Element::new("open", VALIDATE);
        let any = Element::new("validate", VALIDATE).with_attr("datatype", "xs:string");
        field.push_child(any.with_child(open));
    }
    Element::new("query", ns::MAM).with_child(element)
}

/// The answer.
#[derive(Debug, Default)]
pub struct Found {
    /// In the order of the archive.
    pub items: Vec<Item>,
    /// There are no more.
    pub complete: bool,
    /// How many there are in all, where that is known.
    pub count: Option<u64>,
    /// How many of them stand before these, where that is known.
    pub index: Option<u64>,
}

/// Why there is none.
#[derive(Debug)]
pub enum NotFound {
    /// An item that the query names is not there.
    Item,
    /// The replica cannot be read.
    Storage(StorageError),
}

impl From<StorageError> for NotFound {
    fn from(error: StorageError) -> Self {
        NotFound::Storage(error)
    }
}

/// One reading of one account's archive.
struct Reading<'a> {
    storage: &'a dyn Storage,
    owner: &'a str,
    query: &'a Query,
}

/// Looks in the local replica. Costs one read of a page where nothing but a party and times are asked for, else as many as it takes to fill it.
///
/// # Errors
/// [`NotFound`].
pub async fn run(node: &Arc<Node>, account: &BareJid, query: &Query) -> Result<Found, NotFound> {
    let storage = node.storage.as_ref();
    Reading { storage, owner: account.as_str(), query }.run(node.config.archive.page_max).await
}

/// The first and the last item, for `<metadata/>` (§5).
///
/// # Errors
/// The replica cannot be read.
pub async fn ends(
    storage: &dyn Storage,
    account: &BareJid,
) -> Result<Option<(Item, Item)>, StorageError> {
    let first = storage.archive(ARCHIVE, account.as_str(), Page::after(None, 1)).await?;
    let last = storage.archive(ARCHIVE, account.as_str(), Page::before(None, 1)).await?;
    let item = |found: Vec<(u64, Vec<u8>)>| found.first().and_then(|(_, item)| Item::decode(item));
    Ok(item(first).zip(item(last)))
}

impl Reading<'_> {
    async fn run(&self, page_max: usize) -> Result<Found, NotFound> {
        let query = self.query;
        if !query.ids.is_empty() {
            return self.by_name(page_max).await;
        }
        let wanted = &query.wanted;
        let newest = wanted.before.is_some();
        let named_before = wanted.before.as_deref().filter(|id| !id.is_empty());
        let mut all = Page {
            after: self.named(query.after_id.as_deref()).await?,
            before: self.named(query.before_id.as_deref()).await?,
            max: 0,
            newest: false,
            mark: query.with.as_ref().map(|with| mark(with.as_str())),
        };
        let place = |ms: u64| ms.min(u64::MAX >> 16) << 16;
        if let Some(start) = query.start_ms {
            all.after = all.after.max(place(start.saturating_sub(CLOCKS_MS)).checked_sub(1));
        }
        if let Some(end) = query.end_ms {
            all.before = earlier_of(all.before, Some(place(end.saturating_add(LATE_MS))));
        }
        let page = Page {
            after: all.after.max(self.named(wanted.after.as_deref()).await?),
            before: earlier_of(all.before, self.named(named_before).await?),
            newest,
            ..all
        };
        if wanted.max == Some(0) {
            let count = self.count(all).await?;
            return Ok(Found { complete: count == 0, count: Some(count), ..Found::default() });
        }
        let max = wanted.max.map_or(PAGE, |max| max as usize).min(page_max);
        let mut found = self.page(page, max).await?;
        // From the first on: nothing was passed over, or it was all there is on the way back.
        let from_first = wanted.after.is_none() && (!newest || found.complete);
        let to_last = wanted.after.is_none() && newest && named_before.is_none();
        found.count = match found.complete && from_first && named_before.is_none() {
            true => Some(found.items.len() as u64),
            false => self.count_few(all).await?,
        };
        found.index = match found.count {
            _ if from_first => Some(0),
            Some(count) if to_last => count.checked_sub(found.items.len() as u64),
            _ => None,
        };
        Ok(found)
    }

    /// At most `max` that match, from one end.
    async fn page(&self, mut page: Page, max: usize) -> Result<Found, StorageError> {
        let mut items = Vec::new();
        let mut bytes = 0;
        let is_plain = self.query.words.is_empty();
        page.max = if is_plain { (max + 1).min(LOOK) } else { LOOK };
        let complete = 'looking: loop {
            let read = self.storage.archive(ARCHIVE, self.owner, page).await?;
            let read_all = read.len() < page.max;
            match (page.newest, read.first(), read.last()) {
                (true, Some((first, _)), _) => page.before = Some(*first),
                (false, _, Some((last, _))) => page.after = Some(*last),
                _ => {}
            }
            let mut read: Vec<_> = read.into_iter().map(|(_, value)| value).collect();
            if page.newest {
                read.reverse();
            }
            for value in read {
                let Some(item) = Item::decode(&value).filter(|item| self.query.has(item)) else {
                    continue;
                };
                bytes += item.stanza.len();
                if items.len() == max || (bytes > PAGE_BYTES && !items.is_empty()) {
                    break 'looking false;
                }
                items.push(item);
            }
            if read_all {
                break true;
            }
        };
        if page.newest {
            items.reverse();
        }
        Ok(Found { items, complete, ..Found::default() })
    }

    /// How many match in all, if they are not many: what a page costs is not to grow with the archive.
    async fn count_few(&self, mut all: Page) -> Result<Option<u64>, StorageError> {
        all.max = if self.query.is_plain() { COUNT_MAX + 1 } else { LOOK };
        let places = self.storage.archive_count(ARCHIVE, self.owner, all).await?;
        Ok(match places < all.max as u64 {
            true if self.query.is_plain() => Some(places),
            true => Some(self.count(all).await?),
            false => None,
        })
    }

    async fn count(&self, mut page: Page) -> Result<u64, StorageError> {
        if self.query.is_plain() {
            page.max = usize::MAX;
            return self.storage.archive_count(ARCHIVE, self.owner, page).await;
        }
        page.max = LOOK;
        let mut count = 0;
        loop {
            let read = self.storage.archive(ARCHIVE, self.owner, page).await?;
            let items = read.iter().filter_map(|(_, value)| Item::decode(value));
            count += items.filter(|item| self.query.has(item)).count() as u64;
            match read.last() {
                Some((last, _)) if read.len() == LOOK => page.after = Some(*last),
                _ => return Ok(count),
            }
        }
    }

    /// Those named, in the archive's order; each must be there (§4.1.3).
    async fn by_name(&self, page_max: usize) -> Result<Found, NotFound> {
        let mut places = Vec::new();
        for id in &self.query.ids {
            places.push(self.place(id).await?);
        }
        places.sort_unstable();
        places.dedup();
        let mut items = Vec::new();
        for place in places.iter().take(page_max) {
            let page = Page {
                after: place.checked_sub(1),
                before: place.checked_add(1),
                ..Page::after(None, 1)
            };
            let found = self.storage.archive(ARCHIVE, self.owner, page).await?;
            let item = found.first().and_then(|(_, value)| Item::decode(value));
            items.extend(item.filter(|item| self.query.has(item)));
        }
        let complete = places.len() <= page_max;
        let count = complete.then_some(items.len() as u64);
        Ok(Found { count, items, complete, index: Some(0) })
    }

    async fn place(&self, id: &str) -> Result<u64, NotFound> {
        let place = self.storage.get(PLACES, self.owner, id).await?;
        let place = place.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        place.ok_or(NotFound::Item)
    }

    /// Where the item of that id is, if there is one.
    async fn named(&self, id: Option<&str>) -> Result<Option<u64>, NotFound> {
        match id {
            Some(id) => self.place(id).await.map(Some),
            None => Ok(None),
        }
    }
}

fn earlier_of(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    [a, b].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::super::item::Uid;
    use super::*;
    use crate::storage::memory::Memory;
    use replication::{Change, Entry, Hlc};

    const JULIET: &str = "juliet@chat.example";

    fn query(inner: &str) -> Result<Query, StanzaError> {
        let xml = format!("<query xmlns='urn:xmpp:mam:2' queryid='f27'>{inner}</query>");
        Query::parse(&Element::parse(xml.as_bytes()).expect("well-formed"))
    }

    fn filled(fields: &str) -> String {
        format!(
            "<x xmlns='jabber:x:data' type='submit'><field var='FORM_TYPE' type='hidden'>\
             <value>urn:xmpp:mam:2</value></field>{fields}</x>"
        )
    }

    fn one(name: &str, value: &str) -> String {
        filled(&format!("<field var='{name}'><value>{value}</value></field>"))
    }

    #[test]
    fn what_is_wrong_with_a_query_is_said_exactly() {
        let rsm =
            |inner: &str| format!("<set xmlns='http://jabber.org/protocol/rsm'>{inner}</set>");
        for (inner, expected) in [
            (one("with", "@"), StanzaError::jid_malformed()),
            (one("start", "yesterday"), StanzaError::bad_request()),
            (one("end", "2010-13-01T00:00:00Z"), StanzaError::bad_request()),
            (one("colour", "red"), StanzaError::feature_not_implemented()),
            (filled("<field var='colour'/>"), StanzaError::feature_not_implemented()),
            (one("include-groupchat", "perhaps"), StanzaError::bad_request()),
            (rsm("<max>x</max>"), StanzaError::bad_request()),
            (rsm("<index>3</index>"), StanzaError::feature_not_implemented()),
            ("<x xmlns='jabber:x:data' type='submit'/>".to_owned(), StanzaError::bad_request()),
        ] {
            assert_eq!(query(&inner), Err(expected), "{inner}");
        }
        assert_eq!(query("").expect("good").queryid.as_deref(), Some("f27"));
        assert_eq!(query(&one("include-groupchat", "true")), query(""));
    }

    /// Ten messages, one a second, the even ones with romeo, the others with nurse.
    async fn archive() -> Memory {
        let storage = Memory::default();
        let mut changes = Vec::new();
        for n in 0..10u64 {
            let with = if n % 2 == 0 { "romeo@chat.example/x" } else { "nurse@chat.example" };
            let uid = Uid { order: n, salt: 0 };
            let stanza = format!("<message><body>Word {n}</body></message>").into_bytes();
            let at_ms = n * 1_000;
            let item = Item { uid, at_ms, with: with.to_owned(), sent: false, stanza };
            let id = Hlc::new(at_ms, 0).0 + 1;
            let (store, owner) = (ARCHIVE.into(), JULIET.to_owned());
            changes.push(Change::Append { store, owner, id, value: item.encode() });
            let (store, owner, key) = (PLACES.into(), JULIET.to_owned(), uid.to_string());
            changes.push(Change::Put { store, owner, key, value: id.to_be_bytes().to_vec() });
        }
        let entry = Entry { seq: 1, shard: 0, epoch: 1, at: Hlc::ZERO, changes };
        storage.commit_home(vec![entry]).await.expect("memory");
        storage
    }

    fn uid(n: u64) -> String {
        Uid { order: n, salt: 0 }.to_string()
    }

    #[tokio::test]
    async fn a_page_has_what_was_asked_for() {
        let storage = archive().await;
        let rsm =
            |inner: &str| format!("<set xmlns='http://jabber.org/protocol/rsm'>{inner}</set>");
        let at = |n: u64| date_time::format(n * 1_000);
        let table: Vec<(String, &[u64], bool)> = vec![
            (String::new(), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9], true),
            (rsm("<max>3</max>"), &[0, 1, 2], false),
            (rsm(&format!("<max>3</max><after>{}</after>", uid(2))), &[3, 4, 5], false),
            (rsm(&format!("<max>3</max><after>{}</after>", uid(6))), &[7, 8, 9], true),
            (rsm(&format!("<max>3</max><after>{}</after>", uid(9))), &[], true),
            (rsm("<max>3</max><before/>"), &[7, 8, 9], false),
            (rsm(&format!("<max>3</max><before>{}</before>", uid(7))), &[4, 5, 6], false),
            (rsm(&format!("<max>3</max><before>{}</before>", uid(3))), &[0, 1, 2], true),
            (one("with", "romeo@chat.example"), &[0, 2, 4, 6, 8], true),
            (one("with", "romeo@chat.example/x"), &[0, 2, 4, 6, 8], true),
            (one("with", "romeo@chat.example/y"), &[], true),
            (one("with", "nurse@chat.example") + &rsm("<max>2</max><before/>"), &[7, 9], false),
            (one("start", &at(8)), &[8, 9], true),
            (one("end", &at(1)), &[0, 1], true),
            (one("before-id", &uid(2)), &[0, 1], true),
            (one("after-id", &uid(7)), &[8, 9], true),
            (one("{urn:xmpp:fulltext:0}fulltext", "word 7"), &[7], true),
            (one("{urn:xmpp:fulltext:0}fulltext", "WORD") + &rsm("<max>1</max>"), &[0], false),
            (
                filled(&format!(
                    "<field var='ids'><value>{}</value><value>{}</value></field>",
                    uid(5),
                    uid(2)
                )),
                &[2, 5],
                true,
            ),
        ];
        for (inner, expected, complete) in table {
            let query = query(&inner).expect("good");
            let reading = Reading { storage: &storage, owner: JULIET, query: &query };
            let found = reading.run(250).await.expect("found");
            let orders: Vec<u64> = found.items.iter().map(|item| item.uid.order).collect();
            assert_eq!((&*orders, found.complete), (expected, complete), "{inner}");
        }
    }

    #[tokio::test]
    async fn where_a_page_begins_is_said_where_it_is_known() {
        let storage = archive().await;
        let rsm =
            |inner: &str| format!("<set xmlns='http://jabber.org/protocol/rsm'>{inner}</set>");
        let (all, first) = (Some(10), Some(0));
        for (inner, index, count) in [
            (String::new(), first, all),
            (rsm("<max>3</max>"), first, all),
            (rsm(&format!("<after>{}</after>", uid(2))), None, all),
            (rsm("<max>3</max><before/>"), Some(7), all),
            (rsm("<before/>"), first, all),
            (rsm(&format!("<before>{}</before>", uid(3))), first, all),
            (one("with", "nurse@chat.example"), first, Some(5)),
        ] {
            let query = query(&inner).expect("good");
            let reading = Reading { storage: &storage, owner: JULIET, query: &query };
            let found = reading.run(250).await.expect("found");
            assert_eq!((found.index, found.count), (index, count), "{inner}");
        }
    }

    #[tokio::test]
    async fn counting_counts_what_matches_and_not_the_page() {
        let storage = archive().await;
        let nurse = one("with", "nurse@chat.example");
        let late = one("start", &date_time::format(7_000));
        let after = one("after-id", &uid(4));
        for (filter, expected) in [(String::new(), 10), (nurse, 5), (after, 5), (late, 3)] {
            for (part, items) in [
                ("<max>0</max>".to_owned(), 0),
                ("<max>2</max>".to_owned(), 2),
                ("<max>3</max><before/>".to_owned(), 3),
                (format!("<max>1</max><after>{}</after>", uid(5)), 1),
            ] {
                let set = format!("<set xmlns='http://jabber.org/protocol/rsm'>{part}</set>");
                let query = query(&format!("{filter}{set}")).expect("good");
                let reading = Reading { storage: &storage, owner: JULIET, query: &query };
                let found = reading.run(250).await.expect("found");
                let (count, len) = (found.count, found.items.len());
                assert_eq!((count, len), (Some(expected), items), "{filter} {part}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_named_and_not_there_is_an_error() {
        let storage = archive().await;
        let rsm =
            |inner: &str| format!("<set xmlns='http://jabber.org/protocol/rsm'>{inner}</set>");
        for inner in [
            rsm("<after>nothing</after>"),
            rsm("<before>nothing</before>"),
            one("ids", "nothing"),
            one("before-id", &uid(77)),
            one("after-id", "x"),
        ] {
            let query = query(&inner).expect("good");
            let reading = Reading { storage: &storage, owner: JULIET, query: &query };
            assert!(matches!(reading.run(250).await, Err(NotFound::Item)), "{inner}");
        }
    }
}
