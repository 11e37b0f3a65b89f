//! The roster's home: where its changes are decided and committed, one after the other (RFC 6121 §2 and §3, appendix A through
//! `subscription`). Runs only in the region that is the account's home; everyone else sends a [`Request`] there.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use xmpp::jid::{BareJid, Jid};

use super::cache::version;
use super::record::{Contact, ROSTER, VERSION};
use super::subscription::{self, Kind, State};
use crate::features::blocking::{self, Traffic};
use crate::features::invitations;
use crate::homes::{self, HomeError, HomeOp, Tx, accounts};

/// Name of the operation.
pub const OP: &str = "roster";

/// What may be asked.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Roster set (§2.3, §2.4).
    Set {
        /// Whom.
        contact: BareJid,
        /// Its name.
        name: Option<String>,
        /// Its groups.
        groups: Vec<String>,
        /// `limits.roster_items_max` of the asker.
        items_max: u32,
    },
    /// Roster removal (§2.5).
    Remove {
        /// Whom.
        contact: BareJid,
    },
    /// The account sends a subscription stanza.
    Out {
        /// To whom.
        contact: BareJid,
        /// Which.
        kind: Kind,
        /// `limits.roster_items_max` of the asker.
        items_max: u32,
    },
    /// The account receives one.
    In {
        /// From whom.
        contact: BareJid,
        /// Which.
        kind: Kind,
        /// The stanza, kept while a request is pending.
        stanza: Vec<u8>,
        /// `limits.roster_items_max` of the asker.
        items_max: u32,
    },
}

/// What came of it; always after the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// A subscription stanza: pass it on, and answer for the user.
    Subscription {
        /// See [`subscription::Verdict::pass`].
        pass: bool,
        /// See [`subscription::Verdict::auto_reply`].
        auto_reply: bool,
    },
    /// A request that brought an invitation: approve it for the user, and ask in return (XEP-0379).
    Invited,
    /// Removed; this was its state.
    Removed(State),
    /// There is no such contact.
    NotFound,
    /// The roster is full.
    TooMany,
    /// There is no such account.
    NoAccount,
}

/// The operation.
pub struct RosterHome;

impl HomeOp for RosterHome {
    fn name(&self) -> &'static str {
        OP
    }

    fn run<'a>(
        &'a self,
        tx: &'a mut Tx,
        account: &'a BareJid,
        request: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, HomeError>> {
        homes::answer(OP, request, async move |request| {
            // XEP-0016 §2.2 rule 4, §2.13: before the rules for subscriptions, and without a word.
            if let Request::In { contact, .. } = &request
                && blocking::is_blocked(tx, account, &Jid::from(contact), Traffic::Other).await?
            {
                return Ok(Answer::Subscription { pass: false, auto_reply: false });
            }
            decide(tx, account, request).await
        })
    }
}

async fn decide(tx: &mut Tx, account: &BareJid, request: Request) -> Result<Answer, HomeError> {
    if !accounts::exists(tx).await? {
        return Ok(Answer::NoAccount);
    }
    match request {
        Request::Set { contact, name, groups, items_max } => {
            let known = read(tx, &contact).await?;
            if known.is_none() && is_full(tx, items_max).await? {
                return Ok(Answer::TooMany);
            }
            let mut record = known.clone().unwrap_or_default();
            record.name = name;
            record.groups = groups;
            record.listed = true;
            let record = Contact { push: true, ..record.following(known.as_ref(), None) };
            write(tx, &contact, &record).await?;
            Ok(Answer::Done)
        }
        Request::Remove { contact } => {
            let Some(known) = read(tx, &contact).await?.filter(|record| record.listed) else {
                return Ok(Answer::NotFound);
            };
            let state = known.state;
            // First what it means for presence, then the removal, which is what is pushed.
            let farewell =
                Contact { listed: true, ..Contact::default() }.following(Some(&known), None);
            write(tx, &contact, &Contact { push: false, ..farewell }).await?;
            tx.delete(ROSTER, contact.as_str());
            Ok(Answer::Removed(state))
        }
        Request::Out { contact, kind, items_max } => {
            let known = read(tx, &contact).await?;
            let adds = matches!(kind, Kind::Subscribe | Kind::Subscribed);
            if known.is_none() && adds && is_full(tx, items_max).await? {
                return Ok(Answer::TooMany);
            }
            let mut record = known.clone().unwrap_or_default();
            let verdict = subscription::outbound(&mut record.state, kind);
            // §3.1.2: a request puts the contact into the roster; so does an approval (§3.1.5).
            record.listed |= record.state.pending_out
                || record.state.from
                || record.state.to
                || record.state.approved;
            if kind == Kind::Subscribe {
                // §3.1.2: a push follows every request, for the client that sent it waits for one.
                let record = Contact { push: true, ..record.following(known.as_ref(), None) };
                write(tx, &contact, &record).await?;
            } else {
                commit(tx, &contact, known, record, None).await?;
            }
            Ok(Answer::Subscription { pass: verdict.pass, auto_reply: verdict.auto_reply })
        }
        Request::In { contact, kind, stanza, items_max } => {
            let known = read(tx, &contact).await?;
            if known.is_none() && kind == Kind::Subscribe && is_full(tx, items_max).await? {
                return Ok(Answer::TooMany);
            }
            let mut record = known.clone().unwrap_or_default();
            let invited = kind == Kind::Subscribe
                && !record.state.from
                && invitations::home::redeem(tx, account, &stanza).await?;
            record.state.approved |= invited;
            let verdict = subscription::inbound(&mut record.state, kind);
            if record.state.pending_in && kind == Kind::Subscribe {
                record.request = Some(stanza.clone());
            }
            record.listed |= record.state.from;
            let asks = invited && !record.state.to && !record.state.pending_out;
            commit(tx, &contact, known, record, verdict.pass.then_some(stanza)).await?;
            if asks {
                return Ok(Answer::Invited);
            }
            Ok(Answer::Subscription { pass: verdict.pass, auto_reply: verdict.auto_reply })
        }
    }
}

/// Writes what changed, and nothing if nothing did.
async fn commit(
    tx: &mut Tx,
    contact: &BareJid,
    known: Option<Contact>,
    record: Contact,
    deliver: Option<Vec<u8>>,
) -> Result<(), HomeError> {
    let record = record.following(known.as_ref(), deliver);
    let gone = !record.listed && record.state == State::default();
    let unchanged = match &known {
        Some(known) => {
            known.state == record.state
                && known.listed == record.listed
                && known.request == record.request
        }
        None => gone,
    };
    if !unchanged || record.deliver.is_some() {
        write(tx, contact, &record).await?;
    }
    if gone && (known.is_some() || record.deliver.is_some()) {
        tx.delete(ROSTER, contact.as_str());
    }
    Ok(())
}

async fn read(tx: &mut Tx, contact: &BareJid) -> Result<Option<Contact>, HomeError> {
    let bytes = tx.get(ROSTER, contact.as_str()).await?;
    Ok(bytes.as_deref().and_then(Contact::decode))
}

async fn is_full(tx: &mut Tx, items_max: u32) -> Result<bool, HomeError> {
    Ok(tx.map(ROSTER).await?.len() >= items_max as usize)
}

/// The version first: whoever applies the changes in order has it when the contact comes.
async fn bump(tx: &mut Tx) -> Result<(), HomeError> {
    let now = tx.get(VERSION, "").await?.as_deref().map_or(0, version);
    tx.put(VERSION, "", (now + 1).to_le_bytes().to_vec());
    Ok(())
}

async fn write(tx: &mut Tx, contact: &BareJid, record: &Contact) -> Result<(), HomeError> {
    bump(tx).await?;
    tx.put(ROSTER, contact.as_str(), record.encode());
    Ok(())
}

#[cfg(test)]
mod tests {
    use replication::durable_log::Change;

    use super::*;

    /// The home of romeo, who exists.
    struct Desk(Tx);

    impl Desk {
        fn new() -> Self {
            let mut desk = Desk(Tx::of("romeo@chat.example"));
            desk.0.put(accounts::ACCOUNTS, "", Vec::new());
            desk.0.changed();
            desk
        }

        /// The answer, and what was written, in order: `v2`, `juliet both push granted`, `-juliet`.
        async fn ask(&mut self, request: Request) -> (Answer, String) {
            let answer = decide(&mut self.0, &who("romeo"), request).await.expect("decided");
            let word = |change: &Change| match change {
                Change::Put { store, value, .. } if store.as_str() == VERSION => {
                    format!("v{}", version(value))
                }
                Change::Put { key, value, .. } => {
                    let contact = Contact::decode(value).expect("a contact");
                    words(key.split('@').next().expect("a name"), &contact)
                }
                Change::Delete { key, .. } => {
                    format!("-{}", key.split('@').next().expect("a name"))
                }
                other => format!("{other:?}"),
            };
            let written: Vec<String> = self.0.changed().iter().map(word).collect();
            (answer, written.join(", "))
        }

        async fn set(&mut self, contact: &str, name: &str, groups: &[&str]) -> (Answer, String) {
            let groups = groups.iter().map(ToString::to_string).collect();
            let name = (!name.is_empty()).then(|| name.to_owned());
            self.ask(Request::Set { contact: who(contact), name, groups, items_max: 3 }).await
        }

        async fn out(&mut self, contact: &str, kind: Kind) -> (Answer, String) {
            self.ask(Request::Out { contact: who(contact), kind, items_max: 3 }).await
        }

        async fn get(&mut self, contact: &str, kind: Kind) -> (Answer, String) {
            let stanza = b"<presence/>".to_vec();
            self.ask(Request::In { contact: who(contact), kind, stanza, items_max: 3 }).await
        }
    }

    fn who(name: &str) -> BareJid {
        BareJid::parse(&format!("{name}@chat.example")).expect("a JID")
    }

    fn words(name: &str, contact: &Contact) -> String {
        let State { pending_out, pending_in, approved, .. } = contact.state;
        let mut words = vec![name.to_owned(), contact.subscription().to_owned()];
        words.extend(contact.name.clone().map(|name| format!("'{name}'")));
        words.extend(contact.groups.iter().map(|group| format!("[{group}]")));
        for (so, word) in [
            (pending_out, "ask"),
            (pending_in, "asked"),
            (approved, "approved"),
            (!contact.listed, "hidden"),
            (contact.request.is_some(), "kept"),
            (contact.push, "push"),
            (contact.effect == super::super::record::Effect::Granted, "granted"),
            (contact.effect == super::super::record::Effect::Withdrawn, "withdrawn"),
            (contact.deliver.is_some(), "deliver"),
        ] {
            if so {
                words.push(word.to_owned());
            }
        }
        words.join(" ")
    }

    fn sent(pass: bool) -> Answer {
        Answer::Subscription { pass, auto_reply: false }
    }

    fn is(done: (Answer, String), answer: Answer, written: &str) {
        assert_eq!(done, (answer, written.to_owned()));
    }

    #[tokio::test]
    async fn items_are_set_changed_and_removed_and_versions_only_grow() {
        let mut home = Desk::new();
        is(
            home.set("juliet", "J", &["Friends"]).await,
            Answer::Done,
            "v1, juliet none 'J' [Friends] push",
        );
        is(home.set("nurse", "", &[]).await, Answer::Done, "v2, nurse none push");
        is(home.set("juliet", "", &[]).await, Answer::Done, "v3, juliet none push");
        // RFC 6121 §2.1.6: every set is pushed, for the client that asked waits for the push, even if it changes nothing.
        is(home.set("juliet", "", &[]).await, Answer::Done, "v4, juliet none push");
        let juliet = || Request::Remove { contact: who("juliet") };
        is(home.ask(juliet()).await, Answer::Removed(State::default()), "v5, juliet none, -juliet");
        is(home.ask(juliet()).await, Answer::NotFound, "");
        is(home.set("juliet", "", &[]).await, Answer::Done, "v6, juliet none push");
    }

    #[tokio::test]
    async fn a_full_roster_takes_changes_but_nobody_new() {
        let mut home = Desk::new();
        for name in ["a", "b", "c"] {
            assert_eq!(home.set(name, "", &[]).await.0, Answer::Done);
        }
        is(home.set("d", "", &[]).await, Answer::TooMany, "");
        is(home.out("d", Kind::Subscribe).await, Answer::TooMany, "");
        is(home.get("d", Kind::Subscribe).await, Answer::TooMany, "");
        is(home.set("a", "A", &[]).await, Answer::Done, "v4, a none 'A' push");
        is(home.out("a", Kind::Subscribe).await, sent(true), "v5, a none 'A' ask push");
        let a = Request::Remove { contact: who("a") };
        assert!(matches!(home.ask(a).await.0, Answer::Removed(_)));
        assert_eq!(home.set("d", "", &[]).await.0, Answer::Done);
    }

    #[tokio::test]
    async fn a_full_roster_takes_no_approvals_of_strangers() {
        let mut home = Desk::new();
        for name in ["a", "b", "c"] {
            assert_eq!(home.set(name, "", &[]).await.0, Answer::Done);
        }
        is(home.out("d", Kind::Subscribed).await, Answer::TooMany, "");
        is(home.out("d", Kind::Unsubscribed).await, sent(false), "");
    }

    #[tokio::test]
    async fn an_account_that_does_not_exist_has_no_roster() {
        let mut home = Desk(Tx::of("romeo@chat.example"));
        is(home.set("juliet", "", &[]).await, Answer::NoAccount, "");
        is(home.get("juliet", Kind::Subscribe).await, Answer::NoAccount, "");
    }

    #[tokio::test]
    async fn asking_for_presence_and_being_answered() {
        let mut home = Desk::new();
        is(home.out("juliet", Kind::Subscribe).await, sent(true), "v1, juliet none ask push");
        // §3.1.2: asked again it is sent again, and pushed, though nothing has changed.
        is(home.out("juliet", Kind::Subscribe).await, sent(true), "v2, juliet none ask push");
        is(home.get("juliet", Kind::Subscribed).await, sent(true), "v3, juliet to push deliver");
        is(home.get("juliet", Kind::Subscribed).await, sent(false), "");
        is(home.out("juliet", Kind::Subscribe).await, sent(true), "v4, juliet to push");
        is(
            home.get("juliet", Kind::Unsubscribed).await,
            sent(true),
            "v5, juliet none push deliver",
        );
        is(home.get("juliet", Kind::Unsubscribed).await, sent(false), "");
    }

    #[tokio::test]
    async fn a_request_that_is_refused_or_taken_back_leaves_the_item() {
        let mut home = Desk::new();
        home.out("juliet", Kind::Subscribe).await;
        is(
            home.get("juliet", Kind::Unsubscribed).await,
            sent(true),
            "v2, juliet none push deliver",
        );
        home.out("juliet", Kind::Subscribe).await;
        is(home.out("juliet", Kind::Unsubscribe).await, sent(true), "v4, juliet none push");
        is(home.out("juliet", Kind::Unsubscribe).await, sent(true), "");
    }

    #[tokio::test]
    async fn being_asked_and_granting_once_and_withdrawing_once() {
        let mut home = Desk::new();
        // §3.1.3: delivered and kept, but not shown in the roster.
        is(
            home.get("juliet", Kind::Subscribe).await,
            sent(true),
            "v1, juliet none asked hidden kept deliver",
        );
        is(home.get("juliet", Kind::Subscribe).await, sent(false), "");
        is(home.out("juliet", Kind::Subscribed).await, sent(true), "v2, juliet from push granted");
        is(home.out("juliet", Kind::Subscribed).await, sent(false), "");
        // §3.1.3: already granted, so the server answers for the user.
        let again = Answer::Subscription { pass: false, auto_reply: true };
        is(home.get("juliet", Kind::Subscribe).await, again, "");
        // A change of name says nothing of presence.
        is(home.set("juliet", "J", &[]).await, Answer::Done, "v3, juliet from 'J' push");
        is(
            home.out("juliet", Kind::Unsubscribed).await,
            sent(true),
            "v4, juliet none 'J' push withdrawn",
        );
        is(home.out("juliet", Kind::Unsubscribed).await, sent(false), "");
    }

    #[tokio::test]
    async fn a_request_that_is_denied_or_taken_back_leaves_nothing() {
        let mut home = Desk::new();
        home.get("juliet", Kind::Subscribe).await;
        let (answer, written) = home.out("juliet", Kind::Unsubscribed).await;
        assert_eq!((answer, written.ends_with("-juliet")), (sent(true), true), "{written}");
        home.get("juliet", Kind::Subscribe).await;
        let (answer, written) = home.get("juliet", Kind::Unsubscribe).await;
        assert_eq!(answer, sent(true));
        assert!(written.contains("deliver") && written.ends_with("-juliet"), "{written}");
        assert!(home.0.map(ROSTER).await.expect("read").is_empty());
    }

    #[tokio::test]
    async fn a_contact_that_no_longer_wants_presence_is_told_goodbye_once() {
        let mut home = Desk::new();
        home.get("juliet", Kind::Subscribe).await;
        home.out("juliet", Kind::Subscribed).await;
        is(
            home.get("juliet", Kind::Unsubscribe).await,
            sent(true),
            "v3, juliet none push withdrawn deliver",
        );
        is(home.get("juliet", Kind::Unsubscribe).await, sent(false), "");
    }

    #[tokio::test]
    async fn a_name_change_does_not_repeat_what_the_last_change_did() {
        let mut home = Desk::new();
        home.get("juliet", Kind::Subscribe).await;
        home.out("juliet", Kind::Subscribed).await;
        home.out("juliet", Kind::Subscribe).await;
        is(home.get("juliet", Kind::Subscribed).await, sent(true), "v4, juliet both push deliver");
        is(home.set("juliet", "", &[]).await, Answer::Done, "v5, juliet both push");
    }

    #[tokio::test]
    async fn an_approval_given_before_it_is_asked_for_answers_the_request() {
        let mut home = Desk::new();
        is(
            home.out("juliet", Kind::Subscribed).await,
            sent(false),
            "v1, juliet none approved push",
        );
        let answered = Answer::Subscription { pass: false, auto_reply: true };
        is(home.get("juliet", Kind::Subscribe).await, answered, "v2, juliet from push granted");
        // §3.4.2: an approval is taken back by `unsubscribed`.
        is(home.out("nurse", Kind::Subscribed).await, sent(false), "v3, nurse none approved push");
        is(home.out("nurse", Kind::Unsubscribed).await, sent(false), "v4, nurse none push");
    }

    #[tokio::test]
    async fn removing_a_contact_withdraws_presence_and_says_what_was() {
        let mut home = Desk::new();
        home.get("juliet", Kind::Subscribe).await;
        home.out("juliet", Kind::Subscribed).await;
        home.out("juliet", Kind::Subscribe).await;
        let removed = Request::Remove { contact: who("juliet") };
        let was = State { from: true, pending_out: true, ..State::default() };
        is(home.ask(removed).await, Answer::Removed(was), "v4, juliet none withdrawn, -juliet");
    }

    #[tokio::test]
    async fn strangers_who_answer_or_leave_unasked_write_nothing() {
        let mut home = Desk::new();
        for kind in [Kind::Subscribed, Kind::Unsubscribe, Kind::Unsubscribed] {
            is(home.get("stranger", kind).await, sent(false), "");
        }
        is(home.out("stranger", Kind::Unsubscribed).await, sent(false), "");
        let (_, written) = home.out("stranger", Kind::Unsubscribe).await;
        assert_eq!(written, "");
    }
}
