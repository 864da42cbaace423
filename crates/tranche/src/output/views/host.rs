//! Hosts.

use serde::Serialize;
use tranche_api::view::{HostView, LibvirtView, MemberView};
use tranche_core::inventory::{Guard, Iommu};
use tranche_core::label;
use tranche_core::plan::{DownBy, Standing};
use tranche_core::spec::Duty;

use super::super::table::{rows, sheet};
use super::super::text;
use super::Show;

/// Hosts, a line each.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Hosts(pub(crate) Vec<HostView>);

impl Show for Hosts {
    fn as_text(&self) -> String {
        let row = |host: &HostView| {
            let member = host.member.as_ref();
            vec![
                host.name.to_string(),
                state(host).to_owned(),
                member.map_or("-", fencing).to_owned(),
                host.gpus.to_string(),
                format!("{}/{}", host.partitions_free, host.partitions),
                format!("{}/{}", host.vms_running, host.vms),
                text::time(host.observed_at),
            ]
        };
        let header = ["HOST", "STATE", "FENCED BY", "GPUS", "FREE PARTITIONS", "RUNNING VMS", "REPORTED"];
        rows(&header, self.0.iter().map(row).collect(), "No host has reported yet.")
    }
}

impl Show for [HostView] {
    fn as_text(&self) -> String {
        let sheets: Vec<String> = self.iter().map(host).collect();
        if sheets.is_empty() { "No host has reported yet.\n".to_owned() } else { sheets.join("\n") }
    }
}

fn host(host: &HostView) -> String {
    let libvirt = match &host.libvirt {
        LibvirtView::Up { libvirt, qemu } => format!("{libvirt}, QEMU {qemu}"),
        LibvirtView::Down { reason } => format!("does not answer: {reason}"),
    };
    let mut fields = vec![
        ("Host", host.name.to_string()),
        ("Kernel", host.kernel.clone()),
        ("Processor", format!("{} x {}", host.cpus, host.cpu_model)),
        ("Memory", text::size(host.memory_mib)),
        ("IOMMU", iommu(&host.iommu)),
        ("libvirt", libvirt),
        ("GPUs", host.gpus.to_string()),
        ("Partitions", format!("{}, {} free", host.partitions, host.partitions_free)),
        ("VMs", format!("{}, {} running", host.vms, host.vms_running)),
        ("Reported", text::time(host.observed_at)),
    ];
    if let Some(member) = &host.member {
        fields.extend(membership(member));
    }
    let fields = sheet(&fields);
    let stuck: String = host
        .stuck
        .iter()
        .map(|call| format!("stuck since {}: {}\n", text::time(call.since), text::plain(&call.call)))
        .collect();
    text::findings_below(&(fields + &stuck), &host.findings)
}

pub(super) fn iommu(iommu: &Iommu) -> String {
    match iommu {
        Iommu::Off => "off".to_owned(),
        Iommu::On { units } => format!("on ({})", units.join(", ")),
    }
}

/// How a host is, in a word.
fn state(host: &HostView) -> &'static str {
    match host.member.as_ref().map(|member| (member.standing, member.duty)) {
        Some((Standing::Lost { .. }, _)) => "silent",
        Some((Standing::Fencing { .. }, _)) => "being fenced",
        Some((Standing::Down { .. }, _)) => "down",
        Some((Standing::Up, Duty::Maintenance)) => "maintenance",
        Some((Standing::Up, Duty::Serving)) | None => "serving",
    }
}

/// Who makes sure that a host is down, and whether it stays so.
fn fencing_in_full(member: &MemberView) -> String {
    let stays = if member.leave_off { ", which leaves it off" } else { "" };
    format!("{}{stays}", fencing(member))
}

/// Who makes sure that a host is down.
fn fencing(member: &MemberView) -> &str {
    match (&member.agent, member.guard) {
        (Some(agent), _) => agent.as_str(),
        (None, Guard::Armed) => "watchdog",
        (None, Guard::Ready) => "watchdog, not armed",
        (None, Guard::None) => "nobody",
    }
}

fn membership(member: &MemberView) -> Vec<(&'static str, String)> {
    let standing = match member.standing {
        Standing::Up => "up".to_owned(),
        Standing::Lost { since } => format!("silent since {}", text::time(since)),
        Standing::Fencing { since } => format!("being fenced since {}", text::time(since)),
        Standing::Down { since, by } => format!("down since {}, {}", text::time(since), proof(by)),
    };
    let duty = match member.duty {
        Duty::Serving => "takes VMs",
        Duty::Maintenance => "maintenance: takes none",
    };
    let mut fields =
        vec![("Standing", standing), ("Duty", duty.to_owned()), ("Fenced by", fencing_in_full(member))];
    if !member.labels.is_empty() {
        fields.push(("Labels", label::text(&member.labels, ", ")));
    }
    if member.reserved_memory_mib > 0 {
        fields.push(("Reserved", text::size(member.reserved_memory_mib)));
    }
    fields
}

fn proof(by: DownBy) -> &'static str {
    match by {
        DownBy::Watchdog => "reset by its watchdog",
        DownBy::Agent => "cut by its fence agent",
        DownBy::Hand => "as somebody said",
        DownBy::Shutdown => "shut down",
        DownBy::Surrender => "by its own word",
    }
}
