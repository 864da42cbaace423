//! The one place that prints: results to standard output, remarks and errors to standard error.
//!
//! Text that came from hosts and guests is shown without its control characters, so that no name can play with the
//! terminal.

mod explanation;
mod progress;
mod table;
mod text;
mod views;

use std::io::{self, BufRead, ErrorKind, IsTerminal, Write};

use serde::Serialize;
use tranche_core::finding::{Finding, Severity};
use tranche_core::operation::Operation;

pub(crate) use explanation::Explanation;
pub(crate) use progress::Progress;
pub(crate) use text::chain;
pub(crate) use views::{Bundle, CatalogueSheets, GpuSheet, HostSheet, Hosts, LeftOut, Part, Rules, Show};

use crate::cli::{Format, Global};
use crate::failure::Failure;

/// How and where to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Console {
    format: Format,
    quiet: bool,
}

impl Console {
    /// As the command line says.
    pub(crate) fn new(global: &Global) -> Self {
        Self { format: global.output, quiet: global.quiet }
    }

    /// The same, but for programs.
    pub(crate) fn in_json(&self) -> Self {
        Self { format: Format::Json, quiet: self.quiet }
    }

    /// Prints a result in the format that was asked for.
    pub(crate) fn show<T: Serialize + Show + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => value.as_text(),
            Format::Json => {
                serde_json::to_string_pretty(value)
                    .map_err(|source| Failure::Print { source: source.into() })?
                    + "\n"
            }
            Format::Yaml => {
                serde_saphyr::to_string(&value).map_err(|source| Failure::Print { source: source.into() })?
            }
        };
        self.print(text.as_bytes())
    }

    /// Prints bytes as they are.
    pub(crate) fn print(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            // Whoever reads has seen enough: `tranche vm list | head`.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            Err(source) => Err(Failure::Write { what: "The result".to_owned(), source }),
            Ok(()) => Ok(()),
        }
    }

    /// Prints that something was done: a line for people, the whole operation for programs.
    pub(crate) fn done(&self, operation: &Operation) -> Result<(), Failure> {
        match self.format {
            Format::Table if self.quiet => Ok(()),
            Format::Table => {
                self.print(format!("{}: done\n", text::plain(&operation.title)).as_bytes())?;
                self.remarks(&operation.findings);
                Ok(())
            }
            Format::Json | Format::Yaml => self.show(operation),
        }
    }

    /// Prints what its user should know beside the result. For programs, it is in the result.
    pub(crate) fn remarks(&self, findings: &[Finding]) {
        if !self.quiet && self.format == Format::Table {
            self.complain(&text::findings(findings));
        }
    }

    /// Whether results are for people. Programs read one document for each command.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Asks a question that is answered by yes or no; none where there is nobody to ask. What is not a yes is a no.
    pub(crate) fn agrees(&self, question: &str) -> Result<Option<bool>, Failure> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Ok(None);
        }
        self.complain(&format!("{} [y/N] ", text::plain(question)));
        let mut answer = String::new();
        let read = io::stdin().lock().read_line(&mut answer);
        read.map_err(|source| Failure::Read { path: "/dev/stdin".into(), source })?;
        Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
    }

    /// Prints a line about the result that is not part of it.
    pub(crate) fn note(&self, line: &str) {
        if !self.quiet {
            self.complain(&format!("{}\n", text::plain(line)));
        }
    }

    /// A bar or lines for something that takes its time.
    pub(crate) fn progress(&self, title: &str) -> Progress {
        if self.quiet {
            Progress::silent()
        } else if io::stderr().is_terminal() {
            Progress::bar(title)
        } else {
            Progress::lines(title)
        }
    }

    /// Prints why there is no result.
    pub(crate) fn fail(&self, failure: &Failure) {
        let text = match self.format {
            Format::Table => text::failure(failure),
            Format::Json | Format::Yaml => {
                let complaint = Complaint {
                    message: text::chain(failure),
                    code: failure.code().map(|code| code.as_str()),
                    hint: failure.hint(),
                    findings: failure.more(),
                    exit_code: failure.exit() as u8,
                };
                serde_json::to_string(&complaint).map_or_else(|_| text::failure(failure), |json| json + "\n")
            }
        };
        self.complain(&text);
    }

    fn complain(&self, text: &str) {
        // With standard error closed there is nobody left to tell; the exit code still says it.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }
}

/// A failure, for programs: one line of JSON on standard error.
#[derive(Debug, Serialize)]
struct Complaint<'a> {
    message: String,
    code: Option<&'a str>,
    hint: Option<String>,
    findings: &'a [Finding],
    exit_code: u8,
}

/// Whether anything here is graver than information.
pub(crate) fn is_grave(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity != Severity::Info)
}
