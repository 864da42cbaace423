//! Which driver hands a virtual function to a VM: vfio-pci, or a variant of it that knows the device.
//!
//! A variant can do what vfio-pci cannot, move a VM to another host for instance. Which module serves which device is
//! told by the aliases `vfio_pci:` in the running kernel's `modules.alias`; the most specific one wins, as with libvirt.
//! The file is read once for each kernel.
//!
//! A variant that is not loaded is asked for when a partition is bound ([`crate::modules`]); when that fails, vfio-pci serves
//! as well. Either way, a driver that appears later is found then.
//!
//! Facts: kernel drivers/vfio/pci/Kconfig, PCI_DRIVER_OVERRIDE_DEVICE_VFIO; libvirt virPCIDeviceFindBestVFIOVariant.

use std::sync::{Arc, Mutex, PoisonError};

use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::inventory::Gpu;
use tranche_core::name::{GpuKey, PciAddress};
use tranche_core::step::VFIO_DRIVER;

use crate::discover::function;
use crate::report;
use crate::tree::Tree;

/// The most of `modules.alias` that is read, in bytes. Debian's has 1.3 MiB.
const ALIASES_LEN_MAX: usize = 8 << 20;
/// The most aliases of variants that are kept.
const ALIASES_MAX: usize = 4_096;

/// The variants that the running kernel has.
#[derive(Debug, Default)]
pub(crate) struct Variants {
    read: Mutex<Option<(String, Arc<Vec<Alias>>)>>,
}

/// Which module serves which devices.
#[derive(Debug, PartialEq, Eq)]
struct Alias {
    /// Behind the colon: `v00008086d0000E212sv*sd*bc*sc*i*`.
    pattern: String,
    module: String,
}

impl Variants {
    /// Chooses the driver for a GPU's virtual functions. A variant that is there and not loaded is told.
    ///
    /// While a VM has a function open on vfio-pci, that stays the driver of all: what is open cannot be bound anew.
    pub(crate) fn choose(&self, tree: &dyn Tree, key: &GpuKey, gpu: &mut Gpu) -> Option<Finding> {
        let vf = gpu.partitions.iter().find_map(|partition| partition.vf())?;
        let module = self.of(tree, vf)?;
        let Some(driver) = loaded(tree, &module) else { return Some(not_loaded(key, &module)) };
        let keeps = |partition: &tranche_core::inventory::ObservedPartition| {
            !partition.open_by.is_empty() && partition.driver.as_deref() == Some(VFIO_DRIVER)
        };
        if !gpu.partitions.iter().any(keeps) {
            gpu.partition_driver = driver;
        }
        None
    }

    /// The module of the variant for a function; none if vfio-pci itself is the one.
    pub(crate) fn of(&self, tree: &dyn Tree, vf: PciAddress) -> Option<String> {
        let modalias = tree.text(&format!("{}/modalias", function::dir(vf))).ok()?;
        self.module_for(tree, &modalias)
    }

    /// The module of the most specific alias; none if that is vfio-pci itself.
    fn module_for(&self, tree: &dyn Tree, modalias: &str) -> Option<String> {
        let device = modalias.strip_prefix("pci:")?;
        let aliases = self.aliases(tree);
        let fitting = aliases.iter().filter(|alias| fits(&alias.pattern, device));
        let best = fitting.min_by_key(|alias| (alias.pattern.matches('*').count(), &alias.module))?;
        (normal(&best.module) != normal(VFIO_DRIVER)).then(|| best.module.clone())
    }

    fn aliases(&self, tree: &dyn Tree) -> Arc<Vec<Alias>> {
        let Ok(release) = tree.text("proc/sys/kernel/osrelease") else { return Arc::default() };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, aliases)) = &*read
            && *of == release
        {
            return Arc::clone(aliases);
        }
        let path = format!("lib/modules/{release}/modules.alias");
        let Ok(bytes) = tree.head(&path, ALIASES_LEN_MAX) else { return Arc::default() };
        let aliases = Arc::new(parse(&String::from_utf8_lossy(&bytes)));
        *read = Some((release, Arc::clone(&aliases)));
        aliases
    }
}

/// The lines `alias vfio_pci:PATTERN MODULE`.
fn parse(text: &str) -> Vec<Alias> {
    let alias = |line: &str| {
        let (pattern, module) = line.strip_prefix("alias vfio_pci:")?.split_once(' ')?;
        Some(Alias { pattern: pattern.to_owned(), module: module.trim().to_owned() })
    };
    text.lines().filter_map(alias).take(ALIASES_MAX).collect()
}

/// Whether a device fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, device: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|start| device.strip_prefix(start)) else { return false };
    let Some(end) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(end)
}

/// The driver of a module, if it is loaded. A driver's name has dashes where its module's has underscores.
fn loaded(tree: &dyn Tree, module: &str) -> Option<String> {
    let drivers = tree.list(function::PCI_DRIVERS).unwrap_or_default();
    drivers.into_iter().find(|driver| normal(driver) == normal(module))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn not_loaded(key: &GpuKey, module: &str) -> Finding {
    let message = format!(
        "The kernel has a driver of its own ({module}) for the partitions of GPU {key}, which is not loaded; they get \
         {VFIO_DRIVER}."
    );
    let hint = format!(
        "They work. With 'modprobe {module}', and its name in /etc/modules-load.d/{module}.conf, they can also be moved \
         to other hosts where the rest allows it."
    );
    report::gpu_note(key, Code::VariantMissing, Severity::Info, message, &hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const B50: &str = "v00008086d0000E212sv00008086sd00001114bc03sc00i00";

    #[test]
    fn a_star_stands_for_anything_and_everything_else_for_itself() {
        assert!(fits("v00008086d0000E212sv*sd*bc*sc*i*", B50));
        assert!(fits("v*d*sv*sd*bc*sc*i*", B50));
        assert!(fits(B50, B50));
        for pattern in ["v00008086d0000E211sv*sd*bc*sc*i*", "v00008086", "", "v*i01", "*bc04*", "v*d0000E212"]
        {
            assert!(!fits(pattern, B50), "{pattern}");
        }
        assert!(!fits("ab*ba", "aba"), "the two ends share nothing");
    }

    #[test]
    fn only_lines_of_variants_count() {
        let text = "# Aliases\nalias pci:v00008086d0000E212sv*sd*bc*sc*i* xe\nalias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n\
                    alias vfio_pci:v00008086d0000E212sv*sd*bc*sc*i* xe_vfio_pci\nalias vfio_pci:broken\n";
        let modules: Vec<String> = parse(text).into_iter().map(|alias| alias.module).collect();
        assert_eq!(modules, ["vfio_pci", "xe_vfio_pci"]);
    }
}
