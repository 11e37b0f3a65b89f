//! The operator's desk: what the admin API asks of this node. Reads are of this node; changes go through metadata or the account's home.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use global_distrib::Place;
use replication::metadata::{self as meta, Command};
use replication::{ProposeError, shard_of};
use xmpp::jid::{BareJid, Jid};
use xmpp::sasl::{Password, Verdict};
use xmpp::stream::error::StreamError;

use super::refusals::{refused, unread, unusable};
use super::{Node, checking, databases, drain, inviting, members, portable};
use crate::admin::{
    Answer, ArchivePage, ArchivePart, DomainCheck, DrainInfo, HomeInfo, HomeTarget, Imported,
    InvitationInfo, IssuedInvitation, LinkInfo, MetadataInfo, NewDrain, NewInvitation, NodeInfo,
    OfflinePage, Operator, Ready, Rebalance, Refusal, RegionInfo, RegionState, RegistryInfo,
    RegistryRow, Reloaded, ReportInfo, ReportedStanza, SessionInfo, Status, StorageInfo,
    UserExport,
};
use crate::auth::Authenticator;
use crate::features::blocking::report;
use crate::features::register;
use crate::homes::accounts::{self, ACCOUNTS, Account};
use crate::homes::{HomeError, Moved};
use crate::router::perform;

/// How long a change of metadata may take.
const PROPOSE_WITHIN: Duration = Duration::from_secs(10);

/// What an operator may ask of this node, for features that ask on an administrator's behalf.
pub fn operator(node: &Arc<Node>) -> impl Operator + use<> {
    Desk::new(node.clone())
}

/// See the room.
pub(super) struct Desk {
    node: Arc<Node>,
}

impl Desk {
    /// A desk of this node.
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    async fn propose(&self, command: Command) -> Result<(), Refusal> {
        match self.node.metadata.propose(command, PROPOSE_WITHIN).await {
            Ok(_) => Ok(()),
            Err(ProposeError::Refused(why)) => Err(Refusal::conflict(why.to_string())),
            Err(error) => Err(Refusal::unavailable(error.to_string())),
        }
    }

    /// To this node, or to another one over the link.
    async fn drain_order(
        &self,
        name: Option<&str>,
        order: drain::Order,
    ) -> Result<DrainInfo, Refusal> {
        let me = self.node.geo.me.to_string();
        let name = name.unwrap_or(&me);
        let progress = if name == me {
            drain::obey(&self.node, order)
        } else {
            let peer = self.node.geo.peer_named(name);
            let peer =
                peer.ok_or_else(|| Refusal::not_found(format!("there is no node {name}")))?;
            let answer = drain::order(&self.node, peer.ix, order).await;
            answer.ok_or_else(|| Refusal::unavailable(format!("{name} does not answer")))?
        };
        Ok(DrainInfo {
            node: name.to_owned(),
            draining: progress.on,
            rate: progress.rate,
            total: progress.total,
            moved: progress.moved,
            ended: progress.ended,
            left: progress.left,
            seconds: progress.lasts.as_secs(),
            deadline: progress.deadline.as_secs(),
        })
    }

    /// By the home itself; see [`crate::homes::hand_over`].
    async fn hand_over(&self, what: Moved, to: &str) -> Result<(), Refusal> {
        self.node.homes.hand_over(what, to).await.map_err(|error| match error {
            HomeError::Metadata(why) => Refusal::conflict(why),
            HomeError::Busy => Refusal::conflict("it is being moved already"),
            HomeError::Unreachable => Refusal::unavailable(
                "the home, or the region it is to move to, does not answer in time",
            ),
            error => Refusal::failed(error.to_string()),
        })
    }

    async fn keys(&self, password: &str) -> Result<Account, Refusal> {
        match self.node.authenticator.derive(Password::new(password)).await {
            Ok(keys) => Ok(keys.into_account(self.node.wall_ms())),
            Err(why) => Err(unusable(why)),
        }
    }

    fn account(&self, text: &str) -> Result<BareJid, Refusal> {
        let jid =
            BareJid::parse(text).map_err(|error| Refusal::invalid(format!("{text:?}: {error}")))?;
        if jid.local().is_none() || !self.node.domains.has_accounts(jid.domain()) {
            let domain = &self.node.domains.global;
            return Err(Refusal::invalid(format!("{text:?} is no account of {domain}")));
        }
        Ok(jid)
    }

    /// Whose invitations: an account's, or the operator's own.
    fn inviter(&self, of: Option<&str>) -> Result<BareJid, Refusal> {
        match of {
            Some(account) => self.account(account),
            None => Ok(self.node.server.bare()),
        }
    }

    fn home_info(&self, account: Option<&BareJid>, shard: u8) -> Result<HomeInfo, Refusal> {
        let state = self.node.metadata.state();
        let pinned = account.is_some_and(|account| state.pins.contains_key(account.as_str()));
        let home = match account {
            Some(account) => state.home_of(account.as_str()).map(Cow::into_owned),
            None => state.home(shard).cloned(),
        };
        let home = home.ok_or_else(|| Refusal::unavailable("metadata is not founded yet"))?;
        Ok(HomeInfo {
            account: account.map(ToString::to_string),
            shard,
            region: home.region,
            epoch: home.epoch,
            replicas: home.replicas,
            pinned,
        })
    }

    fn rows(&self) -> (usize, usize) {
        let here = self.node.directory.sessions_here();
        let mut all = 0;
        self.node.directory.for_each(|_| all += 1);
        (here, all - here.min(all))
    }
}

fn state_of(state: meta::RegionState) -> RegionState {
    match state {
        meta::RegionState::Up => RegionState::Up,
        meta::RegionState::Draining => RegionState::Draining,
        meta::RegionState::Down | meta::RegionState::Off => RegionState::Down,
    }
}

impl Operator for Desk {
    fn authenticate<'a>(&'a self, account: &'a str, password: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let Ok(account) = BareJid::parse(account) else { return false };
            self.node.authenticator.plain(&account, Password::new(password)).await == Verdict::Right
        })
    }

    fn ready(&self) -> Ready {
        let node = &self.node;
        let mut reasons = Vec::new();
        if node.metadata.state().version == 0 {
            reasons.push("metadata is not founded yet".to_owned());
        }
        if node.is_leaving() {
            reasons.push("it is being emptied".to_owned());
        }
        for (name, ix) in node.geo.live() {
            let up = node.geo.peer_at(ix).is_some_and(|peer| peer.link.is_up());
            if !up {
                reasons.push(format!("no link to {name}"));
            } else if !node.geo.route.complete(ix) {
                reasons.push(format!("the sessions of {name} are not known yet"));
            }
        }
        if node.metadata.leader().is_none() {
            reasons.push("the metadata group has no leader".to_owned());
        }
        if node.homes.term().is_none() && node.geo.scribe_of(&node.geo.me.region).is_none() {
            reasons.push("no node writes the region's database yet".to_owned());
        }
        Ready { alarms: node.registry.alarms(node.now_ms()), ..Ready::unless(reasons) }
    }

    fn status(&self) -> Answer<'_, Status> {
        Box::pin(async move {
            let node = &self.node;
            let (here, elsewhere) = self.rows();
            Ok(Status {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                node: node.geo.me.to_string(),
                region: node.geo.me.region.to_string(),
                incarnation: node.incarnation,
                uptime_s: node.now_ms() / 1_000,
                domains: vec![node.domains.global.clone(), node.domains.regional.clone()],
                ready: self.ready(),
                connections: u64::try_from(node.metrics.connections.get()).unwrap_or(0),
                sessions: here as u64,
                sessions_elsewhere: elsewhere as u64,
                parked: node.directory.parked().0 as u64,
                metadata_leader: node.metadata.leader(),
            })
        })
    }

    fn regions(&self) -> Answer<'_, Vec<RegionInfo>> {
        Box::pin(async move {
            let node = &self.node;
            let state = node.metadata.state();
            let mut sessions = std::collections::BTreeMap::<String, u64>::new();
            node.directory.for_each(|row| {
                let region = match row.place {
                    Place::Here(_) => node.geo.me.region.to_string(),
                    Place::There(ix) => node
                        .geo
                        .peer_at(ix)
                        .map(|peer| peer.id.region.to_string())
                        .unwrap_or_default(),
                };
                *sessions.entry(region).or_default() += 1;
            });
            let reachable = |region: &str| {
                *node.geo.me.region == *region
                    || node.geo.peers_in(region).iter().any(|peer| peer.link.is_up())
            };
            // Of another node that does not write the region's database there is nothing to say.
            let copies = node.homes.term().map(|_| node.homes.status()).unwrap_or_default();
            let behind: std::collections::BTreeMap<String, u64> = copies
                .into_iter()
                .filter_map(|copy| Some((copy.region.clone(), copy.behind()?)))
                .collect();
            let regions = state.regions.values().map(|region| RegionInfo {
                name: region.name.clone(),
                state: state_of(region.state),
                reachable: reachable(&region.name),
                nodes: state.nodes.values().filter(|record| record.region == region.name).count()
                    as u32,
                sessions: sessions.get(&region.name).copied().unwrap_or(0),
                homes: state.homes.iter().filter(|home| home.region == region.name).count() as u32,
                lag: behind.get(&region.name).copied(),
                place: region.place,
            });
            Ok(regions.collect())
        })
    }

    fn nodes(&self) -> Answer<'_, Vec<NodeInfo>> {
        Box::pin(async move {
            let node = &self.node;
            let me = node.geo.me.to_string();
            let state = node.metadata.state();
            let nodes = state.nodes.iter().map(|(name, record)| NodeInfo {
                name: name.clone(),
                region: record.region.clone(),
                address: record.address.clone(),
                connected: *name == me
                    || node.geo.peer_named(name).is_some_and(|peer| peer.link.is_up()),
                incarnation: (record.incarnation != 0).then_some(record.incarnation),
                raft_id: record.raft_id,
                voter: record.voter,
                fingerprint: record.fingerprint.clone(),
            });
            Ok(nodes.collect())
        })
    }

    fn node_remove<'a>(&'a self, node: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { self.propose(members::removal(&self.node, node).await?).await })
    }

    fn node_vote<'a>(&'a self, node: &'a str, votes: bool) -> Answer<'a, ()> {
        Box::pin(async move {
            self.propose(members::vote(&self.node.metadata.state(), node, votes)?).await
        })
    }

    fn metadata(&self) -> Answer<'_, MetadataInfo> {
        Box::pin(async move {
            let status = self.node.metadata.status();
            let state = self.node.metadata.state();
            let domains = state.domains.iter().map(|(name, domain)| {
                let kind = match &domain.kind {
                    meta::DomainKind::Global => "global".to_owned(),
                    meta::DomainKind::Regional(region) => format!("regional: {region}"),
                };
                (name.clone(), kind)
            });
            Ok(MetadataInfo {
                leader: status.leader,
                term: status.term,
                applied: status.applied.unwrap_or(0),
                last_log: status.last_log_index.unwrap_or(0),
                version: state.version,
                voters: status.voters,
                learners: status.learners,
                domains: domains.collect(),
            })
        })
    }

    fn registry(&self) -> Answer<'_, RegistryInfo> {
        Box::pin(async move { Ok(self.node.registry.info(self.node.now_ms())) })
    }

    fn registry_rows<'a>(&'a self, account: &'a str) -> Answer<'a, Vec<RegistryRow>> {
        Box::pin(async move {
            let account = self.account(account)?;
            let rows = self.node.registry.rows(&account).await;
            let rows = rows.map_err(|error| Refusal::unavailable(error.to_string()))?;
            let told = rows.into_iter().map(|(jid, row)| RegistryRow {
                jid: jid.to_string(),
                node: row.life.node,
                incarnation: row.life.incarnation,
                priority: row.shows.available.then_some(row.shows.priority),
            });
            Ok(told.collect())
        })
    }

    fn links(&self) -> Answer<'_, Vec<LinkInfo>> {
        Box::pin(async move {
            let links = self.node.geo.all_peers().into_iter().map(|peer| {
                let stats = peer.link.stats();
                LinkInfo {
                    peer: peer.name.to_string(),
                    up: peer.link.is_up(),
                    incarnation: peer.link.incarnation().map(|incarnation| incarnation.0),
                    sent: stats.frames_out,
                    acked: peer.link.acked(),
                    received: stats.frames_in,
                    queued_bytes: stats.unacked_bytes,
                }
            });
            Ok(links.collect())
        })
    }

    fn sessions<'a>(
        &'a self,
        account: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<SessionInfo>> {
        Box::pin(async move {
            let node = &self.node;
            let me = node.geo.me.to_string();
            let mut sessions = Vec::new();
            let mut add = |row: &global_distrib::Row<Arc<crate::session::Seat>>| {
                if sessions.len() < limit {
                    sessions.push(SessionInfo {
                        jid: row.full.to_string(),
                        node: row.there().map_or_else(
                            || me.clone(),
                            |ix| node.geo.nodes.name(ix).unwrap_or_default(),
                        ),
                        priority: row.available.then_some(row.priority),
                        hibernating: false,
                    });
                }
            };
            match account {
                Some(account) => {
                    let account = self.account(account)?;
                    node.directory.read(account.as_str(), |rows| rows.iter().for_each(&mut add));
                }
                None => node.directory.for_each(|row| {
                    if row.here().is_some() {
                        add(row);
                    }
                }),
            }
            Ok(sessions)
        })
    }

    fn storage(&self) -> Answer<'_, StorageInfo> {
        Box::pin(std::future::ready(Ok(databases::show(&self.node))))
    }

    fn rebalance(&self, asked: Rebalance) -> Answer<'_, StorageInfo> {
        Box::pin(databases::rebalance(&self.node, asked))
    }

    fn reload(&self) -> Answer<'_, Reloaded> {
        Box::pin(async move { super::reload::now(&self.node).await.map_err(Refusal::invalid) })
    }

    fn kick<'a>(&'a self, jid: &'a str) -> Answer<'a, usize> {
        Box::pin(async move {
            let jid =
                Jid::parse(jid).map_err(|error| Refusal::invalid(format!("{jid:?}: {error}")))?;
            let mut seats = perform::seats_of(&self.node, jid.bare_str());
            seats.retain(|seat| {
                jid.resource().is_none_or(|resource| seat.full.resource() == resource)
            });
            for seat in &seats {
                perform::close(
                    seat,
                    StreamError::policy_violation().with_text("closed by an administrator"),
                );
            }
            Ok(seats.len())
        })
    }

    fn region_state<'a>(&'a self, region: &'a str, state: RegionState) -> Answer<'a, ()> {
        Box::pin(async move {
            let state = match state {
                RegionState::Up => meta::RegionState::Up,
                RegionState::Draining => meta::RegionState::Draining,
                RegionState::Down => meta::RegionState::Off, // Until an operator says otherwise.
            };
            self.propose(Command::RegionState { region: region.to_owned(), state }).await
        })
    }

    fn drain<'a>(&'a self, node: Option<&'a str>) -> Answer<'a, DrainInfo> {
        Box::pin(self.drain_order(node, drain::Order::Look))
    }

    fn drain_begin<'a>(&'a self, node: Option<&'a str>, new: NewDrain) -> Answer<'a, DrainInfo> {
        let within_ms = new.deadline.map(|seconds| seconds.saturating_mul(1_000));
        Box::pin(self.drain_order(node, drain::Order::Begin { rate: new.rate, within_ms }))
    }

    fn drain_undo<'a>(&'a self, node: Option<&'a str>) -> Answer<'a, DrainInfo> {
        Box::pin(self.drain_order(node, drain::Order::Undo))
    }

    fn home_of<'a>(&'a self, account: &'a str) -> Answer<'a, HomeInfo> {
        Box::pin(async move {
            let account = self.account(account)?;
            self.home_info(Some(&account), shard_of(account.as_str()))
        })
    }

    fn home_move<'a>(&'a self, what: HomeTarget, to: &'a str) -> Answer<'a, HomeInfo> {
        Box::pin(async move {
            match what {
                HomeTarget::Shard(shard) => {
                    self.hand_over(Moved::Shard(shard), to).await?;
                    self.home_info(None, shard)
                }
                HomeTarget::Account(account) => {
                    let account = self.account(&account)?;
                    if let Some(region) = self.node.metadata.state().region_of(account.as_str()) {
                        let error =
                            format!("{account} is on the own domain of {region}, and stays there");
                        return Err(Refusal::conflict(error));
                    }
                    let replicas = self.node.metadata.state().regions.keys().cloned().collect();
                    self.hand_over(Moved::Account(account.to_string(), replicas), to).await?;
                    self.home_info(Some(&account), shard_of(account.as_str()))
                }
            }
        })
    }

    fn s2s_check<'a>(&'a self, domain: &'a str, from: Option<&'a str>) -> Answer<'a, DomainCheck> {
        Box::pin(checking::walk(&self.node, domain, from))
    }

    fn reports(&self, limit: usize) -> Answer<'_, Vec<ReportInfo>> {
        Box::pin(async move {
            let found = report::newest(&self.node, limit).await;
            let info = |kept: report::Kept| {
                let (at, report) = (kept.at(), kept.report);
                let ids = report.stanzas.into_iter().map(|(by, id)| ReportedStanza { by, id });
                ReportInfo {
                    at,
                    by: kept.by.to_string(),
                    jid: report.jid.to_string(),
                    reason: report.reason,
                    text: report.text,
                    stanzas: ids.collect(),
                    report_origin: report.report_origin,
                    third_party: report.third_party,
                }
            };
            let found = found.map_err(unread)?;
            Ok(found.into_iter().map(info).collect())
        })
    }

    fn users<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            let users = self.node.storage.owners(ACCOUNTS, after, limit).await;
            users.map_err(unread)
        })
    }

    fn user_add<'a>(&'a self, account: &'a str, password: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let account = self.account(account)?;
            let record = self.keys(password).await?;
            match accounts::create(&self.node.homes, &account, &record).await.map_err(refused)? {
                true => Ok(()),
                false => Err(Refusal::conflict(format!("{account} is there already"))),
            }
        })
    }

    fn user_passwd<'a>(&'a self, account: &'a str, password: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let account = self.account(account)?;
            let record = self.keys(password).await?;
            match accounts::set_keys(&self.node.homes, &account, &record, None)
                .await
                .map_err(refused)?
            {
                true => Ok(()),
                false => Err(Refusal::not_found(format!("there is no account {account}"))),
            }
        })
    }

    fn user_remove<'a>(&'a self, account: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            let account = self.account(account)?;
            match register::remove(&self.node, &account).await.map_err(refused)? {
                true => Ok(()),
                false => Err(Refusal::not_found(format!("there is no account {account}"))),
            }
        })
    }

    fn user_export<'a>(&'a self, account: &'a str) -> Answer<'a, UserExport> {
        Box::pin(async move { portable::export(&self.node, &self.account(account)?).await })
    }

    fn user_offline<'a>(&'a self, account: &'a str, after: u64) -> Answer<'a, OfflinePage> {
        Box::pin(async move { portable::offline(&self.node, &self.account(account)?, after).await })
    }

    fn invite(&self, new: NewInvitation) -> Answer<'_, IssuedInvitation> {
        Box::pin(async move {
            let owner = self.inviter(new.of.as_deref())?;
            inviting::invite(&self.node, owner, new).await
        })
    }

    fn invitations<'a>(&'a self, of: Option<&'a str>) -> Answer<'a, Vec<InvitationInfo>> {
        Box::pin(async move { inviting::invitations(&self.node, &self.inviter(of)?).await })
    }

    fn invitation_revoke<'a>(&'a self, of: Option<&'a str>, id: &'a str) -> Answer<'a, ()> {
        Box::pin(async move { inviting::revoke(&self.node, &self.inviter(of)?, id).await })
    }

    fn user_import(&self, user: UserExport) -> Answer<'_, Imported> {
        Box::pin(async move {
            let account = self.account(&user.account)?;
            portable::import(&self.node, &account, user).await
        })
    }

    fn user_archive<'a>(&'a self, account: &'a str, after: Option<u64>) -> Answer<'a, ArchivePage> {
        Box::pin(async move { portable::archive(&self.node, &self.account(account)?, after).await })
    }

    fn user_import_archive<'a>(
        &'a self,
        account: &'a str,
        part: ArchivePart,
    ) -> Answer<'a, Imported> {
        Box::pin(async move {
            portable::import_archive(&self.node, &self.account(account)?, part).await
        })
    }
}
