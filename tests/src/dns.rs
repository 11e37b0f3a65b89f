//! A DNS server of one's own on loopback, over UDP and TCP (RFC 1035, SRV of RFC 2782): it knows what it is told, counts what it is asked, and lies on
//! demand.
//!
//! Called by the `federation` tests, asked by every server in them. What it is told may change at any time; nothing may be kept, for every answer is valid
//! for no time at all. Deliberately absent: DNSSEC, zones, recursion.

use crate::client::Result;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

/// What a longer answer over UDP is cut to (nothing), where the other side says that it takes more than 512 bytes.
const UDP_MAX: usize = 1232;
const UDP_MAX_OF_OLD: usize = 512;
/// How far an alias is followed in one answer.
const ALIASES_MAX: usize = 8;

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// Another name of the same.
    Cname,
    /// Where a service is.
    Srv,
    /// A certificate of a service (DANE).
    Tlsa,
}

impl Kind {
    fn number(self) -> u16 {
        match self {
            Self::A => 1,
            Self::Cname => 5,
            Self::Srv => 33,
            Self::Tlsa => 52,
        }
    }
}

/// One record, without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An address.
    A(Ipv4Addr),
    /// Another name.
    Cname(String),
    /// A target with its port; smaller priorities first, and among equals by weight.
    Srv {
        /// Smaller is first.
        priority: u16,
        /// Among equals.
        weight: u16,
        /// Its port.
        port: u16,
        /// Its name; `.` says that there is no such service.
        target: String,
    },
    /// As it is.
    Tlsa(Vec<u8>),
}

impl Record {
    /// A target on this machine.
    pub fn srv(port: u16) -> Self {
        Self::Srv { priority: 0, weight: 1, port, target: "localhost.".into() }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::A(_) => Kind::A,
            Self::Cname(_) => Kind::Cname,
            Self::Srv { .. } => Kind::Srv,
            Self::Tlsa(_) => Kind::Tlsa,
        }
    }

    fn data(&self) -> Vec<u8> {
        match self {
            Self::A(address) => address.octets().to_vec(),
            Self::Cname(name) => labels(name),
            Self::Srv { priority, weight, port, target } => {
                let mut data: Vec<u8> =
                    [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
                data.extend(labels(target));
                data
            }
            Self::Tlsa(data) => data.clone(),
        }
    }
}

/// What it says when it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These.
    Records(Vec<Record>),
    /// That it cannot say (SERVFAIL).
    Fails,
    /// That it does not want to (REFUSED).
    Refuses,
    /// Nothing at all.
    Silent,
    /// What is no answer.
    Noise,
}

#[derive(Default)]
struct Known {
    answers: HashMap<(String, u16), Answer>,
    asked: HashMap<(String, u16), usize>,
}

/// A running one.
pub struct Dns {
    port: u16,
    known: Arc<Mutex<Known>>,
    tasks: [JoinHandle<()>; 2],
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl Dns {
    /// Starts it: all that it knows is `localhost`.
    ///
    /// # Errors
    /// When there is no port that is free for both UDP and TCP.
    pub async fn start() -> Result<Self> {
        let known = Arc::new(Mutex::new(Known::default()));
        for _ in 0..50 {
            let udp = UdpSocket::bind(("127.0.0.1", 0)).await.map_err(|e| e.to_string())?;
            let port = udp.local_addr().map_err(|e| e.to_string())?.port();
            let Ok(tcp) = TcpListener::bind(("127.0.0.1", port)).await else { continue };
            let tasks = [
                tokio::spawn(over_udp(udp, known.clone())),
                tokio::spawn(over_tcp(tcp, known.clone())),
            ];
            let dns = Self { port, known, tasks };
            dns.set("localhost", Record::A(Ipv4Addr::LOCALHOST));
            return Ok(dns);
        }
        Err("no free port for a DNS server".into())
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on a name has this record of its kind, alone.
    pub fn set(&self, name: &str, record: Record) {
        self.say(name, record.kind(), Answer::Records(vec![record]));
    }

    /// From now on this is said of a name.
    pub fn say(&self, name: &str, kind: Kind, answer: Answer) {
        self.known().answers.insert((normal(name), kind.number()), answer);
    }

    /// Servers are told that a domain is served on these ports of this machine (`_xmpp-server._tcp`), all alike.
    pub fn serve(&self, domain: &str, ports: &[u16]) {
        let records = ports.iter().map(|port| Record::srv(*port)).collect();
        let name = format!("_xmpp-server._tcp.{domain}");
        self.say(&name, Kind::Srv, Answer::Records(records));
    }

    /// How often it was asked for that.
    pub fn asked(&self, name: &str, kind: Kind) -> usize {
        self.known().asked.get(&(normal(name), kind.number())).copied().unwrap_or(0)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics with it")
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn over_udp(socket: UdpSocket, known: Arc<Mutex<Known>>) {
    let mut buffer = [0; 4096];
    loop {
        // An error is about somebody who is gone.
        let Ok((count, from)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(answer) = answer(&buffer[..count], &known, true) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn over_tcp(listener: TcpListener, known: Arc<Mutex<Known>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let known = known.clone();
        tokio::spawn(async move {
            let _ = one_tcp(stream, &known).await;
        });
    }
}

async fn one_tcp(mut stream: TcpStream, known: &Mutex<Known>) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut query).await?;
        if let Some(answer) = answer(&query, known, false) {
            stream.write_u16(answer.len().try_into().unwrap_or(u16::MAX)).await?;
            stream.write_all(&answer).await?;
        }
    }
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).expect("tests know how long a label may be"));
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// The name and type of the question, and where it ends.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut name) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = query.get(at..at + length)?;
        name.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    Some((name.join("."), kind, at + 4))
}

fn record(name: &str, kind: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = labels(name);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(1u16.to_be_bytes());
    bytes.extend(ttl.to_be_bytes());
    bytes.extend(u16::try_from(data.len()).expect("records are short").to_be_bytes());
    bytes.extend(data);
    bytes
}

/// The bytes of an answer, if there is to be one.
fn answer(query: &[u8], known: &Mutex<Known>, over_udp: bool) -> Option<Vec<u8>> {
    let (name, kind, end) = question(query)?;
    let knows_edns = query.get(10..12)? != [0, 0];
    let mut known = known.lock().expect("nobody panics with it");
    *known.asked.entry((name.clone(), kind)).or_default() += 1;
    let (mut code, mut records, mut at) = (0u8, Vec::new(), name.clone());
    for _ in 0..ALIASES_MAX {
        let alias = known.answers.get(&(at.clone(), Kind::Cname.number()));
        match known.answers.get(&(at.clone(), kind)).or(alias) {
            Some(Answer::Records(found)) => {
                records.extend(found.iter().map(|r| record(&at, r.kind().number(), 0, &r.data())));
                match found.first() {
                    Some(Record::Cname(next)) if kind != Kind::Cname.number() => at = normal(next),
                    _ => break,
                }
            }
            Some(Answer::Fails) => code = 2,
            Some(Answer::Refuses) => code = 5,
            Some(Answer::Silent) => return None,
            Some(Answer::Noise) => return Some(query.iter().map(|byte| byte ^ 0x5a).collect()),
            None => {
                let below = format!(".{at}");
                let exists =
                    known.answers.keys().any(|(name, _)| *name == at || name.ends_with(&below));
                code = if exists { 0 } else { 3 };
                break;
            }
        }
        if code != 0 {
            break;
        }
    }
    let says_nothing = records.is_empty() && (code == 0 || code == 3);
    let mut bytes = query.get(..2)?.to_vec();
    bytes.extend([0x85, 0x80 | code]);
    let counts = [1, records.len(), usize::from(says_nothing), usize::from(knows_edns)];
    bytes.extend(counts.iter().flat_map(|n| u16::try_from(*n).unwrap_or(u16::MAX).to_be_bytes()));
    bytes.extend(query.get(12..end)?);
    bytes.extend(records.concat());
    if says_nothing {
        // RFC 2308: how long nobody needs to ask again.
        let zone = name.rsplit('.').next().unwrap_or_default();
        let mut data = [labels("localhost"), labels("nobody.localhost")].concat();
        data.extend([1u32, 1, 1, 1, 0].iter().flat_map(|n| n.to_be_bytes()));
        bytes.extend(record(zone, 6, 0, &data));
    }
    if knows_edns {
        bytes.extend([0, 0, 41]);
        bytes.extend(u16::try_from(UDP_MAX).expect("it is small").to_be_bytes());
        bytes.extend([0; 6]);
    }
    if over_udp && bytes.len() > if knows_edns { UDP_MAX } else { UDP_MAX_OF_OLD } {
        // Cut: to be asked again over TCP.
        bytes.truncate(end);
        bytes[2] |= 0x02;
        bytes[6..12].fill(0);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks(known: &Known, name: &str, kind: Kind) -> Vec<u8> {
        let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(labels(name));
        query.extend(kind.number().to_be_bytes());
        query.extend([0, 1]);
        let copy = Known { answers: known.answers.clone(), asked: HashMap::new() };
        answer(&query, &Mutex::new(copy), true).unwrap_or_default()
    }

    fn known(entries: &[(&str, Record)]) -> Known {
        let answers = entries.iter().map(|(name, record)| {
            ((normal(name), record.kind().number()), Answer::Records(vec![record.clone()]))
        });
        Known { answers: answers.collect(), asked: HashMap::new() }
    }

    #[test]
    fn an_alias_is_followed_and_a_circle_ends() {
        let aliases = known(&[
            ("a.lab", Record::Cname("B.lab.".into())),
            ("b.lab", Record::A(Ipv4Addr::LOCALHOST)),
            ("c.lab", Record::Cname("c.lab".into())),
        ]);
        assert_eq!(asks(&aliases, "A.lab", Kind::A)[7], 2);
        assert_eq!(asks(&aliases, "c.lab", Kind::A)[7], ALIASES_MAX as u8);
    }

    #[test]
    fn what_is_not_there_is_not_there_and_what_is_long_is_cut() {
        let there = known(&[("_x._tcp.a.lab", Record::srv(1))]);
        // NXDOMAIN; no such record; one record.
        assert_eq!(asks(&there, "b.lab", Kind::A)[3] & 15, 3);
        assert_eq!(
            (asks(&there, "a.lab", Kind::A)[3] & 15, asks(&there, "a.lab", Kind::A)[7]),
            (0, 0)
        );
        assert_eq!(asks(&there, "_x._tcp.a.lab", Kind::Srv)[7], 1);
        let many = Answer::Records((0..100).map(Record::srv).collect());
        let answers = HashMap::from([(("m.lab".to_owned(), 33), many)]);
        let long = asks(&Known { answers, asked: HashMap::new() }, "m.lab", Kind::Srv);
        assert_eq!((long[2] & 2, long[7]), (2, 0));
    }
}
