//! Logging in through an issuer (OpenID Connect Core 1.0: authorization code flow with PKCE), beside users with passwords.
//!
//! ```text
//! /login/issuer ─► begin: an attempt for the browser, an address of the issuer's ─► the issuer ─┐
//!                                                                                               │
//! a session ◄─ Accounts::begin_vouched ◄─ finish: code for ID token, which has to hold ◄─ /login/callback
//! ```
//!
//! Nothing is kept of an attempt ([`Attempt`]), so any host of a cluster can finish what another one began. The issuer is asked only
//! when somebody logs in through it, within limits of time and size, and a few at once: if it is down, everything else goes on.
//!
//! Deliberately absent: what somebody may ([`tranche_access::Issuer`]), cookies and pages (the console), tokens of the issuer for
//! programs, and logging out there.

mod fetch;
mod identity;
mod secret;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use openidconnect::core::{
    CoreAuthenticationFlow, CoreClient, CoreClientAuthMethod, CoreIdToken, CoreProviderMetadata,
};
use openidconnect::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, CsrfToken, DiscoveryError, IssuerUrl, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope,
};
use tokio::sync::{Mutex, Semaphore};
use tranche_access::{Attempt, Issuer, Person};
use tranche_api::access::{IssuerAnswer, LogInBegun, Secret};
use tranche_core::diagnostics as say;
use tranche_core::finding::Finding;
use tranche_core::name::Timestamp;

use self::fetch::{FetchError, Fetcher};
use self::identity::Doubt;
use crate::clock;
use crate::config::{CALLBACK_PATH, OidcConfig};

/// How long all that the issuer is asked for one attempt may take.
const ISSUER_TIME: Duration = Duration::from_secs(10);
/// Attempts for which the issuer is asked beside each other.
const AT_ONCE: usize = 4;
/// For how long it is remembered where the issuer is asked and what it signs with, in milliseconds.
const KNOWN_MS: u64 = 60 * 60 * 1_000;
/// The longest address to come back to, in bytes.
const CALLBACK_LEN_MAX: usize = 300;
const HOUR_MS: u64 = 60 * 60 * 1_000;

/// The issuer through which people log in.
#[derive(Debug)]
pub struct Oidc {
    config: OidcConfig,
    name: String,
    known: Mutex<Option<Arc<Known>>>,
    turns: Semaphore,
}

/// What the issuer said about itself (OpenID Connect Discovery 1.0), with the keys that it signs with.
#[derive(Debug)]
struct Known {
    metadata: CoreProviderMetadata,
    fetcher: Fetcher,
    at: Timestamp,
}

/// Ready to send a browser to the issuer, and to fetch what it has a code for.
type Client = CoreClient<
    openidconnect::EndpointSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointNotSet,
    openidconnect::EndpointMaybeSet,
    openidconnect::EndpointMaybeSet,
>;

impl Oidc {
    /// The issuer that the settings name, if they name one.
    pub fn new(config: &OidcConfig) -> Option<Self> {
        if config.issuer.is_empty() {
            return None;
        }
        // Whoever looks after the host learns of it at once, and not only who wants to log in.
        if let Err(finding) = secret::read(&config.client_secret_file) {
            tell(&finding);
        }
        let (known, turns) = (Mutex::default(), Semaphore::new(AT_ONCE));
        Some(Self { name: config.display_name(), config: config.clone(), known, turns })
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom it vouches for, and what those may.
    pub fn issuer(&self) -> Issuer {
        Issuer {
            url: self.config.issuer.clone(),
            name: self.name.clone(),
            roles: self.config.roles.clone(),
            session_ms_max: self.config.session_hours * HOUR_MS,
        }
    }

    /// Begins an attempt of a browser that can be sent back to `callback`.
    ///
    /// # Errors
    /// It cannot be sent back there, or the issuer does not answer.
    pub async fn begin(&self, callback: &str) -> Result<LogInBegun, Finding> {
        let callback = self.callback(callback)?;
        let attempt = Attempt::begin(clock::now())?;
        let asked = async {
            let known = self.known(None).await?;
            self.client(&known, callback).await
        };
        let client = self.in_time(asked).await?;
        let verifier = PkceCodeVerifier::new(attempt.verifier());
        let scopes = self.config.scopes.iter().filter(|scope| *scope != "openid").cloned().map(Scope::new);
        let (state, nonce) = (CsrfToken::new(attempt.state()), Nonce::new(attempt.nonce()));
        let (url, _, _) = client
            .authorize_url(CoreAuthenticationFlow::AuthorizationCode, || state, || nonce)
            .add_scopes(scopes)
            .set_pkce_challenge(PkceCodeChallenge::from_code_verifier_sha256(&verifier))
            .url();
        Ok(LogInBegun { attempt: Secret(attempt.text().to_owned()), url: url.into() })
    }

    /// Finds out who somebody is, by what the issuer sent the browser of this attempt back with.
    ///
    /// # Errors
    /// It belongs to another attempt, the issuer refuses or does not answer, or what it says does not hold.
    pub async fn finish(&self, attempt: &Attempt, answer: &IssuerAnswer) -> Result<Person, Finding> {
        let Some(Secret(state)) = &answer.state else { return Err(say::login_stale()) };
        if !attempt.is_state(state) {
            return Err(say::login_stale());
        }
        if answer.iss.as_ref().is_some_and(|issuer| *issuer != self.config.issuer) {
            return Err(say::id_token_invalid(&self.name, "another issuer has answered"));
        }
        if let Some(error) = &answer.error {
            return Err(say::issuer_refused(&self.name, &word(error)));
        }
        let Some(Secret(code)) = &answer.code else {
            return Err(say::issuer_refused(&self.name, "it sent no code"));
        };
        let callback = self.callback(&answer.callback)?;
        self.in_time(self.identify(attempt, code, callback)).await
    }

    async fn identify(
        &self,
        attempt: &Attempt,
        code: &str,
        callback: RedirectUrl,
    ) -> Result<Person, Finding> {
        let known = self.known(None).await?;
        let client = self.client(&known, callback).await?;
        let token = self.exchange(&known, &client, attempt, code).await?;
        let person = |known: &Known| {
            identity::person(&token, &known.metadata, &self.config, &attempt.nonce(), clock::now())
        };
        match person(&known) {
            Ok(person) => Ok(person),
            // It may sign with another key than it did.
            Err(Doubt::Key(_)) => {
                let known = self.known(Some(known.at)).await?;
                person(&known).map_err(|doubt| self.doubtful(&doubt))
            }
            Err(doubt) => Err(self.doubtful(&doubt)),
        }
    }

    /// Gets what the code stands for.
    async fn exchange(
        &self,
        known: &Known,
        client: &Client,
        attempt: &Attempt,
        code: &str,
    ) -> Result<CoreIdToken, Finding> {
        let request = client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .map_err(|_| say::issuer_unreachable(&self.name, "it does not tell where codes are taken"))?
            .set_pkce_verifier(PkceCodeVerifier::new(attempt.verifier()));
        let invalid = |why: &str| say::id_token_invalid(&self.name, why);
        // What was read stays out of messages: tokens stand in it.
        let response = request.request_async(&known.fetcher).await.map_err(|error| match error {
            RequestTokenError::ServerResponse(refusal) => {
                say::issuer_refused(&self.name, &word(refusal.error().as_ref()))
            }
            RequestTokenError::Request(error) => self.unreachable(&error),
            RequestTokenError::Parse(..) => invalid("it cannot be read"),
            RequestTokenError::Other(_) => say::issuer_unreachable(&self.name, "what it says is no answer"),
        })?;
        response.extra_fields().id_token().cloned().ok_or_else(|| invalid("there is no ID token in it"))
    }

    /// What is known of the issuer, asked for anew if that is old, or was learned at `stale`.
    async fn known(&self, stale: Option<Timestamp>) -> Result<Arc<Known>, Finding> {
        let mut known = self.known.lock().await;
        let now = clock::now();
        let fresh = |known: &&Arc<Known>| !now.is_past(known.at, KNOWN_MS) && stale != Some(known.at);
        if let Some(known) = known.as_ref().filter(fresh) {
            return Ok(Arc::clone(known));
        }
        let fetcher =
            Fetcher::trusting(&self.config.authority).await.map_err(|error| self.unreachable(&error))?;
        let url = IssuerUrl::new(self.config.issuer.clone())
            .map_err(|_| say::issuer_unreachable(&self.name, "its address cannot be read"))?;
        let metadata = CoreProviderMetadata::discover_async(url, &fetcher).await;
        let metadata = metadata.map_err(|error| match error {
            DiscoveryError::Request(error) => self.unreachable(&error),
            DiscoveryError::Response(status, ..) => say::issuer_unreachable(
                &self.name,
                &format!("it says {status} to what it should tell about itself"),
            ),
            DiscoveryError::Validation(_) => {
                say::issuer_unreachable(&self.name, "it calls itself otherwise than oidc.issuer does")
            }
            _ => say::issuer_unreachable(&self.name, "what it tells about itself cannot be read"),
        })?;
        let new = Arc::new(Known { metadata, fetcher, at: clock::now() });
        *known = Some(Arc::clone(&new));
        Ok(new)
    }

    async fn client(&self, known: &Known, callback: RedirectUrl) -> Result<Client, Finding> {
        let path = self.config.client_secret_file.clone();
        let secret = tokio::task::spawn_blocking(move || secret::read(&path)).await;
        let secret = secret.ok().and_then(|read| read.inspect_err(tell).ok());
        let secret = secret.ok_or_else(|| say::issuer_secret_unusable(&self.name))?;
        let methods = known.metadata.token_endpoint_auth_methods_supported();
        let takes = |method| methods.is_none_or(|methods| methods.contains(&method));
        let in_body =
            !takes(CoreClientAuthMethod::ClientSecretBasic) && takes(CoreClientAuthMethod::ClientSecretPost);
        let client = CoreClient::from_provider_metadata(
            known.metadata.clone(),
            ClientId::new(self.config.client_id.clone()),
            secret.map(|Secret(secret)| ClientSecret::new(secret)),
        );
        let client = client.set_redirect_uri(callback);
        Ok(if in_body { client.set_auth_type(AuthType::RequestBody) } else { client })
    }

    /// Where browsers are sent back to.
    fn callback(&self, told: &str) -> Result<RedirectUrl, Finding> {
        let wrong = || {
            let told: String = told.chars().take(80).collect();
            say::invalid_value("callback", &told, &format!("https://ADDRESS{CALLBACK_PATH}"))
        };
        let set = &self.config.redirect_url;
        if !set.is_empty() {
            return RedirectUrl::new(set.clone()).map_err(|_| wrong());
        }
        let url =
            told.parse::<hyper::Uri>().ok().filter(|_| told.len() <= CALLBACK_LEN_MAX).ok_or_else(wrong)?;
        let is_ours =
            url.scheme_str() == Some("https") && url.path() == CALLBACK_PATH && url.query().is_none();
        let has_user = url.authority().is_none_or(|authority| authority.as_str().contains('@'));
        if !is_ours || has_user {
            return Err(wrong());
        }
        RedirectUrl::new(told.to_owned()).map_err(|_| wrong())
    }

    /// Waits for the issuer, and for one's turn to ask it, no longer than for anything else.
    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, Finding>>) -> Result<T, Finding> {
        let asked = async {
            let _turn = self.turns.acquire().await;
            asked.await
        };
        let late = || {
            let why = format!("it took longer than {} s", ISSUER_TIME.as_secs());
            Err(say::issuer_unreachable(&self.name, &why))
        };
        tokio::time::timeout(ISSUER_TIME, asked).await.unwrap_or_else(|_| late())
    }

    fn unreachable(&self, error: &FetchError) -> Finding {
        let why = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        say::issuer_unreachable(&self.name, &why)
    }

    fn doubtful(&self, doubt: &Doubt) -> Finding {
        let (Doubt::Key(why) | Doubt::Claim(why)) = doubt;
        say::id_token_invalid(&self.name, why)
    }
}

/// To whoever looks after the host.
fn tell(finding: &Finding) {
    tracing::error!("{} {}", finding.message, finding.hint);
}

/// A word of the issuer's, as far as it is one.
fn word(text: &str) -> String {
    let word: String =
        text.chars().take(60).filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')).collect();
    if word.is_empty() { "without a word".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oidc(redirect_url: &str) -> Oidc {
        let config = OidcConfig {
            issuer: "https://sso.example.com".to_owned(),
            redirect_url: redirect_url.to_owned(),
            ..OidcConfig::default()
        };
        Oidc::new(&config).unwrap()
    }

    #[test]
    fn browsers_are_sent_back_to_the_console_and_nowhere_else() {
        let told = |callback: &str| oidc("").callback(callback).map(|url| url.to_string()).ok();
        for callback in ["https://node1:7440/login/callback", "https://[2001:db8::1]:7440/login/callback"] {
            assert_eq!(told(callback).as_deref(), Some(callback));
        }
        let long = format!("https://{}.example/login/callback", "a".repeat(CALLBACK_LEN_MAX));
        for callback in [
            "",
            "/login/callback",
            "http://node1/login/callback",
            "https://node1/login/callback?a=b",
            "https://node1/other",
            "https://node1@evil.example/login/callback",
            &long,
        ] {
            assert_eq!(told(callback), None, "{callback:?}");
        }
        let set = oidc("https://gpus.example.com/login/callback");
        let url = set.callback("https://node1:7440/login/callback").unwrap();
        assert_eq!(url.as_str(), "https://gpus.example.com/login/callback");
    }

    #[test]
    fn what_an_issuer_says_becomes_a_word_and_no_more() {
        assert_eq!(word("access_denied"), "access_denied");
        assert_eq!(word("<b>\n no"), "bno");
        assert_eq!(word("\u{202e}"), "without a word");
        assert_eq!(word(&"a".repeat(900)).len(), 60);
    }

    #[test]
    fn without_an_issuer_there_is_none() {
        assert!(Oidc::new(&OidcConfig::default()).is_none());
    }
}
