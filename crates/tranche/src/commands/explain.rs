//! The handbook's entry for a code, for whoever has no browser at hand. It asks no daemon.

use tranche_core::finding::Code;

use crate::failure::{Exit, Failure};
use crate::output::{Console, Explanation};

pub(super) fn run(code: Code, console: &Console) -> Result<Exit, Failure> {
    console.show(&Explanation::of(code)).map(|()| Exit::Done)
}
