//! `pangaea bench`: small figures of this machine, to compare versions and machines by.

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  pangaea bench jid
  pangaea bench frame --seconds 5

The figures are of one core and of the build that runs: use a release build.")]
pub(super) struct Args {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// For how long
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// Parsing addresses: nanoseconds a JID
    Jid,
    /// Cutting stanzas out of a stream: megabytes a second
    Frame,
}

pub(super) fn main(args: &Args) -> miette::Result<()> {
    let _ = (args.what, args.seconds);
    Err(miette::miette!("not in this build"))
}
