//! XEP-0474 SASL SCRAM Downgrade Protection, version 0.5.0: what a server has offered, signed along with the SCRAM exchange.
//!
//! [`Offered`] is made by `stream::negotiate` from what it has advertised, handed in with [`super::Terms`], and written as `h=` by
//! [`super::scram`]. A client compares. Left out: pinning, which is a client's.

use super::{Hash, Mechanism};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// §4.1: the sorted mechanisms, and behind them the sorted channel binding types if any were advertised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offered(String);

impl Offered {
    /// Of the lists as they were advertised, in any order.
    pub fn new<'a>(
        mechanisms: impl IntoIterator<Item = &'a str>,
        bindings: impl IntoIterator<Item = &'a str>,
    ) -> Offered {
        let sorted = |names: Vec<&str>| {
            let mut names = names;
            names.sort_unstable(); // by bytes, which is i;octet
            names.join("\x1e")
        };
        let mut text = sorted(mechanisms.into_iter().collect());
        let bindings: Vec<_> = bindings.into_iter().collect();
        if !bindings.is_empty() {
            text.push('\x1f');
            text.push_str(&sorted(bindings));
        }
        Offered(text)
    }

    /// Of our own mechanisms.
    pub fn ours<'a>(
        mechanisms: &[Mechanism],
        bindings: impl IntoIterator<Item = &'a str>,
    ) -> Offered {
        Offered::new(mechanisms.iter().map(|mechanism| mechanism.name()), bindings)
    }

    /// The value of `h`.
    pub fn hash(&self, hash: Hash) -> String {
        BASE64.encode(hash.digest(self.0.as_bytes()))
    }

    /// Whether the server's first message tells of another list than this one (§4.2). One that tells of none is as good as ours.
    pub fn is_another(&self, hash: Hash, server_first: &str) -> bool {
        let told = server_first.split(',').find_map(|field| field.strip_prefix("h="));
        told.is_some_and(|told| told != self.hash(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_xep_comes_out_in_any_order() {
        let mechanisms = ["SCRAM-SHA-1", "SCRAM-SHA-1-PLUS"];
        let bindings = ["tls-server-end-point", "tls-exporter"];
        let offered = Offered::new(mechanisms, bindings);
        assert_eq!(
            offered.0,
            "SCRAM-SHA-1\x1eSCRAM-SHA-1-PLUS\x1ftls-exporter\x1etls-server-end-point"
        );
        assert_eq!(offered.hash(Hash::Sha1), "G6k/rBLDqgOhRRaCuuatSDFkJ08=");
        let turned =
            Offered::new(["SCRAM-SHA-1-PLUS", "SCRAM-SHA-1"], ["tls-exporter", bindings[0]]);
        assert_eq!(turned, offered);
        assert!(!offered.is_another(Hash::Sha1, "r=x,s=y,i=4096,h=G6k/rBLDqgOhRRaCuuatSDFkJ08="));
        assert!(!offered.is_another(Hash::Sha1, "r=x,s=y,i=4096"));
        let fewer = Offered::new(mechanisms, ["tls-server-end-point"]);
        assert!(fewer.is_another(Hash::Sha1, "r=x,s=y,i=4096,h=G6k/rBLDqgOhRRaCuuatSDFkJ08=")); // B-100
    }

    #[test]
    fn without_channel_bindings_there_is_no_second_list() {
        let offered = Offered::ours(&[Mechanism::Plain], []);
        assert_eq!(offered.0, "PLAIN");
    }
}
