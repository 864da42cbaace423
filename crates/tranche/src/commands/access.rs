//! Commands about users, tokens and the audit log.

use std::io::{IsTerminal as _, Read as _};

use hyper::Method;
use tranche_api::access::{AuditEntry, LinkMade, NewToken, Secret, SetUser, TokenMade, TokenView, UserView};
use tranche_core::diagnostics as say;
use tranche_core::name::UserName;

use super::Daemon;
use crate::cli::{ApiTokenCommand, UserCommand};
use crate::failure::{Exit, Failure};

/// The longest password that is read, in bytes, with its line break.
const SECRET_LEN_MAX: u64 = 4_096;

pub(super) fn user(command: UserCommand, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    match command {
        UserCommand::List => daemon.show(daemon.client.list::<Vec<UserView>>("/users")?.as_slice()),
        UserCommand::Create { name, role, vm_labels, password } => {
            let users: Vec<UserView> = daemon.client.list("/users")?;
            if users.iter().any(|user| user.name == name) {
                return Err(Failure::Refused(Box::new(say::user_exists(&name))));
            }
            let password = if password.password_stdin { Some(secret_from_stdin()?) } else { None };
            let has_password = password.is_some();
            let vm_labels = (!vm_labels.is_empty()).then(|| vm_labels.into_iter().collect());
            let user = set(&name, &SetUser { role: Some(role), vm_labels, password }, daemon)?;
            if has_password { daemon.show(&user) } else { link(&name, daemon) }
        }
        UserCommand::Set { name, role, vm_labels, no_vm_label } => {
            let users: Vec<UserView> = daemon.client.list("/users")?;
            if !users.iter().any(|user| user.name == name) {
                return Err(Failure::Refused(Box::new(say::user_not_found(&name))));
            }
            let is_named = no_vm_label || !vm_labels.is_empty();
            let vm_labels = is_named.then(|| vm_labels.into_iter().collect());
            daemon.show(&set(&name, &SetUser { role, vm_labels, password: None }, daemon)?)
        }
        UserCommand::Password { name, stdin } => {
            let users: Vec<UserView> = daemon.client.list("/users")?;
            if !users.iter().any(|user| user.name == name) {
                return Err(Failure::Refused(Box::new(say::user_not_found(&name))));
            }
            let password = Some(if stdin { secret_from_stdin()? } else { from_terminal()? });
            daemon.show(&set(&name, &SetUser { password, ..SetUser::default() }, daemon)?)
        }
        UserCommand::Link { name } => link(&name, daemon),
        UserCommand::Delete { name } => {
            daemon.client.send::<()>(Method::DELETE, &format!("/users/{name}"), None::<&()>)?;
            Ok(Exit::Done)
        }
    }
}

pub(super) fn token(command: ApiTokenCommand, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    match command {
        ApiTokenCommand::List => daemon.show(daemon.client.list::<Vec<TokenView>>("/tokens")?.as_slice()),
        ApiTokenCommand::Create { name, role, vm_labels, days } => {
            let asked =
                NewToken { name: name.to_string(), role, vm_labels: vm_labels.into_iter().collect(), days };
            daemon.show(&daemon.client.send::<TokenMade>(Method::POST, "/tokens", Some(&asked))?)
        }
        ApiTokenCommand::Revoke { name } => {
            daemon.client.send::<()>(Method::DELETE, &format!("/tokens/{name}"), None::<&()>)?;
            Ok(Exit::Done)
        }
    }
}

pub(super) fn audit(limit: usize, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    daemon.show(daemon.client.get::<Vec<AuditEntry>>(&format!("/audit?limit={limit}"))?.as_slice())
}

fn set(name: &UserName, wish: &SetUser, daemon: &Daemon<'_>) -> Result<UserView, Failure> {
    Ok(daemon.client.send(Method::PUT, &format!("/users/{name}"), Some(wish))?)
}

fn link(name: &UserName, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let path = format!("/users/{name}/link");
    daemon.show(&daemon.client.send::<LinkMade>(Method::POST, &path, None::<&()>)?)
}

/// A password or a token from standard input, without the line break at its end.
pub(super) fn secret_from_stdin() -> Result<Secret, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(SECRET_LEN_MAX)
        .read_to_string(&mut text)
        .map_err(|source| Failure::Read { path: "-".into(), source })?;
    let len = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(len);
    Ok(Secret(text))
}

/// A password that is typed twice and not shown.
fn from_terminal() -> Result<Secret, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::NoTerminal);
    }
    let unread = |source| Failure::Read { path: "the terminal".into(), source };
    let first = rpassword::prompt_password("New password: ").map_err(unread)?;
    let second = rpassword::prompt_password("The same again: ").map_err(unread)?;
    if first != second {
        return Err(Failure::Mistyped);
    }
    Ok(Secret(first))
}
