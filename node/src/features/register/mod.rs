//! XEP-0077 In-Band Registration, version 2.5: an account for whoever asks (where the operator wants that), another password, the end of
//! an account. Creating needs no session and is called by the session's negotiation (`stranger`, which also takes the tokens of XEP-0445);
//! the rest are iqs of a signed-in user. All of it is committed at the account's home. Wherever an account is removed from, its sessions
//! end, and its contacts are told (`removal`).
//!
//! Left out: fields besides name and password (§12), CAPTCHAs, registration with gateways and services (§3.1.2), asking for the old password
//! or more before a change or removal (§3.2, §3.3: the session has proved who it is).

mod names;
mod password;
mod payload;
mod removal;
mod stranger;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use replication::durable_log::Change;
use xmpp::jid::{BareJid, FullJid};
use xmpp::ns;
use xmpp::sasl::Password;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;
use xmpp::stream::error::StreamError;

use self::payload::Asked;
pub use self::payload::account_of;
pub use self::removal::remove;
pub use self::stranger::Stranger;
use crate::app::Node;
use crate::auth::internal::NoKeys;
use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};
use crate::homes::HomeError;
use crate::homes::accounts::{self, ACCOUNTS, Account, PASSWORD};
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
        Interests { iq: &[ns::REGISTER], changes: &[ACCOUNTS, PASSWORD], ..Interests::default() }
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
            Ok(Wish::Password(password)) => Flow::Later(Box::pin(async move {
                let changed = change_password(&node, &full, password).await;
                answer(&request, changed)
            })),
            Ok(Wish::Remove) => {
                let leaving = Leaving::new(self.leaving.clone(), full);
                let account = seat.bare.clone();
                Flow::Later(Box::pin(async move {
                    let removed = remove(&node, &account).await.map_err(refused).and_then(found);
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

    /// An account was removed, by its owner or the operator, here or in another region: its sessions end. With another password those end
    /// that did not ask for it.
    fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) -> Flow {
        if change.store().as_str() == PASSWORD {
            let Change::Put { owner, value, .. } = change else { return Flow::Next };
            // A snapshot says nothing new: whoever signed in knew the password that is in it.
            if !snapshot && ctx.node.config.clients.password_ends_sessions {
                let mut seats = perform::seats_of(ctx.node, owner);
                seats.retain(|seat| seat.full.resource().as_bytes() != value.as_slice());
                let error = StreamError::reset().with_text("the password was changed");
                seats.iter().for_each(|seat| perform::close(seat, error.clone()));
            }
        } else if matches!(change, Change::Delete { .. } | Change::Clear { .. }) {
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
    let rules = &node.config.registration;
    match asked {
        Asked::Fields => Ok(Wish::Fields),
        Asked::Remove if !rules.remove_account => Err(StanzaError::not_allowed()),
        Asked::Remove => Ok(Wish::Remove),
        Asked::Register { .. } if !rules.change_password => Err(StanzaError::not_allowed()),
        // §3.3: the name says whose password; it can only be the user's own. An empty password changes nothing.
        Asked::Register { username, password } => {
            let password = password.filter(|password| !password.expose().is_empty());
            let (Some(username), Some(password)) = (username, password) else {
                return Err(StanzaError::bad_request());
            };
            if !payload::is_own(&username, account) {
                return Err(StanzaError::not_allowed());
            }
            password::acceptable(&password, rules)?;
            Ok(Wish::Password(password))
        }
    }
}

async fn change_password(
    node: &Arc<Node>,
    full: &FullJid,
    password: Password,
) -> Result<(), StanzaError> {
    let account = full.bare();
    if !node.authenticator.keeps_password(&account).await {
        // It is somewhere else, and nothing would know the new one there.
        return Err(StanzaError::not_allowed());
    }
    let record = derive(node, password).await?;
    let by = Some(full.resource());
    found(accounts::set_keys(&node.homes, &account, &record, by).await.map_err(refused)?)
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
