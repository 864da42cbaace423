//! In which order the machines of a cluster are brought up to a later version, so that at every moment VMs have somewhere to
//! go, the store has its majority, and the oldest version rules to the end.
//!
//! It asks the same board that places VMs, as if one host after the other were away. Nothing is decided here, and nothing
//! done: what it names are commands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::capacity::Stranded;
use crate::change::State;
use crate::membership::order_of;
use crate::name::{HostName, VmName};
use crate::placement::{Board, turn};
use crate::plan::Standing;
use crate::spec::{VmSource, VmSpec};

/// A machine, as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub host: HostName,
    /// The version of its daemon.
    pub version: String,
    /// Whether it has a member of the store.
    pub votes: bool,
    /// Whether it leads now.
    pub leads: bool,
}

/// The order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UpgradePlan {
    /// One after the other; each is well again before the next is begun.
    pub steps: Vec<UpgradeStep>,
    /// Machines that have a later version than others, so that nothing is left to do there.
    pub done: Vec<HostName>,
    /// Whether each host can be emptied while the others are there.
    pub feasible: bool,
}

/// A machine that is to be brought up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UpgradeStep {
    /// The machine.
    pub host: HostName,
    /// What it has now.
    pub version: String,
    /// Why it comes at this place.
    pub because: UpgradeTurn,
    /// VMs that go elsewhere first, while it is away.
    pub vms: Vec<VmName>,
    /// VMs that no other host can take, and why: they would have to be stopped.
    pub stranded: Vec<Stranded>,
    /// What to do, in order.
    pub commands: Vec<String>,
}

/// Why a machine comes at its place; earlier ones first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum UpgradeTurn {
    /// It is down or silent: first of all it has to be mended, because no other one may be away beside it.
    Away,
    /// It has no member of the store.
    NoVote,
    /// It has one, which is back before the next one goes.
    Votes,
    /// It leads; the lead goes to another one once only.
    Leads,
}

/// The order for all machines that have not the latest version of those that there are; for all of them if they have the same.
pub fn plan(state: State<'_>, machines: &[Machine]) -> UpgradePlan {
    let latest = machines.iter().map(|machine| order_of(&machine.version)).max();
    let differ = machines.iter().any(|machine| Some(order_of(&machine.version)) != latest);
    let is_done = |machine: &&Machine| differ && Some(order_of(&machine.version)) == latest;
    let done = machines.iter().filter(is_done).map(|machine| machine.host.clone()).collect();

    let mut board = Board::of(state);
    let mut residents: BTreeMap<HostName, Vec<VmName>> = BTreeMap::new();
    for (vm, host) in board.places() {
        residents.entry(host.clone()).or_default().push(vm.clone());
    }
    let mut steps: Vec<UpgradeStep> = machines
        .iter()
        .filter(|machine| !is_done(machine))
        .map(|machine| {
            let here = residents.get(&machine.host).map_or(&[][..], Vec::as_slice);
            step(machine, here, state, &mut board)
        })
        .collect();
    steps.sort_by(|a, b| (a.because, a.vms.len(), &a.host).cmp(&(b.because, b.vms.len(), &b.host)));
    let feasible = steps.iter().all(|step| step.stranded.is_empty() && step.because != UpgradeTurn::Away);
    UpgradePlan { steps, done, feasible }
}

fn step(machine: &Machine, here: &[VmName], state: State<'_>, board: &mut Board<'_>) -> UpgradeStep {
    let host = &machine.host;
    let is_host = state.spec.hosts.contains_key(host);
    let standing = state.plan.hosts.get(host).map(|planned| planned.standing);
    let because = if is_host && standing != Some(Standing::Up) {
        UpgradeTurn::Away
    } else if machine.leads {
        UpgradeTurn::Leads
    } else if machine.votes {
        UpgradeTurn::Votes
    } else {
        UpgradeTurn::NoVote
    };
    let mut movable: Vec<(&VmName, &VmSpec)> =
        here.iter().filter_map(|name| state.spec.vms.get_key_value(name)).collect();
    movable.sort_by_key(|(name, spec)| turn(name, spec));
    let (movable, bound): (Vec<_>, Vec<_>) =
        movable.into_iter().partition(|(_, spec)| matches!(spec.source, VmSource::Made(_)));
    let mut stranded: Vec<Stranded> = board
        .loss_of(host, here, &movable)
        .into_iter()
        .map(|(vm, why)| Stranded { vm: vm.clone(), why })
        .collect();
    stranded.extend(
        bound
            .iter()
            .map(|(vm, _)| Stranded { vm: (*vm).clone(), why: crate::diagnostics::drain_blocked(vm, host) }),
    );
    let stays = |vm: &VmName| stranded.iter().any(|stranded| &stranded.vm == vm);
    let vms = movable.iter().map(|(vm, _)| (*vm).clone()).filter(|vm| !stays(vm)).collect();
    let mut commands = vec![format!("apt install tranche, on {host}")];
    if is_host {
        commands.insert(0, format!("tranche host drain {host}"));
        commands.push(format!("tranche host undrain {host}"));
    }
    commands.push("tranche cluster status".to_owned());
    UpgradeStep { host: host.clone(), version: machine.version.clone(), because, vms, stranded, commands }
}
