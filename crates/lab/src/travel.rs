//! The demo of moves: two virtual hosts, a guest that goes from one to the other while it ticks, and one that is restarted instead,
//! because its device hands out no state.
//!
//! What it claims comes from the guests' own serial consoles. Each of them counts seconds since its boot, and the console of
//! the host that it comes to begins where the other one's ends.

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cluster::{Cluster, ClusterOptions, homes};
use crate::demo::wait_for;
use crate::{Lifetime, Node, Progress, quote};

/// The VM that goes while it runs, with its partition: the lab's own driver hands out its state.
const LIVE: &str = "vm1";
/// The VM that is restarted: its partition is handed to it by vfio-pci, which hands out no state.
const RESTARTED: &str = "vm2";
/// The GPU whose partitions can move.
const MOVING_GPU: &str = "0000:02:00.0";
/// How many ticks a guest must have counted before it is moved, so that one that was restarted is told from one that went on.
const TICKS_MIN: u64 = 20;
/// How many ticks may be missing between the two consoles: what was counted in the pause, and one that was cut in two.
const TICKS_LOST_MAX: u64 = 3;

/// What the demo found; its JSON is one line with these fields.
#[derive(Clone, Debug, Serialize)]
pub struct TravelSummary {
    /// Whether one guest went on counting on the other host, and the other one counts anew there.
    pub ok: bool,
    /// The guest that went while it ran.
    pub live: Trip,
    /// The one that was restarted.
    pub restarted: Trip,
    /// What was told about the pause of the first, as the operation's log has it.
    pub told: String,
    /// What its device said on the host that it came to.
    pub device: String,
    /// Seconds from the start of the program.
    pub seconds: f64,
}

/// A VM that went to another host.
#[derive(Clone, Debug, Serialize)]
pub struct Trip {
    /// Its name.
    pub name: String,
    /// Where it ran.
    pub from: String,
    /// Where it runs.
    pub to: String,
    /// The last tick on the console of the host that it left.
    pub last_tick_before: u64,
    /// The first one on that of the host that it came to.
    pub first_tick_after: u64,
}

/// What is read of `tranche vm destinations -o json`.
#[derive(Debug, Deserialize)]
struct Destination {
    host: String,
    way: String,
}

/// Runs the demo.
///
/// # Errors
/// When a step fails, or a guest did not go as it should; the daemons' last words are on standard error then.
pub fn run(options: &ClusterOptions, progress: &Progress) -> Result<TravelSummary> {
    let cluster = Cluster::start(options, Lifetime::Caller, progress)?;
    let shown = show(&cluster, progress);
    let summary = shown.inspect_err(|_| cluster.print_last_words())?;
    let _step = progress.step("Taking everything down");
    cluster.end()?;
    Ok(summary)
}

fn show(cluster: &Cluster, progress: &Progress) -> Result<TravelSummary> {
    cluster.split_gpus(progress)?;
    for node in &cluster.nodes {
        let _step = progress.step(&format!("tranche gpu partition {}/{MOVING_GPU} 2", node.name()));
        node.run(&format!("tranche -q gpu partition {}/{MOVING_GPU} 2", node.name()))?;
    }
    cluster.run_vm(0, LIVE, "profile:4Q", progress)?;
    cluster.run_vm(1, RESTARTED, "profile:1/2", progress)?;
    let step = progress.step("Waiting until both guests have counted for a while");
    for vm in [LIVE, RESTARTED] {
        wait_for("a guest's ticks", || {
            let home = homes(&cluster.running(None)?)?.get(vm).cloned();
            let Some(home) = home else { return Ok(None) };
            let ticks = ticks(node(cluster, &home)?, vm)?;
            Ok(ticks.last().filter(|last| **last >= TICKS_MIN).map(|_| ()))
        })?;
    }
    drop(step);
    let live = travel(cluster, LIVE, "live", progress)?;
    let gap = live.first_tick_after.checked_sub(live.last_tick_before);
    ensure!(
        gap.is_some_and(|gap| (0..=TICKS_LOST_MAX).contains(&gap)),
        "{LIVE} counted {} before it moved and {} after it",
        live.last_tick_before,
        live.first_tick_after
    );
    let told = wait_for("what is told of the pause", || {
        let log = node(cluster, &live.from)?.run("tranche operation list -o json")?;
        Ok(log.split('"').find(|text| text.contains("stood still for")).map(ToOwned::to_owned))
    })?;
    progress.say(&told);
    let state =
        node(cluster, &live.to)?.run("dmesg | grep -o 'took over a state of [0-9]* bytes' | tail -n 1")?;
    ensure!(!state.is_empty(), "{LIVE} runs on {}, and its device took nothing over there", live.to);
    progress.say(&format!("the device of {LIVE} on {} {}", live.to, state.trim()));
    let restarted = travel(cluster, RESTARTED, "restart", progress)?;
    ensure!(
        restarted.first_tick_after < TICKS_MIN,
        "{RESTARTED} was to count anew, and counts {}",
        restarted.first_tick_after
    );
    cluster.no_disk_has_two_writers()?;
    let seconds = (progress.elapsed_s() * 10.0).round() / 10.0;
    let device = state.trim().to_owned();
    Ok(TravelSummary { ok: true, told, device, live, restarted, seconds })
}

/// Has a VM move to the other host, which it must do as was foretold.
fn travel(cluster: &Cluster, vm: &str, way: &str, progress: &Progress) -> Result<Trip> {
    let from =
        homes(&cluster.running(None)?)?.get(vm).cloned().with_context(|| format!("{vm} does not run"))?;
    let here = node(cluster, &from)?;
    let text = here.run(&format!("tranche vm destinations {vm} -o json"))?;
    let told: Vec<Destination> =
        serde_json::from_str(&text).with_context(|| format!("it printed: {text}"))?;
    let destination = told.first().context("there is no other host")?;
    ensure!(destination.way == way, "{vm} was to go by '{way}', and it is said: {text}");
    let to = destination.host.clone();
    let step = progress.step(&format!("tranche vm migrate {vm} --to {to}, while it runs on {from}"));
    // Where hosts are emulated libvirt may be silent for a while meanwhile, and whoever waits for the operation is told so.
    here.run(&format!("tranche -q vm migrate {vm} --to {to} --no-wait"))?;
    wait_for("the VM on the other host, and on no other", || {
        let running = cluster.running(None)?;
        let at = running.get(vm).map(Vec::as_slice).unwrap_or_default();
        Ok(matches!(at, [(host, _)] if *host == to).then_some(()))
    })?;
    drop(step);
    let there = node(cluster, &to)?;
    let after = wait_for("the guest's ticks on the other host", || Ok(ticks(there, vm)?.first().copied()))?;
    let at = homes(&cluster.running(None)?)?.get(vm).cloned();
    ensure!(at.as_deref() == Some(&*to), "{vm} was to run on {to}, and it runs on {at:?}");
    let before = ticks(here, vm)?.last().copied().context("it counted nothing")?;
    progress.say(&format!("{vm}: {from} -> {to}; it counted {before} there and {after} here"));
    Ok(Trip { name: vm.to_owned(), from, to, last_tick_before: before, first_tick_after: after })
}

fn node<'c>(cluster: &'c Cluster, name: &str) -> Result<&'c Node> {
    cluster.nodes.iter().find(|node| node.name() == name).context("no such host")
}

/// What a guest has counted on the console of a host; nothing where it never was.
fn ticks(node: &Node, vm: &str) -> Result<Vec<u64>> {
    let log = format!("/var/log/libvirt/qemu/{vm}-serial.log");
    Ok(parse(&node.run(&format!("cat {} 2>/dev/null || true", quote(&log)))?))
}

/// The ticks in a serial log. A line that was cut in two, or is still being written, tells none.
fn parse(log: &str) -> Vec<u64> {
    let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let ticks = lines.filter_map(|line| line.split_once("TRANCHE-GUEST tick ")?.1.trim().parse().ok());
    ticks.collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_whole_lines_of_a_console_tell_ticks() {
        let log = "EST tick 7\r\nTRANCHE-GUEST tick 8\r\nTRANCHE-GUEST tick 9\r\nTRANCHE-GUEST tick 1";
        assert_eq!(parse(log), [8, 9]);
    }
}
