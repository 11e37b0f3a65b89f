//! Real questions to a name server of the tests' own on loopback: what it says, what it keeps to itself, and what it lies about.

use hickory_resolver::proto::rr::rdata::tlsa::{CertUsage, Matching, Selector};
use hickory_resolver::proto::rr::rdata::{CNAME, TLSA};
use tokio::net::UdpSocket;

use super::super::testing::Zone;
use super::*;

async fn find(zone: Zone, domain: &str, own: &[&str]) -> Result<Vec<Target>, FindError> {
    let (server, _) = zone.serve().await;
    let own = Own(own.iter().map(|address| address.parse().unwrap()).collect());
    let resolver = Resolver::new(&[server], false).unwrap();
    resolver.find(domain, &own, &mut |_| 0).await
}

fn words(found: Result<Vec<Target>, FindError>) -> String {
    match found {
        Ok(targets) => {
            let word = |target: &Target| {
                let ips: Vec<String> = target.addresses.iter().map(ToString::to_string).collect();
                format!("{target} at {}", ips.join(" "))
            };
            targets.iter().map(word).collect::<Vec<_>>().join("; ")
        }
        Err(error) => format!("{}: {error}", error.condition().name()),
    }
}

#[tokio::test]
async fn both_services_are_tried_by_priority_together() {
    let zone = Zone::default()
        .srv("_xmpp-server._tcp.a.lab", 10, 5269, "one.a.lab.")
        .srv("_xmpp-server._tcp.a.lab", 30, 5270, "Two.A.lab.")
        .srv("_xmpps-server._tcp.a.lab", 20, 443, "one.a.lab.")
        .a("one.a.lab", "192.0.2.1")
        .a("one.a.lab", "2001:db8::1")
        .a("two.a.lab", "192.0.2.2");
    let expected = "one.a.lab:5269 (STARTTLS) at 2001:db8::1 192.0.2.1; \
        one.a.lab:443 (direct TLS) at 2001:db8::1 192.0.2.1; two.a.lab:5270 (STARTTLS) at 192.0.2.2";
    assert_eq!(words(find(zone, "a.lab", &[]).await), expected);
}

#[tokio::test]
async fn a_domain_without_srv_is_its_own_server() {
    let zone = Zone::default().a("a.lab", "192.0.2.1");
    assert_eq!(words(find(zone, "a.lab", &[]).await), "a.lab:5269 (STARTTLS) at 192.0.2.1");
    // In A-labels, and by way of an alias.
    let other = RData::CNAME(CNAME(Name::from_ascii("host.lab.").unwrap()));
    let zone = Zone::default().with("xn--mnchen-3ya.lab", other).a("host.lab", "192.0.2.1");
    let expected = "xn--mnchen-3ya.lab:5269 (STARTTLS) at 192.0.2.1";
    assert_eq!(words(find(zone, "münchen.lab", &[]).await), expected);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let check = async |zone: Zone, domain: &str, own: &[&str], expected: &str| {
        let found = words(find(zone, domain, own).await);
        assert_eq!(found, format!("remote-server-not-found: {expected}"));
    };
    check(Zone::default(), "a.lab", &[], "DNS knows no domain a.lab").await;
    let other = || RData::CNAME(CNAME(Name::from_ascii("b.lab.").unwrap()));
    let back = RData::CNAME(CNAME(Name::from_ascii("a.lab.").unwrap()));
    let neither = "a.lab has no XMPP server: neither SRV records nor an address";
    check(Zone::default().with("a.lab", other()).with("b.lab", back), "a.lab", &[], neither).await;
    // B-214: the same loop under a service.
    let looping = Zone::default()
        .srv("_xmpp-server._tcp.a.lab", 1, 5269, "b.lab.")
        .with("b.lab", RData::CNAME(CNAME(Name::from_ascii("c.lab.").unwrap())))
        .with("c.lab", RData::CNAME(CNAME(Name::from_ascii("b.lab.").unwrap())));
    let no_server = "none of the servers that DNS names for a.lab has an address";
    check(looping, "a.lab", &[], no_server).await;
    let gone = Zone::default()
        .srv("_xmpp-server._tcp.a.lab", 1, 5269, "gone.lab.")
        .a("a.lab", "192.0.2.1");
    check(gone, "a.lab", &[], no_server).await;
    let refused = Zone::default().srv("_xmpp-server._tcp.a.lab", 0, 0, ".").a("a.lab", "192.0.2.1");
    check(refused, "a.lab", &[], "a.lab says in DNS that it has no XMPP service for servers").await;
    let ours = || {
        Zone::default().srv("_xmpp-server._tcp.a.lab", 0, 6000, "a.lab.").a("a.lab", "127.0.0.1")
    };
    let us = "DNS leads to this server, which does not serve a.lab";
    check(ours(), "a.lab", &["127.0.0.1:6000"], us).await;
    check(ours(), "a.lab", &["[::ffff:127.0.0.1]:6000"], us).await;
    check(ours(), "a.lab", &["0.0.0.0:6000"], us).await;
    assert!(find(ours(), "a.lab", &["127.0.0.1:6001", "127.0.0.2:6000"]).await.is_ok());
    for address in ["192.0.2.1", "[2001:db8::1]"] {
        check(Zone::default(), address, &[], &format!("{address} is an address and no domain"))
            .await;
    }
    let long = format!("{}.lab", "a.".repeat(124));
    assert_eq!(
        find(Zone::default(), &long, &[]).await.unwrap_err().condition(),
        Condition::RemoteServerNotFound
    );
    check(Zone::default(), "a b.lab", &[], "\"a b.lab\" is no name that DNS can have").await;
}

#[tokio::test]
async fn what_cannot_be_known_may_be_there_later() {
    let broken = |name: &str| Zone { broken: vec![name.to_owned()], ..Zone::default() };
    let check = async |zone: Zone| {
        let found = words(find(zone, "a.lab", &[]).await);
        assert!(
            found.starts_with("remote-server-timeout: DNS does not say where a.lab is"),
            "{found}"
        );
    };
    check(broken("_xmpp-server._tcp.a.lab").a("a.lab", "192.0.2.1")).await;
    check(broken("a.lab")).await;
    check(broken("b.lab").srv("_xmpp-server._tcp.a.lab", 1, 1, "b.lab.")).await;
    // A name server that stumbles over the service it has never heard of.
    let zone = broken("_xmpps-server._tcp.a.lab").a("a.lab", "192.0.2.1");
    assert_eq!(words(find(zone, "a.lab", &[]).await), "a.lab:5269 (STARTTLS) at 192.0.2.1");
    // One of two has an address.
    let zone = broken("b.lab")
        .srv("_xmpp-server._tcp.a.lab", 1, 1, "b.lab.")
        .srv("_xmpp-server._tcp.a.lab", 2, 2, "c.lab.")
        .a("c.lab", "192.0.2.3");
    assert_eq!(words(find(zone, "a.lab", &[]).await), "c.lab:2 (STARTTLS) at 192.0.2.3");
}

#[tokio::test(start_paused = true)]
async fn without_a_name_server_nothing_is_known() {
    let nobody = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let resolver = Resolver::new(&[nobody], false).unwrap();
    let error = resolver.find("a.lab", &Own::default(), &mut |_| 0).await.unwrap_err();
    assert_eq!(error.condition(), Condition::RemoteServerTimeout);
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_is_silent_is_not_waited_for_forever() {
    let silent = ["_xmpp-server._tcp.a.lab", "_xmpps-server._tcp.a.lab"].map(str::to_owned);
    let zone = Zone { silent: silent.to_vec(), ..Zone::default() };
    let began = tokio::time::Instant::now();
    let error = find(zone, "a.lab", &[]).await.unwrap_err();
    assert_eq!(error.condition(), Condition::RemoteServerTimeout);
    assert!(began.elapsed() < SEARCH + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_flood_of_servers_is_cut() {
    let mut zone = Zone::default();
    for n in 0..1_000_u16 {
        let host = format!("h{n}.a.lab");
        zone =
            zone.srv("_xmpp-server._tcp.a.lab", n, 5269, &format!("{host}.")).a(&host, "192.0.2.1");
    }
    let (server, zone) = zone.serve().await;
    let resolver = Resolver::new(&[server], false).unwrap();
    let found = resolver.find("a.lab", &Own::default(), &mut |_| 0).await.unwrap();
    assert_eq!((found.len(), &*found[31].host), (targets::TARGETS_MAX, "h31.a.lab"));
    let asked = zone.asked.lock().len();
    assert!(asked < 3 * (2 + 2 * targets::TARGETS_MAX), "{asked} questions");
    // And what was said is remembered.
    resolver.find("a.lab", &Own::default(), &mut |_| 0).await.unwrap();
    let again =
        zone.asked.lock()[asked..].iter().filter(|one| one.starts_with("SRV _xmpp-")).count();
    assert_eq!(again, 0);
}

fn tlsa(data: &[u8]) -> RData {
    RData::TLSA(TLSA::new(CertUsage::DaneEe, Selector::Spki, Matching::Sha256, data.to_vec()))
}

fn named() -> Zone {
    Zone::default()
        .srv("_xmpp-server._tcp.a.lab", 1, 5270, "one.lab.")
        .srv("_xmpps-server._tcp.a.lab", 2, 443, "two.lab.")
        .a("one.lab", "192.0.2.1")
        .with("_5270._tcp.one.lab", tlsa(&[1; 32]))
        .with("_443._tcp.two.lab", tlsa(&[2; 32]))
}

#[tokio::test]
async fn what_is_signed_says_which_certificates_there_are() {
    let (zone, anchors) = named().signed();
    let (server, _) = zone.serve().await;
    let resolver = Resolver::with_anchors(&[server], Some(anchors)).unwrap();
    let found = resolver.find("a.lab", &Own::default(), &mut |_| 0).await.unwrap();
    assert!(found.len() == 1 && found[0].authentic, "{found:?}");
    let named = resolver.tlsa("a.lab").await;
    let words: Vec<String> =
        named.iter().map(|one| format!("{} {} {}", one.host, one.usage, one.data[0])).collect();
    assert_eq!(words, ["one.lab 3 1", "two.lab 3 2"]);
    assert_eq!(resolver.tlsa("b.lab").await, []);
    let error = resolver.find("b.lab", &Own::default(), &mut |_| 0).await.unwrap_err();
    assert_eq!(error.condition(), Condition::RemoteServerNotFound, "{error}");
}

#[tokio::test]
async fn what_is_signed_by_another_is_not_believed() {
    let (_, anchors) = Zone::default().signed();
    let (zone, _) = named().signed();
    let (server, _) = zone.serve().await;
    let resolver = Resolver::with_anchors(&[server], Some(anchors)).unwrap();
    let error = resolver.find("a.lab", &Own::default(), &mut |_| 0).await.unwrap_err();
    assert_eq!(error.condition(), Condition::RemoteServerTimeout, "{error}");
    assert_eq!(resolver.tlsa("a.lab").await, []);
}

#[tokio::test]
async fn without_dnssec_no_certificate_is_named() {
    let (server, zone) = named().serve().await;
    let resolver = Resolver::new(&[server], false).unwrap();
    assert_eq!(resolver.tlsa("a.lab").await, []);
    assert!(zone.asked.lock().is_empty());
    assert!(!resolver.find("a.lab", &Own::default(), &mut |_| 0).await.unwrap()[0].authentic);
}
