//! The commands of `pangaea`, one file each (blueprint §8). [`main`] is the whole program.
//!
//! Exit codes: 0 when it is done, 1 when it failed (the reason is on standard error), 2 when the command line is not
//! understood.

mod bench;
mod check;
mod ctl;
mod databases;
mod drain;
mod log;
mod migrate;
mod quickstart;
mod remote;
mod run;
mod s2s;
mod table;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "pangaea",
    version,
    about = "A geo-distributed XMPP server: one domain, a cluster on every continent",
    after_help = "\
Examples:
  pangaea quickstart                        three regions on this machine, within seconds
  pangaea check --config eu-0.toml          is this configuration right?
  pangaea run --config eu-0.toml            one node, until SIGTERM
  pangaea ctl status                        what the node at $PANGAEA_URL is doing

`pangaea COMMAND --help` says more about each."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a whole platform on this machine: several regions, test accounts, a WAN between them
    Quickstart(quickstart::Args),
    /// Run one node in the foreground, until SIGINT or SIGTERM
    Run(run::Args),
    /// Check a configuration without starting anything
    Check(check::Args),
    /// Make, change, remove, export and import accounts, over the admin API
    User(user::Args),
    /// Look at a running node and steer it, over the admin API
    Ctl(ctl::Args),
    /// Bring the database of a node up to this version
    Migrate(migrate::Args),
    /// Measure this machine with small benchmarks
    Bench(bench::Args),
}

/// Runs the command that the command line names.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Command::Quickstart(args) => quickstart::main(args),
        Command::Run(args) => run::main(args),
        Command::Check(args) => check::main(&args),
        Command::User(args) => user::main(args),
        Command::Ctl(args) => ctl::main(args),
        Command::Migrate(args) => migrate::main(&args),
        Command::Bench(args) => bench::main(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("{report:?}");
            ExitCode::FAILURE
        }
    }
}

/// A runtime for a command that waits more than it works.
fn small_runtime() -> miette::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| miette::miette!("the runtime does not start: {cause}"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_put_together_rightly() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_option_explains_itself() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} says nothing", command.get_name());
            for argument in command.get_arguments() {
                let says = argument.get_help().is_some() || argument.is_hide_set();
                assert!(says, "{} {} says nothing", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn command_lines_are_understood_or_refused() {
        let check = |line: &str, good: bool| {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert_eq!(parsed.is_ok(), good, "{line}: {:?}", parsed.err().map(|e| e.to_string()));
        };
        check("pangaea run --config eu-0.toml", true);
        check("pangaea run", false);
        check("pangaea check --config eu-0.toml", true);
        check("pangaea quickstart", true);
        check("pangaea quickstart --regions eu,us --wan 80ms --port-base 7000 --users 5", true);
        check("pangaea quickstart --regions eu,eu --dir x", true); // Refused by the plan.
        check("pangaea quickstart --wan fast", false);
        check("pangaea quickstart --port-base 70000", false);
        check("pangaea ctl --url http://h:1 --user a@b --password p status", true);
        check("pangaea ctl status --json --user a@b", true);
        check("pangaea ctl region drain us", true);
        check("pangaea ctl region melt us", false);
        check("pangaea ctl home move 17 --to us", true);
        check("pangaea ctl home move a@b --to us", true);
        check("pangaea ctl kick a@b/phone", true);
        check("pangaea user add a@b secret", true);
        check("pangaea user passwd a@b", true);
        check("pangaea user remove a@b", true);
        check("pangaea user export a@b", true);
        check("pangaea user import users.xml --keep-going --host a=b --host c=d", true);
        check("pangaea migrate --config eu-0.toml", true);
        check("pangaea bench jid", true);
        check("pangaea bench frame --seconds 1", true);
        check("pangaea bench chat --pairs 2 --to 127.0.0.1:6222", true);
        check("pangaea", false);
    }
}
