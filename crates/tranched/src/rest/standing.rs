//! By what somebody came in, and for how long they keep what lasts: a console, or the stream of events. A session or a token may end, and so
//! may what it allows, long before whoever showed it goes.
//!
//! Deliberately absent: what somebody may ask for in the first place ([`super::admit`]).

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap};
use tokio::time::Instant;
use tranche_access::Asker;

use super::admit::{SessionSecret, token_in};
use super::{App, Refusal};
use crate::clock;

/// For how long somebody keeps what they have while nobody can tell whether they may.
const UNKNOWN_MAX: Duration = Duration::from_secs(30);

/// By what somebody came in.
pub(super) enum By {
    /// The session of a page of the console.
    Session(String),
    /// A token.
    Token(String),
    /// The host's own socket, or another member's door: who may open these may everything.
    Socket,
}

impl By {
    /// By what a request came in.
    pub(super) fn of(extensions: &Extensions, headers: &HeaderMap) -> Self {
        match (extensions.get::<SessionSecret>(), token_in(headers)) {
            (Some(SessionSecret(secret)), _) => Self::Session(secret.clone()),
            (None, Some(token)) => Self::Token(token),
            (None, None) => Self::Socket,
        }
    }

    /// Whether it is a page of the console.
    pub(super) fn is_page(&self) -> bool {
        matches!(self, Self::Session(_))
    }

    /// Returns when whoever came in so is nobody any more, or `may` says that they may not. It is looked so often.
    pub(super) async fn lapses<M>(self, app: &App, every: Duration, may: impl Fn(Asker) -> M + Send + Sync)
    where
        M: Future<Output = Result<bool, Refusal>> + Send,
    {
        let mut known_at = Instant::now();
        loop {
            tokio::time::sleep(every).await;
            let stands = match self.asker(app).await {
                Ok(Some(asker)) => may(asker).await,
                Ok(None) => Ok(false),
                Err(refusal) => Err(refusal),
            };
            match stands {
                Ok(true) => known_at = Instant::now(),
                Err(_) if known_at.elapsed() < UNKNOWN_MAX => {}
                _ => return,
            }
        }
    }

    /// Who that is now.
    async fn asker(&self, app: &App) -> Result<Option<Asker>, Refusal> {
        let now = clock::now();
        match self {
            Self::Session(secret) => {
                let secret = secret.clone();
                app.access.wait_for(move |access| access.accounts.session(&secret, now)).await
            }
            Self::Token(token) => {
                let token = token.clone();
                app.access.wait_for(move |access| access.accounts.token(&token, now)).await
            }
            Self::Socket => std::future::pending().await,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for By {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions, &parts.headers))
    }
}
