//! On a machine with NVIDIA GPUs: what is read here is what NVIDIA's own tool says. Nothing is changed.

use std::process::Command;
use std::sync::Arc;

use camino::Utf8Path;
use tranche_core::inventory::{Gpu, HostInventory};
use tranche_core::name::{GpuAddress, Timestamp};
use tranche_host::Host;
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine};
use tranche_host::linux::LinuxHost;
use tranche_host::nvml::NvidiaMonitor;
use tranche_host::tree::DirTree;
use tranche_host::vm::fake::FakeHypervisor;

/// What the tool is asked for, in the order in which it answers.
const QUERY: &str =
    "pci.bus_id,uuid,vbios_version,memory.total,ecc.mode.current,ecc.errors.uncorrected.volatile.total";

#[test]
fn what_is_read_of_nvidia_gpus_is_what_nvidia_smi_says() {
    let Some(said) = ask_nvidia_smi() else { return };
    let seen = look();
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let [bus_id, uuid, firmware, memory_mib, ecc, uncorrected] = fields[..] else { panic!("{line:?}") };
        let address = GpuAddress::Pci(bus_id.parse().expect("an address"));
        let gpu = seen.gpus.get(&address).unwrap_or_else(|| panic!("{address} is not seen"));
        compare(gpu, [uuid, firmware, memory_mib, ecc, uncorrected]);
    }
}

fn compare(gpu: &Gpu, [uuid, firmware, memory_mib, ecc, uncorrected]: [&str; 5]) {
    assert_eq!(gpu.ids.vendor, 0x10de);
    assert_eq!(gpu.unique_id.as_deref(), Some(uuid));
    let telemetry = gpu.telemetry.as_ref().expect("the library answers where the tool does");
    assert_eq!(telemetry.firmware.as_deref(), Some(firmware));
    assert_eq!(telemetry.memory_total_mib.map(|mib| mib.to_string()).as_deref(), Some(memory_mib));
    assert_eq!(telemetry.ecc.map(|ecc| ecc.enabled), (ecc != "[N/A]").then_some(ecc == "Enabled"));
    if let Ok(uncorrected) = uncorrected.parse() {
        assert_eq!(telemetry.ecc.map(|ecc| ecc.uncorrected), Some(uncorrected));
    }
}

fn look() -> HostInventory {
    let tree = DirTree::open(Utf8Path::new("/")).expect("this machine's own tree");
    let catalogue = Arc::new(Catalogue::builtin());
    let host = LinuxHost::new(
        "here".parse().expect("a name"),
        Arc::new(tree),
        Limits::default(),
        catalogue,
        Box::new(FakeHypervisor::new(Arc::new(FakeKernel::boot(Machine::default())))),
    );
    host.with_monitor(Arc::new(NvidiaMonitor::default())).observe(Timestamp(1))
}

/// What the tool answers; none, with the reason printed, where there is no such tool or no such GPU.
fn ask_nvidia_smi() -> Option<String> {
    let arguments = [format!("--query-gpu={QUERY}"), "--format=csv,noheader,nounits".to_owned()];
    match Command::new("nvidia-smi").args(arguments).output() {
        Ok(output) if output.status.success() => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            eprintln!("skipped: nvidia-smi sees no GPU: {}", String::from_utf8_lossy(&output.stdout).trim());
            None
        }
        Err(error) => {
            eprintln!("skipped: this machine has no nvidia-smi ({error})");
            None
        }
    }
}
