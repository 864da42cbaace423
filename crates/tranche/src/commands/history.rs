//! How busy something was.

use tranche_api::history::HistoryView;
use tranche_core::name::HostName;

use super::Daemon;
use crate::cli::PartArgs;
use crate::failure::{Exit, Failure};

/// Shows a part of the history at a path, as one host has it.
pub(super) fn show(
    path: &str,
    PartArgs { last, step }: PartArgs,
    host: Option<&HostName>,
    daemon: &Daemon<'_>,
) -> Result<Exit, Failure> {
    let mut query = format!("?span_s={}", last.as_secs());
    if let Some(step) = step {
        query += &format!("&step_s={}", step.as_secs());
    }
    if let Some(host) = host {
        query += &format!("&host={host}");
    }
    daemon.show(&daemon.client.get::<HistoryView>(&format!("{path}/history{query}"))?)
}
