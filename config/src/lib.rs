//! The configuration of one node: its types, its checks, its error messages.
//!
//! Called by `node::cli` (`run`, `check`, `migrate`) and handed to every crate as plain values. Nothing here opens a
//! socket or a database; the only file read is the configuration itself, so `pangaea check` is safe anywhere.
//!
//! One file a section under `section/`. A section asks its `table::Table` for each key by name, with a default and
//! in words what is expected; whatever is wrong is noted with its place in the file and reading goes on, so one run
//! reports everything. The examples in `config/examples/` are the manual: a test proves that they name every key and
//! that the commented-out keys show the true defaults.
//!
//! `reload` is for a file that is read again while its node runs. Deliberately absent: environment overrides.

pub mod canary;
mod check;
mod error;
pub mod reload;
mod section;
mod table;
#[cfg(test)]
mod tests;
mod value;

use std::path::Path;

pub use error::{ConfigError, Problem};
pub use section::admin::Admin;
pub use section::archive::{Archive, ArchiveDefault};
pub use section::auth::{
    Auth, AuthBackend, Bounds, Certificate, CertificateName, HttpCall, Jwt, JwtAlgorithm, JwtKey,
    Ldap, LdapSecurity, PasswordFormat, Program, Sql,
};
pub use section::c2s::{C2s, CertificateFor};
pub use section::clients::Clients;
pub use section::components::{
    Component, ComponentMode, Components, Delegation, Privileges, WatchedPresence,
};
pub use section::contact::Contact;
pub use section::domains::{Domains, RegionalTraffic};
pub use section::external_services::ExternalService;
pub use section::geo::{Durability, Geo};
pub use section::http::Http;
pub use section::invitations::{Invitations, Inviters};
pub use section::limits::{Limits, Rate, RateExceeded};
pub use section::link::{Link, Peer};
pub use section::log::{Log, LogFormat};
pub use section::metadata::Metadata;
pub use section::node::{DrainTo, Node};
pub use section::proxy::Proxy;
pub use section::push::Push;
pub use section::redis::{Password, Redis, RedisUrl};
pub use section::registration::Registration;
pub use section::reports::Reports;
pub use section::s2s::{S2s, S2sCertificate, S2sLimits, S2sPolicy, S2sTimers, S2sTls};
pub use section::storage::{Database, DatabaseUrl, Storage, Sync};
pub use section::upload::{S3, Upload, UploadRegion, UploadStore};
pub use value::{Fingerprint, is_domain, is_region, parse_duration};

/// The whole configuration of one node. Every path in it is absolute or relative to the working directory of the
/// process: a relative path in the file is joined to the directory the file is in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Who this node is and where its files are.
    pub node: Node,
    /// The names it answers for.
    pub domains: Domains,
    /// Client connections.
    pub c2s: C2s,
    /// What is kept of the clients people sign in with.
    pub clients: Clients,
    /// External components.
    pub components: Components,
    /// Server connections, links among them.
    pub s2s: S2s,
    /// Timers and bounds of the links to the other nodes.
    pub link: Link,
    /// Every other node of the platform, `[[peers]]`.
    pub peers: Vec<Peer>,
    /// The HTTP port.
    pub http: Http,
    /// Who may use the admin API.
    pub admin: Admin,
    /// Where users' passwords, tokens and certificates are checked.
    pub auth: Auth,
    /// Whom to write to about it.
    pub contact: Contact,
    /// The database.
    pub storage: Storage,
    /// Where the region's nodes find each other.
    pub redis: Redis,
    /// Files that users share.
    pub upload: Upload,
    /// The relay between clients.
    pub proxy: Proxy,
    /// STUN, TURN and the like, `[[external_services]]`.
    pub external_services: Vec<ExternalService>,
    /// Raft.
    pub metadata: Metadata,
    /// What happens when regions lose sight of each other.
    pub geo: Geo,
    /// Pushes to app servers.
    pub push: Push,
    /// Invitations.
    pub invitations: Invitations,
    /// Message archives.
    pub archive: Archive,
    /// In-band registration.
    pub registration: Registration,
    /// What users report of others.
    pub reports: Reports,
    /// Every bound, with what happens when it is reached.
    pub limits: Limits,
    /// Where the log goes and how much of it.
    pub log: Log,
}

impl Config {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// The file cannot be read, or holds anything that is not understood or cannot be right: then all of it at once.
    pub fn load(file: &Path) -> Result<Config, ConfigError> {
        let text =
            std::fs::read_to_string(file).map_err(|cause| ConfigError::unreadable(file, &cause))?;
        let base = file.parent().map(Path::to_path_buf).unwrap_or_default();
        Config::parse(&text, &file.display().to_string(), &base)
    }

    /// Checks `text`, calling it `name` in messages; relative paths are joined to `base`.
    ///
    /// # Errors
    /// As [`Config::load`], without the reading.
    pub fn parse(text: &str, name: &str, base: &Path) -> Result<Config, ConfigError> {
        let (config, _) = Config::parse_with_keys(text, name, base)?;
        Ok(config)
    }

    /// As [`Config::parse`], and also every key that was asked for (`"c2s.listen"`), for the test of the examples.
    fn parse_with_keys(
        text: &str,
        name: &str,
        base: &Path,
    ) -> Result<(Config, Vec<String>), ConfigError> {
        let document = table::Document::read(text, name, base)?;
        let root = document.root();
        let mut config = Config {
            node: section::node::read(&root.section("node")),
            domains: section::domains::read(&root.section("domains")),
            c2s: section::c2s::read(&root.section("c2s")),
            clients: section::clients::read(&root.section("clients")),
            components: section::components::read(&root.section("components")),
            s2s: section::s2s::read(&root.section("s2s")),
            link: section::link::read(&root.section("link")),
            peers: section::link::read_peers(&root),
            http: section::http::read(&root.section("http")),
            admin: section::admin::read(&root.section("admin")),
            auth: section::auth::read(&root.section("auth")),
            contact: section::contact::read(&root.section("contact")),
            storage: section::storage::read(&root.section("storage")),
            redis: section::redis::read(&root.section("redis")),
            upload: section::upload::read(&root.section("upload")),
            proxy: section::proxy::read(&root.section("proxy")),
            external_services: section::external_services::read(&root),
            metadata: section::metadata::read(&root.section("metadata")),
            geo: section::geo::read(&root.section("geo")),
            push: section::push::read(&root.section("push")),
            invitations: section::invitations::read(&root.section("invitations")),
            archive: section::archive::read(&root.section("archive")),
            registration: section::registration::read(&root.section("registration")),
            reports: section::reports::read(&root.section("reports")),
            limits: section::limits::read(&root.section("limits")),
            log: section::log::read(&root.section("log")),
        };
        drop(root); // Refuses what nobody asked for.
        check::complete(&mut config);
        check::whole(&config, &document);
        let keys = document.keys();
        document.finish()?;
        Ok((config, keys))
    }

    /// This node's name, as in `eu-0`: what peers, metadata and log lines call it.
    #[must_use]
    pub fn node_name(&self) -> String {
        format!("{}-{}", self.node.region, self.node.index)
    }

    /// Every region this configuration knows, its own included, sorted and without doubles.
    #[must_use]
    pub fn regions(&self) -> Vec<String> {
        let mut regions: Vec<String> = self.peers.iter().map(|peer| peer.region.clone()).collect();
        regions.push(self.node.region.clone());
        regions.sort();
        regions.dedup();
        regions
    }
}
