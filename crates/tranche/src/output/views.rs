//! How each answer looks to people.

mod access;
mod capacity;
mod catalogue;
mod cluster;
mod destinations;
mod gpu;
mod history;
mod homogeneity;
mod host;
mod invitation;
mod migration;
mod plan;
mod policy;
mod support;

use tranche_api::answer::{Accepted, Applied, Diagnosis, WhyNot};
use tranche_api::view::{VmOrigin, VmView};
use tranche_core::finding::Finding;
use tranche_core::journey::Migration;
use tranche_core::label;
use tranche_core::operation::{Operation, OperationState};
use tranche_core::spec::{Failover, Pace};

use super::table::{rows, sheet};
use super::text;

pub(crate) use capacity::Rules;
pub(crate) use catalogue::CatalogueSheets;
pub(crate) use gpu::{GpuSheet, HostSheet};
pub(crate) use host::Hosts;
pub(crate) use support::{Bundle, LeftOut, Part};

/// Something that people can look at.
pub(crate) trait Show {
    /// As text, with a line break at the end.
    fn as_text(&self) -> String;
}

impl Show for [VmView] {
    fn as_text(&self) -> String {
        let header = ["NAME", "STATE", "HOST", "GPU", "PARTITION", "DEVICE", "ASKS FOR", "GUEST"];
        let row = |vm: &VmView| {
            vec![
                vm.name.to_string(),
                vm.state.to_string(),
                vm.host.as_ref().map(ToString::to_string).unwrap_or_default(),
                vm.gpu.as_ref().map(|gpu| gpu::marked(gpu, vm.emulated)).unwrap_or_default(),
                partition(vm),
                vm.device.clone().unwrap_or_default(),
                text::request(&vm.request),
                vm.guest_os.clone().unwrap_or_default(),
            ]
        };
        rows(&header, self.iter().map(row).collect(), "There are no VMs.")
    }
}

fn partition(vm: &VmView) -> String {
    match (vm.partition, vm.holds.len()) {
        (Some(index), _) => index.to_string(),
        (None, 0) => String::new(),
        (None, 1) => "whole".to_owned(),
        (None, gpus) => format!("{gpus} whole"),
    }
}

impl Show for VmView {
    fn as_text(&self) -> String {
        let holds: Vec<String> = self.holds.iter().map(ToString::to_string).collect();
        let reserved = if self.reserved { " (kept while it is off)" } else { "" };
        let fields = sheet(&[
            ("VM", self.name.to_string()),
            ("UUID", self.id.to_string()),
            ("Labels", label::text(&self.labels, ", ")),
            ("State", self.state.to_string()),
            ("Host", self.host.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("Asks for", format!("{}{reserved}", text::request(&self.request))),
            ("Holds", holds.join(", ")),
            ("Device", self.device.clone().unwrap_or_default()),
            ("Profile", self.profile.clone().unwrap_or_default()),
            ("Video memory", self.vram_mib.map(text::size).unwrap_or_default()),
            ("Emulated", if self.emulated { "yes: its GPU is a stand-in".to_owned() } else { String::new() }),
            ("Processors", self.vcpus.map(|vcpus| vcpus.to_string()).unwrap_or_default()),
            ("Memory", self.memory_mib.map(text::size).unwrap_or_default()),
            ("Guest", self.guest_os.clone().unwrap_or_default()),
            ("Priority", self.availability.priority.to_string()),
            ("Failover", failover(self)),
            ("Restarts", restarts(self)),
            ("Migration", migration(self)),
            ("Moves", moves(self)),
            ("Moves to", moves_to(self)),
            ("Comes from", self.comes_from.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("Since", text::time(self.created_at)),
        ]);
        text::findings_below(&fields, &self.findings)
    }
}

fn failover(vm: &VmView) -> String {
    match (vm.availability.failover, vm.origin) {
        (Failover::Restart, VmOrigin::Made) => "restart: in a cluster it starts elsewhere when its host dies",
        (Failover::Restart, VmOrigin::Adopted) => "restart, but it is adopted: it waits for its host",
        (Failover::Stay, _) => "stay: it waits for its host",
    }
    .to_owned()
}

fn migration(vm: &VmView) -> String {
    match vm.availability.migration {
        Migration::LiveOrRestart => {
            "live-or-restart: while it runs where that is possible, else by a restart"
        }
        Migration::LiveOnly => "live-only: while it runs, or not at all",
        Migration::Restart => "restart: it is shut down and started on the other host",
    }
    .to_owned()
}

/// Its own limits, if it has any.
fn moves(vm: &VmView) -> String {
    let Pace { pause_ms, bandwidth_mib_s } = vm.availability.pace;
    let pause = pause_ms.map(|ms| format!("a pause of {ms} ms at most"));
    let bandwidth = bandwidth_mib_s.map(|mib_s| format!("{mib_s} MiB/s at most"));
    bandwidth.into_iter().chain(pause).collect::<Vec<_>>().join(", ")
}

fn moves_to(vm: &VmView) -> String {
    let Some(host) = &vm.moves_to else { return String::new() };
    vm.moved_percent.map_or_else(|| host.to_string(), |percent| format!("{host}, {percent} % is there"))
}

fn restarts(vm: &VmView) -> String {
    let restarts = vm.availability.restarts;
    format!("{} on one host, then on {} others", restarts.local, restarts.elsewhere)
}

impl Show for [Operation] {
    fn as_text(&self) -> String {
        let row = |operation: &Operation| {
            vec![
                operation.id.to_string(),
                state(operation.state).to_owned(),
                format!("{}%", operation.progress_percent),
                text::time(operation.created_at),
                operation.title.clone(),
            ]
        };
        rows(
            &["ID", "STATE", "DONE", "SINCE", "WHAT"],
            self.iter().map(row).collect(),
            "There are no operations.",
        )
    }
}

impl Show for Operation {
    fn as_text(&self) -> String {
        let fields = sheet(&[
            ("Operation", self.id.to_string()),
            ("What", self.title.clone()),
            ("State", format!("{}, {}%", state(self.state), self.progress_percent)),
            ("Since", text::time(self.created_at)),
            ("Last change", text::time(self.updated_at)),
        ]);
        let log: String = self
            .log
            .iter()
            .map(|line| format!("{}  {}\n", text::time(line.at), text::plain(&line.text)))
            .collect();
        text::findings_below(&(fields + "\n" + &log), &self.findings)
    }
}

fn state(state: OperationState) -> &'static str {
    match state {
        OperationState::Running => "running",
        OperationState::Waiting => "waiting",
        OperationState::Succeeded => "succeeded",
        OperationState::Failed => "failed",
        OperationState::Superseded => "superseded",
    }
}

impl Show for Accepted {
    fn as_text(&self) -> String {
        format!("{}: operation {}\n", text::plain(&self.operation.title), self.operation.id)
    }
}

impl Show for Applied {
    fn as_text(&self) -> String {
        let line = |operation: &Operation| {
            format!("{}: {}\n", text::plain(&operation.title), state(operation.state))
        };
        if self.operations.is_empty() {
            "Everything is as declared.\n".to_owned()
        } else {
            self.operations.iter().map(line).collect()
        }
    }
}

impl Show for [Finding] {
    fn as_text(&self) -> String {
        if self.is_empty() { "Nothing was found.\n".to_owned() } else { text::findings(self) }
    }
}

impl Show for Diagnosis {
    fn as_text(&self) -> String {
        if self.findings.is_empty() { "All is well.\n".to_owned() } else { text::findings(&self.findings) }
    }
}

impl Show for WhyNot {
    fn as_text(&self) -> String {
        if self.possible {
            format!("VM {} can run on host {}.\n{}", self.vm, self.host, text::findings(&self.findings))
        } else {
            format!("VM {} cannot run on host {}:\n{}", self.vm, self.host, text::findings(&self.findings))
        }
    }
}
