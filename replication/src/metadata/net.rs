//! Raft's messages as opaque calls: what openraft wants to send becomes bytes for [`MetaTransport`], and back.
//!
//! `node` carries the bytes over links. Pre-Vote is forwarded explicitly: openraft's default would answer "granted" for
//! a peer nobody asked. A snapshot travels whole in one call; it is the serialised [`super::MetaState`].

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::raft::{Snapshot, SnapshotMeta, Types, Vote, decode, encode};
use super::types::{Command, CommandError, CommandReply};

/// The road to the other nodes: one request, one answer. Implemented by `node` over links.
pub trait MetaTransport: Send + Sync + 'static {
    /// Carries `body` to [`super::Metadata::handle`] of the named node (`eu-0`) and its answer back. Must fail soon when
    /// the node is known to be unreachable; callers set their own deadline and drop the future when it passes.
    fn call<'a>(&'a self, target: &'a str, body: Vec<u8>) -> BoxFuture<'a, io::Result<Vec<u8>>>;
}

/// The envelope: a request is only answered by the node and the cluster it is meant for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) cluster: String,
    /// Raft id of the addressee; 0 when the sender knows its name only.
    pub(super) to: u64,
    pub(super) call: Call,
}

/// What one node asks another.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Call {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    Snapshot { vote: Vote, meta: SnapshotMeta, state: Vec<u8> },
    TransferLeader(TransferLeaderRequest<Types>),
    Propose(Command, Duration),
}

/// The answer to [`Call::Propose`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Proposed {
    Done(Result<CommandReply, CommandError>),
    /// I do not lead; this node may.
    NotLeader(Option<String>),
    /// Unknown whether it will be carried out.
    Unknown,
}

/// `Ok(answer)`, or why the addressee refused to look at the request.
pub(super) type Answer<T> = Result<T, String>;

/// Makes one [`Client`] a peer.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) transport: Arc<dyn MetaTransport>,
    pub(super) cluster: String,
    pub(super) me: u64,
    /// How long an entry batch may take; openraft limits heartbeats and votes itself.
    pub(super) patience: Duration,
}

impl Network {
    /// One call; the error is about the road or the addressee's refusal.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        node: &str,
        to: u64,
        call: Call,
    ) -> io::Result<T> {
        let body = encode(&Request { cluster: self.cluster.clone(), to, call })?;
        let answer = self.transport.call(node, body).await?;
        decode::<Answer<T>>(&answer)?.map_err(io::Error::other)
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Client {
        Client { network: self.clone(), target, node: node.addr.clone() }
    }
}

/// The road to one peer.
pub(super) struct Client {
    network: Network,
    target: u64,
    node: String,
}

impl Client {
    async fn ask<T: DeserializeOwned>(
        &self,
        action: RPCTypes,
        within: Duration,
        call: Call,
    ) -> Result<T, RPCError<Types>> {
        match tokio::time::timeout(within, self.network.call(&self.node, self.target, call)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Other => {
                Err(NetworkError::new(&error).into())
            }
            Ok(Err(error)) => Err(Unreachable::new(&error).into()),
            Err(_) => {
                Err(Timeout { action, id: self.network.me, target: self.target, timeout: within }
                    .into())
            }
        }
    }
}

impl RaftNetworkV2<Types> for Client {
    type SnapshotData = Vec<u8>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.ask(RPCTypes::AppendEntries, self.network.patience, Call::Append(rpc)).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(RPCTypes::Vote, option.soft_ttl(), Call::Vote(rpc)).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask(RPCTypes::Vote, option.soft_ttl(), Call::PreVote(rpc)).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let call = Call::Snapshot { vote, meta: snapshot.meta, state: snapshot.snapshot };
        let asked = Box::pin(self.ask(RPCTypes::InstallSnapshot, option.soft_ttl(), call));
        match select(asked, Box::pin(cancel)).await {
            Either::Left((answer, _)) => Ok(answer?),
            Either::Right((closed, _)) => Err(closed.into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.ask(RPCTypes::TransferLeader, option.soft_ttl(), Call::TransferLeader(req)).await
    }
}
