//! Documents in and out: our own come back equal; those of Prosody and ejabberd are understood; what is no document is
//! refused, with the line.

use std::io::Cursor;
use std::path::Path;

use super::*;
use crate::admin::{Archived, RosterItem, ScramCredentials, Subscription, UserExport};

fn reader(text: &str) -> Reader {
    Reader::new("d.xml", Box::new(Cursor::new(text.to_owned().into_bytes())), Hosts::default())
}

type Users = Vec<Result<UserExport, String>>;

/// All users, and what was passed over. An error of a user is its text.
fn read(mut reader: Reader) -> Result<(Users, Vec<String>), String> {
    let mut users = Vec::new();
    while let Some(user) = reader.next_user().map_err(|wrong| wrong.to_string())? {
        users.push(user.read.map_err(|wrong| wrong.to_string()));
    }
    let unknown = reader.unknown().0.iter().map(|(what, count)| format!("{count} {what}"));
    Ok((users, unknown.collect()))
}

fn one(text: &str) -> (UserExport, Vec<String>) {
    let (mut users, unknown) = read(reader(text)).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(users.len(), 1);
    (users.remove(0).unwrap_or_else(|wrong| panic!("{wrong}")), unknown)
}

fn written(users: &[UserExport]) -> String {
    let mut writer = Writer::begin(Vec::new()).unwrap();
    for user in users {
        writer.user(user).unwrap();
        writer.user_end().unwrap();
    }
    String::from_utf8(writer.end().unwrap()).unwrap()
}

fn scram(mechanism: &str, key: &str) -> ScramCredentials {
    ScramCredentials {
        mechanism: mechanism.to_owned(),
        iterations: 10_000,
        salt: "c2FsdA==".to_owned(),
        server_key: key.to_owned(),
        stored_key: key.to_owned(),
    }
}

const SHA1: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQ=";
const SHA256: &str = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=";

fn juliet() -> UserExport {
    let item = |jid: &str, subscription| RosterItem {
        jid: jid.to_owned(),
        subscription,
        ..RosterItem::default()
    };
    UserExport {
        account: "juliet@capulet.example".to_owned(),
        created: Some(1_700_000_000_123),
        disabled: true,
        password: None,
        scram: vec![scram("SCRAM-SHA-256", SHA256), scram("SCRAM-SHA-1", SHA1)],
        roster: vec![
            RosterItem {
                name: Some("R & <\"'> \n\u{1f339}".to_owned()),
                groups: vec!["Friends & foes".to_owned(), "  spaces ".to_owned()],
                ..item("romeo@montague.example", Subscription::Both)
            },
            RosterItem { ask: true, ..item("nurse@capulet.example", Subscription::From) },
            RosterItem { approved: true, ..item("paris@verona.example", Subscription::None) },
            item("capulet.example", Subscription::To),
        ],
        requests: vec![
            "<presence from='tybalt@capulet.example' to='juliet@capulet.example' type='subscribe' id='1'>\
             <status xml:lang='de'>Bitte</status><nick xmlns='http://jabber.org/protocol/nick'>T</nick></presence>"
                .to_owned(),
        ],
        vcard: Some("<vCard xmlns='vcard-temp'><FN>Juliet &amp; co</FN></vCard>".to_owned()),
        private: vec![
            "<storage xmlns='storage:bookmarks'><conference jid='r@c.example'/></storage>".to_owned(),
            "<exodus xmlns='exodus:prefs'>x</exodus>".to_owned(),
        ],
        privacy: Some(
            "<query xmlns='jabber:iq:privacy'><list name='a'><item type='jid' value='tybalt@capulet.example' action='deny' order='1'/></list></query>"
                .to_owned(),
        ),
        offline: vec![
            "<message to='juliet@capulet.example/balcony' from='romeo@montague.example/orchard' type='chat'>\
             <body>Neither, fair saint &amp; so on.\n</body>\
             <delay xmlns='urn:xmpp:delay' from='capulet.example' stamp='2026-07-21T00:32:29.000Z'/>\
             <x xmlns='urn:x' xmlns:a0='urn:y' a0:k='v'><y/>text<z xmlns=''/></x></message>"
                .to_owned(),
            "<message to='juliet@capulet.example' from='a@b'><body>2</body></message>".to_owned(),
        ],
        preferences: Some(
            "<prefs xmlns='urn:xmpp:mam:2' default='roster'><always><jid>nurse@capulet.example</jid></always><never/></prefs>"
                .to_owned(),
        ),
        more: None,
        archive_follows: false,
    }
}

/// What was archived of the users of a document.
fn archives(mut reader: Reader) -> Vec<Vec<Archived>> {
    let mut archives = Vec::new();
    while let Some(mut user) = reader.next_user().unwrap_or_else(|wrong| panic!("{wrong}")) {
        let mut archive = Vec::new();
        while !user.archive.is_empty() {
            archive.extend(user.archive.next(100).unwrap());
        }
        archives.push(archive);
    }
    archives
}

#[test]
fn an_archive_is_written_behind_the_messages_and_read_back_equal() {
    let archived = |n: u64| Archived {
        id: format!("{n:024x}"),
        at: 1_700_000_000_000 + n,
        message: format!(
            "<message from='romeo@montague.example/orchard' to='juliet@capulet.example' type='chat' id='m{n}'>\
             <body>{n} &amp; so on</body><origin-id xmlns='urn:xmpp:sid:0' id='o{n}'/></message>"
        ),
    };
    let given: Vec<Archived> = (0..50).map(archived).collect();
    let mut writer = Writer::begin(Vec::new()).unwrap();
    writer.user(&juliet()).unwrap();
    given.chunks(7).for_each(|some| writer.archive(some).unwrap());
    writer.user_end().unwrap();
    let text = String::from_utf8(writer.end().unwrap()).unwrap();
    assert_eq!(text.matches("<archive xmlns='urn:xmpp:pie:0#mam'>").count(), 1, "{text}");
    assert_eq!(archives(reader(&text)), [given]);
    assert_eq!(one(&text), (juliet(), Vec::new()));
}

/// As Prosody, ejabberd and clients that export write them: with a namespace and without, with the requester's `queryid`, in a file of its own.
#[test]
fn archives_of_others_are_understood() {
    let result = |id: &str, forwarded: &str| {
        format!(
            "<result xmlns='urn:xmpp:mam:2' {id}><forwarded xmlns='urn:xmpp:forward:0'>{forwarded}</forwarded></result>"
        )
    };
    let delay = "<delay xmlns='urn:xmpp:delay' stamp='2023-11-14T22:13:20Z'/>";
    let late = "<delay xmlns='urn:xmpp:delay' from='h' stamp='2023-11-14T22:13:20.5Z'/>";
    let archive = [
        result("id='p-1'", &format!("{delay}<message xmlns='jabber:client' from='a@h/x' to='b@other' type='chat'><body>1</body></message>")),
        result("id='1700000000500000' queryid='q'", &format!("<message xmlns='jabber:client' from='b@other/y' to='a@h'><body>2</body></message>{late}")),
        result("", &format!("{delay}<message><body>3</body></message>")),
        result("id='4'", "<message xmlns='jabber:client'/>"),
        result("id='5'", delay),
        result("id='6'", &format!("{delay}<message xmlns='jabber:client' from='@'/>")),
        result("id='7'", &format!("{delay}<message xmlns='jabber:client'><body>{}</body></message>", "x".repeat(ARCHIVED_BYTES_MAX))),
        "<x xmlns='y'/>".to_owned(),
    ]
    .concat();
    let document = |inside: &str| {
        format!(
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='h'><user name='a'>{inside}</user></host></server-data>"
        )
    };
    let archive = format!("<archive xmlns='urn:xmpp:pie:0#mam'>{archive}</archive>");
    let text =
        document(&format!("{archive}<query xmlns='jabber:iq:roster'><item jid='c@h'/></query>"));
    let hosts = || Hosts::parse(&["h=new.example".to_owned()]).unwrap();
    let with = || Reader::new("d", Box::new(Cursor::new(text.clone().into_bytes())), hosts());
    let archived = |id: &str, at: u64, message: &str| Archived {
        id: id.to_owned(),
        at,
        message: message.to_owned(),
    };
    let at = 1_700_000_000_000;
    let expected = [
        archived(
            "p-1",
            at,
            "<message from='a@new.example/x' to='b@other' type='chat'><body>1</body></message>",
        ),
        archived(
            "1700000000500000",
            at + 500,
            "<message from='b@other/y' to='a@new.example'><body>2</body></message>",
        ),
        archived(
            "",
            at,
            "<message from='a@new.example' to='a@new.example'><body>3</body></message>",
        ),
    ];
    assert_eq!(archives(with()), [expected.to_vec()]);
    let (users, unknown) = read(with()).unwrap();
    assert_eq!(users[0].as_ref().unwrap().roster.len(), 1, "what stands behind it is read");
    let passed_over = [
        "1 <x xmlns='y'/> in <archive/>",
        "3 archived messages that cannot be read",
        "1 archived messages that are too large",
    ];
    let mut sorted = passed_over;
    sorted.sort_unstable();
    assert_eq!(unknown, sorted);
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("h")).unwrap();
    std::fs::write(dir.path().join("h/archive.xml"), &archive).unwrap();
    let include = "<include xmlns='http://www.w3.org/2001/XInclude' href='h/archive.xml'/>";
    std::fs::write(dir.path().join("main.xml"), document(include)).unwrap();
    let open = || Reader::open(&dir.path().join("main.xml"), hosts()).unwrap();
    assert_eq!(archives(open()), [expected.to_vec()]);
    std::fs::remove_file(dir.path().join("h/archive.xml")).unwrap();
    let (users, _) = read(open()).unwrap();
    assert!(users[0].as_ref().is_err_and(|wrong| wrong.contains("cannot read")), "{users:?}");
}

#[test]
fn what_means_nothing_here_is_put_aside_for_whoever_asks() {
    let pubsub = "<pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='n'><item id='1'><x xmlns='y'>z</x></item></items></pubsub>";
    let text = format!(
        "<server-data xmlns='urn:xmpp:pie:0'><host jid='h'><user name='a' password='p'>{pubsub}</user><user name='b'/></host></server-data>"
    );
    assert!(reader(&text).next_user().unwrap().unwrap().aside.is_empty());
    let mut asking = reader(&text).with_aside(true);
    let user = asking.next_user().unwrap().unwrap();
    assert_eq!(asking.unknown().0.len(), 1, "it is told of all the same");
    let mut writer = Writer::begin(Vec::new()).unwrap();
    writer.aside(&user.at.what, &user.aside).unwrap();
    writer.user_end().unwrap();
    let rest = String::from_utf8(writer.end().unwrap()).unwrap();
    let mut again = reader(&rest).with_aside(true);
    let kept = again.next_user().unwrap().unwrap();
    assert_eq!((kept.at.what.as_str(), kept.aside), ("a@h", user.aside));
    assert!(!rest.contains('p') || !rest.contains("password"), "{rest}");
}

#[test]
fn what_is_written_is_read_back_equal() {
    let plain = |account: &str| UserExport { account: account.to_owned(), ..UserExport::default() };
    let users = [juliet(), plain("émile.o\\27hara@capulet.example"), plain("a@other.example")];
    let text = written(&users);
    assert_eq!(text.matches("<host jid=").count(), 2, "{text}");
    let (read, unknown) = read(reader(&text)).unwrap();
    assert_eq!(read.into_iter().map(Result::unwrap).collect::<Vec<_>>(), users);
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn a_document_reads_the_same_however_it_is_cut() {
    struct Drip(Cursor<Vec<u8>>);
    impl std::io::Read for Drip {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let most = into.len().min(1);
            self.0.read(&mut into[..most])
        }
    }
    let text = written(&[juliet()]);
    let drip = Drip(Cursor::new(text.into_bytes()));
    let (users, _) = read(Reader::new("d", Box::new(drip), Hosts::default())).unwrap();
    assert_eq!(users, [Ok(juliet())]);
}

/// As `mod_storage_xep0227` writes it: no namespace at stanzas of its own, properties as attributes, PEP, an archive.
#[test]
fn a_document_of_prosody_is_understood() {
    let text = format!(
        "<?xml version='1.0'?><server-data xmlns='urn:xmpp:pie:0'><host jid='capulet.example'>\
         <user name='juliet' xmlns:ns1='http://prosody.im/protocol/extended-xep0227' ns1:created='1690000000'>\
         <query xmlns='jabber:iq:roster' version='3'>\
         <item jid='romeo@montague.example' subscription='both' name='Romeo'><group>Friends</group></item>\
         <item jid='nurse@capulet.example' subscription='none' ask='subscribe'/></query>\
         <presence type='subscribe' from='paris@verona.example'/>\
         <scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'>\
         <server-key>{SHA1}</server-key><stored-key>{SHA1}</stored-key>\
         <iter-count>10000</iter-count><salt>c2FsdA==</salt></scram-credentials>\
         <vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard>\
         <query xmlns='jabber:iq:private'><a xmlns='b'/><lost/></query>\
         <pubsub xmlns='http://jabber.org/protocol/pubsub'><items node='n'><item id='1'><x xmlns='y'/></item></items></pubsub>\
         <archive xmlns='urn:xmpp:pie:0#mam'/>\
         </user></host></server-data>"
    );
    let (user, unknown) = one(&text);
    assert_eq!(user.account, "juliet@capulet.example");
    assert_eq!(user.scram, [scram("SCRAM-SHA-1", SHA1)]);
    let request =
        "<presence type='subscribe' from='paris@verona.example' to='juliet@capulet.example'/>";
    assert_eq!(user.requests, [request]);
    assert_eq!(user.vcard.as_deref(), Some("<vCard xmlns='vcard-temp'><FN>Juliet</FN></vCard>"));
    assert_eq!(user.private, ["<a xmlns='b'/>"]);
    let roster: Vec<_> =
        user.roster.iter().map(|item| (&*item.jid, item.subscription, item.ask)).collect();
    let expected = [
        ("romeo@montague.example", Subscription::Both, false),
        ("nurse@capulet.example", Subscription::None, true),
    ];
    assert_eq!(roster, expected);
    assert_eq!(user.roster[0].groups, ["Friends"]);
    let expected = [
        "1 <lost xmlns='jabber:iq:private'/> in <query/>",
        "1 <pubsub xmlns='http://jabber.org/protocol/pubsub'/>",
        "1 the attribute {http://prosody.im/protocol/extended-xep0227}created of <user/>",
    ];
    assert_eq!(unknown, expected);
}

/// As `ejabberdctl export_piefxis` writes it: a main file that includes one a host, SCRAM within `password`, messages
/// before the roster.
#[test]
fn documents_of_ejabberd_are_understood() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let main = "<?xml version='1.0' encoding='UTF-8'?>\
        <server-data xmlns='urn:xmpp:pie:0' xmlns:xi='http://www.w3.org/2001/XInclude'>\
        <xi:include href='20261128-010000_capulet_example.xml'/></server-data>";
    write("main.xml", main);
    let host = format!(
        "<?xml version='1.0' encoding='UTF-8'?>\
         <host xmlns='urn:xmpp:pie:0' xmlns:xi='http://www.w3.org/2001/XInclude' jid='capulet.example'>\
         <user name='juliet' password='scram:{SHA1},{SHA1},c2FsdA==,10000'>\
         <offline-messages><message xmlns='jabber:client' from='romeo@montague.example/o' to='juliet@capulet.example' type='chat'>\
         <body>hi</body><delay xmlns='urn:xmpp:delay' stamp='2026-07-21T00:32:29Z'/></message></offline-messages>\
         <vCard xmlns='vcard-temp'/><query xmlns='jabber:iq:privacy'><default name='a'/>\
         <list name='a'><item action='deny' order='1' type='jid' value='tybalt@capulet.example'><message/></item></list></query>\
         <query xmlns='urn:unknown'/>\
         <query xmlns='jabber:iq:roster'><item subscription='to' jid='romeo@montague.example' name=''>\
         <group>A</group><group>A</group></item></query>\
         <presence from='paris@verona.example' to='juliet@capulet.example' xmlns='jabber:client' type='subscribe'>\
         <status>I am Paris</status></presence>\
         </user><user name='nurse' password='s3crEt'/><user name='tybalt' password=''/></host>"
    );
    write("20261128-010000_capulet_example.xml", &host);
    let document = Reader::open(&dir.path().join("main.xml"), Hosts::default()).unwrap();
    let (users, unknown) = read(document).unwrap();
    let users: Vec<UserExport> = users.into_iter().map(Result::unwrap).collect();
    assert_eq!(users[0].scram, [scram("SCRAM-SHA-1", SHA1)]);
    assert_eq!(users[0].password, None);
    assert_eq!((users[0].roster.len(), &users[0].roster[0].name), (1, &None));
    assert_eq!(users[0].roster[0].groups, ["A"]);
    assert!(users[0].offline[0].contains("<body>hi</body>"), "{:?}", users[0].offline);
    let request = "<presence from='paris@verona.example' to='juliet@capulet.example' type='subscribe'><status>I am Paris</status></presence>";
    assert_eq!(users[0].requests, [request]);
    let lists = "<query xmlns='jabber:iq:privacy'><default name='a'/><list name='a'>\
        <item action='deny' order='1' type='jid' value='tybalt@capulet.example'><message/></item></list></query>";
    assert_eq!(users[0].privacy.as_deref(), Some(lists));
    assert_eq!(users[1].password.as_deref(), Some("s3crEt"));
    assert_eq!(users[2].password, None);
    assert_eq!(users[0].vcard, None, "an empty one is none");
    assert_eq!(unknown, ["1 <query xmlns='urn:unknown'/>"]);
}

/// As the first `mod_storage_xep0227` wrote an account of `mod_auth_internal_hashed`.
#[test]
fn properties_of_prosody_are_credentials() {
    let document = |attrs: &str| {
        format!(
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='h'>\
             <user name='juliet' xmlns:p='http://prosody.im/protocol/extended-xep0227' {attrs}/></host></server-data>"
        )
    };
    let key = "0102030405060708090a0b0c0d0e0f1011121314";
    let keys = format!("p:server_key='{key}' p:stored_key='{key}' p:salt='salt'");
    let (user, unknown) = one(&document(&format!("{keys} p:iteration_count='10000'")));
    assert_eq!(user.scram, [scram("SCRAM-SHA-1", SHA1)]);
    assert_eq!(unknown, [""; 0]);
    assert!(one(&document(&keys)).0.scram.is_empty());
    for count in ["x", "0", "-1"] {
        let text = document(&format!("{keys} p:iteration_count='{count}'"));
        let (users, _) = read(reader(&text)).unwrap();
        assert!(users[0].as_ref().is_err_and(|wrong| wrong.contains("no iteration count")));
    }
}

#[test]
fn secrets_of_ejabberd_are_of_several_hashes() {
    for (text, expected) in [
        (format!("{SHA1},{SHA1},c2FsdA==,10000"), Some(scram("SCRAM-SHA-1", SHA1))),
        (format!("sha,{SHA1},{SHA1},c2FsdA==,10000"), Some(scram("SCRAM-SHA-1", SHA1))),
        (format!("sha256,{SHA256},{SHA256},c2FsdA==,10000"), Some(scram("SCRAM-SHA-256", SHA256))),
        (format!("sha256,{SHA1},{SHA1},c2FsdA==,10000"), None),
        (format!("sha512,{SHA1},{SHA1},c2FsdA==,10000"), None),
        (format!("md5,{SHA1},{SHA1},c2FsdA==,10000"), None),
    ] {
        let document = format!(
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='h'><user name='a' password='scram:{text}'/></host></server-data>"
        );
        let (user, _) = one(&document);
        assert_eq!(user.scram, Vec::from_iter(expected.clone()), "{text}");
        assert_eq!(user.password.is_some(), expected.is_none(), "{text}");
    }
}

#[test]
fn a_host_may_have_another_name_here() {
    let text = written(&[juliet()]);
    let hosts = Hosts::parse(&["Capulet.example=new.example".to_owned()]).unwrap();
    let (users, _) =
        read(Reader::new("d", Box::new(Cursor::new(text.into_bytes())), hosts)).unwrap();
    let user = users[0].as_ref().unwrap();
    assert_eq!(user.account, "juliet@new.example");
    let contacts: Vec<_> = user.roster.iter().map(|item| item.jid.as_str()).collect();
    let expected =
        ["romeo@montague.example", "nurse@new.example", "paris@verona.example", "new.example"];
    assert_eq!(contacts, expected);
    assert!(user.requests[0].contains("from='tybalt@new.example'"), "{:?}", user.requests);
    assert!(user.offline[0].contains("to='juliet@new.example/balcony'"), "{:?}", user.offline);
    assert!(user.privacy.as_ref().is_some_and(|lists| lists.contains("'tybalt@new.example'")));
    assert!(Hosts::parse(&["a@b=c".to_owned()]).is_err());
}

#[test]
fn what_is_no_document_ends_the_reading_with_its_line() {
    let inside = |text: &str| {
        format!("<server-data xmlns='urn:xmpp:pie:0'>\n<host jid='h'>\n{text}</host></server-data>")
    };
    let cases = [
        (String::new(), 1, "there is no document"),
        ("<a/>".into(), 1, "no <server-data"),
        ("<server-data/>".into(), 1, "no <server-data"),
        ("{\"account\":\"a@b\"}".into(), 1, "text outside"),
        ("<?xml version='1.0' encoding='latin1'?><a/>".into(), 1, "latin1"),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]>\n<a/>".into(), 1, "DTD"),
        (inside("<user name='a'>\n&b;</user>"), 4, "the entity \"b\""),
        (inside("<user name='&b;'/>"), 3, "attribute"),
        (inside("<user name='a'>\n<p:q/></user>"), 4, "the prefix \"p\""),
        (inside("<user name='a'>\n\n<x></y></user>"), 5, "</x>"),
        (inside("<user name='a' name='b'/>"), 3, "attribute"),
        (inside("<user name='a'>\u{1}</user>"), 3, "a character"),
        (inside(&"<x>".repeat(300)), 3, "elements are open"),
        (inside("<user name='a'>").replace("</host></server-data>", "\n\n"), 5, "before </user>"),
        (inside("</host></server-data>\n<x/>"), 4, "has ended"),
        (inside("") + "\nx", 4, "text outside"),
        (
            "<server-data xmlns='urn:xmpp:pie:0'>\n<host jid='a@b'/></server-data>".into(),
            2,
            "no host",
        ),
        (inside("<include xmlns='http://www.w3.org/2001/XInclude' href='x.xml'/>"), 3, "as a file"),
    ];
    for (text, line, says) in cases {
        let wrong = read(reader(&text)).expect_err(&text);
        assert!(wrong.starts_with(&format!("d.xml, line {line}: ")), "{wrong} in {text}");
        assert!(wrong.contains(says), "{wrong} should say {says} in {text}");
    }
}

#[test]
fn what_is_wrong_with_a_user_costs_that_user_only() {
    let secret = |parts: &str| {
        format!(
            "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'>{parts}</scram-credentials>"
        )
    };
    let keys = format!(
        "<salt>c2FsdA==</salt><server-key>{SHA1}</server-key><stored-key>{SHA1}</stored-key>"
    );
    let good = secret(&format!("<iter-count>1</iter-count>{keys}"));
    let roster = |items: &str| format!("<query xmlns='jabber:iq:roster'>{items}</query>");
    let message =
        |message: &str| format!("<offline-messages><x/>\n{message}<message/></offline-messages>");
    let cases = [
        ("<user/>".to_owned(), 2, "\"\" is no name"),
        ("<user name='a@b'/>".into(), 2, "is no name"),
        (format!("<user name='a'>{good}\n{good}</user>"), 3, "twice"),
        (format!("<user name='a'>{}</user>", secret(&keys)), 2, "one <iter-count/>"),
        (format!("<user name='a'>{}</user>", good.replace(">1<", ">0<")), 2, "iteration count"),
        (format!("<user name='a'>{}</user>", good.replace(SHA1, SHA256)), 2, "32 bytes, not 20"),
        (format!("<user name='a'>{}</user>", good.replace(SHA1, "?")), 2, "not base64"),
        (format!("<user name='a'>{}</user>", roster("<item jid='@'/>")), 2, "\"@\""),
        (format!("<user name='a'>{}</user>", roster("<item/>")), 2, "of nobody"),
        (
            format!("<user name='a'>\n\n{}</user>", roster("<item jid='b' subscription='x'/>")),
            4,
            "\"x\"",
        ),
        (format!("<user name='a'>{}</user>", roster("<item jid='b'/><item jid='B'/>")), 2, "twice"),
        ("<user name='a'><presence type='subscribe'/></user>".into(), 2, "of nobody"),
        (format!("<user name='a'>{}</user>", message("<message to='@'/>")), 3, "\"@\""),
        (
            "<user name='a'><account xmlns='urn:pangaea:export:0' created='x'/></user>".into(),
            2,
            "no time",
        ),
        (
            "<user name='a'><include xmlns='http://www.w3.org/2001/XInclude'/></user>".into(),
            2,
            "as a file",
        ),
    ];
    for (user, line, says) in cases {
        let text = format!(
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='h'>\n{user}<user name='next'/></host></server-data>"
        );
        let (users, _) = read(reader(&text)).unwrap_or_else(|wrong| panic!("{wrong} in {text}"));
        let wrong = users[0].as_ref().expect_err(&text);
        assert!(wrong.starts_with(&format!("d.xml, line {line}: ")), "{wrong} in {text}");
        assert!(wrong.contains(says), "{wrong} should say {says} in {text}");
        assert_eq!(users[1].as_ref().unwrap().account, "next@h", "{text}");
    }
}

#[test]
fn includes_stay_beside_the_document_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let include = |href: &str| {
        format!(
            "<server-data xmlns='urn:xmpp:pie:0'>\n<include xmlns='http://www.w3.org/2001/XInclude' href='{href}'/></server-data>"
        )
    };
    let open = |href: &str| {
        std::fs::write(dir.path().join("main.xml"), include(href)).unwrap();
        read(Reader::open(&dir.path().join("main.xml"), Hosts::default()).unwrap())
    };
    for href in ["", "/etc/passwd", "../x.xml", "a/../../x.xml", "file:///x", "%2e%2e/x"] {
        let wrong = open(href).expect_err(href);
        assert!(wrong.contains("main.xml, line 2") && wrong.contains("beside"), "{wrong}");
    }
    assert!(open("missing.xml").expect_err("missing").contains("cannot read"));
    std::fs::create_dir(dir.path().join("h")).unwrap();
    let user = "<user xmlns='urn:xmpp:pie:0' name='a b'/>".replace("a b", "juliet");
    std::fs::write(dir.path().join("h/a b.xml"), user).unwrap();
    let host = "<host xmlns='urn:xmpp:pie:0' jid='h'><include xmlns='http://www.w3.org/2001/XInclude' href='h/a%20b.xml'/></host>";
    std::fs::write(dir.path().join("h.xml"), host).unwrap();
    assert_eq!(open("h.xml").unwrap().0[0].as_ref().unwrap().account, "juliet@h");
    let own = "<include xmlns='http://www.w3.org/2001/XInclude' href='own.xml'/>";
    let own = format!("<host xmlns='urn:xmpp:pie:0' jid='h'>{own}</host>");
    std::fs::write(dir.path().join("own.xml"), own).unwrap();
    assert!(open("own.xml").is_ok_and(|(users, unknown)| users.is_empty() && unknown.len() == 1));
    assert!(Reader::open(Path::new("/nowhere/at/all.xml"), Hosts::default()).is_err());
}

#[test]
fn a_user_that_is_too_large_is_refused_and_what_is_passed_over_is_not_kept() {
    let message = format!("<message><body>{}</body></message>\n", "x".repeat(1 << 20));
    let many = message.repeat(USER_BYTES_MAX / (1 << 20) + 1);
    let text = format!(
        "<server-data xmlns='urn:xmpp:pie:0'><host jid='h'><user name='a'>\
         <archive xmlns='x'>{many}</archive></user>\
         <user name='b'><offline-messages>{many}</offline-messages></user><user name='c'/></host></server-data>"
    );
    let (users, _) = read(reader(&text)).unwrap();
    assert!(users[0].is_ok() && users[2].is_ok());
    assert!(users[1].as_ref().is_err_and(|wrong| wrong.contains("in one user")), "{:?}", users[1]);
    let token = "x".repeat(TOKEN_BYTES_MAX as usize + (1 << 20));
    let wrong = read(reader(&format!("<server-data xmlns='urn:xmpp:pie:0' a='{token}'/>")));
    assert!(wrong.expect_err("too long").contains("a tag or a text of more than"));
}

#[test]
fn a_password_that_only_looks_like_scram_is_a_password() {
    let text = "<server-data xmlns='urn:xmpp:pie:0'><host jid='h'><user name='a' password='scram:a,b,c,1'/></host></server-data>";
    assert_eq!(one(text).0.password.as_deref(), Some("scram:a,b,c,1"));
}
