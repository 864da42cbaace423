//! Running the programs that the lab drives: arguments are never words of a shell, output goes to a log, and the
//! end of that log comes back with a failure.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::Error;

/// How much of a log a failure shows.
const TAIL_LINES: usize = 20;

/// Runs a program to its end, with all that it writes in `log`.
///
/// # Errors
/// [`Error::Failed`] with the end of the log when it exits with anything but 0.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<(), Error> {
    let file = File::create(log).map_err(Error::io("write", log))?;
    let copy = file.try_clone().map_err(Error::io("write", log))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .status()
        .map_err(|source| not_started(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { program: program_of(command), status, tail: tail_of(log) })
}

/// Runs a program to its end and returns what it wrote to standard output.
///
/// # Errors
/// [`Error::Failed`] with what it wrote to standard error when it exits with anything but 0.
pub(crate) fn read_output(command: &mut Command) -> Result<String, Error> {
    let output = command.stdin(Stdio::null()).output().map_err(|source| not_started(command, source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let tail = last_lines(&String::from_utf8_lossy(&output.stderr));
    Err(Error::Failed { program: program_of(command), status: output.status, tail })
}

/// The last lines of a log; empty when it cannot be read, because it only goes with an error that counts more.
pub(crate) fn tail_of(log: &Path) -> String {
    std::fs::read(log).map(|bytes| last_lines(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
}

pub(crate) fn not_started(command: &Command, source: std::io::Error) -> Error {
    Error::NotStarted { program: program_of(command), source }
}

fn program_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
