//! Room `s2s::federation::net`: certificates that DNS names (DANE: RFC 6698, RFC 7671, for SRV RFC 7673). Called by `net` where DNSSEC is checked;
//! values only, `dns` asks and `trust` knows chains.
//!
//! A record counts only if DNSSEC has proved it and the SRV record that leads to it. Where there are such records, one of them must fit: what the
//! authorities say besides is not enough then (RFC 7673 §4).

use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256, Sha512};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::identity::Names;
use super::trust::{Trust, WhyNot};

/// One TLSA record, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlsa {
    /// The server that it is of, in A-labels.
    pub host: String,
    /// 0: an authority, 1: the certificate, both believed here too; 2: an authority, 3: the certificate, believed for this record alone.
    pub usage: u8,
    /// 0: the whole certificate; 1: its public key.
    pub selector: u8,
    /// 0: as it is; 1: its SHA-256; 2: its SHA-512.
    pub matching: u8,
    /// That.
    pub data: Vec<u8>,
}

impl Tlsa {
    /// Whether we know what it means (RFC 7671 §4: others are as if they were not there).
    fn is_usable(&self) -> bool {
        let length = match self.matching {
            0 => self.data.len(),
            1 => 32,
            2 => 64,
            _ => return false,
        };
        self.usage <= 3 && self.selector <= 1 && self.data.len() == length && length > 0
    }

    /// Whether it means this certificate.
    fn means(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        let selected =
            if self.selector == 0 { certificate.as_ref() } else { parsed.public_key().raw };
        match self.matching {
            0 => selected == self.data,
            1 => Sha256::digest(selected).as_slice() == self.data,
            _ => Sha512::digest(selected).as_slice() == self.data,
        }
    }

    /// Whether it makes `chain` one of the domain's. `believed`: what the authorities say.
    fn fits(
        &self,
        trust: &Trust,
        chain: &[CertificateDer<'_>],
        domain: &str,
        now: UnixTime,
        believed: bool,
    ) -> bool {
        let [leaf, above @ ..] = chain else { return false };
        match self.usage {
            // RFC 6698 §2.1.1: it stands behind the certificate, wherever else the peer has it from.
            0 => believed && trust.leads_through(&|one| self.means(one), leaf, above, now),
            1 => believed && self.means(leaf),
            // RFC 7671 §5.2: its names count, those of the server too, for DNSSEC has proved that it is one of the domain's.
            2 => above.iter().filter(|one| self.means(one)).any(|one| {
                let way = trust.leads_to(one, leaf, above, now);
                way.zip(Names::of(leaf).ok()).is_some_and(|(way, names)| {
                    way.counts(&names, domain) || way.counts(&names, &self.host)
                })
            }),
            // RFC 7671 §5.1: neither its names nor its time count.
            _ => self.means(leaf),
        }
    }
}

/// What a chain proves of `domain`, given what DNS says of its servers and what the authorities say of it, which is [`Trust::proves`] of the same.
pub(super) fn judge(
    trust: &Trust,
    chain: &[CertificateDer<'_>],
    domain: &str,
    records: &[Tlsa],
    now: UnixTime,
    by_authorities: Result<(), WhyNot>,
) -> Result<(), WhyNot> {
    let mut usable = records.iter().filter(|record| record.is_usable()).peekable();
    if usable.peek().is_none()
        || matches!(by_authorities, Err(WhyNot::NoCertificate | WhyNot::ChainTooLong))
    {
        return by_authorities;
    }
    let believed = by_authorities.is_ok();
    if usable.any(|record| record.fits(trust, chain, domain, now, believed)) {
        return Ok(());
    }
    Err(WhyNot::NotInDns)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use rustls::pki_types::pem::PemObject;

    use super::super::testing::{Authority, authority, pair};
    use super::*;

    fn now() -> UnixTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        UnixTime::since_unix_epoch(since)
    }

    fn chain(root: &Authority, names: &[&str]) -> Vec<CertificateDer<'static>> {
        let pem = [pair(root, names).chain, root.pem.clone()].concat();
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().unwrap()
    }

    fn record(usage: u8, selector: u8, matching: u8, of: &CertificateDer<'_>) -> Tlsa {
        let (_, parsed) = X509Certificate::from_der(of).unwrap();
        let selected = if selector == 0 { of.as_ref() } else { parsed.public_key().raw };
        let data = match matching {
            0 => selected.to_vec(),
            1 => Sha256::digest(selected).to_vec(),
            _ => Sha512::digest(selected).to_vec(),
        };
        Tlsa { host: "xmpp.host.lab".to_owned(), usage, selector, matching, data }
    }

    /// With what the authorities say.
    fn judged(
        trust: &Trust,
        chain: &[CertificateDer<'_>],
        domain: &str,
        records: &[Tlsa],
        now: UnixTime,
    ) -> Result<(), WhyNot> {
        judge(trust, chain, domain, records, now, trust.proves(chain, domain, now))
    }

    #[test]
    fn each_kind_of_record_means_what_it_says() {
        let (root, stranger) = (authority(), authority());
        let trust = Trust::new(Some(&root.pem), None).unwrap();
        let known = chain(&root, &["a.lab"]);
        let unknown = chain(&stranger, &["a.lab"]);
        let of_server = chain(&stranger, &["xmpp.host.lab"]);
        let nameless = chain(&stranger, &["elsewhere.lab"]);
        let check = |chain: &[CertificateDer<'static>], records: &[Tlsa], good: bool| {
            let found = judged(&trust, chain, "a.lab", records, now());
            let expected = if good { Ok(()) } else { Err(WhyNot::NotInDns) };
            assert_eq!(found, expected, "{records:?}");
        };
        for (selector, matching) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            let of = |usage, chain: &[CertificateDer<'_>], at: usize| {
                vec![record(usage, selector, matching, &chain[at])]
            };
            check(&known, &of(1, &known, 0), true);
            check(&known, &of(0, &known, 1), true);
            check(&unknown, &of(1, &unknown, 0), false);
            check(&unknown, &of(0, &unknown, 1), false);
            check(&unknown, &of(3, &unknown, 0), true);
            check(&nameless, &of(3, &nameless, 0), true);
            check(&unknown, &of(2, &unknown, 1), true);
            check(&of_server, &of(2, &of_server, 1), true);
            check(&nameless, &of(2, &nameless, 1), false);
            // What the authorities say is not enough where DNS names another.
            check(&known, &of(3, &unknown, 0), false);
            check(&unknown, &[of(3, &known, 0), of(3, &unknown, 0)].concat(), true);
        }
        // The authority that is named, whether it is shown or not.
        check(&known[..1], &[record(0, 1, 1, &known[1])], true);
        check(&known[..1], &[record(0, 0, 1, &known[1])], true);
        // One that the peer shows, and that has nothing to do with its certificate.
        let adorned = [known[0].clone(), unknown[1].clone()];
        check(&adorned, &[record(0, 0, 1, &unknown[1])], false);
        // An authority that has not signed it.
        let false_chain = [unknown[0].clone(), known[1].clone()];
        check(&false_chain, &[record(2, 0, 1, &known[1])], false);
    }

    #[test]
    fn what_is_not_understood_is_as_if_it_were_not_there() {
        let root = authority();
        let trust = Trust::new(Some(&root.pem), None).unwrap();
        let known = chain(&root, &["a.lab"]);
        let odd = |change: fn(&mut Tlsa)| {
            let mut record = record(3, 1, 1, &known[1]);
            change(&mut record);
            judged(&trust, &known, "a.lab", &[record], now())
        };
        assert_eq!(odd(|_| ()), Err(WhyNot::NotInDns));
        assert_eq!(odd(|record| record.usage = 4), Ok(()));
        assert_eq!(odd(|record| record.selector = 2), Ok(()));
        assert_eq!(odd(|record| record.matching = 3), Ok(()));
        assert_eq!(odd(|record| record.data.truncate(20)), Ok(()));
        let late = UnixTime::since_unix_epoch(Duration::from_secs(1 << 40));
        let pinned = record(3, 1, 1, &known[0]);
        assert_eq!(
            judged(&trust, &known, "a.lab", &[pinned], late),
            Ok(()),
            "its time does not count"
        );
        assert_eq!(judged(&trust, &[], "a.lab", &[], now()), Err(WhyNot::NoCertificate));
    }
}
