//! Room `s2s::federation`: `pangaea ctl s2s check DOMAIN`: goes the way of a stanza to another domain step by step, sends none, and says in words what it
//! found at each step, what would fail, and why. Called by `node::app::operator`; calls `net`, `policy` and the [`Wire`].
//!
//! It goes to every server that DNS names, each address by itself, where a stream would be content with the first. It proves nothing to the other side:
//! whether that would believe our dialback key is not tried.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::{join_all, join3};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use xmpp::stream::features;
use xmpp::stream::header::{Framing, Opening};
use xmpp::xml::framer::{Limits, StreamHeader};
use xmpp::{Element, StreamError, ns};

use super::net::identity::Names;
use super::net::{Answer, FindError, Net, Security, Target, WhyNot, server_name};
use super::policy::{Certificate, Policies, Policy, Tls};
use super::wire::{Item, Turn, Wire, farewell};

/// To connect, and again for TLS and what the other side says. All addresses are tried at the same time.
const CONNECTION: Duration = Duration::from_secs(6);
/// Addresses that are tried. Beyond: the rest is left out, and said so.
pub const ADDRESSES_MAX: usize = 16;

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should.
    Good,
    /// A stream can do without it.
    Remark,
    /// Nothing goes on behind it.
    Bad,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What was looked at: `policy`, `DNS`, a server's address, …
    pub at: String,
    /// How it went.
    pub outcome: Outcome,
    /// What was found, in words.
    pub words: String,
}

/// What was found on the way to a domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The domain of ours that would send.
    pub ours: String,
    /// The other domain.
    pub theirs: String,
    /// Every step, in order.
    pub steps: Vec<Step>,
    /// Whether a stanza would get there, as far as one can know without sending one.
    pub works: bool,
}

/// Steps of one part of the way.
#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn say(&mut self, at: impl ToString, outcome: Outcome, words: impl Into<String>) {
        self.0.push(Step { at: at.to_string(), outcome, words: words.into() });
    }
}

/// Goes the way from `ours` to `theirs`, both in prepared form. Takes less than half a minute.
pub async fn check(net: &Net, policies: &Policies, ours: &str, theirs: &str) -> Report {
    let policy = policies.of(theirs);
    let mut all = Steps::default();
    let allowed = say_policy(&mut all, &policy, policies.is_blocked(theirs));
    let ((us, found), (them, targets), posh) =
        join3(say_ours(net, ours), say_dns(net, theirs), say_posh(net, theirs)).await;
    all.0.extend(us.0.into_iter().chain(them.0).chain(posh.0));
    let us = Us { net, policy, ours, theirs, found };
    let reached = match targets {
        Some(targets) => say_servers(&mut all, &us, &targets).await,
        None => false,
    };
    let (ours, theirs) = (ours.to_owned(), theirs.to_owned());
    Report { ours, theirs, steps: all.0, works: allowed && reached }
}

/// What every connection needs to know.
struct Us<'a> {
    net: &'a Net,
    policy: Policy,
    ours: &'a str,
    theirs: &'a str,
    /// Whether others find us, which they need for dialback.
    found: bool,
}

fn say_policy(report: &mut Steps, policy: &Policy, blocked: bool) -> bool {
    let at = "policy";
    if !policy.allow {
        let why = if blocked {
            "it, or a domain above it, is on the blocklist"
        } else {
            "a rule of [[s2s.policy]] allows no streams with it"
        };
        report.say(at, Outcome::Bad, format!("{why}: senders get remote-server-not-found"));
        return false;
    }
    let certificate = match policy.certificate {
        Certificate::Required => "a valid certificate is required",
        Certificate::Preferred => "a valid certificate is preferred, dialback will do",
        Certificate::Ignored => "certificates are not looked at, dialback is asked for",
    };
    let tls = match policy.tls {
        Tls::Required => "TLS is required",
        Tls::Optional => "TLS is not required",
    };
    report.say(at, Outcome::Good, format!("{certificate}; {tls}"));
    true
}

/// What others will find when they look for us, to answer or to verify a dialback key.
async fn say_ours(net: &Net, ours: &str) -> (Steps, bool) {
    let mut report = Steps::default();
    match net.proves_ours(ours) {
        Ok(()) => report.say(
            "our certificate",
            Outcome::Good,
            format!("it proves {ours} to those who believe whom we believe"),
        ),
        Err(why) => report.say(
            "our certificate",
            Outcome::Remark,
            format!("it is {why}: others may not let us in with it, and dialback is left"),
        ),
    }
    let found = match net.find(ours).await {
        Err(FindError::Ourselves(_)) => {
            report.say("our DNS", Outcome::Good, format!("{ours} leads to this node"));
            true
        }
        Ok(targets) => {
            let all: Vec<String> = targets.iter().map(place).collect();
            report.say("our DNS", Outcome::Good, format!("{ours} leads to {}", all.join(", ")));
            true
        }
        Err(error) => {
            let words =
                format!("{error}: others cannot answer us, and cannot verify dialback keys");
            report.say("our DNS", Outcome::Remark, words);
            false
        }
    };
    (report, found)
}

fn place(target: &Target) -> String {
    let ips: Vec<String> = target.addresses.iter().map(ToString::to_string).collect();
    format!("{target} at {}", ips.join(" and "))
}

async fn say_dns(net: &Net, theirs: &str) -> (Steps, Option<Vec<Target>>) {
    let mut report = Steps::default();
    if let Ok((direct, start_tls)) = net.services(theirs).await {
        for (service, answer) in [("_xmpps-server", direct), ("_xmpp-server", start_tls)] {
            let at = format!("{service}._tcp");
            match answer {
                Answer::Records(all) => {
                    let one = |srv: &super::net::targets::Srv| {
                        let host = if srv.host.is_empty() { "." } else { &srv.host };
                        let signed = if srv.authentic { ", signed" } else { "" };
                        format!(
                            "{host}:{} (priority {}, weight {}{signed})",
                            srv.port, srv.priority, srv.weight
                        )
                    };
                    let shown: Vec<String> = all.iter().take(8).map(one).collect();
                    let more = all.len().saturating_sub(8);
                    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                    report.say(at, Outcome::Good, format!("{}{more}", shown.join(", ")));
                }
                Answer::Nothing => report.say(at, Outcome::Remark, "no SRV record"),
                Answer::Failed(why) => report.say(at, Outcome::Remark, why),
            }
        }
    }
    let found = match net.find(theirs).await {
        Ok(targets) => {
            let all: Vec<String> = targets.iter().map(place).collect();
            report.say("DNS", Outcome::Good, all.join(", then "));
            Some(targets)
        }
        Err(error) => {
            let words = format!("{error}: senders get {}", error.condition().name());
            report.say("DNS", Outcome::Bad, words);
            None
        }
    };
    (report, found)
}

/// What it says over `https`, where that is asked for.
async fn say_posh(net: &Net, theirs: &str) -> Steps {
    let mut report = Steps::default();
    match net.posh(theirs).await {
        Some(Ok(words)) => report.say("POSH", Outcome::Good, words),
        Some(Err(why)) => report.say("POSH", Outcome::Remark, format!("nothing: {why}")),
        None => {}
    }
    report
}

async fn say_servers(report: &mut Steps, us: &Us<'_>, targets: &[Target]) -> bool {
    let each = targets.iter().flat_map(|target| {
        let one = |ip: &IpAddr| Target { addresses: vec![*ip], ..target.clone() };
        target.addresses.iter().map(one)
    });
    let all: Vec<Target> = each.collect();
    let tried = join_all(all.iter().take(ADDRESSES_MAX).map(|target| say_server(us, target))).await;
    let mut works = false;
    for (steps, good) in tried {
        report.0.extend(steps.0);
        works |= good;
    }
    if let more @ 1.. = all.len().saturating_sub(ADDRESSES_MAX) {
        report.say("servers", Outcome::Remark, format!("{more} more addresses were not tried"));
    }
    if !works {
        report.say("servers", Outcome::Bad, "none will do: senders get remote-server-timeout");
    }
    works
}

async fn say_server(us: &Us<'_>, target: &Target) -> (Steps, bool) {
    let mut report = Steps::default();
    let at = format!("{} {}", target.host, SocketAddr::new(target.addresses[0], target.port));
    let deadline = Instant::now() + CONNECTION;
    let stream = match us.net.connect(std::slice::from_ref(target), deadline).await {
        Ok((stream, _)) => stream,
        Err(error) => {
            report.say(at, Outcome::Bad, error.to_string());
            return (report, false);
        }
    };
    report.say(&at, Outcome::Good, format!("connected, for {}", target.security));
    let works = match timeout(CONNECTION, talk(us, target.security, stream)).await {
        Ok(Ok(found)) => {
            let proof = match &found.tls {
                None => Err(WhyNot::NoCertificate),
                Some(_) => us.net.proves_with_lookups(&found.chain, us.theirs).await,
            };
            judge(&mut report, us, &at, &found, &proof)
        }
        Ok(Err(why)) => {
            report.say(&at, Outcome::Bad, why);
            false
        }
        Err(_) => {
            report.say(&at, Outcome::Bad, format!("it has not answered within {CONNECTION:?}"));
            false
        }
    };
    (report, works)
}

/// What a server has said of itself.
struct Found {
    /// Its certificates; none without TLS.
    chain: Vec<CertificateDer<'static>>,
    /// TLS version and cipher suite; none without TLS.
    tls: Option<String>,
    header: StreamHeader,
    features: Element,
}

async fn talk(us: &Us<'_>, security: Security, stream: TcpStream) -> Result<Found, String> {
    let plain = match security {
        Security::DirectTls => stream,
        Security::StartTls => {
            let mut wire = Wire::new(stream, Limits::PRE_AUTH);
            let (header, offered) = open(&mut wire, us).await?;
            if !features::offers_starttls(&offered) {
                bye(wire).await;
                return Ok(Found { chain: Vec::new(), tls: None, header, features: offered });
            }
            wire.put(&Framing::Stream.element(&Element::new("starttls", ns::TLS)));
            let answer = element(&mut wire).await?;
            if !answer.is("proceed", ns::TLS) {
                return Err(format!("it offers STARTTLS and answers it with <{}/>", answer.name()));
            }
            wire.into_plain().ok_or("it sends something in the clear behind <proceed/>")?
        }
    };
    let name = server_name(us.theirs).ok_or("its domain is no name for TLS")?;
    let connector = us.net.connector(us.ours, security);
    let encrypted =
        connector.connect(name, plain).await.map_err(|error| format!("TLS fails: {error}"))?;
    let session = encrypted.get_ref().1;
    let chain = session.peer_certificates().unwrap_or_default();
    let chain: Vec<_> = chain.iter().map(|one| one.clone().into_owned()).collect();
    let version = match session.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS 1.2",
    };
    let alpn = match (security, session.alpn_protocol()) {
        (Security::DirectTls, None) => ", without ALPN",
        _ => "",
    };
    let tls = Some(format!("{version}{alpn}"));
    let mut wire = Wire::new(encrypted, Limits::PRE_AUTH);
    let (header, features) = open(&mut wire, us).await?;
    bye(wire).await;
    Ok(Found { chain, tls, header, features })
}

/// Says hello, and hears who it is and what it offers.
async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    us: &Us<'_>,
) -> Result<(StreamHeader, Element), String> {
    let opening = Opening {
        content_ns: ns::SERVER,
        from: Some(us.ours),
        to: Some(us.theirs),
        id: None,
        dialback: true,
    };
    wire.put(&opening.to_bytes(Framing::Stream));
    let header = match item(wire).await? {
        Item::Open(header) => *header,
        _ => return Err("it does not begin with a stream header".to_owned()),
    };
    if header.content_ns != ns::SERVER {
        return Err(format!("it speaks {:?} there and no jabber:server", header.content_ns));
    }
    // RFC 6120 §4.7.5: without a version there are no features.
    if header.version.is_none_or(|version| version < (1, 0)) {
        return Ok((header, Element::new("features", ns::STREAM)));
    }
    let features = element(wire).await?;
    if !features::is_features(&features) {
        return Err(format!("it sends <{}/> and no stream features", features.name()));
    }
    Ok((header, features))
}

async fn element<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Element, String> {
    match item(wire).await? {
        Item::Element(element) => match StreamError::from_element(&element) {
            None => Ok(element),
            Some(error) => {
                let text = error.text.map(|text| format!(" ({text})")).unwrap_or_default();
                Err(format!("it ends the stream: {}{text}", error.condition.name()))
            }
        },
        Item::Close => Err("it closes the stream".to_owned()),
        Item::Open(_) | Item::Stanza(..) => Err("it says what nobody asked it".to_owned()),
    }
}

async fn item<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Result<Item, String> {
    loop {
        let next = wire.next();
        match next.map_err(|error| format!("it sends bad XML: {}", error.condition.name()))? {
            Some(item) => return Ok(item),
            None => match wire.turn(true).await {
                Ok(Turn::Ended) => return Err("it closes the connection".to_owned()),
                Ok(_) => {}
                Err(cause) => return Err(format!("the connection is cut: {cause}")),
            },
        }
    }
}

async fn bye<S: AsyncRead + AsyncWrite + Unpin>(mut wire: Wire<S>) {
    wire.put(&farewell(None));
    wire.close(Duration::from_secs(1)).await;
}

/// What would come of a stream there.
fn judge(
    report: &mut Steps,
    us: &Us<'_>,
    at: &str,
    found: &Found,
    proof: &Result<(), WhyNot>,
) -> bool {
    let policy = &us.policy;
    match &found.tls {
        Some(tls) => report.say(at, Outcome::Good, tls.clone()),
        None if policy.tls == Tls::Optional => {
            report.say(at, Outcome::Remark, "it offers no STARTTLS: all would go in the clear");
        }
        None => {
            report.say(at, Outcome::Bad, "it offers no STARTTLS, and TLS is required");
            return false;
        }
    }
    match proof {
        Ok(()) => {
            let names = found.chain.first().and_then(|leaf| Names::of(leaf).ok());
            let names = names.map(|names| names.words()).unwrap_or_default();
            let words = match us.net.proves(&found.chain, us.theirs) {
                Ok(()) => format!("its certificate is valid: it names {names}"),
                Err(why) => {
                    format!(
                        "its certificate is valid, for {} names it; by itself it is {why}",
                        us.theirs
                    )
                }
            };
            report.say(at, Outcome::Good, words);
        }
        Err(_) if found.tls.is_none() => {}
        Err(why) => {
            let outcome = match policy.certificate {
                Certificate::Required => Outcome::Bad,
                _ => Outcome::Remark,
            };
            report.say(at, outcome, format!("its certificate is {why}"));
        }
    }
    let mechanisms = features::mechanisms(&found.features);
    let external = mechanisms.iter().any(|one| one == "EXTERNAL");
    let dialback =
        found.header.dialback || found.features.has_child("dialback", ns::DIALBACK_FEATURE);
    let extras: Vec<&str> = [
        (found.features.has_child("bidi", ns::BIDI_FEATURE), "bidirectional streams (XEP-0288)"),
        (found.features.has_child("sm", ns::SM), "stream management (XEP-0198)"),
    ]
    .into_iter()
    .filter_map(|(has, what)| has.then_some(what))
    .collect();
    if !extras.is_empty() {
        report.say(at, Outcome::Good, format!("it offers {}", extras.join(" and ")));
    }
    if proof.is_err() && policy.certificate == Certificate::Required {
        report.say(
            at,
            Outcome::Bad,
            "policy requires a valid certificate: there would be no stream",
        );
        return false;
    }
    if external && found.tls.is_some() && policy.external() {
        report.say(at, Outcome::Good, "it believes our certificate: SASL EXTERNAL would be used");
        return true;
    }
    let why = match (external, mechanisms.is_empty()) {
        (true, _) => "policy does not look at certificates",
        (false, true) => "it offers no SASL EXTERNAL, so it does not believe our certificate",
        (false, false) => "it offers other mechanisms than SASL EXTERNAL",
    };
    match (dialback, us.found) {
        (true, true) => {
            report.say(at, Outcome::Good, format!("{why}: dialback would be used"));
            true
        }
        (true, false) => {
            let words = format!("{why}; dialback would fail, for DNS does not lead it to us");
            report.say(at, Outcome::Bad, words);
            false
        }
        (false, _) => {
            report.say(at, Outcome::Bad, format!("{why}, and no dialback: it would not let us in"));
            false
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
