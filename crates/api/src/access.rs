//! Who may come in: users, tokens, sessions. Secrets go over the wire once, when they are made or shown.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use tranche_core::access::Role;
use tranche_core::label::Label;
use tranche_core::name::{Timestamp, UserName};

/// Text that stays out of logs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Logs in: `POST /v1/sessions`, with a name and a password, with the secret of a one-time link, or with what an issuer answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum LogIn {
    /// As a user.
    Password {
        /// Who.
        user: String,
        /// The password.
        password: Secret,
    },
    /// By a link, which works once.
    Link {
        /// What the link ends with.
        link: Secret,
    },
    /// Through an issuer (OpenID Connect), by what it answered.
    Issuer {
        /// The secret that the attempt has left with the browser.
        attempt: Secret,
        /// What the browser came back with.
        answer: IssuerAnswer,
    },
}

/// What an issuer sends a browser back with: the query of the callback (OpenID Connect Core 1.0, section 3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IssuerAnswer {
    /// The address to which it came, the same that the attempt was begun with.
    pub callback: String,
    /// Which attempt it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Secret>,
    /// What the identity is fetched with, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Secret>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Who answers (RFC 9207).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
}

/// Through whom people can log in: `GET /v1/sessions/issuer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct IssuerView {
    /// What the issuer is called; none where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Begins to log in through the issuer: `POST /v1/sessions/issuer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BeginLogIn {
    /// Where the issuer shall send the browser back to: `/login/callback` of the console, by the address that the browser knows.
    pub callback: String,
}

/// An attempt to log in through the issuer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogInBegun {
    /// What the browser keeps until the issuer has answered. It is told only here.
    pub attempt: Secret,
    /// Where the browser goes.
    pub url: String,
}

/// A session that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LoggedIn {
    /// What the browser shows from now on. It is told only here.
    pub secret: Secret,
    /// Whose session it is.
    #[serde(flatten)]
    pub caller: CallerView,
    /// When it ends by itself, in milliseconds since the Unix epoch.
    pub expires_at: Timestamp,
    /// Who it is for the issuer that vouches for them, whatever they are called; none for users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}

/// Who asks: `GET /v1/session`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CallerView {
    /// The user or the token, or the local user by number; whom an issuer vouches for is told by `NAME (via ISSUER)`.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The labels of the VMs that they are limited to: those that carry one of them. Without any there is no limit.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vm_labels: BTreeSet<Label>,
}

/// A user: `GET /v1/users`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct UserView {
    /// The name.
    pub name: UserName,
    /// What they may do.
    pub role: Role,
    /// The labels of the VMs that they are limited to: those that carry one of them. Without any there is no limit.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vm_labels: BTreeSet<Label>,
    /// When they were made known, in milliseconds since the Unix epoch.
    pub created_at: Timestamp,
    /// When the password was last set; none while there is none, and only a one-time link lets them in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_at: Option<Timestamp>,
}

/// Makes a user known, or changes one: `PUT /v1/users/{name}`. What is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SetUser {
    /// What they may do; a viewer if that was never said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The labels of the VMs that they are limited to: those that carry one of them. An empty list takes the limit away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm_labels: Option<BTreeSet<Label>>,
    /// A new password. It ends all sessions of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// A token: `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenView {
    /// What it is called.
    pub name: UserName,
    /// What it may do.
    pub role: Role,
    /// The labels of the VMs that it is limited to: those that carry one of them. Without any there is no limit.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vm_labels: BTreeSet<Label>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at: Timestamp,
    /// When it ends, in milliseconds since the Unix epoch.
    pub expires_at: Timestamp,
}

/// Makes a token: `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is called; each name stands for one token.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The labels of the VMs that it is limited to: those that carry one of them. Without any there is no limit.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub vm_labels: BTreeSet<Label>,
    /// For how many days it lasts.
    #[serde(default = "days_default")]
    #[schema(minimum = 1, maximum = 3650, default = 90)]
    pub days: u32,
}

/// For how many days a token lasts unless something else is asked for.
pub const TOKEN_DAYS_DEFAULT: u32 = 90;
/// For how many days a token lasts at most.
pub const TOKEN_DAYS_MAX: u32 = 3_650;

fn days_default() -> u32 {
    TOKEN_DAYS_DEFAULT
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TokenMade {
    /// What is sent as `Authorization: Bearer`. It is told only here.
    pub secret: Secret,
    /// The token.
    #[serde(flatten)]
    pub token: TokenView,
}

/// A one-time link to the console: `POST /v1/users/{name}/link`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LinkMade {
    /// What the link ends with. It works once.
    pub secret: Secret,
    /// The path that it belongs to, on any host of the cluster.
    pub path: String,
    /// The whole link to the host that was asked; none where that serves no console.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// When it ends, in milliseconds since the Unix epoch.
    pub expires_at: Timestamp,
}

/// A field that was changed, or what something was that was started, stopped, moved or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Changed {
    /// Which one: the names on the way to it, with points between; `…` stands for more that was cut.
    pub field: String,
    /// What it was, cut at 200 characters; none if there was nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// What was asked for; none if it was left out, or follows from what was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// In a line: `role: viewer → operator`, or `state was stopped` of what follows from what was done.
impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = &self.field;
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "{field}: {before} → {after}"),
            (Some(before), None) => write!(f, "{field} was {before}"),
            (None, Some(after)) => write!(f, "{field}: none → {after}"),
            (None, None) => f.write_str(field),
        }
    }
}

/// Something that was done or refused: `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// When, in milliseconds since the Unix epoch.
    pub at: Timestamp,
    /// Who: a user, `NAME (via ISSUER)`, `token NAME`, or `uid N` for the host's own socket.
    pub who: String,
    /// From where: an address, or `socket`.
    pub from: String,
    /// At which host it was asked.
    pub host: String,
    /// What was asked: the method and the path.
    pub what: String,
    /// The body that was sent, without secrets, cut at 4 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// What was otherwise before, as far as it was there: forty fields at most, without secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Changed>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// What became of it: the title of the operation, or why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
}
