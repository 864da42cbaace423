//! GPUs, partitions and what a host has, for people.

use serde::Serialize;
use tranche_api::view::{GpuView, PartitionView};
use tranche_core::inventory::{Backend, Ecc, Health, HealthState, HostInventory, Offer};
use tranche_core::mixed::MixedSize;
use tranche_core::name::GpuAddress;

use super::{Show, migration};
use crate::output::table::{rows, sheet};
use crate::output::text;

/// A GPU with its partitions.
#[derive(Debug, Serialize)]
pub(crate) struct GpuSheet {
    /// The GPU.
    #[serde(flatten)]
    pub(crate) gpu: GpuView,
    /// Its partitions.
    pub(crate) partitions: Vec<PartitionView>,
}

/// What a machine has, as seen without a daemon. For programs it is the inventory itself.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct HostSheet {
    /// What was seen.
    pub(crate) inventory: HostInventory,
    /// The same GPUs, as the daemon would show them.
    #[serde(skip)]
    pub(crate) gpus: Vec<GpuView>,
}

impl Show for [GpuView] {
    fn as_text(&self) -> String {
        let header = ["GPU", "MODEL", "STATUS", "PARTITIONS", "FREE", "VALID COUNTS", "MEMORY", "DRIVER"];
        let row = |gpu: &GpuView| {
            vec![
                format!("{}/{}", gpu.host, marked(&gpu.address, gpu.emulated)),
                gpu.model.clone(),
                gpu.status.to_string(),
                gpu.count.map(|count| count.to_string()).unwrap_or_default(),
                if gpu.total == 0 { String::new() } else { gpu.free.to_string() },
                text::counts(gpu.valid_counts.iter().map(|offer| offer.count)),
                gpu.vram_mib.map(text::size).unwrap_or_default(),
                gpu.driver.clone().unwrap_or_default(),
            ]
        };
        rows(
            &header,
            self.iter().map(row).collect(),
            "No GPU was found. Is its driver loaded, and SR-IOV on in the firmware? See: tranche findings",
        )
    }
}

impl Show for [PartitionView] {
    fn as_text(&self) -> String {
        let mut header = vec!["GPU", "INDEX", "DEVICE", "PROFILE", "MEMORY", "STATE", "VM"];
        // Most drivers measure nothing of single partitions.
        let measured = self.iter().any(|partition| partition.telemetry.is_some());
        if measured {
            header.extend(["LOAD", "MEMORY IN USE"]);
        }
        let row = |partition: &PartitionView| {
            let mut row = vec![
                format!("{}/{}", partition.host, marked(&partition.gpu, partition.emulated)),
                partition.index.map(|index| index.to_string()).unwrap_or_default(),
                partition.device.clone().unwrap_or_default(),
                partition.profile.clone().unwrap_or_default(),
                partition.vram_mib.map(text::size).unwrap_or_default(),
                partition.state.to_string().replace('_', " "),
                partition.vm.as_ref().map(ToString::to_string).unwrap_or_default(),
            ];
            if measured {
                let told = partition.telemetry.unwrap_or_default();
                row.push(told.utilization_percent.map(percent).unwrap_or_default());
                row.push(told.memory_used_mib.map(text::size).unwrap_or_default());
            }
            row
        };
        let none = "There are no partitions. Make some with: tranche gpu partition GPU COUNT";
        rows(&header, self.iter().map(row).collect(), none)
    }
}

impl Show for GpuSheet {
    fn as_text(&self) -> String {
        let mut text = gpu_fields(&self.gpu);
        if !self.gpu.valid_counts.is_empty() {
            text.push('\n');
            text.push_str(&offers(&self.gpu.valid_counts));
        }
        if !self.gpu.mixed.is_empty() {
            text.push('\n');
            text.push_str(&sizes(&self.gpu.mixed));
        }
        if !self.partitions.is_empty() {
            text.push('\n');
            text.push_str(&self.partitions.as_slice().as_text());
        }
        if let Some(known) = &self.gpu.migration {
            text.push('\n');
            text.push_str(&migration::blocks(known, &self.partitions));
        }
        text::findings_below(&text, &self.gpu.findings)
    }
}

fn gpu_fields(gpu: &GpuView) -> String {
    let members: Vec<String> = gpu.group_members.iter().map(|member| member.address.to_string()).collect();
    let group = gpu.iommu_group.map(|group| match members.as_slice() {
        [] => group.to_string(),
        members => format!("{group}, shared with {}", members.join(", ")),
    });
    let asked = if gpu.asked_mode == gpu.mode { String::new() } else { text::mode(&gpu.asked_mode) };
    let aer = gpu
        .aer
        .map(|aer| format!("{} corrected, {} nonfatal, {} fatal", aer.correctable, aer.nonfatal, aer.fatal));
    let vms: Vec<String> = gpu.vms.iter().map(ToString::to_string).collect();
    let told = gpu.telemetry.clone().unwrap_or_default();
    sheet(&[
        ("GPU", format!("{}/{}", gpu.host, gpu.address)),
        ("Model", gpu.model.clone()),
        (
            "Emulated",
            if gpu.emulated { "yes: a stand-in of the virtual lab".to_owned() } else { String::new() },
        ),
        ("PCI ids", gpu.ids.to_string()),
        ("Id", gpu.unique_id.clone().unwrap_or_default()),
        ("Board", gpu.board.clone().unwrap_or_default()),
        ("Status", gpu.status.to_string()),
        ("Mode", text::mode(&gpu.mode)),
        ("Asked for", asked),
        ("Free", if gpu.total == 0 { String::new() } else { format!("{} of {}", gpu.free, gpu.total) }),
        ("VMs", vms.join(", ")),
        ("Memory", gpu.vram_mib.map(text::size).unwrap_or_default()),
        ("Driver", gpu.driver.clone().unwrap_or_else(|| "none".to_owned())),
        ("Partitions by", gpu.backend.map(backend).unwrap_or_default().to_owned()),
        ("NUMA node", gpu.numa_node.map(|node| node.to_string()).unwrap_or_default()),
        ("IOMMU group", group.unwrap_or_else(|| "none".to_owned())),
        ("Reset by", gpu.reset_methods.join(", ")),
        ("Console", if gpu.console { "yes".to_owned() } else { String::new() }),
        ("Errors", aer.unwrap_or_default()),
        ("Health", gpu.health.as_ref().map(health).unwrap_or_default()),
        ("Serial", told.serial.unwrap_or_default()),
        ("Firmware", told.firmware.unwrap_or_default()),
        ("ECC", told.ecc.map(ecc).unwrap_or_default()),
        ("Load", told.utilization_percent.map(percent).unwrap_or_default()),
        ("Memory in use", told.memory_used_mib.map(text::size).unwrap_or_default()),
        ("Temperature", told.temperature_c.map(|degrees| format!("{degrees} °C")).unwrap_or_default()),
        ("Power", told.power_w.map(|watts| format!("{watts} W")).unwrap_or_default()),
    ])
}

fn ecc(ecc: Ecc) -> String {
    if ecc.enabled {
        format!("on: {} errors corrected, {} not", ecc.corrected, ecc.uncorrected)
    } else {
        "off".to_owned()
    }
}

fn percent(percent: u8) -> String {
    format!("{percent} %")
}

/// Nothing where all is well: what needs no attention is not shown.
fn health(health: &Health) -> String {
    let state = match health.state {
        HealthState::Good => return String::new(),
        HealthState::Sick => "sick",
        HealthState::NeedsReset => "needs a reset",
        HealthState::NeedsReboot => "needs a restart of the host",
    };
    format!("{state}: {}", health.reasons.join("; "))
}

fn offers(offers: &[Offer]) -> String {
    let row = |offer: &Offer| {
        vec![
            offer.count.to_string(),
            offer.profile.clone(),
            offer.series.clone().unwrap_or_default(),
            offer.vram_mib.map(text::size).unwrap_or_default(),
        ]
    };
    rows(&["VALID COUNT", "PROFILE", "SERIES", "MEMORY OF EACH"], offers.iter().map(row).collect(), "")
}

fn sizes(sizes: &[MixedSize]) -> String {
    let row = |size: &MixedSize| {
        vec![
            size.profile.clone(),
            size.series.clone().unwrap_or_default(),
            size.vram_mib.map(text::size).unwrap_or_default(),
            size.starts_mib.len().to_string(),
        ]
    };
    rows(&["MIXED SIZE", "SERIES", "MEMORY", "AT MOST"], sizes.iter().map(row).collect(), "")
}

fn backend(backend: Backend) -> &'static str {
    match backend {
        Backend::SriovVfio => "SR-IOV virtual functions",
        Backend::TypedVf => "virtual functions that take a type",
        Backend::FixedVf => "virtual functions that its driver made when it was loaded",
        Backend::Mdev => "mediated devices",
        Backend::VfMdev => "mediated devices on virtual functions",
    }
}

impl Show for HostSheet {
    fn as_text(&self) -> String {
        let system = &self.inventory.system;
        let fields = sheet(&[
            ("Host", self.inventory.host.to_string()),
            ("Kernel", system.kernel.clone()),
            (
                "Processor",
                if system.cpus == 0 {
                    String::new()
                } else {
                    format!("{} x {}", system.cpus, system.cpu_model)
                },
            ),
            ("Memory", if system.memory_mib == 0 { String::new() } else { text::size(system.memory_mib) }),
            ("IOMMU", super::host::iommu(&system.iommu)),
        ]);
        text::findings_below(&format!("{fields}\n{}", self.gpus.as_slice().as_text()), &self.inventory.notes)
    }
}

/// An address, with a mark if it is that of a stand-in.
pub(super) fn marked(address: &GpuAddress, emulated: bool) -> String {
    if emulated { format!("{address} (emulated)") } else { address.to_string() }
}
