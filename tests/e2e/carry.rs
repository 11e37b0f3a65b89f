//! Accounts that leave as a document and come back (XEP-0227), with the real commands: `pangaea user export` and `import`.
//!
//! Exported in one region, removed in another, imported in the third: whoever signs in then, anywhere, has password,
//! roster, requests and messages as before.

use pangaea_tests::client::{Client, Result, patience};
use pangaea_tests::harness::Test;
use pangaea_tests::platform::{Door, Platform, binary};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Between two looks at what comes in a moment.
const AGAIN: Duration = Duration::from_millis(50);

pub(crate) fn tests(platform: &Platform) -> Vec<Test<'_>> {
    vec![
        Test::new("carry::an_account_leaves_and_comes_back_with_all_it_has", || {
            there_and_back(platform)
        }),
        Test::new("carry::a_document_of_another_server_brings_its_users", || strangers(platform)),
    ]
}

/// What a command that succeeds says on standard output; `input` is what it reads.
async fn pangaea(
    platform: &Platform,
    region: usize,
    words: &[&str],
    input: &str,
) -> Result<String> {
    let (code, out, err) = said(platform, region, words, input).await?;
    if code == Some(0) { Ok(out) } else { Err(format!("{words:?}: {code:?} {err}")) }
}

async fn said(
    platform: &Platform,
    region: usize,
    words: &[&str],
    input: &str,
) -> Result<(Option<i32>, String, String)> {
    command(platform, region, &[&["user"], words].concat(), input).await
}

/// An operator's command: the exit code, standard output, and the words on standard error.
pub(crate) async fn command(
    platform: &Platform,
    region: usize,
    words: &[&str],
    input: &str,
) -> Result<(Option<i32>, String, String)> {
    let domain = &platform.plan.domain;
    let mut child = Command::new(binary()?)
        .args(words)
        .env("PANGAEA_URL", format!("http://127.0.0.1:{}", platform.port(region, 280)))
        .env("PANGAEA_USER", format!("admin@{domain}"))
        .env("PANGAEA_PASSWORD", "wonderland")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut stdin = child.stdin.take().ok_or("stdin is piped")?;
    let input = input.to_owned();
    // A command that does not read is no fault.
    let feeding = tokio::spawn(async move { drop(stdin.write_all(input.as_bytes()).await) });
    let output = child.wait_with_output().await.map_err(|e| e.to_string())?;
    feeding.await.map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // What an error says is broken into lines, with a bar before each.
    let err = text(&output.stderr).replace('│', "");
    let err = err.split_whitespace().collect::<Vec<_>>().join(" ");
    Ok((output.status.code(), text(&output.stdout), err))
}

fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(what()) }
}

async fn there_and_back(platform: &Platform) -> Result<()> {
    const MESSAGES: usize = 40;
    let account = format!("user50@{}", platform.plan.domain);
    // One who is there, makes a roster and goes; one who writes to him, and one who asks, from elsewhere.
    let mut user = platform.user(50, 0, "before")?;
    user.connect().await?;
    let item = "<query xmlns='jabber:iq:roster'><item jid='nurse@capulet.example' name='Nurse &amp; co'>\
                <group>Servants</group></item></query>";
    let answer = user.iq("set", None, item).await?;
    expect(answer.attr("type") == Some("result"), || answer.to_string())?;
    user.disconnect().await?;
    let mut writer = platform.user(51, 1, "writer")?;
    writer.connect().await?;
    writer.enable_sm(false).await?;
    writer.send(&format!("<presence to='{account}' type='subscribe'/>")).await?;
    // More than one entry of the durable log takes in an import, less than it takes in filing.
    let padding = "x".repeat(13_000);
    for number in 0..MESSAGES {
        writer
            .send(&format!(
                "<message to='{account}' type='chat'><body>{number} {padding}</body></message>"
            ))
            .await?;
    }
    writer.wait_acked().await?;
    let document = filed(platform, &account, MESSAGES).await?;
    for expected in ["Nurse &amp; co", "SCRAM-SHA-1", "SCRAM-SHA-256", "type='subscribe'", "<delay"]
    {
        expect(document.contains(expected), || format!("{expected} is not in the export"))?;
    }
    expect(!document.contains("pw50"), || "the password stands in the export".into())?;
    // What is there is refused; what was removed is made again, as it was.
    let (code, _, err) = said(platform, 2, &["import", "-"], &document).await?;
    expect(code == Some(1) && err.contains("is there already"), || format!("{code:?} {err}"))?;
    pangaea(platform, 1, &["remove", &account], "").await?;
    let mut gone = platform.user(50, 1, "gone")?;
    expect(gone.connect().await.is_err(), || "a removed account signs in".into())?;
    let out = pangaea(platform, 2, &["import", "-"], &document).await?;
    expect(out == "1 accounts made, 0 refused\n", || out.clone())?;
    let again = pangaea(platform, 0, &["export", &account], "").await?;
    expect(again == document, || {
        format!("{} bytes were imported, {} exported then", document.len(), again.len())
    })?;
    let mut user = platform.user(50, 1, "after")?;
    signs_in(&mut user).await?;
    let roster = user.iq("get", None, "<query xmlns='jabber:iq:roster'/>").await?.to_string();
    for expected in ["nurse@capulet.example", "Servants"] {
        expect(roster.contains(expected), || format!("the roster is {roster}"))?;
    }
    user.send("<presence/>").await?;
    let asked = |e: &pangaea_tests::xml::Element| e.attr("type") == Some("subscribe");
    user.wait_for("the request", asked).await?;
    for number in 0..MESSAGES {
        let got = user.wait_for("a message from before", |e| e.body().is_some()).await?;
        let body = got.body().unwrap_or_default();
        let begins = format!("{number} x");
        expect(body.starts_with(&begins), || format!("number {number}: {}", &body[..8]))?;
    }
    user.disconnect().await
}

/// The export of an account, once it has so many messages.
async fn filed(platform: &Platform, account: &str, messages: usize) -> Result<String> {
    let deadline = Instant::now() + patience();
    loop {
        let document = pangaea(platform, 0, &["export", account], "").await?;
        let count = document.matches("<message ").count();
        // Each of them is kept until somebody is there, and archived.
        if count == 2 * messages {
            return Ok(document);
        }
        if Instant::now() > deadline {
            return Err(format!("{count} messages are exported, not twice {messages}"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Signs in where an account becomes known a moment after the command has ended: that waits only for its own region.
async fn signs_in(user: &mut Client) -> Result<()> {
    let deadline = Instant::now() + patience();
    loop {
        match user.connect().await {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(AGAIN).await,
            done => return done,
        }
    }
}

async fn strangers(platform: &Platform) -> Result<()> {
    let document = "<?xml version='1.0'?><server-data xmlns='urn:xmpp:pie:0'><host jid='old.example'>\n\
        <user name='stranger' password='s3crEt'><unheard-of xmlns='urn:x'/>\
        <offline-messages><message xmlns='jabber:client' from='friend@old.example/x' type='chat'>\
        <body>welcome</body></message></offline-messages>\
        <query xmlns='jabber:iq:roster'><item jid='friend@old.example' subscription='none'/></query></user>\n\
        <user name='nobody'/></host></server-data>";
    let (code, _, err) = said(platform, 0, &["import", "-"], document).await?;
    let elsewhere =
        "line 2: stranger@old.example: refused: \"stranger@old.example\" is no account of";
    expect(code == Some(1) && err.contains(elsewhere), || format!("{code:?} {err}"))?;
    let map = format!("old.example={}", platform.plan.domain);
    let words = ["import", "--keep-going", "--host", &map, "-"];
    let (code, out, err) = said(platform, 0, &words, document).await?;
    expect(code == Some(0) && out == "1 accounts made, 1 refused\n", || format!("{out}{err}"))?;
    for expected in ["line 3: nobody@", "nobody could sign in", "1 × <unheard-of"] {
        expect(err.contains(expected), || format!("{expected} is not in {err}"))?;
    }
    let endpoint = platform.endpoint(2, Door::StartTls)?;
    let mut user = Client::new("stranger", endpoint, "stranger", "s3crEt", Some("new"));
    signs_in(&mut user).await?;
    user.send("<presence/>").await?;
    let got = user.wait_for("what waited elsewhere", |e| e.body().is_some()).await?;
    let expected = (Some("welcome".to_owned()), Some(format!("friend@{}/x", platform.plan.domain)));
    let got = (got.body(), got.attr("from").map(str::to_owned));
    expect(got == expected, || format!("{got:?}"))?;
    user.disconnect().await
}
