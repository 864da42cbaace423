//! Changes to the policies.

use super::{Admitted, Refusal, State};
use crate::diagnostics as say;
use crate::finding::Subject;
use crate::operation::Goal;
use crate::spec::{Policy, VcpusPerCpu};

pub(super) fn set_policy(policy: Policy, state: State<'_>) -> Result<Admitted, Refusal> {
    let VcpusPerCpu(per_cpu) = policy.vcpus_per_cpu;
    if !(1..=VcpusPerCpu::MAX).contains(&per_cpu) {
        let range = format!("1 to {}", VcpusPerCpu::MAX);
        let what = "The number of virtual processors for each processor";
        return Err(vec![say::invalid_value(what, &per_cpu.to_string(), &range)]);
    }
    if let Some(rule) = policy.failover.timers.obstacle() {
        // A host would be taken for down before it is, and its VMs would run twice.
        let what = "The times of failover";
        return Err(vec![say::invalid_value(what, "so", &format!("them so that {rule}"))]);
    }
    if let Some(rule) = policy.pace.obstacle() {
        return Err(vec![say::invalid_value(
            "A limit for VMs that move",
            "so",
            &format!("it so that {rule}"),
        )]);
    }
    let mut spec = state.spec.clone();
    spec.policy = policy;
    Ok(Admitted {
        spec,
        goal: Goal::Recorded,
        title: "change the policies".to_owned(),
        subject: Subject::Installation,
        findings: Vec::new(),
    })
}
