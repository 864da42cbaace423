//! Who may come in: users, tokens, sessions and the audit log. Any host answers these, whoever leads.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tranche_access::{Accounts, Asker, Attempt, Audit, BY_ADDRESS, BY_REFUSAL, BY_USER, Throttle};
use tranche_api::access::{
    AuditEntry, BeginLogIn, CallerView, IssuerAnswer, IssuerView, LinkMade, LogIn, LogInBegun, LoggedIn,
    NewToken, Secret, SetUser, TokenMade, TokenView, UserView,
};
use tranche_core::diagnostics as say;
use tranche_core::finding::{Code, Finding};
use tranche_core::name::UserName;
use tranche_store::Store;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admit::{From, SessionSecret};
use super::input::{InBody, InPath, InQuery, NoQuery};
use super::page::{InPage, PageQuery, Paged};
use super::{App, Refusal, followed};
use crate::clock;
use crate::oidc::Oidc;
use crate::openapi::Refusals;

/// Passwords that are looked at beside each other: each takes 19 MiB and tens of milliseconds of a processor.
const PASSWORDS_AT_ONCE: usize = 2;
/// How long one waits for its turn.
const PASSWORD_WAIT: Duration = Duration::from_secs(5);
/// So many entries of the audit log are shown unless something else is asked for, and at most.
const AUDIT_SHOWN: usize = 200;
const AUDIT_SHOWN_MAX: usize = tranche_access::AUDIT_KEPT_MAX;

/// Knows who may come in, and remembers what was done.
#[derive(Debug, Clone)]
pub struct Access {
    /// Users, tokens and sessions.
    pub accounts: Accounts,
    /// What was done by whom.
    pub audit: Audit,
    /// Where people find the console of this host; nowhere if it serves none.
    console_url: Option<Arc<str>>,
    oidc: Option<Arc<Oidc>>,
    by_address: Arc<Throttle>,
    /// Of its own, so that no page of others that sends browsers here with nonsense keeps anybody's password out.
    by_issuer: Arc<Throttle>,
    by_user: Arc<Throttle>,
    /// Of one user from one address: what a success forgives. Else whoever has a password could guess those of others between their own logins.
    by_both: Arc<Throttle>,
    by_refusal: Arc<Throttle>,
    passwords: Arc<Semaphore>,
}

impl Access {
    /// With what `store` remembers, and the console at this URL.
    pub fn new(store: Arc<dyn Store>, console_url: Option<String>) -> Self {
        Self {
            accounts: Accounts::new(Arc::clone(&store)),
            audit: Audit::new(store),
            console_url: console_url.map(Arc::from),
            oidc: None,
            by_address: Arc::new(Throttle::new(BY_ADDRESS)),
            by_issuer: Arc::new(Throttle::new(BY_ADDRESS)),
            by_user: Arc::new(Throttle::new(BY_USER)),
            by_both: Arc::new(Throttle::new(BY_ADDRESS)),
            by_refusal: Arc::new(Throttle::new(BY_REFUSAL)),
            passwords: Arc::new(Semaphore::new(PASSWORDS_AT_ONCE)),
        }
    }

    /// The same, where people log in through an issuer as well.
    #[must_use]
    pub fn through(self, oidc: Option<Oidc>) -> Self {
        let Some(oidc) = oidc else { return self };
        let accounts = self.accounts.trusting(oidc.issuer());
        Self { accounts, oidc: Some(Arc::new(oidc)), ..self }
    }

    /// Where people find the console of this host.
    pub(super) fn console_url(&self) -> Option<&str> {
        self.console_url.as_deref()
    }

    /// Begins a session of whom the issuer vouches for.
    async fn vouched(
        &self,
        from: &str,
        attempt: &Secret,
        answer: &IssuerAnswer,
    ) -> Result<LoggedIn, Refusal> {
        if let Some(wait_ms) = self.by_issuer.wait_ms(from, clock::now()) {
            return Err(Refusal::from(say::login_throttled(wait_ms.div_ceil(1_000))));
        }
        let proved = async {
            let oidc = self.oidc.as_ref().ok_or_else(say::issuer_missing)?;
            let attempt = Attempt::read(&attempt.0, clock::now())?;
            let person = oidc.finish(&attempt, answer).await?;
            Ok((attempt, person))
        };
        let (attempt, person) = proved.await.map_err(|finding: Finding| {
            if matches!(finding.code, Code::LoginStale | Code::IssuerRefused | Code::IdTokenInvalid) {
                self.by_issuer.failed(from, clock::now());
            }
            Refusal::from(finding)
        })?;
        let session = self
            .wait_for(move |access| access.accounts.begin_vouched(&person, &attempt, clock::now()))
            .await?;
        self.by_issuer.succeeded(from);
        Ok(session)
    }

    /// Refuses an attempt to log in that comes too soon after others that failed.
    fn is_borne(&self, from: &str, user: Option<&str>) -> Result<(), Refusal> {
        let now = clock::now();
        let of_user = user.and_then(|user| self.by_user.wait_ms(user, now));
        match self.by_address.wait_ms(from, now).max(of_user) {
            Some(wait_ms) => Err(Refusal::from(say::login_throttled(wait_ms.div_ceil(1_000)))),
            None => Ok(()),
        }
    }

    /// Whether the audit log has room for what was refused to one who asks. One who goes on would push everything else out.
    pub(super) fn notes_refusal(&self, who: &str) -> bool {
        let now = clock::now();
        let is_noted = self.by_refusal.wait_ms(who, now).is_none();
        if is_noted {
            self.by_refusal.failed(who, now);
        }
        is_noted
    }

    /// Does what waits for the store, or takes a while.
    pub(super) async fn wait_for<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Finding> + Send + 'static,
    ) -> Result<T, Refusal> {
        let access = self.clone();
        let done = tokio::task::spawn_blocking(followed::within(move || work(&access))).await;
        done.map_err(|_| Refusal::defect())?.map_err(Refusal::from)
    }
}

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(log_in))
        .routes(routes!(issuer, begin_log_in))
        .routes(routes!(session, log_out))
        .routes(routes!(users))
        .routes(routes!(set_user, delete_user))
        .routes(routes!(make_link))
        .routes(routes!(tokens, make_token))
        .routes(routes!(delete_token))
        .routes(routes!(audit))
}

/// Logs in. The secret of the answer is the session of the console; programs use tokens.
#[utoipa::path(
    post,
    path = "/v1/sessions", operation_id = "log_in",
    tag = "access",
    request_body = LogIn,
    responses(
        (status = 201, description = "The session has begun; its secret is told once.", body = LoggedIn),
        (status = 429, description = "Too many attempts have failed.", body = tranche_api::Problem, content_type = "application/problem+json"),
        Refusals
    )
)]
async fn log_in(
    State(app): State<App>,
    Extension(From(from)): Extension<From>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(asked): InBody<LogIn>,
) -> Result<(StatusCode, Json<LoggedIn>), Refusal> {
    let access = &app.access;
    let user = match &asked {
        LogIn::Password { user, .. } => Some(user.chars().take(80).collect::<String>()),
        LogIn::Link { .. } => None,
        LogIn::Issuer { attempt, answer } => {
            return access
                .vouched(&from, attempt, answer)
                .await
                .map(|session| (StatusCode::CREATED, Json(session)));
        }
    };
    access.is_borne(&from, user.as_deref())?;
    let both = format!("{from} {}", user.as_deref().unwrap_or_default());
    let turn = tokio::time::timeout(PASSWORD_WAIT, Arc::clone(&access.passwords).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else { return Err(Refusal::busy("Too many log in at once.")) };
    // Those who tried while this one waited for its turn may have failed.
    access.is_borne(&from, user.as_deref())?;
    let answer = access.wait_for(move |access| Ok(access.accounts.log_in(&asked, clock::now()))).await?;
    drop(turn);
    match answer {
        Ok(session) => {
            access.by_address.forgive(&from, access.by_both.succeeded(&both));
            if let Some(user) = &user {
                access.by_user.succeeded(user);
            }
            Ok((StatusCode::CREATED, Json(session)))
        }
        Err(finding) => {
            if finding.code == Code::LoginFailed {
                let now = clock::now();
                access.by_address.failed(&from, now);
                access.by_both.failed(&both, now);
                user.iter().for_each(|user| access.by_user.failed(user, now));
            }
            Err(Refusal::from(finding))
        }
    }
}

/// Through whom people can log in, beside passwords and links.
#[utoipa::path(get, path = "/v1/sessions/issuer", operation_id = "show_issuer", tag = "access", responses((status = 200, description = "The issuer; without a name where there is none.", body = IssuerView), Refusals))]
async fn issuer(State(app): State<App>, InQuery(NoQuery {}): InQuery<NoQuery>) -> Json<IssuerView> {
    Json(IssuerView { name: app.access.oidc.as_ref().map(|oidc| oidc.name().to_owned()) })
}

/// Begins to log in through the issuer. Nothing is kept of it: what the browser keeps is all that there is.
#[utoipa::path(
    post,
    path = "/v1/sessions/issuer", operation_id = "begin_log_in",
    tag = "access",
    request_body = BeginLogIn,
    responses((status = 201, description = "Where the browser goes, and what it keeps meanwhile; that is told once.", body = LogInBegun), Refusals)
)]
async fn begin_log_in(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(asked): InBody<BeginLogIn>,
) -> Result<(StatusCode, Json<LogInBegun>), Refusal> {
    let oidc = app.access.oidc.as_ref().ok_or_else(say::issuer_missing)?;
    Ok((StatusCode::CREATED, Json(oidc.begin(&asked.callback).await?)))
}

/// Who asks, and what they may do.
#[utoipa::path(get, path = "/v1/session", operation_id = "show_session", tag = "access", responses((status = 200, description = "Who asks.", body = CallerView), Refusals))]
async fn session(
    Extension(asker): Extension<Asker>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Json<CallerView> {
    Json(asker.view())
}

/// Ends the session that asks. Who asks otherwise has none, and nothing happens.
#[utoipa::path(delete, path = "/v1/session", operation_id = "log_out", tag = "access", responses((status = 204, description = "There is no session any more."), Refusals))]
async fn log_out(
    State(app): State<App>,
    secret: Option<Extension<SessionSecret>>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<StatusCode, Refusal> {
    if let Some(Extension(SessionSecret(secret))) = secret {
        app.access.wait_for(move |access| access.accounts.log_out(&secret)).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Every user.
#[utoipa::path(
    get,
    path = "/v1/users", operation_id = "list_users",
    tag = "access",
    params(PageQuery),
    responses((status = 200, description = "Every user, by name.", body = Vec<UserView>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
async fn users(State(app): State<App>, page: InPage) -> Result<Paged<Vec<UserView>>, Refusal> {
    let users = app.access.wait_for(|access| access.accounts.users()).await?;
    page.of(users, |user| user.name.clone())
}

/// Makes a user known, or changes one.
#[utoipa::path(
    put,
    path = "/v1/users/{name}", operation_id = "set_user",
    tag = "access",
    params(("name" = UserName, Path)),
    request_body = Option<SetUser>,
    responses((status = 200, description = "The user as it is now.", body = UserView), Refusals)
)]
async fn set_user(
    State(app): State<App>,
    InPath(name): InPath<UserName>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(wish): InBody<SetUser>,
) -> Result<Json<UserView>, Refusal> {
    app.access.wait_for(move |access| access.accounts.set_user(&name, &wish, clock::now())).await.map(Json)
}

/// Forgets a user. Their sessions are over.
#[utoipa::path(
    delete,
    path = "/v1/users/{name}", operation_id = "delete_user",
    tag = "access",
    params(("name" = UserName, Path)),
    responses((status = 204, description = "There is no such user any more."), Refusals)
)]
async fn delete_user(
    State(app): State<App>,
    InPath(name): InPath<UserName>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<StatusCode, Refusal> {
    app.access.wait_for(move |access| access.accounts.delete_user(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes a link to the console that logs a user in, once.
#[utoipa::path(
    post,
    path = "/v1/users/{name}/link", operation_id = "make_login_link",
    tag = "access",
    params(("name" = UserName, Path)),
    responses((status = 201, description = "The link; it is told once.", body = LinkMade), Refusals)
)]
async fn make_link(
    State(app): State<App>,
    InPath(name): InPath<UserName>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<(StatusCode, Json<LinkMade>), Refusal> {
    let mut link = app.access.wait_for(move |access| access.accounts.make_link(&name, clock::now())).await?;
    link.url = app.access.console_url.as_ref().map(|url| format!("{url}{}", link.path));
    Ok((StatusCode::CREATED, Json(link)))
}

/// Every token; those that have ended too.
#[utoipa::path(
    get,
    path = "/v1/tokens", operation_id = "list_tokens",
    tag = "access",
    params(PageQuery),
    responses((status = 200, description = "Every token, by name.", body = Vec<TokenView>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
async fn tokens(State(app): State<App>, page: InPage) -> Result<Paged<Vec<TokenView>>, Refusal> {
    let tokens = app.access.wait_for(|access| access.accounts.tokens()).await?;
    page.of(tokens, |token| token.name.clone())
}

/// Makes a token.
#[utoipa::path(
    post,
    path = "/v1/tokens", operation_id = "make_token",
    tag = "access",
    request_body = NewToken,
    responses((status = 201, description = "The token; its secret is told once.", body = TokenMade), Refusals)
)]
async fn make_token(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
    InBody(wish): InBody<NewToken>,
) -> Result<(StatusCode, Json<TokenMade>), Refusal> {
    let made = app.access.wait_for(move |access| access.accounts.make_token(&wish, clock::now())).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Ends a token for good.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{name}", operation_id = "delete_token",
    tag = "access",
    params(("name" = UserName, Path)),
    responses((status = 204, description = "There is no such token any more."), Refusals)
)]
async fn delete_token(
    State(app): State<App>,
    InPath(name): InPath<UserName>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<StatusCode, Refusal> {
    app.access.wait_for(move |access| access.accounts.delete_token(&name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How much of the audit log is asked for.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// So many entries at most, up to 5,000; 200 if left out. If there are more, the header `Link` leads to the next page.
    #[param(required = false, minimum = 1, maximum = 5_000)]
    limit: Option<usize>,
    /// Only what comes behind the page whose `Link` has this. It is no text to be made up.
    #[param(required = false)]
    after: Option<String>,
}

/// What was done, or refused, and by whom: the latest first.
#[utoipa::path(
    get,
    path = "/v1/audit", operation_id = "show_audit",
    tag = "access",
    params(AuditQuery),
    responses((status = 200, description = "The last entries, the latest first.", body = Vec<AuditEntry>, headers(("Link" = Option<String>, description = "The way to the next page, where there is one: `<…>; rel=\"next\"`."))), Refusals)
)]
async fn audit(
    State(app): State<App>,
    InQuery(AuditQuery { limit, after }): InQuery<AuditQuery>,
) -> Result<Paged<Vec<AuditEntry>>, Refusal> {
    let limit = limit.unwrap_or(AUDIT_SHOWN);
    // One more tells whether there is another page.
    let read = if after.is_none() { limit.min(AUDIT_SHOWN_MAX) + 1 } else { AUDIT_SHOWN_MAX };
    let page = InPage::at("/v1/audit", Some(limit), after, AUDIT_SHOWN_MAX);
    let entries = app.access.wait_for(move |access| access.audit.last(read)).await?;
    page.of(entries, |entry| {
        let AuditEntry { at, who, from, host, what, status, .. } = entry.clone();
        (Reverse(at), who, from, host, what, status)
    })
}
