//! Tests of the walk along the backends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use xmpp::sasl::ScramKeys;

use super::*;
use crate::auth::internal::{Record, Records};

/// The records of a server, and where they are made.
#[derive(Default)]
struct Home {
    records: Mutex<HashMap<String, Record>>,
    is_away: bool,
}

#[derive(Clone)]
struct AtHome(Arc<Home>);

impl Records for AtHome {
    fn read(&self, account: &BareJid) -> BoxFuture<'static, Result<Option<Record>, String>> {
        let found = self.0.records.lock().get(account.as_str()).cloned();
        std::future::ready(Ok(found)).boxed()
    }
}

impl Accounts for AtHome {
    fn make(&self, account: &BareJid) -> BoxFuture<'static, Result<(), String>> {
        let made = if self.0.is_away {
            Err("away".to_owned())
        } else {
            let record = Record { keys: Vec::new(), disabled: false };
            self.0.records.lock().insert(account.to_string(), record);
            Ok(())
        };
        std::future::ready(made).boxed()
    }
}

fn keys(hash: Hash, password: &str) -> ScramKeys {
    ScramKeys::derive(hash, password, b"0123456789abcdef", 1).expect("a password")
}

/// A backend of a few words: `name=password`, or `name!said`.
struct Words {
    words: &'static str,
    abilities: Abilities,
    asked: AtomicUsize,
}

fn backend(words: &'static str) -> Arc<Words> {
    let abilities = Abilities { passwords: true, ..Abilities::default() };
    Arc::new(Words { words, abilities, asked: AtomicUsize::new(0) })
}

impl Words {
    fn about(&self, account: &BareJid) -> Option<(&'static str, bool)> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.words.split_whitespace().find_map(|word| {
            let rest = word.strip_prefix(account.local()?)?;
            let says = rest.strip_prefix('!').map(|said| (said, true));
            says.or_else(|| rest.strip_prefix('=').map(|password| (password, false)))
        })
    }
}

impl Backend for Words {
    fn name(&self) -> &'static str {
        "words"
    }

    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn password(&self, account: &BareJid, password: Password) -> BoxFuture<'static, Said> {
        let said = match self.about(account) {
            None => Said::Unknown,
            Some(("disabled", true)) => Said::Disabled,
            Some(("expired", true)) => Said::Expired,
            Some((_, true)) => Said::Down,
            Some((right, false)) if right == password.expose() => Said::Right,
            Some(_) => Said::Wrong,
        };
        std::future::ready(said).boxed()
    }

    fn knows(&self, account: &BareJid) -> BoxFuture<'static, Said> {
        let said = match self.about(account) {
            None => Said::Unknown,
            Some(("down", true)) => Said::Down,
            Some(_) => Said::Right,
        };
        std::future::ready(said).boxed()
    }

    fn keys(&self, account: &BareJid, hash: Hash) -> BoxFuture<'static, Credentials> {
        let found = match self.about(account) {
            None => Credentials::Unknown,
            Some((_, true)) => Credentials::Unavailable,
            Some((password, false)) => Credentials::Keys(keys(hash, password)),
        };
        std::future::ready(found).boxed()
    }

    fn token(&self, token: Password) -> BoxFuture<'static, Result<BareJid, Said>> {
        let whose = self.words.split_whitespace().find_map(|word| {
            let (name, right) = word.split_once('=')?;
            (right == token.expose()).then(|| jid(name))
        });
        std::future::ready(whose.ok_or(Said::Unknown)).boxed()
    }
}

fn jid(name: &str) -> BareJid {
    BareJid::parse(&format!("{name}@example.org")).expect("a JID")
}

/// Juliet has her password here; tybalt is suspended here; the nurse's record has no keys.
fn home() -> Arc<Home> {
    let home = Home::default();
    for (name, password, disabled) in
        [("juliet", Some("wonderland"), false), ("tybalt", None, true), ("nurse", None, false)]
    {
        let keys = [Hash::Sha1, Hash::Sha256].map(|hash| keys(hash, password.unwrap_or("x")));
        let keys = if password.is_some() { keys.to_vec() } else { Vec::new() };
        home.records.lock().insert(jid(name).to_string(), Record { keys, disabled });
    }
    Arc::new(home)
}

fn chain(home: &Arc<Home>, others: Vec<Arc<Words>>, links: Links) -> Chain {
    let mut order = links.order.clone();
    order.extend(others.into_iter().map(|backend| Source::Other(backend)));
    let internal = Internal::new(Arc::new(AtHome(home.clone())), 1);
    Chain::new(internal, Arc::new(AtHome(home.clone())), Links { order, ..links })
}

async fn plain(chain: &Chain, name: &str, password: &str) -> Verdict {
    chain.plain(&jid(name), Password::new(password)).await
}

#[tokio::test]
async fn the_first_that_knows_the_account_decides() {
    let first = backend("romeo=one juliet=one paris!down mercutio!disabled rosaline!expired");
    let second = backend("romeo=two nurse=two tybalt=two paris=two benvolio=two");
    let chain = chain(&home(), vec![first, second], Links::default());
    for (name, password, expected) in [
        // Known here: nobody else's password is right.
        ("juliet", "wonderland", Verdict::Right),
        ("juliet", "one", Verdict::Wrong),
        ("romeo", "one", Verdict::Right),
        ("romeo", "two", Verdict::Wrong),
        ("benvolio", "two", Verdict::Right),
        // Its record has no keys: it is known elsewhere.
        ("nurse", "two", Verdict::Right),
        ("nurse", "x", Verdict::Wrong),
        // Suspended here, whatever others say; but only who has proved it is told.
        ("tybalt", "two", Verdict::Disabled),
        ("tybalt", "x", Verdict::Wrong),
        ("mercutio", "x", Verdict::Disabled),
        ("rosaline", "x", Verdict::Expired),
        // The first is down; the second is not asked.
        ("paris", "two", Verdict::Unavailable),
        ("nobody", "x", Verdict::Wrong),
    ] {
        assert_eq!(plain(&chain, name, password).await, expected, "{name} {password}");
    }
}

#[tokio::test]
async fn keys_come_from_the_first_that_knows_the_account() {
    let chain = chain(&home(), vec![backend("romeo=one tybalt=one paris!down")], Links::default());
    let found = async |name: &str| match chain.scram(&jid(name), Hash::Sha256).await {
        Credentials::Keys(keys) if keys.verify("wonderland") => "here",
        Credentials::Keys(keys) if keys.verify("one") => "there",
        Credentials::Keys(_) => "whose?",
        Credentials::Disabled(_) => "disabled",
        Credentials::Expired(_) => "expired",
        Credentials::Unknown => "unknown",
        Credentials::Unavailable => "down",
    };
    for (name, expected) in [
        ("juliet", "here"),
        ("romeo", "there"),
        ("tybalt", "disabled"),
        ("paris", "down"),
        ("nobody", "unknown"),
    ] {
        assert_eq!(found(name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn an_account_known_elsewhere_is_made_when_it_first_signs_in() {
    let home = home();
    let words = || vec![backend("romeo=one")];
    let refusing = chain(&home, words(), Links { make_accounts: false, ..Links::default() });
    assert_eq!(plain(&refusing, "romeo", "one").await, Verdict::Wrong);
    let willing = chain(&home, words(), Links::default());
    assert_eq!(plain(&willing, "romeo", "two").await, Verdict::Wrong);
    assert!(!home.records.lock().contains_key("romeo@example.org"));
    assert_eq!(plain(&willing, "romeo", "one").await, Verdict::Right);
    assert!(home.records.lock()["romeo@example.org"].keys.is_empty());
    // Suspended from now on.
    home.records.lock().get_mut("romeo@example.org").expect("made").disabled = true;
    willing.forget("romeo@example.org");
    assert_eq!(plain(&willing, "romeo", "one").await, Verdict::Disabled);
    // The home is out of reach: later, perhaps.
    let away = Arc::new(Home { is_away: true, ..Home::default() });
    let away = chain(&away, words(), Links::default());
    assert_eq!(plain(&away, "romeo", "one").await, Verdict::Unavailable);
}

#[tokio::test]
async fn a_name_that_another_backend_has_is_taken() {
    let chain = chain(&home(), vec![backend("romeo=one paris!down")], Links::default());
    assert_eq!(chain.is_taken(&jid("romeo")).await, Some(true));
    assert_eq!(chain.is_taken(&jid("benvolio")).await, Some(false));
    assert_eq!(chain.is_taken(&jid("paris")).await, None);
}

#[tokio::test]
async fn other_backends_are_asked_about_accounts_of_their_domain_only() {
    let home = home();
    let record = Record { keys: vec![keys(Hash::Sha256, "wonderland")], disabled: false };
    home.records.lock().insert("juliet@eu.example.org".to_owned(), record);
    // They know names, not domains.
    let backends = vec![backend("romeo=one juliet=one")];
    let domain = Some("example.org".to_owned());
    let chain = chain(&home, backends, Links { order: Vec::new(), domain, ..Links::default() });
    for (account, password, expected) in [
        ("romeo@example.org", "one", Verdict::Right),
        ("romeo@eu.example.org", "one", Verdict::Wrong),
        ("juliet@example.org", "one", Verdict::Right),
        ("juliet@eu.example.org", "one", Verdict::Wrong),
        // Nobody but this server has those, whatever else is configured.
        ("juliet@eu.example.org", "wonderland", Verdict::Right),
    ] {
        let account = BareJid::parse(account).expect("a JID");
        let verdict = chain.plain(&account, Password::new(password)).await;
        assert_eq!(verdict, expected, "{account} {password}");
        assert_eq!(chain.is_taken(&account).await, Some(account.domain() == "example.org"));
    }
}

#[tokio::test]
async fn a_token_is_asked_about_until_somebody_knows_it() {
    let chain = chain(&home(), vec![backend("romeo=one"), backend("tybalt=two")], Links::default());
    let token = async |token: &str| chain.token(Password::new(token)).await;
    assert_eq!(token("one").await, Ok(jid("romeo")));
    assert_eq!(token("two").await, Err(Verdict::Disabled));
    assert_eq!(token("three").await, Err(Verdict::Wrong));
    assert_eq!(chain.admit(&jid("mercutio")).await, Verdict::Right);
}

#[tokio::test(start_paused = true)]
async fn a_success_is_remembered_for_a_while_and_a_failure_is_not() {
    let words = backend("romeo=one");
    let remember = Duration::from_secs(60);
    let links = Links { remember, remembered_max: 10, ..Links::default() };
    let chain = chain(&home(), vec![words.clone()], links);
    let asked = || words.asked.load(Ordering::SeqCst);
    for (password, expected, questions) in [
        ("two", Verdict::Wrong, 1),
        ("one", Verdict::Right, 2),
        ("one", Verdict::Right, 2),
        ("two", Verdict::Wrong, 3),
        ("one", Verdict::Right, 3),
    ] {
        assert_eq!(plain(&chain, "romeo", password).await, expected);
        assert_eq!(asked(), questions);
    }
    tokio::time::advance(remember).await;
    assert_eq!(plain(&chain, "romeo", "one").await, Verdict::Right);
    assert_eq!(asked(), 4);
    assert!(chain.inner.successes.as_ref().is_some_and(|known| known.known.lock().len() == 1));
}

#[test]
fn what_is_offered_follows_from_what_the_backends_can_do() {
    let names = |abilities: &[Abilities], certificates: bool| {
        let others = abilities.iter().map(|&abilities| {
            let asked = AtomicUsize::new(0);
            Arc::new(Words { words: "", abilities, asked })
        });
        let dir = tempfile::tempdir().expect("a directory");
        let authorities = dir.path().join("ca.pem");
        let authority = crate::certs::Authority::new("test").expect("made");
        std::fs::write(&authorities, authority.certificate()).expect("written");
        let settings = config::Certificate { authorities, names: Vec::new() };
        let all = Certificates::new(&settings, "example.org", Arc::new(|| 0)).expect("usable");
        let links = Links { certificates: certificates.then_some(all), ..Links::default() };
        let all = chain(&home(), others.collect(), links).mechanisms("example.org");
        all.iter().map(|mechanism| mechanism.name()).collect::<Vec<_>>().join(" ")
    };
    let none = Abilities::default();
    let scram = "SCRAM-SHA-512-PLUS SCRAM-SHA-256-PLUS SCRAM-SHA-1-PLUS \
                 SCRAM-SHA-512 SCRAM-SHA-256 SCRAM-SHA-1";
    assert_eq!(names(&[], false), format!("{scram} PLAIN"));
    assert_eq!(names(&[], true), format!("EXTERNAL {scram} PLAIN"));
    // One that only checks passwords: SCRAM would fail for its users.
    assert_eq!(names(&[Abilities { passwords: true, ..none }], false), "PLAIN");
    let one_hash = Abilities { passwords: true, hashes: &[Hash::Sha1], ..none };
    assert_eq!(names(&[one_hash], false), "SCRAM-SHA-1-PLUS SCRAM-SHA-1 PLAIN");
    let tokens = Abilities { tokens: true, tokens_as_passwords: true, ..none };
    assert_eq!(names(&[tokens], false), format!("{scram} OAUTHBEARER PLAIN"));
}

#[test]
fn a_regions_own_domain_is_offered_what_the_records_of_this_server_can_do() {
    let abilities = Abilities { passwords: true, tokens: true, ..Abilities::default() };
    let backend = Arc::new(Words { words: "", abilities, asked: AtomicUsize::new(0) });
    let dir = tempfile::tempdir().expect("a directory");
    let authorities = dir.path().join("ca.pem");
    let authority = crate::certs::Authority::new("test").expect("made");
    std::fs::write(&authorities, authority.certificate()).expect("written");
    let settings = config::Certificate { authorities, names: Vec::new() };
    let certificates = Certificates::new(&settings, "example.org", Arc::new(|| 0)).ok();
    let domain = Some("example.org".to_owned());
    let links = Links { order: Vec::new(), domain, certificates, ..Links::default() };
    let all = chain(&home(), vec![backend], links);
    let names = |domain: &str| {
        let offered = all.mechanisms(domain);
        offered.iter().map(|mechanism| mechanism.name()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("example.org"), "EXTERNAL OAUTHBEARER PLAIN");
    let internal = chain(&home(), Vec::new(), Links::default()).mechanisms("example.org");
    assert_eq!(all.mechanisms("eu.example.org"), internal);
    assert!(names("eu.example.org").starts_with("SCRAM-SHA-512-PLUS"), "{internal:?}");
}
