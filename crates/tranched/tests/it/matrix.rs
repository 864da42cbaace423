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
    /// How it is split, and how it is split anew; the same where only one count is to be had.
    counts: (u16, u16),
    /// Whether it can be given to a VM whole.
    whole: bool,
}

fn kinds() -> Vec<Kind> {
    let lab = Machine::lab;
    vec![
        Kind {
            name: "plain virtual functions",
            machine: Machine::gpus(1, 8),
            gpu: "0000:10:00.0",
            counts: (4, 2),
            whole: true,
        },
        Kind {
            name: "NVIDIA vGPU, types on functions (kernel 6.8 and later)",
            machine: Machine::nvidia(&["NVIDIA A2"]),
            gpu: "0000:41:00.0",
            counts: (4, 2),
            whole: true,
        },
        Kind {
            name: "NVIDIA vGPU, mediated devices (older kernels)",
            machine: Machine::nvidia(&["NVIDIA L40S"]).with_mediated_vgpus(),
            gpu: "0000:41:00.0",
            counts: (3, 12),
            whole: true,
        },
        Kind {
            name: "Intel xe with quotas and a variant driver",
            machine: Machine::arc(),
            gpu: "0000:03:00.0",
            counts: (4, 2),
            whole: true,
        },
        Kind {
            name: "AMD GIM, told 8 when it was loaded",
            machine: Machine::instinct(8),
            gpu: "0000:05:00.0",
            counts: (8, 8),
            whole: false,
        },
        Kind { name: "mediated devices", machine: lab(), gpu: "mbochs", counts: (4, 16), whole: false },
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
            assert_eq!(check::check_world(&view.inventory), []);
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

    fn split(&mut self, count: u16) -> Result<(), String> {
        self.mode(GpuMode::Partitioned { count, series: None })
    }

    fn start(&mut self, name: &str) -> Result<(), String> {
        if !self.engine.view().spec.vms.contains_key(&vm(name)) {
            self.order(&Change::CreateVm { name: vm(name), vm: new_vm(Request::ANY_PARTITION) })?;
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
        self.engine.view().inventory[&host()].clone()
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

    /// Exactly so many partitions are there, of one size, and each could be handed to a VM.
    fn is_split(&self, count: u16) -> Outcome {
        let gpu = self.gpu()?;
        let profiles: BTreeSet<_> = gpu.partitions.iter().map(|partition| &partition.profile).collect();
        expect(gpu.partitions.len() == usize::from(count), || format!("{:#?}", gpu.partitions))?;
        expect(profiles.len() == 1, || format!("several sizes: {profiles:?}"))?;
        let findings = &self.engine.view().findings;
        let errors = findings
            .iter()
            .filter(|f| f.severity != Severity::Info && f.subject.gpu() == Some(&self.key()))
            .count();
        expect(errors == 0, || format!("{findings:?}"))?;
        Ok(format!("{count}"))
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
    let counts = life.gpu()?.valid_counts();
    expect(counts.contains(&life.kind.counts.0), || format!("it offers {counts:?}"))?;
    let texts: Vec<String> = counts.iter().map(ToString::to_string).collect();
    Ok(format!("counts {}", texts.join(", ")))
}

fn set_count(life: &mut Life) -> Outcome {
    let (first, second) = life.kind.counts;
    life.split(second)?;
    life.is_split(second)?;
    life.split(first)?;
    life.is_split(first)?;
    Ok(if first == second { format!("{first}, and no other") } else { format!("{second}, then {first}") })
}

fn boot(life: &mut Life) -> Outcome {
    life.start("a")?;
    life.start("b")?;
    let (one, two) = (life.devices("a")?, life.devices("b")?);
    expect(one.len() == 1 && two.len() == 1 && one != two, || format!("{one:?}, {two:?}"))?;
    let open = life.kernel.opened().len();
    expect(open == 2, || format!("{open} devices are open"))?;
    Ok("one device each, not the same".to_owned())
}

fn refuse(life: &mut Life) -> Outcome {
    let before = life.gpu()?.partitions;
    for mode in [GpuMode::Host, GpuMode::Passthrough { allow_console: true, pool: None }] {
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
    life.is_split(life.kind.counts.0)?;
    life.devices("a")?;
    life.devices("b")?;
    expect(life.engine.view().plan.bookings == before, || "other bookings".to_owned())?;
    Ok("restored, the same partitions".to_owned())
}

fn release(life: &mut Life) -> Outcome {
    life.stop("a")?;
    life.stop("b")?;
    expect(life.engine.view().plan.bookings.is_empty(), || "a booking is left".to_owned())?;
    let before = life.gpu()?.driver;
    life.mode(GpuMode::Host)?;
    expect(!life.engine.view().plan.gpus.contains_key(&life.key()), || "it is still in use".to_owned())?;
    let gpu = life.gpu()?;
    expect(gpu.driver == before, || format!("its driver is {:?}", gpu.driver))?;
    Ok(format!("{} partitions left", gpu.partitions.len()))
}

fn change_mode(life: &mut Life) -> Outcome {
    let mode = GpuMode::Passthrough { allow_console: false, pool: None };
    if !life.kind.whole {
        let change = Change::SetGpuMode { gpu: life.key(), mode };
        let refusal = life.engine.submit(&change, false, life.now).err().ok_or("it was accepted")?;
        let codes: Vec<Code> = refusal.into_findings().into_iter().map(|finding| finding.code).collect();
        expect(codes.contains(&Code::ModeConflict), || format!("{codes:?}"))?;
        life.split(life.kind.counts.0)?;
        return life.is_split(life.kind.counts.0).map(|_| "passthrough refused: `mode_conflict`".to_owned());
    }
    let driver = life.gpu()?.driver;
    life.mode(mode)?;
    expect(life.gpu()?.driver.as_deref() == Some("vfio-pci"), || "it was not taken".to_owned())?;
    life.mode(GpuMode::Host)?;
    expect(life.gpu()?.driver == driver, || "its driver is not back".to_owned())?;
    life.split(life.kind.counts.0)?;
    life.is_split(life.kind.counts.0)?;
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
