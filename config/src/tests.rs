//! What a bad file is told, and that the examples are a manual one can trust.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use crate::{Config, ConfigError, Database};

const ONE: &str = include_str!("../examples/one-node.toml");
const THREE: &str = include_str!("../examples/three-regions.toml");
const AUTHENTICATION: &str = include_str!("../examples/authentication.toml");

/// Enough to be a configuration; the cases below add their mistakes.
const GOOD: &str = r#"
[node]
region = "eu"
data_dir = "data"

[domains]
global = "chat.example"

[c2s]
certificate = "c.pem"
key = "c.key"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "test.toml", Path::new("/etc/pangaea"))
}

fn read(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)))
}

/// Expects exactly one problem in `text`.
fn check(text: &str, line: usize, key: &str, expected: &str, found: &str) {
    let error = parse(text).expect_err(text);
    let shown: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    assert_eq!(error.problems.len(), 1, "{shown:#?}");
    let problem = &error.problems[0];
    assert_eq!(problem.line, line, "{shown:?}");
    assert_eq!(problem.key, key, "{shown:?}");
    assert!(problem.expected.contains(expected), "{shown:?} should expect {expected:?}");
    assert!(problem.found.contains(found), "{shown:?} should have found {found:?}");
}

/// As `check`, of the good file and `more`. The good file has 11 lines, so `more` begins on line 12.
fn check_added(more: &str, line: usize, key: &str, expected: &str, found: &str) {
    check(&format!("{GOOD}{more}"), line, key, expected, found);
}

#[test]
fn a_small_file_is_enough() {
    let config = read(GOOD);
    assert_eq!(config.node_name(), "eu-0");
    assert_eq!(config.node.data_dir, Path::new("/etc/pangaea/data"));
    let file = Path::new("/etc/pangaea/data/pangaea.sqlite").to_owned();
    assert_eq!(config.storage.database, Database::Sqlite(file));
    assert_eq!(config.s2s.certificate, Path::new("/etc/pangaea/c.pem"));
    assert_eq!(config.metadata.heartbeat, Duration::from_secs(1));
    assert_eq!(config.regions(), ["eu"]);
}

#[test]
fn contacts_see_a_region_gone_within_fifteen_seconds_by_default() {
    let config = read(GOOD);
    // Noticed by a ping that is not answered, believed by a look once a second.
    let late = config.link.silent_after + config.geo.dead_after + Duration::from_secs(1);
    assert!(late < Duration::from_secs(15), "{late:?}");
}

#[test]
fn every_mistake_is_told_with_its_line_its_key_and_what_was_expected() {
    let duration = "a duration, as in \"500ms\"";
    check_added("[geo]\nhold = 5", 13, "geo.hold", duration, "the number 5");
    check_added("[geo]\nhold = \"5 s\"", 13, "geo.hold", duration, "\"5 s\"");
    check_added("[geo]\nhold = \"0s\"", 13, "geo.hold", "from \"1s\" to \"1d\"", "\"0s\"");
    check_added("[geo]\ndown_after = \"2s\"", 13, "geo.down_after", "at least dead_after", "2s");
    check_added("[geo]\nplace = [91.0, 8]", 13, "geo.place", "latitude and longitude", "91");
    check_added(
        "[geo]\ndurability = \"two-regions\"",
        13,
        "geo.durability",
        "another region",
        "there is one",
    );
    check_added(
        "[geo]\ndurability = \"all\"",
        13,
        "geo.durability",
        "\"one-region\" or",
        "\"all\"",
    );
    check_added(
        "[limits]\nstanza_bytes_max = \"64KB\"",
        13,
        "limits.stanza_bytes_max",
        "a size",
        "",
    );
    check_added("[limits]\nstanza_bytes_max = 100", 13, "limits.stanza_bytes_max", "10000", "100");
    check_added("[limits]\nsm_queue_max = -1", 13, "limits.sm_queue_max", "whole number", "-1");
    check_added("[limits]\nsm_queue = 1", 13, "limits.sm_queue", "sm_queue_max", "no key here");
    check_added("[limit]\nsm_queue_max = 1", 12, "limit", "limits", "no key here");
    check_added(
        "[http]\nlisten = \"localhost\"",
        13,
        "http.listen",
        "an address and a port",
        "local",
    );
    check_added(
        "[http]\nlisten = [\"0.0.0.0:5222\"]",
        13,
        "http.listen",
        "nothing else",
        "c2s.listen",
    );
    check_added("[admin]\naccounts = [\"admin\"]", 13, "admin.accounts", "an account", "\"admin\"");
    check_added(
        "[admin]\naccounts = [\"a@b.c\"]",
        13,
        "admin.accounts",
        "of chat.example",
        "a@b.c",
    );
    check_added("[log]\nformat = \"xml\"", 13, "log.format", "\"text\" or \"json\"", "\"xml\"");
    check_added(
        "[storage]\ndatabase = \"redis://h\"",
        13,
        "storage.database",
        "postgres://",
        "another",
    );
    check_added("[storage]\nconnections = 1", 13, "storage.connections", "from 2", "1");
    check_added("[storage]\nsync = true", 13, "storage.sync", "\"full\" or \"normal\"", "true");
    check_added("[s2s]\nkey = \"k\"", 12, "s2s.certificate", "both", "one of them");
    check_added("[s2s]\ndns = \"localhost\"", 13, "s2s.dns", "an address and a port", "localhost");
    check_added("[s2s]\nstanza_bytes_max = 9999", 13, "s2s.stanza_bytes_max", "10000", "9999");
    for section in ["limits", "s2s", "components"] {
        let (large, key) = ("stanza_bytes_max = \"513KiB\"", "stanza_bytes_max");
        check_added(
            &format!("[{section}]\n{large}"),
            13,
            &format!("{section}.{key}"),
            "512KiB",
            "",
        );
    }
    check_added("[s2s]\nretry_max = \"500ms\"", 13, "s2s.retry_max", "retry_first", "500ms");
    check_added(
        "[s2s]\nqueued_bytes_max = \"4MiB\"",
        13,
        "s2s.queued_bytes_max",
        "queue_bytes_max",
        "4194304",
    );
    check_added("[s2s]\nlisten_tls = \"0.0.0.0:5269\"", 13, "s2s.listen_tls", "else", "s2s.listen");
    let rule = |domain: &str, more: &str| format!("[[s2s.policy]]\ndomain = {domain}\n{more}");
    check_added(&rule("\"*.Org\"", ""), 13, "s2s.policy[0].domain", "*.example.org", "*.Org");
    check_added(&rule("\"a.*.b\"", ""), 13, "s2s.policy[0].domain", "for all", "a.*.b");
    check_added(
        &rule("\"*\"", "certificate = \"valid\""),
        14,
        "s2s.policy[0].certificate",
        "\"required\", \"preferred\"",
        "valid",
    );
    check_added(&rule("\"*\"", "tls = false"), 14, "s2s.policy[0].tls", "\"optional\"", "false");
    let twice = rule("\"a.b\"", "") + &rule("\"a.b\"", "allow = false");
    check_added(&twice, 12, "s2s.policy", "one [[s2s.policy]]", "two for \"a.b\"");
    check_added("[metadata]\nvoter = false", 13, "metadata.voter", "true", "nobody");
    check_added(
        "[metadata]\nelection_max = \"4s\"",
        13,
        "metadata.election_max",
        "more than",
        "4s",
    );
    check_added("[metadata]\nheartbeat = \"3s\"", 12, "metadata.election_min", "twice", "4s");
    check_added("[link]\nsilent_after = \"1s\"", 13, "link.silent_after", "twice", "1s");
    check_added("[registration]\nenabled = 1", 13, "registration.enabled", "true or false", "1");
    check_added("[upload]\nurl = \"ftp://a.b\"", 13, "upload.url", "https://", "ftp://a.b");
    check_added("[upload]\nurl = \"http://a.b/\"", 13, "upload.url", "without a slash", "a.b/");
    check_added("[upload]\nkey = \"short\"", 13, "upload.key", "16 characters", "shorter");
    check_added("[upload]\nstore = \"s3\"", 13, "upload.store", "access_key", "none");
    check_added("[upload]\nfile_bytes_max = \"2GiB\"", 13, "upload.file_bytes_max", "at most", "");
    check_added(
        "[[external_services]]\ntype = \"turn\"\nhost = \"a\"\nsecret = \"s\"\npassword = \"p\"",
        16,
        "external_services[0].password",
        "either",
        "both",
    );
    check_added(
        "[[external_services]]\ntype = \"turn\"\nhost = \"a\"\ntransport = \"sctp\"",
        15,
        "external_services[0].transport",
        "\"udp\" or",
        "another",
    );
    let with_upload = GOOD.replace("[c2s]", "upload = \"files.chat.example\"\n[c2s]");
    let wild = format!("{with_upload}[http]\nlisten = \"0.0.0.0:5280\"");
    check(&wild, 1, "upload.url", "at which clients reach", "0.0.0.0:5280");
    let nowhere = format!("{with_upload}[http]\nlisten = []");
    check(&nowhere, 9, "domains.upload", "http.listen", "none");
    let region = GOOD.replace("[c2s]", "anon = \"eu.chat.example\"\n[c2s]");
    check(&region, 9, "domains.anon", "its own", "the region eu");
    let again = GOOD.replace("[c2s]", "proxy = \"proxy.chat.example\"\n[c2s]");
    let again = format!("{again}[proxy]\nlisten = \"0.0.0.0:5222\"");
    check(&again, 14, "proxy.listen", "nothing else", "c2s.listen");
    check_added("peers = 5", 12, "c2s.peers", "auth_deadline", "`peers`");
}

#[test]
fn a_backend_is_told_what_is_wrong_with_it() {
    let backend = |kind: &str, more: &str| format!("[[auth.backends]]\nkind = \"{kind}\"\n{more}");
    check_added(&backend("kerberos", ""), 13, "auth.backends[0].kind", "\"ldap\"", "kerberos");
    let check = |kind: &str, more: &str, line, key: &str, expected: &str| {
        let key = format!("auth.backends[0].{key}");
        check_added(&backend(kind, more), line, &key, expected, "");
    };
    check("ldap", "url = \"ldap:h\"", 14, "url", "the URL of a directory");
    check("ldap", "url = \"ldaps://h\"", 12, "authorities", "certificates");
    check("ldap", "url = \"ldap://h\"\nbind_dn = \"cn=x\"", 15, "bind_dn", "both");
    check("ldap", "url = \"ldap://h\"\nfilter = \"(uid=me)\"", 15, "filter", "{user}");
    let sql = "url = \"sqlite:/f\"\nformat = \"plain\"\n";
    check("sql", &format!("{sql}query = \"SELECT 1\""), 16, "query", "{user}");
    check("sql", &format!("{sql}query = \"{{user}}\"\ntimeout = \"0s\""), 17, "timeout", "100ms");
    check("jwt", "", 12, "keys", "at least one");
    check("http", "url = \"ftp://h/\"", 14, "url", "https://");
    check("http", "url = \"https://a:b@h/\"", 14, "url", "https://");
    check("program", "command = []", 14, "command", "a program");
    let twice = format!("{}{}", backend("internal", ""), backend("internal", ""));
    check_added(&twice, 12, "auth.backends", "at most", "two");
    let registering = format!("[registration]\nenabled = true\n{}", backend("jwt", ""));
    let key = "[[auth.backends.keys]]\nalgorithm = \"HS256\"\nfile = \"f\"\n";
    let registering = format!("{registering}{key}");
    check_added(&registering, 13, "registration.enabled", "\"internal\"", "true");
    let config = read(&format!("{GOOD}{}", backend("certificate", "authorities = \"a.pem\"")));
    let crate::AuthBackend::Certificate(certificate) = &config.auth.backends[0] else {
        panic!("{:?}", config.auth)
    };
    assert_eq!(certificate.authorities, Path::new("/etc/pangaea/a.pem"));
    assert_eq!(read(GOOD).auth.backends, [crate::AuthBackend::Internal]);
}

#[test]
fn a_wildcard_is_no_address_to_be_dialled_at() {
    let advertised = |more: &str| read(&format!("{GOOD}[s2s]\n{more}")).s2s.advertised();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(advertised(""), None);
    assert_eq!(advertised("listen = [\"0.0.0.0:5269\", \"[::]:5270\"]"), None);
    let both = "listen = [\"[::]:5269\", \"192.0.2.1:5270\"]";
    assert_eq!(advertised(both), some("192.0.2.1:5270"));
    assert_eq!(advertised(&format!("{both}\nadvertise = \"eu0.a.b:5269\"")), some("eu0.a.b:5269"));
    check_added("[s2s]\nadvertise = \"eu0\"", 13, "s2s.advertise", "a host and a port", "eu0");
}

#[test]
fn what_is_missing_is_told_too() {
    let certificate = "[c2s]\ncertificate = \"c\"\nkey = \"k\"\n";
    let domains = "[domains]\nglobal = \"a.b\"\n";
    let node = "[node]\nregion = \"eu\"\n";
    let data = "data_dir = \"d\"\n";
    check(&format!("{domains}{certificate}{node}"), 6, "node.data_dir", "the path", "missing");
    check(&format!("{node}{data}{certificate}"), 1, "domains.global", "a domain name", "missing");
    check(&format!("{certificate}{node}{data}[domains]\n"), 7, "domains.global", "", "missing");
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_file() {
    let more = "\
[[peers]]
region = \"us\"
adress = \"a:1\"
fingerprint = \"00\"
raft_id = 1

[[peers]]
region = \"eu\"
address = \"somewhere\"
fingerprint = \"CD\"
raft_id = 3

[geo]
hold = \"long\"
hodl = 1
";
    let error = parse(&format!("{GOOD}{more}")).expect_err("nine mistakes");
    let shown: Vec<String> =
        error.problems.iter().map(|p| format!("{} {}", p.line, p.key)).collect();
    assert_eq!(
        shown,
        [
            "12 peers[0].address",
            "14 peers[0].adress",
            "15 peers[0].fingerprint",
            "16 peers[0].raft_id",
            "19 peers[1].region",
            "20 peers[1].address",
            "21 peers[1].fingerprint",
            "25 geo.hold",
            "26 geo.hodl",
        ]
    );
    let adress = &error.problems[1];
    assert_eq!(adress.help.as_deref(), Some("did you mean `address`?"));
    assert_eq!(error.to_string(), "9 problems in test.toml");
}

#[test]
fn text_that_is_no_toml_is_told_with_its_line() {
    let error = parse("[node]\nregion = eu\n").expect_err("no quotes");
    assert_eq!(error.problems[0].line, 2);
    assert_eq!(error.problems[0].expected, "valid TOML");
}

#[test]
fn plain_logins_are_refused_where_others_could_listen() {
    let open = GOOD.replace("[c2s]", "[c2s]\nallow_plain_without_tls = true");
    check(&open, 10, "c2s.allow_plain_without_tls", "loopback", "0.0.0.0:5222");
    let loopback = open.replace("[c2s]", "[c2s]\nlisten = \"127.0.0.1:5222\"");
    assert!(read(&loopback).c2s.allow_plain_without_tls);
}

#[test]
fn a_report_shows_the_line_and_the_key() {
    let error = parse(&format!("{GOOD}[geo]\nhold = 5\n")).expect_err("no unit");
    let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::none());
    let mut report = String::new();
    handler.render_report(&mut report, &error).expect("a report is text");
    for part in ["one problem in test.toml", "geo.hold", "hold = 5", "test.toml:13:8", "500ms"] {
        assert!(report.contains(part), "{part:?} is missing in:\n{report}");
    }
}

#[test]
fn a_region_has_its_own_name_below_the_global_one() {
    let with = |more: &str| {
        let from = "global = \"chat.example\"";
        assert!(ONE.contains(from) && ONE.contains("regional = \"eu.chat.example\""));
        let text = ONE.replace("regional = \"eu.chat.example\"", more);
        Config::parse(&text, "one", Path::new("/etc"))
    };
    let domains = |more: &str| with(more).expect("it is right").domains;
    assert_eq!(domains("").regional, None);
    let own = domains("regional = \"eu.chat.example\"");
    assert_eq!(own.regional.as_deref(), Some("eu.chat.example"));
    assert_eq!(own.regional_traffic, crate::RegionalTraffic::Federation);
    let linked = domains("regional_traffic = \"link\"");
    assert_eq!(linked.regional_traffic, crate::RegionalTraffic::Link);
    for (wrong, key) in [
        ("regional = \"us.chat.example\"", "domains.regional"),
        ("regional = \"eu.example\"", "domains.regional"),
        ("regional_traffic = \"car\"", "domains.regional_traffic"),
    ] {
        let error = with(wrong).expect_err(wrong);
        assert!(error.to_string().contains("one") && error.problems[0].key == key, "{error:?}");
    }
}

#[test]
fn an_unreadable_file_is_told_by_name() {
    let error = Config::load(Path::new("no/such/file.toml")).expect_err("nothing there");
    assert!(error.to_string().contains("no/such/file.toml"), "{error}");
    assert!(error.problems.is_empty());
}

#[test]
fn the_examples_name_every_key() {
    for (name, text) in [("one-node", ONE), ("three-regions", THREE)] {
        let base = Path::new("/etc/pangaea");
        let (_, asked) = Config::parse_with_keys(text, name, base)
            .unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
        let named = keys_named(text);
        for key in asked.iter().map(|key| without_place(key)) {
            assert!(named.contains(&key), "{name}.toml does not name {key}");
        }
    }
    let (_, asked) = Config::parse_with_keys(AUTHENTICATION, "authentication", Path::new("/etc"))
        .unwrap_or_else(|error| panic!("{:?}", miette::Report::new(error)));
    let named = keys_named(AUTHENTICATION);
    for key in asked.iter().map(|key| without_place(key)).filter(|key| key.starts_with("auth.")) {
        assert!(named.contains(&key), "authentication.toml does not name {key}");
    }
    assert!(named.contains("auth.backends.keys.algorithm"));
    assert!(keys_named(ONE).contains("limits.sm_queue_max"));
    assert!(keys_named(THREE).contains("peers.fingerprint"));
}

#[test]
fn commented_out_keys_show_the_defaults() {
    for text in [ONE, THREE, AUTHENTICATION] {
        let open: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => rest,
                _ => line,
            })
            .fold(String::new(), |all, line| all + line + "\n");
        assert_eq!(read(text), read(&open));
    }
}

/// `section.key` of every line `key = …`, commented out or not.
fn keys_named(text: &str) -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in text.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        {
            keys.insert(format!("{section}.{key}"));
        }
    }
    keys
}

/// `peers[0].region` is `peers.region` in the examples.
fn without_place(key: &str) -> String {
    key.split('.').map(|part| part.split('[').next().unwrap_or(part)).collect::<Vec<_>>().join(".")
}
