//! What this machine has: GPUs and their partitions, as the kernel shows them.
//!
//! A GPU is a display-class physical function, or any device that the catalogue names. A virtual function is a
//! partition and never a GPU; its ids do not tell, its `physfn` link does. Nothing is written here.

pub(crate) mod function;
pub(crate) mod holders;
pub(crate) mod parse;
pub(crate) mod processor;
pub(crate) mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::{Backend, Gpu, Health, PCI_CLASS_DISPLAY, StuckCall};
use tranche_core::name::{DeviceName, GpuAddress, GpuKey, HostName, PciAddress, PciIds, Timestamp};
use tranche_core::step::VFIO_DRIVER;

use self::holders::Holders;
use crate::calls::{CallError, Calls};
use crate::catalogue::{Catalogue, Entry, Interface};
use crate::library::Types;
use crate::migration::ScalableMode;
use crate::tree::Tree;
use crate::variant::Variants;
use crate::vgpu::TypeNames;
use crate::{board, gim, health, i915, identity, mdev, migration, report, sriov, vgpu, xe};

/// What a host knows of GPUs before it looks at one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Knowledge {
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) variants: Arc<Variants>,
    pub(crate) type_names: Arc<TypeNames>,
    pub(crate) scalable_mode: Arc<ScalableMode>,
    /// What drivers say that GPUs can be split into.
    pub(crate) types: Arc<Types>,
}

/// Where the GPUs are and who has which device open: what takes a look at every function and every process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Survey {
    pub(crate) gpus: BTreeSet<GpuAddress>,
    holders: Arc<Holders>,
}

/// What looking at GPUs brought. One whose look did not come back is what it was when it was last seen, and fenced off.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) gpus: BTreeMap<GpuAddress, Gpu>,
    pub(crate) notes: Vec<Finding>,
    /// The looks that did not come back.
    pub(crate) unanswered: Vec<StuckCall>,
}

impl Seen {
    /// What is known when not even the GPUs could be listed: the ones that were seen last, each of them fenced off.
    pub(crate) fn nothing(
        known: &BTreeMap<GpuAddress, Gpu>,
        (host, error): (&HostName, &CallError),
        now: Timestamp,
    ) -> Self {
        let hint = "Look into the kernel log for what holds the PCI bus; restart the host if it stays so.";
        let note = report::host_note(host, Code::CallStuck, report::call_sentence(error), hint);
        let fences = known.keys().cloned().map(Some).chain([None]);
        let unanswered = fences.map(|gpu| StuckCall { gpu, call: error.call().to_owned(), since: now });
        Self { gpus: known.clone(), notes: vec![note], unanswered: unanswered.collect() }
    }

    /// Takes what is known of a GPU in the place of a look at it.
    fn take_known(&mut self, key: &GpuKey, known: Option<&Gpu>, error: &CallError, now: Timestamp) {
        self.notes.push(*report::call_failed(key, error));
        let gpu = Some(key.address.clone());
        self.unanswered.push(StuckCall { gpu, call: error.call().to_owned(), since: now });
        self.gpus.extend(known.map(|known| (key.address.clone(), known.clone())));
    }
}

/// Looks for GPUs and for who uses them.
///
/// # Errors
/// The bus itself hangs.
pub(crate) fn survey(calls: &Calls, catalogue: &Arc<Catalogue>, now: Timestamp) -> Result<Survey, CallError> {
    let entries = Arc::clone(catalogue);
    let what = format!("/{}, /{} and /proc", function::PCI_DEVICES, mdev::MDEV_PARENTS);
    calls.look(None, now, &what, move |tree| Survey {
        gpus: candidates(tree, &entries),
        holders: Arc::new(Holders::scan(tree)),
    })
}

/// Looks at the GPUs of a survey, and tells what was amiss. One that hangs costs its limit once; what is known of it
/// from an earlier look serves instead, because a GPU that is left out is taken for gone.
pub(crate) fn gpus(
    calls: &Calls,
    knowledge: &Knowledge,
    (survey, known): (&Survey, &BTreeMap<GpuAddress, Gpu>),
    host: &HostName,
    now: Timestamp,
) -> Seen {
    let mut all = Seen::default();
    for address in &survey.gpus {
        let key = GpuKey { host: host.clone(), address: address.clone() };
        let (with, holders, looked) = (knowledge.clone(), Arc::clone(&survey.holders), key.clone());
        let what = format!("the attributes of {address}");
        let seen = calls.look(Some(address), now, &what, move |tree| {
            let (mut gpu, mut notes) = look_at(tree, &looked, &with, &holders)?;
            if matches!(gpu.backend, Some(Backend::SriovVfio | Backend::FixedVf)) {
                notes.extend(with.variants.choose(tree, &looked, &mut gpu));
            }
            migration::look(tree, &with.scalable_mode, &mut gpu);
            Some((gpu, notes))
        });
        match seen {
            Ok(Some((mut gpu, found))) => {
                all.notes.extend(found);
                count_enabled(calls, &key, &mut gpu, now);
                if gpu.driver.as_deref() == Some(xe::DRIVER) {
                    let shared = knowledge.catalogue.find(&gpu.ids).and_then(Entry::shared_vram_mib);
                    all.notes.extend(xe::observe(&calls.on(&key, now), &mut gpu, shared));
                }
                all.gpus.insert(address.clone(), gpu);
            }
            // It disappeared since it was listed.
            Ok(None) => {}
            Err(error) => all.take_known(&key, known.get(address), &error, now),
        }
    }
    all
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
    let driver = function::driver(tree, &dir);
    let mut gpu = Gpu {
        address: key.address.clone(),
        ids,
        class: function::class(tree, address).unwrap_or(0),
        model: entry
            .map_or_else(|| format!("{:04x}:{:04x}", ids.vendor, ids.device), |entry| entry.model.clone()),
        emulated: entry.is_some_and(|entry| entry.emulated),
        vram_mib: vram_mib(tree, &dir, entry),
        driver_version: driver.as_deref().and_then(|driver| module_version(tree, driver)),
        driver,
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
        migration: None,
    };
    gpu.health = health::on_the_bus(tree, &dir, &gpu);
    let notes = partitioning(tree, key, &mut gpu, entry, (holders, knowledge));
    Some((gpu, notes))
}

/// Fills in how a GPU makes partitions. The catalogue says which interface to look for; the kernel says whether it is
/// there and what it offers. A GPU that the catalogue does not know is taken for what the kernel shows.
fn partitioning(
    tree: &dyn Tree,
    key: &GpuKey,
    gpu: &mut Gpu,
    entry: Option<&Entry>,
    (holders, knowledge): (&Holders, &Knowledge),
) -> Vec<Finding> {
    let total_vfs = gpu.sriov.as_ref().map_or(0, |sriov| sriov.total_vfs);
    let is_parent = tree.exists(&mdev::parent_dir(&key.address));
    let (driver, dir) = (gpu.driver.clone(), gpu.address.pci().map(function::dir).unwrap_or_default());
    let driver = driver.as_deref();
    let shown = if is_parent && total_vfs == 0 {
        Interface::Mdev
    } else if vgpu::is_for(gpu) {
        Interface::NvidiaVgpu
    } else {
        Interface::PlainVf
    };
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
        Interface::NvidiaVgpu if total_vfs > 0 => {
            let told = gpu.address.pci().and_then(|address| knowledge.types.get(&address));
            let told = told.map_or(&[][..], Vec::as_slice);
            vgpu::observe(tree, key, gpu, (entry, told), (holders, &knowledge.type_names))
        }
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
        driver_version: None,
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
        migration: None,
        open_by: Vec::new(),
    }
}

/// The version of a driver that is not the kernel's own (`/sys/module/NAME/version`, where a module has `MODULE_VERSION`).
pub(crate) fn module_version(tree: &dyn Tree, driver: &str) -> Option<String> {
    let version = tree.text(&format!("sys/module/{}/version", driver.replace('-', "_"))).ok()?;
    (!version.is_empty() && version.len() <= 64).then_some(version)
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
