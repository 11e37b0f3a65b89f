//! XEP-0363 HTTP File Upload, version 1.2.0: an account asks `upload.<domain>` for a slot, brings its file with PUT and shares the address.
//!
//! A slot is of the region that is asked: its addresses name that region, and its files stay there. Any region's node takes a PUT (it passes it
//! on) and answers a GET (it says where). What an account has is known to its home, which says whether there may be more (`home`); the right
//! to bring a file is signed and needs no memory (`slot`); HTTP is in `web` and `headers`, disks and buckets in `store`.
//!
//! Left out: other servers' users (`forbidden`), copies of files in several regions (a region that is away takes its files along), deleting a
//! file before its time, checking what a file really holds.

mod headers;
pub mod home;
mod payload;
mod slot;
mod store;
#[cfg(test)]
mod tests;
mod web;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use config::UploadStore;
use replication::durable_log::Change;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use xmpp::jid::BareJid;
use xmpp::ns;
use xmpp::payload::data_form::{Field, Form, FormKind};
use xmpp::payload::disco::Info;
use xmpp::stanza::error::StanzaError;
use xmpp::stanza::{Stanza, Type};

use self::home::{Answer, Limits, Record};
use self::payload::{Purpose, Request};
use self::slot::{Grant, Token};
use self::store::Store;
use self::store::disk::Disk;
use self::store::s3::Bucket;
use crate::app::Node;
use crate::feature::{Action, Ctx, Flow};
use crate::http::client::escape;
use crate::http::outgoing::Outgoing;
use crate::service::Service;

/// How often what is past is looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1_800);

/// Its name.
pub const NAME: &str = "upload";

/// The service.
pub struct Upload(Arc<Uploads>);

/// What the service and its paths share.
pub(crate) struct Uploads {
    /// How much, how long, how fast.
    limits: config::Upload,
    /// Our region.
    region: String,
    /// Where it is reached.
    url: String,
    /// Where the others are.
    elsewhere: BTreeMap<String, String>,
    /// What slots are signed with.
    key: Vec<u8>,
    store: Box<dyn Store>,
    /// One for each file on its way.
    places: Arc<Semaphore>,
    outgoing: Outgoing,
}

impl Upload {
    /// As configured. Nothing is opened yet.
    #[must_use]
    pub fn new(config: &config::Config) -> Upload {
        let limits = config.upload.clone();
        let first = config.http.listen.first().map(|address| format!("http://{address}"));
        let key = limits.key.clone().map_or_else(own_key, String::into_bytes);
        let outgoing = Outgoing::new(limits.ca.clone());
        let store: Box<dyn Store> = match limits.store {
            UploadStore::Disk => Box::new(Disk::new(limits.dir.clone(), config.node_name())),
            UploadStore::S3 => Box::new(Bucket::new(limits.s3.clone(), outgoing.clone())),
        };
        let elsewhere = limits.regions.iter().map(|at| (at.region.clone(), at.url.clone()));
        Upload(Arc::new(Uploads {
            region: config.node.region.clone(),
            url: limits.url.clone().or(first).unwrap_or_default(),
            elsewhere: elsewhere.filter(|(region, _)| *region != config.node.region).collect(),
            key,
            store,
            places: Arc::new(Semaphore::new(limits.transfers_max)),
            outgoing,
            limits,
        }))
    }
}

/// Without a key of the configuration there is one node (the configuration sees to that), and its slots are good for its life, also when the service ends and
/// begins anew in that.
fn own_key() -> Vec<u8> {
    static KEY: OnceLock<[u8; 32]> = OnceLock::new();
    let key = KEY.get_or_init(|| {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the system has random numbers");
        key
    });
    key.to_vec()
}

impl Service for Upload {
    fn name(&self) -> &'static str {
        NAME
    }

    fn title(&self) -> &'static str {
        "HTTP File Upload"
    }

    fn info(&self, _node: &Node) -> Info {
        let max = self.0.limits.file_bytes_max.to_string();
        let form = Form::typed(FormKind::Result, ns::HTTP_UPLOAD).with_field(Field {
            var: Some("max-file-size".to_owned()),
            values: vec![max],
            ..Field::default()
        });
        let purposes = Purpose::features();
        Info::default()
            .with_identity("store", "file", Some(self.title()))
            .with_features([ns::HTTP_UPLOAD])
            .with_features(purposes.iter().map(String::as_str))
            .with_form(form)
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Stanza) -> Flow {
        let Some(("request", ns::HTTP_UPLOAD)) = iq.first_child() else { return Flow::Next };
        if iq.type_() != Type::Get || iq.to().is_some_and(|to| to.local().is_some()) {
            return Flow::Next;
        }
        let asked = iq.child("request", ns::HTTP_UPLOAD);
        let account = iq.from().map(xmpp::jid::Jid::bare);
        let ours = |account: &BareJid| {
            account.local().is_some() && ctx.node.domains.has_accounts(account.domain())
        };
        let (Some(asked), Some(account)) = (asked, account.filter(ours)) else {
            ctx.actions.extend(iq.error_reply(&StanzaError::forbidden()).map(Action::Reply));
            return Flow::Done;
        };
        let request = Request::parse(&asked).and_then(|request| self.0.allowed(request));
        let (node, uploads, iq) = (ctx.node.clone(), self.0.clone(), iq.clone());
        Flow::Later(Box::pin(async move {
            let slot = match request {
                Ok(request) => uploads.slot(&node, account, request).await,
                Err(error) => Err(error),
            };
            let answer = match slot {
                Ok(slot) => Some(Stanza::iq_result(&iq, Some(slot))),
                Err(error) => iq.error_reply(&error),
            };
            answer.map(Action::Reply).into_iter().collect()
        }))
    }

    fn changes(&self) -> &'static [&'static str] {
        &[home::UPLOAD]
    }

    /// An account is gone: so are its files, in every region.
    fn changed(&self, _ctx: &mut Ctx<'_>, change: &Change, _snapshot: bool) {
        let Change::Clear { owner, .. } = change else { return };
        let (uploads, owner) = (self.0.clone(), slot::owner(owner));
        tokio::spawn(async move {
            if let Err(error) = uploads.store.remove_owner(&owner).await {
                tracing::warn!(%error, "files of an account that is gone stay until their time");
            }
        });
    }

    fn start(&self, node: &Arc<Node>, tasks: &mut JoinSet<()>) -> io::Result<()> {
        self.0.store.prepare(node.incarnation)?;
        let (node, uploads) = (node.clone(), self.0.clone());
        tasks.spawn(async move {
            let mut every = tokio::time::interval(SWEEP_EVERY);
            loop {
                every.tick().await;
                match uploads.store.sweep(node.wall_ms() / 1_000).await {
                    Ok(count) => tracing::debug!(count, "files whose time is over"),
                    Err(error) => tracing::warn!(%error, "files whose time is over stay"),
                }
            }
        });
        Ok(())
    }

    fn http(&self, node: &Arc<Node>) -> Option<axum::Router> {
        Some(web::router(self.0.clone(), node.clone()))
    }
}

impl Uploads {
    /// §6: no larger than files may be.
    fn allowed(&self, request: Request) -> Result<Request, StanzaError> {
        let max = self.limits.file_bytes_max as u64;
        if request.size > max { Err(payload::file_too_large(max)) } else { Ok(request) }
    }

    fn keep(&self, purpose: Purpose) -> Duration {
        match purpose {
            Purpose::Message => self.limits.keep,
            Purpose::Ephemeral => self.limits.keep_ephemeral,
            Purpose::Profile => self.limits.keep_profile,
            Purpose::Permanent => self.limits.keep_permanent,
        }
    }

    /// The home notes the file, and it may come.
    async fn slot(
        &self,
        node: &Node,
        account: BareJid,
        request: Request,
    ) -> Result<xmpp::xml::element::Element, StanzaError> {
        let now_s = node.wall_ms() / 1_000;
        let token = Token::new(now_s + self.keep(request.purpose).as_secs(), node.random());
        let until_s = now_s + self.limits.slot_valid.as_secs();
        let record = Record {
            size: request.size,
            since_s: now_s,
            until_s: until_s + self.slowest(request.size).as_secs(),
            region: self.region.clone(),
            then_s: Some(token.until_s()),
        };
        let limits = Limits {
            bytes_max: self.limits.account_bytes_max as u64,
            day_bytes_max: self.limits.account_bytes_per_day_max as u64,
            files_max: self.limits.account_files_max,
        };
        let reserve = home::Request::Reserve { token: token.as_str().to_owned(), record, limits };
        let answer = node.homes.exchange::<_, Answer>(&account, home::OP, &reserve).await;
        match answer.map_err(|error| error.stanza_error())? {
            Answer::Noted => {}
            Answer::NoAccount | Answer::Unknown => return Err(StanzaError::forbidden()),
            Answer::Full(retry_s) => return Err(payload::quota_reached(retry_s)),
        }
        let name = escape(&request.name);
        let at = format!("{}/upload/{}/{}/{name}", self.url, self.region, token.as_str());
        let grant = Grant {
            token,
            region: self.region.clone(),
            account: account.to_string(),
            name: request.name,
            size: request.size,
            content_type: request.content_type,
            until_s,
        };
        Ok(payload::slot(&at, &at, &format!("Bearer {}", grant.sign(&self.key))))
    }

    /// How long so many bytes may take.
    fn slowest(&self, bytes: u64) -> Duration {
        const GRACE: Duration = Duration::from_secs(60);
        GRACE + Duration::from_secs(bytes / self.limits.bytes_per_s_min as u64)
    }
}
