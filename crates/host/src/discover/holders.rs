//! Who holds devices open through VFIO.
//!
//! The kernel keeps no list, so every process's open files are compared with the VFIO nodes: `/dev/vfio/GROUP`, and
//! `/dev/vfio/devices/vfioN` on kernels with device nodes (kernel: drivers/vfio). Opening a group to see whether it is
//! busy would take it away from a VM that is just starting, so that is not done.
//!
//! Without root rights other users' processes cannot be looked into; they are left out.

use std::collections::BTreeMap;

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
        let mut by_node: BTreeMap<String, Vec<Holder>> = BTreeMap::new();
        let processes = tree.list("proc").unwrap_or_default();
        for pid in processes.iter().filter_map(|name| name.parse::<u32>().ok()) {
            let mut open: Vec<_> = tree.links(&format!("proc/{pid}/fd")).unwrap_or_default();
            open.retain(|target| target.starts_with("/dev/vfio/") && target != "/dev/vfio/vfio");
            open.sort_unstable();
            open.dedup();
            if open.is_empty() {
                continue;
            }
            let command = tree.text(&format!("proc/{pid}/comm")).unwrap_or_default();
            for node in open {
                by_node.entry(node.into_string()).or_default().push(Holder { pid, command: command.clone() });
            }
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
