//! Which values the GPUs of a set have, which one is usual, and who differs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::classes::{Class, Classes, Member};
use super::traits::{Use, Value};
use super::{Attribute, AttributeReport, Breaks, Grade, Mend, SetName, ValueReport};
use crate::name::{GpuAddress, GpuKey, HostName, Timestamp};
use crate::spec::Spec;

/// The classes of a set.
#[derive(Debug)]
pub(super) struct Set<'a> {
    pub(super) name: SetName,
    pub(super) classes: Vec<&'a Class<'a>>,
}

/// What the GPUs of a set have of one attribute. Classes are named by their place in the set.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    pub(super) attribute: Attribute,
    values: BTreeMap<Value<'a>, Vec<usize>>,
    pub(super) usual: Option<Value<'a>>,
    tie: bool,
    pub(super) follows_from: Option<Attribute>,
}

/// The sets that have any GPU, in order.
pub(super) fn sets<'a>(classes: &'a Classes<'a>) -> Vec<Set<'a>> {
    let mut by_name: BTreeMap<SetName, Vec<&Class<'_>>> = BTreeMap::new();
    for class in &classes.all {
        let name = match class.traits.used {
            Use::Split { .. } | Use::Mixed(_) => SetName::Partitions,
            Use::Idle if class.traits.can_be_split() => SetName::Partitions,
            Use::Idle => continue,
            Use::Whole(Some(pool)) => SetName::Pool(pool.clone()),
            Use::Whole(None) => SetName::NoPool,
        };
        by_name.entry(name).or_default().push(class);
    }
    by_name.into_iter().map(|(name, classes)| Set { name, classes }).collect()
}

fn serves(class: &Class<'_>) -> bool {
    class.traits.used != Use::Idle
}

impl<'a> Set<'a> {
    /// Whether GPUs in use differ in anything.
    pub(super) fn differs_in_use(&self) -> bool {
        self.classes.iter().filter(|class| serves(class)).count() > 1
    }

    pub(super) fn members(&self) -> impl Iterator<Item = Member<'a>> {
        self.classes.iter().flat_map(|class| class.members.iter().copied())
    }

    pub(super) fn in_use(&self) -> impl Iterator<Item = Member<'a>> {
        self.classes.iter().filter(|class| serves(class)).flat_map(|class| class.members.iter().copied())
    }

    /// Every attribute, the weightiest first, each with the one that it follows from.
    pub(super) fn judge_all(&self, spec: &Spec) -> Vec<Judged<'a>> {
        let mut all: Vec<Judged<'a>> = Vec::new();
        let compared =
            |attribute: &Attribute| self.name == SetName::Partitions || attribute.is_of_whole_gpus();
        for attribute in Attribute::ALL.into_iter().filter(compared) {
            let mut judged = self.judge(attribute, spec);
            if attribute.comes_with_the_card() {
                let odd: BTreeSet<usize> = judged.odd_classes().collect();
                let causes = all.iter().filter(|cause| cause.attribute <= Attribute::Device);
                let explains =
                    |cause: &&Judged<'_>| !odd.is_empty() && odd.is_subset(&cause.odd_classes().collect());
                judged.follows_from = causes.into_iter().find(explains).map(|cause| cause.attribute);
            }
            all.push(judged);
        }
        all
    }

    fn judge(&self, attribute: Attribute, spec: &Spec) -> Judged<'a> {
        let mut values: BTreeMap<Value<'a>, Vec<usize>> = BTreeMap::new();
        for (place, class) in self.classes.iter().enumerate() {
            if let Some(value) = class.traits.value(attribute) {
                values.entry(value).or_default().push(place);
            }
        }
        let any_serves = values.values().flatten().any(|place| serves(self.classes[*place]));
        let votes = |places: &[usize]| -> usize {
            let counted = places.iter().map(|place| self.classes[*place]);
            counted.filter(|class| serves(class) || !any_serves).map(|class| class.members.len()).sum()
        };
        let most = values.values().map(|places| votes(places)).max().unwrap_or_default();
        let mut first: Vec<(&Value<'a>, &Vec<usize>)> =
            values.iter().filter(|(_, places)| votes(places) == most).collect();
        let tie = first.len() > 1;
        if tie {
            first.sort_by_cached_key(|(_, places)| self.oldest(places, any_serves, spec));
        }
        let usual = first.first().map(|(value, _)| (*value).clone());
        Judged { attribute, values, usual, tie, follows_from: None }
    }

    /// The GPU of these classes that has been there longest: by when its host joined, by name, by address.
    fn oldest(
        &self,
        places: &[usize],
        only_in_use: bool,
        spec: &Spec,
    ) -> Option<(Timestamp, &'a HostName, &'a GpuAddress)> {
        let classes = places.iter().map(|place| self.classes[*place]);
        let members = classes.filter(|class| serves(class) || !only_in_use).flat_map(|class| &class.members);
        let joined = |host: &HostName| spec.hosts.get(host).map_or(Timestamp(0), |host| host.joined_at);
        members.map(|gpu| (joined(gpu.host), gpu.host, gpu.address)).min()
    }
}

impl<'a> Judged<'a> {
    /// The classes that have another value than the usual one.
    pub(super) fn odd_classes(&self) -> impl Iterator<Item = usize> {
        let odd = self.values.iter().filter(|(value, _)| Some(*value) != self.usual.as_ref());
        odd.flat_map(|(_, places)| places.iter().copied())
    }

    /// The GPUs in use that have another value than the usual one.
    pub(super) fn odd_in_use<'s>(&'s self, set: &'s Set<'a>) -> impl Iterator<Item = Member<'a>> + 's {
        let odd = self.odd_classes().map(|place| set.classes[place]).filter(|class| serves(class));
        odd.flat_map(|class| class.members.iter().copied())
    }

    /// A class that has the usual value; one in use, if there is one.
    pub(super) fn exemplar(&self, set: &Set<'a>) -> Option<&'a Class<'a>> {
        let places = self.values.get(self.usual.as_ref()?)?;
        places
            .iter()
            .map(|place| set.classes[*place])
            .max_by_key(|class| (serves(class), class.members.len()))
    }

    /// How bad it is; none where all are alike.
    pub(super) fn grade(&self, set: &Set<'a>) -> Option<Grade> {
        if self.values.len() < 2 {
            return None;
        }
        let broken = set.name != SetName::NoPool && self.odd_in_use(set).next().is_some();
        Some(match broken {
            false => Grade::Note,
            true if self.attribute.breaks() == [Breaks::LiveMigration] => Grade::Slight,
            true => Grade::Severe,
        })
    }

    pub(super) fn attribute_report(&self, set: &Set<'a>, mends: Vec<Mend>) -> AttributeReport {
        let grade = self.grade(set);
        let mut values: Vec<ValueReport> =
            self.values.iter().map(|(value, places)| self.value_report(value, places, set)).collect();
        values.sort_by_key(|value| (!value.usual, Reverse(value.number)));
        let known: usize = values.iter().map(|value| value.number).sum();
        AttributeReport {
            attribute: self.attribute,
            grade,
            breaks: if grade > Some(Grade::Note) { self.attribute.breaks().to_vec() } else { Vec::new() },
            follows_from: self.follows_from,
            tie: self.tie,
            values,
            unknown: set.members().count() - known,
            mends,
        }
    }

    fn value_report(&self, value: &Value<'a>, places: &[usize], set: &Set<'a>) -> ValueReport {
        let mut members: Vec<Member<'a>> =
            places.iter().flat_map(|place| set.classes[*place].members.iter().copied()).collect();
        members.sort_unstable();
        let hosts = members.chunk_by(|one, two| one.host == two.host).count();
        let usual = self.usual.as_ref() == Some(value);
        let listed = members.iter().filter(|_| !usual);
        let gpus: Vec<GpuKey> = listed.map(Member::key).collect();
        ValueReport { value: value.to_string(), usual, number: members.len(), hosts, gpus }
    }
}
