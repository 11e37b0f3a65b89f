//! What the node answered, as tables for people. Called by [`super`] where `--json` was not asked for.

use xmpp::payload::date_time;

use crate::admin::*;
use crate::cli::table::columns;

pub(super) fn issued(issued: &IssuedInvitation) -> String {
    let mut lines = vec![("uri", issued.uri.clone())];
    lines.extend(issued.landing_url.clone().map(|url| ("page", url)));
    lines.push(("expires", date_time::format(issued.expires)));
    lines.push(("id", issued.id.clone()));
    pairs(&lines)
}

pub(super) fn invitations(all: &[InvitationInfo]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|one| {
            vec![
                one.id.clone(),
                match (one.register, one.contact) {
                    (true, true) => "account and contact",
                    (true, false) => "account",
                    (false, _) => "contact",
                }
                .to_owned(),
                or_dash(one.username.as_ref()),
                one.uses.to_string(),
                date_time::format(one.expires),
            ]
        })
        .collect();
    columns(&["id", "good for", "name", "uses", "expires"], &rows)
}

pub(super) fn reloaded(done: &Reloaded) -> String {
    let all = |what: &str, keys: &[String]| match keys {
        [] => String::new(),
        keys => format!("{what}: {}\n", keys.join(", ")),
    };
    let mut text = format!("{} certificates read\n", done.certificates);
    text += &all("applied", &done.applied);
    text += &all("needs a restart", &done.needs_restart);
    for why in &done.refused {
        text += &format!("refused: {why}\n");
    }
    if done.applied.is_empty() && done.needs_restart.is_empty() && done.refused.is_empty() {
        text += "the configuration is as it was\n";
    }
    text
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn pairs(rows: &[(&str, String)]) -> String {
    rows.iter()
        .map(|(name, value)| format!("{name:<16} {value}").trim_end().to_owned() + "\n")
        .collect()
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, m) => format!("{m} min {} s", seconds % 60),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

pub(super) fn status(status: &Status) -> String {
    let ready = if status.ready.ready {
        "yes".to_owned()
    } else {
        format!("no: {}", status.ready.reasons.join("; "))
    };
    pairs(&[
        ("node", format!("{} (pangaea {})", status.node, status.version)),
        ("incarnation", status.incarnation.to_string()),
        ("up for", uptime(status.uptime_s)),
        ("domains", status.domains.join(", ")),
        ("ready", ready),
        ("connections", status.connections.to_string()),
        ("sessions", format!("{} here, {} elsewhere", status.sessions, status.sessions_elsewhere)),
        ("parked stanzas", status.parked.to_string()),
        ("metadata leader", or_dash(status.metadata_leader.as_ref())),
    ])
}

pub(super) fn regions(regions: &[RegionInfo]) -> String {
    let rows: Vec<Vec<String>> = regions
        .iter()
        .map(|region| {
            vec![
                region.name.clone(),
                region.state.to_string(),
                yes(region.reachable),
                region.nodes.to_string(),
                region.sessions.to_string(),
                region.homes.to_string(),
                or_dash(region.lag),
            ]
        })
        .collect();
    columns(&["region", "state", "reachable", "nodes", "sessions", "homes", "lag"], &rows)
}

pub(super) fn nodes(nodes: &[NodeInfo]) -> String {
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                node.address.clone(),
                yes(node.connected),
                or_dash(node.incarnation),
                node.raft_id.to_string(),
                yes(node.voter),
                node.fingerprint.chars().take(16).collect(),
            ]
        })
        .collect();
    let head = ["node", "address", "connected", "incarnation", "raft", "votes", "fingerprint"];
    columns(&head, &rows)
}

pub(super) fn metadata(metadata: &MetadataInfo) -> String {
    let mut text = pairs(&[
        ("leader", or_dash(metadata.leader.as_ref())),
        ("term", metadata.term.to_string()),
        ("applied", format!("{} of {}", metadata.applied, metadata.last_log)),
        ("version", metadata.version.to_string()),
        ("voters", metadata.voters.join(", ")),
        ("learners", metadata.learners.join(", ")),
    ]);
    for (domain, kind) in &metadata.domains {
        text += &pairs(&[("domain", format!("{domain} ({kind})"))]);
    }
    text
}

pub(super) fn links(links: &[LinkInfo]) -> String {
    let rows: Vec<Vec<String>> = links
        .iter()
        .map(|link| {
            vec![
                link.peer.clone(),
                if link.up { "up" } else { "down" }.to_owned(),
                link.sent.to_string(),
                link.acked.to_string(),
                link.received.to_string(),
                link.queued_bytes.to_string(),
                or_dash(link.incarnation),
            ]
        })
        .collect();
    columns(&["peer", "is", "sent", "acked", "received", "queued bytes", "incarnation"], &rows)
}

pub(super) fn registry(info: &RegistryInfo) -> String {
    let Some(address) = &info.address else { return "this region has no Redis\n".to_owned() };
    let rows = match info.rows_left {
        None => "all there".to_owned(),
        Some(left) => format!("{left} still to be written"),
    };
    let mut lines = vec![
        ("redis", format!("{address}, keys {{{}}}:", info.prefix)),
        ("answers", yes(info.connected)),
        ("rows", format!("{rows}, {} changes wait", info.rows_queued)),
        ("written, removed", format!("{}, {}", info.rows_written, info.rows_removed)),
        ("commands", format!("{}, {} a second", info.commands, info.commands_per_second)),
        ("last error", or_dash(info.last_error.as_ref())),
    ];
    lines.extend(info.alarms.iter().map(|alarm| ("alarm", alarm.clone())));
    let nodes: Vec<Vec<String>> = info
        .nodes
        .iter()
        .map(|node| {
            vec![
                node.name.clone(),
                yes(node.lives),
                format!("{} s ago", node.seen_ms_ago / 1_000),
                node.address.clone(),
                node.version.clone(),
                node.incarnation.to_string(),
            ]
        })
        .collect();
    let nodes = columns(&["node", "lives", "seen", "address", "version", "incarnation"], &nodes);
    format!("{}\n{nodes}", pairs(&lines))
}

pub(super) fn registry_rows(rows: &[RegistryRow]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let priority = or_dash(row.priority);
            vec![row.jid.clone(), row.node.clone(), row.incarnation.to_string(), priority]
        })
        .collect();
    columns(&["session", "node", "incarnation", "priority"], &rows)
}

pub(super) fn sessions(sessions: &[SessionInfo]) -> String {
    let rows: Vec<Vec<String>> = sessions
        .iter()
        .map(|session| {
            vec![
                session.jid.clone(),
                session.node.clone(),
                or_dash(session.priority),
                if session.hibernating { "waits to be resumed" } else { "connected" }.to_owned(),
            ]
        })
        .collect();
    columns(&["session", "node", "priority", "is"], &rows)
}

pub(super) fn reports(reports: &[ReportInfo]) -> String {
    let rows: Vec<Vec<String>> = reports
        .iter()
        .map(|report| {
            vec![
                report.at.clone(),
                report.by.clone(),
                report.jid.clone(),
                report.reason.clone(),
                report.text.as_deref().unwrap_or("-").replace(char::is_control, " "),
            ]
        })
        .collect();
    columns(&["at", "by", "about", "reason", "text"], &rows)
}

pub(super) fn home(home: &HomeInfo) -> String {
    pairs(&[
        ("account", or_dash(home.account.as_ref())),
        ("shard", home.shard.to_string()),
        ("home", format!("{}{}", home.region, if home.pinned { " (pinned)" } else { "" })),
        ("epoch", home.epoch.to_string()),
        ("replicas", home.replicas.join(", ")),
    ])
}
