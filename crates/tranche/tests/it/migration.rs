//! What live migration rests on, as a GPU's sheet shows it.

use expect_test::expect;
use tranche_api::view::{GpuView, MigrationView};
use tranche_core::inventory::{Certainty, Evidence, MigrationFacts};

use crate::daemon::Daemon;
use crate::fixtures::{igb, partitions};
use crate::run;

fn view() -> MigrationView {
    let flags = "VFIO_DEVICE_FEATURE_MIGRATION of 0000:02:10.0 (xe-vfio-pci, Linux 7.2.0): STOP_COPY P2P";
    let log = "VFIO_DEVICE_FEATURE_DMA_LOGGING_START of 0000:02:10.0 (xe-vfio-pci, Linux 7.2.0): ENOTTY";
    let ecap = "/sys/class/iommu/dmar0/intel-iommu/ecap: 1280000f020df has bits 43, 45 and 48; sm_on is on the kernel's command line";
    MigrationView {
        certainty: Certainty::Claimed,
        iommufd: true,
        facts: MigrationFacts {
            stop_copy: Evidence::new(Certainty::Proven, flags),
            pre_copy: Evidence::new(Certainty::Refused, flags),
            p2p: Evidence::new(Certainty::Proven, flags),
            device_dirty_log: Evidence::new(Certainty::Refused, log),
            iommu_dirty_log: Evidence::new(Certainty::Claimed, ecap),
        },
    }
}

#[test]
fn each_fact_is_shown_with_how_well_it_is_known_and_what_says_so() {
    let gpu = GpuView { migration: Some(view()), valid_counts: Vec::new(), findings: Vec::new(), ..igb() };
    let mut partitions = partitions();
    let plain = Evidence::new(Certainty::Refused, "driver vfio-pci hands out no device's state");
    let facts = MigrationFacts {
        stop_copy: plain.clone(),
        pre_copy: plain.clone(),
        p2p: plain.clone(),
        device_dirty_log: plain,
        ..view().facts
    };
    for index in [1, 2] {
        let facts = facts.clone();
        partitions[index].migration =
            Some(MigrationView { certainty: Certainty::Refused, iommufd: true, facts });
    }
    let daemon = Daemon::new()
        .answers("GET /v1/gpus", &[igb()])
        .answers("GET /v1/gpus/node1/0000:01:00.0", &gpu)
        .answers("GET /v1/partitions", &partitions);
    let shown = run(&daemon, &["gpu", "show", "01:00.0"]);
    let block = &shown[shown.find("LIVE MIGRATION").expect("the block")..];
    expect![[r#"
        LIVE MIGRATION           KNOWN    WHAT SAYS SO
        state                    proven   VFIO_DEVICE_FEATURE_MIGRATION of 0000:02:10.0 (xe-vfio-pci, Linux 7.2.0): STOP_COPY P2P
        pre-copy                 refused  VFIO_DEVICE_FEATURE_MIGRATION of 0000:02:10.0 (xe-vfio-pci, Linux 7.2.0): STOP_COPY P2P
        several at once          proven   VFIO_DEVICE_FEATURE_MIGRATION of 0000:02:10.0 (xe-vfio-pci, Linux 7.2.0): STOP_COPY P2P
        dirty log of the device  refused  VFIO_DEVICE_FEATURE_DMA_LOGGING_START of 0000:02:10.0 (xe-vfio-pci, Linux 7.2.0): ENOTTY
        dirty log of the IOMMU   claimed  /sys/class/iommu/dmar0/intel-iommu/ecap: 1280000f020df has bits 43, 45 and 48; sm_on is on the kernel's command line
        iommufd                  proven   /dev/iommu is there
        together                 claimed  the state, and one of the logs; the IOMMU's takes iommufd

        PARTITIONS 1, 2          KNOWN    WHAT SAYS SO
        state                    refused  driver vfio-pci hands out no device's state
        pre-copy                 refused  driver vfio-pci hands out no device's state
        several at once          refused  driver vfio-pci hands out no device's state
        dirty log of the device  refused  driver vfio-pci hands out no device's state
        dirty log of the IOMMU   claimed  /sys/class/iommu/dmar0/intel-iommu/ecap: 1280000f020df has bits 43, 45 and 48; sm_on is on the kernel's command line
        iommufd                  proven   /dev/iommu is there
        together                 refused  the state, and one of the logs; the IOMMU's takes iommufd
        Moving a VM while it runs is not possible yet in this version: VMs are restarted instead.
        exit 0
    "#]].assert_eq(block);
    let json = run(&daemon, &["gpu", "show", "01:00.0", "-o", "json"]);
    assert!(json.contains("\"certainty\": \"claimed\"") && json.contains("sm_on is on"), "{json}");
}
