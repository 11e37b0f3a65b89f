//! What quickstart is going to run, as values: names, ports, who dials whom, which accounts. (Each node's configuration
//! is `node_file`.)
//!
//! Pure but for [`Plan::refuse_taken_ports`]. The formula of the ports is that of blueprint §8.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use config::{Database, is_domain, is_region};

use super::Args;

/// The most nodes of a region that the formula of the ports has room for.
const NODES_MAX: u16 = 5;

/// The address that a node (first) dials to reach another (second).
pub(super) type Dialled = BTreeMap<(String, String), SocketAddr>;

/// Everything that runs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) regions: Vec<String>,
    pub(super) domain: String,
    pub(super) port_base: u16,
    /// What the slots of uploads are signed with.
    pub(super) upload_key: String,
    /// By region, then by number.
    pub(super) nodes: Vec<NodePlan>,
    /// Whether messages are archived.
    pub(super) archive: bool,
    /// The server with the regions' databases; without one they are files.
    pub(super) database: Option<Database>,
    /// The Redis with the regions' registries.
    pub(super) redis: Option<String>,
    /// The DNS server that is asked for other domains; without one there is no federation.
    pub(super) dns: Option<SocketAddr>,
}

/// One node.
#[derive(Debug)]
pub(super) struct NodePlan {
    /// `eu-0`
    pub(super) name: String,
    pub(super) region: String,
    pub(super) index: u16,
    pub(super) raft_id: u64,
    pub(super) voter: bool,
    pub(super) ports: Ports,
}

/// The ports of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ports {
    pub(super) c2s: u16,
    pub(super) c2s_tls: u16,
    pub(super) s2s: u16,
    pub(super) components: u16,
    pub(super) http: u16,
    pub(super) proxy: u16,
}

/// The ports of node `j` of region `i`, or none when they would be above 65535.
pub(super) fn ports(base: u16, i: u16, j: u16) -> Option<Ports> {
    let from = base.checked_add(i.checked_mul(1000)?)?.checked_add(j.checked_mul(10)?)?;
    Some(Ports {
        c2s: from.checked_add(222)?,
        c2s_tls: from.checked_add(223)?,
        s2s: from.checked_add(269)?,
        components: from.checked_add(347)?,
        http: from.checked_add(280)?,
        proxy: from.checked_add(265)?,
    })
}

impl Plan {
    /// The plan that the command line asks for, or why it cannot be.
    pub(super) fn new(args: &Args) -> miette::Result<Plan> {
        if !(1..=NODES_MAX).contains(&args.nodes) {
            return Err(miette::miette!(
                "--nodes: a region has at least one node, and at most {NODES_MAX}"
            ));
        }
        let regions = &args.regions;
        for (at, region) in regions.iter().enumerate() {
            if !is_region(region) {
                return Err(miette::miette!(
                    help = "up to 32 lower-case letters, digits and hyphens, a letter first",
                    "--regions: {region:?} cannot be the name of a region"
                ));
            }
            if regions[..at].contains(region) {
                return Err(miette::miette!("--regions: {region} is named twice"));
            }
            if ["rooms", "pubsub", "upload", "proxy", "anon"].contains(&region.as_str()) {
                let domain = &args.domain;
                return Err(miette::miette!("--regions: {region}.{domain} is a service already"));
            }
        }
        if !is_domain(&args.domain) {
            return Err(miette::miette!(
                help = "lower case, as in pangaea.localhost",
                "--domain: {:?} is not a domain name",
                args.domain
            ));
        }
        let mut nodes = Vec::new();
        for (i, region) in (0u16..).zip(regions) {
            for j in 0..args.nodes {
                let ports = ports(args.port_base, i, j).ok_or_else(|| {
                    miette::miette!(
                        "--port-base {} with {} regions goes beyond port 65535",
                        args.port_base,
                        regions.len()
                    )
                })?;
                nodes.push(NodePlan {
                    name: format!("{region}-{j}"),
                    region: region.clone(),
                    index: j,
                    raft_id: u64::from(i * NODES_MAX + j) + 1,
                    voter: votes(i, j, regions.len(), args.nodes),
                    ports,
                });
            }
        }
        if args.port_base.checked_add(900).is_none() {
            return Err(miette::miette!("--port-base {} is too high", args.port_base));
        }
        Ok(Plan {
            regions: regions.clone(),
            domain: args.domain.clone(),
            port_base: args.port_base,
            upload_key: random_key()?,
            nodes,
            archive: args.archive,
            database: args.database.as_deref().map(server).transpose()?,
            redis: args.redis.as_deref().map(registry).transpose()?,
            dns: args.dns,
        })
    }

    /// The database of a region, where it is on a server, and its name there.
    pub(super) fn database(&self, region: &str) -> Option<(Database, String)> {
        let named = |url: &config::DatabaseUrl| {
            let all = if url.name().is_empty() { "pangaea" } else { url.name() };
            let name = format!("{all}_{}", region.replace('-', "_"));
            (url.with_name(&name), name)
        };
        match self.database.as_ref()? {
            Database::Sqlite(_) => None,
            Database::Postgres(url) => {
                let (url, name) = named(url);
                Some((Database::Postgres(url), name))
            }
            Database::Mysql(url) => {
                let (url, name) = named(url);
                Some((Database::Mysql(url), name))
            }
        }
    }

    /// Where the emulator and the processes are steered.
    pub(super) fn control_port(&self) -> u16 {
        self.port_base + 900
    }

    /// Tries every port that will be listened on, and names the first that is taken.
    pub(super) fn refuse_taken_ports(&self) -> miette::Result<()> {
        let mut all = vec![(self.control_port(), "the steering port".to_owned())];
        for node in &self.nodes {
            let ports = node.ports;
            let uses = [
                (ports.c2s, "STARTTLS"),
                (ports.c2s_tls, "TLS"),
                (ports.s2s, "servers and links"),
                (ports.components, "components"),
                (ports.http, "HTTP"),
                (ports.proxy, "bytestreams"),
            ];
            all.extend(uses.map(|(port, what)| (port, format!("{}, {what}", node.name))));
        }
        for (port, what) in all {
            if let Err(cause) = TcpListener::bind(("127.0.0.1", port)) {
                return Err(miette::miette!(
                    help = "is another quickstart running? --port-base takes other ports",
                    "port {port} ({what}) cannot be had: {cause}"
                ));
            }
        }
        Ok(())
    }

    /// Every pair of nodes in different regions: who dials (the smaller name), and who is dialled.
    pub(super) fn pairs(&self) -> Vec<(&NodePlan, &NodePlan)> {
        let mut pairs = Vec::new();
        for from in &self.nodes {
            for to in &self.nodes {
                // As the links order their peers: by region, then by number.
                if from.region < to.region {
                    pairs.push((from, to));
                }
            }
        }
        pairs
    }

    /// The names that the certificate of a node is good for.
    pub(super) fn names(&self) -> Vec<String> {
        let domain = &self.domain;
        let mut names = vec![domain.clone(), format!("*.{domain}")];
        for region in &self.regions {
            names.extend([format!("{region}.{domain}"), format!("*.{region}.{domain}")]);
        }
        names.extend(
            ["rooms", "pubsub", "upload", "proxy", "anon"].map(|name| format!("{name}.{domain}")),
        );
        names
    }

    /// Bare JIDs with their passwords.
    pub(super) fn accounts(&self, users: u32) -> Vec<(String, String)> {
        let people = ["alice", "bob", "carol", "dave", "admin"]
            .map(|name| (name.to_owned(), "wonderland".to_owned()));
        people
            .into_iter()
            .chain((0..users).map(|n| (format!("user{n}"), format!("pw{n}"))))
            .map(|(name, password)| (format!("{name}@{}", self.domain), password))
            .collect()
    }
}

/// Whether node `j` of region `i` votes: one of each region, and more only as far as a majority must outlive any one node: of one region with
/// three nodes or more three, of two regions with several nodes one more.
fn votes(i: u16, j: u16, regions: usize, nodes: u16) -> bool {
    match (regions, nodes) {
        (1, 3..) => j < 3,
        (2, 2..) => j == 0 || (i == 0 && j == 1),
        _ => j == 0,
    }
}

fn server(url: &str) -> miette::Result<Database> {
    match Database::parse(url) {
        Some(database @ (Database::Postgres(_) | Database::Mysql(_))) => Ok(database),
        // Perhaps with a password: it is not repeated.
        _ => Err(miette::miette!(
            help = "as in postgres://me:secret@127.0.0.1:5432/pangaea or mysql://…; without it each region has an SQLite file",
            "--database takes the URL of a server"
        )),
    }
}

fn registry(url: &str) -> miette::Result<String> {
    // Perhaps with a password: it is not repeated.
    let known = config::RedisUrl::parse(url).map(|_| url.to_owned());
    known.ok_or_else(|| {
        miette::miette!(
            help = "as in redis://127.0.0.1:6379, or rediss://:secret@host:6379 with TLS",
            "--redis takes the URL of a Redis"
        )
    })
}

fn random_key() -> miette::Result<String> {
    use base64::Engine as _;
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).map_err(|cause| miette::miette!("no random numbers: {cause}"))?;
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use config::Fingerprint;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(line: &str) -> miette::Result<Plan> {
        let words = std::iter::once("quickstart").chain(line.split_whitespace());
        Plan::new(&Line::parse_from(words).args)
    }

    #[test]
    fn ports_follow_the_formula() {
        let check = |i, j, expected: [u16; 6]| {
            let ports = ports(5000, i, j).unwrap();
            let Ports { c2s, c2s_tls, s2s, components, http, proxy } = ports;
            let found = [c2s, c2s_tls, s2s, components, http, proxy];
            assert_eq!(found, expected);
        };
        check(0, 0, [5222, 5223, 5269, 5347, 5280, 5265]);
        check(1, 0, [6222, 6223, 6269, 6347, 6280, 6265]);
        check(2, 4, [7262, 7263, 7309, 7387, 7320, 7305]);
        assert_eq!(ports(65_000, 1, 0), None);
        assert_eq!(plan("--port-base 7000").unwrap().control_port(), 7900);
    }

    #[test]
    fn no_two_listeners_of_a_plan_share_a_port() {
        let mut seen = std::collections::BTreeSet::from([5900]);
        for (i, j) in (0..3).flat_map(|i| (0..NODES_MAX).map(move |j| (i, j))) {
            let Ports { c2s, c2s_tls, s2s, components, http, proxy } = ports(5000, i, j).unwrap();
            for port in [c2s, c2s_tls, s2s, components, http, proxy] {
                assert!(seen.insert(port), "{port}");
            }
        }
    }

    #[test]
    fn the_smaller_name_dials_across_regions() {
        let plan = plan("").unwrap();
        let pairs: Vec<(&str, &str)> =
            plan.pairs().iter().map(|(from, to)| (from.name.as_str(), to.name.as_str())).collect();
        assert_eq!(pairs, [("eu-0", "us-0"), ("ap-0", "eu-0"), ("ap-0", "us-0")]);
    }

    #[test]
    fn nodes_of_a_region_share_its_database_and_a_majority_outlives_any_of_them() {
        let voters = |line: &str| {
            let nodes = plan(line).unwrap().nodes;
            let voters = nodes.into_iter().filter(|node| node.voter).map(|node| node.name);
            voters.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(voters("--regions eu --nodes 5"), "eu-0 eu-1 eu-2");
        assert_eq!(voters("--regions eu --nodes 2"), "eu-0");
        assert_eq!(voters("--regions eu,us --nodes 2"), "eu-0 eu-1 us-0");
        assert_eq!(voters("--nodes 3"), "eu-0 us-0 ap-0");
        let plan = plan("--regions eu --nodes 2").unwrap();
        let text = plan.config(&plan.nodes[1], &Dialled::new(), &BTreeMap::new());
        let config = config::Config::parse(&text, "eu-1.toml", "/q".as_ref());
        // The fingerprint of its peer is missing here, and nothing else.
        let problems = format!("{:?}", config.expect_err("it is not whole"));
        assert!(problems.contains("fingerprint") && !problems.contains("storage"), "{problems}");
        assert!(text.contains("sqlite:eu-0/pangaea.sqlite") && text.contains("eu-0/upload"));
    }

    #[test]
    fn what_cannot_be_is_refused_in_words() {
        let check = |line: &str, says: &str| {
            let error = plan(line).expect_err(line).to_string();
            assert!(error.contains(says), "{error} should say {says:?}");
        };
        check("--nodes 0", "at least one");
        check("--redis h:6379", "--redis takes the URL of a Redis");
        check("--nodes 6", "at most 5");
        check("--database sqlite:file", "the URL of a server");
        check("--regions eu,EU", "\"EU\" cannot be");
        check("--regions eu,us,eu", "eu is named twice");
        check("--regions rooms", "service already");
        check("--domain Chat.Example", "not a domain name");
        check("--port-base 64000", "beyond port 65535");
    }

    #[test]
    fn each_region_has_a_database_of_its_own() {
        let plan = plan("--regions us-east --database mysql://me:se\"cret@h/chat").unwrap();
        let (Database::Mysql(url), name) = plan.database("us-east").unwrap() else {
            panic!("it is MySQL")
        };
        assert_eq!((url.expose(), &*name), ("mysql://me:se\"cret@h/chat_us_east", "chat_us_east"));
        let text = plan.config(&plan.nodes[0], &Dialled::new(), &BTreeMap::new());
        let read = config::Config::parse(&text, "test", Path::new("/")).unwrap();
        assert_eq!(read.storage.database.to_string(), "mysql://h/chat_us_east");
    }

    #[test]
    fn each_region_has_keys_of_its_own_in_redis() {
        let plan = plan("--regions us-east --redis redis://:se\"cret@h:6379/1").unwrap();
        let text = plan.config(&plan.nodes[0], &Dialled::new(), &BTreeMap::new());
        let read = config::Config::parse(&text, "test", Path::new("/")).unwrap();
        assert_eq!(read.redis.prefix, "pangaea:us-east");
        let url = read.redis.url.unwrap();
        assert_eq!(
            (url.to_string().as_str(), url.expose()),
            ("redis://h:6379/1", "redis://:se\"cret@h:6379/1")
        );
    }

    #[test]
    fn other_servers_are_found_where_dns_says_or_not_at_all() {
        let s2s = |line: &str| {
            let plan = plan(&format!("--regions eu {line}")).unwrap();
            let text = plan.config(&plan.nodes[0], &Dialled::new(), &BTreeMap::new());
            config::Config::parse(&text, "test", Path::new("/q")).unwrap().s2s
        };
        let (with, without) = (s2s("--dns 127.0.0.1:5353"), s2s(""));
        assert!(with.federation && !without.federation);
        assert_eq!(with.dns, ["127.0.0.1:5353".parse().unwrap()]);
        assert_eq!(with.trust.as_deref(), Some(Path::new("/q/ca.pem")));
    }

    #[test]
    fn who_is_sent_away_goes_to_the_other_nodes_of_the_region() {
        let places = |line: &str| {
            let plan = plan(&format!("--regions eu,us {line}")).unwrap();
            let fingerprint =
                |(n, node): (u8, &NodePlan)| (node.name.clone(), Fingerprint([n; 32]));
            let fingerprints = (1..).zip(&plan.nodes).map(fingerprint).collect();
            let text = plan.config(&plan.nodes[0], &Dialled::new(), &fingerprints);
            let config = config::Config::parse(&text, "test", Path::new("/q")).unwrap();
            [config.c2s.see_other_host, config.s2s.see_other_host].map(|all| all.join(" "))
        };
        let dns = "--dns 127.0.0.1:5353";
        assert_eq!(places(&format!("--nodes 2 {dns}")), ["127.0.0.1:5232", "127.0.0.1:5279"]);
        assert_eq!(places("--nodes 2"), ["127.0.0.1:5232", ""]);
        assert_eq!(places(dns), ["", ""]);
    }

    #[test]
    fn accounts_are_those_of_the_contract() {
        let accounts = plan("--domain a.b").unwrap().accounts(2);
        let names: Vec<&str> = accounts.iter().map(|(name, _)| name.as_str()).collect();
        let people = ["alice@a.b", "bob@a.b", "carol@a.b", "dave@a.b", "admin@a.b"];
        assert_eq!(names[..5], people);
        assert_eq!(accounts[4].1, "wonderland");
        assert_eq!(accounts[6], ("user1@a.b".to_owned(), "pw1".to_owned()));
    }

    #[test]
    fn every_configuration_is_right_and_dials_through_the_emulator() {
        let plan = plan("--regions eu,us,mars").unwrap();
        let fingerprints: BTreeMap<String, Fingerprint> = (1u8..)
            .zip(&plan.nodes)
            .map(|(n, node)| (node.name.clone(), Fingerprint([n; 32])))
            .collect();
        let line = ("eu-0".to_owned(), "us-0".to_owned());
        let dialled = Dialled::from([(line, SocketAddr::from(([127, 0, 0, 1], 40_001)))]);
        for node in &plan.nodes {
            let text = plan.config(node, &dialled, &fingerprints);
            let config = config::Config::parse(&text, "test", Path::new("/dir"))
                .unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
            assert_eq!(config.node_name(), node.name);
            assert_eq!(config.peers.len(), 2);
            assert_eq!(config.metadata.raft_id, node.raft_id);
            assert_eq!(config.node.data_dir, Path::new("/dir").join(&node.name));
            assert!(config.registration.enabled && config.c2s.allow_plain_without_tls);
            let peer = config.peers.iter().find(|peer| peer.name() == "us-0");
            match (node.name.as_str(), peer) {
                ("eu-0", Some(peer)) => assert_eq!(peer.address, "127.0.0.1:40001"),
                ("mars-0", Some(peer)) => assert_eq!(peer.address, "127.0.0.1:6269"),
                _ => {}
            }
        }
    }
}
