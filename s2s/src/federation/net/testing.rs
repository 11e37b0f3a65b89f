//! For the tests of federation: a name server on loopback, an authority and its certificates, web servers.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hickory_resolver::proto::dnssec::crypto::EcdsaSigningKey;
use hickory_resolver::proto::dnssec::rdata::{DNSKEY, DNSSECRData, NSEC, RRSIG};
use hickory_resolver::proto::dnssec::{Algorithm, DnssecSigner, SigningKey, TrustAnchors};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SOA, SRV};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordSet, RecordType};
use parking_lot::Mutex;
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::dns::written;
use super::posh::PATH;
use super::{Net, NetConfig, Pair, Security};

/// A zone: `TYPE name` to records. A name without any is NXDOMAIN, with others NODATA.
#[derive(Default)]
pub(crate) struct Zone {
    pub(crate) records: HashMap<String, Vec<RData>>,
    /// Names whose questions fail, and those that nobody answers.
    pub(crate) broken: Vec<String>,
    pub(crate) silent: Vec<String>,
    /// Signs everything, and that something is not there, as the root of all names.
    pub(crate) signer: Option<DnssecSigner>,
    /// Every question, `TYPE name`.
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Zone {
    pub(crate) fn with(mut self, name: &str, data: RData) -> Self {
        let key = format!("{} {name}", data.record_type());
        self.records.entry(key).or_default().push(data);
        self
    }

    pub(crate) fn srv(self, service: &str, priority: u16, port: u16, target: &str) -> Self {
        let target = Name::from_ascii(target).unwrap();
        self.with(service, RData::SRV(SRV::new(priority, 0, port, target)))
    }

    pub(crate) fn a(self, name: &str, ip: &str) -> Self {
        let data = match ip.parse().unwrap() {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        self.with(name, data)
    }

    /// Signed by a key of its own, which is trusted by whoever gets it.
    pub(crate) fn signed(mut self) -> (Self, TrustAnchors) {
        let algorithm = Algorithm::ECDSAP256SHA256;
        let key = EcdsaSigningKey::generate_pkcs8(algorithm).unwrap();
        let key = EcdsaSigningKey::from_pkcs8(&key, algorithm).unwrap();
        let public = key.to_public_key().unwrap();
        let mut anchors = TrustAnchors::empty();
        anchors.insert(&public);
        let dnskey = DNSKEY::from_key(&public);
        let day = Duration::from_secs(86_400);
        self.signer = Some(DnssecSigner::new(dnskey.clone(), Box::new(key), Name::root(), day));
        (self.with("", RData::DNSSEC(DNSSECRData::DNSKEY(dnskey))), anchors)
    }

    /// These records of one name and type, and the signature.
    fn sign(&self, name: &Name, all: &[RData]) -> Vec<Record> {
        let mut set = RecordSet::with_ttl(name.clone(), all[0].record_type(), 60);
        for data in all {
            set.add_rdata(data.clone());
        }
        let mut records: Vec<Record> = set.records_without_rrsigs().cloned().collect();
        if let Some(signer) = &self.signer {
            let hour = Duration::from_secs(3_600);
            let inception = (SystemTime::now() - hour).into();
            let rrsig = RRSIG::from_rrset(&set, DNSClass::IN, inception, signer).unwrap();
            let data = RData::DNSSEC(DNSSECRData::RRSIG(rrsig));
            records.push(Record::from_rdata(name.clone(), 60, data));
        }
        records
    }

    fn answer(&self, question: &[u8], udp: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(question).unwrap();
        let query = &question.queries[0];
        let name = written(query.name());
        self.asked.lock().push(format!("{} {name}", query.query_type()));
        if self.silent.contains(&name) {
            return None;
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_available = true;
        answer.add_query(query.clone());
        let kinds = [query.query_type(), RecordType::CNAME];
        let found = kinds.iter().find_map(|kind| self.records.get(&format!("{kind} {name}")));
        let named = self.records.keys().any(|key| key.ends_with(&format!(" {name}")));
        answer.metadata.response_code = match found {
            _ if self.broken.contains(&name) => ResponseCode::ServFail,
            Some(all) => {
                answer.add_answers(self.sign(query.name(), all));
                ResponseCode::NoError
            }
            // "Black lies" (RFC 4470's idea): every name is there, and has nothing of that type.
            None if self.signer.is_some() => {
                let soa = SOA::new(Name::root(), Name::root(), 1, 60, 60, 60, 60);
                answer.add_authorities(self.sign(&Name::root(), &[RData::SOA(soa)]));
                let next = query.name().prepend_label(&[0_u8][..]).unwrap();
                let nsec = DNSSECRData::NSEC(NSEC::new_cover_self(next, [RecordType::TXT]));
                answer.add_authorities(self.sign(query.name(), &[RData::DNSSEC(nsec)]));
                ResponseCode::NoError
            }
            None if named => ResponseCode::NoError,
            None => ResponseCode::NXDomain,
        };
        let bytes = answer.to_vec().unwrap();
        if udp && bytes.len() > 1_200 {
            answer.answers.clear();
            answer.metadata.truncation = true;
            return Some(answer.to_vec().unwrap());
        }
        Some(bytes)
    }

    pub(crate) async fn serve(self) -> (SocketAddr, Arc<Zone>) {
        let (tcp, udp, address) = loop {
            let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = tcp.local_addr().unwrap();
            if let Ok(udp) = UdpSocket::bind(address).await {
                break (tcp, udp, address);
            }
        };
        let zone = Arc::new(self);
        let by_udp = zone.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4_096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                if let Some(answer) = by_udp.answer(&buffer[..length], true) {
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        });
        let by_tcp = zone.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let zone = by_tcp.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; usize::from(length)];
                        stream.read_exact(&mut question).await.unwrap();
                        let Some(answer) = zone.answer(&question, false) else { return };
                        stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                        stream.write_all(&answer).await.unwrap();
                    }
                });
            }
        });
        (address, zone)
    }
}

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: Vec<u8>,
}

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "Root");
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem().into_bytes();
    Authority { issuer: Issuer::new(params, key), pem }
}

/// A certificate of these names, and its key.
pub(crate) fn pair(authority: &Authority, names: &[&str]) -> Pair {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority.issuer).unwrap();
    Pair { chain: leaf.pem().into_bytes(), key: key.serialize_pem().into_bytes() }
}

/// A net that trusts an authority and asks no name server.
pub(crate) fn net(trusted: &Authority, pairs: Vec<Pair>) -> Net {
    let dns = vec!["127.0.0.1:9".parse().unwrap()];
    Net::new(NetConfig { dns, trust: Some(trusted.pem.clone()), pairs, ..NetConfig::default() })
        .unwrap()
}

/// A document of POSH that names a certificate.
pub(crate) fn naming(certificate: &CertificateDer<'_>) -> String {
    let hash = BASE64.encode(Sha256::digest(certificate));
    format!("{{\"fingerprints\":[{{\"sha-256\":\"{hash}\"}}],\"expires\":3600}}")
}

/// As HTTP has it.
pub(crate) fn document(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
}

pub(crate) fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

/// Web servers: what is answered at `HOST/PATH`, and what was asked.
#[derive(Default)]
pub(crate) struct Web {
    pub(crate) pages: HashMap<String, String>,
    pub(crate) asked: Mutex<Vec<String>>,
}

impl Web {
    /// The document of a domain, for POSH.
    pub(crate) fn with(self, domain: &str, answer: String) -> Self {
        self.page(&format!("{domain}{PATH}"), answer)
    }

    pub(crate) fn page(mut self, at: &str, answer: String) -> Self {
        self.pages.insert(at.to_owned(), answer);
        self
    }

    pub(crate) async fn serve(self, certificates: Net) -> (u16, Arc<Web>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let web = Arc::new(self);
        let served = web.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who does not believe the certificate goes away.
                let tls = certificates.acceptor(Security::StartTls).accept(stream).await;
                let Ok(mut stream) = tls else { continue };
                let served = served.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut head).await.unwrap_or_default() == 0 {
                            return;
                        }
                    }
                    let head = String::from_utf8(head).unwrap();
                    let path = head.split(' ').nth(1).unwrap();
                    let host = head.split("host: ").nth(1).unwrap().split("\r\n").next().unwrap();
                    let at = format!("{}{path}", host.split(':').next().unwrap());
                    served.asked.lock().push(at.clone());
                    let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
                    let answer = served.pages.get(&at).map_or(none, String::as_str);
                    if answer == "silence" {
                        std::future::pending::<()>().await;
                    }
                    let _ = stream.write_all(answer.as_bytes()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        (port, web)
    }
}
