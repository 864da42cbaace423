//! The inventory without a daemon: of this machine, or of a tree that was captured on another one.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use camino::Utf8Path;
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::inventory::{self, HostInventory, Progress, SystemFacts};
use tranche_core::name::{HostName, Timestamp};
use tranche_core::step::Step;

use crate::Host;
use crate::calls::Limits;
use crate::catalogue::{Catalogue, CatalogueError};
use crate::linux::LinuxHost;
use crate::tree::{DirTree, Tree};
use crate::vm::Hypervisor;

/// The name of a host whose tree does not tell.
const UNNAMED: &str = "localhost";

/// Looks at the tree under `root` as at a host. libvirt is not asked; root rights are not needed, though without them
/// it is not seen who has devices open. Files of the catalogue that are wrong are named in the notes.
pub fn inspect(root: &Utf8Path, catalogue_dir: Option<&Utf8Path>) -> HostInventory {
    let (catalogue, errors) = match catalogue_dir {
        Some(dir) => Catalogue::open(dir),
        None => (Catalogue::builtin(), Vec::new()),
    };
    let now = now();
    let notes: Vec<Finding> = errors.iter().map(catalogue_note).collect();
    match DirTree::open(root) {
        Ok(tree) => {
            let name = host_name(&tree);
            LinuxHost::new(name, Arc::new(tree), Limits::default(), Arc::new(catalogue), Box::new(NotAsked))
                .with_notes(notes)
                .observe(now)
        }
        Err(error) => unreadable(root, &error, notes, now),
    }
}

/// The finding for a catalogue file that was left out.
pub fn catalogue_note(error: &CatalogueError) -> Finding {
    let source =
        std::error::Error::source(error).map(|source| format!(": {}", source.to_string().trim_end()));
    Finding {
        code: Code::CatalogueInvalid,
        severity: Severity::Warning,
        subject: Subject::Input(error.path().to_string()),
        message: format!("{error}{}", source.unwrap_or_default()),
        hint: "Correct the file; until then all of it is left out. A daemon reads it when it starts ('systemctl restart \
               tranched'; VMs go on)."
            .to_owned(),
    }
}

fn host_name(tree: &dyn Tree) -> HostName {
    let told = ["proc/sys/kernel/hostname", "etc/hostname"].iter().find_map(|path| tree.text(path).ok());
    let name = told.and_then(|name| name.to_ascii_lowercase().parse().ok());
    name.unwrap_or_else(|| UNNAMED.parse().expect("the fallback is a host name"))
}

fn unreadable(
    root: &Utf8Path,
    error: &std::io::Error,
    mut notes: Vec<Finding>,
    now: Timestamp,
) -> HostInventory {
    let note = Finding {
        code: Code::InvalidValue,
        severity: Severity::Error,
        subject: Subject::Input(root.to_string()),
        message: format!("The root directory {root} cannot be opened: {error}."),
        hint: "Name a directory that holds 'sys', as '/' does.".to_owned(),
    };
    notes.insert(0, note);
    HostInventory {
        host: UNNAMED.parse().expect("the fallback is a host name"),
        boot_id: String::new(),
        observed_at: now,
        system: SystemFacts::unknown(),
        hypervisor: NotAsked.observe(),
        gpus: Default::default(),
        stuck: Vec::new(),
        notes,
        progress: Progress::default(),
        pulse: None,
        unread: None,
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// No hypervisor: its state is unknown, which is not the same as "no VM runs".
#[derive(Debug)]
struct NotAsked;

impl Hypervisor for NotAsked {
    fn observe(&self) -> inventory::Hypervisor {
        inventory::Hypervisor::Down { reason: "not asked".to_owned() }
    }

    fn apply(&self, step: &Step) -> Result<(), Box<Finding>> {
        Err(Box::new(Finding {
            code: Code::LibvirtDown,
            severity: Severity::Error,
            subject: Subject::Installation,
            message: format!("There is no hypervisor to {step}."),
            hint: "An inspection changes nothing; ask the daemon.".to_owned(),
        }))
    }
}
