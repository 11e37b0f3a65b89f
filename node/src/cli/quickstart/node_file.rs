//! Room: the configuration of one node of a quickstart, as the text of its file. Called by `quickstart`; who the nodes are and where they listen is the
//! plan's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;

use config::{Database, Fingerprint};

use super::plan::{Dialled, NodePlan, Plan, Ports};

impl Plan {
    /// The configuration of one node.
    pub(super) fn config(
        &self,
        node: &NodePlan,
        dialled: &Dialled,
        fingerprints: &BTreeMap<String, Fingerprint>,
    ) -> String {
        let NodePlan { name, region, index, raft_id, voter, ports } = node;
        let domain = &self.domain;
        let place = place(region).map(|(north, east)| format!("place = [{north}, {east}]\n"));
        let mut text = format!(
            r#"# Node {name} of `pangaea quickstart`, written anew at every start. A good example to begin with; every key is
# explained in config/examples/one-node.toml. Relative paths start from this directory.

[node]
region = "{region}"
index = {index}
data_dir = "{name}"

[domains]
global = "{domain}"
regional = "{region}.{domain}"
anon = "anon.{domain}"
rooms = "rooms.{domain}"
pubsub = "pubsub.{domain}"
upload = "upload.{domain}"
proxy = "proxy.{domain}"

[c2s]
listen = ["127.0.0.1:{c2s}"]
listen_tls = ["127.0.0.1:{c2s_tls}"]
certificate = "{name}.pem"
key = "{name}.key"
# Only here, on loopback.
allow_plain_without_tls = true
{see_other_host}
[s2s]
listen = ["127.0.0.1:{s2s}"]
{federation}

[components]
listen = ["127.0.0.1:{components}"]
# Only here: whoever knows it may be any domain below {domain} that is not taken.
any_below = true
secret = "wonderland"

[http]
listen = ["127.0.0.1:{http}"]

[upload]
# The same in all of them, made anew at every start: slots are good for minutes only.
key = "{upload_key}"
{upload_dir}{upload_regions}
[proxy]
listen = ["127.0.0.1:{proxy}"]

# What clients are told of STUN and TURN: an example, nothing listens there.
[[external_services]]
type = "stun"
host = "127.0.0.1"
port = 3478
transport = "udp"

[[external_services]]
type = "turn"
host = "127.0.0.1"
port = 3478
transport = "udp"
secret = "wonderland"

[admin]
accounts = ["admin@{domain}"]

[contact]
abuse = ["mailto:abuse@{domain}", "xmpp:admin@{domain}"]
admin = ["mailto:admin@{domain}", "xmpp:admin@{domain}"]
security = ["mailto:security@{domain}"]
support = ["xmpp:admin@{domain}"]

[metadata]
cluster = "{domain}"
raft_id = {raft_id}
voter = {voter}

[geo]
{place}# How long a stanza waits for a region that cannot be reached.
hold = "1m"

{storage}{redis}[archive]
enabled = {archive}

[invitations]
accounts = "users"

[registration]
enabled = true
per_address_per_10min = 1000
password_length_min = 1

[limits]
# All clients of a quickstart come from one address.
unauthenticated_per_address_max = 20000
"#,
            see_other_host = self.see_other_host(node, |ports| ports.c2s),
            archive = self.archive,
            storage = self.storage(node),
            federation = self.federation(node),
            upload_dir = Plan::upload_dir(node),
            redis = self.redis(region),
            c2s = ports.c2s,
            c2s_tls = ports.c2s_tls,
            s2s = ports.s2s,
            components = ports.components,
            http = ports.http,
            proxy = ports.proxy,
            upload_key = self.upload_key,
            upload_regions = self.upload_regions(region),
            place = place.unwrap_or_default(),
        );
        for peer in self.nodes.iter().filter(|peer| peer.name != *name) {
            let direct = SocketAddr::from(([127, 0, 0, 1], peer.ports.s2s));
            let line = dialled.get(&(name.clone(), peer.name.clone()));
            let why = match line {
                Some(_) => "# The WAN emulator, on the way to the peer.\n",
                None => "",
            };
            let _ = write!(
                text,
                r#"
[[peers]]
region = "{}"
node = {}
{why}address = "{}"
fingerprint = "{}"
raft_id = {}
voter = {}
"#,
                peer.region,
                peer.index,
                line.unwrap_or(&direct),
                fingerprints.get(&peer.name).map(ToString::to_string).unwrap_or_default(),
                peer.raft_id,
                peer.voter,
            );
        }
        text
    }

    /// What a node's configuration says of it. Where it is a file, the region's nodes share that of the first.
    fn storage(&self, node: &NodePlan) -> String {
        let region = &node.region;
        let url = match self.database(region) {
            Some((Database::Postgres(url) | Database::Mysql(url), _)) => url.expose().to_owned(),
            _ if node.index > 0 => format!("sqlite:{region}-0/pangaea.sqlite"),
            _ => return String::new(),
        };
        format!("[storage]\ndatabase = {}\n\n", toml::Value::String(url))
    }

    /// What a node's configuration says of Redis: each region has keys of its own there.
    fn redis(&self, region: &str) -> String {
        let Some(url) = &self.redis else { return String::new() };
        let url = toml::Value::String(url.clone());
        format!("[redis]\nurl = {url}\nprefix = \"pangaea:{region}\"\n\n")
    }

    /// What it says of other people's servers: they are found where `--dns` says, and are believed if the authority that signed the nodes'
    /// certificates has signed theirs.
    fn federation(&self, node: &NodePlan) -> String {
        let trust =
            "# The authority that signed the certificate of this node too.\ntrust = \"ca.pem\"\n";
        match self.dns {
            Some(dns) => format!(
                "dns = [\"{dns}\"]\n{trust}# Whoever tries it out does not want to wait a minute for somebody who is not there.\n\
                 negotiate_within = \"10s\"\nqueue_for = \"15s\"\n{}",
                self.see_other_host(node, |ports| ports.s2s)
            ),
            None => {
                format!("# Without --dns there are no other servers.\nfederation = false\n{trust}")
            }
        }
    }

    /// Where it sends its clients, or other servers, when it is emptied: the region's other nodes.
    fn see_other_host(&self, node: &NodePlan, port: impl Fn(&Ports) -> u16) -> String {
        let others = self
            .nodes
            .iter()
            .filter(|other| other.region == node.region && other.index != node.index);
        let places: Vec<String> =
            others.map(|other| format!("\"127.0.0.1:{}\"", port(&other.ports))).collect();
        match places.as_slice() {
            [] => String::new(),
            places => format!("see_other_host = [{}]\n", places.join(", ")),
        }
    }

    /// And of uploaded files, which they share too.
    fn upload_dir(node: &NodePlan) -> String {
        if node.index == 0 {
            return String::new();
        }
        format!("dir = \"{}-0/upload\"\n", node.region)
    }

    /// Where the other regions' files are.
    fn upload_regions(&self, own: &str) -> String {
        let mut text = String::new();
        for other in self.nodes.iter().filter(|other| other.region != *own && other.index == 0) {
            let _ = write!(
                text,
                "\n[[upload.regions]]\nregion = \"{}\"\nurl = \"http://127.0.0.1:{}\"\n",
                other.region, other.ports.http
            );
        }
        text
    }
}

/// Where the regions of the examples are.
fn place(region: &str) -> Option<(f64, f64)> {
    Some(match region {
        "eu" => (50.1, 8.7),
        "us" => (39.0, -77.5),
        "ap" => (1.35, 103.8),
        "sa" => (-23.5, -46.6),
        "af" => (-26.2, 28.0),
        "oc" => (-33.9, 151.2),
        _ => return None,
    })
}
