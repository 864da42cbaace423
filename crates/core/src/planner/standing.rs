//! How the members of a cluster stand: there, silent, given up, down.
//!
//! ```text
//!        silent                 agent: power off, seen off ──────────────┐
//! Up ◄──────────► Lost ──► Fencing ─────────────────────────────────────►│
//!  ▲               │          │ watchdog: its time is over; it has       ▼
//!  │               │          │ ended all that it ran, no agent works    │
//!  │               └──────────┴──── by hand, watchdog ────────────────► Down ──► its VMs start elsewhere
//!  └──── it has begun anew: knows that it was given up, runs nothing of others ──┘
//! ```
//!
//! Giving a host up takes one compare with its last heartbeat, so either that comes first and the host lives, or it is
//! refused and the host knows. Until then the host may run its VMs, and nobody else may.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::Planner;
use crate::diagnostics as say;
use crate::inventory::{CLOCK_OFF_MS, Guard, HostInventory, Pulse};
use crate::name::{GpuKey, HostName, SlotKey, Timestamp, VmName};
use crate::plan::{Booking, DownBy, HostPlan, Standing, VmGoal, VmPlan};
use crate::spec::{Duty, FailoverPolicy, HostSpec, Run, VmSource, VmSpec};
use crate::whereabouts;

impl Planner<'_> {
    /// Whether there are members; else one host stands alone, and is in step with the plan by its nature.
    pub(super) fn is_cluster(&self) -> bool {
        !self.spec.hosts.is_empty()
    }

    /// Whether what is known of a host is of now, and it may be given something to do.
    pub(super) fn is_up(&self, host: &HostName) -> bool {
        !self.is_cluster()
            || self.plan.hosts.get(host).is_some_and(|planned| planned.standing == Standing::Up)
    }

    /// Whether a host takes VMs that are not there yet.
    pub(super) fn takes_vms(&self, host: &HostName) -> bool {
        let serves = self.spec.hosts.get(host).is_none_or(|wish| wish.duty == Duty::Serving);
        let answers = || self.inventory.get(host).is_some_and(|observed| observed.domains().is_some());
        !self.is_cluster() || (serves && self.is_up(host) && self.departing(host).is_none() && answers())
    }

    /// Whether a host has reported since it knew all that was decided for it. What it reported before frees nothing.
    pub(super) fn is_in_step(&self, host: &HostName) -> bool {
        let observed = self.inventory.get(host).filter(|observed| observed.unread.is_none());
        let Some(observed) = observed else { return false };
        let decided = self.plan.generations.get(host).copied().unwrap_or_default();
        !self.is_cluster() || (self.is_up(host) && observed.progress.generation == decided)
    }

    /// Whether a start that was decided earlier may be under way, although what was reported does not show it.
    ///
    /// A host that stands alone looks, decides and acts in turn, so there is none.
    pub(super) fn may_be_starting(&self, vm: &VmName) -> bool {
        self.is_cluster() && self.plan.vms.get(vm).is_some_and(|planned| planned.goal.starts())
    }

    /// Whether the end of a VM that was decided earlier may be under way, although what was reported does not show it. It is
    /// seen through, and the VM started anew: else it would look as if its guest had gone off by itself.
    pub(super) fn may_be_ending(&self, goal: Option<VmGoal>) -> bool {
        let ends = matches!(goal, Some(VmGoal::Stop | VmGoal::Kill | VmGoal::Cycle | VmGoal::Reset));
        self.is_cluster() && ends
    }

    /// Brings the standing of every member up to what is known of it.
    pub(super) fn judge_standing(&mut self) {
        if !self.is_cluster() {
            self.plan.hosts.clear();
            return;
        }
        let (scope, members) = (self.scope, &self.spec.hosts);
        for stranger in scope.hosts.iter().filter(|host| !members.contains_key(*host)) {
            self.plan.hosts.remove(stranger);
        }
        if self.spec.policy.failover.paused {
            self.findings.push(say::failover_paused());
        }
        for (host, wish) in scope.hosts.iter().filter_map(|host| members.get_key_value(host)) {
            let observed = self.inventory.get(host).map(|seen| &**seen);
            let pulse = observed.and_then(|observed| observed.pulse);
            let next = match self.plan.hosts.get(host) {
                None => pulse.map(|_| HostPlan::default()),
                Some(current) => {
                    let reported = Reported {
                        begun_anew: observed.is_some_and(|seen| self.has_begun_anew(current, seen)),
                        surrendered: observed.is_some_and(|seen| self.has_surrendered(current, seen)),
                    };
                    let wish = self.wish_for_standing(host, wish);
                    let policy = &self.spec.policy.failover;
                    Some(next(current, &wish, policy, pulse, reported, self.now))
                }
            };
            match next {
                Some(planned) => {
                    let departs = departs(&planned, wish, observed);
                    let overdue = departs && self.is_overdue(&planned);
                    let planned = HostPlan { departs, overdue, ..planned };
                    self.report_standing(host, wish, &planned, pulse);
                    self.plan.hosts.insert(host.clone(), planned);
                }
                None => self.findings.push(say::host_silent(host)),
            }
        }
    }

    /// What a host's silence is judged by: nobody cuts the power of one that is meant to boot.
    fn wish_for_standing<'a>(&self, host: &HostName, wish: &'a HostSpec) -> Cow<'a, HostSpec> {
        if self.is_waited_for(host) {
            Cow::Owned(HostSpec { fence: None, ..wish.clone() })
        } else {
            Cow::Borrowed(wish)
        }
    }

    /// Whether a host that was given up knows it, and runs nothing that is another's by now.
    fn has_begun_anew(&self, current: &HostPlan, observed: &HostInventory) -> bool {
        let decided = self.plan.generations.get(&observed.host).copied().unwrap_or_default();
        let knows = observed.progress.epoch == current.epoch && observed.progress.generation == decided;
        let runs_others = |name: &str| {
            let name: Result<VmName, _> = name.parse();
            let planned = name.ok().and_then(|name| self.plan.vms.get(&name));
            planned.is_some_and(|planned| planned.host != observed.host)
        };
        let domains = observed.domains();
        knows
            && domains.is_some_and(|domains| {
                domains.values().all(|domain| !domain.state.is_active() || !runs_others(&domain.name))
            })
    }

    /// Whether a host whose power is to be cut knows it and runs nothing of ours any more. It has reported so since, and starts
    /// nothing before it is taken up again ([`crate::inventory::Progress::surrendered`]).
    fn has_surrendered(&self, current: &HostPlan, observed: &HostInventory) -> bool {
        let decided = self.plan.generations.get(&observed.host).copied().unwrap_or_default();
        let progress = &observed.progress;
        let knows = progress.surrendered == Some(current.epoch) && progress.generation == decided;
        let is_ours = |name: &str| name.parse().is_ok_and(|name: VmName| self.plan.vms.contains_key(&name));
        knows
            && observed.domains().is_some_and(|domains| {
                domains.values().all(|domain| !domain.state.is_active() || !is_ours(&domain.name))
            })
    }

    fn report_standing(
        &mut self,
        host: &HostName,
        wish: &HostSpec,
        planned: &HostPlan,
        pulse: Option<Pulse>,
    ) {
        let guarded = wish.fence.is_some() || pulse.is_some_and(|pulse| pulse.armed);
        let has_guard = |seen: &HostInventory| seen.unread.is_some() || seen.progress.guard != Guard::None;
        let needs_guard = !guarded && !self.spec.policy.failover.paused && self.runs_protected(host);
        match planned.standing {
            Standing::Up => {
                if wish.duty == Duty::Maintenance {
                    self.findings.push(say::host_in_maintenance(host));
                }
                let ahead_ms = pulse.map_or(0, |pulse| pulse.clock_ahead_ms);
                if ahead_ms.abs() >= CLOCK_OFF_MS {
                    self.findings.push(say::clock_off(host, ahead_ms));
                }
                let departure = wish.departure.as_ref().filter(|_| planned.departs);
                self.findings.extend(departure.map(|departure| say::host_departing(host, departure.way)));
                if needs_guard && self.inventory.get(host).is_some_and(|seen| !has_guard(seen)) {
                    self.findings.push(say::host_unguarded(host));
                }
            }
            Standing::Lost { .. } if pulse.is_some_and(|pulse| pulse.unattended) => {
                self.findings.push(say::host_unattended(host));
            }
            Standing::Lost { .. } => {
                self.findings.push(say::host_lost(host));
                if needs_guard {
                    self.findings.push(say::host_unfenced(host));
                }
            }
            Standing::Fencing { .. } => self.findings.push(say::host_fencing(host)),
            Standing::Down { by, .. } => {
                self.findings.push(say::host_down(host, by, wish.comes_back(planned.departs)));
            }
        }
    }

    /// Whether a host has VMs that shall run, and that are started elsewhere when it dies.
    fn runs_protected(&self, host: &HostName) -> bool {
        let starts = |name: &VmName| self.plan.vms.get(name).is_some_and(|vm| vm.goal.starts());
        self.scope.residents(host).iter().any(|name| starts(name) && self.is_protected(name))
    }

    /// Whether a VM is started elsewhere when its host dies.
    pub(super) fn is_protected(&self, name: &VmName) -> bool {
        self.spec.vms.get(name).is_some_and(VmSpec::is_protected) && self.bound_by(name).is_none()
    }

    /// The storage pool for which a VM can run on its host only, if there is one.
    pub(super) fn bound_by(&self, name: &VmName) -> Option<&str> {
        let (planned, spec) = (self.plan.vms.get(name)?, self.spec.vms.get(name)?);
        let home = planned.home(spec).filter(|home| **home == planned.host)?;
        whereabouts::bound_by(spec, self.inventory.get(home)?)
    }

    /// Takes the VMs from machines that are no members any more, with all that was decided for them there. Whoever goes has
    /// nothing left by then, but a VM may have been sent to it at the last moment.
    pub(super) fn abandon_strangers(&mut self) {
        if !self.is_cluster() {
            return;
        }
        let scope = self.scope;
        for host in scope.hosts.iter().filter(|host| !self.spec.hosts.contains_key(*host)) {
            for name in scope.residents(host) {
                if !self.is_stranded(name, host) {
                    continue;
                }
                let lost = self.plan.vms.remove(name);
                self.displaced.insert(name.clone(), lost.and_then(|planned| planned.ran_on));
            }
            let held = self.plan.bookings_of(host).filter(|(_, booking)| !self.is_travelling(&booking.vm));
            let held: Vec<SlotKey> = held.map(|(slot, _)| slot.clone()).collect();
            for slot in &held {
                self.plan.bookings.remove(slot);
            }
            let gpus: Vec<GpuKey> = self.plan.gpus_of(host).map(|(gpu, _)| gpu.clone()).collect();
            for gpu in &gpus {
                self.plan.gpus.remove(gpu);
            }
        }
    }

    /// Takes the protected VMs from hosts that run nothing any more, with all that they hold there, and forgets those that were
    /// deleted.
    pub(super) fn abandon_dead_hosts(&mut self) {
        let is_down = |host: &HostName| {
            let standing = self.plan.hosts.get(host).map(|planned| planned.standing);
            matches!(standing, Some(Standing::Down { .. }))
        };
        let scope = self.scope;
        let dead: Vec<&HostName> = scope.hosts.iter().filter(|host| is_down(host)).collect();
        self.forget_strays(&dead);
        let stranded =
            dead.into_iter().flat_map(|host| scope.residents(host).iter().map(move |vm| (vm, host)));
        let mut abandoned: BTreeMap<&HostName, BTreeSet<VmName>> = BTreeMap::new();
        for (name, host) in stranded {
            let Some(wish) = self.spec.vms.get(name).filter(|_| self.is_stranded(name, host)) else {
                continue;
            };
            if wish.run == Run::Deleted {
                self.bury(name, wish);
            } else if self.is_waited_for(host) {
                self.findings.push(say::vm_waits_for_reboot(name, host));
                self.ends_with_its_host(name);
                continue;
            } else if self.is_protected(name) {
                let lost = self.plan.vms.remove(name);
                self.displaced.insert(name.clone(), lost.and_then(|planned| planned.ran_on));
            } else {
                let finding = match self.bound_by(name).filter(|_| wish.is_protected()) {
                    Some(pool) => say::waits_for_storage(name, host, pool),
                    None => say::vm_waits_for_host(name, host),
                };
                self.findings.push(finding);
                self.ends_with_its_host(name);
                continue;
            }
            abandoned.entry(host).or_default().insert(name.clone());
        }
        for (host, vms) in abandoned {
            // All that a VM holds is on its host.
            let held = self.plan.bookings_of(host).filter(|(_, booking)| vms.contains(&booking.vm));
            let held: Vec<SlotKey> = held.map(|(slot, _)| slot.clone()).collect();
            for slot in held {
                self.plan.bookings.remove(&slot);
            }
        }
    }

    /// Takes from hosts that run nothing any more what VMs had there that are on another host by now.
    fn forget_strays(&mut self, dead: &[&HostName]) {
        let is_stray = |host: &HostName, booking: &Booking| {
            let planned = self.plan.vms.get(&booking.vm);
            planned.is_some_and(|planned| planned.host != *host && planned.open_journey().is_none())
        };
        let held = dead.iter().flat_map(|host| {
            let strays = self.plan.bookings_of(host).filter(move |(_, booking)| is_stray(host, booking));
            strays.map(|(slot, _)| slot.clone())
        });
        for slot in held.collect::<Vec<SlotKey>>() {
            self.plan.bookings.remove(&slot);
        }
    }

    /// A VM that stays with its host was ended by that host's end, and not by its guest: a host that lives after all ends what it ran
    /// when it hears that it was given up. So what it is seen to do next counts as if in another boot.
    fn ends_with_its_host(&mut self, name: &VmName) {
        let settled = self.plan.vms.get_mut(name).and_then(|planned| planned.settled.as_mut());
        if let Some(settled) = settled.filter(|settled| settled.rests.is_none()) {
            settled.boot_id.clear();
        }
    }

    /// Forgets a deleted VM whose host runs nothing any more. Its definition may still be there, or the host was taken for down
    /// and runs it after all: so the plan keeps what the host shall do with it, without a wish.
    fn bury(&mut self, name: &VmName, wish: &VmSpec) {
        let is_made = matches!(wish.source, VmSource::Made(_));
        if let Some(planned) = self.plan.vms.get_mut(name) {
            planned.goal = if is_made { VmGoal::Remove } else { VmGoal::Kill };
        }
        self.buried.insert(name.clone());
    }

    /// Whether a host has still to end a VM that was forgotten while it was down.
    pub(super) fn has_to_end(&self, name: &VmName, planned: &VmPlan) -> bool {
        let host = &planned.host;
        if !matches!(planned.goal, VmGoal::Remove | VmGoal::Kill) || !self.spec.hosts.contains_key(host) {
            return false;
        }
        let seen = self.inventory.get(host).filter(|_| self.is_in_step(host)).and_then(|seen| seen.domains());
        let Some(domains) = seen else { return self.plan.hosts.contains_key(host) };
        let domain = domains.get(name.as_str()).filter(|domain| domain.uuid == planned.id.0);
        domain.is_some_and(|domain| {
            let is_clear =
                !domain.state.is_active() && !domain.defined_devices.iter().any(|device| device.ours);
            planned.goal == VmGoal::Remove || !is_clear
        })
    }
}

/// Whether a host is going down by its administrator's word, or is on its way back from there: until it is up in another boot.
fn departs(planned: &HostPlan, wish: &HostSpec, observed: Option<&HostInventory>) -> bool {
    let same_boot = observed.is_some_and(|observed| wish.departs_in(&observed.boot_id).is_some());
    // In which boot it is, nobody knows while its report cannot be read.
    let may_have_booted =
        planned.standing == Standing::Up && observed.is_none_or(|seen| seen.unread.is_none());
    let on_its_way = wish.departure.is_some() && planned.departs && !may_have_booted;
    same_boot || on_its_way
}

/// What a host that was given up reports since.
#[derive(Debug, Clone, Copy, Default)]
struct Reported {
    /// It lives in the present epoch, and runs nothing that is another's.
    begun_anew: bool,
    /// It runs nothing of ours, and starts nothing.
    surrendered: bool,
}

/// What becomes of a member's standing.
fn next(
    current: &HostPlan,
    wish: &HostSpec,
    policy: &FailoverPolicy,
    pulse: Option<Pulse>,
    reported: Reported,
    now: Timestamp,
) -> HostPlan {
    let (standing, epoch) = (current.standing, current.epoch);
    let timers = &policy.timers;
    let silent_ms = pulse.map_or(0, |pulse| pulse.silent_ms);
    let is_silent = pulse.is_none() || silent_ms >= timers.lost_ms;
    let off = pulse.filter(|pulse| pulse.epoch == epoch).and_then(|pulse| pulse.off);
    // It goes by the times that it knew last, and by what its watchdog takes: the longer time counts.
    let is_reset = |pulse: Pulse| pulse.armed && silent_ms >= timers.down_ms(pulse.bound_ms);
    // Nobody pulls the plug of a host that runs its VMs because its daemon was stopped, or that may be booting.
    let is_excused = |pulse: Pulse| pulse.unattended || pulse.rising;
    let watchdog_bit = !policy.paused && pulse.is_some_and(is_reset);
    let said_down = current.is_said_down(wish);
    let known_down = if said_down {
        Some(DownBy::Hand)
    } else if off.is_some() {
        off
    } else {
        watchdog_bit.then_some(DownBy::Watchdog)
    };
    let stands = |standing| HostPlan { standing, ..current.clone() };
    let given_up = |standing| HostPlan { epoch: epoch + 1, ..stands(standing) };
    match (standing, known_down) {
        (Standing::Up | Standing::Lost { .. }, Some(by)) if is_silent || off.is_some() => {
            given_up(Standing::Down { since: now, by })
        }
        (Standing::Up | Standing::Lost { .. }, _) if !is_silent => stands(Standing::Up),
        (Standing::Up | Standing::Lost { .. }, _)
            if wish.fence.is_some() && !policy.paused && !pulse.is_some_and(is_excused) =>
        {
            given_up(Standing::Fencing { since: now })
        }
        (Standing::Up, _) => stands(Standing::Lost { since: now }),
        // The host was given up with this epoch; its heartbeats are refused, so its last one tells of the epoch before.
        (Standing::Fencing { .. }, _) => {
            let bit = watchdog_bit.then_some(DownBy::Watchdog);
            let cut = pulse.and_then(|pulse| pulse.off).filter(|by| *by == DownBy::Agent);
            let said = said_down.then_some(DownBy::Hand);
            // While an agent is at work, its power may be cut at any moment: it is not taken up again.
            let is_being_cut = pulse.is_some_and(|pulse| pulse.being_cut);
            let surrendered = (reported.surrendered && !is_being_cut).then_some(DownBy::Surrender);
            match cut.or(said).or(bit).or(surrendered) {
                Some(by) => stands(Standing::Down { since: now, by }),
                None => current.clone(),
            }
        }
        (Standing::Down { .. }, _) if !is_silent && reported.begun_anew && off.is_none() => {
            stands(Standing::Up)
        }
        (Standing::Lost { .. } | Standing::Down { .. }, _) => current.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{FenceSpec, SaidDown};

    fn pulse(silent_ms: u64, epoch: u64, armed: bool) -> Pulse {
        Pulse { silent_ms, epoch, armed, ..Pulse::default() }
    }

    fn member(agent: bool) -> HostSpec {
        let fence = agent.then(|| FenceSpec {
            agent: "fence_ipmilan".parse().unwrap(),
            options: std::collections::BTreeMap::new(),
            leave_off: false,
        });
        HostSpec {
            joined_at: Timestamp(0),
            labels: std::collections::BTreeMap::new(),
            duty: Duty::Serving,
            fence,
            said_down: None,
            departure: None,
            reserved_memory_mib: 0,
        }
    }

    fn follow(wish: &HostSpec, policy: &FailoverPolicy, pulses: &[Pulse]) -> Vec<HostPlan> {
        let mut current = HostPlan::default();
        let mut stories = Vec::new();
        for pulse in pulses {
            current = next(&current, wish, policy, Some(*pulse), Reported::default(), Timestamp(9));
            stories.push(current.clone());
        }
        stories
    }

    #[test]
    fn a_silent_host_is_lost_and_comes_back_without_harm() {
        let story = follow(
            &member(false),
            &FailoverPolicy::default(),
            &[4_999, 5_000, 9_999, 0].map(|ms| pulse(ms, 0, true)),
        );
        let lost = Standing::Lost { since: Timestamp(9) };
        assert_eq!(
            story.iter().map(|plan| plan.standing).collect::<Vec<_>>(),
            [Standing::Up, lost, lost, Standing::Up]
        );
        assert!(story.iter().all(|plan| plan.epoch == 0));
    }

    #[test]
    fn a_watchdogs_word_counts_only_after_its_time_and_only_if_it_was_armed() {
        let policy = FailoverPolicy::default();
        let down = Standing::Down { since: Timestamp(9), by: DownBy::Watchdog };
        let story = follow(&member(false), &policy, &[9_999, 10_000].map(|ms| pulse(ms, 0, true)));
        assert_eq!(story[1], HostPlan { standing: down, epoch: 1, ..HostPlan::default() });
        let unarmed = follow(&member(false), &policy, &[pulse(5_000, 0, false), pulse(99_000, 0, false)]);
        assert_eq!(unarmed[1].standing, Standing::Lost { since: Timestamp(9) });
        let paused = FailoverPolicy { paused: true, ..policy };
        let story = follow(&member(true), &paused, &[pulse(5_000, 0, true), pulse(99_000, 0, true)]);
        assert_eq!(story[1].standing, Standing::Lost { since: Timestamp(9) });
    }

    #[test]
    fn an_agents_word_counts_at_once_and_the_watchdogs_if_it_has_none() {
        let policy = FailoverPolicy::default();
        let agent = |off| Pulse { off, ..pulse(5_400, 0, true) };
        let story =
            follow(&member(true), &policy, &[pulse(5_000, 0, true), agent(None), agent(Some(DownBy::Agent))]);
        assert_eq!(
            story[1],
            HostPlan { standing: Standing::Fencing { since: Timestamp(9) }, epoch: 1, ..HostPlan::default() }
        );
        assert_eq!(story[2].standing, Standing::Down { since: Timestamp(9), by: DownBy::Agent });
        let story = follow(&member(true), &policy, &[pulse(5_000, 0, true), pulse(10_000, 0, true)]);
        assert_eq!(story[1].standing, Standing::Down { since: Timestamp(9), by: DownBy::Watchdog });
    }

    #[test]
    fn a_host_whose_daemon_was_stopped_in_good_order_is_lost_and_nobody_cuts_its_power() {
        let stopped = |silent_ms| Pulse { unattended: true, ..pulse(silent_ms, 0, false) };
        let pulses =
            [stopped(0), stopped(5_000), stopped(99_000), pulse(0, 0, false), pulse(5_000, 0, false)];
        let story = follow(&member(true), &FailoverPolicy::default(), &pulses);
        let since = Timestamp(9);
        let stands: Vec<_> = story.iter().map(|plan| plan.standing).collect();
        let lost = Standing::Lost { since };
        assert_eq!(stands[..4], [Standing::Up, lost, lost, Standing::Up]);
        assert_eq!(
            stands[4],
            Standing::Fencing { since },
            "a daemon that was started since is judged as any other"
        );
    }

    #[test]
    fn a_host_that_may_be_booting_after_all_lost_their_power_is_not_cut_before_its_time_is_over() {
        let rising = |silent_ms| Pulse { rising: true, ..pulse(silent_ms, 0, false) };
        let pulses = [rising(5_000), rising(299_000), pulse(300_000, 0, false)];
        let story = follow(&member(true), &FailoverPolicy::default(), &pulses);
        let since = Timestamp(9);
        let stands: Vec<_> = story.iter().map(|plan| plan.standing).collect();
        let lost = Standing::Lost { since };
        assert_eq!(stands, [lost, lost, Standing::Fencing { since }]);
    }

    #[test]
    fn a_host_is_not_down_before_the_time_is_over_that_it_goes_by_itself() {
        let policy = FailoverPolicy::default();
        let by_older_times = |silent_ms| Pulse { bound_ms: Some(60_000), ..pulse(silent_ms, 0, true) };
        let story = follow(&member(false), &policy, &[10_000, 61_999, 62_000].map(by_older_times));
        assert_eq!(story[1].standing, Standing::Lost { since: Timestamp(9) });
        assert_eq!(story[2].standing, Standing::Down { since: Timestamp(9), by: DownBy::Watchdog });
        // A timer that may be longer than it should be is waited for where its host is fenced, too.
        let story = follow(&member(true), &policy, &[10_000, 61_999, 62_000].map(by_older_times));
        assert_eq!(story[1].standing, Standing::Fencing { since: Timestamp(9) });
        assert_eq!(story[2].standing, Standing::Down { since: Timestamp(9), by: DownBy::Watchdog });
    }

    #[test]
    fn somebodys_word_counts_for_the_silence_that_it_was_given_in_and_for_no_other() {
        let (policy, nothing) = (FailoverPolicy::default(), Reported::default());
        let then = |current: &HostPlan, said_down, silent_ms, now| {
            let wish = HostSpec { said_down, ..member(false) };
            next(
                current,
                &wish,
                &policy,
                Some(pulse(silent_ms, current.epoch, false)),
                nothing,
                Timestamp(now),
            )
        };
        let lost = then(&HostPlan::default(), None, 5_000, 1);
        assert_eq!(lost.standing, Standing::Lost { since: Timestamp(1) });
        let word = Some(SaidDown { epoch: 0, since: Timestamp(1) });
        let down = Standing::Down { since: Timestamp(2), by: DownBy::Hand };
        assert_eq!(then(&lost, word, 6_000, 2), HostPlan { standing: down, epoch: 1, ..HostPlan::default() });
        let back = then(&lost, word, 0, 2);
        assert_eq!(back.standing, Standing::Up);
        let lost_again = then(&back, word, 5_000, 3);
        assert_eq!(lost_again.standing, Standing::Lost { since: Timestamp(3) });
        assert_eq!(then(&lost_again, word, 99_000, 4), lost_again, "it was heard of since");
    }

    #[test]
    fn the_word_that_a_host_is_down_which_was_down_already_does_not_wait_for_its_next_silence() {
        let since = Timestamp(1);
        let up = HostPlan { epoch: 3, ..HostPlan::default() };
        let wish = HostSpec { said_down: Some(SaidDown { epoch: 3, since }), ..member(false) };
        let policy = FailoverPolicy::default();
        let then = |current: &HostPlan| {
            next(current, &wish, &policy, Some(pulse(9_000, 3, false)), Reported::default(), Timestamp(9))
        };
        assert_eq!(then(&then(&up)).standing, Standing::Lost { since: Timestamp(9) });
    }

    #[test]
    fn a_host_that_cannot_be_cut_is_down_by_its_own_word_once_no_agent_is_at_work() {
        let (policy, since) = (FailoverPolicy::default(), Timestamp(1));
        let fencing = HostPlan { standing: Standing::Fencing { since }, epoch: 1, ..HostPlan::default() };
        let then = |surrendered, being_cut| {
            let reported = Reported { surrendered, ..Reported::default() };
            let pulse = Pulse { being_cut, ..pulse(7_000, 0, false) };
            next(&fencing, &member(true), &policy, Some(pulse), reported, Timestamp(9))
        };
        assert_eq!(then(false, false), fencing);
        assert_eq!(then(true, true), fencing, "it may lose its power at any moment");
        let down = Standing::Down { since: Timestamp(9), by: DownBy::Surrender };
        assert_eq!(then(true, false), HostPlan { standing: down, ..fencing });
    }

    #[test]
    fn a_host_that_is_down_is_up_again_only_once_it_has_begun_anew() {
        let current = HostPlan {
            standing: Standing::Down { since: Timestamp(1), by: DownBy::Watchdog },
            epoch: 3,
            ..HostPlan::default()
        };
        let policy = FailoverPolicy::default();
        let then = |anew, silent| {
            let reported = Reported { begun_anew: anew, ..Reported::default() };
            next(&current, &member(false), &policy, Some(pulse(silent, 3, true)), reported, Timestamp(9))
        };
        assert_eq!(then(false, 0), current);
        assert_eq!(then(true, 6_000), current);
        assert_eq!(then(true, 0), HostPlan { standing: Standing::Up, epoch: 3, ..HostPlan::default() });
    }
}
