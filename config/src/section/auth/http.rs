//! `kind = "http"`: a service of the operator's, asked with one POST for each sign-in.

use std::path::PathBuf;

use super::{Bounds, bounds};
use crate::table::Table;

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    /// `https://host[:port]/path`, or `http://` on this machine.
    pub url: String,
    /// Who may vouch for an `https` address, PEM.
    pub ca: PathBuf,
    /// A file with a token that goes along as `Authorization: Bearer`.
    pub bearer_file: Option<PathBuf>,
    /// Whether it knows whose a token is, too (OAUTHBEARER).
    pub tokens: bool,
    /// Its bounds.
    pub bounds: Bounds,
}

pub(super) fn read(table: &Table<'_>) -> HttpCall {
    let call = HttpCall {
        url: table.required("url"),
        ca: table.path("ca", Some("/etc/ssl/certs/ca-certificates.crt".into())),
        bearer_file: table.optional_path("bearer_file"),
        tokens: table.value("tokens", false),
        bounds: bounds(table, 32),
    };
    let rest = call.url.strip_prefix("http://").or(call.url.strip_prefix("https://"));
    let host = rest.map(|rest| rest.split('/').next().unwrap_or(rest));
    // What signs in at a URL of others would be in logs: the bearer has a file.
    if !call.url.is_empty() && host.is_none_or(|host| host.is_empty() || host.contains('@')) {
        table.refuse(
            "url",
            "a URL as in \"https://login.example/auth\"",
            format!("{:?}", call.url),
        );
    }
    call
}
