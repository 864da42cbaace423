//! Logs: to standard error, in the form that the settings ask for.
//!
//! Request bodies are never logged: cloud-init data may hold passwords.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::registry;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tranche_engine::trail;

use crate::config::{LogConfig, LogFormat};
use crate::traces::SpanLayer;

/// Sets the logs up for the whole process, and beside them the traces, if there are any. The level was checked with the settings; a
/// wrong one means `info`.
///
/// # Errors
/// They are set up already.
pub fn start(config: &LogConfig, traces: Option<SpanLayer>) -> Result<(), TryInitError> {
    let level =
        config.level.parse::<Targets>().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    // Spans of traces would stand before each line that is written within one.
    let filter = level.with_target(trail::TARGET, LevelFilter::OFF);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = match resolve(config.format) {
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
        LogFormat::Human => lines.with_ansi(true).with_filter(filter).boxed(),
        LogFormat::Journal | LogFormat::Auto => {
            lines.without_time().with_ansi(false).with_filter(filter).boxed()
        }
    };
    let only_ours = Targets::new().with_target(trail::TARGET, LevelFilter::INFO);
    registry().with(lines).with(traces.map(|traces| traces.with_filter(only_ours))).try_init()
}

fn resolve(format: LogFormat) -> LogFormat {
    match format {
        LogFormat::Auto if std::io::stderr().is_terminal() => LogFormat::Human,
        LogFormat::Auto => LogFormat::Journal,
        chosen => chosen,
    }
}
