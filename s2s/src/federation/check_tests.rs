//! The check against servers of the tests' own, found in a name server of the tests' own.

use config::{S2sCertificate, S2sPolicy, S2sTls};
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::net::testing::{Authority, Web, Zone, authority, document, naming, net, pair};
use super::super::net::{NetConfig, Own};
use super::*;

const EXTERNAL: &str = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>";
const DIALBACK: &str = "<dialback xmlns='urn:xmpp:features:dialback'><errors/></dialback>";

/// What a server of the tests' says.
#[derive(Clone, Default)]
struct Peer {
    starttls: bool,
    /// It begins with TLS.
    direct: bool,
    features: String,
    /// Instead of features.
    error: Option<&'static str>,
    domain: &'static str,
}

impl Peer {
    fn new(features: &[&str]) -> Self {
        let features = features.concat();
        Peer { starttls: true, features, domain: "b.lab", ..Peer::default() }
    }

    async fn serve(self, certificates: Net) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who goes away in the middle is no failure of the test.
                let _ = self.stream(stream, &certificates).await;
            }
        });
        port
    }

    async fn stream(&self, mut stream: TcpStream, certificates: &Net) -> std::io::Result<()> {
        if !self.direct {
            let tls = "<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>";
            self.hello(&mut stream, if self.starttls { tls } else { &self.features }).await?;
            if !until(&mut stream, "<starttls").await? {
                return Ok(());
            }
            stream.write_all(b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>").await?;
        }
        let security = if self.direct { Security::DirectTls } else { Security::StartTls };
        let mut stream = certificates.acceptor(security).accept(stream).await?;
        self.hello(&mut stream, &self.features).await?;
        until(&mut stream, "</stream:stream>").await?;
        stream.write_all(b"</stream:stream>").await?;
        stream.shutdown().await
    }

    async fn hello(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        features: &str,
    ) -> std::io::Result<()> {
        until(stream, "<stream:stream").await?;
        let header = format!(
            "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
             id='1' from='{}' version='1.0'>",
            self.domain
        );
        let rest = match self.error {
            Some(error) => format!(
                "<stream:error><{error} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"
            ),
            None => format!("<stream:features>{features}</stream:features>"),
        };
        stream.write_all((header + &rest).as_bytes()).await
    }
}

/// Reads until that has come with a `>` behind it; whether it has.
async fn until(stream: &mut (impl AsyncRead + Unpin), wanted: &str) -> std::io::Result<bool> {
    let mut seen = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&seen);
        if text.find(wanted).is_some_and(|at| text[at..].contains('>')) {
            return Ok(true);
        }
        if stream.read_buf(&mut seen).await? == 0 {
            return Ok(false);
        }
    }
}

/// `a.lab` looks at `b.lab`, which is where `zone` says.
async fn look(root: &Authority, zone: Zone, rules: &[S2sPolicy]) -> Report {
    look_with(root, zone, rules, None).await
}

/// The same, with POSH if there is a port to ask.
async fn look_with(
    root: &Authority,
    zone: Zone,
    rules: &[S2sPolicy],
    https: Option<u16>,
) -> Report {
    let zone = zone.srv("_xmpp-server._tcp.a.lab", 0, 7000, "a.lab.").a("a.lab", "127.0.0.1");
    let (server, _) = zone.serve().await;
    let config = NetConfig {
        dns: vec![server],
        trust: Some(root.pem.clone()),
        pairs: vec![pair(root, &["a.lab"])],
        own: Own(vec!["127.0.0.1:7000".parse().unwrap()]),
        posh: https.is_some(),
        ..NetConfig::default()
    };
    let net = Net::with_https_port(config, https.unwrap_or_default()).unwrap();
    check(&net, &Policies::new(rules), "a.lab", "b.lab").await
}

fn at(port: u16) -> Zone {
    Zone::default().srv("_xmpp-server._tcp.b.lab", 0, port, "b.lab.").a("b.lab", "127.0.0.1")
}

/// Expects steps that contain these, in this order.
#[track_caller]
fn says(report: &Report, works: bool, expected: &[(Outcome, &str)]) {
    let mut steps = report.steps.iter();
    for (outcome, words) in expected {
        let found = steps.any(|step| step.outcome == *outcome && step.words.contains(words));
        assert!(found, "{words:?} is missing, or in another place, in {report:#?}");
    }
    assert_eq!(report.works, works, "{report:#?}");
}

fn rule(certificate: S2sCertificate, tls: S2sTls) -> S2sPolicy {
    let domain = "b.lab".to_owned();
    S2sPolicy { domain, allow: true, certificate, tls, bytes_per_second: None }
}

#[tokio::test]
async fn a_good_server_is_walked_to_its_end() {
    let root = authority();
    let certificates = net(&root, vec![pair(&root, &["b.lab"])]);
    let bidi = "<bidi xmlns='urn:xmpp:features:bidi'/>";
    let port = Peer::new(&[EXTERNAL, DIALBACK, bidi]).serve(certificates.clone()).await;
    let direct = Peer { direct: true, ..Peer::new(&[EXTERNAL]) }.serve(certificates).await;
    let zone = at(port).srv("_xmpps-server._tcp.b.lab", 5, direct, "b.lab.");
    let report = look(&root, zone, &[]).await;
    let target = format!("b.lab:{port} (STARTTLS) at 127.0.0.1, then b.lab:{direct} (direct TLS)");
    let expected = [
        (Outcome::Good, "a valid certificate is preferred, dialback will do; TLS is required"),
        (Outcome::Good, "it proves a.lab"),
        (Outcome::Good, "a.lab leads to this node"),
        (Outcome::Good, "(priority 5, weight 0)"),
        (Outcome::Good, &target),
        (Outcome::Good, "connected, for STARTTLS"),
        (Outcome::Good, "TLS 1.3"),
        (Outcome::Good, "its certificate is valid: it names b.lab"),
        (Outcome::Good, "it offers bidirectional streams (XEP-0288)"),
        (Outcome::Good, "SASL EXTERNAL would be used"),
        (Outcome::Good, "connected, for direct TLS"),
        (Outcome::Good, "SASL EXTERNAL would be used"),
    ];
    says(&report, true, &expected);
}

#[tokio::test]
async fn what_is_said_by_posh_counts_and_is_shown() {
    let root = authority();
    let hosting = pair(&root, &["hosting.lab"]);
    let leaf = CertificateDer::from_pem_slice(&hosting.chain).unwrap();
    let port = Peer::new(&[EXTERNAL]).serve(net(&root, vec![hosting])).await;
    let rules = [rule(S2sCertificate::Required, S2sTls::Required)];
    let web = Web::default().with("b.lab", document(&naming(&leaf)));
    let (https, _) = web.serve(net(&root, vec![pair(&root, &["b.lab"])])).await;
    let report = look_with(&root, at(port), &rules, Some(https)).await;
    let expected = [
        (Outcome::Good, "it names 1 certificate, which holds for "),
        (
            Outcome::Good,
            "for b.lab names it; by itself it is of another name: it names hosting.lab",
        ),
        (Outcome::Good, "SASL EXTERNAL would be used"),
    ];
    says(&report, true, &expected);
    let (https, _) = Web::default().serve(net(&root, vec![pair(&root, &["b.lab"])])).await;
    let report = look_with(&root, at(port), &rules, Some(https)).await;
    let expected = [
        (Outcome::Remark, "nothing: https://b.lab/.well-known/posh/xmpp-server.json: 404"),
        (Outcome::Bad, "its certificate is of another name"),
    ];
    says(&report, false, &expected);
    // Who does not ask says nothing of it.
    let report = look(&root, at(port), &rules).await;
    assert!(report.steps.iter().all(|step| step.at != "POSH"), "{report:#?}");
}

#[tokio::test]
async fn a_stranger_is_dialled_back_if_policy_lets_it() {
    let (root, stranger) = (authority(), authority());
    let certificates = net(&stranger, vec![pair(&stranger, &["b.lab"])]);
    let port = Peer::new(&[DIALBACK]).serve(certificates).await;
    let report = look(&root, at(port), &[]).await;
    let why = "it offers no SASL EXTERNAL, so it does not believe our certificate: dialback would be used";
    says(&report, true, &[(Outcome::Remark, "its certificate is "), (Outcome::Good, why)]);
    let rules = [rule(S2sCertificate::Required, S2sTls::Required)];
    let report = look(&root, at(port), &rules).await;
    let why = "policy requires a valid certificate: there would be no stream";
    says(
        &report,
        false,
        &[
            (Outcome::Bad, "its certificate is "),
            (Outcome::Bad, why),
            (Outcome::Bad, "remote-server-timeout"),
        ],
    );
    let rules = [rule(S2sCertificate::Ignored, S2sTls::Required)];
    says(&look(&root, at(port), &rules).await, true, &[(Outcome::Good, "dialback would be used")]);
}

#[tokio::test]
async fn what_stands_in_the_way_is_said() {
    let root = authority();
    let certificates = || net(&root, vec![pair(&root, &["b.lab"])]);
    // S-027: STARTTLS is not there, or somebody has taken it out.
    let plain = Peer { starttls: false, ..Peer::new(&[DIALBACK]) }.serve(certificates()).await;
    let report = look(&root, at(plain), &[]).await;
    says(&report, false, &[(Outcome::Bad, "it offers no STARTTLS, and TLS is required")]);
    let rules = [rule(S2sCertificate::Preferred, S2sTls::Optional)];
    let in_the_clear =
        [(Outcome::Remark, "all would go in the clear"), (Outcome::Good, "dialback")];
    says(&look(&root, at(plain), &rules).await, true, &in_the_clear);
    let deaf = Peer { error: Some("host-unknown"), ..Peer::new(&[]) }.serve(certificates()).await;
    says(
        &look(&root, at(deaf), &[]).await,
        false,
        &[(Outcome::Bad, "it ends the stream: host-unknown")],
    );
    let shut = Peer::new(&[]).serve(certificates()).await;
    says(&look(&root, at(shut), &[]).await, false, &[(Outcome::Bad, "and no dialback")]);
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    says(&look(&root, at(gone), &[]).await, false, &[(Outcome::Bad, "connection refused")]);
    let report = look(&root, Zone::default(), &[]).await;
    let nobody = "DNS knows no domain b.lab: senders get remote-server-not-found";
    says(&report, false, &[(Outcome::Remark, "no SRV record"), (Outcome::Bad, nobody)]);
    let no = S2sPolicy { allow: false, ..rule(S2sCertificate::Preferred, S2sTls::Required) };
    says(&look(&root, at(shut), &[no]).await, false, &[(Outcome::Bad, "allows no streams")]);
    // Nobody finds us: dialback is no way.
    let port = Peer::new(&[DIALBACK]).serve(certificates()).await;
    let (server, _) = at(port).serve().await;
    let config = NetConfig {
        dns: vec![server],
        trust: Some(root.pem.clone()),
        pairs: vec![pair(&root, &["b.lab"])],
        ..NetConfig::default()
    };
    let report = check(&Net::new(config).unwrap(), &Policies::default(), "a.lab", "b.lab").await;
    let expected = [
        (Outcome::Remark, "others may not let us in with it"),
        (Outcome::Remark, "cannot verify dialback keys"),
        (Outcome::Bad, "dialback would fail"),
    ];
    says(&report, false, &expected);
}
