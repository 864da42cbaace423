//! Who belongs to a cluster, what it can lose, and how its store fares.
//!
//! A cluster's store agrees by majority: what it can lose depends on how many of its members vote, not on how many hosts
//! there are. Here are the judgements; who asks the store's members how they fare is a leaf of the daemon.

mod versions;

use serde::{Deserialize, Serialize};

pub use self::versions::{
    Order, Peer, is_later, judge_versions, leaves_lead_to, order_of, refusal_to_join, ruling_version,
};
use crate::diagnostics as say;
use crate::finding::Finding;
use crate::name::{HostName, Timestamp};

/// How many hosts keep the store. More would make each write slower and save from little.
pub const SEATS_MAX: usize = 3;
/// Of the space that the store may take, so many percent used are a warning.
pub const QUOTA_WARNING_PERCENT: u64 = 80;
/// A store's file with so many bytes or more of which less than half is used is worth to be defragmented.
pub const FRAGMENTED_BYTES_MIN: u64 = 256 << 20;
/// A certificate is renewed when a third of its life is left.
const RENEWED_AT_PERCENT: u64 = 67;
/// An authority that ends within so many milliseconds is a finding: one year.
const AUTHORITY_WARNING_MS: u64 = 365 * 24 * 60 * 60 * 1_000;
/// Once nobody has led for so many milliseconds, any host may: longer than the candidates need to choose one of them.
pub const LEADERLESS_MS: u64 = 10_000;
/// A seat that was given this many milliseconds ago and not taken is a finding: longer than the way to it may take.
const SEAT_TAKEN_WITHIN_MS: u64 = 10 * 60 * 1_000;

/// Those hosts that may lead, of hosts with their versions and the time at which each joined: those of the oldest version
/// ([`leaves_lead_to`]), and of these the oldest. That more of them stand ready would cost the store a question of each many times a
/// second, and saves nothing: it is lost with as many of its own members.
pub fn candidates<'a>(hosts: impl IntoIterator<Item = (&'a str, Timestamp, &'a HostName)>) -> Vec<HostName> {
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    hosts.sort_unstable_by_key(|(version, joined_at, host)| (order_of(version), *joined_at, *host));
    hosts.into_iter().take(SEATS_MAX).map(|(.., host)| host.clone()).collect()
}

/// Who leads, as far as a host knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Lead {
    /// The store did not say.
    #[default]
    Unknown,
    /// Nobody has for so long, in milliseconds.
    Nobody {
        /// How long.
        for_ms: u64,
    },
    /// This host.
    Host(HostName),
}

/// Whether a host may lead: one of the candidates, whoever leads already, and anybody once nobody has led for a while. The
/// candidates may all be gone for good while the store works on.
pub fn may_lead(host: &HostName, candidates: &[HostName], lead: &Lead) -> bool {
    let stands_in = match lead {
        Lead::Unknown => false,
        Lead::Nobody { for_ms } => *for_ms >= LEADERLESS_MS,
        Lead::Host(leader) => leader == host,
    };
    stands_in || candidates.contains(host)
}

/// A machine, as far as it matters for the store's seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sitter<'a> {
    /// Which.
    pub host: &'a HostName,
    /// What it is.
    pub role: Role,
    /// When it joined.
    pub joined_at: Timestamp,
    /// Whether it was given a seat.
    pub seat: bool,
    /// Whether it has taken it: its member of the store votes.
    pub votes: bool,
    /// Whether it could keep the store.
    pub able: bool,
}

/// Who is to get the next seat, whoever is first of those that answer; nobody while seats enough are given, or one that was
/// given is not taken yet. Hosts go before witnesses, because who has a seat also signs, and the oldest first.
pub fn heirs<'a>(sitters: impl IntoIterator<Item = Sitter<'a>>) -> Vec<HostName> {
    let (seated, mut others): (Vec<_>, Vec<_>) = sitters.into_iter().partition(|sitter| sitter.seat);
    if seated.len() >= SEATS_MAX || !seated.iter().all(|sitter| sitter.votes) {
        return Vec::new();
    }
    others.retain(|sitter| sitter.able);
    others.sort_unstable_by_key(|sitter| (sitter.role == Role::Witness, sitter.joined_at, sitter.host));
    others.into_iter().map(|sitter| sitter.host.clone()).collect()
}

/// The finding about a seat that was given so long ago and not taken, if that is too long.
pub fn judge_seat(host: &HostName, given_ms_ago: u64) -> Option<Finding> {
    let minutes = given_ms_ago / 60_000;
    (given_ms_ago >= SEAT_TAKEN_WITHIN_MS).then(|| say::seat_not_taken(host, minutes))
}

/// What a machine is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(as = MachineRole))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It runs VMs.
    #[default]
    Host,
    /// It only has a voice in the store: no GPU, no VM.
    Witness,
}

/// Where a member of the cluster's store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// On a host of the cluster.
    Host(HostName),
    /// Elsewhere, as a URL: somebody else runs it.
    Url(String),
}

impl std::fmt::Display for StorePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host(host) => write!(f, "on host {host}"),
            Self::Url(url) => write!(f, "at {url}"),
        }
    }
}

/// A member of the cluster's store, as it was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreMember {
    /// Where it is.
    pub place: StorePlace,
    /// Whether it has no vote yet, because it is still catching up.
    pub learner: bool,
    /// What it answered; nothing if it did not.
    pub answer: Option<StoreAnswer>,
}

/// What a member of the store says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StoreAnswer {
    /// The version of its program.
    pub version: String,
    /// Whether it leads the store.
    pub leads: bool,
    /// The size of its file, in bytes.
    pub file_bytes: u64,
    /// How much of that is in use, in bytes.
    pub used_bytes: u64,
    /// Whether it raised the alarm that its quota is used up.
    pub out_of_space: bool,
    /// Whether it raised the alarm that its data differ from those of the others.
    #[serde(default)]
    pub corrupt: bool,
}

/// How the cluster's store fares.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreHealth {
    /// Its members.
    pub members: Vec<StoreMember>,
    /// How many bytes the file of each may have; 0 where nobody knows.
    pub quota_bytes: u64,
}

/// How many voting members may fail before nothing can be written any more.
pub fn failures_survived(voters: usize) -> usize {
    voters.saturating_sub(1) / 2
}

/// The findings about a cluster's store.
pub fn judge(health: &StoreHealth) -> Vec<Finding> {
    let voters = health.members.iter().filter(|member| !member.learner);
    let silent = voters.clone().filter(|member| member.answer.is_none()).count();
    let voters = voters.count();
    let mut findings = Vec::new();
    match voters {
        0 => return findings,
        1 | 2 => findings.push(say::store_without_majority(voters)),
        _ => {}
    }
    let survives = failures_survived(voters).checked_sub(silent);
    for member in &health.members {
        match &member.answer {
            None if member.learner => findings.push(say::store_learner_silent(&member.place)),
            None => findings.push(say::store_member_down(&member.place, survives)),
            Some(answer) => findings.extend(judge_member(&member.place, answer, health.quota_bytes)),
        }
    }
    findings
}

/// Why a host must keep its seat for now: those that stay could decide nothing without those of them that are silent.
pub fn refusal_to_unseat(health: &StoreHealth, host: &HostName) -> Option<Finding> {
    let leaves = |member: &&StoreMember| matches!(&member.place, StorePlace::Host(at) if at == host);
    let staying = health.members.iter().filter(|member| !member.learner && !leaves(member));
    let silent: Vec<&StorePlace> =
        staying.clone().filter(|member| member.answer.is_none()).map(|member| &member.place).collect();
    let staying = staying.count();
    (staying > 0 && staying - silent.len() <= staying / 2).then(|| say::seat_needed(host, &silent))
}

fn judge_member(place: &StorePlace, answer: &StoreAnswer, quota_bytes: u64) -> Option<Finding> {
    if answer.corrupt {
        return Some(say::store_member_corrupt(place));
    }
    if answer.out_of_space {
        return Some(say::store_out_of_space(place));
    }
    if quota_bytes > 0 && answer.file_bytes * 100 >= quota_bytes * QUOTA_WARNING_PERCENT {
        return Some(say::store_near_quota(place, answer.file_bytes >> 20, quota_bytes >> 20));
    }
    let fragmented = answer.file_bytes >= FRAGMENTED_BYTES_MIN && answer.used_bytes * 2 < answer.file_bytes;
    fragmented.then(|| say::store_fragmented(place, answer.file_bytes >> 20, answer.used_bytes >> 20))
}

/// Whether a certificate is to be renewed now.
pub fn is_renewal_due(from: Timestamp, until: Timestamp, now: Timestamp) -> bool {
    let life_ms = until.0.saturating_sub(from.0);
    now.0 >= from.0 + life_ms / 100 * RENEWED_AT_PERCENT
}

/// Whether the authority's own end is so near that somebody should know.
pub fn is_authority_ending(until: Timestamp, now: Timestamp) -> bool {
    until.0.saturating_sub(now.0) < AUTHORITY_WARNING_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Code;

    fn answer() -> StoreAnswer {
        StoreAnswer {
            version: "3.4.23".to_owned(),
            leads: false,
            file_bytes: 20 << 20,
            used_bytes: 18 << 20,
            out_of_space: false,
            corrupt: false,
        }
    }

    fn health(answers: &[Option<StoreAnswer>]) -> StoreHealth {
        let members = answers.iter().enumerate().map(|(index, answer)| StoreMember {
            place: StorePlace::Host(format!("node{index}").parse().unwrap()),
            learner: false,
            answer: answer.clone(),
        });
        StoreHealth { members: members.collect(), quota_bytes: 2 << 30 }
    }

    fn codes(health: &StoreHealth) -> Vec<Code> {
        judge(health).into_iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn the_oldest_three_hosts_may_lead_and_names_decide_between_those_of_one_age() {
        let names: Vec<HostName> = ["a", "b", "c", "d"].map(|name| name.parse().unwrap()).to_vec();
        let joined = [9, 5, 5, 7].map(Timestamp);
        let hosts = joined.into_iter().zip(&names).map(|(joined_at, host)| ("1.0", joined_at, host));
        let chosen = candidates(hosts);
        assert_eq!(chosen.iter().map(HostName::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
    }

    #[test]
    fn while_versions_differ_hosts_of_the_oldest_may_lead_before_all_others() {
        let names: Vec<HostName> = ["a", "b", "c", "d", "e"].map(|name| name.parse().unwrap()).to_vec();
        let versions = ["1.10.0", "1.10.0", "1.10.0", "1.9.0", "1.9.0"].into_iter();
        let hosts = versions.zip(&names).zip(1..).map(|((version, host), at)| (version, Timestamp(at), host));
        let chosen = candidates(hosts);
        assert_eq!(chosen.iter().map(HostName::as_str).collect::<Vec<_>>(), ["d", "e", "a"]);
    }

    #[test]
    fn a_host_that_is_no_candidate_leads_once_nobody_has_for_a_while_and_goes_on_then() {
        let [a, b]: [HostName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let may = |lead| may_lead(&b, std::slice::from_ref(&a), &lead);
        assert!(may_lead(&a, std::slice::from_ref(&a), &Lead::Unknown), "candidates always may");
        assert!(!may(Lead::Unknown), "a store that is silent is no invitation");
        assert!(!may(Lead::Nobody { for_ms: LEADERLESS_MS - 1 }));
        assert!(may(Lead::Nobody { for_ms: LEADERLESS_MS }));
        assert!(!may(Lead::Host(a.clone())));
        assert!(may(Lead::Host(b.clone())), "the lead does not go to and fro");
    }

    /// Machines by name: the time that each joined at, and whether it has a seat and votes.
    fn heirs_of(machines: &[(&str, u64, bool, bool)], change: fn(&mut Sitter<'_>)) -> Vec<String> {
        let names: Vec<HostName> = machines.iter().map(|(name, ..)| name.parse().unwrap()).collect();
        let sitters = names.iter().zip(machines).map(|(host, (_, joined_at, seat, votes))| {
            let (role, joined_at) = (Role::Host, Timestamp(*joined_at));
            let mut sitter = Sitter { host, role, joined_at, seat: *seat, votes: *votes, able: true };
            change(&mut sitter);
            sitter
        });
        heirs(sitters).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_oldest_host_without_a_seat_inherits_one_that_is_free() {
        let [a, b] = [("a", 1, true, true), ("b", 2, true, true)];
        let (young, old) = (("c", 9, false, false), ("d", 5, false, false));
        assert_eq!(heirs_of(&[a, b, young, old], |_| {}), ["d", "c"]);
        assert_eq!(heirs_of(&[a, b, ("x", 3, true, true), old], |_| {}), [""; 0], "three are enough");
        assert_eq!(heirs_of(&[a, ("b", 2, true, false), old], |_| {}), [""; 0], "one at a time");
    }

    #[test]
    fn a_witness_inherits_after_every_host_and_a_host_without_etcd_never() {
        let machines = [("a", 1, true, true), ("wit", 2, false, false), ("c", 9, false, false)];
        let witness = |sitter: &mut Sitter<'_>| {
            if sitter.host.as_str() == "wit" {
                sitter.role = Role::Witness;
            }
        };
        assert_eq!(heirs_of(&machines, witness), ["c", "wit"]);
        let unable = |sitter: &mut Sitter<'_>| sitter.able = sitter.host.as_str() != "c";
        assert_eq!(heirs_of(&machines, unable), ["wit"]);
    }

    #[test]
    fn a_seat_that_nobody_takes_is_told_after_some_minutes_with_what_to_do() {
        let host: HostName = "node4".parse().unwrap();
        assert_eq!(judge_seat(&host, SEAT_TAKEN_WITHIN_MS - 1), None);
        let finding = judge_seat(&host, SEAT_TAKEN_WITHIN_MS).unwrap();
        assert_eq!(finding.code, Code::SeatNotTaken);
        assert!(finding.hint.contains("tranche cluster remove node4"), "{finding}");
    }

    #[test]
    fn a_majority_decides_what_can_be_lost() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(failures_survived), [0, 0, 0, 1, 1, 2]);
    }

    #[test]
    fn three_members_that_answer_are_no_finding_and_two_are_one() {
        assert_eq!(codes(&health(&[Some(answer()), Some(answer()), Some(answer())])), []);
        assert_eq!(codes(&health(&[Some(answer()), Some(answer())])), [Code::StoreWithoutMajority]);
        assert_eq!(codes(&health(&[Some(answer())])), [Code::StoreWithoutMajority]);
    }

    #[test]
    fn a_member_that_is_silent_is_told_with_what_else_may_fail() {
        let one = judge(&health(&[Some(answer()), Some(answer()), None]));
        assert_eq!(one.len(), 1);
        assert!(one[0].message.contains("no other member may fail"), "{}", one[0].message);
        let two = judge(&health(&[Some(answer()), None, None]));
        assert!(two.iter().all(|finding| finding.message.contains("nothing can be written")), "{two:?}");
    }

    #[test]
    fn a_silent_member_without_a_vote_is_told_and_counts_for_no_loss() {
        let mut health = health(&[Some(answer()), Some(answer()), Some(answer()), None]);
        health.members[3].learner = true;
        let found = judge(&health);
        assert_eq!(found.len(), 1);
        assert!(found[0].message.contains("no vote yet"), "{}", found[0].message);
        assert!(found[0].severity < crate::finding::Severity::Error);
    }

    #[test]
    fn a_seat_is_given_up_only_while_those_that_stay_can_decide() {
        let seat = |index: usize| format!("node{index}").parse().unwrap();
        let refused = |answers: &[Option<StoreAnswer>]| refusal_to_unseat(&health(answers), &seat(0));
        assert_eq!(refused(&[Some(answer()), Some(answer()), Some(answer())]), None);
        assert_eq!(refused(&[Some(answer()), Some(answer())]), None);
        assert_eq!(refused(&[None, Some(answer()), Some(answer())]), None, "it is the silent one itself");
        let finding = refused(&[Some(answer()), None, Some(answer())]).unwrap();
        assert!(finding.message.contains("node1") && !finding.message.contains("node2"), "{finding}");
        assert!(refused(&[Some(answer()), None]).is_some());
    }

    #[test]
    fn space_is_judged_by_alarm_quota_and_fragments() {
        let with = |change: fn(&mut StoreAnswer)| {
            let mut changed = answer();
            change(&mut changed);
            codes(&health(&[Some(changed), Some(answer()), Some(answer())]))
        };
        assert_eq!(with(|answer| answer.out_of_space = true), [Code::StoreOutOfSpace]);
        assert_eq!(with(|answer| answer.corrupt = true), [Code::StoreMemberCorrupt]);
        assert_eq!(with(|answer| answer.file_bytes = 1_800 << 20), [Code::StoreNearQuota]);
        assert_eq!(with(|answer| answer.file_bytes = 400 << 20), [Code::StoreFragmented]);
        assert_eq!(with(|answer| answer.file_bytes = 200 << 20), [], "too small to be worth it");
    }

    #[test]
    fn of_an_etcd_that_somebody_else_runs_no_quota_is_made_up_and_members_are_named_by_where_they_are() {
        let full = StoreAnswer { file_bytes: 100 << 30, used_bytes: 99 << 30, ..answer() };
        let place = |number| StorePlace::Url(format!("https://etcd{number}:2379"));
        let member = |number, answer| StoreMember { place: place(number), learner: false, answer };
        let members = vec![member(1, Some(full)), member(2, Some(answer())), member(3, None)];
        let findings = judge(&StoreHealth { members, quota_bytes: 0 });
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert!(findings[0].message.contains("at https://etcd3:2379"), "{}", findings[0]);
        assert!(!findings[0].hint.contains("tranche cluster remove"), "{}", findings[0]);
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        let due = |now| is_renewal_due(Timestamp(1_000), Timestamp(101_000), Timestamp(now));
        assert!(!due(1_000) && !due(67_999));
        assert!(due(68_000) && due(200_000));
        assert!(due(u64::MAX), "a clock that went mad renews");
    }
}
