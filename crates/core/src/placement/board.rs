//! The board: which VM gets which place, by the index and the rules, and in words why one gets none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::ground::{Closed, Ground, needs_of};
use super::groups::HostSet;
use super::index::{Ask, Index, Place};
use super::rules::{RuleBook, Whereabouts};
use super::{Uses, UsesByHost};
use crate::change::State;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::Inventory;
use crate::map::Map;
use crate::name::{GpuKey, HostName, RuleName, SlotKey, Timestamp, VmName};
use crate::plan::{GpuPlan, Plan, VmGoal};
use crate::spec::{Company, Request, Rule, Spec, VmSource, VmSpec};

/// Which VM gets which place: over the [`Ground`] as it was read, kept up as VMs are placed.
#[derive(Debug, Clone)]
pub struct Board<'a> {
    spec: &'a Spec,
    pub(super) ground: Ground,
    rules: RuleBook<'a>,
    /// Places that were chosen for several VMs at once.
    intended: BTreeMap<VmName, Place>,
    /// Those of them that are kept until each VM takes its own.
    reserved: BTreeMap<VmName, Place>,
    /// Hosts on which a VM fell as often as it may: it is not placed there anew.
    spent: BTreeMap<VmName, HostSet>,
}

/// A VM that runs and would better run elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// The VM.
    pub vm: VmName,
    /// Where it runs.
    pub from: HostName,
    /// Where there is a place for it.
    pub to: Place,
    /// The rule that says so.
    pub rule: RuleName,
}

impl<'a> Board<'a> {
    /// The board of what is decided and observed now. `gpus` are those that may be given away, and `uses` the hosts' as
    /// [`Uses::of`] reads them.
    pub fn new(
        spec: &'a Spec,
        inventory: &Inventory,
        gpus: &Map<GpuKey, GpuPlan>,
        plan: &Plan,
        uses: &UsesByHost,
    ) -> Self {
        let mut ground = Ground::new(spec.policy.placement);
        let mut vms: BTreeMap<&HostName, Vec<&VmName>> = BTreeMap::new();
        for (name, planned) in &plan.vms {
            vms.entry(&planned.host).or_default().push(name);
        }
        let nobody = Uses::default();
        let hosts: BTreeSet<&HostName> = inventory.keys().chain(vms.keys().copied()).collect();
        for host in hosts {
            let gives = |gpu: &GpuKey| gpus.contains_key(gpu);
            let vms = vms.remove(host).unwrap_or_default();
            let state = State { spec, plan, inventory };
            ground.read(host, state, gives, uses.get(host).unwrap_or(&nobody), vms);
        }
        Self::over(ground, spec, plan, plan.vms.keys())
    }

    /// The board over a ground. Of the VMs named it is known where they fell.
    pub(crate) fn over<'v>(
        ground: Ground,
        spec: &'a Spec,
        plan: &Plan,
        vms: impl IntoIterator<Item = &'v VmName>,
    ) -> Self {
        let tried = |name: &VmName| plan.vms.get(name).and_then(|planned| planned.tried.as_ref());
        let ids =
            |hosts: &BTreeSet<HostName>| hosts.iter().filter_map(|host| ground.index.id_of(host)).collect();
        let spent =
            vms.into_iter().filter_map(|name| Some((name.clone(), ids(&tried(name)?.hosts)))).collect();
        let rules = RuleBook::new(spec, &ground.index);
        Self { spec, rules, ground, intended: BTreeMap::new(), reserved: BTreeMap::new(), spent }
    }

    /// The ground, as it is now.
    pub(crate) fn into_ground(self) -> Ground {
        self.ground
    }

    /// Takes as many slots as a VM asks for, and memory and processors for it: all on one host, each slot on another GPU.
    /// Nothing is taken if there are fewer.
    ///
    /// `only_host` confines the search, for VMs that belong to a host already.
    ///
    /// # Errors
    /// The finding that says why there is no room.
    pub fn take(
        &mut self,
        vm: (&VmName, &VmSpec),
        only_host: Option<&HostName>,
    ) -> Result<Place, Box<Finding>> {
        let place = self.choose(vm, only_host)?;
        if let Some(reserved) = self.reserved.remove(vm.0) {
            self.unput(vm, &reserved);
        }
        self.put(vm, &place);
        Ok(place)
    }

    /// Chooses places for VMs that lost theirs, for all of them at once, so that as many as can be get one.
    pub fn intend(&mut self, vms: &[VmName]) {
        let spec = self.spec;
        let known: Vec<_> = vms.iter().filter_map(|name| spec.vms.get_key_value(name)).collect();
        let (placed, _) = self.place_all(&known);
        self.intended = placed.into_iter().map(|((name, _), place)| (name.clone(), place)).collect();
    }

    /// Keeps the places that were chosen for VMs of a priority for them, as far as those are still free. Called when their
    /// turn comes: until then whoever is more important may take them.
    pub fn reserve(&mut self, priority: u16) {
        let spec = self.spec;
        for (name, place) in std::mem::take(&mut self.intended) {
            let Some(vm) = spec.vms.get_key_value(&name) else { continue };
            if vm.1.availability.priority != priority {
                self.intended.insert(name, place);
                continue;
            }
            let is_allowed = self.rules.forbidding(&name, &place.host, &self.ground.places).is_empty();
            if is_allowed && self.ground.index.still_has(&place, &self.ask(vm, None)) {
                self.put(vm, &place);
                self.reserved.insert(name, place);
            }
        }
    }

    /// Takes what a VM needs beside the slots that it holds already.
    ///
    /// # Errors
    /// The finding that says what there is too little of.
    pub fn take_beside(
        &mut self,
        (name, spec): (&VmName, &VmSpec),
        host: &HostName,
        slots: &[SlotKey],
    ) -> Result<Place, Box<Finding>> {
        let beside = VmSpec { request: Request::None, ..spec.clone() };
        let place = self.take((name, &beside), Some(host))?;
        Ok(Place { slots: slots.to_vec(), ..place })
    }

    /// The place that [`Board::take`] would take.
    ///
    /// # Errors
    /// The finding that says why there is no room.
    pub fn choose(
        &self,
        (name, spec): (&VmName, &VmSpec),
        only_host: Option<&HostName>,
    ) -> Result<Place, Box<Finding>> {
        let reserved = self.reserved.get(name);
        if let Some(place) = reserved.filter(|place| only_host.is_none_or(|host| *host == place.host)) {
            return Ok(place.clone());
        }
        let ask = self.ask((name, spec), only_host);
        let place = match only_host {
            Some(host) => {
                let allowed = self.rules.forbidding(name, host, &self.ground.places).is_empty();
                self.ground.index.choose_on(host, &ask).filter(|_| allowed)
            }
            None if self.is_free(name) => self.ground.index.choose(&ask),
            None => self.ground.index.choose_among(&self.groups(name, None), &ask),
        };
        place.ok_or_else(|| Box::new(self.no_room(name, &ask, only_host)))
    }

    /// What keeps a VM from a host beside the host's GPUs: every reason.
    pub fn obstacles(&self, (name, spec): (&VmName, &VmSpec), host: &HostName) -> Vec<Finding> {
        let mut found: Vec<Finding> = self
            .rules
            .forbidding(name, host, &self.ground.places)
            .into_iter()
            .map(|rule| say::rule_forbids(rule, name, host))
            .collect();
        if self.ground.places.get(name) == Some(host) {
            return found;
        }
        if let Some(why) = self.ground.closed.get(host) {
            found.push(say::host_closed(name, host, *why));
        } else {
            let bare = Ask { request: &Request::None, ..self.ask((name, spec), Some(host)) };
            if self.ground.index.choose_on(host, &bare).is_none() {
                found.push(say::no_memory(name, bare.memory_mib, bare.vcpus));
            }
        }
        found
    }

    /// VMs that run elsewhere than on the host that a rule prefers, while a host that it prefers more has room for them:
    /// those that rules let go back, with places that serve them all at once, and findings about the others.
    ///
    /// VMs are taken in the order of [`waiting_order`]. What they hold now is not counted as free.
    pub fn failback(&self, plan: &Plan) -> (Vec<Move>, Vec<Finding>) {
        if self.spec.rules.is_empty() {
            return (Vec::new(), Vec::new());
        }
        let mut then = self.clone();
        let (mut moves, mut findings) = (Vec::new(), Vec::new());
        let ruled = self.rules.vms().filter_map(|name| self.spec.vms.get_key_value(name));
        for (name, spec) in waiting_order(ruled) {
            let runs = plan.vms.get(name).is_some_and(|planned| planned.goal == VmGoal::Run);
            let Some(from) = self.ground.places.get(name).filter(|_| runs && spec.run.is_up()) else {
                continue;
            };
            if self.ground.closed.contains_key(from) || !matches!(spec.source, VmSource::Made(_)) {
                continue;
            }
            let Some((rule, to)) = then.better_place((name, spec), from) else { continue };
            let goes_back = self
                .spec
                .rules
                .get(rule)
                .is_some_and(|rule| matches!(rule, Rule::Hosts { failback: true, .. }));
            if goes_back {
                then.put((name, spec), &to);
                moves.push(Move { vm: name.clone(), from: from.clone(), to, rule: rule.clone() });
            } else {
                findings.push(say::rule_failback(rule, name, from, &to.host));
            }
        }
        (moves, findings)
    }

    /// Where the VMs are that run or shall run.
    pub fn places(&self) -> &Whereabouts {
        &self.ground.places
    }

    /// The room of all hosts that take VMs.
    pub fn index(&self) -> &Index {
        &self.ground.index
    }

    /// Closes a host, as if it had died with all that it runs.
    pub fn close(&mut self, host: &HostName) {
        self.ground.index.remove_host(host);
        self.ground.closed.insert(host.clone(), Closed::NotUp);
        self.ground.places.retain(|_, at| at != host);
    }

    /// Puts a VM into a place that was chosen for it.
    pub fn put(&mut self, vm: (&VmName, &VmSpec), place: &Place) {
        let Ask { memory_mib, vcpus, .. } = self.ask(vm, Some(&place.host));
        self.ground.put(vm.0, place, (memory_mib, vcpus));
    }

    /// Takes a VM out of the place that it was put into when it had none.
    pub(super) fn unput(&mut self, (name, spec): (&VmName, &VmSpec), place: &Place) {
        self.ground.unput(name, place, needs_of(spec));
    }

    /// A place on the first host, by name, that has room for a VM and that no rule forbids to it.
    pub(super) fn first_fit(&self, (name, spec): (&VmName, &VmSpec)) -> Option<Place> {
        let ask = self.ask((name, spec), None);
        if self.is_free(name) {
            return self.ground.index.first_fit(&ask, |_| true);
        }
        let groups = self.allowed(name, None);
        self.ground.index.first_fit(&ask, |host| groups.iter().any(|group| group.contains(host)))
    }

    /// A place on a host that a rule prefers to the one where a VM runs: the best there is, and the rule.
    fn better_place(&self, vm: (&VmName, &VmSpec), from: &HostName) -> Option<(&'a RuleName, Place)> {
        self.rules.of(vm.0).iter().find_map(|(name, rule)| {
            let Rule::Hosts { hosts, .. } = rule else { return None };
            let now = hosts.get(from).copied().unwrap_or_default();
            let mut better: Vec<(&HostName, u16)> =
                hosts.iter().filter(|(_, priority)| **priority > now).map(|(host, is)| (host, *is)).collect();
            better.sort_by_key(|(host, priority)| (Reverse(*priority), *host));
            better.into_iter().find_map(|(host, _)| Some((*name, self.choose(vm, Some(host)).ok()?)))
        })
    }

    /// Whether nothing but room decides where a VM is placed.
    pub(crate) fn is_free(&self, name: &VmName) -> bool {
        self.rules.of(name).is_empty() && !self.spent.contains_key(name)
    }

    /// The hosts that rules leave to a VM, and where it has not fallen as often as it may, the best first.
    fn allowed(&self, name: &VmName, without: Option<&RuleName>) -> Vec<HostSet> {
        let groups = self.rules.groups(name, &self.ground.index, &self.ground.places, without);
        match self.spent.get(name) {
            None => groups,
            Some(spent) => groups.into_iter().map(|group| group.split(spent).1).collect(),
        }
    }

    /// The hosts that rules leave to a VM, the best first. The first of several that are to be together goes where there
    /// is room for all of them, if there is such a place.
    fn groups(&self, name: &VmName, without: Option<&RuleName>) -> Vec<HostSet> {
        let groups = self.allowed(name, without);
        let to_come = |vm: &&VmName| !self.ground.places.contains_key(*vm);
        let company: BTreeSet<&VmName> = self
            .rules
            .of(name)
            .iter()
            .filter(|(_, rule)| matches!(rule, Rule::Vms { kind: Company::Together, .. }))
            .filter(|(_, rule)| rule.vms().iter().all(|vm| to_come(&vm)))
            .flat_map(|(_, rule)| rule.vms())
            .collect();
        let asks: Vec<Ask<'_>> = company
            .into_iter()
            .filter_map(|vm| Some((vm, self.spec.vms.get(vm).filter(|spec| spec.run.is_up())?)))
            .map(|vm| self.ask(vm, None))
            .collect();
        if asks.len() < 2 {
            return groups;
        }
        let hosts = self.ground.index.hosts().map(|(id, _)| id);
        let roomy: HostSet = hosts.filter(|id| self.ground.index.holds_all(*id, &asks)).collect();
        groups.into_iter().flat_map(|group| <[HostSet; 2]>::from(group.split(&roomy))).collect()
    }

    /// What a VM asks for; memory and processors only where they are not counted already.
    fn ask<'b>(&self, (name, spec): (&VmName, &'b VmSpec), host: Option<&HostName>) -> Ask<'b> {
        let is_counted = host.is_some() && self.ground.places.get(name) == host;
        let (memory_mib, vcpus) = if is_counted { (0, 0) } else { needs_of(spec) };
        Ask { request: &spec.request, prefer_numa_node: spec.prefer_numa_node, memory_mib, vcpus }
    }

    /// The finding for a request that has no room: no such size, all taken, not enough beside it, or a rule.
    fn no_room(&self, name: &VmName, ask: &Ask<'_>, only_host: Option<&HostName>) -> Finding {
        let stock = self.ground.index.stock(ask.request);
        if let Request::Partition { vram_mib, profile } = ask.request
            && stock.total == 0
            && (vram_mib.is_some() || profile.is_some())
        {
            let mut wanted: Vec<String> = profile.iter().cloned().collect();
            wanted.extend(vram_mib.map(|mib| format!("{mib} MiB")));
            let present: Vec<_> = stock.sizes.into_iter().collect();
            return say::size_mismatch(name, &wanted.join(", "), &present);
        }
        if let Some((host, why)) = only_host.and_then(|host| Some((host, *self.ground.closed.get(host)?))) {
            return say::host_closed(name, host, why);
        }
        let without_rules = |ask: &Ask<'_>| match only_host {
            Some(host) => self.ground.index.choose_on(host, ask),
            None => self.ground.index.choose(ask),
        };
        if without_rules(ask).is_some() {
            return say::rule_waits(name, &self.rules_in_the_way(name, ask, only_host));
        }
        if without_rules(&Ask { memory_mib: 0, vcpus: 0, ..*ask }).is_some() {
            return say::no_memory(name, ask.memory_mib, ask.vcpus);
        }
        if *ask.request == Request::None {
            return say::no_host(name);
        }
        say::no_room(name, ask.request, (stock.total - stock.free, stock.total), stock.most_on_one_host)
    }

    /// The rules without any one of which a VM would have a place; all of its strict ones if it takes several.
    fn rules_in_the_way(
        &self,
        name: &VmName,
        ask: &Ask<'_>,
        only_host: Option<&HostName>,
    ) -> Vec<&'a RuleName> {
        if let Some(host) = only_host {
            return self.rules.forbidding(name, host, &self.ground.places);
        }
        let strict = self.rules.of(name).iter().filter(|(_, rule)| rule.is_strict()).map(|(rule, _)| *rule);
        let strict: Vec<&RuleName> = strict.collect();
        let alone = |rule: &&&RuleName| {
            let groups = self.rules.groups(name, &self.ground.index, &self.ground.places, Some(rule));
            self.ground.index.choose_among(&groups, ask).is_some()
        };
        let alone: Vec<&RuleName> = strict.iter().filter(alone).copied().collect();
        if alone.is_empty() { strict } else { alone }
    }
}

/// The order in which VMs are served when there is not room for all: by priority, and of equals the oldest first.
pub fn waiting_order<'v>(
    vms: impl IntoIterator<Item = (&'v VmName, &'v VmSpec)>,
) -> Vec<(&'v VmName, &'v VmSpec)> {
    let mut in_turn: Vec<(&VmName, &VmSpec)> = vms.into_iter().collect();
    in_turn.sort_by_key(|(name, spec)| turn(name, spec));
    in_turn
}

/// When it is a VM's turn: less is earlier.
pub(crate) fn turn<'v>(name: &'v VmName, spec: &VmSpec) -> (Reverse<u16>, Timestamp, &'v VmName) {
    (Reverse(spec.availability.priority), spec.created_at, name)
}
