//! `inspect`: looks at a machine, or at a captured tree, without a daemon.

use camino::Utf8Path;
use tranche_api::view::{self, Sources};
use tranche_core::finding::Severity;
use tranche_core::inventory::Inventory;
use tranche_core::plan::Plan;
use tranche_core::spec::Spec;

use crate::cli::InspectArgs;
use crate::failure::{Exit, Failure};
use crate::output::{Console, HostSheet};

pub(super) fn run(args: &InspectArgs, console: &Console) -> Result<Exit, Failure> {
    let sheet = look(&args.root, &args.catalogue);
    let console = if args.json { &console.in_json() } else { console };
    let unreadable = sheet.inventory.notes.iter().any(|note| note.severity == Severity::Error);
    console.show(&sheet)?;
    Ok(if unreadable { Exit::Failed } else { Exit::Done })
}

/// What the machine whose root this is has.
pub(super) fn look(root: &Utf8Path, catalogue: &Utf8Path) -> HostSheet {
    let inventory = tranche_host::inspect(root, catalogue.is_dir().then_some(catalogue));
    let hosts = Inventory::from([(inventory.host.clone(), inventory.clone().into())]);
    // Nothing is known of wishes and decisions here; without them, views show the hardware as it is.
    let (spec, plan) = (Spec::default(), Plan::default());
    let gpus = view::gpus(&Sources { spec: &spec, plan: &plan, inventory: &hosts, findings: &[] });
    HostSheet { inventory, gpus }
}
