//! Accounts that leave and come, at a real home: what is exported comes back equal, in one entry or many, and what cannot
//! be kept is refused before anything is written.

use std::sync::Arc;

use xmpp::sasl::{Credentials, Hash, Password, Verdict};

use super::super::operator::Desk;
use super::*;
use crate::admin::{ArchivePart, Operator, RefusalKind};
use crate::auth::Authenticator;
use crate::testing::{House, bare};

fn desk(house: &House) -> Desk {
    Desk::new(Arc::clone(&house.node))
}

fn message(number: usize, bytes: usize) -> String {
    let to = "<message to='romeo@chat.example/old' from='juliet@chat.example/b' type='chat'>";
    let delay = "<delay xmlns='urn:xmpp:delay' stamp='2026-01-01T00:00:00Z'/>";
    format!("{to}<body>{number} {}</body>{delay}</message>", "x".repeat(bytes))
}

/// Romeo with a password, a roster of every kind, and messages.
fn romeo(messages: usize, bytes: usize) -> UserExport {
    let item = |jid: &str, subscription| RosterItem {
        jid: format!("{jid}@chat.example"),
        subscription,
        ..RosterItem::default()
    };
    UserExport {
        account: "romeo@chat.example".to_owned(),
        created: Some(1_700_000_000_000),
        password: Some("wherefore".to_owned()),
        roster: vec![
            RosterItem { approved: true, ..item("benvolio", Subscription::None) },
            RosterItem {
                name: Some("Juliet".to_owned()),
                groups: vec!["Capulets".to_owned()],
                ..item("juliet", Subscription::Both)
            },
            RosterItem { ask: true, ..item("mercutio", Subscription::From) },
            item("rosaline", Subscription::To),
        ],
        requests: vec![
            "<presence from='paris@chat.example' to='romeo@chat.example' type='subscribe'><status>Please</status></presence>"
                .to_owned(),
            "<presence from='rosaline@chat.example' to='romeo@chat.example' type='subscribe'/>".to_owned(),
        ],
        vcard: Some("<vCard xmlns='vcard-temp'><FN>Romeo</FN></vCard>".to_owned()),
        private: vec![
            "<exodus xmlns='exodus:prefs'><a/></exodus>".to_owned(),
            "<storage xmlns='storage:bookmarks'/>".to_owned(),
        ],
        privacy: Some(
            "<query xmlns='jabber:iq:privacy'><default name='a'/><list name='a'>\
             <item type='jid' value='tybalt@chat.example' action='deny' order='1'/></list></query>"
                .to_owned(),
        ),
        preferences: Some(
            "<prefs xmlns='urn:xmpp:mam:2' default='never'><always><jid>juliet@chat.example</jid></always><never/></prefs>"
                .to_owned(),
        ),
        offline: (0..messages).map(|number| message(number, bytes)).collect(),
        ..UserExport::default()
    }
}

async fn exported(desk: &Desk, account: &str) -> UserExport {
    let mut user = desk.user_export(account).await.expect("exported");
    while let Some(after) = user.more.take() {
        let page = desk.user_offline(account, after).await.expect("exported");
        user.offline.extend(page.offline);
        user.more = page.more;
    }
    user
}

#[tokio::test]
async fn what_is_exported_comes_back_equal_in_one_entry_or_many() {
    let house = House::new().await;
    let desk = desk(&house);
    for (messages, bytes, entries) in [(3, 10, 1..2), (150, 50_000, 15..30), (0, 0, 1..2)] {
        let given = romeo(messages, bytes);
        desk.user_import(given.clone()).await.expect("imported");
        let first = exported(&desk, "romeo@chat.example").await;
        assert_eq!((first.password.as_ref(), first.scram.len()), (None, 3));
        assert_eq!(
            (first.created, &first.roster, &first.requests, &first.offline),
            (given.created, &given.roster, &given.requests, &given.offline)
        );
        assert_eq!((&first.vcard, &first.private), (&given.vcard, &given.private));
        assert_eq!((&first.privacy, &first.preferences), (&given.privacy, &given.preferences));
        desk.user_remove("romeo@chat.example").await.expect("removed");
        let before = house.node.homes.log_head();
        desk.user_import(first.clone()).await.expect("imported");
        assert!(entries.contains(&(house.node.homes.log_head() - before)));
        assert_eq!(exported(&desk, "romeo@chat.example").await, first);
        let right = house.node.authenticator.plain(&bare("romeo"), Password::new("wherefore"));
        assert_eq!(right.await, Verdict::Right);
        desk.user_remove("romeo@chat.example").await.expect("removed");
    }
}

#[tokio::test]
async fn an_imported_user_finds_roster_and_messages_and_is_asked() {
    let house = House::new().await;
    desk(&house).user_import(romeo(20, 40_000)).await.expect("imported");
    let seat = house.available("romeo/new", 0).await;
    let mut mail = Vec::new();
    while mail.iter().filter(|text: &&String| text.contains("<body>")).count() < 20 {
        mail.extend(house.mail(&seat).await);
    }
    let bodies = mail.iter().filter_map(|text| text.split_once("<body>"));
    let numbers: Vec<usize> =
        bodies.filter_map(|(_, body)| body.split(' ').next()?.parse().ok()).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    assert!(mail.iter().any(|text| text.contains("paris") && text.contains("Please")), "{mail:?}");
    let roster = house.node.rosters.load(&house.node, &bare("romeo")).await.expect("read");
    assert_eq!(roster.subscribers().count(), 2);
}

#[tokio::test]
async fn a_disabled_account_stays_disabled_and_one_of_sha_1_only_signs_in_with_that() {
    let house = House::new().await;
    let desk = desk(&house);
    let disabled = UserExport { disabled: true, ..romeo(0, 0) };
    desk.user_import(disabled).await.expect("imported");
    let plain =
        async || house.node.authenticator.plain(&bare("romeo"), Password::new("wherefore")).await;
    assert_eq!(plain().await, Verdict::Disabled);
    let mut user = exported(&desk, "romeo@chat.example").await;
    assert!(user.disabled);
    desk.user_remove("romeo@chat.example").await.expect("removed");
    user.disabled = false;
    user.scram.retain(|scram| scram.mechanism == "SCRAM-SHA-1");
    desk.user_import(user.clone()).await.expect("imported");
    assert_eq!(plain().await, Verdict::Right);
    let keys = async |hash| house.node.authenticator.scram(&bare("romeo"), hash).await;
    assert!(matches!(keys(Hash::Sha256).await, Credentials::Unknown));
    assert!(matches!(keys(Hash::Sha1).await, Credentials::Keys(_)));
    assert_eq!(exported(&desk, "romeo@chat.example").await, user);
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_and_leaves_nothing() {
    let house = House::with("[limits]\nroster_items_max = 5\noffline_messages_max = 3\n").await;
    let desk = desk(&house);
    let salted = |salt: &str, count, key: &str| ScramCredentials {
        mechanism: "SCRAM-SHA-1".to_owned(),
        iterations: count,
        salt: salt.to_owned(),
        server_key: key.to_owned(),
        stored_key: key.to_owned(),
    };
    let key = BASE64.encode([7; 20]);
    let contact = |jid: &str| RosterItem { jid: jid.to_owned(), ..RosterItem::default() };
    type Change<'a> = Box<dyn Fn(&mut UserExport) + 'a>;
    let change = |change: &'static dyn Fn(&mut UserExport)| -> Change<'_> { Box::new(change) };
    let with = |scram: ScramCredentials| -> Change<'_> {
        Box::new(move |user| user.scram = vec![scram.clone()])
    };
    let cases = [
        ("is no account of chat.example", change(&|user| user.account = "a@b".to_owned())),
        ("nobody could sign in", change(&|user| user.password = None)),
        ("cannot be used", change(&|user| user.password = Some("\u{7}".to_owned()))),
        ("offline_messages_max is 3", change(&|user| user.offline = vec![message(1, 1); 4])),
        ("a stanza that cannot", change(&|user| user.offline = vec!["<message>".to_owned()])),
        ("are messages", change(&|user| user.offline = vec!["<presence/>".to_owned()])),
        ("a message of", change(&|user| user.offline = vec![message(1, 400_000)])),
        ("a request that is no", change(&|user| user.requests = vec!["<presence/>".to_owned()])),
        ("roster_items_max is 5", Box::new(|user| user.roster.push(contact("more@x")))),
        ("twice", Box::new(|user| user.roster = vec![contact("a@x"), contact("A@x")])),
        ("the contact \"@\"", Box::new(|user| user.roster = vec![contact("@")])),
        ("a key of another length", with(salted("c2FsdA==", 1, &BASE64.encode([7; 32])))),
        ("not base64", with(salted("?", 1, &key))),
        ("an iteration count of 0", with(salted("c2FsdA==", 0, &key))),
        ("an iteration count of 4294967295", with(salted("c2FsdA==", u32::MAX, &key))),
        ("a salt of 0 bytes", with(salted("", 1, &key))),
    ];
    for (says, change) in cases {
        let mut user = romeo(1, 1);
        change(&mut user);
        let refusal = desk.user_import(user).await.expect_err(says);
        assert!(refusal.message.contains(says), "{refusal:?} should say {says}");
        assert_eq!((refusal.kind, house.node.homes.log_head()), (RefusalKind::Invalid, 0));
    }
    desk.user_import(romeo(1, 1)).await.expect("imported");
    let refusal = desk.user_import(romeo(1, 1)).await.expect_err("it is there");
    assert_eq!(refusal.kind, RefusalKind::Conflict, "{refusal:?}");
    let refusal = desk.user_export("nobody@chat.example").await.expect_err("it is not there");
    assert_eq!(refusal.kind, RefusalKind::NotFound, "{refusal:?}");
}

fn archived(n: u64, id: &str, bytes: usize) -> Archived {
    let (from, to) = match n % 2 {
        0 => ("romeo@chat.example/old", "juliet@chat.example"),
        _ => ("juliet@chat.example/b", "romeo@chat.example"),
    };
    let body = format!("<body>{n} {}</body>", "x".repeat(bytes));
    Archived {
        id: id.to_owned(),
        at: 1_700_000_000_000 + n,
        message: format!("<message from='{from}' to='{to}' type='chat' id='m{n}'>{body}</message>"),
    }
}

async fn archive(desk: &Desk, account: &str) -> Vec<Archived> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = desk.user_archive(account, after).await.expect("exported");
        all.extend(page.archive);
        after = page.more;
        if after.is_none() {
            return all;
        }
    }
}

/// In requests of so many messages.
async fn import_with(desk: &Desk, user: UserExport, given: &[Archived], some: usize) {
    let account = user.account.clone();
    let mut after = desk.user_import(user).await.expect("imported");
    let mut parts = given.chunks(some).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        let part = ArchivePart { after, archive: part.to_vec(), last };
        after = desk.user_import_archive(&account, part).await.expect("imported");
    }
    assert_eq!(after.archived, given.len() as u64);
}

#[tokio::test]
async fn an_archive_comes_back_equal_and_whoever_imports_it_signs_in_when_it_is_whole() {
    let house = House::new().await;
    let desk = desk(&house);
    let user = || UserExport { archive_follows: true, ..romeo(2, 10) };
    let plain =
        async || house.node.authenticator.plain(&bare("romeo"), Password::new("wherefore")).await;
    for (count, bytes, some) in [(5, 10, 2), (300, 20_000, 250), (100, 100_000, 1)] {
        let given: Vec<Archived> =
            (0..count).map(|n| archived(n, &format!("{n:024x}"), bytes)).collect();
        let after = desk.user_import(user()).await.expect("imported");
        let part = ArchivePart { after, archive: given[..2].to_vec(), last: false };
        desk.user_import_archive("romeo@chat.example", part).await.expect("imported");
        assert_eq!(plain().await, Verdict::Disabled, "it is not whole yet");
        let refusal = desk.user_export("romeo@chat.example").await.expect_err("unfinished");
        assert_eq!(refusal.kind, RefusalKind::Conflict);
        // It failed on its way, and is repeated.
        import_with(&desk, user(), &given, some).await;
        assert_eq!(plain().await, Verdict::Right);
        assert_eq!(archive(&desk, "romeo@chat.example").await, given);
        let stale = ArchivePart { after, archive: Vec::new(), last: true };
        let refusal = desk.user_import_archive("romeo@chat.example", stale).await;
        assert_eq!(refusal.expect_err("it is over").kind, RefusalKind::Conflict);
        desk.user_remove("romeo@chat.example").await.expect("removed");
        assert!(desk.user_archive("romeo@chat.example", None).await.is_err());
    }
}

#[tokio::test]
async fn an_imported_archive_has_ids_of_ours_and_goes_on() {
    let house = House::new().await;
    let desk = desk(&house);
    let given: Vec<Archived> = (0..3).map(|n| archived(n, &format!("foreign-{n}"), 1)).collect();
    let given = [given, vec![archived(3, "", 1)]].concat();
    let user = UserExport { archive_follows: true, preferences: None, ..romeo(0, 0) };
    import_with(&desk, user, &given, 3).await;
    let kept = archive(&desk, "romeo@chat.example").await;
    let messages = |archive: &[Archived]| {
        archive.iter().map(|archived| archived.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(messages(&kept), messages(&given));
    let ids: std::collections::BTreeSet<&str> = kept.iter().map(|kept| kept.id.as_str()).collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    house.accounts(["juliet"]).await;
    let seat = house.available("romeo/new", 0).await;
    house
        .says(
            &seat,
            "<message to='juliet@chat.example' type='chat' id='new'><body>new</body></message>",
        )
        .await;
    let settled = || house.node.archive.queue.is_settled(&bare("romeo"));
    house.until("what was said is filed", settled).await;
    let kept = archive(&desk, "romeo@chat.example").await;
    assert_eq!(kept.len(), 5);
    assert!(kept[4].message.contains("id='new'") && kept[0].message.contains("id='m0'"));
    let bad = Archived { message: "<presence/>".to_owned(), ..archived(0, "", 1) };
    let after = crate::admin::Imported::default();
    let part = ArchivePart { after, archive: vec![bad], last: true };
    let refusal = desk.user_import_archive("romeo@chat.example", part).await;
    assert_eq!(refusal.expect_err("no message").kind, RefusalKind::Invalid);
}

/// The way of an account: out of another server's document, in here, out as a document of ours, and in again where it is the same.
#[tokio::test]
async fn accounts_of_others_come_in_and_leave_as_they_came() {
    use std::io::Cursor;

    use crate::pie::{Hosts, Reader, Writer};

    let sha1 = "AQIDBAUGBwgJCgsMDQ4PEBESExQ=";
    let ejabberd = format!(
        "<?xml version='1.0' encoding='UTF-8'?><server-data xmlns='urn:xmpp:pie:0' xmlns:xi='http://www.w3.org/2001/XInclude'>\
         <host jid='old.example'><user name='romeo' password='scram:{sha1},{sha1},c2FsdA==,4096'>\
         <offline-messages><message xmlns='jabber:client' from='juliet@old.example/b' to='romeo@old.example' type='chat'>\
         <body>hi</body><delay xmlns='urn:xmpp:delay' from='old.example' stamp='2026-07-21T00:32:29Z'/></message></offline-messages>\
         <vCard xmlns='vcard-temp'><FN>Romeo</FN></vCard>\
         <query xmlns='jabber:iq:roster'><item subscription='both' jid='juliet@old.example' name='Juliet'><group>Capulets</group></item>\
         <item ask='subscribe' subscription='none' jid='rosaline@old.example'/></query>\
         <presence xmlns='jabber:client' type='subscribe' from='paris@verona.example' to='romeo@old.example'/>\
         <query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'><conference jid='a@rooms.old.example'/></storage></query>\
         </user></host></server-data>"
    );
    let key = "0102030405060708090a0b0c0d0e0f1011121314";
    let prosody = format!(
        "<server-data xmlns='urn:xmpp:pie:0'><host jid='old.example'>\
         <user xmlns:p='http://prosody.im/protocol/extended-xep0227' name='romeo' p:iteration_count='4096' p:salt='salt' \
         p:server_key='{key}' p:stored_key='{key}'>\
         <query xmlns='jabber:iq:roster' version='9'><item jid='juliet@old.example' subscription='both' name='Juliet'><group>Capulets</group></item>\
         <item jid='rosaline@old.example' subscription='none' ask='subscribe'/></query>\
         <presence type='subscribe' from='paris@verona.example'/>\
         <vCard xmlns='vcard-temp'><FN>Romeo</FN></vCard>\
         <query xmlns='jabber:iq:private'><storage xmlns='storage:bookmarks'><conference jid='a@rooms.old.example'/></storage></query>\
         </user></host></server-data>"
    );
    let house = House::new().await;
    let desk = desk(&house);
    let read = |text: String, hosts: &[String]| {
        let hosts = Hosts::parse(hosts).expect("hosts");
        let mut reader = Reader::new("d.xml", Box::new(Cursor::new(text.into_bytes())), hosts);
        reader.next_user().expect("a document").expect("a user").read.expect("a good user")
    };
    let mut left = Vec::new();
    for text in [ejabberd, prosody] {
        let given = read(text, &["old.example=chat.example".to_owned()]);
        desk.user_import(given.clone()).await.expect("imported");
        let user = exported(&desk, "romeo@chat.example").await;
        assert_eq!((&user.scram, &user.roster), (&given.scram, &given.roster));
        assert_eq!((&user.requests, &user.offline), (&given.requests, &given.offline));
        assert_eq!((&user.vcard, &user.private), (&given.vcard, &given.private));
        let mut writer = Writer::begin(Vec::new()).expect("written");
        writer.user(&user).expect("written");
        writer.user_end().expect("written");
        let ours = String::from_utf8(writer.end().expect("written")).expect("text");
        assert_eq!(read(ours, &[]), user);
        desk.user_remove("romeo@chat.example").await.expect("removed");
        left.push(UserExport { created: None, offline: Vec::new(), ..user });
    }
    assert_eq!(left[0], left[1], "two servers' words for one account");
}
