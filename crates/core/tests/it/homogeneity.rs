//! Whether GPUs are alike: what differs is said once, with what it breaks and what mends it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tranche_core::change::{Admitted, Change, Refusal, State, admit};
use tranche_core::finding::{Code, Finding, Severity};
use tranche_core::homogeneity::{self, Attribute, Breaks, Grade, Mend, Report, SetName};
use tranche_core::inventory::{Backend, Ecc, Gpu, Offer, Telemetry};
use tranche_core::name::*;
use tranche_core::spec::*;
use uuid::Uuid;

use crate::fleet::{Fleet, node};
use crate::world::{gpu, partitioned};

impl Fleet {
    pub(crate) fn state(&self) -> State<'_> {
        State { spec: &self.spec, plan: &self.plan, inventory: &self.inventory }
    }

    pub(crate) fn card(&mut self, key: &GpuKey) -> &mut Gpu {
        self.inventory.get_mut(&key.host).unwrap().gpus.get_mut(&key.address).unwrap()
    }

    pub(crate) fn wish(&mut self, key: &GpuKey, mode: GpuMode) {
        self.spec.gpus.get_mut(key).unwrap().mode = mode;
    }

    pub(crate) fn submit(&self, change: &Change) -> Result<Admitted, Refusal> {
        admit(change, self.state(), VmId(Uuid::from_u128(1)), Timestamp(1))
    }

    fn report(&self) -> Report {
        homogeneity::report(self.state())
    }

    fn said(&self) -> Vec<Finding> {
        homogeneity::findings(&self.spec, &self.inventory, &self.plan)
    }

    /// Every GPU tells firmware and error correction, and offers every count in two series.
    fn talkative(hosts: usize, gpus: u8) -> Self {
        let mut fleet = Self::new(hosts, gpus, 4);
        let make_talkative = |card: &mut Gpu| {
            card.telemetry = Some(Telemetry {
                serial: None,
                firmware: Some("96.00".to_owned()),
                ecc: Some(ecc(true)),
                utilization_percent: None,
                memory_used_mib: None,
                memory_total_mib: None,
                temperature_c: None,
                power_w: None,
            });
            let of = |series: &str| {
                let offer = |offer: &Offer| Offer { series: Some(series.to_owned()), ..offer.clone() };
                card.offers.iter().map(offer).collect::<Vec<_>>()
            };
            card.offers = [of("Q"), of("C")].concat();
        };
        fleet.inventory.change_each(|_, seen| seen.gpus.values_mut().for_each(make_talkative));
        fleet
    }
}

pub(crate) fn at(host: usize, bus: u8) -> GpuKey {
    GpuKey { host: node(host), ..gpu(bus) }
}

fn ecc(enabled: bool) -> Ecc {
    Ecc { enabled, corrected: 0, uncorrected: 0 }
}

fn codes(findings: &[Finding]) -> BTreeSet<Code> {
    findings.iter().map(|finding| finding.code).collect()
}

/// Makes a GPU unlike in one attribute.
fn spoil(fleet: &mut Fleet, key: &GpuKey, attribute: Attribute) {
    let card = fleet.card(key);
    match attribute {
        Attribute::Vendor => card.ids.vendor = 0x1234,
        Attribute::Device => card.ids.device = 0x1234,
        Attribute::Subsystem => card.ids.subdevice = 0x1234,
        Attribute::Memory => card.vram_mib = Some(24_576),
        Attribute::Backend => card.backend = Some(Backend::Mdev),
        Attribute::Offers => card.offers.retain(|offer| offer.count != 8),
        Attribute::Count => fleet.wish(key, partitioned(2)),
        Attribute::Series => {
            fleet.wish(key, GpuMode::Partitioned { count: 4, series: Some("C".to_owned()) });
        }
        Attribute::Driver => card.driver_version = Some("550.54".to_owned()),
        Attribute::Firmware => told(card).firmware = Some("95.00".to_owned()),
        Attribute::Ecc => told(card).ecc = Some(ecc(false)),
    }
}

/// What whoever reads a mend does: types the command, or does to the hardware what the sentence says.
fn follow(fleet: &mut Fleet, attribute: Attribute, mend: &Mend, usual: &GpuKey) {
    if let Some(command) = &mend.command {
        let change = typed(command, &mend.gpu);
        fleet.spec = fleet.submit(&change).expect("what mends is not refused").spec;
        return;
    }
    let like = fleet.card(usual).clone();
    let card = fleet.card(&mend.gpu);
    match attribute {
        Attribute::Subsystem => card.ids = like.ids,
        Attribute::Backend => card.backend = like.backend,
        Attribute::Offers => card.offers = like.offers,
        Attribute::Driver => card.driver_version = like.driver_version,
        Attribute::Firmware => told(card).firmware = like.telemetry.and_then(|told| told.firmware),
        Attribute::Ecc => told(card).ecc = like.telemetry.and_then(|told| told.ecc),
        other => panic!("{other} is mended by a command"),
    }
}

fn told(card: &mut Gpu) -> &mut Telemetry {
    card.telemetry.as_mut().expect("every GPU here tells")
}

fn typed(command: &str, key: &GpuKey) -> Change {
    let words: Vec<&str> = command.split(' ').collect();
    let ["tranche", "gpu", verb, name, flags @ ..] = &words[..] else { panic!("{command}") };
    assert_eq!(*name, key.to_string());
    let after = |flag: &str| {
        let place = flags.iter().position(|word| *word == flag)?;
        Some(flags[place + 1].to_owned())
    };
    let mode = match *verb {
        "partition" => GpuMode::Partitioned {
            count: after("--count").expect("a count").parse().unwrap(),
            series: after("--series"),
        },
        "release" => GpuMode::Host,
        other => panic!("{other}"),
    };
    Change::DrainGpu { gpu: key.clone(), mode }
}

#[test]
fn gpus_that_are_alike_are_not_spoken_of() {
    for (hosts, gpus) in [(1, 1), (1, 4), (2, 1), (3, 8)] {
        let fleet = Fleet::talkative(hosts, gpus);
        assert_eq!(fleet.said(), []);
        let report = fleet.report();
        assert!(report.homogeneous);
        let [set] = &report.sets[..] else { panic!("{report:#?}") };
        assert_eq!((&set.set, set.in_use), (&SetName::Partitions, hosts * usize::from(gpus)));
        assert!(set.attributes.iter().all(|attribute| attribute.grade.is_none()));
    }
}

#[test]
fn each_attribute_that_differs_is_said_once_and_what_is_said_mends_it() {
    for (hosts, gpus) in [(1, 3), (2, 2), (3, 1), (3, 2)] {
        for attribute in Attribute::ALL {
            let mut fleet = Fleet::talkative(hosts, gpus);
            let odd = at(hosts, gpus);
            spoil(&mut fleet, &odd, attribute);
            let case = format!("{attribute} with {hosts} hosts");
            let said = fleet.said();
            assert_eq!(codes(&said), BTreeSet::from([attribute.code()]), "{case}: {said:#?}");
            assert_eq!(said.len(), 1, "{case}");
            assert!(said[0].message.contains(&odd.to_string()), "{case}: {}", said[0].message);
            let report = fleet.report();
            assert!(!report.homogeneous, "{case}");
            let part = report.sets[0].attributes.iter().find(|part| part.attribute == attribute).unwrap();
            assert_eq!(part.breaks, attribute.breaks(), "{case}");
            let grade = if part.breaks == [Breaks::LiveMigration] { Grade::Slight } else { Grade::Severe };
            assert_eq!(part.grade, Some(grade), "{case}");
            let odd_ones: Vec<&GpuKey> = part.mends.iter().map(|mend| &mend.gpu).collect();
            assert_eq!(odd_ones, [&odd], "{case}");
            for mend in &part.mends {
                follow(&mut fleet, attribute, mend, &at(1, 1));
            }
            assert_eq!(fleet.said(), [], "{case}");
        }
    }
}

#[test]
fn a_kernel_that_differs_is_a_driver_that_differs_unless_the_driver_has_a_version_of_its_own() {
    let mut fleet = Fleet::talkative(3, 1);
    fleet.inventory.get_mut(&node(2)).unwrap().system.kernel = "6.1.0".to_owned();
    let said = fleet.said();
    assert_eq!(codes(&said), BTreeSet::from([Code::UnlikeDriver]));
    assert!(said[0].hint.contains("Install driver model of Linux 6.12.0 on host node2"), "{}", said[0].hint);
    for host in 1..=3 {
        fleet.card(&at(host, 1)).driver_version = Some("550.54".to_owned());
    }
    assert_eq!(fleet.said(), []);
}

#[test]
fn what_breaks_only_live_migration_is_a_remark_and_the_rest_a_warning_or_under_strict_an_error() {
    let mut fleet = Fleet::talkative(3, 1);
    spoil(&mut fleet, &at(2, 1), Attribute::Firmware);
    spoil(&mut fleet, &at(3, 1), Attribute::Count);
    let severities = |fleet: &Fleet| -> BTreeMap<Code, Severity> {
        fleet.said().into_iter().map(|finding| (finding.code, finding.severity)).collect()
    };
    let expected =
        |count| BTreeMap::from([(Code::UnlikeCount, count), (Code::UnlikeFirmware, Severity::Info)]);
    assert_eq!(severities(&fleet), expected(Severity::Warning));
    fleet.spec.policy.homogeneity = Homogeneity::Strict;
    assert_eq!(severities(&fleet), expected(Severity::Error));
}

#[test]
fn on_one_host_alone_a_difference_is_a_remark_unless_the_policy_is_strict() {
    let mut fleet = Fleet::talkative(1, 3);
    spoil(&mut fleet, &at(1, 3), Attribute::Count);
    let severity = |fleet: &Fleet| fleet.said().iter().map(|finding| finding.severity).collect::<Vec<_>>();
    assert_eq!(severity(&fleet), [Severity::Info]);
    fleet.spec.policy.homogeneity = Homogeneity::Strict;
    assert_eq!(severity(&fleet), [Severity::Error]);
}

#[test]
fn another_card_explains_what_comes_with_it() {
    let mut fleet = Fleet::talkative(3, 1);
    let odd = at(2, 1);
    for attribute in [Attribute::Vendor, Attribute::Device, Attribute::Memory, Attribute::Offers] {
        spoil(&mut fleet, &odd, attribute);
    }
    assert_eq!(codes(&fleet.said()), BTreeSet::from([Code::UnlikeVendor]));
    let report = fleet.report();
    let memory = report.sets[0].attributes.iter().find(|part| part.attribute == Attribute::Memory).unwrap();
    assert_eq!(memory.follows_from, Some(Attribute::Vendor));
}

#[test]
fn of_two_values_that_are_as_common_the_oldest_hosts_is_the_usual_one_and_then_the_first_hosts() {
    let usual = |fleet: &Fleet| {
        let report = fleet.report();
        let part = report.sets[0].attributes.iter().find(|part| part.attribute == Attribute::Count).unwrap();
        assert!(part.tie);
        assert!(fleet.said()[0].message.contains("As many have one as another"));
        part.values[0].value.clone()
    };
    let mut fleet = Fleet::talkative(2, 1);
    fleet.wish(&at(2, 1), partitioned(2));
    assert_eq!(usual(&fleet), "4", "node1 is the first by name");
    fleet.spec.hosts.get_mut(&node(1)).unwrap().joined_at = Timestamp(5);
    assert_eq!(usual(&fleet), "2", "node2 is older");
}

#[test]
fn gpus_that_the_host_keeps_break_nothing() {
    let mut fleet = Fleet::talkative(3, 1);
    fleet.spec.gpus.remove(&at(3, 1));
    fleet.card(&at(3, 1)).vram_mib = Some(24_576);
    assert_eq!(fleet.said(), []);
    let report = fleet.report();
    assert!(report.homogeneous);
    assert_eq!(report.sets[0].in_use, 2);
    let memory = report.sets[0].attributes.iter().find(|part| part.attribute == Attribute::Memory).unwrap();
    assert_eq!(memory.grade, Some(Grade::Note));
}

#[test]
fn each_pool_is_a_set_of_its_own() {
    let mut fleet = Fleet::talkative(2, 2);
    let whole = |pool: &str| GpuMode::Passthrough { allow_console: false, pool: Some(pool.parse().unwrap()) };
    for host in 1..=2 {
        fleet.wish(&at(host, 2), whole("render"));
        fleet.card(&at(host, 2)).ids.device = 0x1234;
    }
    assert_eq!(fleet.said(), [], "those of the pool are alike, and so are those that are split");
    fleet.card(&at(2, 2)).ids.device = 0x4321;
    let said = fleet.said();
    assert_eq!(codes(&said), BTreeSet::from([Code::UnlikeDevice]));
    assert!(said[0].message.starts_with("The GPUs of pool render differ in model"), "{}", said[0].message);
    fleet.wish(&at(2, 2), whole("compute"));
    assert_eq!(fleet.said(), []);
}

#[test]
fn under_strict_a_wish_that_makes_gpus_less_alike_is_refused_and_under_warn_it_is_warned_of() {
    let other = |count| Change::SetGpuMode { gpu: at(2, 1), mode: partitioned(count) };
    let mut fleet = Fleet::talkative(3, 1);
    let found = fleet.submit(&other(2)).expect("a warning refuses nothing").findings;
    let warned =
        found.iter().find(|finding| finding.code == Code::BreaksHomogeneity).expect("it is warned of");
    assert_eq!(warned.severity, Severity::Warning);
    fleet.spec.policy.homogeneity = Homogeneity::Strict;
    let refusal = fleet.submit(&other(2)).expect_err("it is refused");
    assert_eq!(codes(&refusal), BTreeSet::from([Code::BreaksHomogeneity]));
    let said = format!("{} {}", refusal[0].message, refusal[0].hint);
    for part in
        ["the GPUs that are split", "partition count", "2 on 1", "node2/0000:01:00.0", "gpu partition --all"]
    {
        assert!(said.contains(part), "'{part}' is not in: {said}");
    }
    let release = Change::SetGpuMode { gpu: at(2, 1), mode: GpuMode::Host };
    assert!(fleet.submit(&release).is_ok(), "a GPU that is released does not differ");
}

#[test]
fn under_strict_what_differs_already_may_be_mended_and_other_wishes_are_free() {
    let mut fleet = Fleet::talkative(3, 1);
    fleet.wish(&at(3, 1), partitioned(2));
    fleet.spec.policy.homogeneity = Homogeneity::Strict;
    let mend = Change::SetGpuMode { gpu: at(3, 1), mode: partitioned(4) };
    assert_eq!(fleet.submit(&mend).expect("it mends").findings, []);
    let release = Change::SetGpuMode { gpu: at(1, 1), mode: GpuMode::Host };
    assert!(fleet.submit(&release).is_ok(), "nothing new differs in use");
    let policy = Change::SetPolicy { policy: Policy::default() };
    assert!(fleet.submit(&policy).is_ok(), "it has nothing to do with GPUs");
}

/// Two values of each attribute, for hosts of two GPUs each.
fn worlds() -> impl Strategy<Value = Vec<(u64, [Vec<Attribute>; 2])>> {
    let odd = || prop::sample::subsequence(Attribute::ALL.to_vec(), 0..3);
    let host = (0u64..1_000, [odd(), odd()]);
    prop::collection::vec(host, 1..5).prop_filter("hosts joined at different times", |hosts| {
        hosts.iter().map(|(joined, _)| joined).collect::<BTreeSet<_>>().len() == hosts.len()
    })
}

fn fleet_of(hosts: &[(u64, [Vec<Attribute>; 2])], named: impl Fn(usize) -> usize) -> Fleet {
    let mut fleet = Fleet::talkative(hosts.len(), 2);
    for (place, (joined, cards)) in hosts.iter().enumerate() {
        let number = named(place);
        fleet.spec.hosts.get_mut(&node(number)).unwrap().joined_at = Timestamp(*joined);
        for (bus, odd) in (1..).zip(cards) {
            for attribute in odd {
                spoil(&mut fleet, &at(number, bus), *attribute);
            }
        }
    }
    fleet
}

proptest! {
    #[test]
    fn the_report_does_not_depend_on_what_hosts_are_called(hosts in worlds()) {
        let count = hosts.len();
        let (there, back) = (|place: usize| place + 1, |place: usize| count - place);
        let renamed = |key: &GpuKey| {
            let number: usize = key.host.as_str()["node".len()..].parse().unwrap();
            GpuKey { host: node(count + 1 - number), ..key.clone() }
        };
        let plain = |report: &Report, name: &dyn Fn(&GpuKey) -> GpuKey| {
            let keys = |keys: &[GpuKey]| keys.iter().map(name).collect::<BTreeSet<_>>();
            let parts = report.sets.iter().flat_map(|set| {
                set.attributes.iter().map(|part| {
                    let values: Vec<_> = part.values.iter()
                        .map(|value| (value.value.clone(), value.usual, value.number, value.hosts, keys(&value.gpus)))
                        .collect();
                    let mended: BTreeSet<GpuKey> = part.mends.iter().map(|mend| name(&mend.gpu)).collect();
                    (part.attribute, part.grade, part.follows_from, part.tie, values, mended)
                })
            });
            parts.collect::<Vec<_>>()
        };
        let (one, other) = (fleet_of(&hosts, there).report(), fleet_of(&hosts, back).report());
        prop_assert_eq!(plain(&one, &|key| key.clone()), plain(&other, &renamed));
    }

    #[test]
    fn doing_what_the_report_says_ends_every_finding(hosts in worlds()) {
        let mut fleet = fleet_of(&hosts, |place| place + 1);
        // What one mend shows is mended in the next round; each round mends at least one GPU for good.
        for _ in 0..100 {
            let report = fleet.report();
            let parts = report.sets.iter().flat_map(|set| set.attributes.iter());
            let due = parts.filter(|part| part.grade > Some(Grade::Note) && part.follows_from.is_none()).find_map(|part| {
                let usual = usual_of(&report, part.attribute)?;
                part.mends.first().map(|mend| (part.attribute, mend.clone(), usual))
            });
            let Some((attribute, mend, usual)) = due else { break };
            follow(&mut fleet, attribute, &mend, &usual);
        }
        prop_assert_eq!(fleet.said(), []);
    }
}

/// A GPU that has the usual value of an attribute.
fn usual_of(report: &Report, attribute: Attribute) -> Option<GpuKey> {
    let set = report.sets.first()?;
    let part = set.attributes.iter().find(|part| part.attribute == attribute)?;
    let odd: BTreeSet<&GpuKey> = part.values.iter().flat_map(|value| &value.gpus).collect();
    set.gpus.iter().find(|key| !odd.contains(key)).cloned()
}
