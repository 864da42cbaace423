//! Whether an IOMMU can log which memory a device writes, by its registers as sysfs shows them.
//!
//! A register is a claim: the kernel must also use it so, and a program must read the log through iommufd. Each device has its own
//! IOMMU, which its link `iommu` names; others on the host may be of another kind.
//!
//! Facts: Linux, drivers/iommu/intel/iommu.h (`ssads_supported`) and iommu.c (`intel_iommu_setup`, the files); Kconfig there
//! (scalable mode is on by default); drivers/iommu/amd/amd_iommu_types.h (`FEATURE_HDSUP`) and init.c (the file has two words since
//! Linux 6.7, one before). ARM's SMMUv3 shows no register.

use std::sync::{Mutex, PoisonError};

use tranche_core::inventory::{Certainty, Evidence};

use crate::discover::parse;
use crate::tree::Tree;

/// What VT-d needs: scalable mode, second-stage accessed and dirty bits, and page walks that are coherent with caches.
const INTEL_BITS: [(u32, &str); 3] = [(43, "SMTS"), (45, "SSADS"), (48, "SMPWC")];
/// What AMD-Vi needs: hardware that sets dirty bits.
const AMD_BIT: u32 = 52;
/// The most of a kernel's configuration that is read, in bytes. Debian's has 280 KiB.
const CONFIG_LEN_MAX: usize = 1 << 20;
/// The kernel's setting whether scalable mode is on without being asked for.
const SCALABLE_BY_DEFAULT: &str = "CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON";

/// What the IOMMU of a device claims.
pub(super) fn dirty_log(tree: &dyn Tree, device_dir: &str, mode: &ScalableMode) -> Evidence {
    let link = format!("{device_dir}/iommu");
    let Ok(unit) = tree.link_name(&link) else {
        return Evidence::new(Certainty::Unknown, format!("/{link} is not there"));
    };
    if let Ok(ecap) = tree.text(&format!("{link}/intel-iommu/ecap")) {
        return intel(&unit, &ecap, || mode.of(tree));
    }
    if let Ok(features) = tree.text(&format!("{link}/amd-iommu/features")) {
        return amd(&unit, &features);
    }
    Evidence::new(
        Certainty::Unknown,
        format!("/sys/class/iommu/{unit} shows no register; only iommufd tells"),
    )
}

fn intel(unit: &str, ecap: &str, mode: impl FnOnce() -> (bool, &'static str)) -> Evidence {
    let file = format!("/sys/class/iommu/{unit}/intel-iommu/ecap: {ecap}");
    let Some(bits) = parse::hex(ecap) else {
        return Evidence::new(Certainty::Unknown, format!("{file} is no number"));
    };
    let lacking = INTEL_BITS.iter().filter(|(bit, _)| bits >> bit & 1 == 0);
    let lacking: Vec<String> = lacking.map(|(bit, name)| format!("{bit} ({name})")).collect();
    if !lacking.is_empty() {
        return Evidence::new(Certainty::Refused, format!("{file} lacks bit {}", lacking.join(", ")));
    }
    match mode() {
        (true, why) => Evidence::new(Certainty::Claimed, format!("{file} has bits 43, 45 and 48; {why}")),
        (false, why) => Evidence::new(Certainty::Refused, format!("{file} would do, but {why}")),
    }
}

fn amd(unit: &str, features: &str) -> Evidence {
    let file = format!("/sys/class/iommu/{unit}/amd-iommu/features: {features}");
    match features.split(':').next().and_then(parse::hex) {
        None => Evidence::new(Certainty::Unknown, format!("{file} is no number")),
        Some(bits) if bits >> AMD_BIT & 1 == 1 => {
            Evidence::new(Certainty::Claimed, format!("{file} has bit 52 (HDSup)"))
        }
        Some(_) => Evidence::new(Certainty::Refused, format!("{file} lacks bit 52 (HDSup)")),
    }
}

/// Whether Intel's IOMMUs are driven in scalable mode, which no file tells: the kernel's command line and how it was built do. The
/// latter is read once for each kernel.
#[derive(Debug, Default)]
pub(crate) struct ScalableMode {
    built: Mutex<Option<(String, Option<bool>)>>,
}

impl ScalableMode {
    /// Whether it is on, and why.
    fn of(&self, tree: &dyn Tree) -> (bool, &'static str) {
        let said = tree.text("proc/cmdline").ok().and_then(|line| asked_for(&line));
        match said {
            Some(true) => (true, "sm_on is on the kernel's command line"),
            Some(false) => (false, "sm_off is on the kernel's command line"),
            None => match self.built(tree) {
                Some(true) => (true, "the kernel is built with scalable mode on"),
                Some(false) => (false, "the kernel is built with scalable mode off (intel_iommu=on,sm_on)"),
                None => (true, "scalable mode is on unless the kernel was built otherwise"),
            },
        }
    }

    fn built(&self, tree: &dyn Tree) -> Option<bool> {
        let release = tree.text("proc/sys/kernel/osrelease").ok()?;
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, on)) = &*built
            && *of == release
        {
            return *on;
        }
        let config = tree.head(&format!("boot/config-{release}"), CONFIG_LEN_MAX).ok();
        let on = config.and_then(|config| built_on(&String::from_utf8_lossy(&config)));
        *built = Some((release, on));
        on
    }
}

/// What the last of the options `intel_iommu=` says.
fn asked_for(command_line: &str) -> Option<bool> {
    let options = command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("intel_iommu="));
    let words = options.flat_map(|options| options.split(','));
    let said = |word| match word {
        "sm_on" => Some(true),
        "sm_off" => Some(false),
        _ => None,
    };
    words.filter_map(said).next_back()
}

/// What the kernel's configuration says: `NAME=y`, or `# NAME is not set`.
fn built_on(config: &str) -> Option<bool> {
    config.lines().find_map(|line| match line.strip_prefix("# ") {
        None => line.strip_prefix(SCALABLE_BY_DEFAULT)?.strip_prefix('=').map(|value| value == "y"),
        Some(line) => (line.strip_prefix(SCALABLE_BY_DEFAULT)? == " is not set").then_some(false),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: (bool, &str) = (true, "it is on");

    #[test]
    fn vt_d_needs_three_bits_and_scalable_mode() {
        let ready = format!("{:x}", (1_u64 << 43) | (1 << 45) | (1 << 48) | 0x00f0_20df);
        assert_eq!(intel("dmar0", &ready, || ON).certainty, Certainty::Claimed);
        assert_eq!(intel("dmar0", &ready, || (false, "it is off")).certainty, Certainty::Refused);
        // As an A2's host has it (Xeon D-1746TER).
        let told = intel("dmar1", "f020df", || ON);
        assert_eq!(told.certainty, Certainty::Refused);
        assert_eq!(
            told.source,
            "/sys/class/iommu/dmar1/intel-iommu/ecap: f020df lacks bit 43 (SMTS), 45 (SSADS), 48 (SMPWC)"
        );
        let without_ssads = format!("{:x}", (1_u64 << 43) | (1 << 48));
        assert!(intel("dmar0", &without_ssads, || ON).source.ends_with("lacks bit 45 (SSADS)"));
        assert_eq!(intel("dmar0", "junk", || ON).certainty, Certainty::Unknown);
    }

    #[test]
    fn amd_vi_needs_one_bit_of_the_first_word_however_many_there_are() {
        for (features, certainty) in [
            ("10000000000000:1", Certainty::Claimed),
            ("10000000000000", Certainty::Claimed),
            ("25bf732fa2295afe:1d", Certainty::Claimed),
            ("246577efa2254afa:0", Certainty::Refused),
            ("0:10000000000000", Certainty::Refused),
            ("", Certainty::Unknown),
        ] {
            assert_eq!(amd("ivhd0", features).certainty, certainty, "{features:?}");
        }
    }

    #[test]
    fn the_last_word_on_the_command_line_counts() {
        assert_eq!(asked_for("root=/dev/sda1 intel_iommu=on,sm_on iommu=pt"), Some(true));
        assert_eq!(asked_for("intel_iommu=on,sm_on intel_iommu=sm_off"), Some(false));
        assert_eq!(asked_for("intel_iommu=on quiet sm_on"), None);
        assert_eq!(asked_for(""), None);
    }

    #[test]
    fn the_kernels_configuration_says_what_it_does_without_being_told() {
        assert_eq!(built_on("CONFIG_A=y\nCONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON=y\n"), Some(true));
        assert_eq!(built_on("# CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ON is not set\n"), Some(false));
        assert_eq!(built_on("# CONFIG_INTEL_IOMMU_SCALABLE_MODE_DEFAULT_ONE is not set\nCONFIG_B=m\n"), None);
    }
}
