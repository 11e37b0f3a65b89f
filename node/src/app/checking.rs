//! `pangaea ctl s2s check`: the way to another domain, walked for an operator. With what the configuration says now, its files and DNS read
//! afresh: what the streams have in memory may be older, and whoever asks wants to know what is so.

use s2s::federation::check::check;
use s2s::federation::net::{Net, NetConfig};
use s2s::federation::policy::Policies;
use xmpp::jid::BareJid;

use super::Node;
use crate::admin::{DomainCheck, Refusal};

/// From a domain of ours, the global one if none is named, to `domain`.
pub(super) async fn walk(
    node: &Node,
    domain: &str,
    from: Option<&str>,
) -> Result<DomainCheck, Refusal> {
    let prepared = |written: &str| {
        BareJid::new(None, written)
            .map(|jid| jid.domain().to_owned())
            .map_err(|error| Refusal::invalid(format!("{written:?}: {error}")))
    };
    let theirs = prepared(domain)?;
    let ours = from.map_or_else(|| Ok(node.domains.global.clone()), prepared)?;
    let own = |domain: &str| node.config.domains.all().iter().any(|(_, name)| *name == domain);
    if !own(&ours) {
        return Err(Refusal::invalid(format!("{ours} is no domain of this node")));
    }
    if own(&theirs) {
        return Err(Refusal::invalid(format!("{theirs} is a domain of this node")));
    }
    if !node.config.s2s.federation {
        return Err(Refusal::conflict("[s2s] federation = false: there are no other servers here"));
    }
    let failed = |why: &dyn std::fmt::Display| Refusal::failed(why.to_string());
    let policies = Policies::read(&node.config.s2s).map_err(|why| failed(&why))?;
    let net = NetConfig::read(&node.config).and_then(Net::new).map_err(|why| failed(&why))?;
    Ok(check(&net, &policies, &ours, &theirs).await.into())
}
