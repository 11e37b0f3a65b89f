//! Auth: passwords from the account records of this server.
//!
//! Reads through [`Records`] (the homes' replica of this region: login needs no other region) and keeps what was read lately, so
//! that a reconnect storm is not a query storm. Told by the store's changes what to forget. While the database cannot be read what was read lately
//! does not count: a change may have passed us by. Unless the operator says that it may ([`Kept`]). Verifying PLAIN means PBKDF2: that
//! runs on blocking threads, few at a time, with a short queue before them.
//!
//! Deliberately absent: writing. Registration and password changes are requests to the account's home, with [`Keys`] made here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use xmpp::jid::BareJid;
use xmpp::sasl::{BadPassword, Credentials, Hash, Password, SALT_BYTES, ScramKeys, Secret};

use super::cache::Recent;
use super::{About, Said};

/// Accounts whose records are kept. About 400 bytes each.
pub const CACHED_ACCOUNTS_MAX: usize = 32_768;
/// Derivations at the same time.
pub const DERIVATIONS_AT_ONCE: usize = 2;
/// Derivations waiting or running; past it the answer is [`Said::Down`], hence `temporary-auth-failure`. At some
/// milliseconds each, this is about a second of waiting.
pub const DERIVATIONS_QUEUED_MAX: usize = 256;

/// Keys of so few iterations are verified at once: a thread would cost more. (Real ones have thousands; those of simulated accounts one.)
const CHEAP_ITERATIONS_MAX: u32 = 8;

/// What signing in needs of an account.
#[derive(Clone, Debug)]
pub struct Record {
    /// One a hash.
    pub keys: Vec<ScramKeys>,
    /// Suspended: may not sign in.
    pub disabled: bool,
}

/// New keys, for an account that is made or gets another password.
#[derive(Clone, Debug)]
pub struct Keys {
    /// For SCRAM-SHA-1.
    pub sha1: ScramKeys,
    /// For SCRAM-SHA-256.
    pub sha256: ScramKeys,
    /// For SCRAM-SHA-512.
    pub sha512: ScramKeys,
}

impl Keys {
    /// Derives them, with random salts. Slow (three derivations): not for a reactor thread; [`Internal::derive`] is.
    ///
    /// # Errors
    /// The password cannot be prepared.
    pub fn of(password: &Password, iterations: u32) -> Result<Self, BadPassword> {
        let derive = |hash| {
            let mut salt = [0; SALT_BYTES];
            getrandom::fill(&mut salt).expect("the operating system has random numbers");
            ScramKeys::derive(hash, password.expose(), &salt, iterations)
        };
        Ok(Self {
            sha1: derive(Hash::Sha1)?,
            sha256: derive(Hash::Sha256)?,
            sha512: derive(Hash::Sha512)?,
        })
    }
}

/// Why there are no keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKeys {
    /// The password cannot be prepared (RFC 4013).
    #[error("{0}")]
    Bad(BadPassword),
    /// Too many derivations wait already.
    #[error("too many passwords are being worked on")]
    Busy,
}

/// Where records come from.
pub trait Records: Send + Sync + 'static {
    /// The record; `None` when there is no such account.
    ///
    /// # Errors
    /// The storage cannot be read now; what it says is for the log.
    fn read(&self, account: &BareJid) -> BoxFuture<'static, Result<Option<Record>, String>>;

    /// Whether they could be read when somebody last tried. Costs nothing.
    fn is_well(&self, _account: &BareJid) -> bool {
        true
    }
}

/// What signing in rests on while the records cannot be read: `auth.cache`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// So long after it was last looked at a record will do. Zero: never.
    pub time: Duration,
    /// Of how many accounts.
    pub accounts_max: usize,
}

/// The account records, asked. [`Chain`](super::Chain) does it in its turn. Cloning shares it.
#[derive(Clone)]
pub struct Internal {
    inner: Arc<Inner>,
}

struct Inner {
    records: Arc<dyn Records>,
    cache: Mutex<Cache>,
    kept_for: Duration,
    iterations: u32,
    derivations: Arc<Semaphore>,
    queued: AtomicUsize,
    /// What is derived when there is no account, so that the answer takes as long. Nobody ever sees it.
    decoy: ScramKeys,
}

struct Cache {
    // Absence is not kept: it would let a stranger push out those who exist.
    recent: Recent<BareJid, Arc<Record>>,
    /// For when they cannot be read, with when that was.
    kept: Recent<BareJid, (Arc<Record>, Instant)>,
    /// How often anything was forgotten: a record that was read before that may be the old one, and is not kept.
    forgotten: u64,
}

impl Internal {
    /// Of which it has keys: every account that has got a password here since there were those of SHA-512.
    pub const HASHES: &'static [Hash] = &[Hash::Sha512, Hash::Sha256, Hash::Sha1];

    /// `iterations`: what new accounts get; also the time an answer about no account takes.
    pub fn new(records: Arc<dyn Records>, iterations: u32) -> Self {
        Self::keeping(records, iterations, Kept::default())
    }

    /// The same, which lets users sign in by what it has kept while the records cannot be read.
    pub fn keeping(records: Arc<dyn Records>, iterations: u32, kept: Kept) -> Self {
        let cache = Cache {
            recent: Recent::new(CACHED_ACCOUNTS_MAX),
            kept: Recent::new(kept.accounts_max),
            forgotten: 0,
        };
        Self {
            inner: Arc::new(Inner {
                records,
                cache: Mutex::new(cache),
                kept_for: kept.time,
                iterations,
                derivations: Arc::new(Semaphore::new(DERIVATIONS_AT_ONCE)),
                queued: AtomicUsize::new(0),
                decoy: ScramKeys::fake(Hash::Sha256, "", &Secret::new(vec![0; 32]), iterations),
            }),
        }
    }

    /// The keys of a new password, in the same short queue as everything that derives. Dropping the future is safe.
    ///
    /// # Errors
    /// See [`NoKeys`].
    pub fn derive(&self, password: Password) -> BoxFuture<'static, Result<Keys, NoKeys>> {
        let inner = self.inner.clone();
        async move {
            let iterations = inner.iterations;
            match inner.work(move || Keys::of(&password, iterations)).await {
                Some(keys) => keys.map_err(NoKeys::Bad),
                None => Err(NoKeys::Busy),
            }
        }
        .boxed()
    }

    /// The account's record has changed: to be called for every applied change of the store `accounts`, with its owner.
    pub fn forget(&self, account: &str) {
        let mut cache = self.inner.cache.lock();
        cache.forgotten += 1;
        cache.recent.remove(account);
        cache.kept.remove(account);
    }

    /// Any record may have changed (a resync from a snapshot).
    pub fn forget_all(&self) {
        let mut cache = self.inner.cache.lock();
        cache.forgotten += 1;
        cache.recent.clear();
        cache.kept.clear();
    }
}

impl std::fmt::Debug for Internal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Internal({} records kept)", self.inner.cache.lock().recent.len())
    }
}

impl Inner {
    /// `Err`: it could not be found out, and the log says why.
    async fn record(&self, account: &BareJid) -> Result<Option<Arc<Record>>, ()> {
        let before = {
            let mut cache = self.cache.lock();
            if self.records.is_well(account)
                && let Some(record) = cache.recent.get(account.as_str()).cloned()
            {
                self.keep(&mut cache, account, &record);
                return Ok(Some(record));
            }
            cache.forgotten
        };
        match self.records.read(account).await {
            Ok(None) => Ok(None),
            Ok(Some(record)) => {
                let record = Arc::new(record);
                let mut cache = self.cache.lock();
                if cache.forgotten == before {
                    cache.recent.insert(account.clone(), record.clone());
                    self.keep(&mut cache, account, &record);
                }
                Ok(Some(record))
            }
            Err(error) => {
                if let Some(record) = self.kept(account) {
                    tracing::debug!(%account, error, "account records cannot be read; this one is kept");
                    return Ok(Some(record));
                }
                tracing::warn!(error, "account records cannot be read; the account cannot sign in");
                Err(())
            }
        }
    }

    fn keep(&self, cache: &mut Cache, account: &BareJid, record: &Arc<Record>) {
        if !self.kept_for.is_zero() {
            cache.kept.insert(account.clone(), (record.clone(), Instant::now()));
        }
    }

    /// What will do while the records cannot be read.
    fn kept(&self, account: &BareJid) -> Option<Arc<Record>> {
        let mut cache = self.cache.lock();
        let (record, read) = cache.kept.get(account.as_str())?;
        (read.elapsed() < self.kept_for).then(|| record.clone())
    }

    /// Works on a blocking thread. `None`: too many wait already.
    async fn work<T: Send + 'static>(
        self: Arc<Self>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let place = Place::take(self.clone())?;
        // The semaphore is never closed.
        let permit = self.derivations.clone().acquire_owned().await.ok()?;
        // Both go along: a caller who gives up must not make room for work that is still being done.
        let work = move || {
            let done = work();
            drop((permit, place));
            done
        };
        tokio::task::spawn_blocking(work).await.ok()
    }
}

/// A place in the queue of derivations; given back when dropped.
struct Place(Arc<Inner>);

impl Place {
    fn take(inner: Arc<Inner>) -> Option<Self> {
        if inner.queued.fetch_add(1, Ordering::AcqRel) >= DERIVATIONS_QUEUED_MAX {
            inner.queued.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self(inner))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Internal {
    /// What is known of that account.
    pub async fn about(&self, account: &BareJid) -> About {
        match self.inner.record(account).await {
            Err(()) => About::Unavailable,
            Ok(None) => About::Unknown,
            Ok(Some(record)) => About::Known {
                hashes: Some(record.keys.iter().map(|keys| keys.hash).collect()),
                disabled: record.disabled,
            },
        }
    }

    /// The account's keys of that hash. Dropping the future is safe.
    pub async fn scram(&self, account: &BareJid, hash: Hash) -> Credentials {
        let Ok(record) = self.inner.record(account).await else { return Credentials::Unavailable };
        let keys =
            record.as_ref().and_then(|record| record.keys.iter().find(|keys| keys.hash == hash));
        match (record.as_ref(), keys) {
            (Some(record), Some(keys)) if record.disabled => Credentials::Disabled(keys.clone()),
            (Some(_), Some(keys)) => Credentials::Keys(keys.clone()),
            _ => Credentials::Unknown,
        }
    }

    /// Whether that is the account's password. An account without keys has its password elsewhere, and is not known here. Costs a
    /// derivation if it is; dropping the future is safe: the derivation is finished and forgotten.
    pub async fn password(&self, account: &BareJid, password: &Password) -> Said {
        let Ok(record) = self.inner.record(account).await else { return Said::Down };
        let Some(record) = record else { return Said::Unknown };
        let Some(keys) = record.keys.iter().min_by_key(|keys| keys.iterations) else {
            return Said::Unknown;
        };
        match self.verify(keys.clone(), password.clone()).await {
            None => Said::Down,
            Some(false) => Said::Wrong,
            Some(true) if record.disabled => Said::Disabled,
            Some(true) => Said::Right,
        }
    }

    /// Takes as long as an answer about an account that has a password here. False: too many wait.
    pub async fn decoy(&self, password: Password) -> bool {
        self.verify(self.inner.decoy.clone(), password).await.is_some()
    }

    /// Whether the account may sign in here; `None`: it has no record.
    ///
    /// # Errors
    /// The records cannot be read, and the log says why.
    pub async fn standing(&self, account: &BareJid) -> Result<Option<bool>, ()> {
        Ok(self.inner.record(account).await?.map(|record| !record.disabled))
    }

    /// Whether the account has a password here; `None`: it has no record.
    ///
    /// # Errors
    /// The records cannot be read, and the log says why.
    pub async fn has_keys(&self, account: &BareJid) -> Result<Option<bool>, ()> {
        Ok(self.inner.record(account).await?.map(|record| !record.keys.is_empty()))
    }

    async fn verify(&self, keys: ScramKeys, password: Password) -> Option<bool> {
        if keys.iterations <= CHEAP_ITERATIONS_MAX {
            Some(keys.verify(password.expose()))
        } else {
            self.inner.clone().work(move || keys.verify(password.expose())).await
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tokio::sync::Notify;

    use super::*;

    #[derive(Default)]
    struct Fake {
        records: Mutex<HashMap<String, Record>>,
        reads: AtomicUsize,
        broken: bool,
        /// It cannot be read now, and that is known.
        is_away: std::sync::atomic::AtomicBool,
        /// When set, a read takes its answer and then waits.
        hold: Option<Arc<(Notify, Notify)>>,
    }

    impl Records for Fake {
        fn is_well(&self, _account: &BareJid) -> bool {
            !self.is_away.load(Ordering::SeqCst)
        }

        fn read(&self, account: &BareJid) -> BoxFuture<'static, Result<Option<Record>, String>> {
            self.reads.fetch_add(1, Ordering::SeqCst);
            let found = self.records.lock().get(account.as_str()).cloned();
            let broken = self.broken || self.is_away.load(Ordering::SeqCst);
            let hold = self.hold.clone();
            async move {
                if let Some(hold) = hold {
                    hold.0.notify_one();
                    hold.1.notified().await;
                }
                if broken { Err("gone".to_owned()) } else { Ok(found) }
            }
            .boxed()
        }
    }

    fn jid(text: &str) -> BareJid {
        BareJid::parse(text).expect("a JID")
    }

    fn record(password: &str, disabled: bool) -> Record {
        let keys = [Hash::Sha1, Hash::Sha256].map(|hash| {
            ScramKeys::derive(hash, password, b"0123456789abcdef", 16).expect("a password")
        });
        Record { keys: keys.into(), disabled }
    }

    fn with_juliet(fake: Fake) -> (Arc<Fake>, Internal) {
        fake.records.lock().insert("juliet@example.org".into(), record("wonderland", false));
        fake.records.lock().insert("tybalt@example.org".into(), record("rapier", true));
        let fake = Arc::new(fake);
        (fake.clone(), Internal::new(fake, 16))
    }

    #[tokio::test]
    async fn plain_says_right_wrong_or_disabled() {
        let (_, auth) = with_juliet(Fake::default());
        for (account, password, expected) in [
            ("juliet@example.org", "wonderland", Said::Right),
            ("juliet@example.org", "Wonderland", Said::Wrong),
            ("juliet@example.org", "", Said::Wrong),
            ("tybalt@example.org", "rapier", Said::Disabled),
            ("tybalt@example.org", "wonderland", Said::Wrong),
            ("nobody@example.org", "wonderland", Said::Unknown),
        ] {
            assert_eq!(
                auth.password(&jid(account), &Password::new(password)).await,
                expected,
                "{account} {password}"
            );
        }
        assert_eq!(auth.inner.queued.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn scram_keys_are_those_of_the_hash_and_are_read_once() {
        let (fake, auth) = with_juliet(Fake::default());
        for _ in 0..3 {
            let found = auth.scram(&jid("juliet@example.org"), Hash::Sha256).await;
            assert!(matches!(found, Credentials::Keys(keys) if keys.hash == Hash::Sha256));
        }
        assert_eq!(fake.reads.load(Ordering::SeqCst), 1);
        let found = auth.scram(&jid("juliet@example.org"), Hash::Sha512).await;
        assert!(matches!(found, Credentials::Unknown));
        assert!(matches!(
            auth.scram(&jid("tybalt@example.org"), Hash::Sha1).await,
            Credentials::Disabled(_)
        ));
        assert!(matches!(
            auth.scram(&jid("nobody@example.org"), Hash::Sha1).await,
            Credentials::Unknown
        ));
    }

    #[tokio::test]
    async fn a_changed_password_is_seen_at_once() {
        let (fake, auth) = with_juliet(Fake::default());
        let juliet = jid("juliet@example.org");
        assert_eq!(auth.password(&juliet, &Password::new("wonderland")).await, Said::Right);
        fake.records.lock().insert("juliet@example.org".into(), record("verona", false));
        auth.forget("juliet@example.org");
        assert_eq!(auth.password(&juliet, &Password::new("wonderland")).await, Said::Wrong);
        assert_eq!(auth.password(&juliet, &Password::new("verona")).await, Said::Right);
    }

    #[tokio::test]
    async fn a_record_read_before_a_change_is_not_kept_after_it() {
        let hold = Arc::new((Notify::new(), Notify::new()));
        let (fake, auth) = with_juliet(Fake { hold: Some(hold.clone()), ..Fake::default() });
        let reader = auth.clone();
        let reading =
            tokio::spawn(async move { reader.scram(&jid("juliet@example.org"), Hash::Sha1).await });
        hold.0.notified().await;
        auth.forget("juliet@example.org");
        hold.1.notify_one();
        reading.await.expect("finishes");
        hold.1.notify_one();
        auth.scram(&jid("juliet@example.org"), Hash::Sha1).await;
        assert_eq!(fake.reads.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn new_keys_are_of_the_password_and_of_no_other() {
        let (_, auth) = with_juliet(Fake::default());
        let keys = auth.derive(Password::new("verona")).await.expect("derives");
        let again = auth.derive(Password::new("verona")).await.expect("derives");
        assert!(
            keys.sha1.verify("verona")
                && keys.sha256.verify("verona")
                && !keys.sha1.verify("Verona")
        );
        assert_ne!(keys.sha256.salt, again.sha256.salt);
        assert!(matches!(auth.derive(Password::new("\u{7}")).await, Err(NoKeys::Bad(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn while_records_cannot_be_read_those_who_were_here_lately_sign_in_if_the_operator_says_so()
     {
        let juliet = jid("juliet@example.org");
        let right = Password::new("wonderland");
        for hours in [0, 1] {
            let (fake, _) = with_juliet(Fake::default());
            let hour = Duration::from_secs(3_600);
            let kept = Kept { time: hour * hours, accounts_max: 10 };
            let auth = Internal::keeping(fake.clone(), 16, kept);
            assert_eq!(auth.password(&juliet, &right).await, Said::Right);
            fake.is_away.store(true, Ordering::SeqCst);
            if hours == 0 {
                assert_eq!(auth.password(&juliet, &right).await, Said::Down);
                assert!(matches!(
                    auth.scram(&juliet, Hash::Sha256).await,
                    Credentials::Unavailable
                ));
                continue;
            }
            assert_eq!(auth.password(&juliet, &right).await, Said::Right);
            assert_eq!(auth.password(&juliet, &Password::new("x")).await, Said::Wrong);
            assert!(matches!(auth.scram(&juliet, Hash::Sha256).await, Credentials::Keys(_)));
            assert_eq!(auth.standing(&juliet).await, Ok(Some(true)));
            assert_eq!(auth.password(&jid("tybalt@example.org"), &right).await, Said::Down);
            tokio::time::advance(hour / 2).await;
            assert_eq!(auth.password(&juliet, &right).await, Said::Right);
            // Signing in by what is kept does not keep it longer.
            tokio::time::advance(hour / 2).await;
            assert_eq!(auth.password(&juliet, &right).await, Said::Down);
            fake.is_away.store(false, Ordering::SeqCst);
            assert_eq!(auth.password(&juliet, &right).await, Said::Right);
            fake.is_away.store(true, Ordering::SeqCst);
            auth.forget("juliet@example.org");
            assert_eq!(auth.password(&juliet, &right).await, Said::Down, "it has changed");
        }
    }

    #[tokio::test]
    async fn broken_storage_and_a_full_queue_are_temporary_failures() {
        let (_, auth) = with_juliet(Fake { broken: true, ..Fake::default() });
        let juliet = jid("juliet@example.org");
        assert!(matches!(auth.scram(&juliet, Hash::Sha1).await, Credentials::Unavailable));
        assert_eq!(auth.password(&juliet, &Password::new("x")).await, Said::Down);

        let (_, auth) = with_juliet(Fake::default());
        let places: Vec<_> =
            (0..DERIVATIONS_QUEUED_MAX).map(|_| Place::take(auth.inner.clone())).collect();
        assert_eq!(auth.password(&juliet, &Password::new("wonderland")).await, Said::Down);
        drop(places);
        assert_eq!(auth.password(&juliet, &Password::new("wonderland")).await, Said::Right);
    }
}
