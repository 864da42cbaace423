//! The demo: Tranche's own package in one virtual host, a GPU partitioned, three VMs booted, and what each of them saw.
//!
//! It acts as a user would, by the package and the command alone. What it claims in the end does not come from Tranche's
//! own records: what a guest sees was said by the guest on its serial console, and which device it was given stands in
//! libvirt's XML of the running VM.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::guest::GuestReport;
use crate::{Lifetime, Node, NodeOptions, Progress, quote};

/// What the demo names its node.
pub const NODE_NAME: &str = "demo";
const VM_NAMES: [&str; 3] = ["vm1", "vm2", "vm3"];
/// One more than the VMs, so that a partition is left free.
const PARTITIONS: u16 = 4;
/// Enough for the lab's guest; each page that a VM gets is cleared and pinned first.
pub(crate) const VM_MEMORY: &str = "128MiB";
const CATALOGUE: &str = include_str!("../../../lab/catalogue.d/lab.toml");
const SOCKET: &str = "/run/tranche/tranche.sock";
/// Where the console is in a node.
const CONSOLE: &str = "127.0.0.1:7440";
/// Who looks at it.
const CONSOLE_USER: &str = "demo";
/// How long anything may take to show; emulation and a busy machine stretch seconds to minutes.
const WAIT_LIMIT: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_secs(1);

/// What to show, and what to leave behind.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// The package to install.
    pub deb: PathBuf,
    /// Leave the node up when the program ends.
    pub keep: bool,
}

/// What the demo found; its JSON is one line with these fields.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Whether every VM sees exactly one partition, and no two the same.
    pub ok: bool,
    /// Partitions that were made.
    pub partitions: usize,
    /// The VMs, by name.
    pub vms: Vec<VmSummary>,
    /// The length of the console's first page, in bytes, as somebody sees it who has logged in by a link.
    pub console_page_bytes: usize,
    /// Seconds from the start of the program.
    pub seconds: f64,
}

/// One VM of the demo.
#[derive(Clone, Debug, Serialize)]
pub struct VmSummary {
    /// Its name.
    pub name: String,
    /// The host that it runs on.
    pub host: String,
    /// The address of the GPU that serves it.
    pub gpu: String,
    /// The index of its partition on that GPU.
    pub partition: u16,
    /// The partitions among the PCI functions that the guest itself listed, as `vendor:device`.
    pub guest_sees: Vec<String>,
}

/// What the demo reads of `tranche gpu list -o json`.
#[derive(Debug, Deserialize)]
struct GpuRow {
    address: String,
    model: String,
    status: String,
}

/// What the demo reads of `tranche partition list -o json`.
#[derive(Debug, Deserialize)]
struct PartitionRow {
    gpu: String,
    device: Option<String>,
}

/// What the demo reads of `tranche vm list -o json`.
#[derive(Debug, Deserialize)]
struct VmRow {
    name: String,
    host: Option<String>,
    gpu: Option<String>,
    partition: Option<u16>,
    device: Option<String>,
}

/// Runs the demo and returns the node, still up, with what was found in it.
///
/// # Errors
/// When a step fails, or a VM does not see exactly one partition of its own; the daemon's last words are on standard
/// error then.
pub fn run(options: &DemoOptions, progress: &Progress) -> Result<(Node, Summary)> {
    let lifetime = if options.keep { Lifetime::Detached } else { Lifetime::Caller };
    let node = Node::start(NodeOptions::new(NODE_NAME, lifetime)?, progress)?;
    let shown = install(&node, &options.deb, progress).and_then(|()| show(&node, progress));
    let summary = shown.inspect_err(|_| print_last_words(&node))?;
    Ok((node, summary))
}

/// Installs the package as on a real host: without network, because all that it depends on is there.
///
/// # Errors
/// When the package cannot be copied or installed.
pub fn install(node: &Node, deb: &Path, progress: &Progress) -> Result<()> {
    let _step = progress.step("Installing Tranche's package in the node");
    node.run("mkdir -p /etc/tranche/catalogue.d")?;
    let catalogue = tempfile::NamedTempFile::new()?;
    std::fs::write(catalogue.path(), CATALOGUE)?;
    node.copy_in(catalogue.path(), "/etc/tranche/catalogue.d/lab.toml")?;
    node.copy_in(deb, "/tmp/tranche.deb")?;
    node.run("DEBIAN_FRONTEND=noninteractive apt-get -q -y install /tmp/tranche.deb")?;
    Ok(())
}

fn show(node: &Node, progress: &Progress) -> Result<Summary> {
    let gpu = partition_a_gpu(node, progress)?;
    start_vms(node, progress)?;
    let reports = wait_for_guests(node, progress)?;
    let partitions: Vec<PartitionRow> = tranche_list(node, "partition")?;
    let made = partitions.iter().filter(|row| row.gpu == gpu && row.device.is_some()).count();
    ensure!(made == usize::from(PARTITIONS), "{made} partitions were made and {PARTITIONS} were asked for");
    let rows: Vec<VmRow> = tranche_list(node, "vm")?;
    let mut given = BTreeSet::new();
    let mut vms = Vec::new();
    for name in VM_NAMES {
        let row =
            rows.iter().find(|row| row.name == name).with_context(|| format!("{name} is not listed"))?;
        let vm = verify(node, row, &reports[name])?;
        ensure!(given.insert(row.device.clone()), "{name} was given a partition that another VM has");
        progress.say(&format!(
            "{name} holds partition {} of GPU {}; in the guest: {}",
            vm.partition,
            vm.gpu,
            vm.guest_sees.join(", ")
        ));
        vms.push(vm);
    }
    let console_page_bytes = see_console(node, progress)?;
    let seconds = (progress.elapsed_s() * 10.0).round() / 10.0;
    Ok(Summary { ok: true, partitions: made, vms, console_page_bytes, seconds })
}

fn partition_a_gpu(node: &Node, progress: &Progress) -> Result<String> {
    // The daemon serves requests before it has looked at the hardware for the first time.
    let gpus: Vec<GpuRow> = wait_for("the host's report of its GPUs", || {
        let gpus: Vec<GpuRow> = tranche_list(node, "gpu")?;
        Ok((!gpus.is_empty()).then_some(gpus))
    })?;
    for gpu in &gpus {
        progress.say(&format!("GPU {} is {}: {}", gpu.address, gpu.status, gpu.model));
    }
    let gpu = gpus.iter().find(|gpu| gpu.status == "partitionable").context("no GPU can be partitioned")?;
    let _step = progress.step(&format!("tranche gpu partition {} {PARTITIONS}", gpu.address));
    node.run(&format!("tranche -q gpu partition {} {PARTITIONS}", quote(&gpu.address)))?;
    Ok(gpu.address.clone())
}

fn start_vms(node: &Node, progress: &Progress) -> Result<()> {
    for name in VM_NAMES {
        node.make_guest_volume(name)?;
        let step = progress.step(&format!("tranche vm create {name} --gpu any"));
        node.run(&format!(
            "tranche -q vm create {name} --vcpus 1 --memory {VM_MEMORY} --disk default/{name} --firmware bios --gpu any"
        ))?;
        drop(step);
        let _step = progress.step(&format!("tranche vm start {name}"));
        node.run(&format!("tranche -q vm start {name}"))?;
    }
    Ok(())
}

/// Waits until every guest has listed what it sees, and has gone on to tick.
fn wait_for_guests(node: &Node, progress: &Progress) -> Result<BTreeMap<&'static str, GuestReport>> {
    let _step = progress.step("Waiting for what the guests say on their serial consoles");
    wait_for("every guest's list of devices", || {
        let mut reports = BTreeMap::new();
        for name in VM_NAMES {
            let report =
                GuestReport::parse(&node.run(&format!("cat /var/log/libvirt/qemu/{name}-serial.log"))?);
            if report.ready && report.tick.is_some() {
                reports.insert(name, report);
            }
        }
        Ok((reports.len() == VM_NAMES.len()).then_some(reports))
    })
}

/// Looks again and again until there is an answer, with a limit.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + WAIT_LIMIT;
    loop {
        if let Some(answer) = look()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "{what} did not come within {} s", WAIT_LIMIT.as_secs());
        std::thread::sleep(POLL);
    }
}

/// Holds what Tranche says of a VM against libvirt's XML of it and against what the guest said.
fn verify(node: &Node, row: &VmRow, report: &GuestReport) -> Result<VmSummary> {
    let name = &row.name;
    let device = row.device.as_deref().with_context(|| format!("{name} has no partition"))?;
    let xml = node.run(&format!("virsh dumpxml {}", quote(name)))?;
    let assigned = assigned_functions(&xml).with_context(|| format!("libvirt's XML of {name} is wrong"))?;
    ensure!(assigned == [device], "{name} shall have {device}, and libvirt gave it {assigned:?}");
    let folder = format!("/sys/bus/pci/devices/{device}");
    let id = node.run(&format!("cat {0}/vendor {0}/device", quote(&folder)))?.replace("0x", "");
    let id = id.split_whitespace().collect::<Vec<_>>().join(":");
    let seen = report.pci.iter().filter(|function| function.id == id);
    let guest_sees: Vec<String> = seen.map(|function| function.id.clone()).collect();
    ensure!(
        guest_sees.len() == 1,
        "{name} shall see one {id}, and it sees {}: {:?}",
        guest_sees.len(),
        report.pci
    );
    let (Some(host), Some(gpu), Some(partition)) = (row.host.clone(), row.gpu.clone(), row.partition) else {
        bail!("{name} runs and is listed without host, GPU or partition: {row:?}");
    };
    Ok(VmSummary { name: name.clone(), host, gpu, partition, guest_sees })
}

/// The host's addresses of the PCI functions that a VM was given.
fn assigned_functions(xml: &str) -> Result<Vec<String>> {
    let document = roxmltree::Document::parse(xml)?;
    let sources = document.descendants().filter(|node| node.has_tag_name("hostdev"));
    let addresses = sources.flat_map(|hostdev| {
        let source = hostdev.children().find(|node| node.has_tag_name("source"));
        source.into_iter().flat_map(|source| source.children()).filter(|node| node.has_tag_name("address"))
    });
    addresses
        .map(|address| {
            let part = |name: &str| -> Result<u32> {
                let text = address.attribute(name).with_context(|| format!("a hostdev has no {name}"))?;
                Ok(u32::from_str_radix(text.trim_start_matches("0x"), 16)?)
            };
            let (domain, bus, slot, function) =
                (part("domain")?, part("bus")?, part("slot")?, part("function")?);
            Ok(format!("{domain:04x}:{bus:02x}:{slot:02x}.{function}"))
        })
        .collect()
}

fn tranche_list<T: for<'de> Deserialize<'de>>(node: &Node, what: &str) -> Result<Vec<T>> {
    let text = node.run(&format!("tranche {what} list -o json"))?;
    serde_json::from_str(&text).with_context(|| format!("tranche {what} list printed: {text}"))
}

/// What the daemon logged last, or the node itself, for whoever has to find out why the demo failed.
pub(crate) fn print_last_words(node: &Node) {
    let command = "journalctl --no-pager -q -u tranched -u tranche-etcd -n 40; tranche findings 2>&1";
    match node.ssh(command) {
        Ok(output) => {
            eprintln!("The last of the node's log of tranched, and its findings:\n{}", output.stdout);
        }
        Err(_) => {
            eprintln!(
                "The node does not answer. All that it said on its serial port:\n{}",
                node.serial_log()
            );
        }
    }
}

/// Where the API of a demo node can be reached from this machine, for as long as the demo runs.
///
/// # Errors
/// When the connection to the node is gone.
pub fn api_url(node: &Node) -> Result<String> {
    Ok(format!("http://127.0.0.1:{}/v1", node.forward(SOCKET)?))
}

/// A link that logs in to the console of a demo node, once, from this machine.
///
/// # Errors
/// When the connection to the node is gone, or no link is made.
pub fn console_link(node: &Node) -> Result<String> {
    let port = node.forward(CONSOLE)?;
    Ok(format!("https://127.0.0.1:{port}{}", login_path(node)?))
}

/// The path of a new link to the console.
fn login_path(node: &Node) -> Result<String> {
    let link = node.run(&format!("tranche user link {CONSOLE_USER}"))?;
    let path = link.trim().strip_prefix("https://").and_then(|rest| rest.split_once('/'));
    let (_, path) = path.with_context(|| format!("{link:?} is no link to the console"))?;
    Ok(format!("/{path}"))
}

/// Makes a user for the console, logs in by a link as a browser does, and looks at the first page: returns its length.
fn see_console(node: &Node, progress: &Progress) -> Result<usize> {
    let _step = progress.step("Logging in to the console");
    node.run(&format!("tranche user create {CONSOLE_USER} --role admin"))?;
    let path = login_path(node)?;
    let secret = path.split_once("link=").map_or("", |(_, secret)| secret);
    // The certificate is the node's own, and nobody knows it yet.
    let curl = format!("curl -skf --max-time 60 -c /tmp/cookies -b /tmp/cookies https://{CONSOLE}");
    node.run(&format!("{curl}/login --data-urlencode {}", quote(&format!("link={secret}"))))?;
    let page = node.run(&format!("{curl}/"))?;
    ensure!(
        page.contains(CONSOLE_USER) && page.contains("Overview"),
        "the console's first page is another: {page}"
    );
    let again = node.ssh(&format!("{curl}/login --data-urlencode {}", quote(&format!("link={secret}"))))?;
    ensure!(!again.ok(), "a link to the console logs in more than once");
    Ok(page.len())
}

#[cfg(test)]
mod tests {
    use super::assigned_functions;

    #[test]
    fn an_assigned_function_is_read_from_libvirts_xml() {
        let xml = "<domain><devices><hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source>\
            <address domain='0x0000' bus='0x01' slot='0x10' function='0x2'/></source><alias name='hostdev0'/>\
            <address type='pci' domain='0x0000' bus='0x03' slot='0x00' function='0x0'/></hostdev></devices></domain>";
        assert_eq!(assigned_functions(xml).expect("addresses"), ["0000:01:10.2"]);
    }

    #[test]
    fn a_vm_without_a_device_has_none() {
        assert!(assigned_functions("<domain><devices/></domain>").expect("no addresses").is_empty());
        assert!(assigned_functions("<domain>").is_err());
    }
}
