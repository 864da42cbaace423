//! The web console: server-rendered pages for people who look after GPUs and VMs.
//!
//! It is a client of the REST interface like the command: each page asks what anybody may ask over REST, with the rights of whoever looks at
//! it, and each button sends what the command would send. So it can show nothing that is not known there, and do nothing that is
//! refused there.
//!
//! Deliberately absent: decisions, state, the engine, a clock, and who somebody is. The daemon proves that, puts a [`Visitor`] into the
//! request, and answers the REST interface that it hands over. Pages are whole without scripts; scripts only keep them up to date.

mod ask;
mod assets;
mod events;
mod fields;
mod guard;
mod layout;
mod links;
mod pages;
mod parts;
mod proposal;
mod words;

use axum::Router;
use axum::middleware::from_fn;
use tranche_core::access::{Role, denied};

pub use guard::tell_route;

/// The cookie that carries the secret of a session. Browsers take a name with this prefix only over TLS, for the whole host, and from
/// nobody else.
pub const SESSION_COOKIE: &str = "__Host-tranche-session";

/// Who looks: put into the request's extensions by the daemon after it has proved who that is.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// What they are called.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// Whether they are limited to some VMs.
    pub is_limited: bool,
    /// What each form that changes something carries, so that no other site can send one. It is bound to the session and told to nobody
    /// else.
    pub csrf: String,
}

impl Visitor {
    /// Whether they may send such a request. It is the daemon that enforces it.
    pub(crate) fn may(&self, method: &str, path: &str) -> bool {
        denied(self.role, self.is_limited, method, path).is_none()
    }
}

/// All pages. `rest` answers the REST interface, and is asked with the extensions of the visitor's own request, so that it knows who asks.
///
/// The router is all fallback, so that it can be that of a router which answers the REST interface at the same root
/// (`Router::fallback_service`).
pub fn router(rest: Router) -> Router {
    let pages = pages::routes()
        .fallback(pages::not_found)
        .method_not_allowed_fallback(pages::not_found)
        .with_state(ask::Console { rest })
        .layer(from_fn(guard::guard))
        .layer(from_fn(guard::tell_route));
    // Extensions are taken along before any path is matched: what a path of the console holds is no business of the REST router's.
    Router::new().fallback_service(pages).layer(from_fn(guard::arrive)).layer(from_fn(guard::headers))
}
