//! Intel's driver xe on the fake kernel: `sriov_admin`, and who gets how much video memory.
//!
//! Everything is numbered from 1: `vf1` is `virtfn0`, and all of `vf1` to `vfT` are there from the start. Quotas that were
//! set before the functions are enabled stay; without any, the driver shares by itself, in powers of two, and keeps one
//! share. Disabling releases everything.
//!
//! Facts: kernel Documentation/ABI/testing/sysfs-driver-intel-xe-sriov; drivers/gpu/drm/xe/xe_sriov_pf_provision.c,
//! xe_gt_sriov_pf_config.c.

use std::collections::{BTreeMap, BTreeSet};

use rustix::io::Errno;
use serde::Deserialize;
use tranche_core::name::PciAddress;

use super::FakeKernel;
use super::files::{File, Listing, Node};
use super::state::{Role, State};

const GIB: u64 = 1 << 30;
/// The firmware rounds quotas up to this.
const QUOTA_STEP_BYTES: u64 = 2 << 20;
/// What an enabled function gets of the engines' time, in milliseconds, and how long it may overrun, in microseconds.
const FAIR_QUANTUM_MS: u64 = 16;
const FAIR_TIMEOUT_US: u64 = 16_000;
const PRIORITIES: [&str; 3] = ["low", "normal", "high"];

/// A GPU of the driver xe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XeModel {
    /// The physical function.
    pub gpu: PciAddress,
    /// The video memory that can be given away, in MiB.
    pub shared_mib: u64,
    /// What of `sriov_admin` the kernel has.
    #[serde(default)]
    pub admin: XeAdmin,
}

/// What of `sriov_admin` a kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum XeAdmin {
    /// Nothing (before 6.19).
    Absent,
    /// Schedulers' settings, and no quotas of memory.
    WithoutQuotas,
    /// Quotas, which enabling forgets: it shares by itself all the same (the first release candidates of 7.0).
    WithForgottenQuotas,
    /// All of it.
    #[default]
    WithQuotas,
}

/// What the driver has set, until the functions are disabled.
#[derive(Debug, Default)]
pub(super) struct Provisioning(BTreeMap<(PciAddress, u16, Setting), u64>);

/// What goes wrong with the driver.
#[derive(Debug, Default)]
pub(super) struct XeFaults {
    /// Functions, from 1, about whose memory the tiles disagree.
    disagreeing: BTreeSet<(PciAddress, u16)>,
    /// The firmware's answer to every quota that is not 0.
    refusals: BTreeMap<PciAddress, Errno>,
}

/// A setting of one function, or of the physical one (0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Setting {
    Quantum,
    Timeout,
    Priority,
    Quota,
}

impl Setting {
    fn named(name: &str) -> Option<Self> {
        match name {
            "exec_quantum_ms" => Some(Self::Quantum),
            "preempt_timeout_us" => Some(Self::Timeout),
            "sched_priority" => Some(Self::Priority),
            "vram_quota" => Some(Self::Quota),
            _ => None,
        }
    }
}

/// A file under `sriov_admin`.
#[derive(Debug, Clone, Copy)]
pub(super) struct XeFile {
    pf: PciAddress,
    whose: Whose,
    setting: Setting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// `.bulk_profile`: everybody's.
    All,
    /// The physical function's (0) or a virtual one's.
    One(u16),
}

impl XeFile {
    pub(super) fn mode(self) -> u16 {
        match (self.whose, self.setting) {
            (Whose::All, _) => 0o200,
            (Whose::One(1..), Setting::Priority) => 0o444,
            (Whose::One(_), _) => 0o644,
        }
    }
}

/// What is at a path below a function's `sriov_admin`.
pub(super) fn admin(state: &State, pf: PciAddress, path: &[&str]) -> Option<Node> {
    let model = state.xe_model(pf).filter(|model| model.admin != XeAdmin::Absent)?;
    let quotas = model.admin != XeAdmin::WithoutQuotas;
    let Role::Physical { model: sriov, vfs, .. } = &state.functions.get(&pf)?.role else { return None };
    let total = sriov.total_vfs;
    // In native mode there is nothing to administer.
    (total > 0).then_some(())?;
    let settings = |of_vfs: bool| {
        let quota = (of_vfs && quotas).then_some("vram_quota");
        let names = ["exec_quantum_ms", "preempt_timeout_us", "sched_priority"].into_iter().chain(quota);
        Some(Node::Dir(Listing::Names(names.map(str::to_owned).collect())))
    };
    let file = |whose, name: &str| {
        let setting = Setting::named(name)?;
        let exists = setting != Setting::Quota || (quotas && whose != Whose::One(0));
        exists.then_some(Node::File(File::Xe(XeFile { pf, whose, setting })))
    };
    match path {
        [] => {
            let vfs = (1..=total).map(|number| format!("vf{number}"));
            Some(Node::Dir(Listing::Names(
                [".bulk_profile", "pf"].map(str::to_owned).into_iter().chain(vfs).collect(),
            )))
        }
        [".bulk_profile"] => settings(true),
        [".bulk_profile", name] => file(Whose::All, name),
        ["pf"] => Some(Node::Dir(Listing::Fixed(&["device", "profile"]))),
        ["pf", "device"] => Some(Node::Link("../..".to_owned())),
        ["pf", "profile"] => settings(false),
        ["pf", "profile", name] => file(Whose::One(0), name),
        [vf, rest @ ..] => {
            let number: u16 =
                vf.strip_prefix("vf")?.parse().ok().filter(|number| (1..=total).contains(number))?;
            let device = vfs.get(&(number - 1));
            match rest {
                [] => {
                    let device = device.map(|_| "device");
                    let names = device.into_iter().chain(["profile"]);
                    Some(Node::Dir(Listing::Names(names.map(str::to_owned).collect())))
                }
                ["device"] => Some(Node::Link(format!("../../../{}", device?))),
                ["profile"] => settings(true),
                ["profile", name] => file(Whose::One(number), name),
                _ => None,
            }
        }
    }
}

impl State {
    fn xe_model(&self, pf: PciAddress) -> Option<&XeModel> {
        self.machine.xe.iter().find(|model| model.gpu == pf)
    }

    /// What enabling so many functions gives to each, and what disabling takes.
    pub(super) fn provision_xe(&mut self, pf: PciAddress, count: u16) {
        let Some(model) = self.xe_model(pf).cloned() else { return };
        if count == 0 {
            return self.xe.0.retain(|(of, ..), _| *of != pf);
        }
        let quota = |number| self.xe.0.get(&(pf, number, Setting::Quota)).copied().unwrap_or(0);
        let keeps = model.admin == XeAdmin::WithQuotas && (1..=count).any(|number| quota(number) > 0);
        if !keeps {
            let share = ((model.shared_mib << 20) / GIB * GIB) / (u64::from(count) + 1);
            let fair = share.checked_ilog2().map_or(0, |bits| 1 << bits);
            self.xe.0.retain(|(of, _, setting), _| *of != pf || *setting != Setting::Quota);
            self.xe.0.extend((1..=count).map(|number| ((pf, number, Setting::Quota), fair)));
        }
        for number in 1..=count {
            self.xe.0.entry((pf, number, Setting::Quantum)).or_insert(FAIR_QUANTUM_MS);
            self.xe.0.entry((pf, number, Setting::Timeout)).or_insert(FAIR_TIMEOUT_US);
        }
    }

    pub(super) fn read_xe(&self, file: XeFile) -> Result<String, Errno> {
        let Whose::One(number) = file.whose else { return Err(Errno::ACCESS) };
        if file.setting == Setting::Quota && self.faults.xe.disagreeing.contains(&(file.pf, number)) {
            return Err(Errno::UCLEAN);
        }
        let value = self.xe.0.get(&(file.pf, number, file.setting)).copied().unwrap_or(0);
        if file.setting != Setting::Priority {
            return Ok(format!("{value}\n"));
        }
        let known = if number == 0 { &PRIORITIES[..] } else { &PRIORITIES[..2] };
        let words = (0..)
            .zip(known)
            .map(|(rank, word)| if rank == value { format!("[{word}]") } else { (*word).to_owned() });
        Ok(format!("{}\n", words.collect::<Vec<_>>().join(" ")))
    }

    pub(super) fn write_xe(&mut self, file: XeFile, text: &str) -> Result<(), Errno> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let value = match file.setting {
            Setting::Priority => {
                let rank = PRIORITIES.iter().position(|word| *word == text).ok_or(Errno::INVAL)?;
                rank as u64
            }
            Setting::Quantum | Setting::Timeout => u64::from(text.parse::<u32>().map_err(|_| Errno::INVAL)?),
            Setting::Quota => {
                text.parse::<u64>().map_err(|_| Errno::INVAL)?.next_multiple_of(QUOTA_STEP_BYTES)
            }
        };
        let total = match self.functions.get(&file.pf).map(|function| &function.role) {
            Some(Role::Physical { model, .. }) => model.total_vfs,
            _ => return Err(Errno::NODEV),
        };
        let numbers = match file.whose {
            Whose::One(number) => number..=number,
            Whose::All if file.setting == Setting::Quota => 1..=total,
            Whose::All => 0..=total,
        };
        for number in numbers {
            if file.setting == Setting::Quota {
                self.admit_quota(file.pf, number, value)?;
            }
            self.xe.0.insert((file.pf, number, file.setting), value);
        }
        Ok(())
    }

    fn admit_quota(&self, pf: PciAddress, number: u16, bytes: u64) -> Result<(), Errno> {
        if let Some(errno) = self.faults.xe.refusals.get(&pf).filter(|_| bytes > 0) {
            return Err(*errno);
        }
        let others =
            self.xe.0.iter().filter(|((of, other, setting), _)| {
                *of == pf && *other != number && *setting == Setting::Quota
            });
        let taken: u64 = others.map(|(_, quota)| quota).sum();
        let shared = self.xe_model(pf).map_or(0, |model| model.shared_mib << 20);
        if taken + bytes > shared { Err(Errno::NOSPC) } else { Ok(()) }
    }
}

impl FakeKernel {
    /// From now on the GPU's tiles disagree about the memory of the function with this index.
    pub fn let_tiles_disagree(&self, pf: PciAddress, index: u16) {
        self.with(|state| state.faults.xe.disagreeing.insert((pf, index + 1)));
    }

    /// From now on the firmware answers every quota of memory with an error.
    pub fn refuse_quotas(&self, pf: PciAddress, errno: i32) {
        self.with(|state| state.faults.xe.refusals.insert(pf, Errno::from_raw_os_error(errno)));
    }
}
