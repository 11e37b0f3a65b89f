//! `pangaea ctl`: a running node on the terminal, over the admin API. Tables for people (`tables`), `--json` for scripts.

mod tables;

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::databases;
use super::remote::{Remote, Target};
use crate::admin::*;
use crate::http::client::escape;
use tables::*;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  export PANGAEA_URL=http://127.0.0.1:5280
  export PANGAEA_USER=admin@pangaea.localhost PANGAEA_PASSWORD=wonderland
  pangaea ctl status
  pangaea ctl links --json
  pangaea ctl region drain us
  pangaea ctl node drain eu-1 --rate 100
  pangaea ctl home move alice@pangaea.localhost --to us
  pangaea ctl storage rebalance
  pangaea ctl s2s check jabber.org
  pangaea ctl invite new --name juliet --of romeo@pangaea.localhost")]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The node on one screen
    Status,
    /// Read certificates and configuration again, as on SIGHUP, and say what changed
    Reload,
    /// Every region: state, sessions, homes, lag
    Regions,
    /// Every node: address, life, vote
    Nodes,
    /// The metadata group: leader, term, voters, domains
    Metadata,
    /// The links of this node to the others
    Links,
    /// The region's registry in Redis: who has registered, what waits, what went wrong; or what it has of one account
    Registry {
        /// Only the sessions of this account that are written there
        account: Option<String>,
    },
    /// Sessions of this region, or of one account in every region
    Sessions {
        /// Only those of this account, wherever they are
        account: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// End a session (full JID), or all of an account in this region (bare JID)
    Kick {
        /// user@domain/resource, or user@domain
        jid: String,
    },
    /// What users reported of others when they blocked them, the newest first
    Reports {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Change the state of a region
    Region {
        /// What shall become of it
        state: RegionOrder,
        /// The region
        name: String,
    },
    /// Empty a node, or let it serve again; forget one that is gone; who votes
    #[command(subcommand)]
    Node(Node),
    /// Where the data of an account is written
    #[command(subcommand)]
    Home(Home),
    /// The databases of the region, and accounts moved between them
    #[command(subcommand)]
    Storage(databases::Storage),
    /// Streams to and from other people's servers
    #[command(subcommand)]
    S2s(super::s2s::Order),
    /// Invitations: URIs that make accounts, or contacts
    #[command(subcommand)]
    Invite(Invite),
}

#[derive(Subcommand)]
enum Node {
    #[command(flatten)]
    Drain(super::drain::Order),
    /// Forget one that is gone for good: it was stopped, and does not count as alive any more
    Remove {
        /// Which node; a node of the same region is to be spoken to
        node: String,
    },
    /// Give a node a vote in the metadata group
    Vote {
        /// Which node
        node: String,
        /// Take its vote
        #[arg(long)]
        none: bool,
    },
}

#[derive(Subcommand)]
enum Invite {
    /// Make one, and print its URI
    New {
        /// The name the new account is to have; kept for it until the invitation expires
        #[arg(long)]
        name: Option<String>,
        /// In the name of an account (user@domain), which gets the new one as a contact
        #[arg(long, value_name = "ACCOUNT")]
        of: Option<String>,
        /// For a contact of --of alone, not for an account
        #[arg(long, requires = "of", conflicts_with = "name")]
        contact_only: bool,
        /// How often it may be used
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        uses: u32,
        /// How long it is good, as in 12h or 7d; as configured if not said
        #[arg(long, value_name = "TIME")]
        expire: Option<String>,
    },
    /// Those that are still good
    List {
        /// Of this account; if not said, those made without --of
        account: Option<String>,
    },
    /// End one before its time
    Revoke {
        /// As `list` shows it
        id: String,
        /// Of this account; if not said, one made without --of
        #[arg(long, value_name = "ACCOUNT")]
        of: Option<String>,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum RegionOrder {
    /// It serves
    Up,
    /// It does not serve: its homes move elsewhere
    Down,
    /// It takes no new users and hands its own over
    Drain,
}

#[derive(Subcommand)]
enum Home {
    /// Which region is the home of an account
    Show {
        /// user@domain
        account: String,
    },
    /// Move a home to another region
    Move {
        /// An account (which is then pinned there), or the number of a shard, 0 to 255
        what: String,
        /// The region it shall move to
        #[arg(long, value_name = "REGION")]
        to: String,
    },
}

pub(super) fn main(args: Args) -> miette::Result<()> {
    let remote = args.target.remote()?;
    let text = super::small_runtime()?.block_on(order(&remote, args.command, args.json))?;
    print!("{text}");
    Ok(())
}

async fn order(remote: &Remote, command: Command, json: bool) -> miette::Result<String> {
    match command {
        Command::Status => show(remote.get("/admin/status").await?, json, status),
        Command::Reload => {
            let done: Reloaded = remote.ask("POST", "/admin/reload", None::<()>).await?;
            show(done, json, reloaded)
        }
        Command::Regions => {
            show(remote.get("/admin/regions").await?, json, |r: &Vec<RegionInfo>| regions(r))
        }
        Command::Nodes => {
            show(remote.get("/admin/nodes").await?, json, |n: &Vec<NodeInfo>| nodes(n))
        }
        Command::Metadata => show(remote.get("/admin/metadata").await?, json, metadata),
        Command::Links => {
            show(remote.get("/admin/links").await?, json, |l: &Vec<LinkInfo>| links(l))
        }
        Command::Registry { account: None } => {
            show(remote.get("/admin/registry").await?, json, registry)
        }
        Command::Registry { account: Some(account) } => {
            let path = format!("/admin/registry/{}", escape(&account));
            show(remote.get(&path).await?, json, |r: &Vec<RegistryRow>| registry_rows(r))
        }
        Command::Sessions { account, limit } => {
            let account = account.map(|a| format!("&account={}", escape(&a))).unwrap_or_default();
            let path = format!("/admin/sessions?limit={limit}{account}");
            show(remote.get(&path).await?, json, |s: &Vec<SessionInfo>| sessions(s))
        }
        Command::Kick { jid } => {
            let path = format!("/admin/sessions?jid={}", escape(&jid));
            let kicked: Kicked = remote.ask("DELETE", &path, None::<()>).await?;
            show(kicked, json, |kicked| format!("{} sessions ended\n", kicked.sessions))
        }
        Command::Reports { limit } => {
            let path = format!("/admin/reports?limit={limit}");
            show(remote.get(&path).await?, json, |r: &Vec<ReportInfo>| reports(r))
        }
        Command::Region { state, name } => {
            let state = match state {
                RegionOrder::Up => RegionState::Up,
                RegionOrder::Down => RegionState::Down,
                RegionOrder::Drain => RegionState::Draining,
            };
            let path = format!("/admin/regions/{}/state", escape(&name));
            let done: () = remote.ask("PUT", &path, Some(NewRegionState { state })).await?;
            show(done, json, |()| format!("{name} is {state}\n"))
        }
        Command::Node(Node::Remove { node }) => {
            let path = format!("/admin/nodes/{}", escape(&node));
            let done: () = remote.ask("DELETE", &path, None::<()>).await?;
            show(done, json, |()| format!("{node} is forgotten\n"))
        }
        Command::Node(Node::Vote { node, none }) => {
            let path = format!("/admin/nodes/{}/vote", escape(&node));
            let done: () = remote.ask("PUT", &path, Some(NewVote { votes: !none })).await?;
            let verb = if none { "does not vote" } else { "votes" };
            show(done, json, |()| format!("{node} {verb}\n"))
        }
        Command::Node(Node::Drain(order)) => {
            let done = super::drain::order(remote, order, !json).await?;
            show(done, json, super::drain::table)
        }
        Command::Home(Home::Show { account }) => {
            let path = format!("/admin/homes/{}", escape(&account));
            show(remote.get(&path).await?, json, home)
        }
        Command::Home(Home::Move { what, to }) => {
            let what = match what.parse() {
                Ok(shard) => HomeTarget::Shard(shard),
                Err(_) => HomeTarget::Account(what),
            };
            let body = Some(MoveHome { what, to });
            show(remote.ask("POST", "/admin/homes/move", body).await?, json, home)
        }
        Command::Storage(order) => {
            show(databases::order(remote, order, json).await?, json, databases::show)
        }
        Command::S2s(order) => {
            show(super::s2s::order(remote, order).await?, json, super::s2s::table)
        }
        Command::Invite(order) => invite(remote, order, json).await,
    }
}

async fn invite(remote: &Remote, order: Invite, json: bool) -> miette::Result<String> {
    let of_query = |of: &Option<String>| {
        of.as_ref().map(|of| format!("?of={}", escape(of))).unwrap_or_default()
    };
    match order {
        Invite::New { name, of, contact_only, uses, expire } => {
            let expire = expire.as_deref().map(|text| {
                config::parse_duration(text).ok_or_else(|| {
                    miette::miette!("--expire: {text:?} is no time, as in \"12h\" or \"7d\"")
                })
            });
            let new = NewInvitation {
                contact: of.is_some(),
                of,
                username: name,
                register: !contact_only,
                uses: Some(uses),
                seconds: expire.transpose()?.map(|time| time.as_secs()),
            };
            show(remote.ask("POST", "/admin/invitations", Some(new)).await?, json, issued)
        }
        Invite::List { account } => {
            let path = format!("/admin/invitations{}", of_query(&account));
            show(remote.get(&path).await?, json, |all: &Vec<InvitationInfo>| invitations(all))
        }
        Invite::Revoke { id, of } => {
            let path = format!("/admin/invitations/{}{}", escape(&id), of_query(&of));
            let done: () = remote.ask("DELETE", &path, None::<()>).await?;
            show(done, json, |()| format!("{id} is revoked\n"))
        }
    }
}

fn show<T: Serialize>(
    value: T,
    json: bool,
    table: impl FnOnce(&T) -> String,
) -> miette::Result<String> {
    if !json {
        return Ok(table(&value));
    }
    serde_json::to_string_pretty(&value)
        .map(|text| text + "\n")
        .map_err(|cause| miette::miette!("{cause}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::admin::tests::port;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    async fn ctl(url: &str, line: &str) -> miette::Result<String> {
        let as_admin =
            ["ctl", "--url", url, "--user", "admin@chat.example", "--password", "wonderland"];
        let line = Line::parse_from(as_admin.into_iter().chain(line.split(' ')));
        let remote = line.args.target.remote()?;
        order(&remote, line.args.command, line.args.json).await
    }

    #[tokio::test]
    async fn every_subcommand_speaks_to_the_node_and_reads_well() {
        let port = port().await;
        let check = async |line: &str, order: &str, says: &str| {
            let text = ctl(&port.url, line).await.unwrap();
            assert_eq!(port.operator.orders.lock().last().map(String::as_str), Some(order));
            assert!(text.contains(says), "{line} should say {says:?}:\n{text}");
        };
        check("status", "status", "sessions         7 here, 0 elsewhere\n").await;
        check("status --json", "status", "\"sessions\": 7,").await;
        check("regions", "regions", "us      draining  yes        1      3         128    0\n")
            .await;
        check("nodes", "nodes", "node  address").await;
        check("metadata", "metadata", "leader           -\n").await;
        check("links", "links", "peer  is").await;
        check("registry", "registry", "eu-1  yes").await;
        check("registry alice@chat.example", "registry of alice@chat.example", "session").await;
        check("sessions", "sessions None 100", "session  node").await;
        check("sessions a@b --limit 3", r#"sessions Some("a@b") 3"#, "session").await;
        check("reload", "reload", "needs a restart: http.listen").await;
        check("kick a@b/phone", "kick a@b/phone", "2 sessions ended").await;
        check("reports --limit 7", "reports 7", "alice@chat.example  mallory@example.net").await;
        let check_of = "s2s check b.lab from None";
        check("s2s check b.lab", check_of, "bad  DNS     DNS knows no domain\n").await;
        let from = "s2s check b.lab from Some(\"eu.lab\")";
        check("s2s check b.lab --from eu.lab --json", from, "\"works\": false").await;
        check("region drain us", "region us draining", "us is draining").await;
        check("home show a@b", "home of a@b", "home             eu\n").await;
        check("home move 17 --to us", "move Shard(17) to us", "epoch").await;
        check("invite list", "invitations of None", "k1  account   juliet  1").await;
        check("invite list a@b", "invitations of Some(\"a@b\")", "1970-01-01T00:00:00.000Z").await;
        check("invite revoke k1 --of a@b", "revoke k1 of Some(\"a@b\")", "k1 is revoked\n").await;
        let new = |of: &str, register, contact, uses, seconds: &str| {
            format!(
                "invite NewInvitation {{ of: {of}, username: None, register: {register}, contact: {contact}, \
                 uses: Some({uses}), seconds: {seconds} }}"
            )
        };
        let uri = "uri              xmpp:chat.example?register;preauth=t\n";
        check("invite new", &new("None", true, false, 1, "None"), uri).await;
        let page = "page             https://chat.example/invite/t\n";
        let line = "invite new --of a@b --contact-only --uses 3 --expire 1d";
        check(line, &new("Some(\"a@b\")", false, true, 3, "Some(86400)"), page).await;
        check("home move a@b --to us", r#"move Account("a@b") to us"#, "epoch").await;
    }

    #[tokio::test]
    async fn a_refusal_is_told_in_the_words_of_the_node() {
        let port = port().await;
        let error = ctl(&port.url, "region up mars").await.unwrap_err();
        assert_eq!(error.to_string(), "refused: there is no region mars");
        let error = ctl("127.0.0.1:1", "status").await.unwrap_err();
        assert!(error.to_string().starts_with("cannot connect to 127.0.0.1:1"), "{error}");
    }
}
