//! Room: what a feature is. The router and the session call features; a feature never sends anything: it gives back [`Action`]s, which
//! the caller performs in order, and so its test reads "given this stanza, expect these actions". The list, in order, is
//! `features/mod.rs`. Methods are synchronous; what has to wait (storage, a home) comes back as [`Flow::Later`], so that a feature
//! which has nothing to do costs one comparison and no allocation on the stanza path (`docs/decisions/0002`).

use std::sync::Arc;

use futures_util::future::BoxFuture;
use global_distrib::NodeIx;
use replication::durable_log::Change;
use xmpp::jid::{BareJid, FullJid};
use xmpp::payload::data_form::Form;
use xmpp::payload::disco::Identity;
use xmpp::stanza::Stanza;
use xmpp::stanza::error::StanzaError;
use xmpp::stream::error::StreamError;
use xmpp::xml::element::Element;

use crate::app::Node;
use crate::features::adhoc::command::Command;
use crate::geo::abroad::Show;
use crate::geo::presence::Presence;
use crate::session::{Receipt, Seat};

/// What a feature wants done. Performed in the order given, by `router::perform`.
#[derive(Debug)]
pub enum Action {
    /// To the session whose stanza is being handled.
    Reply(Stanza),
    /// Through the router, by its `to`, as a stanza of its `from`.
    Route(Stanza),
    /// To one connected resource of this node, if it is still there: an answer or a push, which does not wait behind older messages.
    ToSeat(Arc<Seat>, Stanza),
    /// To those local resources of an account that asked for its roster (RFC 6121 §2.1.6 interested resources). The stanza's `to`
    /// is set for each.
    ToInterested {
        /// Whose roster.
        account: BareJid,
        /// What it made of the roster.
        version: u64,
        /// The push.
        push: Stanza,
    },
    /// The whole roster for one that asked, in its place among the pushes.
    Roster {
        /// Who asked.
        seat: Arc<Seat>,
        /// Of which version it is; `None`: an error.
        version: Option<u64>,
        /// The answer.
        answer: Stanza,
    },
    /// To the available resources of an account on this node, as it is (other nodes are told by the same change).
    ToAvailable(BareJid, Stanza),
    /// Presence to the available resources of many accounts, wherever they are: one copy a region (blueprint §6, multicast). To those at other
    /// domains one stanza each.
    Multicast {
        /// The presence; its `to` is set to each account in turn.
        presence: Presence,
        /// Whose resources.
        to: Vec<BareJid>,
    },
    /// What a local resource shows by then, to an account that was just granted it: to its available resources in those regions that
    /// know of the grant.
    Grant {
        /// The resource.
        seat: Arc<Seat>,
        /// To whom.
        to: BareJid,
    },
    /// Ask the regions where these accounts are, or their servers, for their presence, on behalf of a local resource (RFC 6121 §4.3).
    Probe {
        /// Who wants to know.
        from: FullJid,
        /// About whom.
        to: Vec<BareJid>,
    },
    /// Show the resources of an account, wherever they are, to somebody at another domain who has asked and may see them (RFC 6121 §4.3.2).
    Show(Show),
    /// Give a local resource what waits for its account (XEP-0160); until that is done, new messages wait in its seat.
    HandOut(Arc<Seat>),
    /// A carbon copy for the account's other resources, here and elsewhere (XEP-0280).
    Copy {
        /// Whose other resources.
        account: BareJid,
        /// The resource that needs none: it sent or received the original. `None`: all need none that take the account's messages.
        except: Option<FullJid>,
        /// `true` when the account sent the original, `false` when it received it.
        sent: bool,
        /// The original.
        forwarded: Stanza,
    },
    /// A message was put into mailboxes of an account that has devices registered: those that are away are told (XEP-0357).
    Call {
        /// Whose devices.
        account: BareJid,
        /// The node where it entered, if that is another, and its order there.
        entered: (Option<NodeIx>, u64),
        /// It.
        message: Stanza,
    },
    /// End the session whose stanza is being handled.
    Close(StreamError),
}

impl Action {
    /// The reply to a get or set: a result with that payload, or the error.
    pub fn answer(request: &Stanza, answer: Result<Option<Element>, StanzaError>) -> Option<Self> {
        match answer {
            Ok(payload) => Some(Action::Reply(Stanza::iq_result(request, payload))),
            Err(error) => request.error_reply(&error).map(Action::Reply),
        }
    }
}

/// What a feature says of a stanza.
pub enum Flow {
    /// Not mine, or seen and let pass.
    Next,
    /// Mine; nobody after me needs to see it.
    Done,
    /// Mine, but it takes a while; the session reads nothing further from this client until it is done, which keeps its order.
    Later(BoxFuture<'static, Vec<Action>>),
}

impl std::fmt::Debug for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Flow::Next => "Next",
            Flow::Done => "Done",
            Flow::Later(_) => "Later",
        })
    }
}

/// What a feature is called for. A stanza wakes only those who asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Interests {
    /// Namespaces of the first child of an IQ get or set it answers.
    pub iq: &'static [&'static str],
    /// IQ results and errors to an account or to the server.
    pub answers: bool,
    /// Messages sent by local users.
    pub outbound_message: bool,
    /// Presence sent by local users.
    pub outbound_presence: bool,
    /// Messages received by local accounts.
    pub inbound_message: bool,
    /// Messages nobody is online to take.
    pub undelivered: bool,
    /// Session events.
    pub session: bool,
    /// Stores whose committed changes it follows.
    pub changes: &'static [&'static str],
}

/// To whom an IQ is addressed, as far as features care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The server itself (a domain of ours).
    Server,
    /// A local account; `own` when it is the sender's.
    Account {
        /// Whose.
        account: BareJid,
        /// The sender's own account.
        own: bool,
    },
}

/// An IQ get or set on its way through the features.
#[derive(Debug)]
pub struct Iq {
    /// The stanza; its `from` is stamped.
    pub stanza: Stanza,
    /// Whose service is asked.
    pub target: Target,
}

impl Iq {
    /// Whether its payload has that name: an element of a known namespace may be one that is nobody's.
    pub fn is(&self, payload: &str) -> bool {
        self.stanza.first_child().is_some_and(|(name, _)| name == payload)
    }
}

/// What a feature is handed besides the stanza.
pub struct Ctx<'a> {
    /// The node: storage, homes, configuration, directory.
    pub node: &'a Arc<Node>,
    /// The local session concerned; absent for what comes from elsewhere.
    pub seat: Option<&'a Arc<Seat>>,
    /// What is to be done, in order.
    pub actions: Vec<Action>,
    /// Of the message that is being handled, if its sender wants to know: who takes a part of the responsibility for it shares it. Of a request that came by
    /// a stream: who lets others answer it takes it along.
    pub receipt: Option<Receipt>,
    /// The component that acts in the account's name (XEP-0356), if it is not the account itself.
    pub component: Option<&'a BareJid>,
    /// Of a message that is received: no resource of the account is connected but those that get it.
    pub nobody_else: bool,
    /// Of a change that is followed: the one ahead of it in the same entry.
    pub before: Option<&'a Change>,
}

impl<'a> Ctx<'a> {
    /// An empty context.
    pub fn new(node: &'a Arc<Node>, seat: Option<&'a Arc<Seat>>) -> Self {
        Self {
            node,
            seat,
            actions: Vec::new(),
            receipt: None,
            component: None,
            nobody_else: false,
            before: None,
        }
    }
}

/// The life of a session, as features see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// A resource is bound; it is not available yet.
    Bound,
    /// The client took its stream up again (XEP-0198).
    Resumed,
    /// The session is over; its row is already gone.
    Gone,
    /// It has come from another node, with all that hangs on its seat but what is read from storage; its row is not here yet.
    Arrived,
    /// It has moved to another node, which has its row: nothing of it ends.
    Left,
}

/// What the server, or an account, says of itself (XEP-0030). Collected once, when the features are made.
#[derive(Debug, Default)]
pub struct Disco {
    /// Features of the server's domain.
    pub server: Vec<&'static str>,
    /// Features of an account's bare JID.
    pub account: Vec<&'static str>,
    /// Those that only an account has of which something is kept: no guest's.
    pub account_kept: Vec<&'static str>,
    /// What the server is besides `server/im`.
    pub server_identities: Vec<Identity>,
    /// What an account is besides `account/registered`.
    pub account_identities: Vec<Identity>,
    /// What else the server says (XEP-0128): each with a FORM_TYPE of its own.
    pub server_forms: Vec<Form>,
}

/// One XEP, one folder. Everything but `name` does nothing by default.
pub trait Feature: Send + Sync {
    /// Short name: the folder's.
    fn name(&self) -> &'static str;

    /// What it is called for.
    fn interests(&self) -> Interests {
        Interests::default()
    }

    /// What is advertised. A feature that needs the configuration for it is made with that, in `features::list`.
    fn disco(&self, _disco: &mut Disco) {}

    /// Elements for `<stream:features/>` after sign-in, as XML.
    fn stream_features(&self) -> &str {
        ""
    }

    /// What a client may ask for along with a bind (XEP-0386 §3.1): namespaces, as they are advertised.
    fn inline(&self) -> &'static [&'static str] {
        &[]
    }

    /// A client has bound by Bind 2 and asked for this, an element of one of those namespaces; its seat is in `ctx`, and nothing has
    /// reached it yet. What `<bound/>` says of it.
    fn bound(&self, _ctx: &mut Ctx<'_>, _request: &Element) -> Option<Element> {
        None
    }

    /// Elements for `<stream:features/>` before sign-in, as XML.
    fn stream_features_before_auth(&self) -> &str {
        ""
    }

    /// Commands of the server (XEP-0050).
    fn commands(&self) -> Vec<Arc<dyn Command>> {
        Vec::new()
    }

    /// An IQ get or set to the server or to an account.
    fn iq(&self, _ctx: &mut Ctx<'_>, _iq: &Iq) -> Flow {
        Flow::Next
    }

    /// An IQ result or error to an account or to the server: the answer to a request of ours, or nobody's.
    fn answer(&self, _ctx: &mut Ctx<'_>, _iq: &Iq) {}

    /// A local user sends a message or presence.
    fn outbound(&self, _ctx: &mut Ctx<'_>, _stanza: &mut Stanza) -> Flow {
        Flow::Next
    }

    /// A local account receives a message at these resources. Runs in the addressee's order: no waiting (`Later` is not allowed here).
    fn inbound(&self, _ctx: &mut Ctx<'_>, _stanza: &Stanza, _at: &[Arc<Seat>]) {}

    /// Something happened to the session in `ctx`.
    fn session(&self, _ctx: &mut Ctx<'_>, _event: SessionEvent) -> Flow {
        Flow::Next
    }

    /// A change was committed at the home, or applied here from its log; `snapshot` when it is part of a full resync.
    fn changed(&self, _ctx: &mut Ctx<'_>, _change: &Change, _snapshot: bool) -> Flow {
        Flow::Next
    }
}
