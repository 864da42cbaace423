//! Flags that every change has.

use std::time::Duration;

use clap::Args;

/// Flags that every change has.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Options of changes")]
pub struct Doing {
    /// Change nothing; show what would be done, and what becomes of each VM
    #[arg(long)]
    pub dry_run: bool,
    /// Do not wait until it is done; print the operation
    #[arg(long, conflicts_with = "dry_run")]
    pub no_wait: bool,
    /// Give up waiting after so long: 90, 90s, 5m. It goes on all the same
    #[arg(long, value_name = "TIME", value_parser = crate::argument::duration, conflicts_with = "no_wait")]
    pub timeout: Option<Duration>,
}
