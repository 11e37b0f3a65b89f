//! Auth: from the configuration to the backends. Called by `app::build`, and by `cli::check` for what would keep one from being used.

use config::{Auth, AuthBackend};

use super::certificate::Certificates;
use super::chain::{Links, Source};
use super::http::Http;
use super::jwt::{Jwt, WallMs};
use super::ldap::Ldap;
use super::program::Program;
use super::sql::Sql;

/// One of them: in the order of those that are asked, or at the door.
enum Made {
    Source(Source),
    Certificates(Certificates),
}

/// All of them, in order, for the accounts of `domain`.
///
/// # Errors
/// In words: a file of one of them cannot be used.
pub fn links(auth: &Auth, domain: &str, wall_ms: &WallMs) -> Result<Links, String> {
    let mut links = Links {
        order: Vec::new(),
        domain: Some(domain.to_owned()),
        certificates: None,
        make_accounts: auth.make_accounts,
        remember: auth.remember,
        remembered_max: auth.remembered_max,
    };
    for (at, backend) in auth.backends.iter().enumerate() {
        match make(backend, domain, wall_ms).map_err(|error| note(at, backend, &error))? {
            Made::Source(source) => links.order.push(source),
            Made::Certificates(all) => links.certificates = Some(all),
        }
    }
    Ok(links)
}

/// What would keep them from being used; nothing is connected.
pub fn notes(auth: &Auth, domain: &str) -> Vec<String> {
    let wall_ms: WallMs = std::sync::Arc::new(|| 0);
    let mut notes = Vec::new();
    for (at, backend) in auth.backends.iter().enumerate() {
        // A database is opened at the first question.
        if !matches!(backend, AuthBackend::Sql(_))
            && let Err(error) = make(backend, domain, &wall_ms)
        {
            notes.push(note(at, backend, &error));
        }
    }
    notes
}

fn note(at: usize, backend: &AuthBackend, error: &str) -> String {
    format!("auth.backends[{at}] ({}): {error}", backend.kind())
}

fn make(backend: &AuthBackend, domain: &str, wall_ms: &WallMs) -> Result<Made, String> {
    let source = match backend {
        AuthBackend::Internal => Source::Internal,
        AuthBackend::Sql(settings) => Source::other(Sql::new(settings)?),
        AuthBackend::Ldap(settings) => Source::other(Ldap::new(settings)?),
        AuthBackend::Jwt(settings) => Source::other(Jwt::new(settings, domain, wall_ms.clone())?),
        AuthBackend::Http(settings) => Source::other(Http::new(settings, domain)?),
        AuthBackend::Program(settings) => Source::other(Program::new(settings)),
        AuthBackend::Certificate(settings) => {
            return Certificates::new(settings, domain, wall_ms.clone()).map(Made::Certificates);
        }
    };
    Ok(Made::Source(source))
}
