//! `pangaea quickstart`: a whole platform on this machine (blueprint §8).
//!
//! `plan` says what there is (pure), `files` writes certificates and configurations, `genesis` the first accounts,
//! `children` keeps the node processes, `wan` the emulator between them; this file is the order of it all.

mod children;
mod files;
mod genesis;
mod node_file;
mod plan;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::children::Children;
use self::plan::Plan;
use super::table::columns;
use crate::http;
use crate::http::client::Client;
use crate::wan::Wan;
use crate::wan::control;
use crate::wan::line::Settings;

/// How long the nodes may take until all are ready.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often a node is asked.
const READY_EVERY: Duration = Duration::from_millis(20);
/// Connections to the steering port.
const CONTROL_CONNECTIONS_MAX: usize = 100;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pangaea quickstart
  pangaea quickstart --wan 80ms
  pangaea quickstart --regions eu,us --dir two --port-base 7000
  pangaea quickstart --database postgres://me:secret@127.0.0.1/pangaea
  pangaea quickstart --redis redis://127.0.0.1:6379
  pangaea quickstart --domain chat.lab --dns 127.0.0.1:5353 --ca lab.pem
  curl -X PUT http://127.0.0.1:5900/wan/eu/us -d '{\"delay_ms\":80,\"jitter_ms\":10}'
  curl -X POST http://127.0.0.1:5900/nodes/us-0/kill

Node j of region i (both from 0) listens on 127.0.0.1 at port-base + 1000·i + 10·j + 222 (STARTTLS),
223 (TLS), 269 (servers and links), 280 (HTTP); port-base + 900 steers the WAN and the nodes.
Accounts: alice, bob, carol, dave, admin (password wonderland), user0 … user99 (pw0 … pw99).
Ctrl-C stops everything; a second start with the same --dir goes on from what was there.")]
pub(super) struct Args {
    /// The regions, by name, separated by commas
    #[arg(long, default_value = "eu,us,ap", value_delimiter = ',', value_name = "NAMES")]
    pub(super) regions: Vec<String>,
    /// Nodes in each region
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) nodes: u16,
    /// Where everything is kept: configurations, certificates, data, logs
    #[arg(long, default_value = "pangaea-quickstart", value_name = "DIR")]
    pub(super) dir: PathBuf,
    /// The port that all others are counted from
    #[arg(long, default_value_t = 5000, value_name = "PORT")]
    pub(super) port_base: u16,
    /// The domain that every region serves
    #[arg(long, default_value = "pangaea.localhost", value_name = "NAME")]
    pub(super) domain: String,
    /// One-way delay between any two regions, as in 80ms
    #[arg(long, default_value = "0ms", value_parser = delay, value_name = "DELAY")]
    pub(super) wan: Duration,
    /// A Redis in which the nodes register and write down who is connected, as in redis://127.0.0.1:6379: each region has
    /// keys of its own there
    #[arg(long, value_name = "URL")]
    pub(super) redis: Option<String>,
    /// A database server, as in postgres://USER:PASSWORD@HOST:PORT/NAME or mysql://…: each region has a database
    /// NAME_REGION there, made if it is missing
    #[arg(long, value_name = "URL")]
    pub(super) database: Option<String>,
    /// A DNS server in which other people's servers are found, as in 127.0.0.1:5353: without it every foreign domain is
    /// unknown
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) dns: Option<SocketAddr>,
    /// An authority of your own that signs the certificates, and that other servers' may be from: certificate and private
    /// key, PEM, in one file, or the key beside it (FILE with .key, or NAME-key.pem)
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Whether people's messages are archived (XEP-0313)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
    pub(super) archive: bool,
    /// How many accounts user0, user1 … there are
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(super) users: u32,
}

fn delay(written: &str) -> Result<Duration, String> {
    config::parse_duration(written)
        .filter(|delay| *delay <= Duration::from_secs(60))
        .ok_or_else(|| "a delay is a whole number with a unit, as in 80ms, up to 60s".to_owned())
}

pub(super) fn main(args: Args) -> miette::Result<()> {
    let plan = Plan::new(&args)?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|cause| miette::miette!("the runtime does not start: {cause}"))?
        .block_on(run(args, plan))
}

async fn run(args: Args, plan: Plan) -> miette::Result<()> {
    let stop = super::run::stop_signal(false)?;
    plan.refuse_taken_ports()?;
    let control = http::bind(&[SocketAddr::from(([127, 0, 0, 1], plan.control_port()))])
        .await
        .map_err(|cause| miette::miette!("{cause}"))?;
    files::prepare(&args.dir, &plan, args.ca.as_deref())?;
    let accounts = plan.accounts(args.users);
    genesis::make(&args.dir, &plan, &accounts).await?;
    genesis::fill_databases(&args.dir, &plan).await?;

    let wan = Wan::default();
    join_regions(&wan, &plan, args.wan, &args.dir).await?;
    let children = Arc::new(Children::new(&args.dir, &plan)?);
    let (stop_control, control_stopped) = watch::channel(false);
    let router = control::router(wan, children.clone());
    let control =
        tokio::spawn(http::serve(control, router, CONTROL_CONNECTIONS_MAX, control_stopped));

    let done = serve(&args, &plan, &children, stop).await;
    children.stop_all().await;
    let _ = stop_control.send(true);
    control.abort();
    done
}

/// The proxies between the regions, and with their ports every node's configuration.
async fn join_regions(
    wan: &Wan,
    plan: &Plan,
    delay: Duration,
    dir: &std::path::Path,
) -> miette::Result<()> {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    let settings = Settings { delay_ms, ..Settings::default() };
    let mut dialled = plan::Dialled::new();
    for (from, to) in plan.pairs() {
        let target = SocketAddr::from(([127, 0, 0, 1], to.ports.s2s));
        let address = wan.join(&from.name, &to.name, target, settings).await.map_err(|cause| {
            miette::miette!("no port for the line {} {}: {cause}", from.name, to.name)
        })?;
        dialled.insert((from.name.clone(), to.name.clone()), address);
    }
    files::write_configs(dir, plan, &dialled)
}

/// Starts the nodes, says when all are ready, and waits for the signal.
async fn serve(
    args: &Args,
    plan: &Plan,
    children: &Children,
    mut stop: watch::Receiver<bool>,
) -> miette::Result<()> {
    for node in &plan.nodes {
        children.start(&node.name).await?;
    }
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    tokio::select! {
        ready = until_ready(plan, children) => ready?,
        () = &mut stopped => return Ok(()),
    }
    say(&format!("{}\nready\n", endpoints(args, plan)))?;
    children.announce_deaths();
    stopped.await;
    say("stopping\n")
}

fn say(text: &str) -> miette::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // A reader that went away (`| head -1`) is no reason to stop the nodes.
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(miette::miette!("standard output: {cause}"))
        }
        _ => Ok(()),
    }
}

/// Asks every node's `/ready` until all say yes. A node that ends before that ends it all.
async fn until_ready(plan: &Plan, children: &Children) -> miette::Result<()> {
    let deadline = Instant::now() + READY_DEADLINE;
    for node in &plan.nodes {
        let client = Client::new(&format!("127.0.0.1:{}", node.ports.http))
            .map_err(|cause| miette::miette!("{cause}"))?
            .with_deadline(Duration::from_secs(2));
        loop {
            if let Some(dead) = children.dead() {
                return Err(miette::miette!(
                    help = format!("its log is {}", children.log_of(&dead).display()),
                    "{dead} ended while it started:\n{}",
                    children.log_tail(&dead)
                ));
            }
            let missing = match client.ask("GET", "/ready", None).await {
                Ok(reply) if reply.status == 200 => break,
                Ok(reply) => reply.text(),
                Err(cause) => cause.to_string(),
            };
            if Instant::now() > deadline {
                return Err(miette::miette!(
                    help = format!("its log is {}", children.log_of(&node.name).display()),
                    "{} is not ready after {READY_DEADLINE:?}: {missing}",
                    node.name
                ));
            }
            tokio::time::sleep(READY_EVERY).await;
        }
    }
    Ok(())
}

/// What a person needs to know to connect.
fn endpoints(args: &Args, plan: &Plan) -> String {
    let rows: Vec<Vec<String>> = plan
        .nodes
        .iter()
        .map(|node| {
            let at = |port: u16| format!("127.0.0.1:{port}");
            vec![
                node.name.clone(),
                at(node.ports.c2s),
                at(node.ports.c2s_tls),
                at(node.ports.s2s),
                at(node.ports.components),
                format!("http://{}", at(node.ports.http)),
            ]
        })
        .collect();
    let table =
        columns(&["node", "STARTTLS", "TLS", "servers, links", "components", "HTTP"], &rows);
    let regional: Vec<String> =
        plan.regions.iter().map(|region| format!("{region}.{}", plan.domain)).collect();
    let proxies: Vec<String> =
        plan.nodes.iter().map(|node| format!("127.0.0.1:{}", node.ports.proxy)).collect();
    let users = match args.users {
        0 => String::new(),
        1 => ", user0 (pw0)".to_owned(),
        n => format!(", user0 … user{} (pw0 … pw{})", n - 1, n - 1),
    };
    format!(
        "\
{table}
domain      {domain} in every region; {regional}
accounts    alice, bob, carol, dave, admin (wonderland){users}
authority   {dir}/ca.pem
WAN, nodes  http://127.0.0.1:{control}: GET /wan, PUT /wan/{{from}}/{{to}}, POST /nodes/{{node}}/kill, …
upload      upload.{domain}: files under /upload of each HTTP port
bytestreams proxy.{domain}: {proxy}
components  any domain below {domain} that is not taken (XEP-0114): secret wonderland
files       {dir}/NODE.toml, NODE.log, NODE.pid
",
        domain = plan.domain,
        regional = regional.join(", "),
        dir = args.dir.display(),
        control = plan.control_port(),
        proxy = proxies.join(", "),
    )
}
