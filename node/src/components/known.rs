//! Which components may connect, and with which secret: what the configuration says of that, its files included, which a reload replaces as a
//! whole. Who is connected by what has changed loses its connection, and comes back by what is said now. Called by `build`, by `app::reload`, and
//! by whoever asks what a connection may be. What is delegated (XEP-0355) is not here: the server advertises it, which needs a restart.

use std::collections::BTreeMap;
use std::path::Path;

use xmpp::jid::BareJid;
use xmpp::sasl::Secret;
use xmpp::stream::error::StreamError;

use super::Components;
use super::handshake::Claim;
use super::hostname::Proved;
use super::privilege::Watchers;
use super::sign_in::Derived;
use crate::app::Node;
use crate::router::{Domains, perform};

/// See the room.
#[derive(Debug, Default)]
pub struct Known {
    /// How many there were before.
    version: u64,
    /// Of those that may connect here.
    secrets: BTreeMap<String, Since>,
    /// Of those that are not named.
    any: Option<Since>,
    /// What is kept of the secrets for signing in.
    pub(super) derived: Derived,
    /// What they hear of accounts (XEP-0356).
    watchers: Watchers,
}

/// A secret, and the version since which it is that.
#[derive(Debug)]
struct Since(Secret, u64);

impl Known {
    /// Reads it, with the secrets that are in files.
    ///
    /// # Errors
    /// A file that cannot be read, and why.
    pub fn read(config: &config::Components) -> Result<Known, (String, String)> {
        let since = |secret: String| Since(Secret::new(secret.into_bytes()), 0);
        let mut secrets = BTreeMap::new();
        for component in &config.component {
            let secret = match (&component.secret, &component.secret_file) {
                (Some(secret), _) => Some(secret.clone()),
                (None, Some(file)) => Some(first_line(file)?),
                (None, None) => config.secret.clone(),
            };
            if let Some(secret) = secret {
                secrets.insert(component.domain.clone(), since(secret));
            }
        }
        let any = config.secret.clone().filter(|_| config.any_below).map(since);
        let watchers = Watchers::new(config);
        Ok(Known { secrets, any, watchers, ..Known::default() })
    }

    /// Whether its secrets are those of another.
    fn has_secrets_of(&self, other: &Known) -> bool {
        let same = |one: &Since, other: &Since| one.0.matches(other.0.expose());
        let mut each = self.secrets.iter().zip(&other.secrets);
        let any = match (&self.any, &other.any) {
            (Some(one), Some(other)) => same(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        any && self.secrets.len() == other.secrets.len()
            && each.all(|((of, one), (by, other))| of == by && same(one, other))
    }

    /// The secret of whoever has that domain.
    fn secret(&self, domains: &Domains, domain: &str) -> Option<&Since> {
        domains.component(domain)?;
        match self.secrets.get(domain) {
            None if domains.names_component(domain) => None,
            own => own.or(self.any.as_ref()),
        }
    }

    /// The next after `former`: a secret that stays is as old as it was.
    fn after(mut self, former: &Known) -> Known {
        self.version = former.version + 1;
        let aged = |new: &mut Since, old: Option<&Since>| {
            let same = old.filter(|old| old.0.matches(new.0.expose()));
            new.1 = same.map_or(self.version, |old| old.1);
        };
        for (domain, secret) in &mut self.secrets {
            aged(secret, former.secrets.get(domain));
        }
        if let Some(any) = &mut self.any {
            aged(any, former.any.as_ref());
        }
        self
    }
}

/// Components that the configuration names, as their rows in the session table name them.
pub fn named(config: &config::Components) -> BTreeMap<String, BareJid> {
    let jid = |name: &str| BareJid::new(None, name).expect("the configuration has checked it");
    let names = config.component.iter().map(|component| &component.domain);
    names.map(|name| (name.clone(), jid(name))).collect()
}

fn first_line(file: &Path) -> Result<String, (String, String)> {
    let failed = |cause: String| (file.display().to_string(), cause);
    let text = std::fs::read_to_string(file).map_err(|cause| failed(cause.to_string()))?;
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(failed("there is nothing on its first line".to_owned())),
    }
}

impl Components {
    /// The secret of whoever has that domain.
    fn secret(&self, domains: &Domains, domain: &str) -> Option<&Since> {
        self.known.secret(domains, domain)
    }

    /// What who has that domain signs in with: its secret, and what is kept of that, under which name. Those that are not named have one secret,
    /// and no name.
    pub(super) fn to_sign_in<'a>(
        &'a self,
        domains: &Domains,
        domain: &'a str,
    ) -> Option<(&'a Secret, &'a Derived, &'a str)> {
        // Both of one version: what is derived of a former secret is not kept for the next.
        let known: &Known = &self.known;
        let Since(secret, _) = known.secret(domains, domain)?;
        let name = if known.secrets.contains_key(domain) { domain } else { "" };
        Some((secret, &known.derived, name))
    }

    /// What a connection that names this domain may be.
    pub(super) fn claim(&self, domains: &Domains, domain: &str) -> Claim<'_> {
        match self.secret(domains, domain) {
            Some(Since(secret, _)) => Claim::May(secret),
            None if domains.component(domain).is_none() && domains.is_taken(domain) => Claim::Taken,
            None => Claim::Unknown,
        }
    }

    /// What somebody proves who begins now, once he has.
    pub(super) fn proved(&self, host: &str) -> Proved {
        Proved { host: host.to_owned(), at: self.known.version }
    }

    /// Whether there may be a connection of that domain, and what its other end has proved is still so.
    pub(super) fn may_bind(&self, domains: &Domains, domain: &str, proved: &Proved) -> bool {
        let is_so = |Since(_, since): &Since| *since <= proved.at;
        self.secret(domains, &proved.host).is_some_and(is_so)
            && self.secret(domains, domain).is_some()
    }

    /// Whether there is room for another [`Known`].
    pub fn has_room(&self) -> bool {
        self.known.has_room()
    }

    /// Whether the secrets are not those of `known`: what is in a file may be another though the configuration is as it was.
    pub fn has_other_secrets(&self, known: &Known) -> bool {
        !self.known.has_secrets_of(known)
    }

    /// Who hears what of accounts.
    pub(super) fn watchers(&self) -> &Watchers {
        &self.known.watchers
    }
}

/// Puts what was read in force, with the configuration that it was read from, which `replace` puts in force, and with it what other domains there are. There must
/// be room ([`Components::has_room`]). Connections of this node end with `host-gone` where there is no such component any more, and with `reset` where
/// it has another secret or other privileges: who comes back is told of those, and who knows the old secret is out.
pub fn reload(node: &Node, known: Known, config: &config::Components, replace: impl FnOnce()) {
    let all = &node.components;
    let claim = |domain: &BareJid| all.claim(&node.domains, domain.as_str());
    let former = &node.config.components;
    let changed: Vec<(BareJid, StreamError)> = {
        let _nobody_binds = all.binding.lock();
        let seen: Vec<BareJid> = all.seen.lock().iter().cloned().collect();
        let before: Vec<Claim<'_>> = seen.iter().map(claim).collect();
        let replaced = all.known.replace(known.after(&all.known));
        assert!(replaced, "there is room");
        let names = named(config);
        let replaced = names == *node.domains.components || node.domains.components.replace(names);
        assert!(replaced, "it is replaced no more often than what is known");
        replace();
        let changed = seen.into_iter().zip(before).filter_map(|(domain, before)| {
            let may = config.privileges_of(domain.as_str());
            let same = may == former.privileges_of(domain.as_str());
            let why = match (before, claim(&domain)) {
                (Claim::May(old), Claim::May(new)) if same && old.matches(new.expose()) => None,
                (_, Claim::May(_)) => Some(StreamError::reset()),
                (_, Claim::Taken | Claim::Unknown) => Some(StreamError::host_gone()),
            };
            why.map(|why| (domain, why))
        });
        changed.collect()
    };
    for (domain, why) in changed {
        for seat in perform::seats_of(node, domain.as_str()) {
            let condition = why.condition.name();
            tracing::info!(component = %domain, condition, "its connection ends by a reload");
            perform::close(&seat, why.clone());
        }
    }
}
