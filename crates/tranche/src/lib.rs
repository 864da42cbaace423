//! The command: it speaks to the daemon over a Unix socket and shows what it answers.
//!
//! It decides nothing. What the daemon refuses is shown with its code and hint; what it accepts is an operation, which
//! is waited for. Only `inspect` looks at a machine itself, and needs no daemon for it.
//!
//! The path of a command: [`cli`] is what was typed, `commands` asks through `client`, and `output` prints.

mod argument;
pub mod cli;
mod client;
mod commands;
mod declaration;
mod failure;
mod manual;
mod output;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::cli::Cli;
use crate::output::Console;

/// Reads the command line, does what it says, and answers with one of the exit codes in `tranche --help`.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = Console::new(&cli.global);
    match commands::run(cli, &console) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            console.fail(&failure);
            failure.exit().into()
        }
    }
}

/// The command line as data, for the pages that are made from it.
pub fn command() -> clap::Command {
    Cli::command()
}
