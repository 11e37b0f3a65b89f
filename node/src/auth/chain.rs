//! Auth: the backends of the configuration, one after the other, and what follows for the account's record.
//!
//! The first backend that knows an account decides. One that is down stops the walk: it might have known. An account that a backend
//! knows and its home does not is made there when it first signs in (like a registration, through the one writer of its data), and from
//! then on a suspension here holds whatever the backend says. Successes may be remembered for a while (`auth.cache`).
//!
//! Called by the session through [`Authenticator`]. Certificates ([`super::certificate`]) are proved at the door; here they are
//! only admitted.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;
use xmpp::jid::BareJid;
use xmpp::sasl::{Credentials, Hash, Mechanism, Password, Verdict};

use super::cache::Recent;
use super::certificate::Certificates;
use super::internal::{Internal, Keys, NoKeys};
use super::{Abilities, About, Authenticator, Backend, Said};

/// Where an account's record is made.
pub trait Accounts: Send + Sync {
    /// Makes it, without keys, if it is not there. In the end it is, at its home.
    ///
    /// # Errors
    /// The home cannot be reached now; what it says is for the log.
    fn make(&self, account: &BareJid) -> BoxFuture<'static, Result<(), String>>;
}

/// One place in the order.
#[derive(Clone)]
pub enum Source {
    /// The records of this server.
    Internal,
    /// Somebody else's.
    Other(Arc<dyn Backend>),
}

/// How the backends are put together.
pub struct Links {
    /// In this order.
    pub order: Vec<Source>,
    /// Other people's backends know accounts of this domain; those of all others are in the records of this server. `None`: they know all.
    pub domain: Option<String>,
    /// Who judges certificates of clients, if they may prove accounts.
    pub certificates: Option<Certificates>,
    /// Whether accounts are made that a backend knows and their home does not.
    pub make_accounts: bool,
    /// How long a password that was right is taken for right without asking again; zero: not at all.
    pub remember: Duration,
    /// How many of them.
    pub remembered_max: usize,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            order: vec![Source::Internal],
            domain: None,
            certificates: None,
            make_accounts: true,
            remember: Duration::ZERO,
            remembered_max: 2,
        }
    }
}

/// See the room. Cloning shares it.
#[derive(Clone)]
pub struct Chain {
    inner: Arc<Inner>,
}

struct Inner {
    internal: Internal,
    accounts: Arc<dyn Accounts>,
    links: Links,
    successes: Option<Successes>,
}

impl Chain {
    /// Of `internal`, which is asked in its place if `links` names it, and has the records in any case.
    pub fn new(internal: Internal, accounts: Arc<dyn Accounts>, links: Links) -> Self {
        let successes = (!links.remember.is_zero()).then(|| Successes::new(&links));
        Self { inner: Arc::new(Inner { internal, accounts, links, successes }) }
    }

    /// What may be offered to accounts of a domain, the preferred first.
    pub fn mechanisms(&self, domain: &str) -> Vec<Mechanism> {
        let links = &self.inner.links;
        let order = self.inner.order(domain);
        let abilities: Vec<Abilities> = order.iter().map(Source::abilities).collect();
        let with_passwords = || abilities.iter().filter(|can| can.passwords);
        let hashes = Hash::STRONGEST_FIRST.into_iter().filter(|hash| {
            with_passwords().next().is_some()
                && with_passwords().all(|can| can.hashes.contains(hash))
        });
        let hashes: Vec<Hash> = hashes.collect();
        let scram = |plus| hashes.iter().map(move |&hash| Mechanism::Scram { hash, plus });
        let mut all = Vec::new();
        let certificates = links.certificates.as_ref().filter(|_| self.inner.has_others(domain));
        all.extend(certificates.map(|_| Mechanism::External));
        all.extend(scram(true));
        all.extend(scram(false));
        all.extend(abilities.iter().any(|can| can.tokens).then_some(Mechanism::OauthBearer));
        let plain = abilities.iter().any(|can| can.passwords || can.tokens_as_passwords);
        all.extend(plain.then_some(Mechanism::Plain));
        all
    }

    /// The accounts that a client's certificate proves, leaf first; their bare JIDs.
    pub fn proved(&self, chain: &[Vec<u8>]) -> Vec<String> {
        let certificates = self.inner.links.certificates.as_ref();
        certificates.map(|all| all.proved(chain)).unwrap_or_default()
    }

    /// Whether the account's password is one of this server's (as far as it can be read), so that it can be changed here.
    pub async fn keeps_password(&self, account: &BareJid) -> bool {
        !matches!(self.inner.internal.has_keys(account).await, Ok(Some(false)))
    }

    /// Whether another backend has such an account, so that nobody may make it here; `None`: that cannot be found out now.
    pub async fn is_taken(&self, account: &BareJid) -> Option<bool> {
        for source in self.inner.order(account.domain()) {
            let Source::Other(backend) = source else { continue };
            match backend.knows(account).await {
                Said::Unknown => {}
                Said::Down => return None,
                _ => return Some(true),
            }
        }
        Some(false)
    }

    /// See [`Internal::derive`].
    pub fn derive(&self, password: Password) -> BoxFuture<'static, Result<Keys, NoKeys>> {
        self.inner.internal.derive(password)
    }

    /// See [`Internal::forget`].
    pub fn forget(&self, account: &str) {
        self.inner.internal.forget(account);
    }

    /// See [`Internal::forget_all`].
    pub fn forget_all(&self) {
        self.inner.internal.forget_all();
    }
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.inner.links.order.iter().map(Source::name)).finish()
    }
}

impl Source {
    /// That backend.
    pub fn other(backend: impl Backend + 'static) -> Self {
        Source::Other(Arc::new(backend))
    }

    fn name(&self) -> &'static str {
        match self {
            Source::Internal => "internal",
            Source::Other(backend) => backend.name(),
        }
    }

    fn abilities(&self) -> Abilities {
        match self {
            Source::Internal => {
                Abilities { passwords: true, hashes: Internal::HASHES, ..Abilities::default() }
            }
            Source::Other(backend) => backend.abilities(),
        }
    }
}

impl Authenticator for Chain {
    /// The records of this server say who is suspended; which hashes an account has keys of, only if nobody else may have some.
    fn about(&self, account: &BareJid) -> BoxFuture<'static, About> {
        let (inner, account) = (self.inner.clone(), account.clone());
        async move {
            match inner.internal.about(&account).await {
                About::Known { disabled, .. }
                    if !matches!(inner.order(account.domain()), [Source::Internal]) =>
                {
                    About::Known { hashes: None, disabled }
                }
                about => about,
            }
        }
        .boxed()
    }

    fn scram(&self, account: &BareJid, hash: Hash) -> BoxFuture<'static, Credentials> {
        let (inner, account) = (self.inner.clone(), account.clone());
        async move { inner.scram(&account, hash).await }.boxed()
    }

    fn plain(&self, account: &BareJid, password: Password) -> BoxFuture<'static, Verdict> {
        let (inner, account) = (self.inner.clone(), account.clone());
        async move { inner.plain(&account, password).await }.boxed()
    }

    fn token(&self, token: Password) -> BoxFuture<'static, Result<BareJid, Verdict>> {
        let inner = self.inner.clone();
        async move { inner.token(token).await }.boxed()
    }

    fn admit(&self, account: &BareJid) -> BoxFuture<'static, Verdict> {
        let (inner, account) = (self.inner.clone(), account.clone());
        async move { inner.admit(&account).await }.boxed()
    }
}

impl Inner {
    /// Who is asked about accounts of a domain.
    fn order(&self, domain: &str) -> &[Source] {
        if self.has_others(domain) { &self.links.order } else { &[Source::Internal] }
    }

    /// Whether other people's backends may know accounts of a domain.
    fn has_others(&self, domain: &str) -> bool {
        self.links.domain.as_ref().is_none_or(|known| known == domain)
    }

    async fn scram(&self, account: &BareJid, hash: Hash) -> Credentials {
        for source in self.order(account.domain()) {
            let found = match source {
                Source::Internal => self.internal.scram(account, hash).await,
                Source::Other(backend) => backend.keys(account, hash).await,
            };
            let keys = match (found, source) {
                (Credentials::Unknown, _) => continue,
                (Credentials::Keys(keys), Source::Other(_)) => keys,
                (found, _) => return found,
            };
            // The exchange asks nothing more, so the record is made before the proof. It is that of an account the backend knows: a
            // stranger can have it made, and gains nothing by it.
            return match self.admit(account).await {
                Verdict::Right => Credentials::Keys(keys),
                Verdict::Disabled => Credentials::Disabled(keys),
                Verdict::Expired => Credentials::Expired(keys),
                Verdict::Wrong => Credentials::Unknown,
                Verdict::Unavailable => Credentials::Unavailable,
            };
        }
        Credentials::Unknown
    }

    async fn plain(&self, account: &BareJid, password: Password) -> Verdict {
        if self.successes.as_ref().is_some_and(|known| known.has(account, &password)) {
            return self.admit(account).await;
        }
        for source in self.order(account.domain()) {
            let backend = match source {
                Source::Internal => match self.internal.password(account, &password).await {
                    Said::Unknown => continue,
                    said => return said.into(),
                },
                Source::Other(backend) => backend,
            };
            match backend.password(account, password.clone()).await {
                Said::Unknown => {}
                Said::Right => {
                    let verdict = self.admit(account).await;
                    if let (Verdict::Right, Some(known)) = (verdict, &self.successes) {
                        known.note(account, &password);
                    }
                    return verdict;
                }
                Said::Down => return self.down(backend.name()),
                said => return said.into(),
            }
        }
        // Nobody knows the account: as slow as if somebody did.
        match self.internal.decoy(password).await {
            true => Verdict::Wrong,
            false => Verdict::Unavailable,
        }
    }

    async fn token(&self, token: Password) -> Result<BareJid, Verdict> {
        for source in &self.links.order {
            let Source::Other(backend) = source else { continue };
            match backend.token(token.clone()).await {
                Err(Said::Unknown) => {}
                Ok(account) => {
                    return match self.admit(&account).await {
                        Verdict::Right => Ok(account),
                        verdict => Err(verdict),
                    };
                }
                Err(Said::Down) => return Err(self.down(backend.name())),
                Err(said) => return Err(said.into()),
            }
        }
        Err(Verdict::Wrong)
    }

    fn down(&self, backend: &'static str) -> Verdict {
        tracing::debug!(backend, "a sign-in is put off");
        Verdict::Unavailable
    }

    /// The account's own standing here, its record made if there is none.
    async fn admit(&self, account: &BareJid) -> Verdict {
        match self.internal.standing(account).await {
            Err(()) => Verdict::Unavailable,
            Ok(Some(true)) => Verdict::Right,
            Ok(Some(false)) => Verdict::Disabled,
            Ok(None) if !self.links.make_accounts => Verdict::Wrong,
            Ok(None) => match self.accounts.make(account).await {
                Ok(()) => {
                    tracing::info!(%account, "first sign-in: the account's record is made");
                    Verdict::Right
                }
                Err(error) => {
                    tracing::warn!(%account, error, "an account cannot be made at its home now");
                    Verdict::Unavailable
                }
            },
        }
    }
}

impl From<Said> for Verdict {
    fn from(said: Said) -> Self {
        match said {
            Said::Right => Verdict::Right,
            Said::Wrong | Said::Unknown => Verdict::Wrong,
            Said::Disabled => Verdict::Disabled,
            Said::Expired => Verdict::Expired,
            Said::Down => Verdict::Unavailable,
        }
    }
}

/// Passwords that were right lately, as keyed digests under a key of this process: what is remembered is of no use elsewhere.
struct Successes {
    key: [u8; 32],
    remember: Duration,
    known: Mutex<Recent<BareJid, (Vec<u8>, Instant)>>,
}

impl Successes {
    fn new(links: &Links) -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the operating system has random numbers");
        let known = Mutex::new(Recent::new(links.remembered_max));
        Self { key, remember: links.remember, known }
    }

    fn digest(&self, account: &BareJid, password: &Password) -> Vec<u8> {
        let account = account.as_str();
        let length = account.len().to_be_bytes();
        let parts = [&length[..], account.as_bytes(), password.expose().as_bytes()];
        Hash::Sha256.hmac(&self.key, &parts)
    }

    fn has(&self, account: &BareJid, password: &Password) -> bool {
        let digest = self.digest(account, password);
        let mut known = self.known.lock();
        known.get(account).is_some_and(|(right, until)| {
            // Digests under a secret key: how long comparing takes tells nothing of the password.
            *until > Instant::now() && *right == digest
        })
    }

    fn note(&self, account: &BareJid, password: &Password) {
        let entry = (self.digest(account, password), Instant::now() + self.remember);
        self.known.lock().insert(account.clone(), entry);
    }
}

#[cfg(test)]
mod tests;
