//! Steps of VMs that go to hosts with other stores, or come from those ([`crate::handover`]).

use super::clear_devices;
use super::travel::call_off;
use crate::handover::{Answer, Awaited, Order, Parting, Stage};
use crate::inventory::{Domain, DomainState, HostInventory};
use crate::name::VmName;
use crate::plan::VmPlan;
use crate::spec::{Spec, VmSource};
use crate::step::Step;

/// What the host of a VM does that goes elsewhere.
pub(super) fn parting_steps(
    (name, planned): (&VmName, &VmPlan),
    parting: &Parting,
    observed: &HostInventory,
    (domain, spec): (Option<&Domain>, &Spec),
) -> Vec<Step> {
    let (vm, id) = (name.clone(), planned.id);
    let state = domain.map(|domain| domain.state);
    let is_active = state.is_some_and(DomainState::is_active);
    let is_known = observed.progress.sent.get(name).is_some_and(|sent| sent.number == parting.number);
    // Before the other host knows that it comes, it would end it.
    let is_let_in = matches!(parting.answer_in(observed.progress.told.get(name)), Some(Answer::Seen { .. }));
    let may_go = state == Some(DomainState::Running) && is_let_in && !is_known;
    match &parting.stage {
        Stage::Goes { devices } if may_go => vec![Step::SendVm {
            vm,
            id,
            number: parting.number,
            to: parting.to.clone(),
            devices: devices.clone(),
            limits: spec.limits_of(name),
        }],
        Stage::CalledOff { .. } => call_off((name, planned), observed).into_iter().collect(),
        Stage::Stops { forced: true } if is_active => vec![Step::KillVm { vm, id }],
        Stage::Stops { .. } if state == Some(DomainState::ShuttingDown) => Vec::new(),
        Stage::Stops { .. } if is_active => vec![Step::ShutDownVm { vm, id }],
        Stage::Stops { .. } => clear_devices(name, planned, domain),
        // It is elsewhere: whoever starts it here would run it twice.
        Stage::Lands | Stage::Left if state == Some(DomainState::Running) => vec![Step::KillVm { vm, id }],
        Stage::Left if is_active => vec![Step::KillVm { vm, id }],
        Stage::Left if domain.is_some() => vec![Step::UndefineVm { vm, id }],
        _ => Vec::new(),
    }
}

/// What a host does about a VM that comes from elsewhere.
pub(super) fn awaited_steps(
    (name, planned): (&VmName, &VmPlan),
    awaited: &Awaited,
    observed: &HostInventory,
    (domain, spec): (Option<&Domain>, &Spec),
) -> Vec<Step> {
    let (vm, id) = (name.clone(), planned.id);
    let is_active = domain.is_some_and(|domain| domain.state.is_active());
    let is_expected = observed.progress.expects.contains(name);
    match awaited.order {
        Order::Prepare if is_active => vec![Step::KillVm { vm, id }],
        Order::Prepare if !is_expected => match spec.vms.get(name).map(|wish| &wish.source) {
            Some(VmSource::Made(hardware)) => {
                vec![Step::ExpectVm { vm, id, hardware: Box::new(hardware.clone()) }]
            }
            _ => Vec::new(),
        },
        Order::Land if domain.is_some_and(|domain| domain.state == DomainState::Paused) => {
            vec![Step::ResumeVm { vm, id }]
        }
        Order::Prepare | Order::Receive | Order::Land | Order::Own | Order::Drop => Vec::new(),
    }
}
