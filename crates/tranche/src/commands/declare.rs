//! Commands about the declarative file.

use hyper::Method;
use tranche_api::answer::{Applied, Preview};
use tranche_core::declare::Declaration;

use super::{Daemon, change};
use crate::cli::{DeclaredArgs, Doing};
use crate::declaration::{self, DeclarationError};
use crate::failure::{Exit, Failure};
use crate::wait;

/// Makes things as declared, and waits for each operation in turn.
pub(super) fn apply(declared: &DeclaredArgs, doing: Doing, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let Daemon { client, console } = daemon;
    let declared = read(declared)?;
    if doing.dry_run {
        return daemon.show(&client.send::<Preview>(
            Method::POST,
            &change::dry("/apply"),
            Some(&declared),
        )?);
    }
    let mut applied: Applied = client.send(Method::POST, "/apply", Some(&declared))?;
    console.remarks(&applied.findings);
    if !doing.no_wait {
        for operation in &mut applied.operations {
            *operation = wait::until_over(operation.clone(), doing.timeout, client, console)?;
        }
    }
    daemon.show(&applied)
}

/// Shows what would change.
pub(super) fn diff(declared: &DeclaredArgs, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let declared = read(declared)?;
    let preview: Preview = daemon.client.send(Method::POST, "/diff", Some(&declared))?;
    daemon.console.show(&preview)?;
    Ok(if preview.changes.is_empty() { Exit::Done } else { Exit::Found })
}

/// What the file says, and what the command line adds to it.
fn read(args: &DeclaredArgs) -> Result<Declaration, DeclarationError> {
    let mut declared = declaration::read(&args.file)?;
    declared.prune |= args.prune;
    Ok(declared)
}
