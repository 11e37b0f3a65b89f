//! Before sign-in (XEP-0077 §3.1.1): who has no account yet asks for one, with a token (XEP-0445) or without. Called by the session's
//! negotiation, which has one [`Stranger`] a stream.

use std::net::IpAddr;
use std::sync::Arc;

use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::sasl::Password;
use xmpp::stanza::error::StanzaError;
use xmpp::stream::error::StreamError;
use xmpp::xml::element::Element;

use super::payload::{self, Asked};
use super::{derive, names, password, refused};
use crate::app::Node;
use crate::features::invitations::home::{Answer, OP, Request};
use crate::features::invitations::record::Invitation;
use crate::features::invitations::token::Token;
use crate::features::invitations::{self};

/// Requests of one stream before it has signed in; one more ends it with `policy-violation`.
const REQUESTS_MAX: u32 = 50;

/// One stream that has not signed in.
#[derive(Debug, Default)]
pub struct Stranger {
    asked: u32,
    /// The invitation it has shown, until it is used.
    invitation: Option<Token>,
}

impl Stranger {
    /// The answer to a registration request, or to a token.
    ///
    /// # Errors
    /// The stream has asked too often, and ends.
    pub async fn ask(
        &mut self,
        node: &Arc<Node>,
        from: IpAddr,
        domain: &str,
        iq: &Element,
    ) -> Result<Element, StreamError> {
        self.asked += 1;
        if self.asked > REQUESTS_MAX {
            return Err(StreamError::policy_violation());
        }
        let answer = match iq.child("preauth", ns::PARS) {
            Some(preauth) => self.show(node, from, domain, iq, preauth).await.map(|()| None),
            None => self.register(node, from, domain, iq).await,
        };
        Ok(payload::reply(iq, domain, answer))
    }

    /// XEP-0445 §4: the token is good now; it is used when there is an account.
    async fn show(
        &mut self,
        node: &Arc<Node>,
        from: IpAddr,
        domain: &str,
        iq: &Element,
        preauth: &Element,
    ) -> Result<(), StanzaError> {
        if !invitations::are_accepted(node) {
            return Err(StanzaError::service_unavailable());
        }
        let brought = preauth.attr("token").filter(|_| iq.attr("type") == Some("set"));
        let brought = brought.ok_or_else(StanzaError::bad_request)?;
        if !node.throttle.may_show_token(from, node.now_ms()) {
            return Err(StanzaError::resource_constraint()
                .with_text("Too many wrong tokens from this address."));
        }
        self.invitation = None;
        let found = match Token::parse(brought, domain) {
            Some(token) => {
                let found = invitations::look(node, &token).await.map_err(refused)?;
                found.filter(|found| found.register).map(|_| token)
            }
            None => None,
        };
        if found.is_none() {
            node.throttle.token_was_wrong(from, node.now_ms());
            return Err(
                StanzaError::item_not_found().with_text("The provided token is invalid or expired")
            );
        }
        self.invitation = found;
        Ok(())
    }

    async fn register(
        &mut self,
        node: &Arc<Node>,
        from: IpAddr,
        domain: &str,
        iq: &Element,
    ) -> Result<Option<Element>, StanzaError> {
        let rules = &node.config.registration;
        let asked = payload::parse(iq)?;
        let open =
            node.domains.has_accounts(domain) && (rules.enabled || self.invitation.is_some());
        match asked {
            Asked::Fields if open => Ok(Some(payload::fields(rules))),
            Asked::Fields => match &rules.url {
                Some(url) => Ok(Some(payload::redirection(rules, url))),
                None => Err(closed(node)),
            },
            Asked::Remove => Err(StanzaError::registration_required()),
            // §3.1: whatever is wanted and missing, empty too.
            Asked::Register { username, password } if open => {
                let missing = |what: &str| {
                    StanzaError::not_acceptable().with_text(&format!("{what} is missing."))
                };
                let username = username.filter(|name| !name.is_empty());
                let username = username.ok_or_else(|| missing("The username"))?;
                let password = password.filter(|password| !password.expose().is_empty());
                let password = password.ok_or_else(|| missing("The password"))?;
                self.create(node, from, domain, &username, password).await.map(|()| None)
            }
            Asked::Register { .. } if invitations::are_accepted(node) || rules.url.is_some() => {
                Err(StanzaError::not_allowed().with_text("Accounts are not made here by anybody."))
            }
            Asked::Register { .. } => Err(closed(node)),
        }
    }

    async fn create(
        &mut self,
        node: &Arc<Node>,
        from: IpAddr,
        domain: &str,
        username: &str,
        password: Password,
    ) -> Result<(), StanzaError> {
        let rules = &node.config.registration;
        let account = payload::account_of(username, domain)?;
        password::acceptable(&password, rules)?;
        let token = self.invitation.clone();
        if token.is_none() {
            names::free(&account, rules)?;
            // Counted before it is known whether the name is free: else names could be tried at leisure.
            let max = rules.per_address_per_10min;
            if !node.throttle.may_register(from, max, node.now_ms()) {
                return Err(StanzaError::resource_constraint()
                    .with_text("Too many new accounts from this address."));
            }
        }
        match node.authenticator.is_taken(&account).await {
            Some(false) => {}
            Some(true) => return Err(StanzaError::conflict().with_text("This name is taken.")),
            None => return Err(StanzaError::resource_constraint()),
        }
        let record = derive(node, password).await?;
        let invitation = match &token {
            Some(token) => Some(self.take(node, token, &account, rules).await?),
            None => None,
        };
        let by = token.as_ref().map(Token::key);
        let request = Request::Register { account: Box::new(record), by };
        let made = match node.homes.exchange(&account, OP, &request).await {
            Ok(Answer::Done) => Ok(()),
            Ok(_) => Err(StanzaError::conflict().with_text("This name is taken.")),
            Err(error) => Err(refused(error)),
        };
        match (made, token.zip(invitation)) {
            (Err(error), Some((token, invitation))) => {
                invitations::give_back(node, &token, invitation).await;
                return Err(error);
            }
            (Err(error), None) => return Err(error),
            (Ok(()), used) => {
                node.metrics.registered.inc();
                tracing::info!(%account, peer = %from, token = ?used.as_ref().map(|(token, _)| token), "registered");
                self.invitation = None;
                if let Some((token, _)) = used.filter(|(_, invitation)| invitation.contact) {
                    invitations::befriend(node, token.owner(), &account).await;
                }
            }
        }
        Ok(())
    }

    async fn take(
        &mut self,
        node: &Arc<Node>,
        token: &Token,
        account: &BareJid,
        rules: &config::Registration,
    ) -> Result<Invitation, StanzaError> {
        let taken = invitations::take(node, token).await.map_err(refused)?;
        let Some(invitation) = taken else {
            self.invitation = None;
            return Err(
                StanzaError::item_not_found().with_text("The invitation was used meanwhile.")
            );
        };
        let fits = match &invitation.username {
            Some(name) if account.local() == Some(name) => Ok(()),
            Some(name) => Err(StanzaError::not_acceptable()
                .with_text(&format!("The invitation is for the name {name}."))),
            None => names::free(account, rules),
        };
        if let Err(error) = fits {
            invitations::give_back(node, token, invitation).await;
            return Err(error);
        }
        Ok(invitation)
    }
}

/// §3.1: a host that registers nobody.
fn closed(node: &Node) -> StanzaError {
    let error = StanzaError::service_unavailable();
    match invitations::are_accepted(node) {
        true => error.with_text("Accounts are made by invitation only."),
        false => error,
    }
}
