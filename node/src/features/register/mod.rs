//! XEP-0077 In-Band Registration, version 2.4: an account for whoever asks (where the operator wants that), another password, the end of
//! an account. Creating needs no session and is called by the session's negotiation ([`before_sign_in`]); the rest are iqs of a
//! signed-in user. All three are requests to the account's home. Wherever an account is removed from, its sessions end.
//!
//! Left out: data forms and more fields than name and password (§3.1.1, §4), CAPTCHAs, redirection (§5), registration with
//! gateways and services (§3.1.2), asking for the old password on a change (§3.3.1: the session has proved it).

mod payload;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use replication::durable_log::Change;
use xmpp::jid::{BareJid, FullJid};
use xmpp::ns;
use xmpp::sasl::{Password, saslprep};
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;
use xmpp::stream::error::StreamError;
use xmpp::xml::element::Element;

use self::payload::Asked;
use crate::app::Node;
use crate::auth::internal::NoKeys;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::homes::HomeError;
use crate::homes::accounts::{self, Account};
use crate::router::perform;

/// See the room.
#[derive(Default)]
pub struct Register {
    /// Sessions whose account is being removed at their own request: they are to read the answer before they end. Bounded by the
    /// sessions, one request each.
    leaving: Arc<Mutex<HashSet<FullJid>>>,
}

impl Feature for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::REGISTER], changes: &["accounts"], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::REGISTER);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let Some(seat) = ctx.seat else { return Flow::Next };
        if matches!(iq.target, Target::Account { own: false, .. }) {
            return Flow::Next;
        }
        let (node, full, request) = (ctx.node.clone(), seat.full.clone(), iq.stanza.clone());
        let asked =
            payload::parse(&request.element()).and_then(|asked| wish(asked, &seat.bare, &node));
        match asked {
            Ok(Wish::Fields) => {
                let answer = payload::registered(&seat.bare);
                ctx.actions.push(Action::Reply(Stanza::iq_result(&request, Some(answer))));
                Flow::Done
            }
            Ok(Wish::Password(password)) => {
                let account = seat.bare.clone();
                Flow::Later(Box::pin(async move {
                    let changed = change_password(&node, &account, password).await;
                    answer(&request, changed)
                }))
            }
            Ok(Wish::Remove) => {
                let leaving = Leaving::new(self.leaving.clone(), full);
                let account = seat.bare.clone();
                Flow::Later(Box::pin(async move {
                    let removed = remove(&node, &account).await;
                    let gone = removed.is_ok();
                    let mut actions = answer(&request, removed);
                    if gone {
                        actions.push(Action::Close(StreamError::not_authorized()));
                    }
                    drop(leaving);
                    actions
                }))
            }
            Err(error) => {
                ctx.actions.extend(request.error_reply(&error).map(Action::Reply));
                Flow::Done
            }
        }
    }

    /// An account was removed, by its owner or the operator, here or in another region: its sessions end.
    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, _snapshot: bool) -> Flow {
        if matches!(change, Change::Delete { .. } | Change::Clear { .. }) {
            for seat in perform::seats_of(ctx.node, change.owner()) {
                if !self.leaving.lock().contains(&seat.full) {
                    perform::close(&seat, StreamError::not_authorized());
                }
            }
        }
        Flow::Next
    }
}

/// What a signed-in user may ask.
enum Wish {
    Fields,
    Password(Password),
    Remove,
}

fn wish(asked: Asked, account: &BareJid, node: &Node) -> Result<Wish, StanzaError> {
    if node.config.domains.anon.as_deref() == Some(account.domain()) {
        return Err(StanzaError::not_allowed()); // there is no account
    }
    match asked {
        Asked::Fields => Ok(Wish::Fields),
        Asked::Remove => Ok(Wish::Remove),
        // §3.3: the name says whose password; it can only be the user's own.
        Asked::Register { username, password } => {
            if payload::account_of(&username, account.domain())? != *account {
                return Err(StanzaError::not_allowed());
            }
            acceptable(&password)?;
            Ok(Wish::Password(password))
        }
    }
}

/// Somebody who has not signed in asks for an account, or what it takes to get one (§3.1). Offered, and called, only where
/// `registration.enabled` is set. Returns the answer.
pub async fn before_sign_in(node: &Arc<Node>, from: IpAddr, iq: &Element) -> Element {
    let domain = node.config.domains.global.as_str();
    let answer = match payload::parse(iq) {
        Ok(_) if !node.config.registration.enabled => Err(StanzaError::not_allowed()),
        Ok(Asked::Fields) => Ok(Some(payload::fields())),
        Ok(Asked::Remove) => Err(StanzaError::registration_required()),
        Ok(Asked::Register { username, password }) => {
            create(node, from, &username, password).await.map(|()| None)
        }
        Err(error) => Err(error),
    };
    payload::reply(iq, domain, answer)
}

async fn create(
    node: &Arc<Node>,
    from: IpAddr,
    username: &str,
    password: Password,
) -> Result<(), StanzaError> {
    let account = payload::account_of(username, &node.config.domains.global)?;
    acceptable(&password)?;
    // Counted before it is known whether the name is free: else names could be tried at leisure.
    let max = node.config.registration.per_address_per_10min;
    if !node.throttle.may_register(from, max, node.now_ms()) {
        return Err(StanzaError::resource_constraint()
            .with_text("Too many new accounts from this address."));
    }
    let record = derive(node, password).await?;
    if !accounts::create(&node.homes, &account, &record).await.map_err(refused)? {
        return Err(StanzaError::conflict());
    }
    node.metrics.registered.inc();
    tracing::info!(%account, peer = %from, "registered");
    Ok(())
}

async fn change_password(
    node: &Arc<Node>,
    account: &BareJid,
    password: Password,
) -> Result<(), StanzaError> {
    if !node.authenticator.keeps_password(account).await {
        // It is somewhere else, and nothing would know the new one there.
        return Err(StanzaError::not_allowed());
    }
    let record = derive(node, password).await?;
    found(accounts::set_keys(&node.homes, account, &record).await.map_err(refused)?)
}

async fn remove(node: &Arc<Node>, account: &BareJid) -> Result<(), StanzaError> {
    found(accounts::remove(&node.homes, account).await.map_err(refused)?)
}

/// On the blocking threads of sign-in, in the same short queue.
async fn derive(node: &Arc<Node>, password: Password) -> Result<Account, StanzaError> {
    match node.authenticator.derive(password).await {
        Ok(keys) => Ok(keys.into_account(node.wall_ms())),
        Err(NoKeys::Bad(why)) => Err(StanzaError::not_acceptable().with_text(&why.to_string())),
        Err(NoKeys::Busy) => Err(StanzaError::resource_constraint()),
    }
}

/// False from the home: there is no such account (any more).
fn found(found: bool) -> Result<(), StanzaError> {
    if found { Ok(()) } else { Err(StanzaError::registration_required()) }
}

fn refused(error: HomeError) -> StanzaError {
    error.stanza_error()
}

/// §3.1: a password we cannot keep is `not-acceptable`.
fn acceptable(password: &Password) -> Result<(), StanzaError> {
    saslprep(password.expose())
        .map(drop)
        .map_err(|why| StanzaError::not_acceptable().with_text(&why.to_string()))
}

fn answer(request: &Stanza, done: Result<(), StanzaError>) -> Vec<Action> {
    let reply = match done {
        Ok(()) => Some(Stanza::iq_result(request, None)),
        Err(error) => request.error_reply(&error),
    };
    reply.map(Action::Reply).into_iter().collect()
}

/// A name in [`Register::leaving`] as long as the request runs, however it ends.
struct Leaving {
    all: Arc<Mutex<HashSet<FullJid>>>,
    full: FullJid,
}

impl Leaving {
    fn new(all: Arc<Mutex<HashSet<FullJid>>>, full: FullJid) -> Self {
        all.lock().insert(full.clone());
        Self { all, full }
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.all.lock().remove(&self.full);
    }
}
