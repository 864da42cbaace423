//! The board: which VM gets which place, by the index and the rules, and in words why one gets none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::groups::HostSet;
use super::index::{Ask, Index, Place};
use super::room::{GpuRoom, HostRoom, Kind, SlotSet, UNCOUNTED};
use super::rules::{RuleBook, Whereabouts};
use super::{Uses, UsesByHost, gpu_obstacles, group_obstacle, is_lost, slots_of};
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::{HostInventory, Hypervisor, Inventory};
use crate::name::{GpuKey, HostName, RuleName, Slot, SlotKey, Timestamp, VmName};
use crate::plan::{GpuPlan, Plan, Standing, VmGoal};
use crate::spec::{Company, Duty, GpuMode, Request, Rule, Spec, VmSource, VmSpec};

/// Every host that takes VMs with its room, and where VMs are: built once a pass, kept up as VMs are placed.
///
/// Memory and virtual processors are counted where hosts are members of a cluster. A host that stands alone has no choice
/// to make by them; there libvirt decides.
#[derive(Debug, Clone)]
pub struct Board<'a> {
    spec: &'a Spec,
    pub(super) index: Index,
    rules: RuleBook<'a>,
    /// Hosts that take nobody, and why.
    closed: BTreeMap<HostName, Closed>,
    pub(super) places: Whereabouts,
    /// Places that were chosen for several VMs at once.
    intended: BTreeMap<VmName, Place>,
    /// Those of them that are kept until each VM takes its own.
    reserved: BTreeMap<VmName, Place>,
    /// Hosts on which a VM fell as often as it may: it is not placed there anew.
    spent: BTreeMap<VmName, HostSet>,
}

/// Why a host takes nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// It is no member of the cluster.
    Stranger,
    /// It is in maintenance.
    Maintenance,
    /// Its administrator is shutting it down.
    Departing,
    /// It is silent, or was given up.
    NotUp,
    /// Its libvirt does not answer.
    NoLibvirt,
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
        gpus: &BTreeMap<GpuKey, GpuPlan>,
        plan: &Plan,
        uses: &UsesByHost,
    ) -> Self {
        let loads = loads(spec, inventory, plan);
        let mut by_host: BTreeMap<&HostName, (u64, u64)> = BTreeMap::new();
        for load in loads.values() {
            let (memory_mib, vcpus) = by_host.entry(load.host).or_default();
            *memory_mib += load.memory_mib;
            *vcpus += load.vcpus;
        }
        let nobody = Uses::default();
        let mut closed_hosts = BTreeMap::new();
        let mut index = Index::new(spec.policy.placement);
        for (host, observed) in inventory {
            if let Some(why) = closed(host, spec, plan, observed) {
                closed_hosts.insert(host.clone(), why);
                continue;
            }
            let (memory_mib, vcpus) = counted(host, spec, observed);
            let (used_mib, used_vcpus) = by_host.get(host).copied().unwrap_or_default();
            let (others_mib, others_vcpus) = others(spec, observed);
            let free = |all, used: u64| if all == UNCOUNTED { all } else { u64::saturating_sub(all, used) };
            index.set_host(HostRoom {
                host: host.clone(),
                memory_mib,
                free_memory_mib: free(memory_mib, used_mib + others_mib),
                free_vcpus: free(vcpus, used_vcpus + others_vcpus),
                gpus: gpu_rooms(host, observed, gpus, plan, uses.get(host).unwrap_or(&nobody)),
            });
        }
        let places = loads.into_iter().map(|(vm, load)| (vm.clone(), load.host.clone())).collect();
        let spent = spent(plan, &index);
        Self {
            spec,
            rules: RuleBook::new(spec, &index),
            index,
            closed: closed_hosts,
            places,
            intended: BTreeMap::new(),
            reserved: BTreeMap::new(),
            spent,
        }
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
            let is_allowed = self.rules.forbidding(&name, &place.host, &self.places).is_empty();
            if is_allowed && self.index.still_has(&place, &self.ask(vm, None)) {
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
                let allowed = self.rules.forbidding(name, host, &self.places).is_empty();
                self.index.choose_on(host, &ask).filter(|_| allowed)
            }
            None if self.is_free(name) => self.index.choose(&ask),
            None => self.index.choose_among(&self.groups(name, None), &ask),
        };
        place.ok_or_else(|| Box::new(self.no_room(name, &ask, only_host)))
    }

    /// What keeps a VM from a host beside the host's GPUs: every reason.
    pub fn obstacles(&self, (name, spec): (&VmName, &VmSpec), host: &HostName) -> Vec<Finding> {
        let mut found: Vec<Finding> = self
            .rules
            .forbidding(name, host, &self.places)
            .into_iter()
            .map(|rule| say::rule_forbids(rule, name, host))
            .collect();
        if self.places.get(name) == Some(host) {
            return found;
        }
        if let Some(why) = self.closed.get(host) {
            found.push(say::host_closed(name, host, *why));
        } else {
            let bare = Ask { request: &Request::None, ..self.ask((name, spec), Some(host)) };
            if self.index.choose_on(host, &bare).is_none() {
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
        for (name, spec) in waiting_order(&self.spec.vms) {
            let runs = plan.vms.get(name).is_some_and(|planned| planned.goal == VmGoal::Run);
            let Some(from) = self.places.get(name).filter(|_| runs && spec.run.is_up()) else { continue };
            if self.closed.contains_key(from) || !matches!(spec.source, VmSource::Made(_)) {
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
        &self.places
    }

    /// The room of all hosts that take VMs.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Closes a host, as if it had died with all that it runs.
    pub fn close(&mut self, host: &HostName) {
        self.index.remove_host(host);
        self.closed.insert(host.clone(), Closed::NotUp);
        self.places.retain(|_, at| at != host);
    }

    /// Puts a VM into a place that was chosen for it.
    pub fn put(&mut self, vm: (&VmName, &VmSpec), place: &Place) {
        let Ask { memory_mib, vcpus, .. } = self.ask(vm, Some(&place.host));
        self.index.take(place, memory_mib, vcpus);
        if self.places.get(vm.0) != Some(&place.host) {
            self.places.insert(vm.0.clone(), place.host.clone());
        }
    }

    /// Takes a VM out of the place that it was put into when it had none.
    pub(super) fn unput(&mut self, (name, spec): (&VmName, &VmSpec), place: &Place) {
        let (memory_mib, vcpus) = needs_of(spec);
        self.index.release(place, memory_mib, vcpus);
        self.places.remove(name);
    }

    /// A place on the first host, by name, that has room for a VM and that no rule forbids to it.
    pub(super) fn first_fit(&self, (name, spec): (&VmName, &VmSpec)) -> Option<Place> {
        let ask = self.ask((name, spec), None);
        if self.is_free(name) {
            return self.index.first_fit(&ask, |_| true);
        }
        let groups = self.allowed(name, None);
        self.index.first_fit(&ask, |host| groups.iter().any(|group| group.contains(host)))
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
        let groups = self.rules.groups(name, &self.index, &self.places, without);
        match self.spent.get(name) {
            None => groups,
            Some(spent) => groups.into_iter().map(|group| group.split(spent).1).collect(),
        }
    }

    /// The hosts that rules leave to a VM, the best first. The first of several that are to be together goes where there
    /// is room for all of them, if there is such a place.
    fn groups(&self, name: &VmName, without: Option<&RuleName>) -> Vec<HostSet> {
        let groups = self.allowed(name, without);
        let to_come = |vm: &&VmName| !self.places.contains_key(*vm);
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
        let hosts = self.index.hosts().map(|(id, _)| id);
        let roomy: HostSet = hosts.filter(|id| self.index.holds_all(*id, &asks)).collect();
        groups.into_iter().flat_map(|group| <[HostSet; 2]>::from(group.split(&roomy))).collect()
    }

    /// What a VM asks for; memory and processors only where they are not counted already.
    fn ask<'b>(&self, (name, spec): (&VmName, &'b VmSpec), host: Option<&HostName>) -> Ask<'b> {
        let is_counted = host.is_some() && self.places.get(name) == host;
        let (memory_mib, vcpus) = if is_counted { (0, 0) } else { needs_of(spec) };
        Ask { request: &spec.request, prefer_numa_node: spec.prefer_numa_node, memory_mib, vcpus }
    }

    /// The finding for a request that has no room: no such size, all taken, not enough beside it, or a rule.
    fn no_room(&self, name: &VmName, ask: &Ask<'_>, only_host: Option<&HostName>) -> Finding {
        let stock = self.index.stock(ask.request);
        if let Request::Partition { vram_mib, profile } = ask.request
            && stock.total == 0
            && (vram_mib.is_some() || profile.is_some())
        {
            let mut wanted: Vec<String> = profile.iter().cloned().collect();
            wanted.extend(vram_mib.map(|mib| format!("{mib} MiB")));
            let present: Vec<_> = stock.sizes.into_iter().collect();
            return say::size_mismatch(name, &wanted.join(", "), &present);
        }
        if let Some((host, why)) = only_host.and_then(|host| Some((host, *self.closed.get(host)?))) {
            return say::host_closed(name, host, why);
        }
        let without_rules = |ask: &Ask<'_>| match only_host {
            Some(host) => self.index.choose_on(host, ask),
            None => self.index.choose(ask),
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
            return self.rules.forbidding(name, host, &self.places);
        }
        let strict = self.rules.of(name).iter().filter(|(_, rule)| rule.is_strict()).map(|(rule, _)| *rule);
        let strict: Vec<&RuleName> = strict.collect();
        let alone = |rule: &&&RuleName| {
            let groups = self.rules.groups(name, &self.index, &self.places, Some(rule));
            self.index.choose_among(&groups, ask).is_some()
        };
        let alone: Vec<&RuleName> = strict.iter().filter(alone).copied().collect();
        if alone.is_empty() { strict } else { alone }
    }
}

/// The order in which VMs are served when there is not room for all: by priority, and of equals the oldest first.
pub fn waiting_order(vms: &BTreeMap<VmName, VmSpec>) -> Vec<(&VmName, &VmSpec)> {
    let mut in_turn: Vec<(&VmName, &VmSpec)> = vms.iter().collect();
    in_turn.sort_by_key(|(name, spec)| turn(name, spec));
    in_turn
}

/// When it is a VM's turn: less is earlier.
pub(crate) fn turn<'v>(name: &'v VmName, spec: &VmSpec) -> (Reverse<u16>, Timestamp, &'v VmName) {
    (Reverse(spec.availability.priority), spec.created_at, name)
}

/// The hosts on which VMs fell as often as they may.
fn spent(plan: &Plan, index: &Index) -> BTreeMap<VmName, HostSet> {
    let tried = plan.vms.iter().filter_map(|(name, planned)| Some((name, planned.tried.as_ref()?)));
    let ids = |hosts: &BTreeSet<HostName>| hosts.iter().filter_map(|host| index.id_of(host)).collect();
    tried.map(|(name, tried)| (name.clone(), ids(&tried.hosts))).collect()
}

/// Why a host takes nobody, if so.
pub fn closed(host: &HostName, spec: &Spec, plan: &Plan, observed: &HostInventory) -> Option<Closed> {
    if !spec.hosts.is_empty() {
        let Some(member) = spec.hosts.get(host) else { return Some(Closed::Stranger) };
        if member.duty == Duty::Maintenance {
            return Some(Closed::Maintenance);
        }
        if plan.hosts.get(host).is_some_and(|planned| planned.departs) {
            return Some(Closed::Departing);
        }
        if plan.hosts.get(host).is_none_or(|planned| planned.standing != Standing::Up) {
            return Some(Closed::NotUp);
        }
    }
    matches!(observed.hypervisor, Hypervisor::Down { .. }).then_some(Closed::NoLibvirt)
}

/// Memory in MiB and virtual processors that a host has for VMs.
fn counted(host: &HostName, spec: &Spec, observed: &HostInventory) -> (u64, u64) {
    let Some(member) = spec.hosts.get(host) else { return (UNCOUNTED, UNCOUNTED) };
    let memory_mib = observed.system.memory_mib.saturating_sub(member.reserved_memory_mib);
    let per_cpu = u64::from(spec.policy.vcpus_per_cpu.0);
    (memory_mib, u64::from(observed.system.cpus).saturating_mul(per_cpu))
}

/// What running domains that are no VMs of ours have of a host's memory and processors.
fn others(spec: &Spec, observed: &HostInventory) -> (u64, u64) {
    let domains = observed.domains().into_iter().flat_map(BTreeMap::values);
    let strangers = domains.filter(|domain| {
        domain.state.is_active()
            && !domain
                .name
                .parse()
                .is_ok_and(|name: VmName| spec.vms.get(&name).is_some_and(|vm| vm.id.0 == domain.uuid))
    });
    strangers.fold((0, 0), |(memory_mib, vcpus), domain| {
        (memory_mib + domain.memory_mib, vcpus + u64::from(domain.vcpus))
    })
}

/// Memory in MiB and virtual processors of a VM that Tranche defines; those of an adopted one are its host's affair.
fn needs_of(spec: &VmSpec) -> (u64, u64) {
    match &spec.source {
        VmSource::Made(hardware) => (hardware.memory_mib, u64::from(hardware.vcpus)),
        VmSource::Adopted => (0, 0),
    }
}

/// Where a VM is, and what it has there.
#[derive(Debug, Clone, Copy)]
struct Load<'a> {
    host: &'a HostName,
    memory_mib: u64,
    vcpus: u64,
}

/// The VMs that run or shall run, where, and with what. A host that is known to be down runs nothing.
fn loads<'a>(spec: &'a Spec, inventory: &'a Inventory, plan: &'a Plan) -> BTreeMap<&'a VmName, Load<'a>> {
    let mut loads = BTreeMap::new();
    for (name, planned) in &plan.vms {
        let Some(vm) = spec.vms.get(name).filter(|vm| vm.id == planned.id) else { continue };
        let host = &planned.host;
        let standing = plan.hosts.get(host).map(|planned| planned.standing);
        if matches!(standing, Some(Standing::Down { .. })) {
            continue;
        }
        let domain = inventory.get(host).and_then(|observed| observed.domain(name));
        let active = domain.filter(|domain| domain.state.is_active() && domain.uuid == vm.id.0);
        if let Some(domain) = active {
            let vcpus = u64::from(domain.vcpus);
            loads.insert(name, Load { host, memory_mib: domain.memory_mib, vcpus });
        } else if planned.goal.starts() {
            let (memory_mib, vcpus) = needs_of(vm);
            loads.insert(name, Load { host, memory_mib, vcpus });
        }
    }
    loads
}

/// The room on a host's GPUs.
fn gpu_rooms(
    host: &HostName,
    observed: &HostInventory,
    gpus: &BTreeMap<GpuKey, GpuPlan>,
    plan: &Plan,
    uses: &Uses,
) -> Vec<GpuRoom> {
    let of_host = gpus.range(GpuKey::first_of(host)..).take_while(|(key, _)| key.host == *host);
    let rooms = of_host.filter_map(|(key, planned)| {
        let gpu = observed.gpus.get(&key.address)?;
        let kind = kind_of(planned)?;
        if !gpu_obstacles(key, planned, gpu, observed).is_empty() {
            return None;
        }
        let mut slot_key = SlotKey { gpu: key.clone(), slot: Slot::Partition(0) };
        let mut usable = SlotSet::default();
        let mut free = SlotSet::default();
        for slot in slots_of(&planned.mode) {
            slot_key.slot = slot;
            if group_obstacle(&slot_key, gpu).is_some() || is_lost(slot, planned, gpu) {
                continue;
            }
            usable.insert(slot);
            if !plan.bookings.contains_key(&slot_key) && !uses.is_used(slot, gpu) {
                free.insert(slot);
            }
        }
        Some(GpuRoom { address: key.address.clone(), numa_node: gpu.numa_node, kind, usable, free })
    });
    rooms.collect()
}

/// What a GPU's slots are; none where it has none, or where their size is not known yet.
fn kind_of(planned: &GpuPlan) -> Option<Kind> {
    match &planned.mode {
        GpuMode::Host => None,
        GpuMode::Partitioned { .. } => planned.offer.clone().map(Kind::Equal),
        GpuMode::Mixed { .. } => Some(Kind::Mixed(planned.sizes.clone())),
        GpuMode::Passthrough { pool, .. } => Some(Kind::Whole(pool.clone())),
    }
}
