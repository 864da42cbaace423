//! `tranche host depart`: this host, or another, is about to go down, and its VMs are seen to first.
//!
//! systemd calls it when the host shuts down (`tranche-guests.service`); then what systemd is about to do says which way it goes.
//! Whatever goes wrong, the host goes down: so the time is limited, and guests that need longer are turned off.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tranche_api::cluster::{ClusterStanding, ClusterView};
use tranche_api::request::DepartHost;
use tranche_core::spec::DepartureWay;

use super::{Daemon, change};
use crate::cli::{DepartArgs, Doing};
use crate::failure::{Exit, Failure};

/// How long guests that are turned off are waited for.
const FORCED: Duration = Duration::from_secs(30);

pub(super) fn run(args: &DepartArgs, daemon: &Daemon<'_>) -> Result<Exit, Failure> {
    let way = match (args.reboot, args.shutdown) {
        (true, _) => DepartureWay::Reboot,
        (_, true) => DepartureWay::Shutdown,
        (false, false) => match way_of(&systemd_jobs()?) {
            Some(way) => way,
            None => return Ok(Exit::Done),
        },
    };
    let (host, boot_id) = match &args.host {
        Some(host) => (host.clone(), None),
        None => {
            let cluster: ClusterView = daemon.client.get("/cluster")?;
            if args.by_systemd && cluster.standing == ClusterStanding::Alone {
                return Ok(Exit::Done);
            }
            (cluster.host, Some(boot_id()?))
        }
    };
    let path = format!("/hosts/{host}/depart");
    let asked = Doing { timeout: Some(args.grace), ..args.doing };
    let wish = DepartHost { way, force: false, boot_id };
    match change::post(&path, &wish, asked, daemon) {
        Err(Failure::Operation(_)) => {
            let forced = Doing { timeout: Some(FORCED), ..args.doing };
            change::post(&path, &DepartHost { force: true, ..wish }, forced, daemon)
        }
        answer => answer,
    }
}

/// This boot of this host. A wish that is heard late must not end the next one.
fn boot_id() -> Result<String, Failure> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let text = fs::read_to_string(path).map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    Ok(text.trim().to_owned())
}

/// What systemd has to do, one job a line.
fn systemd_jobs() -> Result<String, Failure> {
    let output = Command::new("systemctl").args(["list-jobs", "--no-legend", "--plain"]).output();
    let output = output.map_err(|source| Failure::Systemd { source })?;
    if !output.status.success() {
        let source = io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        return Err(Failure::Systemd { source });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How a host goes down on which systemd has these jobs; none if it does not.
fn way_of(jobs: &str) -> Option<DepartureWay> {
    jobs.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        match (words.next()?, words.next()?) {
            ("reboot.target" | "kexec.target" | "soft-reboot.target", "start") => Some(DepartureWay::Reboot),
            ("poweroff.target" | "halt.target", "start") => Some(DepartureWay::Shutdown),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_is_about_to_do_says_which_way_the_host_goes() {
        let stop = "  912 tranche-guests.service stop running\n 1001 shutdown.target start waiting\n";
        assert_eq!(way_of(&format!("{stop} 990 reboot.target start waiting\n")), Some(DepartureWay::Reboot));
        assert_eq!(way_of(&format!("{stop} 990 kexec.target start waiting\n")), Some(DepartureWay::Reboot));
        assert_eq!(
            way_of(&format!("{stop} 990 poweroff.target start waiting")),
            Some(DepartureWay::Shutdown)
        );
        assert_eq!(way_of(stop), None, "the unit alone is stopped");
        assert_eq!(way_of("7 reboot.target stop waiting"), None);
        assert_eq!(way_of("No jobs running."), None);
    }
}
