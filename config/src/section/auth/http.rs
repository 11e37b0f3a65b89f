//! `kind = "http"`: a service of the operator's, asked with one POST for each sign-in.

use std::path::PathBuf;

use super::{Bounds, bounds};
use crate::table::Table;

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCall {
    /// `http://host[:port]/path`: on this machine, or behind a proxy that adds TLS.
    pub url: String,
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
        bearer_file: table.optional_path("bearer_file"),
        tokens: table.value("tokens", false),
        bounds: bounds(table, 32),
    };
    let host = call.url.strip_prefix("http://").map(|rest| rest.split('/').next().unwrap_or(rest));
    if !call.url.is_empty() && host.is_none_or(str::is_empty) {
        table.refuse(
            "url",
            "a URL as in \"http://127.0.0.1:8080/auth\"",
            format!("{:?}", call.url),
        );
    }
    call
}
