//! What this machine has: GPUs and their partitions, as the kernel shows them.
//!
//! A GPU is a display-class physical function, or any device that the catalogue names. A virtual function is a
//! partition and never a GPU; its ids do not tell, its `physfn` link does. Nothing is written here.

pub(crate) mod function;
pub(crate) mod holders;
pub(crate) mod parse;
pub(crate) mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::{Backend, Gpu, Health, PCI_CLASS_DISPLAY};
use tranche_core::name::{DeviceName, GpuAddress, GpuKey, HostName, PciAddress, PciIds, Timestamp};
use tranche_core::step::VFIO_DRIVER;

use self::holders::Holders;
use crate::calls::Calls;
use crate::catalogue::{Catalogue, Entry, Interface};
use crate::tree::Tree;
use crate::variant::Variants;
use crate::vgpu::TypeNames;
use crate::{board, gim, health, i915, identity, mdev, report, sriov, vgpu, xe};

/// What a host knows of GPUs before it looks at one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) variants: Arc<Variants>,
    pub(crate) type_names: Arc<TypeNames>,
}

/// Where the GPUs are and who has which device open: what takes a look at every function and every process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    pub(crate) gpus: BTreeSet<GpuAddress>,
    holders: Arc<Holders>,
}

/// Looks for GPUs and for who uses them.
///
/// # Errors
/// The bus itself hangs.
pub(crate) fn survey(
    calls: &Calls,
    catalogue: &Arc<Catalogue>,
    host: &HostName,
    now: Timestamp,
) -> Result<Survey, Box<Finding>> {
    let entries = Arc::clone(catalogue);
    let what = format!("/{}, /{} and /proc", function::PCI_DEVICES, mdev::MDEV_PARENTS);
    let found = calls.look(None, now, &what, move |tree| Survey {
        gpus: candidates(tree, &entries),
        holders: Arc::new(Holders::scan(tree)),
    });
    found.map_err(|error| {
        let hint = "Look into the kernel log for what holds the PCI bus; restart the host if it stays so.";
        Box::new(report::host_note(host, Code::CallStuck, report::call_sentence(&error), hint))
    })
}

/// Looks at the GPUs of a survey, and tells what was amiss. One that hangs costs its limit once.
pub(crate) fn gpus(
    calls: &Calls,
    knowledge: &Knowledge,
    survey: &Survey,
    host: &HostName,
    now: Timestamp,
) -> (BTreeMap<GpuAddress, Gpu>, Vec<Finding>) {
    let (mut gpus, mut notes) = (BTreeMap::new(), Vec::new());
    for address in &survey.gpus {
        let key = GpuKey { host: host.clone(), address: address.clone() };
        let (known, holders, looked) = (knowledge.clone(), Arc::clone(&survey.holders), key.clone());
        let what = format!("the attributes of {address}");
        let seen = calls.look(Some(address), now, &what, move |tree| {
            let (mut gpu, mut notes) = look_at(tree, &looked, &known, &holders)?;
            if matches!(gpu.backend, Some(Backend::SriovVfio | Backend::FixedVf)) {
                notes.extend(known.variants.choose(tree, &looked, &mut gpu));
            }
            Some((gpu, notes))
        });
        match seen {
            Ok(Some((mut gpu, found))) => {
                notes.extend(found);
                count_enabled(calls, &key, &mut gpu, now);
                if gpu.driver.as_deref() == Some(xe::DRIVER) {
                    let shared = knowledge.catalogue.find(&gpu.ids).and_then(Entry::shared_vram_mib);
                    notes.extend(xe::observe(&calls.on(&key, now), &mut gpu, shared));
                }
                gpus.insert(address.clone(), gpu);
            }
            // It disappeared since it was listed.
            Ok(None) => {}
            Err(error) => notes.push(*report::call_failed(&key, &error)),
        }
    }
    (gpus, notes)
}

/// Corrects the number of virtual functions to what the driver says, unless asking would wait. They are counted by
/// their links until then, and a call that hangs is listed as stuck.
fn count_enabled(calls: &Calls, key: &GpuKey, gpu: &mut Gpu, now: Timestamp) {
    if let (Some(sriov), Some(pf)) = (&mut gpu.sriov, gpu.address.pci())
        && let Ok(enabled) = sriov::enabled(&calls.on(key, now), pf)
    {
        sriov.vfs = enabled;
    }
}

/// Every function and every parent of mediated devices that is a GPU.
fn candidates(tree: &dyn Tree, catalogue: &Catalogue) -> BTreeSet<GpuAddress> {
    let listed = tree.list(function::PCI_DEVICES).unwrap_or_default();
    let is_gpu = |address: &PciAddress| {
        let display = function::class(tree, *address).is_some_and(|class| class >> 16 == PCI_CLASS_DISPLAY);
        let named = || {
            function::vendor_and_device(tree, *address)
                .is_some_and(|(vendor, device)| catalogue.names_device(vendor, device))
        };
        (display || named()) && !function::is_virtual(tree, *address)
    };
    let functions = listed.iter().filter_map(|name| name.parse().ok()).filter(is_gpu).map(GpuAddress::Pci);
    let parents = tree.list(mdev::MDEV_PARENTS).unwrap_or_default();
    let is_known = |name: &DeviceName| catalogue.find_virtual(name).is_some();
    let virtuals =
        parents.iter().filter_map(|name| name.parse().ok()).filter(is_known).map(GpuAddress::Virtual);
    functions.chain(virtuals).collect()
}

fn look_at(
    tree: &dyn Tree,
    key: &GpuKey,
    knowledge: &Knowledge,
    holders: &Holders,
) -> Option<(Gpu, Vec<Finding>)> {
    match &key.address {
        GpuAddress::Pci(address) => pci_gpu(tree, key, *address, knowledge, holders),
        GpuAddress::Virtual(name) => {
            let entry = knowledge.catalogue.find_virtual(name)?;
            Some((virtual_gpu(tree, key, entry, holders), Vec::new()))
        }
    }
}

fn pci_gpu(
    tree: &dyn Tree,
    key: &GpuKey,
    address: PciAddress,
    knowledge: &Knowledge,
    holders: &Holders,
) -> Option<(Gpu, Vec<Finding>)> {
    let dir = function::dir(address);
    let ids = function::ids(tree, address)?;
    let entry = knowledge.catalogue.find(&ids);
    let text = |name: &str| tree.text(&format!("{dir}/{name}")).unwrap_or_default();
    let iommu_group = function::iommu_group(tree, &dir);
    let partitions = sriov::partitions(tree, &dir, holders);
    let mut gpu = Gpu {
        address: key.address.clone(),
        ids,
        class: function::class(tree, address).unwrap_or(0),
        model: entry
            .map_or_else(|| format!("{:04x}:{:04x}", ids.vendor, ids.device), |entry| entry.model.clone()),
        emulated: entry.is_some_and(|entry| entry.emulated),
        vram_mib: vram_mib(tree, &dir, entry),
        driver: function::driver(tree, &dir),
        numa_node: function::numa_node(tree, &dir),
        open_by: holders.of(tree, &dir, iommu_group.as_ref().map(|group| group.id)),
        iommu_group,
        bars: function::bars(tree, &dir),
        reset_methods: text("reset_method").split_ascii_whitespace().map(str::to_owned).collect(),
        boot_vga: text("boot_vga") == "1",
        aer: function::aer(tree, &dir),
        backend: None,
        unique_id: identity::unique_id(tree, &dir, address),
        board: board::by_switch(tree, &dir, entry),
        health: Health::default(),
        telemetry: None,
        partition_driver: VFIO_DRIVER.to_owned(),
        mixed: Vec::new(),
        blanks: Vec::new(),
        sriov: sriov::capability(tree, &dir, partitions.len()),
        offers: Vec::new(),
        reload: None,
        partitions,
    };
    gpu.health = health::on_the_bus(tree, &dir, &gpu);
    let notes = partitioning(tree, key, &mut gpu, entry, holders, &knowledge.type_names);
    Some((gpu, notes))
}

/// Fills in how a GPU makes partitions. The catalogue says which interface to look for; the kernel says whether it is
/// there and what it offers. A GPU that the catalogue does not know is taken for what the kernel shows.
fn partitioning(
    tree: &dyn Tree,
    key: &GpuKey,
    gpu: &mut Gpu,
    entry: Option<&Entry>,
    holders: &Holders,
    names: &TypeNames,
) -> Vec<Finding> {
    let total_vfs = gpu.sriov.as_ref().map_or(0, |sriov| sriov.total_vfs);
    let is_parent = tree.exists(&mdev::parent_dir(&key.address));
    let (driver, dir) = (gpu.driver.clone(), gpu.address.pci().map(function::dir).unwrap_or_default());
    let driver = driver.as_deref();
    let shown = if is_parent && total_vfs == 0 { Interface::Mdev } else { Interface::PlainVf };
    let interface = entry.map_or(shown, |entry| entry.interface);
    // What is said to serve whole only may have learnt more since.
    match if interface == Interface::Whole { shown } else { interface } {
        Interface::Mdev if is_parent => {
            let observed = mdev::observe(tree, key, entry, holders);
            gpu.backend = Some(Backend::Mdev);
            gpu.offers = observed.offers;
            gpu.partitions.extend(observed.partitions);
            Vec::new()
        }
        Interface::PlainVf | Interface::ModuleParameter
            if driver == Some(gim::DRIVER) && gpu.sriov.is_some() =>
        {
            gim::observe(tree, key, gpu, entry)
        }
        Interface::PlainVf if driver == Some(xe::DRIVER) && total_vfs == 0 && gpu.sriov.is_some() => {
            vec![xe::native_mode(tree, key)]
        }
        Interface::PlainVf
            if driver == Some(i915::DRIVER) && total_vfs > 0 && !i915::makes_functions(tree, &dir) =>
        {
            vec![i915::unpatched(key)]
        }
        Interface::PlainVf if total_vfs > 0 && !sriov::lacks_sysfs_switch(driver) => {
            gpu.backend = Some(Backend::SriovVfio);
            gpu.offers = sriov::offers(total_vfs);
            Vec::new()
        }
        Interface::ModuleParameter if total_vfs > 0 => gim::missing(key, gpu).into_iter().collect(),
        Interface::PlainVf if total_vfs > 0 => vec![not_served(key, gpu, "its driver's own tool")],
        Interface::NvidiaVgpu if total_vfs > 0 => vgpu::observe(tree, key, gpu, entry, (holders, names)),
        Interface::NvidiaVgpu
        | Interface::Mdev
        | Interface::PlainVf
        | Interface::ModuleParameter
        | Interface::Whole => Vec::new(),
    }
}

fn virtual_gpu(tree: &dyn Tree, key: &GpuKey, entry: &Entry, holders: &Holders) -> Gpu {
    let observed = mdev::observe(tree, key, Some(entry), holders);
    Gpu {
        address: key.address.clone(),
        ids: PciIds::default(),
        class: 0,
        model: entry.model.clone(),
        emulated: entry.emulated,
        vram_mib: entry.vram_mib.as_ref().map(|figure| figure.value),
        driver: None,
        numa_node: None,
        iommu_group: None,
        bars: Vec::new(),
        reset_methods: Vec::new(),
        boot_vga: false,
        aer: None,
        unique_id: None,
        board: None,
        health: Health::default(),
        telemetry: None,
        backend: Some(Backend::Mdev),
        partition_driver: VFIO_DRIVER.to_owned(),
        mixed: Vec::new(),
        blanks: Vec::new(),
        sriov: None,
        offers: observed.offers,
        reload: None,
        partitions: observed.partitions,
        open_by: Vec::new(),
    }
}

/// Video memory: what the driver tells (amdgpu does, in bytes), else what the catalogue says.
fn vram_mib(tree: &dyn Tree, dir: &str, entry: Option<&Entry>) -> Option<u64> {
    let told =
        tree.text(&format!("{dir}/mem_info_vram_total")).ok().and_then(|bytes| bytes.parse::<u64>().ok());
    told.map(|bytes| bytes >> 20).or_else(|| Some(entry?.vram_mib.as_ref()?.value))
}

fn not_served(key: &GpuKey, gpu: &Gpu, means: &str) -> Finding {
    let message = format!(
        "GPU {key} ({}) is partitioned through {means}, which this version does not drive.",
        gpu.model
    );
    let hint = "Give it to a VM whole (passthrough), or leave it to the host.";
    report::gpu_note(key, Code::NotPartitionable, Severity::Info, message, hint)
}
