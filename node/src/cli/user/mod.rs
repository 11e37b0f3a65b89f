//! `pangaea user`: accounts, over the admin API. Export and import (XEP-0227) are in `carry`.

mod carry;

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Subcommand;

use super::remote::{Remote, Target};
use crate::admin::{NewPassword, NewUser};
use crate::http::client::escape;
use crate::pie::{Hosts, Reader};

/// Accounts asked for at once.
const PAGE: usize = 1_000;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  export PANGAEA_USER=admin@pangaea.localhost PANGAEA_PASSWORD=wonderland
  pangaea user add romeo@pangaea.localhost < password.txt
  pangaea user passwd romeo@pangaea.localhost 'but soft'
  pangaea user list
  (umask 077; pangaea user export > users.xml)
  (umask 077; pangaea user export chat.example > domain.xml)
  pangaea user import users.xml
  pangaea user import --keep-going --host old.example=chat.example --aside rest.xml prosody.xml
  pangaea user import --only romeo@chat.example users.xml
  pangaea user remove romeo@pangaea.localhost

An export is a document of XEP-0227: credentials, roster, requests, vCard, private data, privacy lists, offline messages and archive
of each account.
It holds what signs in as anybody in it: keep it safe.")]
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
    /// Set the password of an account; its tokens end with the old one, and its sessions (clients.password_ends_sessions)
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
    /// Write accounts to standard output, as XML (XEP-0227)
    Export {
        /// Those to export, or domains for all of theirs; by default all
        accounts: Vec<String>,
    },
    /// Make accounts from an export, of this server, Prosody, ejabberd or another (XEP-0227)
    ///
    /// An account that is there already is refused. What this server does not keep (PEP) is passed over, and counted on
    /// standard error; --aside keeps it. An import that failed may be repeated.
    Import {
        /// The document, or - for standard input
        file: PathBuf,
        /// Go on when an account is refused, for example because it is there already
        #[arg(long)]
        keep_going: bool,
        /// A host of the document and the domain it is here; may be given several times
        #[arg(long, value_name = "OLD=NEW")]
        host: Vec<String>,
        /// This account only, as it is called here; may be given several times
        #[arg(long, value_name = "ACCOUNT")]
        only: Vec<String>,
        /// A new file for what this server does not keep, as XEP-0227 again
        #[arg(long, value_name = "FILE")]
        aside: Option<PathBuf>,
    },
}

pub(super) fn main(args: Args) -> miette::Result<()> {
    let remote = args.target.remote()?;
    let (mut out, mut err) = (std::io::stdout().lock(), std::io::stderr());
    super::small_runtime()?.block_on(order(&remote, args.command, &mut out, &mut err))
}

async fn order(
    remote: &Remote,
    command: Command,
    out: &mut impl Write,
    err: &mut impl Write,
) -> miette::Result<()> {
    let mut say = |text: String| writeln!(out, "{text}").map_err(unwritten);
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
        Command::List => {
            let mut pages = Pages::default();
            while let Some(page) = pages.next(remote).await? {
                page.into_iter().try_for_each(&mut say)?;
            }
            Ok(())
        }
        Command::Export { accounts } => carry::export(remote, accounts, out, err).await,
        Command::Import { file, keep_going, host, only, aside } => {
            let hosts = Hosts::parse(&host).map_err(|cause| miette::miette!("--host: {cause}"))?;
            let document = Reader::open(&file, hosts)
                .map_err(|cause| miette::miette!("cannot read {}: {cause}", file.display()))?;
            let how = carry::How { keep_going, only, aside };
            carry::import(remote, document, how, out, err).await
        }
    }
}

fn unwritten(cause: std::io::Error) -> miette::Report {
    miette::miette!("standard output: {cause}")
}

/// All accounts, page by page.
#[derive(Default)]
struct Pages {
    last: Option<String>,
}

impl Pages {
    /// The next page; `None` after the last.
    async fn next(&mut self, remote: &Remote) -> miette::Result<Option<Vec<String>>> {
        let after = self.last.as_deref().map(|last| format!("&after={}", escape(last)));
        let path = format!("/admin/users?limit={PAGE}{}", after.unwrap_or_default());
        let page: Vec<String> = remote.get(&path).await?;
        let Some(last) = page.last() else { return Ok(None) };
        self.last = Some(last.clone());
        Ok(Some(page))
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

    /// What it wrote to standard output, and to standard error.
    async fn both(url: &str, words: &[&str]) -> (miette::Result<String>, String) {
        let as_admin =
            ["user", "--url", url, "--user", "admin@chat.example", "--password", "wonderland"];
        let line = Line::parse_from(as_admin.iter().chain(words));
        let remote = line.args.target.remote().unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let done = order(&remote, line.args.command, &mut out, &mut err).await;
        (done.map(|()| String::from_utf8(out).unwrap()), String::from_utf8(err).unwrap())
    }

    async fn user(url: &str, words: &[&str]) -> miette::Result<String> {
        both(url, words).await.0
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
        let error = user(&port.url, &["add", "alice@c", "p"]).await.unwrap_err();
        assert_eq!(error.to_string(), "refused: alice is there already");
    }

    fn file(dir: &tempfile::TempDir, text: &str) -> String {
        let file = dir.path().join("users.xml");
        std::fs::write(&file, text).unwrap();
        file.display().to_string()
    }

    #[tokio::test]
    async fn what_was_exported_can_be_imported() {
        let (port, dir) = (port().await, tempfile::tempdir().unwrap());
        let exported = user(&port.url, &["export"]).await.unwrap();
        assert_eq!(exported.matches("<user name=").count(), 2, "{exported}");
        let file = file(&dir, &exported);
        let said = user(&port.url, &["import", &file]).await.unwrap();
        assert_eq!(said, "2 accounts made, 0 refused\n");
        assert_eq!(port.operator.orders.lock().last().unwrap(), "import bob@chat.example");
        assert_eq!(user(&port.url, &["export"]).await.unwrap(), exported);
        let error = user(&port.url, &["import", &file]).await.unwrap_err();
        let expected = "users.xml, line 4: alice@chat.example: refused: it is there already";
        assert!(error.to_string().ends_with(expected), "{error}");
        let (said, err) = both(&port.url, &["import", "--keep-going", &file]).await;
        assert_eq!(said.unwrap(), "0 accounts made, 2 refused\n");
        assert_eq!(err.lines().count(), 2, "{err}");
    }

    #[tokio::test]
    async fn messages_that_did_not_fit_into_one_answer_are_asked_for() {
        let port = port().await;
        let bob = crate::admin::UserExport {
            account: "bob@chat.example".to_owned(),
            offline: vec!["<message id='1'/>".to_owned()],
            more: Some(2),
            ..Default::default()
        };
        port.operator.users.lock().insert(bob.account.clone(), bob);
        let text = user(&port.url, &["export", "bob@chat.example"]).await.unwrap();
        let messages =
            "<message xmlns='jabber:client' id='1'/>\n<message xmlns='jabber:client' id='2'/>\n";
        let expected =
            format!("<offline-messages>\n{messages}</offline-messages>\n</user>\n</host>\n");
        assert!(text.contains(&expected), "{text}");
    }

    fn archived(n: u64) -> crate::admin::Archived {
        let message =
            format!("<message from='a@b' to='bob@chat.example'><body>{n}</body></message>");
        crate::admin::Archived { id: format!("{n:024x}"), at: n * 1_000, message }
    }

    #[tokio::test]
    async fn an_archive_goes_out_and_in_in_parts() {
        let (port, dir) = (port().await, tempfile::tempdir().unwrap());
        let archive: Vec<_> = (1..6).map(archived).collect();
        port.operator.archives.lock().insert("bob@chat.example".to_owned(), archive.clone());
        let text = user(&port.url, &["export", "bob@chat.example"]).await.unwrap();
        assert_eq!(text.matches("<result xmlns='urn:xmpp:mam:2' id='").count(), 5, "{text}");
        let file = file(&dir, &text);
        port.operator.archives.lock().clear();
        assert_eq!(
            user(&port.url, &["import", &file]).await.unwrap(),
            "1 accounts made, 0 refused\n"
        );
        assert_eq!(port.operator.archives.lock()["bob@chat.example"], archive);
        let last = port.operator.orders.lock().last().cloned().unwrap();
        assert_eq!(last, "archived bob@chat.example 0 true");
    }

    #[tokio::test]
    async fn a_domain_leaves_and_one_account_comes() {
        let (port, dir) = (port().await, tempfile::tempdir().unwrap());
        let users = async |words: &[&str]| {
            user(&port.url, words).await.unwrap().matches("<user name=").count()
        };
        assert_eq!(users(&["export", "Chat.example"]).await, 2);
        assert_eq!(users(&["export", "other.example"]).await, 0);
        assert_eq!(users(&["export", "other.example", "a@other.example"]).await, 1);
        let file = file(&dir, &user(&port.url, &["export"]).await.unwrap());
        let said = user(&port.url, &["import", "--only", "bob@chat.example", &file]).await.unwrap();
        assert_eq!(said, "1 accounts made, 0 refused\n");
        let made: Vec<String> = port.operator.users.lock().keys().cloned().collect();
        assert_eq!(made, ["bob@chat.example"]);
    }

    #[tokio::test]
    async fn what_is_not_kept_here_is_put_aside() {
        let (port, dir) = (port().await, tempfile::tempdir().unwrap());
        let text = "<server-data xmlns='urn:xmpp:pie:0'><host jid='chat.example'><user name='a' password='p'><pubsub xmlns='p'><x/></pubsub></user>\
            <user name='b' password='p'/></host></server-data>";
        let (file, rest) = (file(&dir, text), dir.path().join("rest.xml").display().to_string());
        let (said, err) = both(&port.url, &["import", "--aside", &rest, &file]).await;
        assert_eq!(said.unwrap(), "2 accounts made, 0 refused\n");
        assert!(err.contains("what 1 accounts had besides"), "{err}");
        let kept = std::fs::read_to_string(&rest).unwrap();
        assert!(
            kept.contains("<user name='a'>\n<pubsub xmlns='p'><x/></pubsub>\n</user>"),
            "{kept}"
        );
        let error = user(&port.url, &["import", "--aside", &rest, &file]).await.unwrap_err();
        assert!(error.to_string().contains("rest.xml"), "nothing is overwritten: {error}");
    }

    #[tokio::test]
    async fn an_import_says_what_it_passed_over_and_who_lacks_credentials() {
        let (port, dir) = (port().await, tempfile::tempdir().unwrap());
        let scram = "<scram-credentials xmlns='urn:xmpp:pie:0#scram' mechanism='SCRAM-SHA-1'>\
            <iter-count>4096</iter-count><salt>c2FsdA==</salt>\
            <server-key>D+CSWLOshSulAsxiupA+qs2/fTE=</server-key>\
            <stored-key>6dlGYMOdZcOPutkcNY8U2g7vK9Y=</stored-key></scram-credentials>";
        let users = format!(
            "<user name='a' password='p'><pubsub xmlns='p'/></user>\n\
             <user name='b'>{scram}<pubsub xmlns='p'/></user>\n<user/>"
        );
        let text = format!(
            "<server-data xmlns='urn:xmpp:pie:0'><host jid='old'>\n{users}</host></server-data>"
        );
        let file = file(&dir, &text);
        let words = ["import", "--keep-going", "--host", "old=chat.example", &file];
        let (said, err) = both(&port.url, &words).await;
        assert_eq!(said.unwrap(), "2 accounts made, 1 refused\n");
        assert!(port.operator.users.lock().contains_key("b@chat.example"));
        for expected in [
            "users.xml, line 4: \"\" is no name of a user\n",
            "passed over: 2 × <pubsub xmlns='p'/>\n",
            "--aside FILE",
            "b@chat.example: SCRAM-SHA-1 only",
        ] {
            assert!(err.contains(expected), "{expected} in {err}");
        }
        let error = user(&port.url, &["import", "--host", "old", &file]).await.unwrap_err();
        assert_eq!(error.to_string(), "--host: \"old\" is not OLD=NEW");
    }
}
