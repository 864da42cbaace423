//! What came of a simulation, as data.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use tranche_core::finding::Finding;
use tranche_core::name::{HostName, VmName};
use tranche_engine::View;

use crate::judge::{Violation, is_going};
use crate::scenario::{Expectation, Scenario};
use crate::world::Shared;

/// What came of a simulation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether nothing was violated and everything expected came true.
    pub ok: bool,
    /// The seed that everything was drawn from.
    pub seed: u64,
    /// How much virtual time passed, in milliseconds.
    pub time_ms: u64,
    /// Every start and end of a VM, and what befell hosts, in order.
    pub records: Vec<Record>,
    /// Where each VM runs at the end.
    pub placement: BTreeMap<VmName, HostName>,
    /// What the leader finds wrong at the end.
    pub findings: Vec<Finding>,
    /// What was violated, the first first.
    pub violations: Vec<Violation>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// When, in milliseconds since the beginning.
    pub at_ms: u64,
    /// The host that it happened on, or to.
    pub host: String,
    /// What.
    #[serde(flatten)]
    pub what: Happened,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Happened {
    /// A VM was started.
    Started {
        /// The VM.
        vm: String,
    },
    /// A VM that was sent here while it ran goes on.
    WentOn {
        /// The VM.
        vm: String,
    },
    /// A VM could not be started.
    StartFailed {
        /// The VM.
        vm: String,
        /// Why.
        why: String,
    },
    /// A VM ended: it was asked to, was killed, or crashed.
    Ended {
        /// The VM.
        vm: String,
        /// How.
        how: String,
    },
    /// Something befell the host.
    Befell {
        /// What.
        event: String,
    },
    /// The host leads now.
    Leads,
}

/// What was expected and is not.
pub(crate) fn missed(
    expect: &Expectation,
    placement: &BTreeMap<VmName, HostName>,
    codes: &[&str],
    resets: u32,
) -> Vec<String> {
    let mut missed = Vec::new();
    for (vm, host) in &expect.placement {
        if placement.get(vm) != Some(host) {
            missed.push(format!("VM {vm} was to run on {host}; it is on {:?}", placement.get(vm)));
        }
    }
    let not_running = expect.running.iter().filter(|vm| !placement.contains_key(*vm));
    missed.extend(not_running.map(|vm| format!("VM {vm} was to run, and does not")));
    let running = expect.off.iter().filter(|vm| placement.contains_key(*vm));
    missed.extend(running.map(|vm| format!("VM {vm} was to be off, and runs")));
    if expect.no_resets && resets > 0 {
        missed.push(format!("{resets} hosts were reset by their watchdogs"));
    }
    let absent = expect.findings.iter().filter(|code| !codes.contains(&code.as_str()));
    missed.extend(absent.map(|code| format!("the finding {code} was expected; there are {codes:?}")));
    missed
}

/// What came of a scenario.
pub(crate) fn report(world: &Shared, scenario: &Scenario) -> Report {
    let view =
        world.with(|inner| inner.nodes.iter().filter_map(|node| node.daemon.clone()).collect::<Vec<_>>());
    let view: Option<Arc<View>> = view.iter().find_map(|daemon| daemon.view());
    let findings = view.map(|view| Vec::clone(&view.findings)).unwrap_or_default();
    world.with(|inner| {
        let mut placement = BTreeMap::new();
        for node in inner.nodes.iter().filter(|node| node.on) {
            for domain in node.model.domains.values().filter(|domain| is_going(domain.state)) {
                if let Ok(vm) = domain.name.parse() {
                    placement.insert(vm, node.name.clone());
                }
            }
        }
        let codes: Vec<&str> = findings.iter().map(|finding| finding.code.as_str()).collect();
        let mut violations = std::mem::take(&mut inner.violations);
        for what in missed(&scenario.expect, &placement, &codes, inner.resets) {
            violations.push(Violation { at_ms: inner.now_ms, what });
        }
        Report {
            ok: violations.is_empty(),
            seed: scenario.seed,
            time_ms: inner.now_ms,
            records: std::mem::take(&mut inner.records),
            placement,
            findings: findings.clone(),
            violations,
        }
    })
}
