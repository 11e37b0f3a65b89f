//! `pangaea ctl node drain`: a node is emptied before it is stopped. Follows it with a bar and an estimate, on the error output, until no session
//! is left, its deadline has passed, or somebody has taken it back.

use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use clap::Subcommand;

use super::remote::Remote;
use crate::admin::{DrainInfo, NewDrain};
use crate::app::drain::CLOSED_WITHIN;
use crate::http::client::escape;

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(500);
/// How long it is followed when its deadline has passed: until it has ended there, and this has been seen.
const AFTER_DEADLINE: Duration = CLOSED_WITHIN.saturating_add(Duration::from_secs(2));
/// Characters of the bar.
const BAR: u64 = 30;

#[derive(Subcommand)]
pub(super) enum Order {
    /// No new sessions; those it has move to other nodes of the region. Waits until none is left
    Drain {
        /// Which node; the one that is spoken to if not said
        node: Option<String>,
        /// Sessions a second; as configured if not said
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
        /// When those that are left are closed, as in 90s or 10m; ten minutes if not said
        #[arg(long, value_name = "TIME")]
        deadline: Option<String>,
        /// Begin it, and do not wait
        #[arg(long)]
        no_wait: bool,
    },
    /// It takes sessions again
    Undrain {
        /// Which node; the one that is spoken to if not said
        node: Option<String>,
    },
    /// How far is it?
    Show {
        /// Which node; the one that is spoken to if not said
        node: Option<String>,
    },
}

fn path(node: Option<&String>) -> String {
    let query = node.map(|name| format!("?node={}", escape(name))).unwrap_or_default();
    format!("/admin/drain{query}")
}

/// Carries it out; `shows`: with a bar, if somebody sees it.
pub(super) async fn order(remote: &Remote, order: Order, shows: bool) -> miette::Result<DrainInfo> {
    match order {
        Order::Undrain { node } => remote.ask("DELETE", &path(node.as_ref()), None::<()>).await,
        Order::Show { node } => remote.get(&path(node.as_ref())).await,
        Order::Drain { node, rate, deadline, no_wait } => {
            let deadline = deadline.as_deref().map(seconds).transpose()?;
            let path = path(node.as_ref());
            let new = NewDrain { rate, deadline };
            let mut info: DrainInfo = remote.ask("POST", &path, Some(new)).await?;
            let shows = shows && std::io::stderr().is_terminal();
            let mut passed: Option<Instant> = None;
            while !no_wait && goes_on(&info, passed.map(|since| since.elapsed())) {
                if shows {
                    eprint!("\r{} ", bar(&info));
                    let _ = std::io::stderr().flush(); // A bar that is not seen is none.
                }
                tokio::time::sleep(LOOK).await;
                info = remote.get(&path).await?;
                // Not if somebody has given it another one meanwhile.
                passed = passed.or_else(|| Some(Instant::now())).filter(|_| info.deadline == 0);
            }
            if shows {
                eprintln!("\r{} ", bar(&info));
            }
            Ok(info)
        }
    }
}

/// The deadline as it is sent: whole seconds, and never less than what was said.
fn seconds(text: &str) -> miette::Result<u64> {
    let time = config::parse_duration(text).ok_or_else(|| {
        miette::miette!("--deadline: {text:?} is no time, as in \"90s\" or \"10m\"")
    })?;
    Ok(time.as_secs() + u64::from(time.subsec_nanos() > 0))
}

/// Whether there is more to see, when its deadline has passed for so long.
fn goes_on(info: &DrainInfo, passed: Option<Duration>) -> bool {
    info.draining && info.left > 0 && passed.is_none_or(|passed| passed < AFTER_DEADLINE)
}

/// `eu-1 [#########---------------------] 120 of 400 left, 3 s`
fn bar(info: &DrainInfo) -> String {
    let all = info.total.max(info.left).max(1);
    let gone = all - info.left;
    let full = usize::try_from(gone * BAR / all).unwrap_or(0);
    let rest = usize::try_from(BAR).unwrap_or(0) - full;
    let text = format!(
        "{} [{}{}] {} of {all} left",
        info.node,
        "#".repeat(full),
        "-".repeat(rest),
        info.left
    );
    match estimate(info) {
        Some(seconds) if info.left > 0 => format!("{text}, about {seconds} s    "),
        _ => format!("{text}              "),
    }
}

/// Seconds until none is left: at the pace of until now, and never beyond the deadline.
fn estimate(info: &DrainInfo) -> Option<u64> {
    let gone = info.total.checked_sub(info.left).filter(|gone| *gone > 0)?;
    let by_pace = (info.left * info.seconds.max(1)).div_ceil(gone);
    Some(by_pace.min(info.deadline.max(1)))
}

/// For people.
pub(super) fn table(info: &DrainInfo) -> String {
    let state = match (info.draining, info.left, info.deadline) {
        (false, ..) => "serves",
        (true, 0, _) => "is empty",
        (true, _, 0) => "is past its deadline",
        (true, ..) => "is being emptied",
    };
    let mut text = format!("{} {state}: {} sessions\n", info.node, info.left);
    if info.draining {
        text += &format!(
            "{} moved to other nodes, {} ended, of {} when it began {} s ago\n",
            info.moved, info.ended, info.total, info.seconds
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_sooner_than_was_said() {
        let cases = [("0s", 0), ("1ms", 1), ("500ms", 1), ("1500ms", 2), ("90s", 90), ("10m", 600)];
        for (text, expected) in cases {
            assert_eq!(seconds(text).ok(), Some(expected), "{text}");
        }
        assert!(seconds("soon").is_err());
    }

    #[test]
    fn it_is_followed_until_it_has_ended_or_its_deadline_is_well_past() {
        let info =
            DrainInfo { node: "eu-1".to_owned(), draining: true, left: 3, ..DrainInfo::default() };
        assert!(goes_on(&info, None) && goes_on(&info, Some(CLOSED_WITHIN)));
        assert!(!goes_on(&info, Some(AFTER_DEADLINE)));
        assert!(!goes_on(&DrainInfo { left: 0, ..info.clone() }, None));
        assert!(!goes_on(&DrainInfo { draining: false, ..info.clone() }, None));
        assert!(table(&info).starts_with("eu-1 is past its deadline: 3 sessions\n"));
    }

    #[test]
    fn the_bar_fills_and_the_estimate_keeps_to_the_deadline() {
        let info = |left, seconds, deadline| DrainInfo {
            node: "eu-1".to_owned(),
            draining: true,
            total: 400,
            left,
            seconds,
            deadline,
            ..DrainInfo::default()
        };
        let text = bar(&info(200, 4, 60));
        assert_eq!(
            text.trim_end(),
            "eu-1 [###############---------------] 200 of 400 left, about 4 s"
        );
        assert_eq!(estimate(&info(399, 4, 60)), Some(60));
        assert_eq!(estimate(&info(400, 4, 60)), None);
        let text = bar(&info(0, 9, 0));
        assert_eq!(text.trim_end(), format!("eu-1 [{}] 0 of 400 left", "#".repeat(30)));
        assert!(table(&info(0, 9, 0)).starts_with("eu-1 is empty: 0 sessions\n"));
        // More have come than there were.
        assert!(bar(&info(500, 1, 60)).contains("500 of 500 left"));
    }
}
