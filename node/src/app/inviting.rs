//! The operator's desk, invitations: between the values of the admin API and `features::invitations`. Called by `operator`.

use std::time::Duration;

use xmpp::jid::BareJid;
use xmpp::stanza::error::{Condition, StanzaError};

use super::Node;
use super::refusals::refused;
use crate::admin::{InvitationInfo, IssuedInvitation, NewInvitation, Refusal};
use crate::features::invitations::{self, Wish};

/// The longest time an operator's invitation is good.
const EXPIRE_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Makes one, whatever `invitations` allows users.
pub(super) async fn invite(
    node: &Node,
    owner: BareJid,
    new: NewInvitation,
) -> Result<IssuedInvitation, Refusal> {
    if new.contact && owner.local().is_none() {
        return Err(Refusal::invalid("whose contact? say in whose name the invitation is"));
    }
    if !new.contact && !new.register {
        return Err(Refusal::invalid(
            "an invitation to what? to an account, to be a contact, or both",
        ));
    }
    if new.username.is_some() && (!new.register || new.uses.unwrap_or(1) != 1) {
        return Err(Refusal::invalid("a name is for one account"));
    }
    if new.register && !invitations::are_accepted(node) {
        return Err(Refusal::conflict("invitations.accounts is \"nobody\""));
    }
    let expire = new.seconds.map_or(node.config.invitations.expire, Duration::from_secs);
    let wish = Wish {
        owner,
        register: new.register,
        contact: new.contact,
        username: new.username,
        uses: new.uses.unwrap_or(1),
        expire: expire.min(EXPIRE_MAX),
    };
    let issued = invitations::issue(node, wish).await.map_err(told)?;
    Ok(IssuedInvitation {
        id: issued.token.key(),
        uri: issued.uri,
        landing_url: issued.landing_url,
        expires: issued.invitation.expires,
    })
}

fn told(error: StanzaError) -> Refusal {
    let text = error.text.clone().unwrap_or_default();
    match error.condition {
        Condition::NotAcceptable => Refusal::invalid(text),
        Condition::Conflict => Refusal::conflict(text),
        Condition::ResourceConstraint => Refusal::conflict(text),
        Condition::ItemNotFound => Refusal::not_found("there is no such account"),
        _ => Refusal::unavailable(text),
    }
}

/// Those that are good.
pub(super) async fn invitations(
    node: &Node,
    owner: &BareJid,
) -> Result<Vec<InvitationInfo>, Refusal> {
    let all = invitations::list(node, owner).await.map_err(refused)?;
    let info = |(id, found): (String, invitations::record::Invitation)| InvitationInfo {
        id,
        register: found.register,
        contact: found.contact,
        username: found.username,
        uses: found.uses,
        created: found.created,
        expires: found.expires,
    };
    Ok(all.into_iter().map(info).collect())
}

/// Ends one.
pub(super) async fn revoke(node: &Node, owner: &BareJid, id: &str) -> Result<(), Refusal> {
    match invitations::revoke(node, owner, id).await.map_err(refused)? {
        true => Ok(()),
        false => Err(Refusal::not_found(format!("there is no invitation {id} of {owner}"))),
    }
}
