//! Refusals on the wire: RFC 9457 problem details that carry findings.

use serde::{Deserialize, Serialize};
use tranche_core::finding::{Class, Code, Finding, Severity, Subject};

/// The media type of a problem (RFC 9457, section 6.1).
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Why a request was refused or failed.
///
/// `code`, `detail`, `hint` and `subject` are those of the gravest finding; `findings` has them all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Problem {
    /// What kind of problem, as a URN: `urn:tranche:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:tranche:partitions_in_use")]
    pub kind: String,
    /// What the code means, in a sentence; the same for every problem of this type.
    pub title: String,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong here, in a sentence.
    pub detail: String,
    /// The finding's code; stable, for programs.
    pub code: Code,
    /// What to do about it, in a sentence.
    pub hint: String,
    /// What it is about.
    pub subject: Subject,
    /// Every finding, the gravest first.
    pub findings: Vec<Finding>,
}

impl Problem {
    /// A problem from one finding, with the status of its code's class.
    pub fn new(finding: Finding) -> Self {
        let status = status_of(finding.code);
        Self::with_status(status, finding)
    }

    /// A problem from one finding, with a status that HTTP itself prescribes (405, 413, ...).
    pub fn with_status(status: u16, finding: Finding) -> Self {
        Self {
            kind: format!("urn:tranche:{}", finding.code),
            title: finding.code.meaning().to_owned(),
            status,
            detail: finding.message.clone(),
            code: finding.code,
            hint: finding.hint.clone(),
            subject: finding.subject.clone(),
            findings: vec![finding],
        }
    }

    /// A problem from several findings: the gravest gives it its name, and the first of these wins.
    ///
    /// None where there are no findings: what is not refused for a reason is not refused.
    pub fn from_findings(mut findings: Vec<Finding>) -> Option<Self> {
        findings.sort_by_key(|finding| std::cmp::Reverse(gravity(finding)));
        let problem = Self::new(findings.first()?.clone());
        Some(Self { findings, ..problem })
    }
}

fn gravity(finding: &Finding) -> (Severity, bool) {
    (finding.severity, finding.code.class() != Class::Note)
}

/// The HTTP status of a refusal with this code.
pub fn status_of(code: Code) -> u16 {
    match code.class() {
        Class::Invalid => 422,
        Class::NotFound => 404,
        Class::Conflict | Class::Note => 409,
        Class::Denied => match code {
            Code::LoginRequired
            | Code::LoginFailed
            | Code::LoginStale
            | Code::IssuerRefused
            | Code::IdTokenInvalid => 401,
            Code::LoginThrottled => 429,
            _ => 403,
        },
        Class::Unavailable => 503,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(code: Code, severity: Severity, message: &str) -> Finding {
        let hint = "Do something.".to_owned();
        Finding { code, severity, subject: Subject::Installation, message: message.to_owned(), hint }
    }

    #[test]
    fn the_gravest_finding_names_the_problem_and_all_are_kept() {
        let problem = Problem::from_findings(vec![
            finding(Code::GuestUnsupported, Severity::Warning, "first"),
            finding(Code::PartitionsInUse, Severity::Error, "second"),
            finding(Code::InvalidName, Severity::Error, "third"),
        ])
        .unwrap();
        assert_eq!((problem.status, problem.code), (409, Code::PartitionsInUse));
        assert_eq!(
            (problem.kind.as_str(), problem.detail.as_str()),
            ("urn:tranche:partitions_in_use", "second")
        );
        assert_eq!(problem.findings.len(), 3);
        assert_eq!(Problem::from_findings(Vec::new()), None);
    }

    #[test]
    fn every_code_has_a_status_that_says_who_has_to_act() {
        for code in Code::ALL {
            let expected: &[u16] = match code.class() {
                Class::Invalid | Class::NotFound | Class::Conflict | Class::Note => &[422, 404, 409],
                Class::Denied => &[401, 403, 429],
                Class::Unavailable => &[503],
            };
            assert!(expected.contains(&status_of(*code)), "{code}");
        }
    }
}
