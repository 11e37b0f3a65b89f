//! `pangaea user`: accounts, over the admin API. An export is JSON lines, one account a line, as it is stored.
//!
//! Deliberately absent: the format of XEP-0227.

use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;

use clap::Subcommand;

use super::remote::{Remote, Target};
use crate::admin::{NewPassword, NewUser, UserExport};
use crate::http::client::escape;

/// Accounts asked for at once.
const PAGE: usize = 1_000;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  export PANGAEA_USER=admin@pangaea.localhost PANGAEA_PASSWORD=wonderland
  pangaea user add romeo@pangaea.localhost < password.txt
  pangaea user passwd romeo@pangaea.localhost 'but soft'
  pangaea user list
  pangaea user export > users.jsonl
  pangaea user import users.jsonl
  pangaea user remove romeo@pangaea.localhost

An export holds credentials: keep it safe.")]
pub(super) struct Args {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an account
    Add {
        /// user@domain
        account: String,
        /// Its password; by default the first line of standard input
        new_password: Option<String>,
    },
    /// Set the password of an account, and end its sessions
    Passwd {
        /// user@domain
        account: String,
        /// The new password; by default the first line of standard input
        new_password: Option<String>,
    },
    /// Remove an account with all its data
    Remove {
        /// user@domain
        account: String,
    },
    /// List the accounts, one a line
    List,
    /// Write accounts to standard output, JSON lines
    Export {
        /// Those to export; by default all
        accounts: Vec<String>,
    },
    /// Make accounts from an export
    Import {
        /// The export, or - for standard input
        file: PathBuf,
        /// Go on when an account is refused, for example because it is there already
        #[arg(long)]
        keep_going: bool,
    },
}

pub(super) fn main(args: Args) -> miette::Result<()> {
    let remote = args.target.remote()?;
    let mut out = std::io::stdout().lock();
    super::small_runtime()?.block_on(order(&remote, args.command, &mut out))
}

async fn order(remote: &Remote, command: Command, out: &mut impl Write) -> miette::Result<()> {
    let mut say = |text: String| {
        writeln!(out, "{text}").map_err(|cause| miette::miette!("standard output: {cause}"))
    };
    match command {
        Command::Add { account, new_password } => {
            let password = password(new_password)?;
            let body = NewUser { account: account.clone(), password };
            let () = remote.ask("POST", "/admin/users", Some(body)).await?;
            say(format!("{account} is there"))
        }
        Command::Passwd { account, new_password } => {
            let body = NewPassword { password: password(new_password)? };
            let path = format!("/admin/users/{}/password", escape(&account));
            let () = remote.ask("PUT", &path, Some(body)).await?;
            say(format!("{account} has a new password"))
        }
        Command::Remove { account } => {
            let path = format!("/admin/users/{}", escape(&account));
            let () = remote.ask("DELETE", &path, None::<()>).await?;
            say(format!("{account} is gone"))
        }
        Command::List => all(remote).await?.into_iter().try_for_each(say),
        Command::Export { accounts } => {
            let accounts = if accounts.is_empty() { all(remote).await? } else { accounts };
            for account in accounts {
                let path = format!("/admin/users/{}/export", escape(&account));
                let export: UserExport = remote.get(&path).await?;
                say(serde_json::to_string(&export).expect("our own values are JSON"))?;
            }
            Ok(())
        }
        Command::Import { file, keep_going } => {
            let (mut made, mut refused) = (0, 0);
            for (number, line) in lines(&file)?.enumerate() {
                let user = read_line(number + 1, line)?;
                let account = user.account.clone();
                match remote.ask::<()>("POST", "/admin/users/import", Some(user)).await {
                    Ok(()) => made += 1,
                    Err(error) if keep_going => {
                        refused += 1;
                        eprintln!("{account}: {error}");
                    }
                    Err(error) => return Err(error.wrap_err(format!("{account}, after {made}"))),
                }
            }
            say(format!("{made} accounts made, {refused} refused"))
        }
    }
}

/// Every account, page by page.
async fn all(remote: &Remote) -> miette::Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let after = all.last().map(|last| format!("&after={}", escape(last))).unwrap_or_default();
        let page: Vec<String> = remote.get(&format!("/admin/users?limit={PAGE}{after}")).await?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn password(given: Option<String>) -> miette::Result<String> {
    if let Some(password) = given {
        return Ok(password);
    }
    if std::io::stdin().is_terminal() {
        eprint!("password (it will be seen): ");
    }
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|cause| miette::miette!("standard input: {cause}"))?;
    match line.trim_end_matches(['\r', '\n']) {
        "" => Err(miette::miette!("no password: give one, or write it to standard input")),
        password => Ok(password.to_owned()),
    }
}

fn lines(
    file: &std::path::Path,
) -> miette::Result<impl Iterator<Item = std::io::Result<String>> + use<>> {
    let reader: Box<dyn BufRead> = if file.as_os_str() == "-" {
        Box::new(BufReader::new(std::io::stdin()))
    } else {
        let opened = std::fs::File::open(file)
            .map_err(|cause| miette::miette!("cannot read {}: {cause}", file.display()))?;
        Box::new(BufReader::new(opened))
    };
    Ok(reader.lines().filter(|line| line.as_ref().map_or(true, |line| !line.trim().is_empty())))
}

fn read_line(number: usize, line: std::io::Result<String>) -> miette::Result<UserExport> {
    let line = line.map_err(|cause| miette::miette!("line {number}: {cause}"))?;
    if line.trim_start().starts_with('<') {
        return Err(miette::miette!(
            "this is XML: only the JSON lines of `pangaea user export` are understood yet"
        ));
    }
    serde_json::from_str(&line).map_err(|cause| {
        miette::miette!("line {number}: no account as `user export` writes it: {cause}")
    })
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

    async fn user(url: &str, words: &[&str]) -> miette::Result<String> {
        let as_admin =
            ["user", "--url", url, "--user", "admin@chat.example", "--password", "wonderland"];
        let line = Line::parse_from(as_admin.iter().chain(words));
        let remote = line.args.target.remote()?;
        let mut out = Vec::new();
        order(&remote, line.args.command, &mut out).await?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn every_subcommand_speaks_to_the_node() {
        let port = port().await;
        let check = async |words: &[&str], order: &str, says: &str| {
            let text = user(&port.url, words).await.unwrap();
            assert_eq!(port.operator.orders.lock().last().map(String::as_str), Some(order));
            assert_eq!(text, says);
        };
        check(&["add", "romeo@c", "soft"], "add romeo@c soft", "romeo@c is there\n").await;
        check(&["passwd", "romeo@c", "x"], "passwd romeo@c x", "romeo@c has a new password\n")
            .await;
        check(&["remove", "romeo@c"], "remove romeo@c", "romeo@c is gone\n").await;
        let both = "alice@chat.example\nbob@chat.example\n";
        check(&["list"], r#"users Some("bob@chat.example")"#, both).await;
        let one = "{\"account\":\"bob@c\",\"rows\":[]}\n";
        check(&["export", "bob@c"], "export bob@c", one).await;
        let error = user(&port.url, &["add", "alice@c", "p"]).await.unwrap_err();
        assert_eq!(error.to_string(), "refused: alice is there already");
    }

    #[tokio::test]
    async fn what_was_exported_can_be_imported() {
        let port = port().await;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users.jsonl");
        let exported = user(&port.url, &["export"]).await.unwrap();
        assert_eq!(exported.lines().count(), 2);
        std::fs::write(&file, exported).unwrap();
        let file = file.display().to_string();
        let said = user(&port.url, &["import", &file]).await.unwrap();
        assert_eq!(said, "2 accounts made, 0 refused\n");
        assert_eq!(port.operator.orders.lock().last().unwrap(), "import bob@chat.example");
        std::fs::write(&file, "<server-data/>").unwrap();
        let error = user(&port.url, &["import", &file]).await.unwrap_err();
        assert!(error.to_string().starts_with("this is XML"), "{error}");
    }
}
