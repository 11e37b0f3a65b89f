//! Room `s2s::federation::net`: certificates that a domain names over HTTPS (POSH: RFC 7711, for XMPP RFC 7712). Called by `net` where it is switched on, for a
//! certificate that neither authorities nor DNS have said anything good of; calls `https`.
//!
//! The document is at `https://DOMAIN/.well-known/posh/xmpp-server.json`, and lists fingerprints or leads to another that does. What is said, that there is nothing
//! too, is remembered: as long as the document says, a day at most. Whoever asks while somebody is asking waits for the same answer; a question that nobody
//! waits for is given up. Where a document or a web server leads to is at the port of `https`, and not within a network that is closed to others: nobody has us knock
//! there. A certificate must still be of its time and good for servers or clients; its names and its issuer do not count. Left
//! out: `sha-1`, and all hashes but those of the SHA-2 family.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::time::{Instant, timeout_at};

use super::https::{Https, Reach, Reply, Url};

/// Where the document is (RFC 7711 §3); the service is `xmpp-server`, as that of DNS.
pub(super) const PATH: &str = "/.well-known/posh/xmpp-server.json";
/// Everything that is asked about one domain.
const LOOKUP: Duration = Duration::from_secs(10);
/// HTTP redirections that are followed for one domain (RFC 7711 §10 recommends ten at most). Beyond: there is nothing.
const REDIRECTS_MAX: usize = 3;
/// Fingerprints of one document. Beyond: the rest is left out.
const FINGERPRINTS_MAX: usize = 100;
/// Domains that are remembered. Beyond: the one that would be forgotten first is; those that are being asked have a bound of their own
/// (`verifications_max`).
const DOMAINS_MAX: usize = 4_096;
/// Characters of the reason why there is nothing. Beyond: they are left out.
const WHY_CHARS_MAX: usize = 300;
/// How long an answer is remembered at most, and how long that there is none.
const REMEMBERED_MAX: Duration = Duration::from_secs(86_400);
const MISSED: Duration = Duration::from_secs(300);

/// One certificate, by the strongest of its hashes that we know.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fingerprint {
    Sha256(Vec<u8>),
    Sha384(Vec<u8>),
    Sha512(Vec<u8>),
}

impl Fingerprint {
    fn of(entry: &BTreeMap<String, serde_json::Value>) -> Option<Fingerprint> {
        let hash = |name: &str, bytes: usize| {
            let hash = BASE64.decode(entry.get(name)?.as_str()?).ok();
            hash.filter(|hash| hash.len() == bytes)
        };
        let strongest = hash("sha-512", 64).map(Fingerprint::Sha512);
        let weaker = || hash("sha-384", 48).map(Fingerprint::Sha384);
        strongest.or_else(weaker).or_else(|| hash("sha-256", 32).map(Fingerprint::Sha256))
    }

    fn means(&self, certificate: &CertificateDer<'_>) -> bool {
        match self {
            Fingerprint::Sha256(hash) => Sha256::digest(certificate).as_slice() == hash,
            Fingerprint::Sha384(hash) => Sha384::digest(certificate).as_slice() == hash,
            Fingerprint::Sha512(hash) => Sha512::digest(certificate).as_slice() == hash,
        }
    }
}

/// The certificates that a domain names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprints(Vec<Fingerprint>);

impl Fingerprints {
    /// Whether `certificate` is one of them.
    pub(super) fn mean(&self, certificate: &CertificateDer<'_>) -> bool {
        self.0.iter().any(|one| one.means(certificate))
    }
}

/// What is in a document.
#[derive(Debug, PartialEq, Eq)]
enum Document {
    /// RFC 7711 §3.1.
    Fingerprints(Fingerprints),
    /// RFC 7711 §3.2: at that address.
    Reference(String),
}

#[derive(Deserialize)]
struct Json {
    fingerprints: Option<Vec<BTreeMap<String, serde_json::Value>>>,
    url: Option<String>,
    expires: Option<u64>,
}

impl Document {
    /// Reads one, and for how long it holds.
    fn read(bytes: &[u8]) -> Result<(Document, Duration), String> {
        let json: Json = serde_json::from_slice(bytes)
            .map_err(|error| format!("its document cannot be read: {error}"))?;
        // RFC 7711 §3.1: without it, and at zero, nothing in it counts.
        let expires = json.expires.filter(|seconds| *seconds > 0);
        let expires = expires.ok_or("its document has expired, or does not say when it will")?;
        let document = match (json.fingerprints, json.url) {
            (Some(all), _) => {
                let all = all.iter().take(FINGERPRINTS_MAX).filter_map(Fingerprint::of);
                Document::Fingerprints(Fingerprints(all.collect()))
            }
            (None, Some(url)) => Document::Reference(url),
            (None, None) => return Err("its document has neither fingerprints nor url".to_owned()),
        };
        Ok((document, Duration::from_secs(expires).min(REMEMBERED_MAX)))
    }
}

/// What was found out about a domain.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// Whom it names, or why nobody, in words.
    pub(super) fingerprints: Result<Fingerprints, String>,
    /// Until when that holds.
    pub(super) until: Instant,
}

impl Said {
    /// In words, for people; an error is one too.
    pub(super) fn words(&self) -> Result<String, String> {
        let named = match self.fingerprints.as_ref().map_err(Clone::clone)?.0.len() {
            0 => return Err("its document names no certificate that we could know".to_owned()),
            1 => "1 certificate".to_owned(),
            many => format!("{many} certificates"),
        };
        let rest = self.until.saturating_duration_since(Instant::now());
        Ok(format!("it names {named}, which holds for {} s more", rest.as_secs()))
    }
}

/// An answer to come.
type Asking = Shared<BoxFuture<'static, Arc<Said>>>;

/// What is known of a domain.
enum Known {
    /// Somebody is asking, or was and has given up.
    Asking(WeakShared<BoxFuture<'static, Arc<Said>>>),
    Said(Arc<Said>),
}

/// Asks, and remembers.
pub(super) struct Posh {
    https: Arc<Https>,
    known: Mutex<HashMap<Box<str>, Known>>,
}

impl Posh {
    pub(super) fn new(https: Https) -> Posh {
        Posh { https: Arc::new(https), known: Mutex::default() }
    }

    /// What a domain (prepared form) says. Takes 10 s at most.
    pub(super) async fn ask(&self, domain: &str) -> Arc<Said> {
        let asking = match self.known_or_asked(domain) {
            Ok(said) => return said,
            Err(asking) => asking,
        };
        let said = asking.await;
        if let Some(known @ Known::Asking(_)) = self.known.lock().get_mut(domain) {
            *known = Known::Said(said.clone());
        }
        said
    }

    /// What it has said, or a question that is on the way.
    fn known_or_asked(&self, domain: &str) -> Result<Arc<Said>, Asking> {
        let mut all = self.known.lock();
        let now = Instant::now();
        match all.get(domain) {
            Some(Known::Said(said)) if now < said.until => return Ok(said.clone()),
            Some(Known::Asking(asking)) => {
                if let Some(asking) = asking.upgrade() {
                    return Err(asking);
                }
            }
            _ => {}
        }
        if all.len() >= DOMAINS_MAX && !all.contains_key(domain) {
            make_room(&mut all, now);
        }
        let (https, name) = (self.https.clone(), domain.to_owned());
        let asking = async move {
            let deadline = Instant::now() + LOOKUP;
            let found = timeout_at(deadline, look(&https, &name, deadline)).await;
            let found = found.unwrap_or_else(|_| Err("it takes too long".to_owned()));
            let (fingerprints, holds) = match found {
                Ok((all, holds)) => (Ok(all), holds),
                Err(why) => {
                    let why: String = why.chars().take(WHY_CHARS_MAX).collect();
                    tracing::debug!(domain = name, why, "nothing by POSH");
                    (Err(why), MISSED)
                }
            };
            Arc::new(Said { fingerprints, until: Instant::now() + holds })
        };
        let asking = asking.boxed().shared();
        if let Some(weak) = asking.downgrade() {
            all.insert(domain.into(), Known::Asking(weak));
        }
        Err(asking)
    }
}

/// Forgets what nobody needs any more, and if there is none of that the one that would be forgotten next.
fn make_room(all: &mut HashMap<Box<str>, Known>, now: Instant) {
    all.retain(|_, known| match known {
        Known::Asking(asking) => asking.upgrade().is_some(),
        Known::Said(said) => now < said.until,
    });
    if all.len() >= DOMAINS_MAX {
        let said = all.iter().filter_map(|(domain, known)| match known {
            Known::Asking(_) => None,
            Known::Said(said) => Some((said.until, domain)),
        });
        // If all of them are being asked, one more is.
        if let Some(first) = said.min().map(|(_, domain)| domain.clone()) {
            all.remove(&first);
        }
    }
}

/// The whole process for one domain, and how long its result holds.
async fn look(
    https: &Https,
    domain: &str,
    deadline: Instant,
) -> Result<(Fingerprints, Duration), String> {
    let mut url = Url::at(domain, PATH)?;
    let (mut redirects, mut referred, mut reach) = (0, None, None);
    loop {
        let (reply, from) = https.get(&url, reach.unwrap_or(Reach::Anywhere), deadline).await?;
        reach.get_or_insert(Reach::after(from));
        let bytes = match reply {
            Reply::Document(bytes) => bytes,
            Reply::Elsewhere(_) if redirects == REDIRECTS_MAX => {
                return Err(format!("it redirects more than {REDIRECTS_MAX} times"));
            }
            Reply::Elsewhere(next) => {
                (url, redirects) = (next.further()?, redirects + 1);
                continue;
            }
        };
        match Document::read(&bytes)? {
            // RFC 7711 §6: the lower of both.
            (Document::Fingerprints(all), expires) => {
                return Ok((all, referred.map_or(expires, |before| expires.min(before))));
            }
            (Document::Reference(to), expires) if referred.is_none() => {
                (url, referred) = (Url::parse(&to)?.further()?, Some(expires));
            }
            (Document::Reference(_), _) => {
                return Err("it leads to a document that leads to another".to_owned());
            }
        }
    }
}

#[cfg(test)]
#[path = "posh_tests.rs"]
mod tests;
