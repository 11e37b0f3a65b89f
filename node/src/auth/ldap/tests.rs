//! Tests against a directory of a few lines, in this process: bind, search by one equality, StartTLS and TLS.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::BytesMut;
use lber::common::TagClass;
use lber::parse::{Parser, parse_uint};
use lber::structure::{PL, StructureTag};
use lber::structures::{ASNTag, Enumerated, Integer, OctetString, Sequence, Tag};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::gate::tests::bounds;
use super::*;
use crate::certs::Authority;

const SERVICE: (&str, &str) = ("cn=pangaea,dc=example", "service secret");

/// Entries by their `uid`: name, password, and what a bind says when it is right.
const ENTRIES: [(&str, &str, &str, u32, &str); 6] = [
    ("juliet", "uid=juliet,ou=people,dc=example", "r0m30", 0, ""),
    ("tybalt", "uid=tybalt,ou=people,dc=example", "x", 49, "LdapErr: x, data 533, v1"),
    ("rosaline", "uid=rosaline,ou=people,dc=example", "x", 49, "LdapErr: x, data 532, v1"),
    ("mercutio", "uid=mercutio,ou=people,dc=example", "x", 51, "busy"),
    ("paris", "uid=paris,ou=people,dc=example", "x", 0, ""),
    ("paris", "uid=paris,ou=guests,dc=example", "x", 0, ""),
];

struct Directory {
    url: String,
    connections: Arc<AtomicUsize>,
}

enum Door {
    Plain,
    Tls(TlsAcceptor),
    StartTls(TlsAcceptor),
}

impl Directory {
    async fn start(door: Door) -> Directory {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let scheme = if matches!(door, Door::Tls(_)) { "ldaps" } else { "ldap" };
        let (counted, door) = (connections.clone(), Arc::new(door));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let door = door.clone();
                tokio::spawn(async move {
                    match &*door {
                        Door::Plain => serve(stream, false).await.map(|_| ()),
                        Door::Tls(tls) => serve(tls.accept(stream).await?, false).await.map(|_| ()),
                        Door::StartTls(tls) => {
                            let stream = serve(stream, true).await?;
                            serve(tls.accept(stream).await?, false).await.map(|_| ())
                        }
                    }
                });
            }
        });
        Directory { url: format!("{scheme}://localhost:{port}"), connections }
    }

    fn settings(&self) -> Settings {
        Settings {
            url: self.url.clone(),
            security: LdapSecurity::None,
            authorities: None,
            bind_dn: None,
            bind_password_file: None,
            user_dn: None,
            base: "dc=example".into(),
            filter: "(uid={user})".into(),
            bounds: bounds(),
        }
    }
}

/// Answers until the connection ends, or until StartTLS was asked for.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    start_tls: bool,
) -> std::io::Result<S> {
    let mut buffer = BytesMut::new();
    loop {
        let parsed =
            Parser::new().parse(&buffer).map(|(rest, tag)| (buffer.len() - rest.len(), tag));
        let Ok((read, message)) = parsed else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(stream);
            }
            continue;
        };
        let _ = buffer.split_to(read);
        let mut parts = message.expect_constructed().expect("a message").into_iter();
        let id = parts.next().expect("an id").expect_primitive().expect("a number");
        let id = i64::try_from(parse_uint(&id).expect("a number").1).expect("small");
        let operation = parts.next().expect("an operation");
        let answers = match operation.id {
            0 => vec![bind(children(operation))],
            2 => return Ok(stream),
            3 => search(children(operation)),
            23 => vec![result(24, 0, "")],
            other => panic!("operation {other}"),
        };
        let is_over = start_tls && answers.len() == 1 && is_extended(&answers[0]);
        for answer in answers {
            stream.write_all(&encoded(id, answer)).await?;
        }
        if is_over {
            return Ok(stream);
        }
    }
}

fn is_extended(answer: &Tag) -> bool {
    matches!(answer, Tag::Sequence(sequence) if sequence.id == 24)
}

fn children(tag: StructureTag) -> Vec<StructureTag> {
    tag.expect_constructed().expect("parts")
}

fn text(tag: &StructureTag) -> String {
    match &tag.payload {
        PL::P(bytes) => String::from_utf8(bytes.clone()).expect("text"),
        PL::C(_) => panic!("no text"),
    }
}

fn octets(text: &str) -> Tag {
    Tag::OctetString(OctetString { inner: text.into(), ..OctetString::default() })
}

fn application(id: u64, inner: Vec<Tag>) -> Tag {
    Tag::Sequence(Sequence { id, class: TagClass::Application, inner })
}

fn result(id: u64, code: u32, says: &str) -> Tag {
    let code = Enumerated { inner: code.into(), ..Enumerated::default() };
    application(id, vec![Tag::Enumerated(code), octets(""), octets(says)])
}

fn encoded(id: i64, answer: Tag) -> Vec<u8> {
    let id = Tag::Integer(Integer { inner: id, ..Integer::default() });
    let message = Tag::Sequence(Sequence { inner: vec![id, answer], ..Sequence::default() });
    let mut out = BytesMut::new();
    lber::write::encode_into(&mut out, message.into_structure()).expect("encodes");
    out.to_vec()
}

fn bind(parts: Vec<StructureTag>) -> Tag {
    let (name, password) = (text(&parts[1]), text(&parts[2]));
    let entry = ENTRIES.iter().find(|(_, dn, ..)| *dn == name);
    match entry {
        _ if (name.as_str(), password.as_str()) == SERVICE => result(1, 0, ""),
        _ if name.is_empty() && password.is_empty() => result(1, 0, ""),
        Some((.., right, code, says)) if *right == password => result(1, *code, says),
        Some(_) => result(1, 49, ""),
        None if name.ends_with(",ou=people,dc=example") => result(1, 32, ""),
        None => result(1, 49, ""),
    }
}

fn search(parts: Vec<StructureTag>) -> Vec<Tag> {
    // (attribute=value): [3] { attribute, value }
    let filter = children(parts[6].clone());
    assert_eq!((parts[6].id, text(&filter[0])), (3, "uid".to_owned()));
    let wanted = text(&filter[1]);
    let found = ENTRIES.iter().filter(|(uid, ..)| *uid == wanted);
    let attributes = || Tag::Sequence(Sequence::default());
    found
        .map(|(_, dn, ..)| application(4, vec![octets(dn), attributes()]))
        .chain([result(5, 0, "")])
        .collect()
}

fn account(name: &str) -> BareJid {
    BareJid::parse(&format!("{name}@capulet.example")).expect("a JID")
}

async fn says(ldap: &Ldap, name: &str, password: &str) -> Said {
    ldap.password(&account(name), Password::new(password)).await
}

#[tokio::test]
async fn an_entry_is_found_and_bound_as() {
    let directory = Directory::start(Door::Plain).await;
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{}\n", SERVICE.1)).expect("written");
    let settings = Settings {
        bind_dn: Some(SERVICE.0.into()),
        bind_password_file: Some(file),
        ..directory.settings()
    };
    let ldap = Ldap::new(&settings).expect("usable");
    for (name, password, expected) in [
        ("juliet", "r0m30", Said::Right),
        ("juliet", "x", Said::Wrong),
        ("juliet", "", Said::Wrong),
        ("tybalt", "x", Said::Disabled),
        ("tybalt", "y", Said::Wrong),
        ("rosaline", "x", Said::Expired),
        ("nobody", "x", Said::Unknown),
        ("j*", "r0m30", Said::Unknown),
    ] {
        assert_eq!(says(&ldap, name, password).await, expected, "{name} {password}");
    }
    for (name, expected) in [("juliet", Said::Right), ("nobody", Said::Unknown)] {
        assert_eq!(ldap.knows(&account(name)).await, expected);
    }
    assert_eq!(directory.connections.load(Ordering::SeqCst), 1, "the connection is kept");
    // Several entries, and an answer that says nothing of the account.
    assert_eq!(says(&ldap, "paris", "x").await, Said::Down);
    assert_eq!(says(&ldap, "mercutio", "x").await, Said::Down);
    assert_eq!(says(&ldap, "juliet", "r0m30").await, Said::Right);
    let settings = Settings { bind_dn: Some("cn=nobody".into()), ..settings };
    let ldap = Ldap::new(&settings).expect("usable");
    assert_eq!(says(&ldap, "juliet", "r0m30").await, Said::Down);
}

#[tokio::test]
async fn an_entry_whose_name_is_known_is_bound_as_at_once() {
    let directory = Directory::start(Door::Plain).await;
    let user_dn = Some("uid={user},ou=people,dc=example".into());
    let ldap = Ldap::new(&Settings { user_dn, ..directory.settings() }).expect("usable");
    assert_eq!(says(&ldap, "juliet", "r0m30").await, Said::Right);
    assert_eq!(says(&ldap, "juliet", "x").await, Said::Wrong);
    assert_eq!(says(&ldap, "nobody", "x").await, Said::Unknown);
}

#[tokio::test]
async fn a_directory_is_asked_under_tls_of_either_kind() {
    let authority = Authority::new("test").expect("made");
    let leaf = authority.issue(&["localhost".to_owned()]).expect("issued");
    let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes());
    let chain: Vec<_> = chain.collect::<Result<_, _>>().expect("a chain");
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("fits");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, others) = (dir.path().join("ca.pem"), dir.path().join("other.pem"));
    std::fs::write(&ours, authority.certificate()).expect("written");
    let other = Authority::new("other").expect("made");
    std::fs::write(&others, other.certificate()).expect("written");
    for (door, security) in [
        (Door::Tls(acceptor.clone()), LdapSecurity::Tls),
        (Door::StartTls(acceptor.clone()), LdapSecurity::StartTls),
    ] {
        let directory = Directory::start(door).await;
        let authorities = |file: &std::path::Path| Some(file.to_owned());
        let settings =
            Settings { security, authorities: authorities(&ours), ..directory.settings() };
        let ldap = Ldap::new(&settings).expect("usable");
        assert_eq!(says(&ldap, "juliet", "r0m30").await, Said::Right);
        let settings = Settings { authorities: authorities(&others), ..settings };
        let ldap = Ldap::new(&settings).expect("usable");
        assert_eq!(says(&ldap, "juliet", "r0m30").await, Said::Down);
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_down() {
    let directory = Directory { url: "ldap://127.0.0.1:1".into(), connections: Arc::default() };
    let ldap = Ldap::new(&directory.settings()).expect("usable");
    assert_eq!(says(&ldap, "juliet", "r0m30").await, Said::Down);
}

#[test]
fn names_are_escaped_for_where_they_stand() {
    let odd = account("a,b+c=d(e)*");
    let dn = filled("uid={user},o={domain}", &odd, |text| dn_escape(text).into_owned());
    assert_eq!(dn, "uid=a\\2cb\\2bc\\3dd(e)*,o=capulet.example");
    let filter = filled("(&(mail={account})({x}))", &odd, |text| ldap_escape(text).into_owned());
    assert_eq!(filter, "(&(mail=a,b+c=d\\28e\\29\\2a@capulet.example)({x}))");
}
