//! `pangaea user export` and `import`: between the admin API and a document of XEP-0227, one account at a time.
//!
//! Called by `user`; `pie` knows the document. What has to be said beside the result goes to standard error.

use std::io::{self, BufWriter, Write};

use super::{Pages, unwritten};
use crate::admin::{OfflinePage, RefusalKind, UserExport};
use crate::cli::remote::Remote;
use crate::http::client::escape;
use crate::pie::{Reader, Writer};

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
            for account in page {
                if !one(remote, &account, &mut document).await? {
                    note(err, &format!("{account}: it was removed meanwhile"));
                }
            }
        }
    } else {
        for account in accounts {
            if !one(remote, &account, &mut document).await? {
                return Err(miette::miette!("there is no account {account}"));
            }
        }
    }
    document.end().map(drop).map_err(unwritten)
}

/// Writes one account; false if there is none.
async fn one(
    remote: &Remote,
    account: &str,
    document: &mut Writer<impl Write>,
) -> miette::Result<bool> {
    let path = format!("/admin/users/{}", escape(account));
    let user = match remote.try_ask("GET", &format!("{path}/export"), None::<()>).await? {
        Ok(user) => user,
        Err(refusal) if refusal.kind == RefusalKind::NotFound => return Ok(false),
        Err(refusal) => return Err(miette::miette!("{account}: refused: {}", refusal.message)),
    };
    let UserExport { mut more, .. } = user;
    document.user(&user).map_err(unwritten)?;
    while let Some(after) = more {
        let page: OfflinePage = remote.get(&format!("{path}/offline?after={after}")).await?;
        document.messages(&page.offline).map_err(unwritten)?;
        more = page.more;
    }
    document.user_end().map_err(unwritten)?;
    Ok(true)
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
