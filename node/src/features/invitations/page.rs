//! The page about an invitation (XEP-0379 §3.3, XEP-0401 §5.2), `/invite/TOKEN` of the HTTP port: who invites, the `xmpp:` link, where to
//! find a client. Nothing on it is loaded from elsewhere, and nothing runs. What it says comes from the local replica: to look at the page
//! asks no home, and uses nothing up. While that cannot be read nobody is told that an invitation is not good.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use xmpp::jid::BareJid;
use xmpp::payload::date_time;
use xmpp::xml::write;

use super::record::{INVITATIONS, Invitation};
use super::token::Token;
use crate::app::Node;
use crate::storage::StorageError;

/// Where a client is found.
const CLIENTS: &str = "https://xmpp.org/software/";

/// Longest token that is looked at: no account has a longer name.
const TOKEN_BYTES_MAX: usize = 2_200;

const HEADERS: [(header::HeaderName, &str); 5] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    // The address is the secret.
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

/// The paths of the HTTP port.
pub fn router(node: &Arc<Node>) -> Router {
    Router::new().route("/invite/{token}", get(invite)).with_state(node.clone())
}

async fn invite(State(node): State<Arc<Node>>, Path(token): Path<String>) -> Response {
    page(&node, &token).await
}

pub(super) async fn page(node: &Node, token: &str) -> Response {
    let domain = &node.config.domains.global;
    let text = Some(token).filter(|token| token.len() <= TOKEN_BYTES_MAX);
    let mut found = None;
    let mut is_known = true;
    // A token does not say of which domain it is.
    for domain in node.domains.of_accounts() {
        let Some(token) = text.and_then(|text| Token::parse(text, domain)) else { break };
        match read(node, &token).await {
            Ok(Some(invitation)) => {
                found = Some((token, invitation));
                break;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "an invitation cannot be read");
                is_known = false;
            }
        }
    }
    match found {
        Some((token, invitation)) => {
            let domain = token.owner().domain();
            (StatusCode::OK, HEADERS, said(domain, &token, &invitation)).into_response()
        }
        None if is_known => (StatusCode::NOT_FOUND, HEADERS, over(domain)).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, HEADERS, later()).into_response(),
    }
}

/// One that is good.
async fn read(node: &Node, token: &Token) -> Result<Option<Invitation>, StorageError> {
    let kept = node.storage.get(INVITATIONS, token.owner().as_str(), &token.key()).await?;
    let found = kept.as_deref().and_then(Invitation::decode);
    Ok(found.filter(|found| found.is_good(node.wall_ms())))
}

fn said(domain: &str, token: &Token, invitation: &Invitation) -> String {
    let inviter = token.owner().local().map(|_| token.owner().as_str());
    let who = inviter.filter(|_| invitation.contact).unwrap_or(domain);
    let account = invitation.username.as_ref().map(|name| format!("{name}@{domain}"));
    let what = match (&account, invitation.register) {
        (Some(account), _) => format!("to an account: {account}"),
        (None, true) => format!("to chat, and to an account on {domain} if you have none"),
        (None, false) => "to chat".to_owned(),
    };
    let uri = super::uri(token, invitation, account.and_then(|name| BareJid::parse(&name).ok()));
    let until = date_time::format(invitation.expires);
    let until = until.split('T').next().unwrap_or_default();
    html(
        &format!("{who} invites you"),
        &[
            &format!("<p><strong>{}</strong> invites you {}.</p>", text(who), text(&what)),
            &format!("<p><a class='go' href='{}'>Accept the invitation</a></p>", attr(&uri)),
            &format!(
                "<p>If nothing happens you need a program that speaks XMPP first. <a href='{CLIENTS}' rel='noreferrer'>Choose one</a>, \
             install it, and come back to this page.</p>"
            ),
            &format!(
                "<p>The invitation is good until {}. Show this page to nobody else.</p>",
                text(until)
            ),
        ],
    )
}

fn over(domain: &str) -> String {
    html(
        "No invitation",
        &[
            "<p>This invitation is not good: it was used, or it has expired.</p>",
            &format!("<p>Ask whoever invited you to {} for another one.</p>", text(domain)),
        ],
    )
}

fn later() -> String {
    html(
        "Not now",
        &[
            "<p>We cannot look at invitations at the moment.</p>",
            "<p>Yours may well be good: try again in a few minutes.</p>",
        ],
    )
}

fn html(title: &str, body: &[&str]) -> String {
    let title = text(title);
    let body = body.join("\n");
    format!(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>\n\
         <meta name='robots' content='noindex'><title>{title}</title>\n\
         <style>body{{font:1.1em/1.5 sans-serif;max-width:32em;margin:3em auto;padding:0 1em}}\
         .go{{display:inline-block;padding:.6em 1.2em;border-radius:.4em;background:#06c;color:#fff;text-decoration:none}}</style>\n\
         </head><body>\n<h1>{title}</h1>\n{body}\n</body></html>\n"
    )
}

fn text(text: &str) -> String {
    let mut out = Vec::new();
    write::escape_text(&mut out, text);
    String::from_utf8_lossy(&out).into_owned()
}

fn attr(value: &str) -> String {
    let mut out = Vec::new();
    write::escape_attr(&mut out, value);
    String::from_utf8_lossy(&out).into_owned()
}
