//! Who belongs to a cluster, what it can lose, and how its store fares.
//!
//! A cluster's store agrees by majority: what it can lose depends on how many of its members vote, not on how many hosts
//! there are. Here are the judgements; who asks the store's members how they fare is a leaf of the daemon.

use serde::{Deserialize, Serialize};

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

/// Those hosts that may lead, of hosts with the time at which each joined: the oldest. That more of them stand ready would
/// cost the store a question of each many times a second, and saves nothing: it is lost with as many of its own members.
pub fn candidates<'a>(hosts: impl IntoIterator<Item = (Timestamp, &'a HostName)>) -> Vec<HostName> {
    let mut hosts: Vec<_> = hosts.into_iter().collect();
    hosts.sort_unstable();
    hosts.into_iter().take(SEATS_MAX).map(|(_, host)| host.clone()).collect()
}

/// What a machine is in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It runs VMs.
    #[default]
    Host,
    /// It only has a voice in the store: no GPU, no VM.
    Witness,
}

/// A member of the cluster's store, as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StoreMember {
    /// The host that it is on.
    pub host: HostName,
    /// Whether it has no vote yet, because it is still catching up.
    pub learner: bool,
    /// What it answered; nothing if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
}

/// How the cluster's store fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StoreHealth {
    /// Its members.
    pub members: Vec<StoreMember>,
    /// How many bytes the file of each may have.
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
            None if member.learner => findings.push(say::store_learner_silent(&member.host)),
            None => findings.push(say::store_member_down(&member.host, survives)),
            Some(answer) => findings.extend(judge_member(&member.host, answer, health.quota_bytes)),
        }
    }
    findings
}

/// Why a host must keep its seat for now: those that stay could decide nothing without those of them that are silent.
pub fn refusal_to_unseat(health: &StoreHealth, host: &HostName) -> Option<Finding> {
    let staying = health.members.iter().filter(|member| !member.learner && &member.host != host);
    let silent: Vec<&HostName> =
        staying.clone().filter(|member| member.answer.is_none()).map(|member| &member.host).collect();
    let staying = staying.count();
    (staying > 0 && staying - silent.len() <= staying / 2).then(|| say::seat_needed(host, &silent))
}

fn judge_member(host: &HostName, answer: &StoreAnswer, quota_bytes: u64) -> Option<Finding> {
    if answer.out_of_space {
        return Some(say::store_out_of_space(host));
    }
    if quota_bytes > 0 && answer.file_bytes * 100 >= quota_bytes * QUOTA_WARNING_PERCENT {
        return Some(say::store_near_quota(host, answer.file_bytes >> 20, quota_bytes >> 20));
    }
    let fragmented = answer.file_bytes >= FRAGMENTED_BYTES_MIN && answer.used_bytes * 2 < answer.file_bytes;
    fragmented.then(|| say::store_fragmented(host, answer.file_bytes >> 20, answer.used_bytes >> 20))
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

/// The version that rules while versions differ: the oldest. Nothing is written that a member could not read.
///
/// Versions are compared by their numbers (`1.10.0` is after `1.9.2`); what is no number counts as 0.
pub fn ruling_version<'a>(versions: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    versions.into_iter().min_by_key(|version| numbers(version))
}

fn numbers(version: &str) -> Vec<u64> {
    version.split(['.', '-', '+', '~']).map(|part| part.parse().unwrap_or_default()).collect()
}

/// The finding about versions that differ, if they do.
pub fn judge_versions(versions: &[(HostName, String)]) -> Option<Finding> {
    let ruling = ruling_version(versions.iter().map(|(_, version)| version.as_str()))?;
    let newer: Vec<&HostName> =
        versions.iter().filter(|(_, version)| version != ruling).map(|(host, _)| host).collect();
    (!newer.is_empty()).then(|| say::versions_differ(ruling, &newer))
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
        }
    }

    fn health(answers: &[Option<StoreAnswer>]) -> StoreHealth {
        let members = answers.iter().enumerate().map(|(index, answer)| StoreMember {
            host: format!("node{index}").parse().unwrap(),
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
        let chosen = candidates(joined.into_iter().zip(&names));
        assert_eq!(chosen.iter().map(HostName::as_str).collect::<Vec<_>>(), ["b", "c", "d"]);
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
        assert_eq!(with(|answer| answer.file_bytes = 1_800 << 20), [Code::StoreNearQuota]);
        assert_eq!(with(|answer| answer.file_bytes = 400 << 20), [Code::StoreFragmented]);
        assert_eq!(with(|answer| answer.file_bytes = 200 << 20), [], "too small to be worth it");
    }

    #[test]
    fn the_oldest_version_rules_by_its_numbers() {
        assert_eq!(ruling_version(["1.10.0", "1.9.2", "1.9.10"]), Some("1.9.2"));
        assert_eq!(ruling_version([]), None);
        let hosts = |versions: [&str; 2]| {
            let named = ["a", "b"].map(|host| host.parse().unwrap()).into_iter();
            judge_versions(&named.zip(versions.map(str::to_owned)).collect::<Vec<_>>())
        };
        assert_eq!(hosts(["1.0.0", "1.0.0"]), None);
        let finding = hosts(["1.0.0", "1.1.0"]).unwrap();
        assert!(finding.message.contains("1.0.0 rules") && finding.message.contains('b'), "{finding}");
    }

    #[test]
    fn a_certificate_is_renewed_when_a_third_of_its_life_is_left() {
        let due = |now| is_renewal_due(Timestamp(1_000), Timestamp(101_000), Timestamp(now));
        assert!(!due(1_000) && !due(67_999));
        assert!(due(68_000) && due(200_000));
        assert!(due(u64::MAX), "a clock that went mad renews");
    }
}
