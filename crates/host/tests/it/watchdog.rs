//! The watchdog: what arms it, what feeds it, and what stops it.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use camino::Utf8Path;
use proptest::prelude::*;
use tranche_core::finding::{Code, Severity};
use tranche_core::inventory::Holder;
use tranche_core::name::HostName;
use tranche_host::tree::{DirTree, Tree};
use tranche_host::watchdog::fake::{FakeWatchdog, Model};
use tranche_host::watchdog::{Feeder, Refusal, Watchdog, all, find};

use crate::machine::{inventory, lab};

fn host() -> HostName {
    "node1".parse().unwrap()
}

fn armed(device: &FakeWatchdog, timeout_ms: u64) -> Feeder {
    device.watchdog(host()).arm(timeout_ms).unwrap_or_else(|refusal| panic!("{}", refusal.finding))
}

fn not_armed(device: &FakeWatchdog, timeout_ms: u64) -> Refusal {
    match device.watchdog(host()).arm(timeout_ms) {
        Ok(feeder) => panic!("armed: {feeder:?}"),
        Err(refusal) => {
            let finding = &refusal.finding;
            assert!(finding.message.ends_with('.') && finding.hint.ends_with('.'), "{finding}");
            assert!(
                finding.message.contains("node1") && finding.message.contains("/dev/watchdog0"),
                "{finding}"
            );
            *refusal
        }
    }
}

#[test]
fn a_host_that_is_fed_lives_and_one_that_is_not_is_reset_at_its_deadline() {
    let device = FakeWatchdog::new(Model::default());
    assert!(!device.advance_to(100_000), "what is not armed resets nobody");
    let mut feeder = armed(&device, 3_000);
    assert_eq!((feeder.timeout_ms(), device.deadline_ms()), (3_000, Some(103_000)));
    for now_ms in (101_000..120_000).step_by(1_000) {
        assert!(!device.advance_to(now_ms));
        feeder.feed().unwrap();
    }
    assert!(!device.advance_to(121_999));
    assert!(device.advance_to(122_000));
    assert!(!device.advance_to(999_000), "it fires once");
    assert!(feeder.feed().is_err(), "the device of the boot before is gone");
    drop(feeder);
    assert_eq!(device.deadline_ms(), None);
}

#[test]
fn what_is_disarmed_resets_nobody_and_can_be_armed_again() {
    let device = FakeWatchdog::new(Model::default());
    for _ in 0..2 {
        armed(&device, 5_000).disarm().unwrap_or_else(|refusal| panic!("{}", refusal.finding));
        assert_eq!(device.deadline_ms(), None);
    }
}

#[test]
fn a_daemon_that_dies_does_not_save_its_host_and_its_death_feeds_once_more() {
    let device = FakeWatchdog::new(Model::default());
    let feeder = armed(&device, 5_000);
    device.advance_to(4_000);
    drop(feeder);
    assert_eq!(device.deadline_ms(), Some(9_000), "closing is a feed, as the kernel has it");
    assert!(device.advance_to(9_000));
}

#[test]
fn a_device_that_is_kept_open_over_the_daemons_death_is_not_fed_by_it() {
    let device = FakeWatchdog::new(Model::default());
    let kept = armed(&device, 5_000).into_open();
    device.advance_to(4_000);
    let mut resumed = device.watchdog(host()).resume(kept).unwrap();
    assert_eq!((device.deadline_ms(), resumed.timeout_ms()), (Some(5_000), 5_000));
    resumed.feed().unwrap();
    assert_eq!(device.deadline_ms(), Some(9_000));
}

#[test]
fn a_descriptor_of_something_else_is_not_taken_for_a_watchdog() {
    let file = fs::File::open("/dev/null").unwrap();
    let watchdog = FakeWatchdog::new(Model::default()).watchdog(host());
    let finding = watchdog.resume(OwnedFd::from(file).into()).unwrap_err();
    assert_eq!(finding.code, Code::KernelRefused);
    assert!(finding.message.contains("ENOTTY") || finding.message.contains("Inappropriate"), "{finding}");
}

#[test]
fn a_driver_that_rounds_up_is_refused_and_does_not_run() {
    let device = FakeWatchdog::new(Model { step_s: 4, ..Model::default() });
    let refusal = not_armed(&device, 3_000);
    assert_eq!(refusal.finding.code, Code::WatchdogUnfit);
    assert!(refusal.finding.message.contains("4 s"), "{}", refusal.finding);
    assert!(refusal.running.is_none());
    assert_eq!(device.deadline_ms(), None);
    assert_eq!(armed(&device, 8_999).timeout_ms(), 8_000);
}

#[test]
fn a_device_that_is_too_slow_is_not_even_opened() {
    let slow = Model { timeout_s: (10, 600), nowayout: true, ..Model::default() };
    let device = FakeWatchdog::new(slow);
    assert_eq!(not_armed(&device, 3_000).finding.code, Code::WatchdogUnfit);
    assert_eq!(device.deadline_ms(), None);
    assert_eq!(not_armed(&FakeWatchdog::new(Model::default()), 999).finding.code, Code::WatchdogUnfit);
}

#[test]
fn a_shorter_time_than_was_asked_for_is_taken_where_the_device_has_no_longer_one() {
    let device = FakeWatchdog::new(Model { timeout_s: (1, 6), ..Model::default() });
    assert_eq!(armed(&device, 60_000).timeout_ms(), 6_000);
}

#[test]
fn what_cannot_be_stopped_goes_on_being_fed() {
    let device = FakeWatchdog::new(Model { nowayout: true, ..Model::default() });
    let refusal = armed(&device, 5_000).disarm().unwrap_err();
    assert!(refusal.finding.message.contains("nowayout"), "{}", refusal.finding);
    let mut feeder = refusal.running.expect("it runs");
    device.advance_to(4_000);
    feeder.feed().unwrap();
    assert_eq!(device.deadline_ms(), Some(9_000));

    let surprising = Model { nowayout: true, step_s: 7, tells_limits: false, ..Model::default() };
    let device = FakeWatchdog::new(surprising);
    let refusal = not_armed(&device, 3_000);
    assert!(refusal.running.is_some(), "it was opened, so it runs, and somebody has to feed it");
}

#[test]
fn a_device_that_stops_when_its_daemon_dies_is_refused() {
    let device = FakeWatchdog::new(Model { needs_magic: false, ..Model::default() });
    let refusal = not_armed(&device, 5_000);
    assert_eq!(refusal.finding.code, Code::WatchdogUnfit);
    assert!(refusal.finding.hint.contains("nowayout=1"), "{}", refusal.finding);
    let device = FakeWatchdog::new(Model { needs_magic: false, nowayout: true, ..Model::default() });
    armed(&device, 5_000);
}

#[test]
fn whoever_has_the_device_is_named_with_what_to_do_about_it() {
    for (pid, command, hint) in [
        (1, "systemd", "RuntimeWatchdogSec=off"),
        (77, "sbd", "Pacemaker"),
        (78, "wd_keepalive", "systemctl disable"),
        (79, "thing", "Stop that program"),
    ] {
        let device = FakeWatchdog::new(Model::default());
        device.use_by(Some(Holder { pid, command: command.to_owned() }));
        let refusal = not_armed(&device, 5_000);
        assert_eq!(refusal.finding.code, Code::WatchdogBusy);
        assert!(refusal.finding.message.contains(command), "{}", refusal.finding);
        assert!(refusal.finding.hint.contains(hint), "{}", refusal.finding);
        device.use_by(None);
        armed(&device, 5_000);
    }
}

#[test]
fn a_driver_that_fails_is_reported_and_does_not_stop_the_clock() {
    let device = FakeWatchdog::new(Model::default());
    let mut feeder = armed(&device, 5_000);
    device.set_broken(true);
    assert!(feeder.feed().is_err());
    let refusal = feeder.disarm().unwrap_err();
    assert!(refusal.running.is_some());
    assert!(device.advance_to(5_000));
}

#[test]
fn its_time_can_be_changed_and_stays_what_it_was_when_the_new_one_is_not_taken() {
    let device = FakeWatchdog::new(Model { step_s: 3, ..Model::default() });
    let mut feeder = armed(&device, 6_000);
    assert_eq!(feeder.set_timeout(5_000).unwrap_err().code, Code::WatchdogUnfit);
    assert_eq!((feeder.timeout_ms(), device.deadline_ms()), (6_000, Some(6_000)));
    feeder.set_timeout(9_000).unwrap();
    assert_eq!((feeder.timeout_ms(), device.deadline_ms()), (9_000, Some(9_000)));
}

#[test]
fn softdog_is_said_to_be_what_it_is_even_where_sysfs_does_not_tell() {
    let device = FakeWatchdog::new(Model { identity: "Software Watchdog".to_owned(), ..Model::default() });
    let [note] = &armed(&device, 5_000).notes()[..] else { panic!("one note") };
    assert_eq!((note.code, note.severity), (Code::WatchdogSoftware, Severity::Warning));
    assert_eq!(armed(&FakeWatchdog::new(Model::default()), 5_000).notes(), []);
}

#[test]
fn a_fake_host_that_is_not_fed_boots_anew_without_its_vms() {
    let fake = lab();
    let boot = inventory(&fake).boot_id;
    let mut feeder = armed(&fake.watchdog, 3_000);
    fake.hypervisor.define_by_hand("<domain><name>desk</name><uuid>9c0e3f50-5f5e-4b0e-8b6c-0d8a3f3b7a11</uuid><vcpu>1</vcpu><memory>1</memory><devices/></domain>").unwrap();
    fake.hypervisor.start_by_hand(&"desk".parse().unwrap()).unwrap();
    assert!(!fake.pass_time(2_999));
    feeder.feed().unwrap();
    assert!(!fake.pass_time(5_998));
    assert_eq!(inventory(&fake).boot_id, boot);
    assert!(inventory(&fake).domains().unwrap()["desk"].state.is_active());
    assert!(fake.pass_time(5_999));
    assert_ne!(inventory(&fake).boot_id, boot);
    assert!(!inventory(&fake).domains().unwrap()["desk"].state.is_active());
}

/// A machine with these watchdogs in its sysfs: number, and each attribute with its value.
fn machine(watchdogs: &[(u32, &[(&str, &str)])]) -> (tempfile::TempDir, Arc<dyn Tree>) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("sys/class")).unwrap();
    for (number, attributes) in watchdogs {
        let class = dir.path().join(format!("sys/class/watchdog/watchdog{number}"));
        fs::create_dir_all(&class).unwrap();
        for (name, value) in *attributes {
            fs::write(class.join(name), format!("{value}\n")).unwrap();
        }
    }
    let tree = DirTree::open(Utf8Path::from_path(dir.path()).unwrap()).unwrap();
    (dir, Arc::new(tree))
}

const SOFTDOG: &[(&str, &str)] =
    &[("identity", "Software Watchdog"), ("nowayout", "0"), ("min_timeout", "1"), ("max_timeout", "65535")];
const TCO: &[(&str, &str)] = &[
    ("identity", "iTCO_wdt"),
    ("nowayout", "1"),
    ("min_timeout", "4"),
    ("max_timeout", "613"),
    ("bootstatus", "32"),
];

#[test]
fn hardware_goes_before_softdog_unless_softdog_is_asked_for() {
    let (_dir, tree) = machine(&[(0, SOFTDOG), (1, TCO), (10, &[]), (2, TCO)]);
    let devices: Vec<String> = all(&*tree).into_iter().map(|watchdog| watchdog.device).collect();
    assert_eq!(devices, ["/dev/watchdog1", "/dev/watchdog2", "/dev/watchdog10", "/dev/watchdog0"]);
    let found = |wanted| find(&*tree, &host(), wanted).unwrap();
    let first = found(None);
    assert_eq!((first.device.as_str(), first.nowayout, first.software), ("/dev/watchdog1", true, false));
    assert_eq!((first.min_timeout_s, first.max_timeout_s), (Some(4), Some(613)));
    assert!(found(Some("softdog")).software);
    assert_eq!(found(Some("/dev/watchdog10")).identity, "");
    let missing = find(&*tree, &host(), Some("/dev/watchdog7")).unwrap_err();
    assert_eq!(missing.code, Code::WatchdogMissing);
    assert!(missing.hint.contains("/dev/watchdog2"), "{missing}");

    let (_dir, only_softdog) = machine(&[(0, SOFTDOG)]);
    assert!(find(&*only_softdog, &host(), None).unwrap().software);
}

#[test]
fn a_machine_without_a_watchdog_is_told_how_to_get_one() {
    let (_dir, tree) = machine(&[]);
    let missing = Watchdog::of_this_host(Arc::clone(&tree), &host(), None).unwrap_err();
    assert_eq!(missing.code, Code::WatchdogMissing);
    assert!(missing.hint.contains("iTCO_wdt") && missing.hint.contains("fence agent"), "{missing}");
}

#[test]
fn the_bmcs_watchdog_is_found_by_its_only_node() {
    let (dir, tree) = machine(&[]);
    for path in ["sys/class/misc/watchdog", "sys/module/ipmi_watchdog/parameters"] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(dir.path().join("sys/module/ipmi_watchdog/parameters/nowayout"), "Y\n").unwrap();
    let found = find(&*tree, &host(), None).unwrap();
    assert_eq!((found.device.as_str(), found.nowayout), ("/dev/watchdog", true));
}

#[test]
fn a_real_device_that_is_not_there_is_reported_in_time() {
    let (_dir, tree) = machine(&[(4_000_000, TCO)]);
    let watchdog = Watchdog::of_this_host(tree, &host(), None).unwrap();
    let refusal = watchdog.arm(8_000).unwrap_err();
    assert_eq!(refusal.finding.code, Code::KernelRefused);
    assert!(refusal.finding.message.contains("ENOENT"), "{}", refusal.finding);
}

#[test]
fn a_host_that_its_watchdog_has_reset_says_so_and_shows_which_one_it_has() {
    let (dir, _) = machine(&[(0, TCO)]);
    let seen = tranche_host::inspect(Utf8Path::from_path(dir.path()).unwrap(), None);
    assert_eq!(seen.system.watchdog.map(|watchdog| watchdog.identity).as_deref(), Some("iTCO_wdt"));
    let fired: Vec<_> = seen.notes.iter().filter(|note| note.code == Code::WatchdogFired).collect();
    assert!(matches!(&fired[..], [note] if note.message.contains("/dev/watchdog0")), "{fired:?}");
}

proptest! {
    /// Whatever is done to an armed device, its host is reset no later than its time after the last thing that fed it.
    #[test]
    fn a_host_outlives_its_last_feed_by_its_timeout_at_most(
        gaps in prop::collection::vec((0_u64..7_000, 0_u8..4), 1..20),
        timeout_s in 1_u64..8,
    ) {
        let device = FakeWatchdog::new(Model::default());
        let mut feeder = Some(armed(&device, timeout_s * 1_000));
        let (mut now_ms, mut fed_ms) = (0, 0);
        for (gap_ms, act) in gaps {
            now_ms += gap_ms;
            let due = now_ms >= fed_ms + timeout_s * 1_000;
            prop_assert_eq!(device.advance_to(now_ms), due);
            if due {
                break;
            }
            match (act, feeder.take()) {
                (0, Some(mut open)) => {
                    open.feed().unwrap();
                    feeder = Some(open);
                }
                // It dies; the one after it opens the device again, and both feed.
                (1, Some(open)) => {
                    drop(open);
                    feeder = Some(armed(&device, timeout_s * 1_000));
                }
                // It dies and the device is kept for the one after it: nothing feeds.
                (2, Some(open)) => {
                    feeder = Some(device.watchdog(host()).resume(open.into_open()).unwrap());
                    continue;
                }
                (_, open) => {
                    feeder = open;
                    continue;
                }
            }
            fed_ms = now_ms;
        }
    }
}
