//! The admin API: what an operator may ask of a node and tell it to do.
//!
//! [`Operator`] is implemented by `app`; `api` puts it on HTTP under `/admin`, `cli::ctl` and `cli::user` speak to
//! that. The types here are what travels, in both directions, as JSON.
//!
//! Deliberately absent: any knowledge of how a node does it.

mod api;
mod export;
mod federation;
mod invitations;
mod members;
mod model;
mod storage;
#[cfg(test)]
pub(crate) mod tests;

use futures_util::future::BoxFuture;

pub use api::{openapi, router};
pub use export::*;
pub use federation::*;
pub use invitations::*;
pub use members::*;
pub use model::*;
pub use storage::*;

/// An answer of the node, or why there is none.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Refusal>>;

/// What a node does for its operator. Account names and JIDs come as they were typed: parse them, and refuse with
/// [`Refusal::invalid`].
pub trait Operator: Send + Sync + 'static {
    /// Whether `password` is that of `account` (a bare JID, in lower case, that `admin.accounts` names).
    fn authenticate<'a>(&'a self, account: &'a str, password: &'a str) -> BoxFuture<'a, bool>;
    /// Reads certificates and configuration again.
    fn reload(&self) -> Answer<'_, Reloaded>;
    /// Whether this node serves and knows the others. Called often: must be cheap and must not block.
    fn ready(&self) -> Ready;
    /// The node on one screen.
    fn status(&self) -> Answer<'_, Status>;
    /// Every region of the platform.
    fn regions(&self) -> Answer<'_, Vec<RegionInfo>>;
    /// Every node of the platform.
    fn nodes(&self) -> Answer<'_, Vec<NodeInfo>>;
    /// Forgets a node that is gone for good, through the metadata group.
    fn node_remove<'a>(&'a self, node: &'a str) -> Answer<'a, ()>;
    /// Gives it a vote in the metadata group, or takes it.
    fn node_vote<'a>(&'a self, node: &'a str, votes: bool) -> Answer<'a, ()>;
    /// The metadata group as this node sees it.
    fn metadata(&self) -> Answer<'_, MetadataInfo>;
    /// The links of this node.
    fn links(&self) -> Answer<'_, Vec<LinkInfo>>;
    /// The databases of the region.
    fn storage(&self) -> Answer<'_, StorageInfo>;
    /// Begins to spread accounts evenly over them.
    fn rebalance(&self, asked: Rebalance) -> Answer<'_, StorageInfo>;
    /// The region's registry as this node sees it.
    fn registry(&self) -> Answer<'_, RegistryInfo>;
    /// What the registry has of an account: sessions of this region.
    fn registry_rows<'a>(&'a self, account: &'a str) -> Answer<'a, Vec<RegistryRow>>;
    /// Sessions, at most `limit`: those of one account in every region, or all of this region.
    fn sessions<'a>(
        &'a self,
        account: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<SessionInfo>>;
    /// Ends the session of a full JID, or all of a bare one, in this region. How many there were.
    fn kick<'a>(&'a self, jid: &'a str) -> Answer<'a, usize>;
    /// Changes a region's state, through the metadata group.
    fn region_state<'a>(&'a self, region: &'a str, state: RegionState) -> Answer<'a, ()>;
    /// How far a node is emptied; this one if none is named.
    fn drain<'a>(&'a self, node: Option<&'a str>) -> Answer<'a, DrainInfo>;
    /// Begins to empty it, or goes on at another pace.
    fn drain_begin<'a>(&'a self, node: Option<&'a str>, new: NewDrain) -> Answer<'a, DrainInfo>;
    /// It serves again.
    fn drain_undo<'a>(&'a self, node: Option<&'a str>) -> Answer<'a, DrainInfo>;
    /// Where an account's home is.
    fn home_of<'a>(&'a self, account: &'a str) -> Answer<'a, HomeInfo>;
    /// Moves the home of a shard, or of one account, to another region.
    fn home_move<'a>(&'a self, what: HomeTarget, to: &'a str) -> Answer<'a, HomeInfo>;
    /// What users reported of others, the newest first, at most `limit`.
    fn reports(&self, limit: usize) -> Answer<'_, Vec<ReportInfo>>;
    /// Walks the way from a domain of ours (the global one if none is named) to another domain, and says what it finds. Takes
    /// up to half a minute.
    fn s2s_check<'a>(&'a self, domain: &'a str, from: Option<&'a str>) -> Answer<'a, DomainCheck>;
    /// Accounts in order of name, those after `after`, at most `limit`.
    fn users<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Answer<'a, Vec<String>>;
    /// Makes an account. Refused if it is there.
    fn user_add<'a>(&'a self, account: &'a str, password: &'a str) -> Answer<'a, ()>;
    /// Sets the password of an account that is there. Its tokens end with the old one (XEP-0484), and its sessions,
    /// unless `clients.password_ends_sessions` says otherwise.
    fn user_passwd<'a>(&'a self, account: &'a str, password: &'a str) -> Answer<'a, ()>;
    /// Removes an account with all its data, and ends its sessions.
    fn user_remove<'a>(&'a self, account: &'a str) -> Answer<'a, ()>;
    /// Everything of an account, of its messages the first; `UserExport::more` says whether there are others.
    fn user_export<'a>(&'a self, account: &'a str) -> Answer<'a, UserExport>;
    /// Messages that wait for an account, those after a number that such an answer gave.
    fn user_offline<'a>(&'a self, account: &'a str, after: u64) -> Answer<'a, OfflinePage>;
    /// Makes an account from what `user_export` gave, or another server. Refused if it is there. An import that failed
    /// on its way may be repeated.
    fn user_import(&self, user: UserExport) -> Answer<'_, Imported>;
    /// What is archived for an account, after a number that such an answer gave.
    fn user_archive<'a>(&'a self, account: &'a str, after: Option<u64>) -> Answer<'a, ArchivePage>;
    /// More of an import that is not at its end.
    fn user_import_archive<'a>(
        &'a self,
        account: &'a str,
        part: ArchivePart,
    ) -> Answer<'a, Imported>;
    /// Makes an invitation.
    fn invite(&self, new: NewInvitation) -> Answer<'_, IssuedInvitation>;
    /// The invitations of an account, or of the operator, that are still good.
    fn invitations<'a>(&'a self, of: Option<&'a str>) -> Answer<'a, Vec<InvitationInfo>>;
    /// Ends an invitation before its time.
    fn invitation_revoke<'a>(&'a self, of: Option<&'a str>, id: &'a str) -> Answer<'a, ()>;
}
