//! `pangaea user export` and `import`: between the admin API and a document of XEP-0227, a few accounts at a time.
//!
//! Called by `user`; `pie` knows the document. What has to be said beside the result goes to standard error.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::pin::pin;

use futures_util::stream::{self, Stream, StreamExt};
use xmpp::xml::element::Element;

use super::{Pages, unwritten};
use crate::admin::{ArchivePage, ArchivePart, Imported, OfflinePage, RefusalKind, UserExport};
use crate::cli::remote::Remote;
use crate::http::client::escape;
use crate::pie::{Reader, User, Writer};

/// Accounts asked for at the same time; so many answers are in memory.
const AHEAD_MAX: usize = 8;
/// Bytes of archived messages in one request, about.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// Accounts that are named because they lack credentials; more are only counted.
const NAMED_MAX: usize = 20;

/// Writes accounts, or all of some domains, or all, as they come. What fails on its way leaves a document without an end.
pub(super) async fn export(
    remote: &Remote,
    accounts: Vec<String>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> miette::Result<()> {
    let mut document = Writer::begin(BufWriter::new(out)).map_err(unwritten)?;
    let (accounts, domains): (Vec<String>, Vec<String>) =
        accounts.into_iter().partition(|name| name.contains('@'));
    if !domains.is_empty() || accounts.is_empty() {
        let asked = |account: &String| {
            let of = account.rsplit_once('@').map_or("", |(_, domain)| domain);
            domains.is_empty() || domains.iter().any(|domain| domain.eq_ignore_ascii_case(of))
        };
        let mut pages = Pages::default();
        while let Some(page) = pages.next(remote).await? {
            let page = page.into_iter().filter(asked).collect();
            let mut users = pin!(ahead(remote, page));
            while let Some((account, user)) = users.next().await {
                match user? {
                    Some(user) => one(remote, &account, user, &mut document).await?,
                    None => note(err, &format!("{account}: it was removed meanwhile")),
                }
            }
        }
    }
    if !accounts.is_empty() {
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
    let mut after = String::new();
    loop {
        let path = format!("/admin/users/{}/archive{after}", escape(account));
        let page: ArchivePage = remote.get(&path).await?;
        document.archive(&page.archive).map_err(unwritten)?;
        match page.more {
            Some(more) => after = format!("?after={more}"),
            None => break,
        }
    }
    document.user_end().map_err(unwritten)
}

/// How a document is to be imported.
#[derive(Default)]
pub(super) struct How {
    /// Refused accounts are no reason to stop.
    pub(super) keep_going: bool,
    /// These accounts only; none: all.
    pub(super) only: Vec<String>,
    /// Where that goes which means nothing here.
    pub(super) aside: Option<std::path::PathBuf>,
}

/// Makes the accounts of a document.
pub(super) async fn import(
    remote: &Remote,
    document: Reader,
    how: How,
    out: &mut impl Write,
    err: &mut impl Write,
) -> miette::Result<()> {
    let (mut made, mut refused, mut weak) = (0, 0, Vec::new());
    let mut document = document.with_aside(how.aside.is_some());
    let mut aside = how.aside.as_deref().map(Aside::begin).transpose()?;
    let ended = loop {
        let user = match document.next_user() {
            Ok(Some(user)) => user,
            Ok(None) => break Ok(()),
            Err(wrong) => break Err(miette::miette!("{wrong}")),
        };
        if !how.only.is_empty() && !how.only.contains(&user.at.what) {
            continue;
        }
        match one_in(remote, user, &mut aside).await {
            Ok(Ok(lacking)) => {
                made += 1;
                weak.extend(lacking);
            }
            Ok(Err(what)) if how.keep_going => {
                refused += 1;
                note(err, &what);
            }
            Ok(Err(what)) => break Err(miette::miette!("{what}")),
            Err(error) => break Err(error),
        }
    };
    for (what, count) in &document.unknown().0 {
        note(err, &format!("passed over: {count} × {what}"));
    }
    if how.aside.is_none() && !document.unknown().0.is_empty() {
        note(
            err,
            "what users had of that is lost here: --aside FILE puts it in a document of its own",
        );
    }
    for account in weak.iter().take(NAMED_MAX) {
        note(err, account);
    }
    if weak.len() > NAMED_MAX {
        note(err, &format!("and {} accounts more", weak.len() - NAMED_MAX));
    }
    let ended = ended.and(aside.map_or(Ok(()), |aside| aside.end(err)));
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

/// Makes an account: what is to be said of it, or why it is refused. An error ends the import.
async fn one_in(
    remote: &Remote,
    user: User,
    aside: &mut Option<Aside>,
) -> miette::Result<Result<Option<String>, String>> {
    let User { at, read, mut archive, aside: left } = user;
    let account = at.what.clone();
    let mut export = match read {
        Ok(export) => export,
        Err(wrong) => return Ok(Err(wrong.to_string())),
    };
    let lacking = lacking(&export).map(|only| format!("{account}: {only}"));
    export.archive_follows = !archive.is_empty();
    let path = format!("/admin/users/{}/archive", escape(&account));
    let mut answer = remote.try_ask("POST", "/admin/users/import", Some(export)).await;
    loop {
        let after: Imported = match answer {
            Ok(Ok(after)) => after,
            Ok(Err(refusal)) => return Ok(Err(format!("{at}: refused: {}", refusal.message))),
            Err(error) => return Err(error.wrap_err(at.to_string())),
        };
        if archive.is_empty() {
            break;
        }
        let some = archive.next(REQUEST_BYTES_MAX);
        let some = some.map_err(|cause| miette::miette!("{at}: its archive: {cause}"))?;
        let part = ArchivePart { after, archive: some, last: archive.is_empty() };
        answer = remote.try_ask("POST", &path, Some(part)).await;
    }
    if let Some(aside) = aside {
        aside.user(&account, &left)?;
    }
    Ok(Ok(lacking))
}

/// The document of what means nothing here.
struct Aside {
    name: String,
    document: Writer<BufWriter<std::fs::File>>,
    users: u64,
}

impl Aside {
    fn begin(path: &Path) -> miette::Result<Aside> {
        let name = path.display().to_string();
        // What it holds was private: nobody else may read it, and nothing is overwritten.
        let mut options = std::fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.write(true).create_new(true).open(path);
        let document = file.and_then(|file| Writer::begin(BufWriter::new(file)));
        let document = document.map_err(|cause| miette::miette!("{name}: {cause}"))?;
        Ok(Aside { name, document, users: 0 })
    }

    fn user(&mut self, account: &str, elements: &[Element]) -> miette::Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        self.users += 1;
        let written = self.document.aside(account, elements);
        let written = written.and_then(|()| self.document.user_end());
        written.map_err(|cause| miette::miette!("{}: {cause}", self.name))
    }

    fn end(self, err: &mut impl Write) -> miette::Result<()> {
        let Aside { name, document, users } = self;
        document.end().map_err(|cause| miette::miette!("{name}: {cause}"))?;
        note(err, &format!("put aside in {name}: what {users} accounts had besides"));
        Ok(())
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
