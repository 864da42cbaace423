//! A busy guest goes from one real libvirtd to another, by Tranche and by virsh in turns: how long it takes, for how long the guest
//! stands still, and how well that was foreseen.
//!
//! The guest is a boot sector that changes a word in each page of some memory, round and round, and says so on its serial line. What
//! the line is silent for is how long the guest stood still, whoever moves it. One round of it is a test of what is measured;
//! `scripts/bench moves` makes ten and prints them. No time is judged here.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use camino::Utf8PathBuf;
use tranche_core::journey::Sending;
use tranche_core::migration::Load;
use tranche_core::spec::Limits;
use tranche_host::vm::libvirt::{Config, Libvirt};
use tranche_host::vm::{Hypervisor as _, Travels};
use virt::domain::Domain;

use crate::contract::{Vm, apply, wait_until};
use crate::sending::{Direct, ends, send};
use crate::server::{Server, give_to_daemon};

/// How often the serial line is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// The guest's memory, and how much of it the guest changes, in MiB. A boot sector that is on its own has no more than this.
const MEMORY_MIB: u32 = 256;
const BUSY_MIB: u32 = 64;
/// How often the guest counts down between two pages. Emulated on a machine of 2024 it then changes some tens of MiB a second.
const IDLES: u32 = 20_000;

/// Puts the processor into protected mode with flat segments; then, for ever: adds one to the first word of each page from 1 MiB on,
/// puts a dot on the first serial port, and counts down.
///
/// ```text
/// again: movl $0x100000,%edi; movl $PAGES,%esi
/// 1:     incl (%edi); outb %al,%dx; movl $IDLES,%ecx
/// 2:     decl %ecx; jnz 2b
///        addl $4096,%edi; decl %esi; jnz 1b; jmp again
/// ```
const BOOT: [u8; 106] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0xe4, 0x92, 0x0c, 0x02, 0xe6, 0x92, 0x0f, 0x01, 0x16, 0x64, 0x7c, 0x0f,
    0x20, 0xc0, 0x0c, 0x01, 0x0f, 0x22, 0xc0, 0xea, 0x1d, 0x7c, 0x08, 0x00, 0x66, 0xb8, 0x10, 0x00, 0x8e,
    0xd8, 0x66, 0xba, 0xf8, 0x03, 0xb0, 0x2e, 0xbf, 0x00, 0x00, 0x10, 0x00, 0xbe, 0x44, 0x33, 0x22, 0x11,
    0xff, 0x07, 0xee, 0xb9, 0x88, 0x77, 0x66, 0x55, 0x49, 0x75, 0xfd, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00,
    0x4e, 0x75, 0xec, 0xeb, 0xe0, 0x8d, 0x76, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0xff,
    0xff, 0x00, 0x00, 0x00, 0x9a, 0xcf, 0x00, 0xff, 0xff, 0x00, 0x00, 0x00, 0x92, 0xcf, 0x00, 0x17, 0x00,
    0x4c, 0x7c, 0x00, 0x00,
];
/// Where the numbers of pages and of idle rounds stand in it.
const PAGES_AT: usize = 47;
const IDLES_AT: usize = 55;
const FLOPPY_LEN: usize = 1_474_560;

/// What one move came to, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Seen {
    total_ms: u64,
    pause_ms: u64,
}

/// Two machines, and what the guest boots from and writes to.
struct Bench {
    here: Server,
    there: Server,
    from: Libvirt,
    vm: Vm,
    floppy: Utf8PathBuf,
    serial: Utf8PathBuf,
}

impl Bench {
    fn begin() -> Option<Self> {
        let (here, there) = (Server::named("here")?, Server::named("there")?);
        // It shall be known soon how much the guest changes, and it takes a moment to begin with that.
        let config = Config { measure_after_ms: 3_000, ..here.config() };
        let (from, _) = here.hypervisor(config);
        let from = from.with_ways(Arc::new(Direct(there.uri())));
        let (floppy, serial) = (here.path("boot.img"), here.path("serial"));
        let mut image = vec![0; FLOPPY_LEN];
        image[..BOOT.len()].copy_from_slice(&BOOT);
        image[PAGES_AT..PAGES_AT + 4].copy_from_slice(&(BUSY_MIB * 256).to_le_bytes());
        image[IDLES_AT..IDLES_AT + 4].copy_from_slice(&IDLES.to_le_bytes());
        image[510..512].copy_from_slice(&[0x55, 0xaa]);
        fs::write(&floppy, image).unwrap();
        give_to_daemon(floppy.as_std_path());
        Some(Self { here, there, from, vm: Vm::new("busy", 9), floppy, serial })
    }

    /// Starts the guest, and waits until it is known how much it changes. Returns that in MiB/s.
    fn starts(&self) -> u32 {
        let _ = fs::remove_file(&self.serial);
        let text = format!(
            "<domain type='qemu'><name>{}</name><uuid>{}</uuid><memory unit='MiB'>{MEMORY_MIB}</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='fd'/></os><features><acpi/></features><devices>\
             <disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='{}'/><target dev='fda' bus='fdc'/><readonly/></disk>\
             <serial type='file'><source path='{}' append='on'/><target port='0'/></serial><memballoon model='none'/></devices></domain>",
            self.vm.name, self.vm.id, self.floppy, self.serial
        );
        let connect = self.here.connect();
        Domain::define_xml(&connect, &text).unwrap().create().unwrap();
        let rate = || self.from.travels().dirty_mib_s.get(&self.vm.name).copied();
        wait_until("the guest is at work", || fs::metadata(&self.serial).is_ok_and(|file| file.len() > 0));
        wait_until("it is known how much the guest changes", || rate().is_some());
        rate().unwrap()
    }

    /// Ends the guest, wherever it is.
    fn ends(&self) {
        for server in [&self.here, &self.there] {
            let connect = server.connect();
            if let Ok(domain) = Domain::lookup_by_uuid(&connect, self.vm.id.0) {
                let _ = domain.destroy();
                let _ = domain.undefine();
            }
        }
        wait_until("nothing is known of it", || self.from.travels().dirty_mib_s.is_empty());
    }

    /// Watches the guest's serial line while something is done.
    fn watched<T>(&self, work: impl FnOnce() -> T) -> (Seen, T) {
        let over = AtomicBool::new(false);
        let began = Instant::now();
        let (total, pause, done) = thread::scope(|scope| {
            let watching = scope.spawn(|| longest_silence(self.serial.as_std_path(), &over));
            let done = work();
            let total = began.elapsed();
            // The guest has long gone on; what it says now ends the last silence.
            thread::sleep(Duration::from_millis(200));
            over.store(true, Ordering::SeqCst);
            (total, watching.join().unwrap(), done)
        });
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
        (Seen { total_ms: ms(total), pause_ms: ms(pause) }, done)
    }

    /// Returns for how long Tranche says that the guest stood still, in milliseconds.
    fn goes_by_tranche(&self, number: u64) -> u64 {
        apply(&self.from, &[send(&self.vm, number, "there")]);
        let outcome = ends(&self.from, &self.vm);
        let Sending::Done { pause_ms, .. } = outcome else { panic!("{outcome:?}") };
        pause_ms
    }

    /// The same as Tranche asks libvirt for, but for the wait before the guest goes on there.
    fn goes_by_virsh(&self) {
        let flags = ["--live", "--p2p", "--tunnelled", "--persistent", "--abort-on-error", "--auto-converge"];
        let (here, there) = (self.here.uri(), self.there.uri());
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", &here, "migrate", self.vm.name.as_str(), &there]).args(flags);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// The longest time for which a file did not grow, until it is over.
fn longest_silence(file: &Path, over: &AtomicBool) -> Duration {
    let len = || fs::metadata(file).map_or(0, |file| file.len());
    let (mut last, mut at, mut longest) = (len(), Instant::now(), Duration::ZERO);
    while !over.load(Ordering::SeqCst) {
        let now = len();
        if now != last {
            longest = longest.max(at.elapsed());
            (last, at) = (now, Instant::now());
        }
        thread::sleep(LOOK);
    }
    longest.max(at.elapsed())
}

#[test]
fn a_guest_that_changes_memory_is_measured_and_goes_as_it_does_by_virsh() {
    let rounds = std::env::var("TRANCHE_MOVES").ok().map_or(1, |rounds| rounds.parse().unwrap());
    let Some(bench) = Bench::begin() else { return };
    let mut seen: Vec<(Seen, Seen)> = Vec::new();
    for round in 1..=rounds {
        bench.starts();
        let (by_virsh, ()) = bench.watched(|| bench.goes_by_virsh());
        bench.ends();
        let dirty_mib_s = bench.starts();
        let Travels { links_mib_s, end_ms, .. } = bench.from.travels();
        let link_mib_s = links_mib_s.get(&"there".parse().unwrap()).copied();
        let load = Load {
            memory_mib: MEMORY_MIB.into(),
            devices_mib: 0,
            dirty_mib_s: Some(dirty_mib_s),
            link_mib_s,
            end_ms,
        };
        let foreseen = load.forecast(&Limits::default());
        let (by_tranche, said_ms) = bench.watched(|| bench.goes_by_tranche(round));
        bench.ends();
        assert!(by_virsh.pause_ms > 0 && by_tranche.pause_ms > 0, "{by_virsh:?} {by_tranche:?}");
        println!(
            "move {round}: virsh {} ms, pause {} ms; tranche {} ms, pause {} ms (it says {said_ms}); foreseen {} ms, pause {} ms \
             (guest {dirty_mib_s} MiB/s, link {} MiB/s)",
            by_virsh.total_ms,
            by_virsh.pause_ms,
            by_tranche.total_ms,
            by_tranche.pause_ms,
            foreseen.total_ms,
            foreseen.pause_ms,
            foreseen.link_mib_s
        );
        seen.push((by_virsh, by_tranche));
    }
    let median = |of: fn(&(Seen, Seen)) -> u64| {
        let mut all: Vec<u64> = seen.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    println!(
        "median: virsh {} ms, pause {} ms; tranche {} ms, pause {} ms",
        median(|(virsh, _)| virsh.total_ms),
        median(|(virsh, _)| virsh.pause_ms),
        median(|(_, tranche)| tranche.total_ms),
        median(|(_, tranche)| tranche.pause_ms)
    );
}
