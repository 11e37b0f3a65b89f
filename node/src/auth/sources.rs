//! Auth: from the configuration to the backends. Called by `app::build`.

use config::{Auth, AuthBackend};

use super::certificate::Certificates;
use super::chain::{Links, Source};
use super::http::Http;
use super::jwt::{Jwt, WallMs};
use super::ldap::Ldap;
use super::program::Program;
use super::sql::Sql;

/// All of them, in order, for the accounts of `domain`.
///
/// # Errors
/// In words: a file of one of them cannot be used.
pub fn links(auth: &Auth, domain: &str, wall_ms: &WallMs) -> Result<Links, String> {
    let mut links = Links {
        order: Vec::new(),
        certificates: None,
        make_accounts: auth.make_accounts,
        remember: auth.remember,
        remembered_max: auth.remembered_max,
    };
    for backend in &auth.backends {
        let source = match backend {
            AuthBackend::Internal => Source::Internal,
            AuthBackend::Sql(settings) => Source::other(Sql::new(settings)?),
            AuthBackend::Ldap(settings) => Source::other(Ldap::new(settings)?),
            AuthBackend::Jwt(settings) => {
                Source::other(Jwt::new(settings, domain, wall_ms.clone())?)
            }
            AuthBackend::Http(settings) => Source::other(Http::new(settings, domain)?),
            AuthBackend::Program(settings) => Source::other(Program::new(settings)),
            AuthBackend::Certificate(settings) => {
                let all = Certificates::new(settings, domain, wall_ms.clone())?;
                links.certificates = Some(all);
                continue;
            }
        };
        links.order.push(source);
    }
    Ok(links)
}
