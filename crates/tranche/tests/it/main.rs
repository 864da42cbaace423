//! The real command against a daemon that answers from a script: what it asks, what it prints, how it ends.

mod access;
mod catalogue;
mod changes;
mod daemon;
mod declarations;
mod fixtures;
mod history;
mod homogeneity;
mod inspecting;
mod leaderless;
mod looking;
mod migration;
mod refusals;
mod settings;
mod simulating;
mod support;
mod usage;

use std::process::{Command, Stdio};

use expect_test::Expect;

use crate::daemon::Daemon;

/// Runs the command against a daemon and compares how it ended and what it printed.
#[track_caller]
fn check(daemon: &Daemon, args: &[&str], expected: Expect) {
    expected.assert_eq(&run(daemon, args));
}

fn run(daemon: &Daemon, args: &[&str]) -> String {
    let socket = daemon.socket();
    let socket = socket.to_str().expect("a temporary path is text");
    run_bare(&[&["--socket", socket], args].concat()).replace(socket, "SOCKET")
}

/// Runs the command as it is.
fn run_bare(args: &[&str]) -> String {
    let output = command(args).output().expect("the command starts");
    let code = output.status.code().expect("the command ends by itself");
    let stdout = String::from_utf8(output.stdout).expect("standard output is text");
    let stderr = String::from_utf8(output.stderr).expect("standard error is text");
    let stderr: String = stderr.lines().map(|line| format!("! {line}\n")).collect();
    format!("{stdout}{stderr}exit {code}\n")
}

/// The command, with nothing of the tester's own environment that could show in its output.
fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tranche"));
    command
        .args(args)
        .env("TZ", "UTC")
        .env_remove("TRANCHE_SOCKET")
        .env_remove("COLUMNS")
        .stdin(Stdio::null());
    command
}
