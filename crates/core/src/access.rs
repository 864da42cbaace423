//! Who may do what: the roles of people and of what acts for them.
//!
//! Each role may all that the one before it may. What a request needs is decided here, by its method and path alone, so that
//! every door decides alike and a route that nobody thought of is for administrators.
//!
//! Deliberately absent: who somebody is, and how that is proved ([`crate::name::UserName`] only names them).

mod limit;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::NameError;

pub use self::limit::{Grant, Limit, Reach};

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees everything but secrets, and changes nothing.
    Viewer,
    /// Makes, starts, stops, moves and removes VMs, and drains hosts.
    Operator,
    /// May everything: GPUs, policies, the cluster, and who may what.
    Admin,
}

impl Role {
    /// Every role, the one that may least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The role as text, the same as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == text);
        found.ok_or_else(|| NameError::new("role", text, "viewer, operator or admin"))
    }
}

/// Whether a request is answered to whoever asks: whether the daemon is well, and what it takes to log in.
pub fn is_open(method: &str, path: &str) -> bool {
    matches!(
        (method, path),
        ("GET", "/healthz") | ("POST", "/v1/sessions") | ("GET" | "POST", "/v1/sessions/issuer")
    )
}

/// The role that a request needs, by its method and path as they are on the wire, the query left out; unless it is open ([`is_open`]).
pub fn needed(method: &str, path: &str) -> Role {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let asks = matches!(method, "GET" | "HEAD");
    match (segments.as_slice(), asks) {
        // Who there is, and what was done by whom, is not everybody's business.
        (["v1", "users" | "tokens" | "audit", ..] | ["v1", "cluster", "backup"], _) => Role::Admin,
        // Whoever is at a console acts in the guest, however it is asked for.
        _ if opens_console(path) => Role::Operator,
        (_, true) => Role::Viewer,
        // One's own session: to leave is always allowed.
        (["v1", "session"], _) => Role::Viewer,
        // It only compares, and changes nothing.
        (["v1", "diff"], _) => Role::Viewer,
        (["v1", "vms", ..], _) => Role::Operator,
        (["v1", "hosts", _, "drain" | "undrain"], _) => Role::Operator,
        _ => Role::Admin,
    }
}

/// What keeps somebody from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It is for another role.
    Needs(Role),
    /// It is for nobody who is limited to VMs with a label.
    Limited,
}

/// What keeps somebody with a role, whether it is limited to VMs with a label or not, from a request. Which VMs that may be is judged where the
/// request is answered.
pub fn denied(role: Role, is_limited: bool, method: &str, path: &str) -> Option<Denied> {
    let needs = needed(method, path);
    if role < needs {
        return Some(Denied::Needs(needs));
    }
    (is_limited && Reach::of(method, path).is_none()).then_some(Denied::Limited)
}

/// Whether a request opens a console of a VM, by its path. Such a one is an act, although it is asked for by GET, because WebSockets are.
pub fn opens_console(path: &str) -> bool {
    let mut segments = path.trim_matches('/').split('/');
    let mut is = |segment: &str| segments.next() == Some(segment);
    is("v1") && is("vms") && segments.next().is_some() && {
        let console = segments.next();
        matches!(console, Some("console" | "screen")) && segments.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_nobody_thought_of_is_for_administrators() {
        assert_eq!(needed("POST", "/v1/something/new"), Role::Admin);
        assert_eq!(needed("DELETE", "/v1/hosts/a"), Role::Admin);
        assert_eq!(needed("PUT", "/v1/hosts/drain"), Role::Admin, "a host may be called so");
        assert_eq!(needed("BREW", "/"), Role::Admin);
    }

    #[test]
    fn viewers_see_operators_act_on_vms_and_administrators_rule() {
        let may = |role: Role, method, path| role >= needed(method, path);
        for (method, path, least) in [
            ("GET", "/v1/vms", Role::Viewer),
            ("POST", "/v1/vms", Role::Operator),
            ("POST", "/v1/vms/a/start", Role::Operator),
            ("POST", "/v1/hosts/a/drain", Role::Operator),
            ("GET", "/v1/vms/a/console", Role::Operator),
            ("GET", "/v1/vms/a/screen", Role::Operator),
            ("GET", "/v1/vms/console", Role::Viewer),
            ("GET", "/v1/vms/a/destinations", Role::Viewer),
            ("PUT", "/v1/gpus/a/0000:01:00.0/mode", Role::Admin),
            ("PUT", "/v1/policy", Role::Admin),
            ("GET", "/v1/users", Role::Admin),
            ("DELETE", "/v1/session", Role::Viewer),
        ] {
            for role in Role::ALL {
                assert_eq!(may(role, method, path), role >= least, "{role} {method} {path}");
            }
        }
    }

    #[test]
    fn a_role_and_its_text_stand_for_each_other() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse::<Role>().unwrap(), role);
        }
        assert!("root".parse::<Role>().is_err());
    }
}
