//! The policies, for people: each in the words with which it is set.

use tranche_core::spec::{
    Admission, FailoverPolicy, Homogeneity, Limits, Pace, PlacementPolicy, Policy, ShutdownPolicy, Timers,
    VcpusPerCpu,
};

use super::Show;
use crate::output::table::sheet;

/// How VMs are sent that go to another host while they run.
fn pace(pace: Pace) -> String {
    let limits = Limits::of(pace, Pace::default());
    let bandwidth =
        limits.bandwidth_mib_s.map_or("no limit".to_owned(), |mib_s| format!("{mib_s} MiB/s at most"));
    format!("{bandwidth}, a pause of {} ms at most", limits.pause_ms)
}

impl Show for Policy {
    fn as_text(&self) -> String {
        let placement = match self.placement {
            PlacementPolicy::Pack => "pack",
            PlacementPolicy::Spread => "spread",
        };
        let admission = match self.admission {
            Admission::Off => "off",
            Admission::Warn => "warn",
            Admission::Enforce => "enforce",
        };
        let homogeneity = match self.homogeneity {
            Homogeneity::Warn => "warn",
            Homogeneity::Strict => "strict",
        };
        let shutdown = match self.shutdown {
            ShutdownPolicy::Conditional => "conditional",
            ShutdownPolicy::Migrate => "migrate",
            ShutdownPolicy::Restart => "restart",
            ShutdownPolicy::Freeze => "freeze",
        };
        let VcpusPerCpu(vcpus_per_cpu) = self.vcpus_per_cpu;
        let FailoverPolicy { paused, timers } = self.failover;
        let Timers { heartbeat_ms, lost_ms, reset_ms, restart_ms, election_ms } = timers;
        let failover = if paused { "paused, until 'tranche cluster resume'" } else { "on" };
        sheet(&[
            ("Placement", placement.to_owned()),
            ("Virtual processors", format!("{vcpus_per_cpu} for each processor")),
            ("Admission", admission.to_owned()),
            ("Homogeneity", homogeneity.to_owned()),
            ("Shutdown", shutdown.to_owned()),
            ("Moves", pace(self.pace)),
            ("Failover", failover.to_owned()),
            ("Heartbeat", format!("every {heartbeat_ms} ms")),
            ("Lost", format!("after {lost_ms} ms")),
            ("Reset", format!("after {reset_ms} ms")),
            ("Restart", format!("after {restart_ms} ms")),
            ("Election", format!("{election_ms} ms")),
        ])
    }
}
