//! `pangaea ctl s2s`: what lies between us and other people's servers.

use clap::Subcommand;

use super::remote::Remote;
use super::table::columns;
use crate::admin::{DomainCheck, DomainCheckOutcome};
use crate::http::client::escape;

/// What may be asked.
#[derive(Subcommand)]
pub(super) enum Order {
    /// Walk the way to a domain: DNS, connection, TLS, certificate, and say what would fail and why
    Check {
        /// The other domain
        domain: String,
        /// The domain of ours that would send; the global one if not said
        #[arg(long, value_name = "DOMAIN")]
        from: Option<String>,
    },
}

pub(super) async fn order(remote: &Remote, order: Order) -> miette::Result<DomainCheck> {
    let Order::Check { domain, from } = order;
    let from = from.map(|from| format!("?from={}", escape(&from))).unwrap_or_default();
    remote.get(&format!("/admin/s2s/check/{}{from}", escape(&domain))).await
}

pub(super) fn table(check: &DomainCheck) -> String {
    let rows: Vec<Vec<String>> = check
        .steps
        .iter()
        .map(|step| {
            let outcome = match step.outcome {
                DomainCheckOutcome::Good => "ok",
                DomainCheckOutcome::Remark => "note",
                DomainCheckOutcome::Bad => "bad",
            };
            // Others have chosen some of these words.
            let words = step.words.replace(char::is_control, " ");
            vec![outcome.to_owned(), step.at.clone(), words]
        })
        .collect();
    let verdict = if check.works { "would" } else { "would not" };
    let DomainCheck { from, domain, .. } = check;
    format!(
        "{}\nwhat {from} sends {verdict} get to {domain}\n",
        columns(&["is", "at", "found"], &rows)
    )
}
