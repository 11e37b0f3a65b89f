//! Where an account's privacy lists are changed, block list included: one store, one writer (XEP-0191 §5). Runs only in the region that is the
//! account's home; everyone else sends a [`Request`] there. The home knows the account's sessions everywhere, and so which list is in use.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, FullJid, Jid};

use super::list::{List, Whom};
use super::record::{ACTIVE, Active, HEAD, Head, Named, Note, PRIVACY, decode, encode, key, name};
use crate::app::{Late, Node};
use crate::features::roster::record::{Contact, ROSTER};
use crate::homes::{self, HomeError, HomeOp, Tx, accounts};

/// Name of the operation.
pub const OP: &str = "privacy";
/// What the default list is called that comes of blocking.
const BLOCKED_CONTACTS: &str = "Blocked contacts";
/// The key of what the account has reported lately. No list has it, and it is not the head's.
const REPORTED: &str = "#reported";

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Who asks.
    pub session: FullJid,
    /// The limits of the asker.
    pub limits: Limits,
    /// What.
    pub what: What,
}

/// How much an account may have.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// `limits.privacy_lists_max`.
    pub lists: u32,
    /// `limits.privacy_items_max`.
    pub items: u32,
}

/// See [`Request`].
#[derive(Debug, Serialize, Deserialize)]
pub enum What {
    /// XEP-0191 §3.3.
    Block(Vec<Jid>),
    /// XEP-0191 §3.4.
    Unblock(Vec<Jid>),
    /// XEP-0191 §3.5.
    UnblockAll,
    /// XEP-0016 §2.6, §2.7: the whole list.
    Set(Named),
    /// XEP-0016 §2.8.
    Remove(String),
    /// XEP-0016 §2.5: the default list, or none.
    Default(Option<String>),
    /// XEP-0016 §2.4: the active list of a session of that generation, or none.
    Active(u64, Option<String>),
    /// XEP-0377: so many reports; a day, counted from 1970; how many the account may make in one.
    Report(u32, u64, u32),
}

/// What came of it; always after the commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// There is no such list, or no such group in the roster.
    NotFound,
    /// Another session uses the list.
    Conflict,
    /// More lists or items than there may be.
    TooMany,
    /// There is no such account.
    NoAccount,
    /// So many reports are taken.
    Reports(u32),
}

/// The operation. It sees the node for its session table.
pub struct PrivacyHome(pub Late);

impl HomeOp for PrivacyHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        account: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        homes::answer(OP, request, move |request| async move {
            let node = self.0.get().ok_or(HomeError::Unreachable)?;
            decide(tx, request, &sessions(&node, account)).await
        })
    }
}

/// A session of the account, wherever it is.
type Session = (FullJid, u64);

fn sessions(node: &Node, account: &BareJid) -> Vec<Session> {
    let all = node.directory.read(account.as_str(), |rows| {
        rows.iter().map(|row| (row.full.clone(), row.generation.0)).collect()
    });
    all.unwrap_or_default()
}

async fn decide(tx: &mut Tx, request: Request, sessions: &[Session]) -> Result<Answer, HomeError> {
    if !accounts::exists(tx).await? {
        return Ok(Answer::NoAccount);
    }
    let Request { session, limits, what } = request;
    match what {
        What::Block(jids) => edit(tx, jids, Vec::new(), limits).await,
        What::Unblock(jids) => edit(tx, Vec::new(), jids, limits).await,
        What::UnblockAll => unblock_all(tx).await,
        What::Set(named) => set(tx, named, limits).await,
        What::Remove(name) => remove(tx, &session, &name, sessions).await,
        What::Default(name) => default(tx, &session, name, sessions).await,
        What::Active(generation, name) => activate(tx, &session, generation, name, sessions).await,
        What::Report(count, day, per_day) => report(tx, count, day, per_day).await,
    }
}

async fn head(tx: &Tx) -> Result<Head, HomeError> {
    let bytes = tx.get(PRIVACY, HEAD).await?;
    Ok(bytes.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
}

async fn list(tx: &Tx, name: &str) -> Result<Option<List>, HomeError> {
    let bytes = tx.get(PRIVACY, &key(name)).await?;
    Ok(bytes.map(|bytes| decode(&bytes)).transpose()?)
}

/// Behind the list: who applies the changes in order has everything when the head comes.
fn write(tx: &mut Tx, before: &Head, default: Option<Named>, note: Note) {
    let head = Head { serial: before.serial + 1, default, note };
    tx.put(PRIVACY, HEAD, encode(&head));
}

/// The note, with what the change of the default list does to the block list.
fn noted(note: Note, before: &Head, default: Option<&Named>) -> Note {
    let empty = List::default();
    let now = default.map_or(&empty, |named| &named.list);
    let old: Vec<&Jid> = before.blocked().collect();
    let new: Vec<&Jid> = now.blocked().collect();
    let without = |all: &[&Jid], these: &[&Jid]| {
        all.iter().filter(|jid| !these.contains(jid)).map(|jid| (*jid).clone()).collect()
    };
    Note { blocked: without(&new, &old), unblocked: without(&old, &new), ..note }
}

/// XEP-0191: into the default list, which is made if there is none; an empty one goes.
async fn edit(
    tx: &mut Tx,
    more: Vec<Jid>,
    fewer: Vec<Jid>,
    limits: Limits,
) -> Result<Answer, HomeError> {
    let before = head(tx).await?;
    let known = before.default.clone();
    if known.is_none() && more.is_empty() {
        let note = Note { unblocked: fewer, ..Note::default() };
        write(tx, &before, None, note);
        return Ok(Answer::Done);
    }
    let Named { name, list: old } = match known {
        Some(named) => named,
        None => match free_name(tx, limits).await? {
            Some(name) => Named { name, list: List::default() },
            None => return Ok(Answer::TooMany),
        },
    };
    let list = old.with_blocked(&more, &fewer);
    if list.items().len() > limits.items as usize && list.items().len() > old.items().len() {
        return Ok(Answer::TooMany);
    }
    let changed = list != old;
    let note = Note {
        list: changed.then(|| name.clone()),
        by_blocking: true,
        blocked: more,
        unblocked: fewer,
        unblocked_all: false,
    };
    keep(tx, &before, Named { name, list }, note);
    Ok(Answer::Done)
}

async fn unblock_all(tx: &mut Tx) -> Result<Answer, HomeError> {
    let before = head(tx).await?;
    let note = Note { by_blocking: true, unblocked_all: true, ..Note::default() };
    let Some(Named { name, list: old }) = before.default.clone() else {
        write(tx, &before, None, note);
        return Ok(Answer::Done);
    };
    let all: Vec<Jid> = old.blocked().cloned().collect();
    let note = Note { list: (!all.is_empty()).then(|| name.clone()), ..note };
    let list = old.with_blocked(&[], &all);
    keep(tx, &before, Named { name, list }, note);
    Ok(Answer::Done)
}

/// The default list as it is by now; none, if nothing is left in it.
fn keep(tx: &mut Tx, before: &Head, named: Named, note: Note) {
    if named.list.items().is_empty() {
        tx.delete(PRIVACY, key(&named.name));
        write(tx, before, None, note);
    } else {
        if note.list.is_some() {
            tx.put(PRIVACY, key(&named.name), encode(&named.list));
        }
        write(tx, before, Some(named), note);
    }
}

/// A name for a list of blocked contacts that no other list has; `None`: there may be no more lists.
async fn free_name(tx: &Tx, limits: Limits) -> Result<Option<String>, HomeError> {
    let map = tx.map(PRIVACY).await?;
    let taken = |name: &String| map.contains_key(&key(name));
    if map.keys().filter_map(|key| name(key)).count() >= limits.lists as usize {
        return Ok(None);
    }
    let numbered = (2..).map(|number: u32| format!("{BLOCKED_CONTACTS} {number}"));
    Ok(std::iter::once(BLOCKED_CONTACTS.to_owned()).chain(numbered).find(|name| !taken(name)))
}

async fn set(tx: &mut Tx, named: Named, limits: Limits) -> Result<Answer, HomeError> {
    if named.list.items().len() > limits.items as usize {
        return Ok(Answer::TooMany);
    }
    if !groups_exist(tx, &named.list).await? {
        return Ok(Answer::NotFound);
    }
    if list(tx, &named.name).await?.is_none() {
        let map = tx.map(PRIVACY).await?;
        if map.keys().filter_map(|key| name(key)).count() >= limits.lists as usize {
            return Ok(Answer::TooMany);
        }
    }
    let before = head(tx).await?;
    tx.put(PRIVACY, key(&named.name), encode(&named.list));
    let note = Note { list: Some(named.name.clone()), ..Note::default() };
    let is_default = before.default.as_ref().is_some_and(|default| default.name == named.name);
    let default = if is_default { Some(named) } else { before.default.clone() };
    let note = noted(note, &before, default.as_ref());
    write(tx, &before, default, note);
    Ok(Answer::Done)
}

/// XEP-0016 §2.1: a group that is not in the roster is not found.
async fn groups_exist(tx: &Tx, list: &List) -> Result<bool, HomeError> {
    let mut named = list.items().iter().filter_map(|item| match &item.whom {
        Whom::Group(group) => Some(group),
        _ => None,
    });
    let Some(first) = named.next() else { return Ok(true) };
    let roster = tx.map(ROSTER).await?;
    let groups: Vec<String> = roster
        .values()
        .filter_map(|bytes| Contact::decode(bytes))
        .flat_map(|contact| contact.groups)
        .collect();
    Ok(std::iter::once(first).chain(named).all(|group| groups.contains(group)))
}

async fn remove(
    tx: &mut Tx,
    session: &FullJid,
    name: &str,
    sessions: &[Session],
) -> Result<Answer, HomeError> {
    if list(tx, name).await?.is_none() {
        return Ok(Answer::NotFound);
    }
    let before = head(tx).await?;
    let is_default = before.default.as_ref().is_some_and(|default| default.name == name);
    for other in sessions.iter().filter(|(full, _)| full != session) {
        match active(tx, other).await? {
            Some(active) if active == name => return Ok(Answer::Conflict),
            None if is_default => return Ok(Answer::Conflict),
            _ => {}
        }
    }
    let own = tx.get(ACTIVE, session.as_str()).await?;
    if own.and_then(|own| decode::<Active>(&own).ok()).is_some_and(|own| own.name == name) {
        tx.delete(ACTIVE, session.as_str());
    }
    tx.delete(PRIVACY, key(name));
    let default = before.default.clone().filter(|_| !is_default);
    // No push of the list's name: it has no definition any more that could be another (§2.8), and other servers send none.
    let note = noted(Note::default(), &before, default.as_ref());
    write(tx, &before, default, note);
    Ok(Answer::Done)
}

/// The active list of a session that is there.
async fn active(tx: &Tx, (full, generation): &Session) -> Result<Option<String>, HomeError> {
    let Some(bytes) = tx.get(ACTIVE, full.as_str()).await? else { return Ok(None) };
    let active: Active = decode(&bytes)?;
    Ok((active.generation == *generation).then_some(active.name))
}

async fn default(
    tx: &mut Tx,
    session: &FullJid,
    name: Option<String>,
    sessions: &[Session],
) -> Result<Answer, HomeError> {
    let before = head(tx).await?;
    let default = match name {
        Some(name) => match list(tx, &name).await? {
            Some(list) => Some(Named { name, list }),
            None => return Ok(Answer::NotFound),
        },
        None => None,
    };
    if default == before.default {
        return Ok(Answer::Done);
    }
    if before.default.is_some() {
        for other in sessions.iter().filter(|(full, _)| full != session) {
            if active(tx, other).await?.is_none() {
                return Ok(Answer::Conflict);
            }
        }
    }
    let note = noted(Note::default(), &before, default.as_ref());
    write(tx, &before, default, note);
    Ok(Answer::Done)
}

async fn activate(
    tx: &mut Tx,
    session: &FullJid,
    generation: u64,
    name: Option<String>,
    sessions: &[Session],
) -> Result<Answer, HomeError> {
    if let Some(name) = &name
        && list(tx, name).await?.is_none()
    {
        return Ok(Answer::NotFound);
    }
    // What sessions have left that ended without a word: as many as there may be sessions.
    for full in tx.map(ACTIVE).await?.into_keys() {
        if full != session.as_str() && !sessions.iter().any(|(known, _)| known.as_str() == full) {
            tx.delete(ACTIVE, full);
        }
    }
    match name {
        Some(name) => tx.put(ACTIVE, session.as_str(), encode(&Active { generation, name })),
        None => {
            let known = tx.get(ACTIVE, session.as_str()).await?;
            let known = known.and_then(|known| decode::<Active>(&known).ok());
            // A newer session of that name may have chosen meanwhile.
            if known.is_some_and(|known| known.generation <= generation) {
                tx.delete(ACTIVE, session.as_str());
            }
        }
    }
    Ok(Answer::Done)
}

async fn report(tx: &mut Tx, count: u32, day: u64, per_day: u32) -> Result<Answer, HomeError> {
    let known = tx.get(PRIVACY, REPORTED).await?;
    let (known_day, known): (u64, u32) = match known {
        Some(bytes) => decode(&bytes)?,
        None => (day, 0),
    };
    let known = if known_day == day { known } else { 0 };
    let taken = count.min(per_day.saturating_sub(known));
    if taken > 0 {
        tx.put(PRIVACY, REPORTED, encode(&(day, known + taken)));
    }
    Ok(Answer::Reports(taken))
}

#[cfg(test)]
mod tests {
    use super::super::list::{Item, Kinds};
    use super::*;

    const ROMEO: &str = "romeo@example.net";

    /// The home of romeo, who exists and has two sessions.
    struct Desk(Tx, Vec<Session>);

    impl Desk {
        fn new() -> Self {
            let mut tx = Tx::of(ROMEO);
            tx.put(accounts::ACCOUNTS, "", Vec::new());
            let contact = Contact { groups: vec!["Enemies".into()], ..Contact::default() };
            tx.put(ROSTER, "tybalt@example.com", contact.encode());
            tx.changed();
            Desk(tx, vec![(full("orchard"), 1), (full("home"), 2)])
        }

        async fn ask_as(&mut self, resource: &str, what: What) -> Answer {
            let limits = Limits { lists: 3, items: 4 };
            let request = Request { session: full(resource), limits, what };
            let answer = decide(&mut self.0, request, &self.1).await.expect("decided");
            self.0.changed();
            answer
        }

        async fn ask(&mut self, what: What) -> Answer {
            self.ask_as("orchard", what).await
        }

        /// Name of the default list, its items, and the lists there are.
        async fn state(&self) -> (String, String) {
            let head = head(&self.0).await.expect("read");
            let lists = self.0.map(PRIVACY).await.expect("read");
            let names: Vec<&str> = lists.keys().filter_map(|key| name(key)).collect();
            let Some(default) = head.default else { return ("-".into(), names.join(" ")) };
            let stored = list(&self.0, &default.name).await.expect("read");
            assert_eq!(
                stored.as_ref(),
                Some(&default.list),
                "the head has the list that is stored"
            );
            let word = |item: &Item| match &item.whom {
                Whom::Jid(jid) if !item.allow && item.kinds.is_all() => jid.as_str().to_owned(),
                _ => format!("{}?", item.order),
            };
            let items: Vec<String> = default.list.items().iter().map(word).collect();
            (format!("{}: {}", default.name, items.join(" ")), names.join(" "))
        }

        async fn is(&self, default: &str, lists: &str) {
            assert_eq!(self.state().await, (default.to_owned(), lists.to_owned()));
        }

        async fn note(&self) -> Note {
            head(&self.0).await.expect("read").note
        }
    }

    fn full(resource: &str) -> FullJid {
        FullJid::parse(&format!("{ROMEO}/{resource}")).expect("a JID")
    }

    fn jids(text: &str) -> Vec<Jid> {
        text.split_whitespace().map(|jid| Jid::parse(jid).expect("a JID")).collect()
    }

    fn a_list(name: &str, items: Vec<Item>) -> What {
        What::Set(Named { name: name.into(), list: List::new(items).expect("unique orders") })
    }

    fn deny(order: u32, whom: Whom) -> Item {
        Item { order, allow: false, kinds: Kinds::default(), whom }
    }

    fn jid_item(order: u32, jid: &str) -> Item {
        deny(order, Whom::Jid(Jid::parse(jid).expect("a JID")))
    }

    #[tokio::test]
    async fn blocking_makes_a_default_list_and_unblocking_everybody_ends_it() {
        let mut home = Desk::new();
        assert_eq!(home.ask(What::Unblock(jids("a@x"))).await, Answer::Done);
        home.is("-", "").await;
        assert_eq!(home.ask(What::Block(jids("a@x b@x"))).await, Answer::Done);
        home.is("Blocked contacts: a@x b@x", "Blocked contacts").await;
        assert_eq!(home.ask(What::Block(jids("b@x c@x"))).await, Answer::Done);
        assert_eq!(home.note().await.blocked, jids("b@x c@x"));
        assert_eq!(home.ask(What::Unblock(jids("a@x z@x"))).await, Answer::Done);
        home.is("Blocked contacts: b@x c@x", "Blocked contacts").await;
        assert_eq!(home.note().await.unblocked, jids("a@x z@x"));
        assert_eq!(home.ask(What::UnblockAll).await, Answer::Done);
        home.is("-", "").await;
        let note = home.note().await;
        assert!(note.unblocked_all && note.by_blocking && note.list.is_some());
        assert_eq!(home.ask(What::Block(jids("a@x"))).await, Answer::Done);
        assert_eq!(home.ask(What::Unblock(jids("a@x"))).await, Answer::Done);
        home.is("-", "").await;
    }

    #[tokio::test]
    async fn the_block_list_is_the_default_privacy_list() {
        let mut home = Desk::new();
        home.ask(a_list("public", vec![jid_item(3, "t@x"), deny(9, Whom::Everybody)])).await;
        home.is("-", "public").await;
        assert_eq!(home.ask(What::Default(Some("public".into()))).await, Answer::Done);
        assert_eq!(home.note().await.blocked, jids("t@x"));
        home.ask(What::Block(jids("p@x"))).await;
        home.is("public: t@x p@x 3?", "public").await;
        let note = home.note().await;
        assert_eq!((note.list.as_deref(), note.by_blocking), (Some("public"), true));
        home.ask(a_list("public", vec![jid_item(1, "p@x"), jid_item(2, "q@x")])).await;
        let note = home.note().await;
        assert_eq!((note.blocked, note.unblocked), (jids("q@x"), jids("t@x")));
        assert!(!note.by_blocking);
        // What blocking cannot say is left alone.
        home.ask(a_list("public", vec![jid_item(1, "p@x"), deny(2, Whom::Everybody)])).await;
        home.ask(What::UnblockAll).await;
        home.is("public: 1?", "public").await;
    }

    #[tokio::test]
    async fn lists_are_made_changed_and_removed() {
        let mut home = Desk::new();
        let remove = |name: &str| What::Remove(name.into());
        assert_eq!(home.ask(remove("private")).await, Answer::NotFound);
        assert_eq!(home.ask(a_list("private", vec![jid_item(1, "a@x")])).await, Answer::Done);
        assert_eq!(home.note().await.list.as_deref(), Some("private"));
        assert_eq!(home.ask(remove("private")).await, Answer::Done);
        home.is("-", "").await;
        let group = |name: &str| a_list("g", vec![deny(1, Whom::Group(name.into()))]);
        assert_eq!(home.ask(group("Friends")).await, Answer::NotFound);
        assert_eq!(home.ask(group("Enemies")).await, Answer::Done);
        for name in [Some("nothing"), None] {
            let expected = if name.is_some() { Answer::NotFound } else { Answer::Done };
            assert_eq!(home.ask(What::Default(name.map(Into::into))).await, expected);
            assert_eq!(home.ask(What::Active(1, name.map(Into::into))).await, expected);
        }
    }

    #[tokio::test]
    async fn there_are_no_more_lists_and_items_than_there_may_be() {
        let mut home = Desk::new();
        let items = |count: u32| (0..count).map(|at| jid_item(at, &format!("u{at}@x"))).collect();
        assert_eq!(home.ask(a_list("a", items(5))).await, Answer::TooMany);
        for name in ["a", "b", "c", "a"] {
            assert_eq!(home.ask(a_list(name, items(4))).await, Answer::Done);
        }
        assert_eq!(home.ask(a_list("d", items(1))).await, Answer::TooMany);
        assert_eq!(home.ask(What::Block(jids("a@x"))).await, Answer::TooMany);
        home.ask(What::Default(Some("a".into()))).await;
        assert_eq!(home.ask(What::Block(jids("new@x"))).await, Answer::TooMany);
        assert_eq!(home.ask(What::Block(jids("u1@x"))).await, Answer::Done);
        assert_eq!(home.ask(What::Unblock(jids("u1@x"))).await, Answer::Done);
        assert_eq!(home.ask(What::Block(jids("new@x"))).await, Answer::Done);
    }

    #[tokio::test]
    async fn what_another_session_uses_is_not_taken_from_it() {
        let mut home = Desk::new();
        for name in ["one", "two"] {
            home.ask(a_list(name, vec![jid_item(1, "a@x")])).await;
        }
        let default = |name: &str| What::Default(Some(name.into()));
        let remove = |name: &str| What::Remove(name.into());
        let active = |generation, name: &str| What::Active(generation, Some(name.into()));
        // Nobody uses a default list that is not there.
        assert_eq!(home.ask(default("one")).await, Answer::Done);
        assert_eq!(home.ask(default("one")).await, Answer::Done);
        assert_eq!(home.ask(default("two")).await, Answer::Conflict);
        assert_eq!(home.ask(What::Default(None)).await, Answer::Conflict);
        assert_eq!(home.ask(remove("one")).await, Answer::Conflict);
        // The other session has a list of its own: the default is this one's alone.
        assert_eq!(home.ask_as("home", active(2, "two")).await, Answer::Done);
        assert_eq!(home.ask(remove("two")).await, Answer::Conflict);
        assert_eq!(home.ask(default("two")).await, Answer::Done);
        assert_eq!(home.ask(remove("one")).await, Answer::Done);
        assert_eq!(home.ask(What::Default(None)).await, Answer::Done);
        // Its own list anyone may remove.
        assert_eq!(home.ask_as("home", remove("two")).await, Answer::Done);
        home.is("-", "").await;
    }

    #[tokio::test]
    async fn a_session_that_is_gone_uses_nothing() {
        let mut home = Desk::new();
        home.ask(a_list("one", vec![jid_item(1, "a@x")])).await;
        home.ask_as("home", What::Active(2, Some("one".into()))).await;
        assert_eq!(home.ask(What::Remove("one".into())).await, Answer::Conflict);
        home.1.pop();
        // Another of that name, which has chosen nothing.
        home.1.push((full("home"), 3));
        assert_eq!(home.ask(What::Remove("one".into())).await, Answer::Done);
        // The word of the one that is gone comes late.
        home.ask(a_list("one", vec![jid_item(1, "a@x")])).await;
        home.ask_as("home", What::Active(3, Some("one".into()))).await;
        home.ask_as("home", What::Active(2, None)).await;
        assert_eq!(home.ask(What::Remove("one".into())).await, Answer::Conflict);
    }

    #[tokio::test]
    async fn an_account_reports_so_much_a_day() {
        let mut home = Desk::new();
        for (count, day, taken) in [(3, 1, 3), (4, 1, 2), (1, 1, 0), (1, 2, 1)] {
            let answer = home.ask(What::Report(count, day, 5)).await;
            assert_eq!(answer, Answer::Reports(taken));
        }
        home.is("-", "").await;
    }
}
