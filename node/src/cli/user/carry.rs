//! `pangaea user export` and `import`: between the admin API and a document of XEP-0227, a few accounts at a time.
//!
//! Called by `user`; `pie` knows the document. What has to be said beside the result goes to standard error.

use std::io::{self, BufWriter, Write};
use std::pin::pin;

use futures_util::stream::{self, Stream, StreamExt};

use super::{Pages, unwritten};
use crate::admin::{OfflinePage, RefusalKind, UserExport};
use crate::cli::remote::Remote;
use crate::http::client::escape;
use crate::pie::{Reader, Writer};

/// Accounts asked for at the same time; so many answers are in memory.
const AHEAD_MAX: usize = 8;
/// Accounts that are named because they lack credentials; more are only counted.
const NAMED_MAX: usize = 20;

/// Writes accounts, or all of them, as they come. What fails on its way leaves a document without an end.
pub(super) async fn export(
    remote: &Remote,
    accounts: Vec<String>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> miette::Result<()> {
    let mut document = Writer::begin(BufWriter::new(out)).map_err(unwritten)?;
    if accounts.is_empty() {
        let mut pages = Pages::default();
        while let Some(page) = pages.next(remote).await? {
            let mut users = pin!(ahead(remote, page));
            while let Some((account, user)) = users.next().await {
                match user? {
                    Some(user) => one(remote, &account, user, &mut document).await?,
                    None => note(err, &format!("{account}: it was removed meanwhile")),
                }
            }
        }
    } else {
        let mut users = pin!(ahead(remote, accounts));
        while let Some((account, user)) = users.next().await {
            let user = user?.ok_or_else(|| miette::miette!("there is no account {account}"))?;
            one(remote, &account, user, &mut document).await?;
        }
    }
    document.end().map(drop).map_err(unwritten)
}

/// The accounts in their order, some of them asked for before their turn: homes may be far.
fn ahead(
    remote: &Remote,
    accounts: Vec<String>,
) -> impl Stream<Item = (String, miette::Result<Option<UserExport>>)> {
    let ask = async |account: String| {
        let path = format!("/admin/users/{}/export", escape(&account));
        let user = match remote.try_ask("GET", &path, None::<()>).await {
            Ok(Ok(user)) => Ok(Some(user)),
            Ok(Err(refusal)) if refusal.kind == RefusalKind::NotFound => Ok(None),
            Ok(Err(refusal)) => Err(miette::miette!("{account}: refused: {}", refusal.message)),
            Err(error) => Err(error),
        };
        (account, user)
    };
    stream::iter(accounts).map(ask).buffered(AHEAD_MAX)
}

/// Writes one account, with the messages that did not fit into its first answer.
async fn one(
    remote: &Remote,
    account: &str,
    user: UserExport,
    document: &mut Writer<impl Write>,
) -> miette::Result<()> {
    document.user(&user).map_err(unwritten)?;
    let mut more = user.more;
    while let Some(after) = more {
        let path = format!("/admin/users/{}/offline?after={after}", escape(account));
        let page: OfflinePage = remote.get(&path).await?;
        document.messages(&page.offline).map_err(unwritten)?;
        more = page.more;
    }
    document.user_end().map_err(unwritten)
}

/// Makes the accounts of a document.
pub(super) async fn import(
    remote: &Remote,
    mut document: Reader,
    keep_going: bool,
    out: &mut impl Write,
    err: &mut impl Write,
) -> miette::Result<()> {
    let (mut made, mut refused, mut weak) = (0, 0, Vec::new());
    let ended = loop {
        let (at, read) = match document.next_user() {
            Ok(Some(user)) => (user.at, user.read),
            Ok(None) => break Ok(()),
            Err(wrong) => break Err(miette::miette!("{wrong}")),
        };
        let said = match read {
            Err(wrong) => Err(wrong.to_string()),
            Ok(user) => {
                let lacking = lacking(&user);
                match remote.try_ask::<()>("POST", "/admin/users/import", Some(user)).await {
                    Ok(Ok(())) => {
                        weak.extend(lacking.map(|only| format!("{}: {only}", at.what)));
                        Ok(())
                    }
                    Ok(Err(refusal)) => Err(format!("{at}: refused: {}", refusal.message)),
                    Err(error) => break Err(error.wrap_err(at.to_string())),
                }
            }
        };
        match said {
            Ok(()) => made += 1,
            Err(what) if keep_going => {
                refused += 1;
                note(err, &what);
            }
            Err(what) => break Err(miette::miette!("{what}")),
        }
    };
    for (what, count) in &document.unknown().0 {
        note(err, &format!("passed over: {count} × {what}"));
    }
    for account in weak.iter().take(NAMED_MAX) {
        note(err, account);
    }
    if weak.len() > NAMED_MAX {
        note(err, &format!("and {} accounts more", weak.len() - NAMED_MAX));
    }
    match ended {
        Ok(()) => writeln!(out, "{made} accounts made, {refused} refused").map_err(unwritten),
        Err(error) => {
            if made > 0 {
                note(err, &format!("{made} accounts had been made; they stay"));
            }
            Err(error)
        }
    }
}

/// What is to be said of an account that comes with the secrets of one mechanism only.
fn lacking(user: &UserExport) -> Option<String> {
    match &user.scram[..] {
        [only] if user.password.is_none() => Some(format!(
            "{} only, until its password is set: clients that insist on another mechanism cannot sign in",
            only.mechanism
        )),
        _ => None,
    }
}

/// Something beside the result. That nobody hears it is no reason to stop.
fn note(err: &mut impl Write, text: &str) {
    let _: io::Result<()> = writeln!(err, "{text}");
}
