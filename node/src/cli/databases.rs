//! `pangaea ctl storage`: the databases of a region, and accounts moved between them, with a bar and an estimate.

use std::io::{IsTerminal, Write as _};
use std::time::Duration;

use clap::Subcommand;

use super::remote::Remote;
use super::table::columns;
use crate::admin::{MovesInfo, Rebalance, StorageInfo};

/// How often a move is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Characters of the bar.
const BAR: usize = 32;

#[derive(Subcommand)]
pub(super) enum Storage {
    /// The databases, what is in each, and how far a move has come
    Show,
    /// Spread accounts evenly over the databases of storage.partitions, while everything runs
    Rebalance {
        /// Take everything out of this one, by its number; may be said again
        #[arg(long, value_name = "NUMBER")]
        without: Vec<u8>,
        /// Do not wait until it is done
        #[arg(long)]
        detach: bool,
    },
}

/// Does what is asked; the answer is for the one who asked.
pub(super) async fn order(
    remote: &Remote,
    order: Storage,
    json: bool,
) -> miette::Result<StorageInfo> {
    match order {
        Storage::Show => remote.get("/admin/storage").await,
        Storage::Rebalance { without, detach } => {
            let body = Some(Rebalance { without });
            let begun: StorageInfo = remote.ask("POST", "/admin/storage/rebalance", body).await?;
            if detach { Ok(begun) } else { follow(remote, begun, json).await }
        }
    }
}

async fn follow(remote: &Remote, mut info: StorageInfo, json: bool) -> miette::Result<StorageInfo> {
    let shows = !json && std::io::stderr().is_terminal();
    while let Some(moves) = info.moves.as_ref().filter(|moves| moves.running) {
        if shows {
            eprint!("\r{}\x1b[K", bar(moves));
            let _ = std::io::stderr().flush();
        }
        tokio::time::sleep(LOOK).await;
        info = remote.get("/admin/storage").await?;
    }
    if shows {
        eprint!("\r\x1b[K");
    }
    Ok(info)
}

/// What was asked, as people read it.
pub(super) fn show(info: &StorageInfo) -> String {
    let rows: Vec<Vec<String>> = info
        .databases
        .iter()
        .map(|one| {
            vec![
                if one.number == 0 { "main".to_owned() } else { one.number.to_string() },
                one.slots.to_string(),
                one.behind.to_string(),
                one.away.clone().unwrap_or_else(|| "there".to_owned()),
                one.name.clone(),
            ]
        })
        .collect();
    let mut text = columns(&["number", "slots", "behind", "is", "database"], &rows);
    if let Some(moves) = &info.moves {
        if moves.running {
            text += &format!("{}\n", bar(moves));
        } else if moves.moved > 0 {
            text += &format!(
                "{} slots moved, {} rows, {} in {}\n",
                moves.moved,
                moves.rows,
                size(moves.bytes),
                time(moves.seconds)
            );
        }
    }
    text
}

fn bar(moves: &MovesInfo) -> String {
    let all = moves.moved + moves.left;
    let full = (BAR * moves.moved).checked_div(all).unwrap_or(BAR);
    let mut text = format!(
        "[{}{}] {} of {all} slots, {}",
        "#".repeat(full),
        "-".repeat(BAR - full),
        moves.moved,
        size(moves.bytes)
    );
    if let Some(trouble) = &moves.trouble {
        text += &format!(", waits: {trouble}");
    } else if moves.cleaning {
        text += ", old rows are being removed";
    } else if let Some(each) = moves.seconds.checked_div(moves.moved as u64) {
        text += &format!(", about {} left", time(each * moves.left as u64));
    }
    text
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_shown_with_a_bar_and_an_estimate() {
        let moves = MovesInfo {
            running: true,
            moved: 64,
            left: 192,
            bytes: 5 << 20,
            seconds: 128,
            ..MovesInfo::default()
        };
        let expected =
            "[########------------------------] 64 of 256 slots, 5120 KiB, about 6 min left";
        assert_eq!(bar(&moves), expected);
        let waits = MovesInfo { trouble: Some("gone".to_owned()), ..moves.clone() };
        assert!(bar(&waits).ends_with("waits: gone"));
        assert!(bar(&MovesInfo::default()).starts_with("[####"));
        let info = StorageInfo { databases: Vec::new(), moves: Some(moves) };
        assert!(show(&info).contains(expected));
    }
}
