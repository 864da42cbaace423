//! The board: which VM gets which place, by the index and the rules, and in words why one gets none.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::ground::{Closed, Ground, needs_of};
use super::groups::HostSet;
use super::index::{Ask, HostId, Index, Place};
use super::rules::{RuleBook, Whereabouts};
use super::{Uses, UsesByHost};
use crate::change::State;
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::inventory::{HostInventory, Inventory};
use crate::map::Map;
use crate::name::{GpuKey, HostName, RuleName, SlotKey, Timestamp, VmName};
use crate::plan::{GpuPlan, Plan, VmGoal};
use crate::spec::{Company, Request, Rule, Spec, VmSource, VmSpec};
use crate::whereabouts;

/// Which VM gets which place: over the [`Ground`] as it was read, kept up as VMs are placed.
#[derive(Debug, Clone)]
pub struct Board<'a> {
    spec: &'a Spec,
    inventory: &'a Inventory,
    pub(super) ground: Ground,
    rules: RuleBook<'a>,
    /// Places that were chosen for several VMs at once.
    intended: BTreeMap<VmName, Place>,
    /// Those of them that are kept until each VM takes its own.
    reserved: BTreeMap<VmName, Place>,
    /// Hosts on which a VM fell as often as it may: it is not placed there anew.
    spent: BTreeMap<VmName, HostSet>,
    /// Which host has what a VM keeps on one host ([`crate::plan::VmPlan::home`]).
    homes: BTreeMap<VmName, HostName>,
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
        inventory: &'a Inventory,
        gpus: &Map<GpuKey, GpuPlan>,
        plan: &Plan,
        uses: &UsesByHost,
    ) -> Self {
        let mut ground = Ground::new(spec.policy.placement);
        let mut vms: BTreeMap<&HostName, Vec<&VmName>> = BTreeMap::new();
        let mut coming: BTreeMap<&HostName, Vec<&VmName>> = BTreeMap::new();
        for (name, planned) in &plan.vms {
            vms.entry(&planned.host).or_default().push(name);
            if let Some(journey) = planned.open_journey() {
                coming.entry(&journey.other).or_default().push(name);
            }
        }
        let nobody = Uses::default();
        let hosts: BTreeSet<&HostName> = inventory.keys().chain(vms.keys().copied()).collect();
        for host in hosts {
            let gives = |gpu: &GpuKey| gpus.contains_key(gpu);
            let vms = vms.remove(host).unwrap_or_default();
            let state = State { spec, plan, inventory };
            let coming = coming.remove(host).unwrap_or_default();
            ground.read(host, state, gives, uses.get(host).unwrap_or(&nobody), vms, coming);
        }
        Self::over(ground, (spec, inventory), plan, plan.vms.keys())
    }

    /// The board of what is decided and observed now, with every GPU that was decided about.
    pub fn of(state: State<'a>) -> Self {
        let uses =
            state.inventory.iter().map(|(host, observed)| (host.clone(), Uses::of(observed))).collect();
        Self::new(state.spec, state.inventory, &state.plan.gpus, state.plan, &uses)
    }

    /// The board over a ground. Of the VMs named it is known where they fell, and where they ran.
    pub(crate) fn over<'v>(
        ground: Ground,
        (spec, inventory): (&'a Spec, &'a Inventory),
        plan: &Plan,
        vms: impl IntoIterator<Item = &'v VmName>,
    ) -> Self {
        let rules = RuleBook::new(spec, &ground.index);
        let mut board = Self {
            spec,
            inventory,
            rules,
            ground,
            intended: BTreeMap::new(),
            reserved: BTreeMap::new(),
            spent: BTreeMap::new(),
            homes: BTreeMap::new(),
        };
        for name in vms {
            let Some(planned) = plan.vms.get(name) else { continue };
            if let Some(tried) = &planned.tried {
                let ids = tried.hosts.iter().filter_map(|host| board.ground.index.id_of(host));
                board.spent.insert(name.clone(), ids.collect());
            }
            let home = spec.vms.get(name).and_then(|vm| planned.home(vm));
            if let Some(home) = home {
                board.settle(name, home);
            }
        }
        board
    }

    /// Notes which host has what a VM keeps on one host.
    pub(crate) fn settle(&mut self, name: &VmName, home: &HostName) {
        self.homes.insert(name.clone(), home.clone());
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
    pub fn intend<'v>(&mut self, vms: impl IntoIterator<Item = &'v VmName>) {
        let spec = self.spec;
        let known: Vec<_> = vms.into_iter().filter_map(|name| spec.vms.get_key_value(name)).collect();
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
                self.choose_served((name, spec), &ask, Some(host)).filter(|_| allowed)
            }
            None if self.is_free(name) => self.choose_served((name, spec), &ask, None),
            None => self.ground.index.choose_among(&self.groups((name, spec)), &ask),
        };
        place.ok_or_else(|| Box::new(self.no_room((name, spec), &ask, only_host)))
    }

    /// The best place on any host but one, by what [`Board::choose`] goes by.
    ///
    /// # Errors
    /// The finding that says why there is no room.
    pub fn choose_elsewhere(
        &self,
        (name, spec): (&VmName, &VmSpec),
        not_on: &HostName,
    ) -> Result<Place, Box<Finding>> {
        let ask = self.ask((name, spec), None);
        let mut groups = self.groups((name, spec));
        if let Some(id) = self.ground.index.id_of(not_on) {
            groups.iter_mut().for_each(|group| group.remove(id));
        }
        let place = self.ground.index.choose_among(&groups, &ask);
        place.ok_or_else(|| Box::new(self.no_room((name, spec), &ask, None)))
    }

    /// The best place on a host, or on any, that has all that a VM uses by name, whatever rules say.
    fn choose_served(
        &self,
        vm: (&VmName, &VmSpec),
        ask: &Ask<'_>,
        only_host: Option<&HostName>,
    ) -> Option<Place> {
        let serving = self.serving(vm);
        let index = &self.ground.index;
        match (only_host, serving) {
            (Some(host), None) => index.choose_on(host, ask),
            (Some(host), Some(serving)) => {
                index.id_of(host).filter(|id| serving.contains(*id))?;
                index.choose_on(host, ask)
            }
            (None, None) => index.choose(ask),
            (None, Some(serving)) => index.choose_among(&[serving], ask),
        }
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
        if let Some(observed) = self.inventory.get(host) {
            found.extend(whereabouts::host_lacks((name, spec), self.home_of(name), observed));
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

    /// VMs that run elsewhere than on the host that a rule prefers, and that would come to a better one if they were placed
    /// anew: those that rules let go back, with places that serve them all at once, and findings about the others.
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
            let Some(planned) = plan.vms.get(name) else { continue };
            let runs = planned.goal == VmGoal::Run && spec.run.is_up();
            let Some(from) = self.ground.places.get(name).filter(|_| runs) else { continue };
            if self.ground.closed.contains_key(from) || !matches!(spec.source, VmSource::Made(_)) {
                continue;
            }
            if let Some(home) = planned.home(spec) {
                then.settle(name, home);
            }
            let Some((rule, goes_back, to)) = then.better_place((name, spec), from) else { continue };
            if goes_back {
                then.put((name, spec), &to);
                moves.push(Move { vm: name.clone(), from: from.clone(), to, rule: rule.clone() });
            } else {
                findings.push(say::rule_failback(rule, name, from, &to.host));
            }
        }
        (moves, findings)
    }

    /// Where a VM that runs would come to if it were placed anew, if that is better by all rules together than where it is and
    /// a rule about hosts prefers it; and that rule, and whether it lets the VM go back. It is the place that the VM gets
    /// after it was shut down for it: so it goes there, and does not have to go again.
    fn better_place(&self, vm: (&VmName, &VmSpec), from: &HostName) -> Option<(&'a RuleName, bool, Place)> {
        let about_hosts = self.rules.of(vm.0).iter().filter_map(|(name, rule)| match rule {
            Rule::Hosts { hosts, failback, .. } => Some((*name, hosts, *failback)),
            Rule::Labels { .. } | Rule::Vms { .. } => None,
        });
        let liking =
            |hosts: &BTreeMap<HostName, u16>, host: &HostName| hosts.get(host).copied().unwrap_or_default();
        let mut worth_a_look = about_hosts.clone();
        if !worth_a_look.any(|(_, hosts, _)| hosts.values().any(|other| *other > liking(hosts, from))) {
            return None;
        }
        let to = self.choose(vm, None).ok()?;
        let groups = self.rules.groups(vm.0, &self.ground.index, &self.ground.places, None);
        let standing = |host: &HostName| {
            let id = self.ground.index.id_of(host)?;
            groups.iter().position(|group| group.contains(id)).map(Reverse)
        };
        if standing(&to.host) <= standing(from) {
            return None;
        }
        let prefers = about_hosts.filter(|(_, hosts, _)| liking(hosts, &to.host) > liking(hosts, from));
        let (rule, _, goes_back) = prefers.max_by_key(|(name, _, failback)| (*failback, Reverse(*name)))?;
        Some((rule, goes_back, to))
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
        self.ground.close(host, Closed::NotUp);
        self.ground.places.retain(|_, at| at != host);
    }

    /// Puts a VM into a place that was chosen for it.
    pub fn put(&mut self, vm: (&VmName, &VmSpec), place: &Place) {
        let Ask { memory_mib, vcpus, .. } = self.ask(vm, Some(&place.host));
        self.ground.put(vm.0, place, (memory_mib, vcpus));
    }

    /// Takes a VM out of the place that it was put into when it had none.
    pub(crate) fn unput(&mut self, (name, spec): (&VmName, &VmSpec), place: &Place) {
        self.ground.unput(name, place, self.needs((name, spec), Some(&place.host)));
    }

    /// A place on the first host, by name, that has room for a VM and all that it uses, and that no rule forbids to it.
    pub(super) fn first_fit(&self, (name, spec): (&VmName, &VmSpec)) -> Option<Place> {
        let ask = self.ask((name, spec), None);
        if self.is_free(name) {
            let serving = self.serving((name, spec));
            let serves = |host| serving.as_ref().is_none_or(|serving| serving.contains(host));
            return self.ground.index.first_fit(&ask, serves);
        }
        let groups = self.allowed((name, spec), None);
        self.ground.index.first_fit(&ask, |host| groups.iter().any(|group| group.contains(host)))
    }

    /// Whether no rule, and nowhere that a VM fell, has a say in where it is placed.
    pub(crate) fn is_free(&self, name: &VmName) -> bool {
        self.rules.of(name).is_empty() && !self.spent.contains_key(name)
    }

    /// The host that has what a VM keeps on one host, with what it reports. One that is no member any more has nothing.
    fn home_of(&self, name: &VmName) -> Option<&'a HostInventory> {
        let home = self.homes.get(name)?;
        let is_member = self.spec.hosts.is_empty() || self.spec.hosts.contains_key(home);
        self.inventory.get(home).filter(|_| is_member).map(|observed| &**observed)
    }

    /// The hosts that have all that a VM uses by name; none where every host has.
    pub(super) fn serving(&self, (name, spec): (&VmName, &VmSpec)) -> Option<HostSet> {
        self.ground.reach.serving(spec, self.home_of(name))
    }

    /// The hosts that rules leave to a VM, that have all that it uses, and where it has not fallen as often as it may, the
    /// best first.
    fn allowed(&self, vm: (&VmName, &VmSpec), without: Option<&RuleName>) -> Vec<HostSet> {
        let mut groups = self.rules.groups(vm.0, &self.ground.index, &self.ground.places, without);
        if let Some(serving) = self.serving(vm) {
            groups.iter_mut().for_each(|group| *group = group.split(&serving).0);
        }
        if let Some(spent) = self.spent.get(vm.0) {
            groups.iter_mut().for_each(|group| *group = group.split(spent).1);
        }
        groups
    }

    /// The hosts that are left to a VM, the best first. The first of several that are to be together goes where there is
    /// room for all of them, if there is such a place.
    fn groups(&self, (name, spec): (&VmName, &VmSpec)) -> Vec<HostSet> {
        let groups = self.allowed((name, spec), None);
        let to_come = |vm: &&VmName| !self.ground.places.contains_key(*vm);
        let company: BTreeSet<&VmName> = self
            .rules
            .of(name)
            .iter()
            .filter(|(_, rule)| matches!(rule, Rule::Vms { kind: Company::Together, .. }))
            .filter(|(_, rule)| rule.vms().iter().all(|vm| to_come(&vm)))
            .flat_map(|(_, rule)| rule.vms())
            .collect();
        let company: Vec<(&VmName, &VmSpec)> = company
            .into_iter()
            .filter_map(|vm| Some((vm, self.spec.vms.get(vm).filter(|spec| spec.run.is_up())?)))
            .collect();
        if company.len() < 2 {
            return groups;
        }
        let asks: Vec<Ask<'_>> = company.iter().map(|vm| self.ask(*vm, None)).collect();
        let serving: Vec<HostSet> = company.iter().filter_map(|vm| self.serving(*vm)).collect();
        let hosts = self.ground.index.hosts().map(|(id, _)| id);
        let serves = |id: &HostId| serving.iter().all(|serving| serving.contains(*id));
        let roomy: HostSet =
            hosts.filter(serves).filter(|id| self.ground.index.holds_all(*id, &asks)).collect();
        groups.into_iter().flat_map(|group| <[HostSet; 2]>::from(group.split(&roomy))).collect()
    }

    /// What a VM asks for; memory and processors only where they are not counted already.
    fn ask<'b>(&self, (name, spec): (&VmName, &'b VmSpec), host: Option<&HostName>) -> Ask<'b> {
        let is_counted = host.is_some() && self.ground.places.get(name) == host;
        let (memory_mib, vcpus) = if is_counted { (0, 0) } else { self.needs((name, spec), host) };
        Ask { request: &spec.request, prefer_numa_node: spec.prefer_numa_node, memory_mib, vcpus }
    }

    /// The memory in MiB and the processors that a VM needs on a host; without one, on the host that has its definition.
    pub(super) fn needs(&self, (name, spec): (&VmName, &VmSpec), host: Option<&HostName>) -> (u64, u64) {
        let observed = match (host, &spec.source) {
            (Some(host), VmSource::Adopted) => self.inventory.get(host).map(|observed| &**observed),
            (None, VmSource::Adopted) => self.home_of(name),
            (_, VmSource::Made(_)) => None,
        };
        needs_of(name, spec, observed)
    }

    /// The finding for a request that has no room: no such size, all taken, not enough beside it, something that is not
    /// where there is room, or a rule.
    fn no_room(&self, vm: (&VmName, &VmSpec), ask: &Ask<'_>, only_host: Option<&HostName>) -> Finding {
        let name = vm.0;
        let bound =
            |home: &'a HostInventory| Some((&home.host, whereabouts::bound_by(vm.1, home)?.to_owned()));
        if only_host.is_none()
            && let Some((home, pool)) = self.home_of(name).and_then(bound)
            && self.ground.index.choose_on(home, ask).is_none()
        {
            return say::waits_for_storage(name, home, &pool);
        }
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
        if self.choose_served(vm, ask, only_host).is_some() {
            return say::rule_waits(name, &self.rules_in_the_way(vm, ask, only_host));
        }
        let with_room = |ask: &Ask<'_>| match only_host {
            Some(host) => self.ground.index.choose_on(host, ask),
            None => self.ground.index.choose(ask),
        };
        if let Some(finding) = with_room(ask).and_then(|place| self.waits_for_lack(vm, &place.host)) {
            return finding;
        }
        if with_room(&Ask { memory_mib: 0, vcpus: 0, ..*ask }).is_some() {
            return say::no_memory(name, ask.memory_mib, ask.vcpus);
        }
        if *ask.request == Request::None {
            return say::no_host(name);
        }
        say::no_room(name, ask.request, (stock.total - stock.free, stock.total), stock.most_on_one_host)
    }

    /// The finding that a VM waits although a host has room for it, because that lacks something; if so.
    fn waits_for_lack(&self, (name, spec): (&VmName, &VmSpec), host: &HostName) -> Option<Finding> {
        let home = self.home_of(name);
        let at_home = home.map(|home| &home.host);
        let lack = whereabouts::lacks((name, spec), home, self.inventory.get(host)?).next()?;
        Some(say::waits_for_lack(name, host, at_home, lack))
    }

    /// The rules without any one of which a VM would have a place; all of its strict ones if it takes several.
    fn rules_in_the_way(
        &self,
        vm: (&VmName, &VmSpec),
        ask: &Ask<'_>,
        only_host: Option<&HostName>,
    ) -> Vec<&'a RuleName> {
        if let Some(host) = only_host {
            return self.rules.forbidding(vm.0, host, &self.ground.places);
        }
        let strict = self.rules.of(vm.0).iter().filter(|(_, rule)| rule.is_strict()).map(|(rule, _)| *rule);
        let strict: Vec<&RuleName> = strict.collect();
        let alone =
            |rule: &&&RuleName| self.ground.index.choose_among(&self.allowed(vm, Some(rule)), ask).is_some();
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
