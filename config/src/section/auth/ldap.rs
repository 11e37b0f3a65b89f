//! `kind = "ldap"`: a directory (RFC 4511). The entry of an account is searched for, and then bound as with the password; or it is bound
//! as at once, where its name follows from the account's.

use std::path::PathBuf;

use super::{Bounds, bounds};
use crate::table::Table;

/// One directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ldap {
    /// `ldap://host[:port]` or `ldaps://host[:port]`.
    pub url: String,
    /// How the connection is protected.
    pub security: LdapSecurity,
    /// Who may have issued the directory's certificate, PEM.
    pub authorities: Option<PathBuf>,
    /// As whom entries are searched for; nobody: anonymously.
    pub bind_dn: Option<String>,
    /// A file with its password.
    pub bind_password_file: Option<PathBuf>,
    /// The entry of an account, with `{user}` and `{domain}` in it. Then nothing is searched for.
    pub user_dn: Option<String>,
    /// Below what is searched.
    pub base: String,
    /// What is searched for, with `{user}`, `{domain}` and `{account}` in it (RFC 4515).
    pub filter: String,
    /// Its bounds.
    pub bounds: Bounds,
}

/// How a connection to a directory is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LdapSecurity {
    /// Not at all.
    None,
    /// StartTLS (RFC 4511 §4.14).
    StartTls,
    /// TLS from the first byte.
    Tls,
}

pub(super) fn read(table: &Table<'_>) -> Ldap {
    let url: String = table.required("url");
    let start_tls = table.value("starttls", false);
    let host = url.strip_prefix("ldap://").or_else(|| url.strip_prefix("ldaps://"));
    if !url.is_empty() && host.is_none_or(|host| host.is_empty() || host.contains('/')) {
        table.refuse(
            "url",
            "the URL of a directory, as in \"ldap://127.0.0.1:389\" or \"ldaps://ldap.example\"",
            format!("{url:?}"),
        );
    }
    let security = match (url.starts_with("ldaps:"), start_tls) {
        (true, true) => {
            table.refuse("starttls", "false, with ldaps", "true");
            LdapSecurity::Tls
        }
        (true, false) => LdapSecurity::Tls,
        (false, true) => LdapSecurity::StartTls,
        (false, false) => LdapSecurity::None,
    };
    let ldap = Ldap {
        url,
        security,
        authorities: table.optional_path("authorities"),
        bind_dn: table.optional("bind_dn"),
        bind_password_file: table.optional_path("bind_password_file"),
        user_dn: table.optional("user_dn"),
        base: table.value("base", String::new()),
        filter: table.value("filter", "(uid={user})".to_owned()),
        bounds: bounds(table, 8),
    };
    if security != LdapSecurity::None && ldap.authorities.is_none() {
        table.refuse("authorities", "the certificates that the directory's is checked by", "none");
    }
    if ldap.bind_dn.is_some() != ldap.bind_password_file.is_some() {
        table.refuse("bind_dn", "both bind_dn and bind_password_file, or neither", "one of them");
    }
    if ldap.user_dn.as_ref().is_some_and(|dn| !dn.contains("{user}")) {
        table.refuse("user_dn", "a name with {user} in it", "none in it");
    }
    if !ldap.filter.contains("{user}") && !ldap.filter.contains("{account}") {
        table.refuse("filter", "a filter with {user} or {account} in it", "neither in it");
    }
    ldap
}
