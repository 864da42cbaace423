//! `tranche-modules`: loads kernel modules for the daemon, which may not. The service manager starts it for one request.

use std::process::ExitCode;

use camino::Utf8Path;
use tranche_host::modules::server::{ThisMachine, serve};

fn main() -> ExitCode {
    let machine = ThisMachine::at(Utf8Path::new("/"));
    match serve(std::io::stdin().lock(), std::io::stdout().lock(), &machine) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tranche-modules: {error}");
            ExitCode::FAILURE
        }
    }
}
