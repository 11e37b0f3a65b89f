//! The admin API and the other paths of the port over real HTTP, with an operator that remembers what it was told.

use std::sync::Arc;

use futures_util::future::ready as at_once;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::http;
use crate::http::client::{Client, Reply};
use crate::metrics::Metrics;

/// Knows one account, `admin@chat.example` / `wonderland`, and notes every order.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) missing: Mutex<Vec<String>>,
    pub(crate) orders: Mutex<Vec<String>>,
    /// What was imported, by account; exports give it back.
    pub(crate) users: Mutex<std::collections::BTreeMap<String, UserExport>>,
    /// What was imported of their archives; it is given back two at a time.
    pub(crate) archives: Mutex<std::collections::BTreeMap<String, Vec<Archived>>>,
}

impl Fake {
    fn done<T: Send + 'static>(&self, order: String, value: T) -> Answer<'_, T> {
        self.orders.lock().push(order);
        Box::pin(at_once(Ok(value)))
    }
}

impl Operator for Fake {
    fn authenticate<'a>(&'a self, account: &'a str, password: &'a str) -> BoxFuture<'a, bool> {
        let right = password == "wonderland" && account.ends_with("@chat.example");
        Box::pin(at_once(right))
    }
    fn reload(&self) -> Answer<'_, Reloaded> {
        let done = Reloaded {
            applied: vec!["limits.roster_items_max".to_owned()],
            needs_restart: vec!["http.listen".to_owned()],
            refused: Vec::new(),
            certificates: 1,
        };
        self.done("reload".to_owned(), done)
    }
    fn storage(&self) -> Answer<'_, StorageInfo> {
        self.done("storage".to_owned(), StorageInfo::default())
    }
    fn rebalance(&self, asked: Rebalance) -> Answer<'_, StorageInfo> {
        self.done(format!("rebalance without {:?}", asked.without), StorageInfo::default())
    }
    fn ready(&self) -> Ready {
        Ready::unless(self.missing.lock().clone())
    }
    fn status(&self) -> Answer<'_, Status> {
        let status = Status {
            version: "0.1.0".to_owned(),
            node: "eu-0".to_owned(),
            region: "eu".to_owned(),
            domains: vec!["chat.example".to_owned()],
            ready: self.ready(),
            sessions: 7,
            metadata_leader: Some("us-0".to_owned()),
            ..Status::default()
        };
        self.done("status".to_owned(), status)
    }
    fn regions(&self) -> Answer<'_, Vec<RegionInfo>> {
        let region = RegionInfo {
            name: "us".to_owned(),
            state: RegionState::Draining,
            reachable: true,
            nodes: 1,
            sessions: 3,
            homes: 128,
            lag: Some(0),
            place: None,
        };
        self.done("regions".to_owned(), vec![region])
    }
    fn nodes(&self) -> Answer<'_, Vec<NodeInfo>> {
        self.done("nodes".to_owned(), Vec::new())
    }
    fn node_remove<'a>(&'a self, node: &'a str) -> Answer<'a, ()> {
        self.done(format!("node_remove {node}"), ())
    }
    fn node_vote<'a>(&'a self, node: &'a str, votes: bool) -> Answer<'a, ()> {
        self.done(format!("node_vote {node} {votes}"), ())
    }
    fn metadata(&self) -> Answer<'_, MetadataInfo> {
        self.done("metadata".to_owned(), MetadataInfo::default())
    }
    fn registry(&self) -> Answer<'_, RegistryInfo> {
        let nodes = vec![RegisteredNode {
            name: "eu-1".to_owned(),
            address: "eu1.chat.example:5269".to_owned(),
            incarnation: 5,
            version: "0.1.0".to_owned(),
            lives: true,
            seen_ms_ago: 20,
        }];
        let address = Some("redis://r.example:6379".to_owned());
        self.done("registry".to_owned(), RegistryInfo { address, nodes, ..RegistryInfo::default() })
    }
    fn registry_rows<'a>(&'a self, account: &'a str) -> Answer<'a, Vec<RegistryRow>> {
        self.done(format!("registry of {account}"), Vec::new())
    }
    fn links(&self) -> Answer<'_, Vec<LinkInfo>> {
        self.done("links".to_owned(), Vec::new())
    }
    fn sessions<'a>(
        &'a self,
        account: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<SessionInfo>> {
        self.done(format!("sessions {account:?} {limit}"), Vec::new())
    }
    fn kick<'a>(&'a self, jid: &'a str) -> Answer<'a, usize> {
        self.done(format!("kick {jid}"), 2)
    }
    fn drain<'a>(&'a self, node: Option<&'a str>) -> Answer<'a, DrainInfo> {
        let info = DrainInfo { node: node.unwrap_or("eu-0").to_owned(), ..DrainInfo::default() };
        self.done(format!("drain? {}", info.node), info)
    }
    fn drain_begin<'a>(&'a self, node: Option<&'a str>, new: NewDrain) -> Answer<'a, DrainInfo> {
        let name = node.unwrap_or("eu-0").to_owned();
        let info = DrainInfo { node: name, draining: true, ..DrainInfo::default() };
        self.done(format!("drain {} {:?} {:?}", info.node, new.rate, new.deadline), info)
    }
    fn drain_undo<'a>(&'a self, node: Option<&'a str>) -> Answer<'a, DrainInfo> {
        let info = DrainInfo { node: node.unwrap_or("eu-0").to_owned(), ..DrainInfo::default() };
        self.done(format!("undrain {}", info.node), info)
    }
    fn region_state<'a>(&'a self, region: &'a str, state: RegionState) -> Answer<'a, ()> {
        if region == "mars" {
            return Box::pin(at_once(Err(Refusal::not_found("there is no region mars"))));
        }
        self.done(format!("region {region} {state}"), ())
    }
    fn invite(&self, new: NewInvitation) -> Answer<'_, IssuedInvitation> {
        let issued = IssuedInvitation {
            id: "k1".to_owned(),
            uri: "xmpp:chat.example?register;preauth=t".to_owned(),
            landing_url: new.of.as_ref().map(|_| "https://chat.example/invite/t".to_owned()),
            expires: 0,
        };
        self.done(format!("invite {new:?}"), issued)
    }
    fn invitations<'a>(&'a self, of: Option<&'a str>) -> Answer<'a, Vec<InvitationInfo>> {
        let info = InvitationInfo {
            id: "k1".to_owned(),
            register: true,
            contact: false,
            username: Some("juliet".to_owned()),
            uses: 1,
            created: 0,
            expires: 0,
        };
        self.done(format!("invitations of {of:?}"), vec![info])
    }
    fn invitation_revoke<'a>(&'a self, of: Option<&'a str>, id: &'a str) -> Answer<'a, ()> {
        self.done(format!("revoke {id} of {of:?}"), ())
    }
    fn home_of<'a>(&'a self, account: &'a str) -> Answer<'a, HomeInfo> {
        self.done(format!("home of {account}"), home(account))
    }
    fn home_move<'a>(&'a self, what: HomeTarget, to: &'a str) -> Answer<'a, HomeInfo> {
        self.done(format!("move {what:?} to {to}"), home("x"))
    }
    fn s2s_check<'a>(&'a self, domain: &'a str, from: Option<&'a str>) -> Answer<'a, DomainCheck> {
        let step = |at: &str, outcome, words: &str| {
            let (at, words) = (at.to_owned(), words.to_owned());
            DomainCheckStep { at, outcome, words }
        };
        let check = DomainCheck {
            from: from.unwrap_or("chat.example").to_owned(),
            domain: domain.to_owned(),
            works: false,
            steps: vec![
                step("policy", DomainCheckOutcome::Good, "TLS is required"),
                step("DNS", DomainCheckOutcome::Bad, "DNS knows no domain"),
            ],
        };
        self.done(format!("s2s check {domain} from {from:?}"), check)
    }
    fn reports(&self, limit: usize) -> Answer<'_, Vec<ReportInfo>> {
        let report = ReportInfo {
            at: "2026-11-28T01:00:00Z".to_owned(),
            by: "alice@chat.example".to_owned(),
            jid: "mallory@example.net".to_owned(),
            reason: "urn:xmpp:reporting:spam".to_owned(),
            text: None,
            stanzas: Vec::new(),
            report_origin: false,
            third_party: false,
        };
        self.done(format!("reports {limit}"), vec![report])
    }
    fn users<'a>(&'a self, after: Option<&'a str>, limit: usize) -> Answer<'a, Vec<String>> {
        let all = ["alice@chat.example", "bob@chat.example"].map(str::to_owned);
        let left = all.into_iter().filter(|name| after.is_none_or(|after| name.as_str() > after));
        self.done(format!("users {after:?}"), left.take(limit).collect())
    }
    fn user_add<'a>(&'a self, account: &'a str, password: &'a str) -> Answer<'a, ()> {
        if account.starts_with("alice@") {
            return Box::pin(at_once(Err(Refusal::conflict("alice is there already"))));
        }
        self.done(format!("add {account} {password}"), ())
    }
    fn user_passwd<'a>(&'a self, account: &'a str, password: &'a str) -> Answer<'a, ()> {
        self.done(format!("passwd {account} {password}"), ())
    }
    fn user_remove<'a>(&'a self, account: &'a str) -> Answer<'a, ()> {
        self.done(format!("remove {account}"), ())
    }
    fn user_export<'a>(&'a self, account: &'a str) -> Answer<'a, UserExport> {
        let kept = self.users.lock().get(account).cloned();
        let plain = UserExport { account: account.to_owned(), ..UserExport::default() };
        self.done(format!("export {account}"), kept.unwrap_or(plain))
    }
    fn user_offline<'a>(&'a self, account: &'a str, after: u64) -> Answer<'a, OfflinePage> {
        let page = OfflinePage { offline: vec![format!("<message id='{after}'/>")], more: None };
        self.done(format!("offline {account} {after}"), page)
    }
    fn user_import(&self, mut user: UserExport) -> Answer<'_, Imported> {
        let order = format!("import {}", user.account);
        user.archive_follows = false;
        if self.users.lock().insert(user.account.clone(), user).is_some() {
            return Box::pin(at_once(Err(Refusal::conflict("it is there already"))));
        }
        self.done(order, Imported { import: u64::MAX, parts: 1, archived: 0 })
    }
    fn user_archive<'a>(&'a self, account: &'a str, after: Option<u64>) -> Answer<'a, ArchivePage> {
        let archives = self.archives.lock();
        let kept = archives.get(account).cloned().unwrap_or_default();
        let place = after.map_or(0, |after| usize::try_from(after).expect("small"));
        let archive: Vec<Archived> = kept.iter().skip(place).take(2).cloned().collect();
        let next = place + archive.len();
        let more = (next < kept.len()).then_some(next as u64);
        self.done(format!("archive {account} {after:?}"), ArchivePage { archive, more })
    }
    fn user_import_archive<'a>(
        &'a self,
        account: &'a str,
        part: ArchivePart,
    ) -> Answer<'a, Imported> {
        let order = format!("archived {account} {} {}", part.after.archived, part.last);
        let mut archives = self.archives.lock();
        let kept = archives.entry(account.to_owned()).or_default();
        assert_eq!((part.after.import, part.after.archived), (u64::MAX, kept.len() as u64));
        kept.extend(part.archive);
        let parts = part.after.parts + 1;
        self.done(order, Imported { parts, archived: kept.len() as u64, ..part.after })
    }
}

fn home(account: &str) -> HomeInfo {
    HomeInfo {
        account: Some(account.to_owned()),
        shard: 7,
        region: "eu".to_owned(),
        epoch: 1,
        replicas: vec!["us".to_owned()],
        pinned: false,
    }
}

/// A port with everything on it. Dropping it stops the server.
pub(crate) struct Port {
    pub(crate) operator: Arc<Fake>,
    pub(crate) url: String,
    _stop: watch::Sender<bool>,
}

pub(crate) async fn port() -> Port {
    let operator = Arc::new(Fake::default());
    let listeners = http::bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
    let url = format!("http://{}", listeners[0].local_addr().unwrap());
    let router = http::router(
        operator.clone(),
        Metrics::new("eu", "eu-0"),
        &["admin@chat.example".to_owned()],
    );
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(http::serve(listeners, router, 100, stopped));
    Port { operator, url, _stop: stop }
}

impl Port {
    fn client(&self) -> Client {
        Client::new(&self.url).unwrap()
    }
    async fn admin(&self, method: &str, path: &str, body: &str) -> Reply {
        let client = self.client().with_user("Admin@chat.example", "wonderland");
        let body = (!body.is_empty()).then(|| body.as_bytes().to_vec());
        client.ask(method, path, body).await.unwrap()
    }
}

#[tokio::test]
async fn a_node_is_alive_before_it_is_ready_and_says_what_is_missing() {
    let port = port().await;
    *port.operator.missing.lock() = vec!["no link to us-0".to_owned()];
    let get = async |path| port.client().ask("GET", path, None).await.unwrap();
    assert_eq!(get("/health").await.status, 200);
    let ready = get("/ready").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.text(), r#"{"ready":false,"reasons":["no link to us-0"]}"#);
    port.operator.missing.lock().clear();
    assert_eq!(get("/ready").await.status, 200);
    assert!(get("/metrics").await.text().ends_with("# EOF\n"));
    assert_eq!(get("/nothing").await.status, 404);
}

#[tokio::test]
async fn only_an_administrator_with_the_password_may_ask() {
    let port = port().await;
    let check = async |client: Client, status| {
        let reply = client.ask("GET", "/admin/status", None).await.unwrap();
        assert_eq!(reply.status, status, "{reply:?}");
    };
    check(port.client(), 401).await;
    check(port.client().with_user("admin@chat.example", "wrong"), 401).await;
    // The password is right, but alice is no administrator.
    check(port.client().with_user("alice@chat.example", "wonderland"), 401).await;
    check(port.client().with_user("admin@chat.example", "wonderland"), 200).await;
}

#[tokio::test]
async fn every_path_reaches_the_operator() {
    let port = port().await;
    let cases = [
        ("GET", "/admin/regions", "", "regions"),
        ("PUT", "/admin/regions/us/state", r#"{"state":"down"}"#, "region us down"),
        ("DELETE", "/admin/nodes/eu-1", "", "node_remove eu-1"),
        ("PUT", "/admin/nodes/eu-1/vote", r#"{"votes":true}"#, "node_vote eu-1 true"),
        ("GET", "/admin/nodes", "", "nodes"),
        ("GET", "/admin/metadata", "", "metadata"),
        ("GET", "/admin/links", "", "links"),
        ("GET", "/admin/registry", "", "registry"),
        ("GET", "/admin/registry/alice@chat.example", "", "registry of alice@chat.example"),
        ("GET", "/admin/sessions", "", "sessions None 100"),
        ("GET", "/admin/sessions?account=a@b&limit=5", "", r#"sessions Some("a@b") 5"#),
        ("DELETE", "/admin/sessions?jid=a@b%2Fphone%201", "", "kick a@b/phone 1"),
        ("GET", "/admin/homes/a@b", "", "home of a@b"),
        ("POST", "/admin/homes/move", r#"{"what":{"shard":9},"to":"us"}"#, "move Shard(9) to us"),
        (
            "POST",
            "/admin/homes/move",
            r#"{"what":{"account":"a@b"},"to":"us"}"#,
            r#"move Account("a@b") to us"#,
        ),
        ("GET", "/admin/reports?limit=7", "", "reports 7"),
        ("GET", "/admin/users?after=a@b", "", r#"users Some("a@b")"#),
        ("POST", "/admin/users", r#"{"account":"a@b","password":"p"}"#, "add a@b p"),
        ("PUT", "/admin/users/a@b/password", r#"{"password":"q"}"#, "passwd a@b q"),
        ("DELETE", "/admin/users/a@b", "", "remove a@b"),
        ("GET", "/admin/users/a@b/export", "", "export a@b"),
        ("GET", "/admin/users/a@b/offline?after=7", "", "offline a@b 7"),
        ("POST", "/admin/users/import", r#"{"account":"a@b","password":"p"}"#, "import a@b"),
    ];
    for (method, path, body, order) in cases {
        let reply = port.admin(method, path, body).await;
        assert_eq!(reply.status, 200, "{method} {path}: {reply:?}");
        assert_eq!(port.operator.orders.lock().last().map(String::as_str), Some(order));
    }
}

#[tokio::test]
async fn a_refusal_has_its_status_and_says_why() {
    let port = port().await;
    let cases = [
        ("PUT", "/admin/regions/mars/state", r#"{"state":"up"}"#, 404, "no region mars"),
        ("PUT", "/admin/regions/us/state", r#"{"state":"gone"}"#, 400, "gone"),
        ("POST", "/admin/users", r#"{"account":"alice@c","password":"p"}"#, 409, "already"),
        ("POST", "/admin/users", r#"{"account":"a@b"}"#, 400, "password"),
        ("POST", "/admin/users", "no JSON", 400, "JSON"),
        ("GET", "/admin/sessions?limit=x", "", 400, "limit"),
        ("POST", "/admin/users/import", r#"{"account":"a@b","rows":[]}"#, 400, "rows"),
    ];
    for (method, path, body, status, says) in cases {
        let reply = port.admin(method, path, body).await;
        assert_eq!(reply.status, status, "{method} {path}: {reply:?}");
        let refusal: Refusal = serde_json::from_slice(&reply.body).unwrap();
        assert!(refusal.message.contains(says), "{refusal:?} should say {says:?}");
    }
}

#[tokio::test]
async fn the_description_names_every_path_and_is_open_to_all() {
    let port = port().await;
    let reply = port.client().ask("GET", "/admin/openapi.json", None).await.unwrap();
    assert_eq!(reply.status, 200);
    let description: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
    let paths = description["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 28, "{:?}", paths.keys());
    assert!(paths["/admin/regions/{name}/state"]["put"].is_object());
    assert_eq!(description["components"]["securitySchemes"]["password"]["scheme"], "basic");
}
