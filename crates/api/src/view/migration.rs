//! What live migration of VMs with partitions rests on, as people see it.

use serde::{Deserialize, Serialize};
use tranche_core::inventory::{Certainty, HostInventory, MigrationFacts};

/// What is known of whether partitions could move with their VM while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MigrationView {
    /// All of it together, as far as driver, IOMMU and kernel go. libvirt, QEMU and the other host have their say, too.
    pub certainty: Certainty,
    /// Whether the kernel has iommufd, without which nobody reads the IOMMU's log.
    pub iommufd: bool,
    /// Each fact, and what says so.
    pub facts: MigrationFacts,
}

impl MigrationView {
    /// What is known of partitions on a host.
    pub(super) fn of(facts: &MigrationFacts, host: &HostInventory) -> Self {
        let iommufd = host.system.iommufd;
        Self { certainty: facts.certainty(iommufd), iommufd, facts: facts.clone() }
    }
}
