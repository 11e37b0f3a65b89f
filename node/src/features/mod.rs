//! The list of features, in the order in which a stanza meets them, and who wants to see what. One line a feature.

pub mod adhoc;
pub mod admin;
pub mod archive;
pub mod bind;
pub mod blocking;
pub mod bytestreams;
pub mod carbons;
pub mod clients;
pub mod csi;
pub mod disco;
pub mod external_services;
pub mod invisible;
pub mod invitations;
pub mod last;
pub mod offline;
pub mod ping;
pub mod presence;
pub mod private;
pub mod push;
pub mod register;
pub mod roster;
pub mod sic;
#[cfg(test)]
pub(crate) mod tests;
pub mod time;
pub mod upload;
pub mod vcard;
pub mod version;

use std::collections::HashMap;
use std::sync::Arc;

use config::Config;
use replication::durable_log::Change;
use xmpp::payload::caps::Caps;
use xmpp::stanza::{Kind, Stanza};
use xmpp::xml::element::Element;

use self::adhoc::command::Command;
use crate::components;
use crate::feature::{Ctx, Disco, Feature, Flow, Iq, SessionEvent};
use crate::service::{Hosted, Service};
use crate::session::Seat;

/// The features of a node. Order matters only where a line says so.
fn list(config: &Config) -> Vec<Box<dyn Feature>> {
    let mut list: Vec<Box<dyn Feature>> = vec![
        Box::new(roster::RosterFeature),
        // Before presence, which makes a session that goes unavailable.
        Box::new(last::LastFeature),
        // Behind the roster, which it looks at when that changes.
        Box::new(blocking::Blocking),
        Box::new(blocking::privacy::Privacy),
        // Before presence, which tells what goes with it.
        Box::new(vcard::VcardFeature::default()),
        Box::new(presence::PresenceFeature),
        Box::new(invisible::Invisible),
        Box::new(carbons::Carbons),
        Box::new(clients::Clients),
        Box::new(csi::ClientState),
        Box::new(offline::OfflineFeature),
        Box::new(bind::Bind),
        Box::new(private::PrivateFeature),
        Box::new(ping::Ping),
        Box::new(push::Push),
        Box::new(version::Version),
        Box::new(time::Time),
        Box::new(sic::Sic),
        Box::new(external_services::ExternalServices),
        Box::new(register::Register::default()),
        Box::new(admin::AdminFeature),
        Box::new(components::DelegationFeature::new(config)),
        Box::new(adhoc::AdHoc::new(config)),
        Box::new(invitations::InvitationsFeature::new(config)),
        // Behind those that answer for nodes of their own.
        Box::new(disco::DiscoFeature::new(config)),
    ];
    if config.archive.enabled {
        // Behind carbons: their copies get the id in the sender's archive, what is delivered the one in the addressee's.
        list.push(Box::new(archive::ArchiveFeature));
    }
    list
}

/// The services of a node: those that have a domain in its configuration. One that has one already goes on: `there`, by its name.
pub fn services<'a>(
    config: &Config,
    there: impl Fn(&str) -> Option<&'a Arc<dyn Service>>,
) -> Vec<Option<Hosted>> {
    type Make = fn(&Config) -> Arc<dyn Service>;
    let all: [(&Option<String>, &str, Make); 2] = [
        (&config.domains.upload, upload::NAME, |config| Arc::new(upload::Upload::new(config))),
        (&config.domains.proxy, bytestreams::NAME, |config| {
            Arc::new(bytestreams::Bytestreams::new(config.proxy.clone()))
        }),
    ];
    let hosted = all.map(|(host, name, make)| {
        let service = || there(name).cloned().unwrap_or_else(|| make(config));
        host.clone().map(|host| (host, service()))
    });
    hosted.into()
}

/// The list, and an index of who asked for what: a stanza nobody asked for costs one look at an empty vector.
pub struct Features {
    list: Vec<Box<dyn Feature>>,
    iq: HashMap<&'static str, Vec<usize>>,
    answers: Vec<usize>,
    outbound_message: Vec<usize>,
    outbound_presence: Vec<usize>,
    inbound_message: Vec<usize>,
    session: Vec<usize>,
    changes: HashMap<&'static str, Vec<usize>>,
    /// What is advertised.
    pub disco: Disco,
    /// The same in one word (XEP-0115), if that is advertised.
    pub caps: Option<Caps>,
    /// What the server does on command (XEP-0050).
    pub commands: Vec<Arc<dyn Command>>,
}

impl Features {
    /// All there are, as the configuration wants them.
    pub fn new(config: &Config) -> Self {
        Self::of(list(config))
    }

    /// An index of these.
    pub fn of(list: Vec<Box<dyn Feature>>) -> Self {
        let mut features = Self {
            list: Vec::new(),
            iq: HashMap::new(),
            answers: Vec::new(),
            outbound_message: Vec::new(),
            outbound_presence: Vec::new(),
            inbound_message: Vec::new(),
            session: Vec::new(),
            changes: HashMap::new(),
            disco: Disco::default(),
            caps: None,
            commands: Vec::new(),
        };
        for (at, feature) in list.iter().enumerate() {
            let wants = feature.interests();
            for (index, wanted) in [
                (&mut features.answers, wants.answers),
                (&mut features.outbound_message, wants.outbound_message),
                (&mut features.outbound_presence, wants.outbound_presence),
                (&mut features.inbound_message, wants.inbound_message),
                (&mut features.session, wants.session),
            ] {
                if wanted {
                    index.push(at);
                }
            }
            for namespace in wants.iq {
                features.iq.entry(namespace).or_default().push(at);
            }
            for store in wants.changes {
                features.changes.entry(store).or_default().push(at);
            }
            feature.disco(&mut features.disco);
            features.commands.extend(feature.commands());
        }
        features.list = list;
        let has_caps = features.disco.server.contains(&xmpp::ns::CAPS);
        features.caps = has_caps.then(|| Caps::of(&features.disco.server_info()));
        features
    }

    /// Elements for `<stream:features/>` after sign-in.
    pub fn stream_features(&self) -> Vec<u8> {
        let own = self.list.iter().flat_map(|feature| feature.stream_features().bytes());
        own.chain(self.caps.iter().flat_map(|caps| caps.element().to_bytes())).collect()
    }

    /// Elements for `<stream:features/>` before sign-in.
    pub fn stream_features_before_auth(&self) -> Vec<u8> {
        let all = self.list.iter().map(|feature| feature.stream_features_before_auth());
        all.collect::<String>().into_bytes()
    }

    /// What may be asked for along with a bind (XEP-0386), as it is advertised.
    pub fn inline(&self) -> Vec<&'static str> {
        self.list.iter().flat_map(|feature| feature.inline()).copied().collect()
    }

    /// One thing that was asked for along with a bind, to whoever it is; the seat is in `ctx`.
    pub fn bound(&self, ctx: &mut Ctx<'_>, request: &Element) -> Option<Element> {
        let mut all = self.list.iter();
        all.find(|feature| feature.inline().contains(&request.ns()))?.bound(ctx, request)
    }

    /// An IQ get or set, to those who answer its payload's namespace.
    pub fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        let Some((_, namespace)) = iq.stanza.first_child() else { return Flow::Next };
        self.first(self.iq.get(namespace).map_or(&[], Vec::as_slice), |feature| feature.iq(ctx, iq))
    }

    /// A local user sends a message or presence.
    pub fn outbound(&self, ctx: &mut Ctx<'_>, stanza: &mut Stanza) -> Flow {
        let index = if stanza.kind() == Kind::Presence {
            &self.outbound_presence
        } else {
            &self.outbound_message
        };
        self.first(index, |feature| feature.outbound(ctx, stanza))
    }

    /// A message was put into these local mailboxes.
    pub fn inbound(&self, ctx: &mut Ctx<'_>, stanza: &Stanza, at: &[Arc<Seat>]) {
        for feature in &self.inbound_message {
            self.list[*feature].inbound(ctx, stanza, at);
        }
    }

    /// An IQ result or error to an account or to the server.
    pub fn answer(&self, ctx: &mut Ctx<'_>, iq: &Iq) {
        for feature in &self.answers {
            self.list[*feature].answer(ctx, iq);
        }
    }

    /// Something happened to a session: every feature that follows sessions is told; what takes a while is returned.
    pub fn session(&self, ctx: &mut Ctx<'_>, event: SessionEvent) -> Vec<Flow> {
        self.session.iter().map(|feature| self.list[*feature].session(ctx, event)).collect()
    }

    /// A change was applied.
    pub fn changed(&self, ctx: &mut Ctx<'_>, change: &Change, snapshot: bool) {
        for feature in self.changes.get(change.store().as_str()).into_iter().flatten() {
            let flow = self.list[*feature].changed(ctx, change, snapshot);
            debug_assert!(!matches!(flow, Flow::Later(_)), "a change is followed at once");
        }
    }

    fn first(&self, index: &[usize], mut ask: impl FnMut(&dyn Feature) -> Flow) -> Flow {
        for feature in index {
            match ask(self.list[*feature].as_ref()) {
                Flow::Next => {}
                flow => return flow,
            }
        }
        Flow::Next
    }
}
