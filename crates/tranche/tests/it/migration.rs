//! What live migration rests on, as a GPU's sheet shows it.

use expect_test::expect;
use tranche_api::answer::Preview;
use tranche_api::view::{GpuView, MigrationView};
use tranche_core::diagnostics as say;
use tranche_core::effect::Effect;
use tranche_core::inventory::{Certainty, Evidence, MigrationBlocker, MigrationFacts};
use tranche_core::migration::obstacles::Obstacle;
use tranche_core::migration::{Load, Outlook, Way};
use tranche_core::name::{HostName, VmName};
use tranche_core::spec::Limits;

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
        Where a VM could go while it runs, 'tranche vm destinations VM' tells.
        exit 0
    "#]].assert_eq(block);
    let json = run(&daemon, &["gpu", "show", "01:00.0", "-o", "json"]);
    assert!(json.contains("\"certainty\": \"claimed\"") && json.contains("sm_on is on"), "{json}");
}

#[test]
fn each_other_host_is_shown_with_what_would_become_of_the_vm_and_all_that_speaks_against_it() {
    let (vm, host): (VmName, fn(&str) -> HostName) = ("desk".parse().unwrap(), |name| name.parse().unwrap());
    let viommu = Obstacle::Blocker(MigrationBlocker::Viommu);
    let outlook = |name: &str, way, why_not, live_obstacles| Outlook {
        host: host(name),
        way,
        why_not,
        live_obstacles,
        forecast: None,
    };
    let load = |dirty_mib_s, link_mib_s| Load {
        memory_mib: 4_096,
        devices_mib: 2_048,
        dirty_mib_s,
        link_mib_s,
        end_ms: None,
    };
    let (known, assumed) = (load(Some(40), Some(1_000)), load(None, None));
    let forecast = |load: Load| load.forecast(&Limits::default());
    let too_long = Obstacle::Pause { forecast: forecast(assumed), limit_ms: 1_000 };
    let told = [
        outlook("node2", Way::Restart, vec![], vec![say::live_obstacle(&vm, &host("node2"), &viommu)]),
        Outlook { forecast: Some(forecast(known)), ..outlook("node3", Way::Live, vec![], vec![]) },
        outlook("node4", Way::Neither, vec![say::host_silent(&host("node4"))], vec![]),
        Outlook {
            forecast: Some(forecast(assumed)),
            ..outlook("node5", Way::Restart, vec![], vec![say::live_obstacle(&vm, &host("node5"), &too_long)])
        },
    ];
    let daemon = Daemon::new().answers("GET /v1/vms/desk/destinations", &told);
    let shown = run(&daemon, &["vm", "destinations", "desk"]);
    expect![[r#"
        HOST   WOULD                     LIVE  PAUSE   TAKES
        node2  restart there             no    -       -
        node3  move there while it runs  yes   ~2.2s   ~6.3s
        node4  stay here                 -     -       -
        node5  restart there             no    >18.6s  >55.9s

        How much memory the guest changes was not measured yet; that is done once it has run for a minute.

        What a link carries is known once a VM went that way; until then it is taken to be 110 MiB/s.

        why not live to node2:
          The machine of VM desk has an IOMMU of its own, which cannot move while it runs. [live_guest]
            'virsh edit desk' takes it out, with the next start of the VM.

        why not on node4:
          Host node4 has not reported its hardware yet. [host_silent]
            Its daemon has just begun to look at it; try again in a moment. 'journalctl -u tranched' there tells what keeps it.

        why not live to node5:
          VM desk would stand still for about 18.6 s on its way to host node5, and may do so for 1.0 s: the link is taken to carry 110 MiB/s. [live_pause]
            'tranche vm set desk --migration-pause-ms MS' allows more, and 'tranche policy set --migration-pause-ms MS' for all that say nothing themselves.
        exit 0
    "#]].assert_eq(&shown);
}

#[test]
fn a_dry_run_of_a_move_shows_what_would_become_of_the_vm_on_every_other_host() {
    let host = |name: &str| name.parse().unwrap();
    let outlook = |name: &str, way| Outlook {
        host: host(name),
        way,
        why_not: vec![],
        live_obstacles: vec![],
        forecast: None,
    };
    let effect =
        Effect { gpus: [].into(), vms: [].into(), homes: [].into(), steps: Vec::new(), findings: Vec::new() };
    let changes = vec!["migrate VM desk".to_owned()];
    let daemon = Daemon::new()
        .answers("POST /v1/vms/desk/migrate?dry_run=true", &Preview { changes, effect, version: None })
        .answers(
            "GET /v1/vms/desk/destinations",
            &[outlook("node2", Way::Live), outlook("node3", Way::Restart)],
        );
    let shown = run(&daemon, &["vm", "migrate", "desk", "--dry-run"]);
    expect![[r#"
        Nothing was changed. It would:
          migrate VM desk

        No VM would be touched.

        No host has anything to do at once.

        HOST   WOULD                     LIVE           PAUSE  TAKES
        node2  move there while it runs  yes            -      -
        node3  restart there             not asked for  -      -
        exit 0
    "#]]
    .assert_eq(&shown);
    let json = run(&daemon, &["vm", "migrate", "desk", "--dry-run", "-o", "json"]);
    assert!(!json.contains("node3"), "one document, which is the preview: {json}");
}
