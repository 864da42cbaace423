//! Every kind of GPU through every stage of its life, by the whole daemon over the fake kernel mounted as a file tree.
//!
//! The page `docs/backends.md` is what came of it: this test writes it (`UPDATE_EXPECT=1`) and fails when it differs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use camino::{Utf8Path, Utf8PathBuf};
use expect_test::expect_file;
use tranche_core::change::Change;
use tranche_core::check;
use tranche_core::finding::{Code, Severity};
use tranche_core::inventory::{Gpu, HostInventory};
use tranche_core::name::{GpuAddress, GpuKey, HostName, Timestamp, VmName};
use tranche_core::spec::{GpuMode, Request};
use tranche_host::calls::Limits;
use tranche_host::catalogue::Catalogue;
use tranche_host::fake::{FakeKernel, Machine, Mounted};
use tranche_host::linux::LinuxHost;
use tranche_host::tree::DirTree;
use tranche_host::vm::fake::FakeHypervisor;
use tranche_store::{MemoryStore, Repository};
use tranched::engine::{Engine, Submitted};

use crate::fake_machine::new_vm;

/// The catalogue of the lab's stand-ins, which no other place has.
const LAB_CATALOGUE: &str = include_str!("../../../../lab/catalogue.d/lab.toml");

/// A kind of GPU.
struct Kind {
    /// What the page calls it.
    name: &'static str,
    /// The machine that it is in, and where.
    machine: Machine,
    gpu: &'static str,
    /// How it is used, and how it is used for a while before; the same where there is but one way.
    modes: (GpuMode, GpuMode),
    /// Whether it can be given to a VM whole.
    whole: bool,
}

const WHOLE: GpuMode = GpuMode::Passthrough { allow_console: false, pool: None };

fn split(count: u16) -> GpuMode {
    GpuMode::Partitioned { count, series: None }
}

fn mixed(sizes: &[&str]) -> GpuMode {
    GpuMode::Mixed { sizes: sizes.iter().map(|size| (*size).to_owned()).collect() }
}

/// A GPU under i915 with the patches that make it switch virtual functions.
fn patched_i915() -> Machine {
    let mut machine = Machine::arc();
    "i915".clone_into(&mut machine.drivers[0].name);
    machine.xe.clear();
    machine.files.insert("sys/module/i915/parameters/max_vfs".to_owned(), "7".to_owned());
    machine
}

fn kinds() -> Vec<Kind> {
    let lab = Machine::lab;
    vec![
        Kind {
            name: "plain virtual functions",
            machine: Machine::gpus(1, 8),
            gpu: "0000:10:00.0",
            modes: (split(4), split(2)),
            whole: true,
        },
        Kind {
            name: "NVIDIA vGPU, types on functions (kernel 6.8 and later)",
            machine: Machine::nvidia(&["NVIDIA A2"]),
            gpu: "0000:41:00.0",
            modes: (split(4), split(2)),
            whole: true,
        },
        Kind {
            name: "NVIDIA vGPU, several sizes on one GPU",
            machine: Machine::nvidia(&["NVIDIA A2"]),
            gpu: "0000:41:00.0",
            modes: (mixed(&["8Q", "4Q", "4Q"]), mixed(&["8Q", "8Q"])),
            whole: true,
        },
        Kind {
            name: "NVIDIA vGPU, mediated devices (older kernels)",
            machine: Machine::nvidia(&["NVIDIA L40S"]).with_mediated_vgpus(),
            gpu: "0000:41:00.0",
            modes: (split(3), split(12)),
            whole: true,
        },
        Kind {
            name: "Intel xe with quotas and a variant driver",
            machine: Machine::arc(),
            gpu: "0000:03:00.0",
            modes: (split(4), split(2)),
            whole: true,
        },
        Kind {
            name: "Intel i915 with patches for SR-IOV",
            machine: patched_i915(),
            gpu: "0000:03:00.0",
            modes: (split(4), split(2)),
            whole: true,
        },
        Kind {
            name: "AMD GIM, told 8 when it was loaded",
            machine: Machine::instinct(8),
            gpu: "0000:05:00.0",
            modes: (split(8), split(8)),
            whole: false,
        },
        Kind {
            name: "mediated devices",
            machine: lab(),
            gpu: "mbochs",
            modes: (split(4), split(16)),
            whole: false,
        },
        Kind {
            name: "whole GPUs (passthrough)",
            machine: Machine::gpus(1, 8),
            gpu: "0000:10:00.0",
            modes: (WHOLE, WHOLE),
            whole: true,
        },
    ]
}

/// The stages, in the order of a life.
const STAGES: [(&str, Stage); 8] = [
    ("discover", discover),
    ("set count", set_count),
    ("assign and boot a guest", boot),
    ("refuse while in use", refuse),
    ("reboot", reboot),
    ("release", release),
    ("mode change", change_mode),
    ("sick GPU", sicken),
];

type Stage = fn(&mut Life) -> Outcome;
/// What was seen, in a few words; or what went wrong.
type Outcome = Result<String, String>;

/// A daemon with one GPU of a kind.
struct Life {
    kind: Kind,
    kernel: Arc<FakeKernel>,
    hypervisor: Arc<FakeHypervisor>,
    engine: Engine,
    now: Timestamp,
    _mounted: Mounted,
    _directory: tempfile::TempDir,
}

impl Life {
    fn begin(kind: Kind) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let root = Utf8PathBuf::from_path_buf(directory.path().to_owned()).expect("a path of UTF-8");
        let kernel = Arc::new(FakeKernel::boot(kind.machine.clone()));
        let mounted = Mounted::new(kernel.clone(), &root)
            .expect("the fake kernel is mounted by FUSE, which this test needs (/dev/fuse and fusermount3)");
        let tree = Arc::new(DirTree::open(&root).expect("the mounted tree"));
        let hypervisor = Arc::new(FakeHypervisor::new(kernel.clone()));
        let mut catalogue = Catalogue::builtin();
        catalogue.extend(Utf8Path::new("lab.toml"), LAB_CATALOGUE).expect("the lab's catalogue");
        let vms = Box::new(hypervisor.clone());
        let linux = LinuxHost::new(host(), tree, Limits::default(), Arc::new(catalogue), vms);
        let repository = Repository::new(Arc::new(MemoryStore::default()));
        let engine = Engine::open(host(), Arc::new(linux), repository, 4).expect("an empty store");
        Self { kind, kernel, hypervisor, engine, now: Timestamp(1), _mounted: mounted, _directory: directory }
    }

    /// Passes until nothing changes any more, each a minute after the last.
    fn settle(&mut self) {
        for _ in 0..40 {
            let before = self.engine.view().revision;
            self.now.0 += 60_000;
            let busy = self.engine.pass(self.now).is_busy();
            let view = self.engine.view();
            assert_eq!(check::check(&view.plan), []);
            assert_eq!(check::check_world(&view.inventory, &view.plan), []);
            if !busy && view.revision == before {
                return;
            }
        }
        panic!("{} does not settle: {:#?}", self.kind.name, self.engine.view().findings);
    }

    fn order(&mut self, change: &Change) -> Result<(), String> {
        match self.engine.submit(change, false, self.now) {
            Ok(Submitted::Accepted { .. }) => {
                self.settle();
                Ok(())
            }
            Ok(Submitted::Preview { .. }) => Err("it was only a preview".to_owned()),
            Err(rejected) => Err(format!("{:?}", rejected.into_findings())),
        }
    }

    fn mode(&mut self, mode: GpuMode) -> Result<(), String> {
        let gpu = self.key();
        self.order(&Change::SetGpuMode { gpu, mode })
    }

    /// How the GPU is used in most of its life.
    fn usual(&self) -> GpuMode {
        self.kind.modes.0.clone()
    }

    fn start(&mut self, name: &str) -> Result<(), String> {
        if !self.engine.view().spec.vms.contains_key(&vm(name)) {
            let request = match self.usual() {
                GpuMode::Passthrough { .. } => Request::Whole { gpus: 1, pool: None },
                _ => Request::ANY_PARTITION,
            };
            self.order(&Change::CreateVm { name: vm(name), vm: new_vm(request) })?;
        }
        self.order(&Change::StartVm { name: vm(name) })
    }

    fn stop(&mut self, name: &str) -> Result<(), String> {
        self.order(&Change::StopVm { name: vm(name), force: true })
    }

    fn key(&self) -> GpuKey {
        GpuKey { host: host(), address: self.kind.gpu.parse::<GpuAddress>().expect("an address") }
    }

    fn seen(&self) -> HostInventory {
        HostInventory::clone(&self.engine.view().inventory[&host()])
    }

    fn gpu(&self) -> Result<Gpu, String> {
        self.seen().gpus.get(&self.key().address).cloned().ok_or_else(|| "it is not there".to_owned())
    }

    /// The devices of a VM that runs.
    fn devices(&self, name: &str) -> Result<Vec<String>, String> {
        let seen = self.seen();
        let domain = seen.domain(&vm(name)).filter(|domain| domain.state.is_active());
        let domain =
            domain.ok_or_else(|| format!("{name} does not run: {:?}", self.engine.view().findings))?;
        Ok(domain.live_devices.iter().map(|device| format!("{:?}", device.source)).collect())
    }

    /// Exactly what a mode says is there, and each part of it could be handed to a VM.
    fn is_so(&self, mode: &GpuMode) -> Outcome {
        let gpu = self.gpu()?;
        let has: Vec<&str> = gpu.partitions.iter().filter_map(|one| one.profile.as_deref()).collect();
        let fits = match mode {
            GpuMode::Partitioned { count, .. } => {
                let profiles: BTreeSet<_> = gpu.partitions.iter().map(|one| &one.profile).collect();
                gpu.partitions.len() == usize::from(*count) && profiles.len() == 1
            }
            GpuMode::Mixed { sizes } => has.iter().collect::<Vec<_>>() == sizes.iter().collect::<Vec<_>>(),
            GpuMode::Passthrough { .. } => gpu.driver.as_deref() == Some("vfio-pci"),
            GpuMode::Host => gpu.partitions.is_empty(),
        };
        expect(fits, || format!("{gpu:#?}"))?;
        let findings = &self.engine.view().findings;
        let errors = findings
            .iter()
            .filter(|f| f.severity != Severity::Info && f.subject.gpu() == Some(&self.key()))
            .count();
        expect(errors == 0, || format!("{findings:?}"))?;
        Ok(in_short(mode))
    }
}

fn in_short(mode: &GpuMode) -> String {
    match mode {
        GpuMode::Partitioned { count, .. } => count.to_string(),
        GpuMode::Mixed { sizes } => sizes.join("+"),
        GpuMode::Passthrough { .. } => "the whole GPU".to_owned(),
        GpuMode::Host => "none".to_owned(),
    }
}

fn host() -> HostName {
    "node1".parse().expect("a name")
}

fn vm(name: &str) -> VmName {
    name.parse().expect("a name")
}

fn expect(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise()) }
}

fn discover(life: &mut Life) -> Outcome {
    life.settle();
    let gpu = life.gpu()?;
    match life.usual() {
        GpuMode::Mixed { .. } => {
            let sizes: Vec<&str> = gpu.mixed.iter().map(|size| size.profile.as_str()).collect();
            expect(!sizes.is_empty(), || "no sizes".to_owned())?;
            Ok(format!("sizes {}", sizes.join(", ")))
        }
        GpuMode::Partitioned { count, .. } => {
            let counts = gpu.valid_counts();
            expect(counts.contains(&count), || format!("it offers {counts:?}"))?;
            let texts: Vec<String> = counts.iter().map(ToString::to_string).collect();
            Ok(format!("counts {}", texts.join(", ")))
        }
        _ => Ok(format!("reset by {}", gpu.reset_methods.join(", "))),
    }
}

fn set_count(life: &mut Life) -> Outcome {
    let (first, second) = life.kind.modes.clone();
    life.mode(second.clone())?;
    let before = life.is_so(&second)?;
    life.mode(first.clone())?;
    let then = life.is_so(&first)?;
    Ok(if first == second { format!("{then}, and no other") } else { format!("{before}, then {then}") })
}

fn boot(life: &mut Life) -> Outcome {
    life.start("a")?;
    life.start("b")?;
    let one = life.devices("a")?;
    if life.usual() == WHOLE {
        expect(one.len() == 1 && life.devices("b").is_err(), || format!("{one:?}"))?;
        life.stop("b")?;
        return Ok("the GPU, and nothing for a second one".to_owned());
    }
    let two = life.devices("b")?;
    expect(one.len() == 1 && two.len() == 1 && one != two, || format!("{one:?}, {two:?}"))?;
    let open = life.kernel.opened().len();
    expect(open == 2, || format!("{open} devices are open"))?;
    Ok("one device each, not the same".to_owned())
}

fn refuse(life: &mut Life) -> Outcome {
    let before = life.gpu()?.partitions;
    let other = if life.usual() == WHOLE { split(2) } else { WHOLE };
    for mode in [GpuMode::Host, other] {
        let change = Change::SetGpuMode { gpu: life.key(), mode };
        let refusal = life.engine.submit(&change, false, life.now).err().ok_or("it was accepted")?;
        let codes: Vec<Code> = refusal.into_findings().into_iter().map(|finding| finding.code).collect();
        expect(codes.contains(&Code::PartitionsInUse), || format!("{codes:?}"))?;
    }
    life.settle();
    expect(life.gpu()?.partitions == before, || "something changed".to_owned())?;
    Ok("`partitions_in_use`, nothing touched".to_owned())
}

fn reboot(life: &mut Life) -> Outcome {
    let before = life.engine.view().plan.bookings.clone();
    life.hypervisor.lose_power();
    life.kernel.reboot();
    life.settle();
    life.is_so(&life.usual())?;
    life.devices("a")?;
    if life.usual() == WHOLE {
        return Ok("restored, the same GPU".to_owned());
    }
    life.devices("b")?;
    expect(life.engine.view().plan.bookings == before, || "other bookings".to_owned())?;
    Ok("restored, the same partitions".to_owned())
}

fn release(life: &mut Life) -> Outcome {
    life.stop("a")?;
    life.stop("b")?;
    expect(life.engine.view().plan.bookings.is_empty(), || "a booking is left".to_owned())?;
    let own = life.engine.view().plan.gpus[&life.key()].host_drivers.clone();
    life.mode(GpuMode::Host)?;
    expect(!life.engine.view().plan.gpus.contains_key(&life.key()), || "it is still in use".to_owned())?;
    let (gpu, address) = (life.gpu()?, life.key().address);
    let back = address.pci().is_none_or(|address| own.get(&address) == gpu.driver.as_ref());
    expect(back, || format!("its driver is {:?}", gpu.driver))?;
    Ok(if life.usual() == WHOLE {
        "back on its driver".to_owned()
    } else {
        format!("{} partitions left", gpu.partitions.len())
    })
}

fn change_mode(life: &mut Life) -> Outcome {
    let usual = life.usual();
    if !life.kind.whole {
        let change = Change::SetGpuMode { gpu: life.key(), mode: WHOLE };
        let refusal = life.engine.submit(&change, false, life.now).err().ok_or("it was accepted")?;
        let codes: Vec<Code> = refusal.into_findings().into_iter().map(|finding| finding.code).collect();
        expect(codes.contains(&Code::ModeConflict), || format!("{codes:?}"))?;
        life.mode(usual.clone())?;
        return life.is_so(&usual).map(|_| "passthrough refused: `mode_conflict`".to_owned());
    }
    if usual == WHOLE {
        life.mode(split(2))?;
        life.is_so(&split(2))?;
        life.mode(WHOLE)?;
        return life.is_so(&WHOLE).map(|_| "split, whole again".to_owned());
    }
    let driver = life.gpu()?.driver;
    life.mode(WHOLE)?;
    life.is_so(&WHOLE)?;
    life.mode(GpuMode::Host)?;
    expect(life.gpu()?.driver == driver, || "its driver is not back".to_owned())?;
    life.mode(usual.clone())?;
    life.is_so(&usual)?;
    Ok("whole, back, split again".to_owned())
}

fn sicken(life: &mut Life) -> Outcome {
    let GpuAddress::Pci(address) = life.key().address else {
        return Ok("no device that could fail".to_owned());
    };
    life.start("a")?;
    life.kernel.drop_off_the_bus(address);
    life.settle();
    life.start("b")?;
    expect(life.devices("b").is_err(), || "a new VM was started on it".to_owned())?;
    let findings = &life.engine.view().findings;
    expect(findings.iter().any(|f| f.code == Code::GpuSick), || format!("{findings:?}"))?;
    Ok("`gpu_sick`, no new VM".to_owned())
}

#[test]
fn every_backend_goes_through_every_stage_and_the_page_says_what_was_seen() {
    let mut page = String::from(INTRODUCTION);
    let names: Vec<&str> = STAGES.iter().map(|(name, _)| *name).collect();
    let _ = writeln!(page, "| | {} |", names.join(" | "));
    let _ = writeln!(page, "| --- |{}", " --- |".repeat(STAGES.len()));
    let mut failures = Vec::new();
    for kind in kinds() {
        let mut life = Life::begin(kind);
        let mut cells = Vec::new();
        for (stage, run) in STAGES {
            match run(&mut life) {
                Ok(seen) => cells.push(seen),
                Err(problem) => {
                    failures.push(format!("{}, {stage}: {problem}", life.kind.name));
                    break;
                }
            }
        }
        let _ = writeln!(page, "| **{}** | {} |", life.kind.name, cells.join(" | "));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    expect_file!["../../../../docs/backends.md"].assert_eq(&page);
}

const INTRODUCTION: &str = "\
# What was seen of each kind of GPU

This page is written by a test (`cargo test -p tranched --test it matrix`): the daemon takes a GPU of each kind through its
life, over a fake kernel that is mounted as a file tree and answers as the real one does, errno by errno. A VM there is a
process that opens the device through VFIO. What the fake kernel answers is compared with a real kernel in the virtual
host (`scripts/test host`) for plain virtual functions and mediated devices.

";
