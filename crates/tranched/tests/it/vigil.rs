//! A daemon that comes up without the store, over a watchdog that the one before left armed: when that resets the host.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use tranche_core::liveness::MemberSays::{self, HasLeader, NoLeader, Nothing};
use tranche_core::spec::Timers;
use tranche_host::watchdog::Feeder;
use tranche_host::watchdog::fake::{FakeWatchdog, Model};
use tranched::member::Voices;
use tranched::member::vigil::{Lived, Times, Vigil, Watch};

use crate::guarding::host;

const WATCHDOG_MS: u64 = 4_000;
const NOBODY_LEADS: [MemberSays; 3] = [NoLeader { term: 7 }, Nothing, NoLeader { term: 7 }];
/// How long the members take to answer.
const ANSWER_MS: u64 = 100;

fn lived() -> Lived {
    Lived { timers: Timers::default(), bound_ms: 8_000 }
}

fn armed(device: &FakeWatchdog) -> Feeder {
    device.watchdog(host()).arm(WATCHDOG_MS).map_err(|refusal| refusal.finding).unwrap()
}

/// A vigil in virtual time.
struct Night {
    device: FakeWatchdog,
    watch: Watch,
    now_ms: u64,
}

impl Night {
    fn begins(lived: Option<Lived>) -> Self {
        let device = FakeWatchdog::new(Model::default());
        let watch = Watch::new(armed(&device), lived);
        Self { device, watch, now_ms: 0 }
    }

    /// Lets time pass while the store's members say this. Returns when the watchdog has reset the host, if it has.
    fn goes_on(&mut self, ms: u64, says: &[MemberSays]) -> Option<u64> {
        let until_ms = self.now_ms + ms;
        while self.now_ms < until_ms {
            let deadline_ms = self.device.deadline_ms();
            let asked_ms = self.now_ms;
            self.now_ms += ANSWER_MS + u64::try_from(self.watch.pause().as_millis()).unwrap();
            if self.device.advance_to(self.now_ms) {
                return deadline_ms;
            }
            let times = std::cell::RefCell::new(vec![asked_ms + ANSWER_MS, asked_ms]);
            let clock = || times.borrow_mut().pop().unwrap_or(asked_ms + ANSWER_MS);
            self.watch.turn(|_| says.to_vec(), &clock);
        }
        None
    }
}

#[test]
fn while_it_is_proved_that_nobody_can_write_the_host_lives_on_however_long_that_is() {
    let mut night = Night::begins(Some(lived()));
    assert_eq!(night.goes_on(3_600_000, &NOBODY_LEADS), None);
    let last_ms = night.now_ms;
    let reset_ms =
        night.goes_on(60_000, &[HasLeader; 3]).expect("somebody writes, and this daemon does not know what");
    assert!(reset_ms <= last_ms + lived().bound_ms, "{reset_ms} {last_ms}");
}

#[test]
fn a_host_that_hears_from_no_majority_is_reset_in_the_time_that_it_had() {
    for says in [[Nothing; 3], [NoLeader { term: 7 }, Nothing, Nothing], [HasLeader, Nothing, Nothing]] {
        assert_eq!(Night::begins(Some(lived())).goes_on(60_000, &says), Some(WATCHDOG_MS), "{says:?}");
    }
}

#[test]
fn a_daemon_that_does_not_know_by_which_times_its_host_lived_feeds_nothing() {
    assert_eq!(Night::begins(None).goes_on(60_000, &NOBODY_LEADS), Some(WATCHDOG_MS));
}

#[test]
fn a_bound_that_leaves_no_time_beyond_the_watchdogs_is_kept_to() {
    let short = Lived { bound_ms: WATCHDOG_MS, ..lived() };
    assert_eq!(Night::begins(Some(short)).goes_on(60_000, &NOBODY_LEADS), Some(WATCHDOG_MS));
}

#[test]
fn what_a_host_lives_by_is_noted_for_the_next_daemon_and_what_is_damaged_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    assert_eq!(Times::of(dir).read(), None);
    let times = Times::of(dir);
    let other = Lived { bound_ms: 9_000, ..lived() };
    for each in [lived(), other] {
        times.note(each);
        assert_eq!(Times::of(dir).read(), Some(each));
    }
    let impossible = Timers { reset_ms: 1, ..Timers::default() };
    Times::of(dir).note(Lived { timers: impossible, ..lived() });
    assert_eq!(Times::of(dir).read(), None);
    std::fs::write(dir.join("cluster-timers.json"), "{").unwrap();
    assert_eq!(Times::of(dir).read(), None);
}

#[test]
fn what_cannot_be_noted_leaves_nothing_older_behind() {
    let dir = tempfile::tempdir().unwrap();
    let dir = Utf8Path::from_path(dir.path()).unwrap();
    let times = Times::of(dir);
    times.note(lived());
    // A directory in the way of what is written stands for a disk that takes nothing more.
    std::fs::create_dir(dir.join("cluster-timers.new")).unwrap();
    times.note(Lived { bound_ms: 9_000, ..lived() });
    assert_eq!(Times::of(dir).read(), None, "older times would be wrong");
}

/// Members of a store that nobody leads, who tell that they were asked.
#[derive(Debug)]
struct Asked(mpsc::Sender<()>);

impl Voices for Asked {
    fn ask(&self, _within: Duration) -> Vec<MemberSays> {
        let _ = self.0.send(());
        NOBODY_LEADS.to_vec()
    }
}

#[test]
fn when_the_store_answers_the_watchdog_is_handed_on_armed() {
    let device = FakeWatchdog::new(Model::default());
    let dir = tempfile::tempdir().unwrap();
    let times = Times::of(&Utf8PathBuf::try_from(dir.path().to_owned()).unwrap());
    times.note(lived());
    let (tell, asked) = mpsc::channel();
    let vigil = Vigil::begin(armed(&device), &times, Arc::new(Asked(tell))).unwrap();
    asked.recv_timeout(Duration::from_secs(60)).expect("the members are asked");
    let open = vigil.end().expect("it is still open");
    let feeder = device.watchdog(host()).resume(open).unwrap();
    assert_eq!((feeder.timeout_ms(), device.deadline_ms()), (WATCHDOG_MS, Some(WATCHDOG_MS)));
}

#[test]
fn a_daemon_that_ends_while_it_waits_goes_on_asking_until_it_may_leave_the_watchdog() {
    let device = FakeWatchdog::new(Model::default());
    let dir = tempfile::tempdir().unwrap();
    let times = Times::of(Utf8Path::from_path(dir.path()).unwrap());
    times.note(lived());
    let (tell, asked) = mpsc::channel();
    let vigil = Vigil::begin(armed(&device), &times, Arc::new(Asked(tell))).unwrap();
    // It is told to end before anything is proved; then it would hold the watchdog until that has reset the host.
    vigil.part();
    assert!(asked.try_iter().count() > 2, "what lets it leave is a row of answers");
}
