//! Saying that this host's member of the store does not run, so that it can be relied on.
//!
//! When the store has lost its majority for everybody, hosts prove each second that nobody can write, and keep their VMs
//! ([`tranche_core::liveness::Quorum`]). A member whose process is dead has no voice in that; its host speaks for it. What the host
//! says has to hold for longer than an election, so it *holds the member back* first and looks then whether it runs: whoever starts
//! it asks first ([`Hold::is_held`]).
//!
//! A member that is held back for ever would keep the store without a majority for ever. So after some seconds the host says nothing,
//! until the member had a chance to start ([`Streak`]); hosts do so at different times, so that some host always speaks.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::time::{ClockId, clock_gettime};

/// For how long an answer holds, in milliseconds: longer than an election of the store.
const HELD_MS: u64 = 1_500;
/// How long the member has to start after a hold, in milliseconds: the pause between two starts of its service, and some more.
const CHANCE_MS: u64 = 1_500;
/// How long the first host speaks for its member, and how much longer each next one does, in milliseconds.
const STREAK_MS: (u64, u64) = (5_000, 3_000);
/// More than this ahead, what the file says is of another boot.
const AHEAD_MS_MAX: u64 = 10_000;
/// Holds the member back.
#[derive(Debug, Clone)]
pub struct Hold {
    path: Utf8PathBuf,
}

impl Hold {
    /// The hold that is noted in a file.
    pub fn at(path: Utf8PathBuf) -> Self {
        Self { path }
    }

    /// From now on, for a while, the member is not started.
    ///
    /// # Errors
    /// The file cannot be written: nothing is held.
    pub fn extend(&self) -> std::io::Result<()> {
        let until_ms = boot_ms() + HELD_MS;
        // Readers see the old text or the new one: it is moved into place.
        let next = self.path.with_extension("next");
        std::fs::write(&next, until_ms.to_string())?;
        // Whoever starts the member is somebody else, and the mask of the daemon leaves nothing to others.
        std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o644))?;
        std::fs::rename(&next, &self.path)
    }

    /// Whether the member must not be started now.
    pub fn is_held(&self) -> bool {
        let left_ms = left_ms(std::fs::read_to_string(&self.path).ok().as_deref(), boot_ms());
        left_ms > 0
    }
}

/// Since when a host speaks for its member.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Streak {
    began_ms: u64,
    last_ms: u64,
}

impl Streak {
    /// Whether the host, at its place among those that keep the store, may speak for its member at this time since the boot.
    pub(super) fn goes_on(&mut self, now_ms: u64, place: usize) -> bool {
        let (first_ms, more_ms) = STREAK_MS;
        let max_ms = first_ms + more_ms * place as u64;
        if self.last_ms == 0 || now_ms > self.last_ms + HELD_MS + CHANCE_MS {
            self.began_ms = now_ms;
        } else if now_ms > self.began_ms + max_ms {
            return false;
        }
        self.last_ms = now_ms;
        true
    }
}

/// How long a note still holds.
fn left_ms(note: Option<&str>, now_ms: u64) -> u64 {
    let until_ms: u64 = note.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
    let left_ms = until_ms.saturating_sub(now_ms);
    if left_ms > AHEAD_MS_MAX { 0 } else { left_ms }
}

/// Milliseconds since the boot, which no setting of the clock changes.
pub(super) fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000
        + u64::try_from(now.tv_nsec).unwrap_or_default() / 1_000_000
}

/// Whether a service of systemd neither runs nor is past the point at which it looks whether it is held back.
pub(super) fn service_is_down(service: &str) -> bool {
    let output = Command::new("systemctl")
        .args(["show", "--property=ActiveState,SubState", service])
        .stdin(Stdio::null())
        .output();
    output.is_ok_and(|output| says_down(&String::from_utf8_lossy(&output.stdout)))
}

fn says_down(shown: &str) -> bool {
    let of = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    match of("ActiveState") {
        Some("inactive" | "failed") => true,
        Some("activating") => of("SubState") == Some("auto-restart"),
        _ => false,
    }
}

/// Where a host notes that its member is held back.
pub(super) fn path(state_dir: &Utf8Path) -> Utf8PathBuf {
    state_dir.join("etcd").join("hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_by_itself_and_one_of_another_boot_holds_nothing() {
        assert_eq!(left_ms(None, 5_000), 0);
        assert_eq!(left_ms(Some("7000"), 5_000), 2_000);
        assert_eq!(left_ms(Some("7000"), 8_000), 0);
        assert_eq!(left_ms(Some("900000"), 5_000), 0, "nobody waits for minutes");
        assert_eq!(left_ms(Some("garbage"), 5_000), 0);
    }

    #[test]
    fn a_host_speaks_for_its_member_for_a_while_and_then_lets_it_try_to_start() {
        let mut streak = Streak::default();
        let spoke: Vec<bool> = (0..60).map(|at| streak.goes_on(1_000 + at * 250, 0)).collect();
        let silent = spoke.iter().position(|spoke| !spoke).expect("it falls silent");
        let again = silent + spoke[silent..].iter().position(|spoke| *spoke).expect("it speaks again");
        let silent_ms = (again - silent) as u64 * 250;
        assert!((5_000..5_500).contains(&(silent as u64 * 250)), "{silent}");
        assert!((CHANCE_MS..=HELD_MS + CHANCE_MS + 250).contains(&silent_ms), "{silent_ms}");
    }

    #[test]
    fn hosts_fall_silent_at_different_times() {
        let silent = |place| {
            let mut streak = Streak::default();
            (0..60).filter(|at| !streak.goes_on(1_000 + at * 250, place)).collect::<Vec<_>>()
        };
        let (first, second) = (silent(0), silent(1));
        assert!(
            first.iter().take_while(|at| **at < 40).all(|at| !second.contains(at)),
            "{first:?} {second:?}"
        );
    }

    #[test]
    fn what_is_held_is_not_started_by_anybody_who_looks_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let hold = Hold::at(Utf8PathBuf::from_path_buf(dir.path().join("hold")).unwrap());
        assert!(!hold.is_held());
        hold.extend().unwrap();
        assert!(hold.is_held() && Hold::at(hold.path).is_held());
    }

    #[test]
    fn a_service_that_is_about_to_run_is_not_down() {
        for down in [
            "ActiveState=inactive\nSubState=dead\n",
            "ActiveState=failed\nSubState=failed",
            "SubState=auto-restart\nActiveState=activating",
        ] {
            assert!(says_down(down), "{down}");
        }
        for up in [
            "ActiveState=active\nSubState=running",
            "ActiveState=activating\nSubState=start-pre",
            "ActiveState=deactivating\nSubState=stop-sigterm",
            "",
        ] {
            assert!(!says_down(up), "{up}");
        }
    }
}
