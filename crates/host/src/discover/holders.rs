//! Who holds devices open through VFIO.
//!
//! The kernel keeps no list, so every process's open files are compared with the VFIO nodes: `/dev/vfio/GROUP`, and
//! `/dev/vfio/devices/vfioN` on kernels with device nodes (kernel: drivers/vfio). Opening a group to see whether it is
//! busy would take it away from a VM that is just starting, so that is not done.
//!
//! Without root rights other users' processes cannot be looked into; they are left out.

use std::collections::BTreeMap;

use camino::{Utf8Path, Utf8PathBuf};
use tranche_core::inventory::Holder;

use crate::tree::Tree;

const VFIO_NODES: &str = "dev/vfio";

/// Open VFIO nodes and who has them open.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holders {
    by_node: BTreeMap<String, Vec<Holder>>,
}

impl Holders {
    /// Goes through all processes, once. Without any VFIO group on the host there is nothing to find.
    pub(crate) fn scan(tree: &dyn Tree) -> Self {
        let nodes = tree.list(VFIO_NODES).unwrap_or_default();
        if !nodes.iter().any(|node| node != "vfio" && node != "devices") {
            return Self::default();
        }
        let is_node = |target: &Utf8Path| target.starts_with("/dev/vfio/") && target != "/dev/vfio/vfio";
        let mut by_node: BTreeMap<String, Vec<Holder>> = BTreeMap::new();
        for (node, holder) in open_files(tree, is_node) {
            by_node.entry(node.into_string()).or_default().push(holder);
        }
        Self { by_node }
    }

    /// Who holds a device open: through its group's node or through its own.
    pub(crate) fn of(&self, tree: &dyn Tree, device_dir: &str, group: Option<u32>) -> Vec<Holder> {
        if self.by_node.is_empty() {
            return Vec::new();
        }
        let own = tree.list(&format!("{device_dir}/vfio-dev")).unwrap_or_default();
        let nodes = group
            .map(|group| format!("/dev/vfio/{group}"))
            .into_iter()
            .chain(own.iter().map(|name| format!("/dev/vfio/devices/{name}")));
        let mut holders: Vec<Holder> =
            nodes.filter_map(|node| self.by_node.get(&node)).flatten().cloned().collect();
        holders.sort_unstable_by_key(|holder| holder.pid);
        holders.dedup();
        holders
    }
}

/// The processes that have one of these device nodes open: what keeps a driver from letting go of a GPU.
pub(crate) fn users_of_nodes(tree: &dyn Tree, is_wanted: impl Fn(&Utf8Path) -> bool) -> Vec<Holder> {
    let mut users: Vec<Holder> = open_files(tree, is_wanted).into_iter().map(|(_, user)| user).collect();
    users.dedup();
    users
}

/// Every file of interest that a process has open, once for each process, in the order of their numbers.
fn open_files(tree: &dyn Tree, is_wanted: impl Fn(&Utf8Path) -> bool) -> Vec<(Utf8PathBuf, Holder)> {
    let mut pids: Vec<u32> =
        tree.list("proc").unwrap_or_default().iter().filter_map(|name| name.parse().ok()).collect();
    pids.sort_unstable();
    let mut found = Vec::new();
    for pid in pids {
        let mut open: Vec<_> = tree.links(&format!("proc/{pid}/fd")).unwrap_or_default();
        open.retain(|target| is_wanted(target));
        open.sort_unstable();
        open.dedup();
        if !open.is_empty() {
            let command = tree.text(&format!("proc/{pid}/comm")).unwrap_or_default();
            found.extend(open.into_iter().map(|node| (node, Holder { pid, command: command.clone() })));
        }
    }
    found
}
