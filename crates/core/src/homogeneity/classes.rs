//! GPUs grouped by kind: those of which everything that is compared is equal are one class.

use std::collections::BTreeMap;

use super::traits::Traits;
use crate::inventory::Inventory;
use crate::name::{GpuAddress, GpuKey, HostName};
use crate::spec::{GpuMode, Spec};

/// A GPU, by where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member<'a> {
    pub(crate) host: &'a HostName,
    pub(crate) address: &'a GpuAddress,
}

impl Member<'_> {
    pub(crate) fn key(&self) -> GpuKey {
        GpuKey { host: self.host.clone(), address: self.address.clone() }
    }
}

/// GPUs of which everything that is compared is equal, in order.
#[derive(Debug)]
pub(crate) struct Class<'a> {
    pub(crate) traits: Traits<'a>,
    pub(crate) members: Vec<Member<'a>>,
}

/// All GPUs, by class.
#[derive(Debug)]
pub(crate) struct Classes<'a> {
    pub(crate) all: Vec<Class<'a>>,
    /// How often a class was looked up: once for each run of GPUs that are equal to the one before.
    #[cfg(test)]
    lookups: usize,
}

impl<'a> Classes<'a> {
    /// Walks over wishes and reports together, once: both are in the order of hosts and addresses.
    pub(crate) fn of(spec: &'a Spec, inventory: &'a Inventory) -> Self {
        let is_member = |host: &HostName| spec.hosts.is_empty() || spec.hosts.contains_key(host);
        let mut runs = Runs::default();
        let mut wishes = spec.gpus.iter().peekable();
        for (host, observed) in inventory {
            let counts = is_member(host);
            for (address, gpu) in &observed.gpus {
                let here = Member { host, address };
                while let Some((key, wish)) = wishes.next_if(|(key, _)| at(key) < here) {
                    if wish.mode != GpuMode::Host && is_member(&key.host) {
                        runs.add(Traits::unseen(wish), at(key));
                    }
                }
                let wish = wishes.next_if(|(key, _)| at(key) == here).map(|(_, wish)| wish);
                if counts {
                    runs.add(Traits::seen(gpu, observed, wish), here);
                }
            }
        }
        for (key, wish) in wishes.filter(|(key, wish)| wish.mode != GpuMode::Host && is_member(&key.host)) {
            runs.add(Traits::unseen(wish), at(key));
        }
        runs.end()
    }
}

fn at(key: &GpuKey) -> Member<'_> {
    Member { host: &key.host, address: &key.address }
}

#[derive(Debug, Default)]
struct Runs<'a> {
    classes: BTreeMap<Traits<'a>, Vec<Member<'a>>>,
    run: Option<Class<'a>>,
    lookups: usize,
}

impl<'a> Runs<'a> {
    fn add(&mut self, traits: Traits<'a>, member: Member<'a>) {
        if let Some(run) = self.run.as_mut().filter(|run| run.traits == traits) {
            run.members.push(member);
            return;
        }
        let ended = self.run.replace(Class { traits, members: vec![member] });
        self.file(ended);
    }

    fn file(&mut self, run: Option<Class<'a>>) {
        let Some(Class { traits, members }) = run else { return };
        self.lookups += 1;
        self.classes.entry(traits).or_default().extend(members);
    }

    fn end(mut self) -> Classes<'a> {
        let last = self.run.take();
        self.file(last);
        let all = self.classes.into_iter().map(|(traits, members)| Class { traits, members }).collect();
        Classes {
            all,
            #[cfg(test)]
            lookups: self.lookups,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::homogeneity;
    use crate::inventory::Gpu;
    use crate::plan::Plan;
    use crate::spec::GpuSpec;

    /// So many hosts with eight GPUs each; every GPU of the hosts that are `odd` has more memory.
    fn cluster(hosts: usize, odd: impl Fn(usize) -> bool) -> (Spec, Inventory) {
        let (mut spec, mut inventory) = (Spec::default(), Inventory::new());
        for number in 0..hosts {
            let host: HostName = format!("node{number:04}").parse().unwrap();
            let mut gpus = serde_json::Map::new();
            for bus in 1..=8 {
                let address = format!("0000:{bus:02x}:00.0");
                let gpu = json!({
                    "address": address, "ids": "1af4:00aa:1af4:0001", "class": 0x03_0200, "model": "Model GPU",
                    "emulated": true, "vram_mib": if odd(number) { 32_768 } else { 16_384 }, "driver": "model",
                    "numa_node": null, "iommu_group": null, "bars": [], "reset_methods": [], "boot_vga": false,
                    "aer": null, "backend": "sriov-vfio", "sriov": null, "partitions": [], "open_by": [],
                    "offers": [{"count": 4, "profile": "1/4", "series": null, "vram_mib": 4_096}],
                });
                let key = GpuKey { host: host.clone(), address: address.parse().unwrap() };
                let card: Gpu = serde_json::from_value(gpu.clone()).unwrap();
                let mode = GpuMode::Partitioned { count: 4, series: None };
                spec.gpus.insert(key, GpuSpec { mode, identity: card.identity(), reloads: 0 });
                gpus.insert(address, gpu);
            }
            let seen = json!({
                "host": host, "boot_id": "boot", "observed_at": 0, "gpus": gpus, "stuck": [], "notes": [],
                "system": {"kernel": "6.12.0", "cpu_model": "model", "cpus": 8, "memory_mib": 65_536, "iommu": {"state": "off"}},
                "hypervisor": {"state": "down", "reason": "not asked"}, "progress": crate::inventory::Progress::default(),
            });
            inventory.insert(host, serde_json::from_value(seen).unwrap());
        }
        (spec, inventory)
    }

    #[test]
    fn a_thousand_hosts_are_as_much_work_as_they_have_kinds_of_gpus_in_a_row() {
        let (spec, inventory) = cluster(1_000, |_| false);
        let classes = Classes::of(&spec, &inventory);
        assert_eq!((classes.lookups, classes.all.len()), (1, 1));
        assert_eq!(classes.all[0].members.len(), 8_000);
        assert_eq!(homogeneity::findings(&spec, &inventory, &Plan::default()), []);

        let (spec, inventory) = cluster(1_000, |number| number % 100 == 99);
        let classes = Classes::of(&spec, &inventory);
        assert_eq!((classes.lookups, classes.all.len()), (20, 2));
        assert_eq!(homogeneity::findings(&spec, &inventory, &Plan::default()).len(), 1);
    }
}
