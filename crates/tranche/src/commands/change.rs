//! The one way in which a change is asked for: preview it, or make it and wait.

use hyper::Method;
use serde::Serialize;
use tranche_api::answer::{Accepted, Preview};

use super::Daemon;
use crate::cli::Doing;
use crate::failure::{Exit, Failure};
use crate::wait;

/// Asks for a change by `PUT`.
pub(super) fn put(
    path: &str,
    body: &impl Serialize,
    doing: Doing,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    make(Method::PUT, path, Some(body), doing, daemon)
}

/// Asks for a change by `PATCH`.
pub(super) fn patch(
    path: &str,
    body: &impl Serialize,
    doing: Doing,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    make(Method::PATCH, path, Some(body), doing, daemon)
}

/// Asks for a change by `POST`.
pub(super) fn post(
    path: &str,
    body: &impl Serialize,
    doing: Doing,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    make(Method::POST, path, Some(body), doing, daemon)
}

/// Asks for something to go away.
pub(super) fn delete(path: &str, doing: Doing, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    make(Method::DELETE, path, None::<&()>, doing, daemon)
}

fn make(
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
    doing: Doing,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    let Daemon { client, console } = daemon;
    if doing.dry_run {
        let preview: Preview = client.send(method, &dry(path), body)?;
        return daemon.show(&preview);
    }
    let accepted: Accepted = client.send(method, path, body)?;
    console.remarks(&accepted.findings);
    if doing.no_wait {
        return daemon.show(&accepted);
    }
    let operation = wait::until_over(accepted.operation, doing.timeout, client, console)?;
    console.done(&operation)?;
    Ok(Exit::Done)
}

/// The same change, only to be looked at.
pub(super) fn dry(path: &str) -> String {
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{path}{separator}dry_run=true")
}
