//! Why a command did not do what it was asked to, and the exit code that says so.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use tranche_api::Problem;
use tranche_core::finding::{Code, Finding};
use tranche_core::operation::{Operation, OperationState};

use crate::client::ClientError;
use crate::declaration::DeclarationError;

/// How the command ends. The numbers are documented in `tranche --help`; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    /// Clap uses the same number for what it finds itself.
    Usage = 2,
    Refused = 3,
    Waiting = 4,
    Unreachable = 5,
    Found = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Declaration(#[from] DeclarationError),
    #[error("{}", ending(.0))]
    Operation(Box<Operation>),
    #[error("{gpu} could be any of {}.", candidates.join(", "))]
    AmbiguousGpu { gpu: String, candidates: Vec<String> },
    #[error("There is no GPU {gpu}.")]
    UnknownGpu { gpu: String },
    #[error("The catalogue has no model {model}.")]
    UnknownModel { model: String },
    #[error("There is more than one host.")]
    HostNeeded { hosts: Vec<String> },
    #[error("The file {path} cannot be read.", path = path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("The file {path} is {len_bytes} bytes long.", path = path.display())]
    TooLong { path: PathBuf, len_bytes: usize, max_bytes: usize },
    #[error("{what} cannot be written.")]
    Write { what: String, source: std::io::Error },
    #[error("A VM goes to a host of another cluster, or of none, only with its token.")]
    NoToken,
    #[error("A token is for a host that is in no cluster, and --to names a member.")]
    TokenForMember,
    #[error("systemd does not say what it is about to do.")]
    Systemd { source: std::io::Error },
    #[error("{}", .0.message)]
    Refused(Box<Finding>),
    #[error("Could not {title}: {}", finding.message)]
    Stopped { title: String, finding: Box<Finding> },
    #[error("Still at work to {title}.")]
    Underway { title: String },
    #[error("The scenario cannot be played. {0}")]
    Scenario(tranche_sim::ScenarioError),
    #[error("There is no terminal to ask for a password.")]
    NoTerminal,
    #[error("The two passwords differ; nothing was changed.")]
    Mistyped,
    #[error("Nothing was changed.")]
    Declined,
    #[error("This interrupts VM {}, and nobody is there to agree to it.", vms.join(", "))]
    Unasked { vms: Vec<String> },
    #[error("The answer cannot be printed in this format.")]
    Print { source: Box<dyn Error + Send + Sync> },
}

impl Failure {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Client(ClientError::Unreachable { .. }) => Exit::Unreachable,
            Self::Client(ClientError::Refused(_))
            | Self::Refused(_)
            | Self::Declaration(_)
            | Self::Scenario(_)
            | Self::UnknownGpu { .. }
            | Self::UnknownModel { .. }
            | Self::Declined
            | Self::Unasked { .. } => Exit::Refused,
            Self::Operation(operation) if !operation.state.is_over() => Exit::Waiting,
            Self::Underway { .. } => Exit::Waiting,
            Self::AmbiguousGpu { .. } | Self::HostNeeded { .. } | Self::NoTerminal => Exit::Usage,
            _ => Exit::Failed,
        }
    }

    /// The finding's code, where it is a finding.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Client(ClientError::Refused(problem)) => Some(problem.code),
            Self::Declaration(_) => Some(Code::InvalidRequest),
            Self::Refused(finding) | Self::Stopped { finding, .. } => Some(finding.code),
            Self::UnknownGpu { .. } => Some(Code::GpuNotFound),
            Self::UnknownModel { .. } => Some(Code::ModelNotFound),
            _ => None,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Client(error) => return error.hint(),
            Self::Declaration(error) => return Some(error.hint()),
            Self::Operation(operation) if operation.state.is_over() => {
                format!("Its log: tranche operation show {}", operation.id)
            }
            Self::Operation(operation) => {
                format!(
                    "It goes on by itself. Wait for it again with: tranche operation wait {}",
                    operation.id
                )
            }
            Self::Refused(finding) | Self::Stopped { finding, .. } => return Some(finding.hint.clone()),
            Self::Underway { .. } => "It goes on by itself: tranche cluster status".to_owned(),
            Self::AmbiguousGpu { .. } => "Write host/address.".to_owned(),
            Self::UnknownGpu { .. } => "List them with: tranche gpu list".to_owned(),
            Self::UnknownModel { .. } => "List them with: tranche catalogue list".to_owned(),
            Self::HostNeeded { hosts } => format!("Name one of: {}.", hosts.join(", ")),
            Self::TooLong { max_bytes, .. } => format!("It may be {max_bytes} bytes long at most."),
            Self::NoToken => "Make one there with 'tranche vm invite', and give it with --token.".to_owned(),
            Self::TokenForMember => {
                "Leave --token out, or name that host's console: --to https://HOST:7440.".to_owned()
            }
            Self::Systemd { .. } => {
                "Run it as root, or say which way the host goes: --reboot or --shutdown.".to_owned()
            }
            Self::Unasked { .. } => {
                "Look at it with --dry-run, and apply exactly that with --version; or say --yes.".to_owned()
            }
            Self::NoTerminal => "Send it on standard input, with --stdin.".to_owned(),
            Self::Declined
            | Self::Mistyped
            | Self::Scenario(_)
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Print { .. } => return None,
        };
        Some(hint)
    }

    /// Findings beyond the one that is the failure itself.
    pub(crate) fn more(&self) -> &[Finding] {
        match self {
            Self::Client(ClientError::Refused(problem)) => further(problem),
            Self::Operation(operation) => &operation.findings,
            _ => &[],
        }
    }
}

fn further(problem: &Problem) -> &[Finding] {
    problem.findings.get(1..).unwrap_or_default()
}

/// The title of an operation is what was asked for: `start VM desk-01`.
fn ending(operation: &Operation) -> String {
    let title = &operation.title;
    match operation.state {
        OperationState::Running => format!("Still at work to {title}."),
        OperationState::Waiting => format!("Cannot {title} yet."),
        OperationState::Succeeded => format!("Done: {title}."),
        OperationState::Failed => format!("Could not {title}."),
        OperationState::Superseded => format!("A later command made it pointless to {title}."),
    }
}
