//! What documents say, and what is asked of web servers of the tests' own, whose domains are in a name server of the tests' own.

use std::collections::HashMap;

use rustls::pki_types::pem::PemObject;

use super::super::testing::{
    Authority, Web, Zone, authority, document, naming, net, pair, redirect,
};
use super::super::{Net, NetConfig, WhyNot};
use super::*;

fn certificates(root: &Authority, names: &[&str]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(&pair(root, names).chain).collect::<Result<_, _>>().unwrap()
}

/// A net that believes `root` and finds every one of `hosts` at the web servers.
async fn asking(root: &Authority, web: Web, shown: &Authority, hosts: &[&str]) -> (Net, Arc<Web>) {
    let (port, web) = web.serve(net(root, vec![pair(shown, hosts)])).await;
    let zone = hosts.iter().fold(Zone::default(), |zone, host| zone.a(host, "127.0.0.1"));
    let (server, _) = zone.serve().await;
    let config = NetConfig {
        dns: vec![server],
        posh: true,
        trust: Some(root.pem.clone()),
        pairs: vec![pair(root, &["a.lab"])],
        ..NetConfig::default()
    };
    (Net::with_https_port(config, port).unwrap(), web)
}

#[test]
fn documents_say_whom_they_name_and_for_how_long() {
    let certificate = CertificateDer::from(b"a certificate".to_vec());
    let other = CertificateDer::from(b"another".to_vec());
    let hash = |bytes: &[u8]| BASE64.encode(bytes);
    let (two, three, five) = (
        hash(&Sha256::digest(&certificate)),
        hash(&Sha384::digest(&certificate)),
        hash(&Sha512::digest(&certificate)),
    );
    let wrong = hash(&Sha256::digest(&other));
    let means = |json: &str| match Document::read(json.as_bytes()) {
        Ok((Document::Fingerprints(all), holds)) => Some((all.mean(&certificate), holds.as_secs())),
        _ => None,
    };
    let check = |entries: &str, expected| {
        let json = format!("{{\"fingerprints\":[{entries}],\"expires\":604800}}");
        assert_eq!(means(&json), Some((expected, 86_400)), "{entries}");
    };
    check(&format!("{{\"sha-256\":\"{two}\"}}"), true);
    check(&format!("{{\"sha-384\":\"{three}\"}}"), true);
    check(&format!("{{\"sha-512\":\"{five}\",\"sha-256\":\"{wrong}\"}}"), true);
    check(&format!("{{\"sha-256\":\"{wrong}\"}},{{\"sha-256\":\"{two}\"}}"), true);
    check(&format!("{{\"sha-256\":\"{two}\",\"x\":[1],\"sha-1\":\"\"}}"), true);
    check(&format!("{{\"sha-256\":\"{wrong}\"}}"), false);
    // The strongest that is there counts, and of each only its own length.
    let strong = format!("{{\"sha-512\":\"{}\",\"sha-256\":\"{two}\"}}", hash(&[0; 64]));
    check(&strong, false);
    check(&format!("{{\"sha-512\":\"{two}\"}}"), false);
    check("{\"sha-1\":\"AAAA\"},{\"sha-256\":7},{\"sha-256\":\"?\"}", false);
    check("", false);
    let holds = |expires: &str| means(&format!("{{\"fingerprints\":[]{expires}}}"));
    assert_eq!(holds(",\"expires\":60"), Some((false, 60)));
    for none in
        ["", ",\"expires\":0", ",\"expires\":-1", ",\"expires\":\"60\"", ",\"expires\":1e99"]
    {
        assert_eq!(holds(none), None, "{none}");
    }
    let reference = Document::read(b"{\"url\":\"https://b.lab/x\",\"expires\":60}");
    let expected = Document::Reference("https://b.lab/x".to_owned());
    assert_eq!(reference, Ok((expected, Duration::from_secs(60))));
    for bad in ["", "[]", "{}", "{\"expires\":60}", "{\"fingerprints\":{},\"expires\":60}"] {
        assert!(Document::read(bad.as_bytes()).is_err(), "{bad}");
    }
    let many = vec![format!("{{\"sha-256\":\"{wrong}\"}}"); FINGERPRINTS_MAX].join(",");
    check(&format!("{many},{{\"sha-256\":\"{two}\"}}"), false);
}

#[tokio::test]
async fn a_certificate_that_the_domain_names_over_https_proves_it() {
    let root = authority();
    let hosted = certificates(&root, &["hosting.lab"]);
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(vec!["b.lab".to_owned()]).unwrap();
    let own = [own.self_signed(&key).unwrap().der().clone()];
    let away = "{\"url\":\"https://hosting.lab/posh.json\",\"expires\":60}";
    let web = Web::default()
        .with("b.lab", document(&naming(&hosted[0])))
        .with("own.lab", document(&naming(&own[0])))
        .with("c.lab", document(away))
        .with("d.lab", redirect("https://hosting.lab/posh.json"))
        .with("e.lab", redirect("/elsewhere"))
        .page("e.lab/elsewhere", document(away))
        .page("hosting.lab/posh.json", document(&naming(&hosted[0])));
    let hosts = ["b.lab", "own.lab", "c.lab", "d.lab", "e.lab", "hosting.lab"];
    let (net, web) = asking(&root, web, &root, &hosts).await;
    for domain in ["b.lab", "c.lab", "d.lab", "e.lab"] {
        assert_eq!(net.proves_with_lookups(&hosted, domain).await, Ok(()), "{domain}");
        assert!(net.proves(&hosted, domain).is_err(), "only POSH says so");
    }
    // Of nobody whom we trust: that is enough, and for nobody else.
    assert_eq!(net.proves_with_lookups(&own, "own.lab").await, Ok(()));
    assert_eq!(net.proves_with_lookups(&own, "b.lab").await, Err(WhyNot::SelfSigned));
    // All of that is remembered, and who can do without is not asked for.
    let asked = web.asked.lock().len();
    assert_eq!(net.proves_with_lookups(&hosted, "e.lab").await, Ok(()));
    assert_eq!(net.proves_with_lookups(&hosted, "hosting.lab").await, Ok(()));
    assert_eq!(web.asked.lock().len(), asked);
    let words = net.posh("c.lab").await.unwrap().unwrap();
    assert!(words.starts_with("it names 1 certificate, which holds for "), "{words}");
}

#[tokio::test]
async fn what_is_not_said_properly_is_not_said() {
    let (root, stranger) = (authority(), authority());
    let hosted = certificates(&root, &["hosting.lab"]);
    let good = document(&naming(&hosted[0]));
    let refer = |to: &str| document(&format!("{{\"url\":\"{to}\",\"expires\":60}}"));
    let web = Web::default()
        .with("twice.lab", refer("https://again.lab/x"))
        .page("again.lab/x", refer("https://again.lab/y"))
        .page("again.lab/y", good.clone())
        .with("round.lab", redirect("/.well-known/posh/xmpp-server.json"))
        .with("clear.lab", redirect("http://again.lab/y"))
        .with("ported.lab", redirect("https://again.lab:8443/y"))
        .with("referred.lab", refer("https://again.lab:22/y"))
        .with("far.lab", refer("ftp://again.lab/y"))
        .with("long.lab", document(&" ".repeat(100_000)))
        .with("odd.lab", "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned())
        .with("no.lab", "what?".to_owned());
    let hosts = [
        "twice.lab",
        "again.lab",
        "round.lab",
        "clear.lab",
        "ported.lab",
        "referred.lab",
        "far.lab",
        "long.lab",
        "odd.lab",
        "no.lab",
        "none.lab",
    ];
    let (net, web) = asking(&root, web, &root, &hosts).await;
    let check = async |domain: &str, expected: &str| {
        let why = net.posh(domain).await.unwrap().unwrap_err();
        assert!(why.contains(expected), "{domain}: {why}");
        let proved = net.proves_with_lookups(&hosted, domain).await;
        assert_eq!(proved, Err(WhyNot::WrongName("hosting.lab".to_owned())), "{domain}");
    };
    check("twice.lab", "it leads to a document that leads to another").await;
    check("round.lab", "it redirects more than 3 times").await;
    check("clear.lab", "is no https address").await;
    check("ported.lab", "https://again.lab:8443/y: not at the port of https").await;
    check("referred.lab", "https://again.lab:22/y: not at the port of https").await;
    check("far.lab", "is no https address").await;
    check("long.lab", "length limit exceeded").await;
    check("odd.lab", "500").await;
    check("no.lab", "https://no.lab/.well-known/posh/xmpp-server.json: ").await;
    check("none.lab", "404").await;
    check("unknown.lab", "DNS knows no unknown.lab").await;
    check("192.0.2.1", "is an address and no domain").await;
    let count = |at: &str| web.asked.lock().iter().filter(|one| one.starts_with(at)).count();
    assert_eq!((count("round.lab"), count("none.lab")), (4, 1), "remembered, too");

    // A web server that nobody believes, though it says what would do.
    let web = Web::default().with("b.lab", good);
    let (net, web) = asking(&root, web, &stranger, &["b.lab"]).await;
    assert!(net.posh("b.lab").await.unwrap().is_err());
    assert_eq!(web.asked.lock().len(), 0, "it has not even been asked");
}

#[tokio::test]
async fn who_asks_together_asks_once_and_an_answer_has_its_time() {
    let root = authority();
    let hosted = certificates(&root, &["hosting.lab"]);
    let web = Web::default()
        .with("b.lab", document(&naming(&hosted[0])))
        .with("silent.lab", "silence".to_owned());
    let (net, web) = asking(&root, web, &root, &["b.lab", "silent.lab"]).await;
    let asks = (0..10).map(|_| net.proves_with_lookups(&hosted, "b.lab"));
    let all = futures_util::future::join_all(asks).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(web.asked.lock().len(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(3_601)).await;
    tokio::time::resume();
    assert_eq!(net.proves_with_lookups(&hosted, "b.lab").await, Ok(()));
    assert_eq!(web.asked.lock().len(), 2);
    // Whoever gives up leaves nothing half done to the next.
    for asked in [3, 4] {
        let until_asked = async {
            while web.asked.lock().len() < asked {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            _ = net.posh("silent.lab") => panic!("it is silent"),
            () = until_asked => {}
        }
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let now = Instant::now();
    let said = |seconds: u64| {
        let until = now + Duration::from_secs(seconds);
        Known::Said(Arc::new(Said { fingerprints: Err(String::new()), until }))
    };
    let mut all: HashMap<Box<str>, Known> = HashMap::new();
    for n in 0..DOMAINS_MAX as u64 {
        all.insert(format!("{n}.lab").into(), said(1 + n));
    }
    make_room(&mut all, now);
    assert_eq!(all.len(), DOMAINS_MAX - 1);
    assert!(!all.contains_key("0.lab") && all.contains_key("1.lab"));
    make_room(&mut all, now + Duration::from_secs(11));
    assert_eq!(all.len(), DOMAINS_MAX - 11, "what is over goes first");
}
