//! The command `tranche`. Everything is in the library, so that its command line can be documented from the code.

use std::process::ExitCode;

fn main() -> ExitCode {
    tranche::main()
}
