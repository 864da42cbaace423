//! Who may come in and do what, in words. None of them says whether a user exists to somebody who has not logged in.

use super::error;
use crate::access::{Limit, Role};
use crate::finding::{Code, Finding, Subject};
use crate::name::UserName;

/// No such user.
pub fn user_not_found(user: &UserName) -> Finding {
    let hint = "'tranche user list' shows the users.";
    error(Code::UserNotFound, subject("user", user), format!("There is no user {user}."), hint)
}

/// A name that another user has.
pub fn user_exists(user: &UserName) -> Finding {
    let hint = format!(
        "'tranche user set {user}' changes what that one may do, and 'tranche user link {user}' lets them in."
    );
    error(Code::UserExists, subject("user", user), format!("There is a user {user} already."), hint)
}

/// No such token.
pub fn token_not_found(token: &UserName) -> Finding {
    let hint = "'tranche token list' shows the tokens.";
    error(Code::TokenNotFound, subject("token", token), format!("There is no token {token}."), hint)
}

/// A name that another token has.
pub fn token_exists(token: &UserName) -> Finding {
    let message = format!("There is a token {token} already.");
    let hint = format!("Choose another name, or revoke that one first: 'tranche token revoke {token}'.");
    error(Code::TokenExists, subject("token", token), message, hint)
}

/// A password that is no good. `why` ends a sentence that begins with "The password".
pub fn password_weak(why: &str, len_min: usize) -> Finding {
    let message = format!("The password {why}.");
    let hint = format!("Choose one of {len_min} characters or more, such as four or five words.");
    error(Code::PasswordWeak, Subject::Input("password".to_owned()), message, hint)
}

/// Whoever asks has not said who they are.
pub fn login_required() -> Finding {
    let message = "This needs a session or a token, and there is none, or it has ended.".to_owned();
    let hint = "Log in, or send 'Authorization: Bearer' with a token that 'tranche token create' makes.";
    error(Code::LoginRequired, Subject::Installation, message, hint)
}

/// A name and a password that do not belong together.
pub fn login_failed() -> Finding {
    let message = "No user has this name and this password.".to_owned();
    let hint =
        "Check both. On a host of the cluster, 'tranche user link NAME' makes a link that logs in once.";
    error(Code::LoginFailed, Subject::Installation, message, hint)
}

/// A one-time link that opens nothing.
pub fn link_failed() -> Finding {
    let message = "This link was used already, or its time is over.".to_owned();
    let hint = "Make another one on a host of the cluster: 'tranche user link NAME'.";
    error(Code::LoginFailed, Subject::Installation, message, hint)
}

/// Too many attempts have failed.
pub fn login_throttled(wait_s: u64) -> Finding {
    let message = format!("Too many attempts to log in have failed; the next one is taken in {wait_s} s.");
    let hint = "Wait. On a host of the cluster, 'tranche user link NAME' makes a link that logs in once.";
    error(Code::LoginThrottled, Subject::Installation, message, hint)
}

/// An attempt to log in through an issuer that is not this browser's, or not good any more.
pub fn login_stale() -> Finding {
    let message =
        "This login was begun in another browser or at another address of the console, was used already, or took too long."
            .to_owned();
    let hint = "Begin it anew: open the console and log in from there.";
    error(Code::LoginStale, Subject::Installation, message, hint)
}

/// There is no issuer to log in through.
pub fn issuer_missing() -> Finding {
    let message = "No issuer is set on this host, so nobody logs in through one.".to_owned();
    let hint =
        "The section [oidc] of /etc/tranche/tranched.toml names one; it has to be the same on every host.";
    error(Code::IssuerMissing, Subject::Installation, message, hint)
}

/// The issuer gives no answer that could be used. `why` is a clause.
pub fn issuer_unreachable(issuer: &str, why: &str) -> Finding {
    let message = format!("The issuer {issuer} gives no answer that could be used: {why}.");
    let hint = "Names and passwords, and one-time links, work without it. Its address and its certificate's authority are in the section [oidc] of the settings.";
    error(Code::IssuerUnreachable, Subject::Installation, message, hint)
}

/// The issuer said no. `why` is its own word for it.
pub fn issuer_refused(issuer: &str, why: &str) -> Finding {
    let message = format!("The issuer {issuer} refused: {why}.");
    let hint = "Begin the login anew. If it stays so, the client's id, secret and callback address have to be as the issuer knows them.";
    error(Code::IssuerRefused, Subject::Installation, message, hint)
}

/// The secret of the client cannot be used. `why` is a clause.
pub fn issuer_secret_unreadable(path: &str, why: &str) -> Finding {
    let message = format!("The client's secret in {path} cannot be shown to the issuer: {why}.");
    let hint = format!("Put it there on every host: 'install -m 600 /dev/stdin {path}'.");
    error(Code::IssuerSecretUnreadable, Subject::Input("oidc.client_secret_file".to_owned()), message, hint)
}

/// The same as it is told to whoever comes by, who need not know where the secret is.
pub fn issuer_secret_unusable(issuer: &str) -> Finding {
    let message =
        format!("This host cannot prove to the issuer {issuer} who it is: its secret cannot be used.");
    let hint = "'journalctl -u tranched' on this host says why. Names and passwords, and one-time links, work without it.";
    error(Code::IssuerSecretUnreadable, Subject::Installation, message, hint)
}

/// What the issuer said about somebody does not hold. `why` is a clause.
pub fn id_token_invalid(issuer: &str, why: &str) -> Finding {
    let message = format!("What the issuer {issuer} said about who you are does not hold: {why}.");
    let hint = "Begin the login anew. If it stays so, compare the clocks of host and issuer, and the section [oidc] of the settings with what the issuer has.";
    error(Code::IdTokenInvalid, Subject::Installation, message, hint)
}

/// Somebody whom an issuer vouches for, and who may nothing here.
pub fn no_role(who: &str) -> Finding {
    let message = format!("{who} is in no group that has a role here.");
    let hint = "An administrator can give a group a role: [oidc.roles] in /etc/tranche/tranched.toml, on every host.";
    error(Code::NoRole, Subject::Input(who.to_owned()), message, hint)
}

/// Somebody who may not do this.
pub fn forbidden(who: &str, has: Role, needs: Role) -> Finding {
    let message = format!("This is for the role {needs}, and {who} has the role {has}.");
    let hint = "An administrator can change that: 'tranche user set NAME --role ROLE'.";
    error(Code::Forbidden, Subject::Input(who.to_owned()), message, hint)
}

/// Somebody who is limited to VMs with a label, and asks for something else.
pub fn beyond_limit(who: &str, limit: &Limit) -> Finding {
    let message =
        format!("This concerns more than the VMs with the label {limit}, to which {who} is limited.");
    let hint = "Ask somebody without such a limit. An administrator can change it: 'tranche user set NAME --no-vm-label'.";
    error(Code::Forbidden, Subject::Input(who.to_owned()), message, hint)
}

/// A VM that would be nobody's who asks for it.
pub fn label_needed(limit: &Limit) -> Finding {
    let message = format!("The VM would not carry the label {limit}, and be none of yours.");
    let hint = format!("Give it one of these labels, and leave it there: {limit}.");
    error(Code::Forbidden, Subject::Input("labels".to_owned()), message, hint)
}

/// A volume that a VM of others has.
pub fn volume_of_others(pool: &str, volume: &str) -> Finding {
    let message = format!("The volume {pool}/{volume} belongs to a VM that is none of yours.");
    let hint = "Name a volume that no other VM has; 'virsh vol-list' shows those of a pool.";
    error(Code::Forbidden, Subject::Input("hardware.disks".to_owned()), message, hint)
}

/// An administrator who would be limited.
pub fn admin_limited(limit: &Limit) -> Finding {
    let message = format!("An administrator cannot be limited to VMs with the label {limit}.");
    let hint = "Choose the role viewer or operator, or leave the label out.";
    error(Code::InvalidValue, Subject::Input("vm_labels".to_owned()), message, hint)
}

/// The host that answered does not know what it is to leave out.
pub fn limit_unknown() -> Finding {
    let message = "The host that leads is of a version that cannot limit anybody to some VMs.".to_owned();
    let hint = "Bring all hosts to one version, or ask somebody without such a limit.";
    error(Code::VersionMismatch, Subject::Installation, message, hint)
}

/// Somebody else changed the same user at the same moment.
pub fn changed_meanwhile() -> Finding {
    let message = "Somebody else changed the same at this moment; nothing was done.".to_owned();
    error(Code::VersionConflict, Subject::Installation, message, "Look again, then ask again.")
}

fn subject(kind: &str, name: &UserName) -> Subject {
    Subject::Input(format!("{kind} {name}"))
}
