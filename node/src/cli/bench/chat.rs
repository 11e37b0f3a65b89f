//! `pangaea bench chat`: pairs of users who write to each other as fast as they can, over plain TCP.
//!
//! A client as small as can be: SASL PLAIN, a resource, messages. It looks for `<message` in what it reads and for
//! nothing else. It needs a server that lets users in without TLS, as quickstart does on loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

/// How long a login may take.
const LOGIN_DEADLINE: Duration = Duration::from_secs(20);

#[derive(clap::Args)]
pub(super) struct Args {
    /// Where clients connect (STARTTLS port)
    #[arg(long, default_value = "127.0.0.1:5222", value_name = "HOST:PORT")]
    url: String,
    /// Where the second of each pair connects, if somewhere else: another region
    #[arg(long, value_name = "HOST:PORT")]
    to: Option<String>,
    /// The domain
    #[arg(long, default_value = "pangaea.localhost", value_name = "NAME")]
    domain: String,
    /// Pairs; pair n is user2n and user2n+1
    #[arg(long, default_value_t = 10, value_name = "N")]
    pairs: usize,
    /// Messages of each pair on the way at once
    #[arg(long, default_value_t = 10, value_name = "N")]
    outstanding: u64,
    /// For how long
    #[arg(long, default_value_t = 5, value_name = "S")]
    seconds: u64,
}

/// What all pairs share.
struct Run {
    domain: String,
    outstanding: u64,
    /// All begin at once.
    begin: Barrier,
    over: AtomicBool,
    messages: AtomicU64,
}

pub(super) fn main(args: &Args) -> miette::Result<()> {
    super::super::small_runtime()?.block_on(run(args))
}

async fn run(args: &Args) -> miette::Result<()> {
    let run = Arc::new(Run {
        domain: args.domain.clone(),
        outstanding: args.outstanding.max(1),
        begin: Barrier::new(args.pairs + 1),
        over: AtomicBool::new(false),
        messages: AtomicU64::new(0),
    });
    let mut pairs = Vec::new();
    for pair in 0..args.pairs {
        let to = args.to.as_ref().unwrap_or(&args.url);
        let first = log_in(&args.url, &args.domain, 2 * pair).await?;
        let second = log_in(to, &args.domain, 2 * pair + 1).await?;
        pairs.push(tokio::spawn(chat(run.clone(), pair, first, second)));
    }
    run.begin.wait().await;
    let start = Instant::now();
    tokio::time::sleep(Duration::from_secs(args.seconds.max(1))).await;
    let (messages, spent) = (run.messages.load(Ordering::Relaxed), start.elapsed());
    run.over.store(true, Ordering::Relaxed);
    println!(
        "chat, {} pairs × {}: {:.0} messages a second",
        args.pairs,
        run.outstanding,
        messages as f64 / spent.as_secs_f64()
    );
    for pair in &pairs {
        pair.abort();
    }
    if messages == 0 {
        return Err(miette::miette!("no message arrived"));
    }
    Ok(())
}

/// The first writes to the second, who answers each message with one.
async fn chat(run: Arc<Run>, pair: usize, mut first: TcpStream, mut second: TcpStream) {
    run.begin.wait().await;
    let to = |user: usize| {
        let body = "x".repeat(200);
        let domain = &run.domain;
        format!("<message to='user{user}@{domain}/bench' type='chat'><body>{body}</body></message>")
    };
    let there = to(2 * pair + 1).repeat(run.outstanding as usize);
    if first.write_all(there.as_bytes()).await.is_err() {
        return;
    }
    let (there, back) = (to(2 * pair + 1), to(2 * pair));
    tokio::join!(answer(&run, &mut first, &there), answer(&run, &mut second, &back));
}

/// Answers every message with `answer`, and counts it.
async fn answer(run: &Run, stream: &mut TcpStream, answer: &str) {
    const END: &[u8] = b"</message>";
    let finder = memmem::Finder::new(END);
    let mut buffer = vec![0; 64 << 10];
    let (mut kept, mut answers) = (0, Vec::new());
    while !run.over.load(Ordering::Relaxed) {
        let Ok(n @ 1..) = stream.read(&mut buffer[kept..]).await else { return };
        let filled = kept + n;
        let mut taken = 0;
        answers.clear();
        for at in finder.find_iter(&buffer[..filled]) {
            taken = at + END.len();
            answers.extend_from_slice(answer.as_bytes());
            run.messages.fetch_add(1, Ordering::Relaxed);
        }
        // What may be the beginning of an end is looked at again with what follows it.
        let keep_from = taken.max(filled.saturating_sub(END.len() - 1));
        buffer.copy_within(keep_from..filled, 0);
        kept = filled - keep_from;
        if stream.write_all(&answers).await.is_err() {
            return;
        }
    }
}

/// A session of `user<n>`, resource `bench`.
async fn log_in(address: &str, domain: &str, user: usize) -> miette::Result<TcpStream> {
    let failed =
        |what: String| miette::miette!("user{user}@{domain} at {address} cannot log in: {what}");
    let dialogue = async {
        let mut stream = TcpStream::connect(address).await.map_err(|cause| cause.to_string())?;
        stream.set_nodelay(true).map_err(|cause| cause.to_string())?;
        let open = format!(
            "<?xml version='1.0'?><stream:stream to='{domain}' version='1.0' \
             xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        );
        let plain =
            base64::engine::general_purpose::STANDARD.encode(format!("\0user{user}\0pw{user}"));
        let auth = format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{plain}</auth>"
        );
        let bind = "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
                    <resource>bench</resource></bind></iq>";
        say(&mut stream, &open, "</stream:features>").await?;
        say(&mut stream, &auth, "<success").await?;
        say(&mut stream, &open, "</stream:features>").await?;
        say(&mut stream, bind, "</iq>").await?;
        Ok(stream)
    };
    match tokio::time::timeout(LOGIN_DEADLINE, dialogue).await {
        Ok(done) => done.map_err(failed),
        Err(_) => Err(failed("it takes too long".to_owned())),
    }
}

/// Writes, and reads until the answer has come.
async fn say(stream: &mut TcpStream, text: &str, answer: &str) -> Result<(), String> {
    stream.write_all(text.as_bytes()).await.map_err(|cause| cause.to_string())?;
    let mut read = Vec::new();
    while memmem::find(&read, answer.as_bytes()).is_none() {
        if memmem::find(&read, b"<failure").is_some()
            || memmem::find(&read, b"<stream:error").is_some()
        {
            return Err(String::from_utf8_lossy(&read).into_owned());
        }
        let n = stream.read_buf(&mut read).await.map_err(|cause| cause.to_string())?;
        if n == 0 {
            return Err(format!("the connection ended: {}", String::from_utf8_lossy(&read)));
        }
    }
    Ok(())
}
