//! Room `s2s::federation::net`: what DNS says of a domain, as values, and the order in which its servers are tried (RFC 2782, RFC 6120 §3.2.1,
//! XEP-0368 §2). Called by `dns`. No socket, no clock; chance is handed in.
//!
//! Both services, `_xmpp-server` (STARTTLS) and `_xmpps-server` (TLS from the first byte), are one set: their priorities and weights are compared
//! with each other (XEP-0368 §2, rule 4).

use std::net::IpAddr;

/// Servers of one domain that are tried. Beyond: those of the lowest priority are left out.
pub const TARGETS_MAX: usize = 32;
/// Addresses of one server that are tried. Beyond: the rest is left out.
pub const ADDRESSES_MAX: usize = 8;

/// How a stream to a server begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Security {
    /// TLS from the first byte, with ALPN (XEP-0368).
    DirectTls,
    /// In the clear; TLS by STARTTLS (RFC 6120 §5).
    StartTls,
}

impl std::fmt::Display for Security {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Security::DirectTls => "direct TLS",
            Security::StartTls => "STARTTLS",
        })
    }
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// The lowest is tried first.
    pub priority: u16,
    /// Its share among those of the same priority.
    pub weight: u16,
    /// Where it listens.
    pub port: u16,
    /// Its name, in A-labels and lower case, without the last dot. Empty: the service is not offered.
    pub host: String,
    /// Of which of the two services.
    pub security: Security,
    /// DNSSEC has proved it.
    pub authentic: bool,
}

/// What DNS said to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These records, at least one.
    Records(Vec<Srv>),
    /// There are none.
    Nothing,
    /// It could not say.
    Failed(String),
}

/// What is to be done with both answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// These servers are tried, in an order that [`order`] finds.
    These(Vec<Srv>),
    /// Nobody has said anything: the domain itself is tried, on port 5269.
    Itself,
    /// The domain says that it has no such service (RFC 2782, target ".").
    NotOffered,
    /// DNS did not say, for this reason.
    Unknown(String),
}

/// What the answers for `_xmpps-server` and `_xmpp-server` mean together.
#[must_use]
pub fn servers(direct: Answer, start_tls: Answer) -> Servers {
    let no_start_tls =
        matches!(&start_tls, Answer::Records(all) if all.iter().all(|one| one.host.is_empty()));
    let mut all = Vec::new();
    let mut failed = None;
    if let Answer::Records(records) = direct {
        all.extend(records);
    }
    // A failure of the other is passed over: many name servers stumble over a service they have never heard of.
    match start_tls {
        Answer::Records(records) => all.extend(records),
        Answer::Nothing => {}
        Answer::Failed(why) => failed = Some(why),
    }
    all.retain(|one| !one.host.is_empty());
    match failed {
        _ if !all.is_empty() => Servers::These(all),
        _ if no_start_tls => Servers::NotOffered,
        Some(why) => Servers::Unknown(why),
        None => Servers::Itself,
    }
}

/// RFC 2782: by priority; within one, by chance according to the weights. `chance(n)` is a number from 0 to n, each equally likely. At most
/// [`TARGETS_MAX`]; what is named twice is tried once.
pub fn order(mut all: Vec<Srv>, chance: &mut impl FnMut(u32) -> u32) -> Vec<Srv> {
    // Those of weight 0 first: they are chosen only when chance says 0.
    all.sort_by_key(|one| (one.priority, one.weight != 0));
    let mut ordered: Vec<Srv> = Vec::with_capacity(all.len().min(TARGETS_MAX));
    let mut rest = all.as_mut_slice();
    while let (Some(first), true) = (rest.first(), ordered.len() < TARGETS_MAX) {
        let priority = first.priority;
        let same = rest.iter().take_while(|one| one.priority == priority).count();
        let sum: u32 = rest[..same].iter().map(|one| u32::from(one.weight)).sum();
        let wanted = chance(sum).min(sum);
        let mut running = 0;
        let chosen = rest[..same]
            .iter()
            .position(|one| {
                running += u32::from(one.weight);
                running >= wanted
            })
            .unwrap_or(0);
        // It goes to the front, and the others keep their order.
        rest[..=chosen].rotate_right(1);
        let (taken, others) = rest.split_at_mut(1);
        let twice = |other: &Srv| {
            (other.port, other.security) == (taken[0].port, taken[0].security)
                && other.host == taken[0].host
        };
        if !ordered.iter().any(twice) {
            ordered.push(taken[0].clone());
        }
        rest = others;
    }
    ordered
}

/// A server of a domain, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name, in A-labels, without the last dot.
    pub host: String,
    /// Where it listens.
    pub port: u16,
    /// How a stream to it begins.
    pub security: Security,
    /// Where it is: at least one address, none of which is our own.
    pub addresses: Vec<IpAddr>,
    /// DNSSEC has proved the record that names it.
    pub authentic: bool,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} ({})", self.host, self.port, self.security)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, host: &str) -> Srv {
        let security = Security::StartTls;
        Srv { priority, weight, port: 5269, host: host.to_owned(), security, authentic: false }
    }

    fn hosts(all: &[Srv]) -> String {
        all.iter().map(|one| one.host.as_str()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn priority_comes_first_and_weight_is_a_share() {
        let all =
            vec![srv(20, 1, "late"), srv(10, 0, "zero"), srv(10, 3, "big"), srv(10, 1, "small")];
        let check = |mut chances: Vec<u32>, expected: &str| {
            let mut chance = |_| chances.remove(0);
            assert_eq!(hosts(&order(all.clone(), &mut chance)), expected);
        };
        check(vec![0, 0, 0, 0], "zero big small late");
        check(vec![1, 0, 0, 0], "big zero small late");
        check(vec![4, 0, 0, 0], "small zero big late");
        check(vec![3, 1, 0, 0], "big small zero late");
    }

    #[test]
    fn the_share_of_each_is_its_weight() {
        let all = vec![srv(1, 10, "a"), srv(1, 30, "b"), srv(1, 0, "c")];
        let mut firsts = std::collections::BTreeMap::<String, u32>::new();
        // Every number that chance can give, once.
        for n in 0..=40 {
            let first = order(all.clone(), &mut |_| n).remove(0);
            *firsts.entry(first.host).or_default() += 1;
        }
        assert_eq!(
            firsts.into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), 10), ("b".to_owned(), 30), ("c".to_owned(), 1)]
        );
    }

    #[test]
    fn so_many_and_no_more_and_each_once() {
        let many = (0..1_000).map(|n| srv(n, 0, &format!("h{n}"))).collect();
        let ordered = order(many, &mut |_| 0);
        assert_eq!((ordered.len(), &*ordered[31].host), (TARGETS_MAX, "h31"));
        let same = vec![srv(1, 0, "a"), srv(2, 5, "a"), srv(3, 0, "b")];
        assert_eq!(hosts(&order(same, &mut |sum| sum)), "a b");
        assert!(order(Vec::new(), &mut |_| 0).is_empty());
    }

    #[test]
    fn both_answers_are_one_set() {
        let records =
            |hosts: &[&str]| Answer::Records(hosts.iter().map(|h| srv(1, 1, h)).collect());
        let failed = || Answer::Failed("slow".to_owned());
        let none = || Answer::Nothing;
        let check = |direct, start_tls, expected: &str| {
            let found = match servers(direct, start_tls) {
                Servers::These(all) => hosts(&all),
                Servers::Itself => "itself".to_owned(),
                Servers::NotOffered => "not offered".to_owned(),
                Servers::Unknown(why) => format!("unknown: {why}"),
            };
            assert_eq!(found, expected);
        };
        check(records(&["a"]), records(&["b"]), "a b");
        check(records(&["a"]), none(), "a");
        check(records(&["a"]), failed(), "a");
        check(failed(), records(&["b"]), "b");
        check(none(), none(), "itself");
        check(records(&[""]), records(&["b"]), "b");
        check(records(&[""]), none(), "itself");
        check(records(&[""]), records(&[""]), "not offered");
        check(none(), records(&[""]), "not offered");
        check(failed(), records(&[""]), "not offered");
        check(records(&["a"]), records(&[""]), "a");
        check(none(), failed(), "unknown: slow");
        check(failed(), failed(), "unknown: slow");
        check(failed(), none(), "itself");
    }
}
