//! The admin API on HTTP: paths, HTTP Basic (RFC 7617), JSON, and its OpenAPI description at `/admin/openapi.json`.
//!
//! Made by `http::router`. Every request but that for the description needs the password of an account that
//! `admin.accounts` names. Passwords are checked a few at a time, so guessing cannot take the processors away from
//! the users; a wrong one is answered like an unknown account.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use base64::Engine;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{IntoParams, Modify, OpenApi};

use super::export::*;
use super::federation::*;
use super::invitations::*;
use super::members::*;
use super::model::*;
use super::storage::*;
use super::{Answer, Operator};

/// The largest body: one account with all it has.
const BODY_BYTES_MAX: usize = 64 << 20;
/// Passwords checked at the same time.
const CHECKS_MAX: usize = 2;
/// Rows of one answer, when the question does not say.
const PAGE: usize = 100;
/// Rows of one answer at most.
const PAGE_MAX: usize = 10_000;

#[derive(Clone)]
struct Admin {
    operator: Arc<dyn Operator>,
    accounts: Arc<[String]>,
    checks: Arc<Semaphore>,
}

/// Everything under `/admin`, for `accounts` (bare JIDs in lower case).
pub fn router(operator: Arc<dyn Operator>, accounts: &[String]) -> Router {
    let admin =
        Admin { operator, accounts: accounts.into(), checks: Arc::new(Semaphore::new(CHECKS_MAX)) };
    let closed = Router::new()
        .route("/admin/status", get(status))
        .route("/admin/regions", get(regions))
        .route("/admin/regions/{name}/state", put(region_state))
        .route("/admin/nodes", get(nodes))
        .route("/admin/nodes/{name}", delete(node_remove))
        .route("/admin/nodes/{name}/vote", put(node_vote))
        .route("/admin/drain", get(drain).post(drain_begin).delete(drain_undo))
        .route("/admin/metadata", get(metadata))
        .route("/admin/links", get(links))
        .route("/admin/registry", get(registry))
        .route("/admin/registry/{account}", get(registry_rows))
        .route("/admin/reload", post(reload))
        .route("/admin/storage", get(storage))
        .route("/admin/storage/rebalance", post(rebalance))
        .route("/admin/sessions", get(sessions).delete(kick))
        .route("/admin/homes/{account}", get(home_of))
        .route("/admin/homes/move", post(home_move))
        .route("/admin/reports", get(reports))
        .route("/admin/s2s/check/{domain}", get(s2s_check))
        .route("/admin/users", get(users).post(user_add))
        .route("/admin/users/import", post(user_import))
        .route("/admin/users/{account}", delete(user_remove))
        .route("/admin/users/{account}/password", put(user_passwd))
        .route("/admin/users/{account}/export", get(user_export))
        .route("/admin/users/{account}/offline", get(user_offline))
        .route("/admin/users/{account}/archive", get(user_archive).post(user_import_archive))
        .route("/admin/invitations", get(invitations).post(invite))
        .route("/admin/invitations/{id}", delete(invitation_revoke))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(admin.clone(), authenticate));
    Router::new()
        .route("/admin/openapi.json", get(|| async { Json(openapi()) }))
        .merge(closed)
        .with_state(admin)
}

/// The description of the API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Pangaea admin API", description = "What `pangaea ctl` and `pangaea user` speak."),
    paths(
        status, reload, regions, region_state, nodes, node_remove, node_vote, drain, drain_begin, drain_undo, metadata, links, registry, registry_rows, storage, rebalance, sessions, kick, home_of, home_move,
        reports, s2s_check, users, user_add, user_import, user_remove, user_passwd, user_export, user_offline,
        user_archive, user_import_archive, invite, invitations, invitation_revoke
    ),
    components(schemas(Refusal, Ready)),
    security(("password" = [])),
    modifiers(&Password)
)]
struct Description;

struct Password;

impl Modify for Password {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let basic = HttpBuilder::new()
            .scheme(HttpAuthScheme::Basic)
            .description(Some("An account of admin.accounts and its password"))
            .build();
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("password", SecurityScheme::Http(basic));
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::Unauthorized => StatusCode::UNAUTHORIZED,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut response = (status, Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let challenge =
                header::HeaderValue::from_static("Basic realm=\"pangaea\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

async fn authenticate(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    match credentials(request.headers()) {
        Some((account, password)) => {
            let account = account.to_lowercase();
            let known = admin.accounts.contains(&account);
            let permit = admin.checks.acquire().await;
            let right = admin.operator.authenticate(&account, &password).await && known;
            drop(permit);
            if right {
                return next.run(request).await;
            }
            Refusal::unauthorized("not an administrator, or not the password").into_response()
        }
        None => Refusal::unauthorized("say who you are: HTTP Basic").into_response(),
    }
}

/// Account and password of `Authorization: Basic …`.
fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (account, password) = text.split_once(':')?;
    Some((account.to_owned(), password.to_owned()))
}

type Reply<T> = Result<Json<T>, Refusal>;

async fn reply<T>(answer: Answer<'_, T>) -> Reply<T> {
    answer.await.map(Json)
}

/// A JSON body, whatever its content type says; its mistakes are refused in our own form.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;
    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| Refusal::invalid(rejection.body_text()))?;
        serde_json::from_slice(&bytes)
            .map(Body)
            .map_err(|cause| Refusal::invalid(format!("not the JSON that belongs here: {cause}")))
    }
}

/// A query whose mistakes are refused in our own form.
struct Asked<T>(T);

impl<S: Send + Sync, T> FromRequestParts<S> for Asked<T>
where
    Query<T>: FromRequestParts<S, Rejection = QueryRejection>,
{
    type Rejection = Refusal;
    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Refusal> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Asked(asked)),
            Err(rejection) => Err(Refusal::invalid(rejection.body_text())),
        }
    }
}

/// The node on one screen.
#[utoipa::path(get, path = "/admin/status", responses((status = 200, body = Status)))]
async fn status(State(admin): State<Admin>) -> Reply<Status> {
    reply(admin.operator.status()).await
}

/// Reads certificates and configuration again; a file that is wrong changes nothing.
#[utoipa::path(post, path = "/admin/reload",
    responses((status = 200, body = Reloaded), (status = 400, body = Refusal)))]
async fn reload(State(admin): State<Admin>) -> Reply<Reloaded> {
    reply(admin.operator.reload()).await
}

/// Every region of the platform.
#[utoipa::path(get, path = "/admin/regions", responses((status = 200, body = [RegionInfo])))]
async fn regions(State(admin): State<Admin>) -> Reply<Vec<RegionInfo>> {
    reply(admin.operator.regions()).await
}

/// Changes the state of a region, through the metadata group.
#[utoipa::path(put, path = "/admin/regions/{name}/state", params(("name" = String, Path)),
    request_body = NewRegionState, responses((status = 200), (status = 503, body = Refusal)))]
async fn region_state(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Body(new): Body<NewRegionState>,
) -> Reply<()> {
    reply(admin.operator.region_state(&name, new.state)).await
}

/// Every node of the platform.
#[utoipa::path(get, path = "/admin/nodes", responses((status = 200, body = [NodeInfo])))]
async fn nodes(State(admin): State<Admin>) -> Reply<Vec<NodeInfo>> {
    reply(admin.operator.nodes()).await
}

/// Forgets a node that is gone for good: it counts as fallen, and what it had promised was taken over.
#[utoipa::path(delete, path = "/admin/nodes/{name}", params(("name" = String, Path)),
    responses((status = 200), (status = 404, body = Refusal), (status = 409, body = Refusal)))]
async fn node_remove(State(admin): State<Admin>, Path(name): Path<String>) -> Reply<()> {
    reply(admin.operator.node_remove(&name)).await
}

/// Gives a node a vote in the metadata group, or takes it.
#[utoipa::path(put, path = "/admin/nodes/{name}/vote", params(("name" = String, Path)),
    request_body = NewVote, responses((status = 200), (status = 409, body = Refusal)))]
async fn node_vote(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Body(new): Body<NewVote>,
) -> Reply<()> {
    reply(admin.operator.node_vote(&name, new.votes)).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DrainAsked {
    /// Which node; the one that is asked if not said.
    node: Option<String>,
}

/// How far a node is emptied.
#[utoipa::path(get, path = "/admin/drain", params(DrainAsked),
    responses((status = 200, body = DrainInfo), (status = 404, body = Refusal)))]
async fn drain(State(admin): State<Admin>, Asked(asked): Asked<DrainAsked>) -> Reply<DrainInfo> {
    reply(admin.operator.drain(asked.node.as_deref())).await
}

/// Begins to empty a node: it takes no new sessions, and those it has go to other nodes.
#[utoipa::path(post, path = "/admin/drain", params(DrainAsked), request_body = NewDrain,
    responses((status = 200, body = DrainInfo), (status = 404, body = Refusal),
        (status = 503, body = Refusal)))]
async fn drain_begin(
    State(admin): State<Admin>,
    Asked(asked): Asked<DrainAsked>,
    Body(new): Body<NewDrain>,
) -> Reply<DrainInfo> {
    reply(admin.operator.drain_begin(asked.node.as_deref(), new)).await
}

/// A node that was emptied serves again.
#[utoipa::path(delete, path = "/admin/drain", params(DrainAsked),
    responses((status = 200, body = DrainInfo), (status = 404, body = Refusal)))]
async fn drain_undo(
    State(admin): State<Admin>,
    Asked(asked): Asked<DrainAsked>,
) -> Reply<DrainInfo> {
    reply(admin.operator.drain_undo(asked.node.as_deref())).await
}

/// The metadata group as this node sees it.
#[utoipa::path(get, path = "/admin/metadata", responses((status = 200, body = MetadataInfo)))]
async fn metadata(State(admin): State<Admin>) -> Reply<MetadataInfo> {
    reply(admin.operator.metadata()).await
}

/// The region's registry in Redis, as this node sees it.
#[utoipa::path(get, path = "/admin/registry", responses((status = 200, body = RegistryInfo)))]
async fn registry(State(admin): State<Admin>) -> Reply<RegistryInfo> {
    reply(admin.operator.registry()).await
}

/// What the registry has of an account: sessions of this region, those whose node has a lease.
#[utoipa::path(get, path = "/admin/registry/{account}", responses((status = 200, body = [RegistryRow])))]
async fn registry_rows(
    State(admin): State<Admin>,
    Path(account): Path<String>,
) -> Reply<Vec<RegistryRow>> {
    reply(admin.operator.registry_rows(&account)).await
}

/// The links of this node.
#[utoipa::path(get, path = "/admin/links", responses((status = 200, body = [LinkInfo])))]
async fn links(State(admin): State<Admin>) -> Reply<Vec<LinkInfo>> {
    reply(admin.operator.links()).await
}

/// The databases of the region, and how far accounts are moved between them.
#[utoipa::path(get, path = "/admin/storage", responses((status = 200, body = StorageInfo)))]
async fn storage(State(admin): State<Admin>) -> Reply<StorageInfo> {
    reply(admin.operator.storage()).await
}

/// Begins to spread accounts evenly over the databases.
#[utoipa::path(post, path = "/admin/storage/rebalance", request_body = Rebalance,
    responses((status = 200, body = StorageInfo), (status = 409, body = Refusal)))]
async fn rebalance(State(admin): State<Admin>, Body(asked): Body<Rebalance>) -> Reply<StorageInfo> {
    reply(admin.operator.rebalance(asked)).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SessionsAsked {
    /// Only those of this account, in every region.
    account: Option<String>,
    /// At most so many; 100 if not said.
    limit: Option<usize>,
}

/// Sessions of this region, or of one account in every region.
#[utoipa::path(get, path = "/admin/sessions", params(SessionsAsked),
    responses((status = 200, body = [SessionInfo])))]
async fn sessions(
    State(admin): State<Admin>,
    Asked(asked): Asked<SessionsAsked>,
) -> Reply<Vec<SessionInfo>> {
    let limit = asked.limit.unwrap_or(PAGE).min(PAGE_MAX);
    reply(admin.operator.sessions(asked.account.as_deref(), limit)).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct KickAsked {
    /// A full JID, or a bare one for all its sessions in this region.
    jid: String,
}

/// Ends sessions.
#[utoipa::path(delete, path = "/admin/sessions", params(KickAsked),
    responses((status = 200, body = Kicked)))]
async fn kick(State(admin): State<Admin>, Asked(asked): Asked<KickAsked>) -> Reply<Kicked> {
    let sessions = admin.operator.kick(&asked.jid).await?;
    Ok(Json(Kicked { sessions }))
}

/// Where an account's home is.
#[utoipa::path(get, path = "/admin/homes/{account}", params(("account" = String, Path)),
    responses((status = 200, body = HomeInfo)))]
async fn home_of(State(admin): State<Admin>, Path(account): Path<String>) -> Reply<HomeInfo> {
    reply(admin.operator.home_of(&account)).await
}

/// Moves the home of a shard or of one account.
#[utoipa::path(post, path = "/admin/homes/move", request_body = MoveHome,
    responses((status = 200, body = HomeInfo), (status = 503, body = Refusal)))]
async fn home_move(State(admin): State<Admin>, Body(asked): Body<MoveHome>) -> Reply<HomeInfo> {
    reply(admin.operator.home_move(asked.what, &asked.to)).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReportsAsked {
    /// At most so many; 100 if not said.
    limit: Option<usize>,
}

/// What users reported of others when they blocked them, the newest first.
#[utoipa::path(get, path = "/admin/reports", params(ReportsAsked),
    responses((status = 200, body = [ReportInfo])))]
async fn reports(
    State(admin): State<Admin>,
    Asked(asked): Asked<ReportsAsked>,
) -> Reply<Vec<ReportInfo>> {
    reply(admin.operator.reports(asked.limit.unwrap_or(PAGE).min(PAGE_MAX))).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct S2sCheckAsked {
    /// The domain of ours that would send; the global one if not said.
    from: Option<String>,
}

/// Walks the way to another domain (DNS, connection, TLS, certificate, what would prove us) and says what it finds.
#[utoipa::path(get, path = "/admin/s2s/check/{domain}", params(("domain" = String, Path), S2sCheckAsked),
    responses((status = 200, body = DomainCheck), (status = 409, body = Refusal)))]
async fn s2s_check(
    State(admin): State<Admin>,
    Path(domain): Path<String>,
    Asked(asked): Asked<S2sCheckAsked>,
) -> Reply<DomainCheck> {
    reply(admin.operator.s2s_check(&domain, asked.from.as_deref())).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UsersAsked {
    /// Only those after this one.
    after: Option<String>,
    /// At most so many; 100 if not said.
    limit: Option<usize>,
}

/// Accounts in order of name.
#[utoipa::path(get, path = "/admin/users", params(UsersAsked),
    responses((status = 200, body = [String])))]
async fn users(State(admin): State<Admin>, Asked(asked): Asked<UsersAsked>) -> Reply<Vec<String>> {
    let limit = asked.limit.unwrap_or(PAGE).min(PAGE_MAX);
    reply(admin.operator.users(asked.after.as_deref(), limit)).await
}

/// Makes an account.
#[utoipa::path(post, path = "/admin/users", request_body = NewUser,
    responses((status = 200), (status = 409, body = Refusal)))]
async fn user_add(State(admin): State<Admin>, Body(new): Body<NewUser>) -> Reply<()> {
    reply(admin.operator.user_add(&new.account, &new.password)).await
}

/// Makes an account from an export, of this server or another. All of it or nothing, if it is not very large;
/// else a failure leaves an account that nobody can sign in to, until the import is repeated.
#[utoipa::path(post, path = "/admin/users/import", request_body = UserExport,
    responses((status = 200, body = Imported), (status = 400, body = Refusal),
        (status = 409, body = Refusal), (status = 503, body = Refusal)))]
async fn user_import(State(admin): State<Admin>, Body(user): Body<UserExport>) -> Reply<Imported> {
    reply(admin.operator.user_import(user)).await
}

/// More of an import: archived messages. Until the last of them is there nobody can sign in to the account.
#[utoipa::path(post, path = "/admin/users/{account}/archive",
    params(("account" = String, Path)), request_body = ArchivePart,
    responses((status = 200, body = Imported), (status = 400, body = Refusal),
        (status = 409, body = Refusal), (status = 503, body = Refusal)))]
async fn user_import_archive(
    State(admin): State<Admin>,
    Path(account): Path<String>,
    Body(part): Body<ArchivePart>,
) -> Reply<Imported> {
    reply(admin.operator.user_import_archive(&account, part)).await
}

/// Removes an account with all its data.
#[utoipa::path(delete, path = "/admin/users/{account}", params(("account" = String, Path)),
    responses((status = 200), (status = 404, body = Refusal)))]
async fn user_remove(State(admin): State<Admin>, Path(account): Path<String>) -> Reply<()> {
    reply(admin.operator.user_remove(&account)).await
}

/// Sets a password.
#[utoipa::path(put, path = "/admin/users/{account}/password",
    params(("account" = String, Path)), request_body = NewPassword,
    responses((status = 200), (status = 404, body = Refusal)))]
async fn user_passwd(
    State(admin): State<Admin>,
    Path(account): Path<String>,
    Body(new): Body<NewPassword>,
) -> Reply<()> {
    reply(admin.operator.user_passwd(&account, &new.password)).await
}

/// Everything of an account, of its offline messages the first.
#[utoipa::path(get, path = "/admin/users/{account}/export", params(("account" = String, Path)),
    responses((status = 200, body = UserExport), (status = 404, body = Refusal),
        (status = 503, body = Refusal)))]
async fn user_export(State(admin): State<Admin>, Path(account): Path<String>) -> Reply<UserExport> {
    reply(admin.operator.user_export(&account)).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OfflineAsked {
    /// The `more` of the answer before.
    after: u64,
}

/// The messages that wait for an account, after those of the answer before.
#[utoipa::path(get, path = "/admin/users/{account}/offline",
    params(("account" = String, Path), OfflineAsked),
    responses((status = 200, body = OfflinePage), (status = 404, body = Refusal),
        (status = 503, body = Refusal)))]
async fn user_offline(
    State(admin): State<Admin>,
    Path(account): Path<String>,
    Asked(asked): Asked<OfflineAsked>,
) -> Reply<OfflinePage> {
    reply(admin.operator.user_offline(&account, asked.after)).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ArchiveAsked {
    /// The `more` of the answer before; if not said, from the first.
    after: Option<u64>,
}

/// What is archived for an account, the oldest first.
#[utoipa::path(get, path = "/admin/users/{account}/archive",
    params(("account" = String, Path), ArchiveAsked),
    responses((status = 200, body = ArchivePage), (status = 404, body = Refusal),
        (status = 503, body = Refusal)))]
async fn user_archive(
    State(admin): State<Admin>,
    Path(account): Path<String>,
    Asked(asked): Asked<ArchiveAsked>,
) -> Reply<ArchivePage> {
    reply(admin.operator.user_archive(&account, asked.after)).await
}

/// Makes an invitation.
#[utoipa::path(post, path = "/admin/invitations", request_body = NewInvitation,
    responses((status = 200, body = IssuedInvitation), (status = 400, body = Refusal),
        (status = 404, body = Refusal), (status = 409, body = Refusal)))]
async fn invite(
    State(admin): State<Admin>,
    Body(new): Body<NewInvitation>,
) -> Reply<IssuedInvitation> {
    reply(admin.operator.invite(new)).await
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct InvitationsAsked {
    /// Those of this account; if not said, the operator's own.
    of: Option<String>,
}

/// The invitations that are still good.
#[utoipa::path(get, path = "/admin/invitations", params(InvitationsAsked),
    responses((status = 200, body = [InvitationInfo])))]
async fn invitations(
    State(admin): State<Admin>,
    Asked(asked): Asked<InvitationsAsked>,
) -> Reply<Vec<InvitationInfo>> {
    reply(admin.operator.invitations(asked.of.as_deref())).await
}

/// Ends an invitation before its time.
#[utoipa::path(delete, path = "/admin/invitations/{id}",
    params(("id" = String, Path), InvitationsAsked),
    responses((status = 200), (status = 404, body = Refusal)))]
async fn invitation_revoke(
    State(admin): State<Admin>,
    Path(id): Path<String>,
    Asked(asked): Asked<InvitationsAsked>,
) -> Reply<()> {
    reply(admin.operator.invitation_revoke(asked.of.as_deref(), &id)).await
}
