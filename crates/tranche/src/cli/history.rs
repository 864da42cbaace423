//! Which part of a history: arguments that GPUs and VMs share.

use std::time::Duration;

use clap::Args;

use crate::argument;

/// Which part of a history is shown.
#[derive(Debug, Clone, Copy, Args)]
pub struct PartArgs {
    /// How far back: 30m, 24h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = argument::duration)]
    pub last: Duration,
    /// How long each step is, a multiple of 30s [default: as fits]
    #[arg(long, value_name = "TIME", value_parser = argument::duration)]
    pub step: Option<Duration>,
}
