//! The second copy of an outbox, where `durability = "two-regions"`: what this node has promised and could not hand on at once is on its own disk,
//! and with the addressee's home ([`keeper`]), which answers when its heir has it too. So it survives the loss of this node's whole region: when that
//! is declared down, the homes route what they keep for its nodes. When it returns, it asks what was taken over. Blueprint §7.
//!
//! Called by the outbox; [`take_over`] by `app` when metadata changes. Absent on purpose: when to write (the outbox), order (the table).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use xmpp::jid::{BareJid, Jid};
use xmpp::stanza::Stanza;

use crate::app::Node;
use crate::homes::{Decision, HomeError, Tx};
use crate::router::ledger::{Due, ToStore};
use crate::router::{self, Routed};

/// Name of the operation.
pub const OP: &str = "outbox";
/// A map, owner the addressee or its [`keeper`]; key the node and its order; value as in that node's outbox, or empty: taken over.
pub const SECOND: &str = "outbox.second";
/// Bytes of messages in one request.
const PART_BYTES: usize = 384 << 10;
/// Before a home that cannot be reached is asked again. Their senders wait meanwhile.
const RETRY: Duration = Duration::from_millis(500);
/// How long what is taken over may take to be written here, before the homes are left with it for the next time.
pub(super) const WRITTEN_WITHIN: Duration = Duration::from_secs(60);
/// Owners looked at in one step.
const OWNERS: usize = 256;

/// What may be asked of a home.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Keep these for a node.
    Keep {
        /// Which.
        node: String,
        /// Its orders, and what its outbox has under them.
        rows: Vec<(u64, Vec<u8>)>,
    },
    /// They need not be kept any longer.
    Drop {
        /// Whose.
        node: String,
        /// Its orders.
        orders: Vec<u64>,
    },
    /// The home has taken these over: it only remembers that.
    TakeOver {
        /// Whose.
        node: String,
        /// Its orders.
        orders: Vec<u64>,
    },
    /// Which of these were taken over?
    Taken {
        /// Whose.
        node: String,
        /// Its orders.
        orders: Vec<u64>,
    },
}

/// The operation.
pub struct SecondHome;

impl Decision for SecondHome {
    const OP: &'static str = OP;
    type Request = Request;
    type Answer = Vec<u64>;

    async fn decide(
        &self,
        tx: &mut Tx,
        _: &BareJid,
        request: Request,
    ) -> Result<Vec<u64>, HomeError> {
        decide(tx, request).await
    }
}

fn key(node: &str, order: u64) -> String {
    format!("{node}/{order:020}")
}

async fn decide(tx: &mut Tx, request: Request) -> Result<Vec<u64>, HomeError> {
    match request {
        Request::Keep { node, rows } => {
            for (order, row) in rows {
                let key = key(&node, order);
                // What was taken over stays taken over, though its node was only away.
                if tx.get(SECOND, &key).await?.is_none_or(|known| !known.is_empty()) {
                    tx.put(SECOND, key, row);
                }
            }
        }
        Request::Drop { node, orders } => {
            for order in orders {
                tx.delete(SECOND, key(&node, order));
            }
        }
        Request::TakeOver { node, orders } => {
            for order in orders {
                let key = key(&node, order);
                if tx.get(SECOND, &key).await?.is_some() {
                    tx.put(SECOND, key, Vec::new());
                }
            }
        }
        Request::Taken { node, orders } => {
            let mut taken = Vec::new();
            for order in orders {
                if tx.get(SECOND, &key(&node, order)).await?.is_some_and(|row| row.is_empty()) {
                    taken.push(order);
                }
            }
            return Ok(taken);
        }
    }
    Ok(Vec::new())
}

async fn ask(node: &Node, to: &BareJid, request: &Request) -> Result<Vec<u64>, HomeError> {
    node.homes.exchange(to, OP, request).await
}

/// How far the copy of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    /// Its home is asked to keep it.
    Going,
    /// Its home has it, or may have it.
    There,
    /// Somebody has kept the message before its home could: the home is to drop it when it has it.
    NotWanted,
}

/// What is with homes on our behalf. Memory: an entry for each message in the outbox.
#[derive(Debug, Default)]
pub struct Second {
    /// With whose home, and how far.
    copies: Mutex<HashMap<u64, (BareJid, Copy)>>,
    /// Requests that are not answered.
    pending: AtomicUsize,
    answered: Notify,
    taking_over: tokio::sync::Mutex<()>,
}

/// A request on the way; when it goes, it is answered.
struct Pending(Arc<Node>);

impl Pending {
    fn new(node: &Arc<Node>) -> Self {
        node.second.pending.fetch_add(1, Ordering::AcqRel);
        Self(node.clone())
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.second.pending.fetch_sub(1, Ordering::AcqRel);
        self.0.second.answered.notify_waiters();
    }
}

impl Second {
    /// A former life left these; they may be with homes.
    pub fn recover(&self, left: impl Iterator<Item = (u64, BareJid)>) {
        let mut copies = self.copies.lock();
        copies.extend(left.map(|(order, to)| (order, (to, Copy::There))));
    }

    /// Waits until all that homes were asked is answered; false when the time is over.
    pub async fn settled(&self, deadline: Instant) -> bool {
        loop {
            let answered = self.answered.notified();
            if self.pending.load(Ordering::Acquire) == 0 {
                return true;
            }
            if timeout_at(deadline, answered).await.is_err() {
                return false;
            }
        }
    }
}

/// With whose home the copy of what is for that one is: with his own, unless he is at home in one region for ever. His home has no heir, and while it is down nothing
/// could be promised to anybody who writes to him: for such as him the server itself keeps it.
pub fn keeper(node: &Node, to: &BareJid) -> BareJid {
    match node.domains.is_regional(to.domain()) {
        true => node.server.bare(),
        false => to.clone(),
    }
}

/// Brings what was just written here to the homes of the addressees, and tells the senders when it is there.
pub fn keep(node: &Arc<Node>, written: Vec<ToStore>) {
    let mut by_account: BTreeMap<BareJid, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    {
        let mut copies = node.second.copies.lock();
        for (order, accepted_ms, stanza) in written {
            let Some(to) = router::addressee(node, &stanza) else { continue };
            let to = keeper(node, &to);
            copies.insert(order, (to.clone(), Copy::Going));
            by_account.entry(to).or_default().push((order, super::row(accepted_ms, &stanza)));
        }
    }
    for (to, rows) in by_account {
        let pending = Pending::new(node);
        tokio::spawn(async move {
            let node = &pending.0;
            let mut rest = rows.into_iter().peekable();
            while rest.peek().is_some() {
                let mut bytes = 0;
                let mut part = Vec::new();
                while let Some(row) = rest.next_if(|(_, row)| {
                    bytes += row.len();
                    bytes <= PART_BYTES || part.is_empty()
                }) {
                    part.push(row);
                }
                let orders: Vec<u64> = part.iter().map(|(order, _)| *order).collect();
                let me = node.geo.me.to_string();
                asked_until_done(node, &to, &Request::Keep { node: me, rows: part }).await;
                let unwanted = there(node, &orders);
                drop(node.ledger.stored(orders.into_iter())); // And with them the receipts: the senders are told.
                if !unwanted.is_empty() {
                    drop_at(node, to.clone(), unwanted);
                }
            }
        });
    }
}

/// Their home has these. Those of them that it is to drop again.
fn there(node: &Node, orders: &[u64]) -> Vec<u64> {
    let mut copies = node.second.copies.lock();
    let mut unwanted = Vec::new();
    for order in orders {
        match copies.get_mut(order) {
            Some((_, copy @ Copy::Going)) => *copy = Copy::There,
            Some((_, Copy::NotWanted)) => unwanted.push(*order),
            _ => {}
        }
    }
    unwanted
}

/// What was let go of: see [`let_go`].
#[derive(Debug, Default)]
pub struct LetGo {
    /// No home has them: they may be removed from the outbox.
    pub alone: Vec<u64>,
    /// To be written in the place of the others: that they are kept, and whose home is still to hear it.
    pub marks: Vec<(u64, Vec<u8>)>,
    there: BTreeMap<BareJid, Vec<u64>>,
}

/// These are kept by somebody. What homes have of them is marked in the outbox until the homes have heard it ([`LetGo::tell`]): so a home keeps
/// nothing that no outbox speaks of, and a life that ends meanwhile does not route it anew.
pub fn let_go(node: &Node, orders: Vec<u64>) -> LetGo {
    let mut let_go = LetGo::default();
    let mut copies = node.second.copies.lock();
    for order in orders {
        let Some((to, copy)) = copies.get_mut(&order) else {
            let_go.alone.push(order);
            continue;
        };
        let_go.marks.push((order, mark(to)));
        if *copy == Copy::There {
            let_go.there.entry(to.clone()).or_default().push(order);
        }
        *copy = Copy::NotWanted;
    }
    let_go
}

impl LetGo {
    /// The marks are written.
    pub fn tell(self, node: &Arc<Node>) {
        for (to, orders) in self.there {
            drop_at(node, to, orders);
        }
    }

    /// They are not: everything is as it was, and comes again.
    pub fn undo(self, node: &Node) -> Vec<u64> {
        let mut copies = node.second.copies.lock();
        for order in self.there.values().flatten() {
            if let Some((_, copy)) = copies.get_mut(order) {
                *copy = Copy::There;
            }
        }
        self.alone.into_iter().chain(self.marks.into_iter().map(|(order, _)| order)).collect()
    }
}

/// What a former life had marked.
pub fn recover_marks(node: &Arc<Node>, marks: BTreeMap<BareJid, Vec<u64>>) {
    let mut copies = node.second.copies.lock();
    for (to, orders) in &marks {
        copies.extend(orders.iter().map(|order| (*order, (to.clone(), Copy::NotWanted))));
    }
    drop(copies);
    marks.into_iter().for_each(|(to, orders)| drop_at(node, to, orders));
}

/// Tells a home to drop these; then they are removed from the outbox.
fn drop_at(node: &Arc<Node>, to: BareJid, orders: Vec<u64>) {
    let pending = Pending::new(node);
    tokio::spawn(async move {
        let node = &pending.0;
        let me = node.geo.me.to_string();
        asked_until_done(node, &to, &Request::Drop { node: me, orders: orders.clone() }).await;
        {
            let mut copies = node.second.copies.lock();
            orders.iter().for_each(|order| drop(copies.remove(order)));
        }
        node.ledger.left_over(orders);
    });
}

/// Tells a home to drop what it keeps for another node of our region. False: it does not answer now.
pub(super) async fn drop_for(node: &Node, of: &str, to: &BareJid, orders: Vec<u64>) -> bool {
    let asked = ask(node, to, &Request::Drop { node: of.to_owned(), orders }).await;
    asked
        .inspect_err(|error| tracing::debug!(%to, %error, "a home does not answer for the outbox"))
        .is_ok()
}

/// The row of a message that somebody has kept, and whose home has not heard it: no time of acceptance is so late.
pub(super) fn mark(to: &BareJid) -> Vec<u8> {
    let mut mark = u64::MAX.to_le_bytes().to_vec();
    mark.extend_from_slice(to.as_str().as_bytes());
    mark
}

/// Whose home is to hear it, if the row is such a mark.
pub fn read_mark(row: &[u8]) -> Option<BareJid> {
    let to = row.strip_prefix(&u64::MAX.to_le_bytes())?;
    BareJid::parse(std::str::from_utf8(to).ok()?).ok()
}

async fn asked_until_done(node: &Node, to: &BareJid, request: &Request) {
    while let Err(error) = ask(node, to, request).await {
        tracing::debug!(%to, %error, "a home does not answer for the outbox");
        tokio::time::sleep(RETRY).await;
    }
}

/// Which of what a former life left was taken over meanwhile. Nothing, if the home cannot be reached: then some may come twice.
pub async fn taken_over(node: &Arc<Node>, to: &BareJid, orders: Vec<u64>) -> Vec<u64> {
    let to = &keeper(node, to);
    let request = Request::Taken { node: node.geo.me.to_string(), orders };
    ask(node, to, &request).await.unwrap_or_else(|error| {
        tracing::warn!(%to, %error, "cannot ask what was taken over");
        Vec::new()
    })
}

/// Those nodes are gone with their regions: routes what is kept for them here, as messages of ours. At the start too: an earlier life may have
/// stopped half-way.
pub fn take_over(node: &Arc<Node>, gone: Vec<String>) {
    if gone.is_empty() || node.config.geo.durability != config::Durability::TwoRegions {
        return;
    }
    let node = node.clone();
    tokio::spawn(async move {
        // One look at a time: what the first takes over the next one finds noted.
        let _alone = node.second.taking_over.lock().await;
        let mut after: Option<String> = None;
        loop {
            let owners = match node.storage.owners(SECOND, after.as_deref(), OWNERS).await {
                Ok(owners) => owners,
                Err(error) => {
                    tracing::error!(%error, "cannot look for what is kept for regions that are gone");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            };
            for owner in owners.iter().filter_map(|owner| BareJid::parse(owner).ok()) {
                if let Err(error) = take_over_for(&node, &owner, &gone).await {
                    tracing::error!(%owner, %error, "what is kept for regions that are gone stays");
                }
            }
            let Some(last) = owners.into_iter().next_back() else { return };
            after = Some(last);
        }
    });
}

/// Another region's own domain speaks to other domains from there alone, and its accounts are nowhere else. While that region is down what is of the one or for the other
/// stays where it is: the node that had it has it on its disk too, and sends it when it is back.
fn is_left(node: &Node, stanza: &Stanza) -> bool {
    let state = node.metadata.state();
    let is_down = |jid: &Jid| {
        state.region_of(jid.domain()).is_some_and(|region| state.region_state(region).is_down())
    };
    stanza.to().is_some_and(is_down)
        || router::leaves(node, stanza) && stanza.from().is_some_and(is_down)
}

async fn take_over_for(
    node: &Arc<Node>,
    owner: &BareJid,
    gone: &[String],
) -> Result<(), HomeError> {
    if !node.homes.is_home(owner.as_str()) {
        return Ok(());
    }
    let mut orders: BTreeMap<&String, Vec<u64>> = BTreeMap::new();
    let mut routed: BTreeMap<BareJid, Vec<Routed>> = BTreeMap::new();
    for (key, row) in node.storage.map(SECOND, owner.as_str()).await? {
        let Some((name, order)) = key.rsplit_once('/') else { continue };
        let Some(name) = gone.iter().find(|known| *known == name) else { continue };
        let (Ok(order), Some((accepted_ms, stanza))) = (order.parse(), super::read(row)) else {
            continue; // Taken over before, most likely.
        };
        let Some(to) = router::addressee(node, &stanza).filter(|_| !is_left(node, &stanza)) else {
            continue;
        };
        let own = node.ledger.next_order();
        if node.ledger.enter(own, &stanza, Due::Nobody, node.now_ms(), accepted_ms).is_err() {
            tracing::error!(%owner, "no room to take over everything; the rest comes next time");
            break;
        }
        tracing::debug!(of = name, order, %to, "a message of a region that is gone");
        let stanza = router::delayed(node, &stanza, accepted_ms);
        let one = Routed { stanza, tries: 0, order: own, tracked: true };
        routed.entry(to).or_default().push(one);
        orders.entry(name).or_default().push(order);
    }
    if routed.is_empty() {
        return Ok(());
    }
    routed.into_iter().for_each(|(to, routed)| router::put_back(node, &to, routed));
    // Ours only when they are on disk here: if we die before, the home has them still.
    if !super::flush(node, Instant::now() + WRITTEN_WITHIN).await {
        return Err(HomeError::Unreachable);
    }
    for (name, orders) in orders {
        ask(node, owner, &Request::TakeOver { node: name.clone(), orders }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use replication::metadata::{Command, RegionState};

    use super::*;
    use crate::testing::{House, bare, stanza};

    /// Metadata says that the region us is down, and everybody whose home may move is at home here.
    async fn us_falls(house: &House) {
        let down = Command::RegionState { region: "us".into(), state: RegionState::Down };
        let agreed = house.node.metadata.propose(down, Duration::from_secs(10)).await;
        agreed.expect("agreed");
        house.node.homes.metadata_changed();
    }

    const TEXT: &str = "<message from='juliet@chat.example/balcony' to='romeo@chat.example'/>";

    async fn rows(house: &House) -> usize {
        house.node.storage.map(SECOND, "romeo@chat.example").await.expect("read").len()
    }

    async fn settled(house: &House) {
        assert!(house.node.second.settled(Instant::now() + Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn a_home_keeps_what_the_outbox_has_and_drops_it_when_it_is_told() {
        let house = House::new().await;
        house.accounts(["romeo", "juliet"]).await;
        keep(&house.node, vec![(7, 1, stanza(TEXT)), (8, 2, stanza(TEXT))]);
        settled(&house).await;
        assert_eq!(rows(&house).await, 2);
        let gone = let_go(&house.node, vec![7, 9]);
        assert_eq!((gone.alone.as_slice(), gone.marks.len()), (&[9][..], 1));
        assert_eq!(read_mark(&gone.marks[0].1), Some(bare("romeo")));
        assert_eq!(read_mark(&super::super::row(5, &stanza(TEXT))), None);
        // The disk does not take the mark: all is as it was.
        assert_eq!(gone.undo(&house.node), [9, 7]);
        settled(&house).await;
        assert_eq!(rows(&house).await, 2);
        let_go(&house.node, vec![7]).tell(&house.node);
        settled(&house).await;
        assert_eq!(rows(&house).await, 1);
        assert!(house.node.ledger.waiting().1, "it is to be removed from the outbox");
        assert_eq!(let_go(&house.node, vec![7]).alone, [7]);
    }

    #[tokio::test]
    async fn what_is_kept_before_its_home_has_it_does_not_stay_there() {
        let house = House::new().await;
        house.accounts(["romeo"]).await;
        keep(&house.node, vec![(7, 1, stanza(TEXT))]);
        // Its task has not run yet.
        let gone = let_go(&house.node, vec![7]);
        assert!(gone.alone.is_empty() && gone.marks.len() == 1);
        gone.tell(&house.node);
        settled(&house).await;
        assert_eq!(rows(&house).await, 0);
    }

    #[tokio::test]
    async fn what_is_taken_over_is_remembered_and_nothing_else_is() {
        let house = House::new().await;
        house.accounts(["romeo"]).await;
        keep(&house.node, vec![(7, 1, stanza(TEXT)), (8, 1, stanza(TEXT))]);
        settled(&house).await;
        let me = house.node.geo.me.to_string();
        let request = Request::TakeOver { node: me, orders: vec![8, 9] };
        ask(&house.node, &bare("romeo"), &request).await.expect("done");
        assert_eq!(taken_over(&house.node, &bare("romeo"), vec![7, 8, 9]).await, [8]);
    }

    #[tokio::test]
    async fn what_another_regions_domain_has_sent_abroad_is_left_to_that_region() {
        let house = House::beside_us(false, "").await;
        house.abroad();
        us_falls(&house).await;
        let friar = BareJid::parse("friar@other.example").expect("a JID");
        let row = |from: &str| {
            let text = format!("<message from='{from}' to='{friar}'><body>x</body></message>");
            super::super::row(1, &stanza(&text))
        };
        let rows = vec![(7, row("bob@us.chat.example/x")), (8, row("juliet1@chat.example/x"))];
        let keep = Request::Keep { node: "us-0".into(), rows };
        ask(&house.node, &friar, &keep).await.expect("kept");
        let gone = ["us-0".to_owned()];
        take_over_for(&house.node, &friar, &gone).await.expect("done");
        let left = house.abroad();
        assert!(left.len() == 1 && left[0].contains("juliet1@chat.example"), "{left:?}");
        let taken = Request::Taken { node: "us-0".into(), orders: vec![7, 8] };
        assert_eq!(ask(&house.node, &friar, &taken).await, Ok(vec![8]));
    }

    /// Bob's home is down with his region, and nobody inherits it.
    #[tokio::test]
    async fn what_is_for_an_account_of_a_region_that_is_down_is_kept_by_another() {
        let house = House::beside_us(false, "").await;
        us_falls(&house).await;
        let [alice, bob] = ["alice@eu.chat.example", "bob@us.chat.example"];
        let account = BareJid::parse(alice).expect("a JID");
        house.account(&account).await;
        let to = |to: &str| {
            let from = "juliet@chat.example/balcony";
            stanza(&format!(
                "<message from='{from}' to='{to}' type='chat'><body>x</body></message>"
            ))
        };
        let server = BareJid::parse("chat.example").expect("a JID");
        let rows = async || {
            let rows = house.node.storage.map(SECOND, server.as_str()).await.expect("read");
            rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        keep(&house.node, vec![(7, 1, to(bob)), (8, 1, to(alice))]);
        settled(&house).await;
        assert_eq!(rows().await.len(), 2);
        assert!(taken_over(&house.node, &bare("bob"), vec![7]).await.is_empty());
        let gone = let_go(&house.node, vec![7, 8]);
        assert_eq!(read_mark(&gone.marks[0].1), Some(server.clone()));
        gone.tell(&house.node);
        settled(&house).await;
        assert_eq!(rows().await, [""; 0]);
        // What a node of his region had is left to it, if it is for him.
        let row = |jid: &str| super::super::row(1, &to(jid));
        let keep =
            Request::Keep { node: "us-0".into(), rows: vec![(1, row(bob)), (2, row(alice))] };
        ask(&house.node, &server, &keep).await.expect("kept");
        let seat = house.node.bind(&account, Some("x")).expect("bound");
        house.says(&seat, "<presence/>").await;
        crate::testing::mail(&seat);
        take_over_for(&house.node, &server, &["us-0".to_owned()]).await.expect("done");
        let heard = house.mail(&seat).await.concat();
        assert_eq!(heard.matches("<body>x</body>").count(), 1, "{heard}");
        let taken = Request::Taken { node: "us-0".into(), orders: vec![1, 2] };
        assert_eq!(ask(&house.node, &server, &taken).await, Ok(vec![2]));
    }
}
