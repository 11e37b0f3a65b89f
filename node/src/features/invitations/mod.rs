//! Invitations: XEP-0379 Pre-Authenticated Roster Subscription, version 0.1.1; XEP-0401 Ad-hoc Account Invitation Generation, version 0.6.0;
//! the tokens of XEP-0445 Pre-Authenticated In-Band Registration, version 0.2.0 (`features/register` takes them).
//!
//! Made for users by ad-hoc command, for operators by the admin API; both through [`issue`], so one set of rules holds. `token` is what
//! travels, `record` what is stored, `home` the writer. A request to be subscribed that brings a token is answered at the inviter's home
//! (`features/roster/home`), whether the inviter is online or not.
//!
//! Left out: tokens that only one given address may use (XEP-0379 §6.2), a display name in the URI.

mod commands;
pub mod home;
pub mod page;
pub mod record;
#[cfg(test)]
mod tests;
pub mod token;

use std::sync::Arc;
use std::time::Duration;

use config::Inviters;
use xmpp::jid::{BareJid, Jid};
use xmpp::ns;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use self::home::{Answer, OP, Request};
use self::record::{Invitation, Reserved};
use self::token::Token;
use crate::app::Node;
use crate::feature::{Action, Feature};
use crate::features::adhoc::command::{Command, Who};
use crate::features::presence::relation;
use crate::features::roster::subscription::Kind;
use crate::homes::HomeError;
use crate::router::perform;

/// See the room.
pub struct InvitationsFeature {
    /// For strangers (XEP-0445 §3).
    stream_feature: String,
    /// Whether users may invite contacts.
    contacts: bool,
    /// Whose invitations make accounts.
    accounts: Inviters,
}

impl InvitationsFeature {
    /// As the configuration wants it.
    pub fn new(config: &config::Config) -> Self {
        let config::Invitations { contacts, accounts, .. } = config.invitations;
        let stream_feature = match accounts {
            Inviters::Nobody => String::new(),
            _ => format!("<register xmlns='{}'/>", ns::IBR_TOKEN),
        };
        Self { stream_feature, contacts, accounts }
    }
}

impl Feature for InvitationsFeature {
    fn name(&self) -> &'static str {
        "invitations"
    }

    fn stream_features_before_auth(&self) -> &str {
        &self.stream_feature
    }

    fn commands(&self) -> Vec<Arc<dyn Command>> {
        let mut commands: Vec<Arc<dyn Command>> = Vec::new();
        if self.contacts {
            commands.push(Arc::new(commands::InviteContact));
        }
        let who = match self.accounts {
            Inviters::Nobody | Inviters::Operator => None,
            Inviters::Admins => Some(Who::Administrators),
            Inviters::Users => Some(Who::Users),
        };
        if let Some(who) = who {
            commands.push(Arc::new(commands::CreateAccount { who }));
        }
        commands
    }
}

/// What somebody wants to invite to.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The inviting account; the domain for the operator's own.
    pub owner: BareJid,
    /// Whoever is invited may make an account.
    pub register: bool,
    /// They become contacts of each other.
    pub contact: bool,
    /// The name the account is to have; it is kept for it.
    pub username: Option<String>,
    /// How often it may be used.
    pub uses: u32,
    /// How long it is good.
    pub expire: Duration,
}

/// An invitation that was made.
#[derive(Clone, Debug)]
pub struct Issued {
    /// What whoever is invited brings.
    pub token: Token,
    /// What it is good for.
    pub invitation: Invitation,
    /// `xmpp:…`
    pub uri: String,
    /// The page about it.
    pub landing_url: Option<String>,
}

/// Whether this account's invitations may be used to make accounts (`invitations.accounts`).
pub fn may_invite_to_register(node: &Node, account: &BareJid) -> bool {
    match node.config.invitations.accounts {
        Inviters::Nobody | Inviters::Operator => false,
        Inviters::Admins => {
            node.config.admin.accounts.iter().any(|admin| admin == account.as_str())
        }
        Inviters::Users => true,
    }
}

/// Whether invitations to make an account can exist at all.
pub fn are_accepted(node: &Node) -> bool {
    node.config.invitations.accounts != Inviters::Nobody
}

async fn ask(node: &Node, owner: &BareJid, request: &Request) -> Result<Answer, HomeError> {
    node.homes.exchange(owner, OP, request).await
}

/// Makes an invitation, and keeps the name it is for.
///
/// # Errors
/// `not-acceptable`: the name cannot be one. `conflict`: it is taken. `resource-constraint`: too many are good already.
/// `item-not-found`: the inviting account does not exist. What homes say.
pub async fn issue(node: &Node, wish: Wish) -> Result<Issued, StanzaError> {
    let token = Token::new(node.random(), &wish.owner);
    let key = token.key();
    let created = node.wall_ms();
    let lasts = u64::try_from(wish.expire.as_millis()).unwrap_or(u64::MAX);
    let expires = created.saturating_add(lasts);
    let domain = wish.owner.domain();
    let account = match &wish.username {
        Some(name) => Some(crate::features::register::account_of(name, domain)?),
        None => None,
    };
    if let Some(account) = &account {
        let reserved = Reserved { by: key.clone(), until: expires };
        match ask(node, account, &Request::Reserve(reserved)).await {
            Ok(Answer::Done) => {}
            Ok(_) => return Err(StanzaError::conflict().with_text("This name is taken.")),
            Err(error) => return Err(error.stanza_error()),
        }
    }
    let invitation = Invitation {
        register: wish.register,
        contact: wish.contact && wish.owner.local().is_some(),
        username: account.as_ref().and_then(|account| account.local().map(str::to_owned)),
        created,
        expires,
        uses: wish.uses.max(1),
    };
    let max = u32::try_from(node.config.invitations.open_max).unwrap_or(u32::MAX);
    let request = Request::Issue { key: key.clone(), invitation: invitation.clone(), max };
    let refused = match ask(node, &wish.owner, &request).await {
        Ok(Answer::Done) => None,
        Ok(Answer::Full) => Some(
            StanzaError::resource_constraint().with_text("Too many invitations are still open."),
        ),
        Ok(_) => Some(StanzaError::item_not_found()),
        Err(error) => Some(error.stanza_error()),
    };
    if let Some(error) = refused {
        if let Some(account) = &account {
            release(node, account, key).await;
        }
        return Err(error);
    }
    let uri = match (&account, invitation.contact) {
        (Some(account), _) => token.register_uri(account),
        (None, true) => token.roster_uri(invitation.register),
        (None, false) => token
            .register_uri(&BareJid::parse(domain).expect("the domain of an address is an address")),
    };
    let page = node.config.invitations.landing_url.as_ref();
    let landing_url = page.map(|url| url.replace("{token}", token.expose()));
    Ok(Issued { token, invitation, uri, landing_url })
}

/// What a client opens: about the account that is to be made, about the inviter, or about the server.
fn uri(token: &Token, invitation: &Invitation, account: Option<BareJid>) -> String {
    match account {
        Some(account) => token.register_uri(&account),
        None if invitation.contact => token.roster_uri(invitation.register),
        None => {
            let domain = BareJid::parse(token.owner().domain());
            token.register_uri(&domain.expect("the domain of an address is an address"))
        }
    }
}

/// The invitation, while it is good.
///
/// # Errors
/// Its home cannot be asked.
pub async fn look(node: &Node, token: &Token) -> Result<Option<Invitation>, HomeError> {
    let answer = ask(node, token.owner(), &Request::Look { key: token.key() }).await?;
    Ok(found(answer))
}

/// Uses it once. `None`: somebody else was faster.
///
/// # Errors
/// Its home cannot be asked.
pub async fn take(node: &Node, token: &Token) -> Result<Option<Invitation>, HomeError> {
    let answer = ask(node, token.owner(), &Request::Take { key: token.key() }).await?;
    Ok(found(answer))
}

fn found(answer: Answer) -> Option<Invitation> {
    match answer {
        Answer::Found(invitation) => Some(invitation),
        _ => None,
    }
}

/// What it was taken for came to nothing (XEP-0445 §4: it counts as used when there is an account).
pub async fn give_back(node: &Node, token: &Token, invitation: Invitation) {
    let request = Request::GiveBack { key: token.key(), invitation };
    if let Err(error) = ask(node, token.owner(), &request).await {
        tracing::warn!(?token, %error, "an invitation was used for nothing");
    }
}

/// Those of an account, or of the operator, that are good.
///
/// # Errors
/// Its home cannot be asked.
pub async fn list(node: &Node, owner: &BareJid) -> Result<Vec<(String, Invitation)>, HomeError> {
    match ask(node, owner, &Request::List).await? {
        Answer::All(all) => Ok(all),
        _ => Ok(Vec::new()),
    }
}

/// Ends one before its time; `false`: there is none.
///
/// # Errors
/// Its home cannot be asked.
pub async fn revoke(node: &Node, owner: &BareJid, key: &str) -> Result<bool, HomeError> {
    let answer = ask(node, owner, &Request::Revoke { key: key.to_owned() }).await?;
    let Some(invitation) = found(answer) else { return Ok(false) };
    if let Some(name) = &invitation.username
        && let Ok(account) = BareJid::parse(&format!("{name}@{}", owner.domain()))
    {
        release(node, &account, key.to_owned()).await;
    }
    Ok(true)
}

async fn release(node: &Node, account: &BareJid, by: String) {
    if let Err(error) = ask(node, account, &Request::Release { by }).await {
        tracing::warn!(%account, %error, "a name stays reserved until its invitation expires");
    }
}

/// Makes two accounts contacts of each other, with nothing but what they could say themselves: each approves before it is asked (RFC 6121
/// §3.4), then each asks. Both get the pushes (XEP-0401 §5.5).
pub async fn befriend(node: &Arc<Node>, inviter: &BareJid, newcomer: &BareJid) {
    let pairs = [(inviter, newcomer), (newcomer, inviter)];
    for kind in [Kind::Subscribed, Kind::Subscribe] {
        for (from, to) in pairs {
            let stanza = Stanza::presence(
                Some(&Jid::from(to)),
                Some(&Jid::from(from)),
                match kind {
                    Kind::Subscribed => Type::Subscribed,
                    _ => Type::Subscribe,
                },
            )
            .build();
            let mut actions = relation::send(node, from, to, kind, stanza).await;
            // Nobody sent it: a refusal is nobody's to hear.
            actions.retain(|action| !matches!(action, Action::Reply(_)));
            perform::perform(node, None, actions);
        }
    }
}
