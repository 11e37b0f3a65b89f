//! Auth: a directory (RFC 4511). The account's entry is searched for, and then bound as with the password; or bound as at once, where its
//! name follows from the account's.
//!
//! Connections are kept and used again, at most as many as may ask at once; one that fails is thrown away, and the question asked once
//! more on a new one. What a refused bind says besides (Active Directory's `data 532`) becomes its verdict. Deliberately absent:
//! SASL binds, referrals, password policy controls, SCRAM keys from a directory.

use std::sync::Arc;

use config::{Ldap as Settings, LdapSecurity};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ldap3::{Ldap as Connection, LdapConnAsync, LdapConnSettings, LdapResult, Scope, SearchEntry};
use ldap3::{dn_escape, ldap_escape};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use xmpp::jid::BareJid;
use xmpp::sasl::Password;

use super::gate::Gate;
use super::{Abilities, Backend, Said};

/// RFC 4511 appendix A: result codes that say something of the account.
const NO_SUCH_OBJECT: u32 = 32;
const INVALID_DN: u32 = 34;
const INAPPROPRIATE_AUTHENTICATION: u32 = 48;
const INVALID_CREDENTIALS: u32 = 49;
const INSUFFICIENT_ACCESS: u32 = 50;
const UNWILLING: u32 = 53;

/// [`Backend`] over LDAP.
#[derive(Clone)]
pub struct Ldap(Arc<Inner>);

struct Inner {
    settings: Settings,
    connection: LdapConnSettings,
    password: Password,
    gate: Gate,
    /// Those that nobody uses: at most as many as may ask at once.
    idle: Mutex<Vec<Connection>>,
}

impl Ldap {
    /// As configured. Nothing is connected before the first question.
    ///
    /// # Errors
    /// In words: a file cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let mut connection = LdapConnSettings::new()
            .set_conn_timeout(settings.bounds.timeout)
            .set_starttls(settings.security == LdapSecurity::StartTls);
        if let Some(authorities) = &settings.authorities {
            connection = connection.set_config(tls(authorities)?);
        }
        let password = match &settings.bind_password_file {
            Some(file) => super::secret_of(file)?,
            None => String::new(),
        };
        Ok(Self(Arc::new(Inner {
            settings: settings.clone(),
            connection,
            password: Password::new(password),
            gate: Gate::new("ldap", &settings.bounds),
            idle: Mutex::default(),
        })))
    }
}

fn tls(authorities: &std::path::Path) -> Result<Arc<rustls::ClientConfig>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", authorities.display());
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(authorities).map_err(|error| failed(&error))? {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Inner {
    /// `None` for a password: only whether there is such an entry.
    async fn ask(&self, account: &BareJid, password: Option<&Password>) -> Result<Said, String> {
        let kept = self.idle.lock().pop();
        if let Some(mut connection) = kept
            && let Ok(said) = self.ask_on(&mut connection, account, password).await
        {
            self.idle.lock().push(connection);
            return Ok(said);
        }
        // None was kept, or it was too old: once more on a new one.
        let (driver, mut connection) =
            LdapConnAsync::with_settings(self.connection.clone(), &self.settings.url)
                .await
                .map_err(|error| error.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = driver.drive().await {
                tracing::debug!(%error, "a connection to the directory has ended");
            }
        });
        let said = self.ask_on(&mut connection, account, password).await?;
        self.idle.lock().push(connection);
        Ok(said)
    }

    async fn ask_on(
        &self,
        connection: &mut Connection,
        account: &BareJid,
        password: Option<&Password>,
    ) -> Result<Said, String> {
        if password.is_some_and(|password| password.expose().is_empty()) {
            return Ok(Said::Wrong); // RFC 4513 §5.1.2: would be a bind that proves nothing, and succeeds.
        }
        let entry = match &self.settings.user_dn {
            Some(template) => filled(template, account, |text| dn_escape(text).into_owned()),
            None => match self.find(connection, account).await? {
                Some(entry) => entry,
                None => return Ok(Said::Unknown),
            },
        };
        let Some(password) = password else { return Ok(Said::Right) };
        let bound = connection.simple_bind(&entry, password.expose()).await;
        said(&bound.map_err(|error| error.to_string())?)
    }

    async fn find(
        &self,
        connection: &mut Connection,
        account: &BareJid,
    ) -> Result<Option<String>, String> {
        let as_whom = self.settings.bind_dn.as_deref().unwrap_or_default();
        let bound = connection.simple_bind(as_whom, self.password.expose()).await;
        let bound = bound.map_err(|error| error.to_string())?;
        bound.success().map_err(|error| format!("as {as_whom:?}: {error}"))?;
        let filter = filled(&self.settings.filter, account, |text| ldap_escape(text).into_owned());
        // "1.1": no attributes (RFC 4511 §4.5.1.8).
        let found = connection
            .search(&self.settings.base, Scope::Subtree, &filter, vec!["1.1"])
            .await
            .map_err(|error| error.to_string())?;
        let (entries, _) = match found.1.rc {
            NO_SUCH_OBJECT => return Err(format!("there is no base {:?}", self.settings.base)),
            _ => found.success().map_err(|error| error.to_string())?,
        };
        let mut entries = entries.into_iter().map(SearchEntry::construct);
        match (entries.next(), entries.next()) {
            (None, _) => Ok(None),
            (Some(entry), None) => Ok(Some(entry.dn)),
            (Some(_), Some(_)) => Err(format!("{filter} finds several entries")),
        }
    }
}

/// `{user}`, `{domain}` and `{account}` in a template, each escaped for where it stands.
fn filled(template: &str, account: &BareJid, escape: impl Fn(String) -> String) -> String {
    let (user, domain) = (account.local().unwrap_or_default(), account.domain());
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let names = [("{user}", user), ("{domain}", domain), ("{account}", account.as_str())];
        match names.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                out.push_str(&escape((*value).to_owned()));
                rest = &rest[name.len()..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

/// What a bind with the password says of the account.
fn said(bound: &LdapResult) -> Result<Said, String> {
    Ok(match bound.rc {
        0 => Said::Right,
        INVALID_CREDENTIALS => match active_directory(&bound.text) {
            // Password expired; must be changed.
            Some("532" | "773") => Said::Expired,
            // Disabled; account expired; locked out.
            Some("533" | "701" | "775") => Said::Disabled,
            // No such user.
            Some("525") => Said::Unknown,
            _ => Said::Wrong,
        },
        NO_SUCH_OBJECT | INVALID_DN => Said::Unknown,
        INAPPROPRIATE_AUTHENTICATION | INSUFFICIENT_ACCESS => Said::Wrong,
        // 389 and others say so of an account that was made inactive.
        UNWILLING => Said::Disabled,
        code => return Err(format!("the bind is answered with {code}, {:?}", bound.text)),
    })
}

/// `80090308: LdapErr: DSID-0C090446, comment: AcceptSecurityContext error, data 532, v4563`
fn active_directory(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(", data ")?;
    Some(rest.split(',').next().unwrap_or(rest).trim())
}

impl Backend for Ldap {
    fn name(&self) -> &'static str {
        "ldap"
    }

    fn abilities(&self) -> Abilities {
        Abilities { passwords: true, ..Abilities::default() }
    }

    fn knows(&self, account: &BareJid) -> BoxFuture<'static, Said> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move {
            if inner.settings.user_dn.is_some() {
                return Said::Unknown; // Only a bind would tell.
            }
            inner.gate.pass(inner.ask(&account, None)).await.unwrap_or(Said::Down)
        }
        .boxed()
    }

    fn password(&self, account: &BareJid, password: Password) -> BoxFuture<'static, Said> {
        let (inner, account) = (self.0.clone(), account.clone());
        async move { inner.gate.pass(inner.ask(&account, Some(&password))).await.unwrap_or(Said::Down) }
            .boxed()
    }
}

#[cfg(test)]
mod tests;
