//! Logs: to standard error, in the form that the settings ask for.
//!
//! Request bodies are never logged: cloud-init data may hold passwords.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{LogConfig, LogFormat};

/// Sets the logs up for the whole process. The level was checked with the settings; a wrong one means `info`.
///
/// # Errors
/// They are set up already.
pub fn start(config: &LogConfig) -> Result<(), TryInitError> {
    let filter =
        config.level.parse::<Targets>().unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    let lines = fmt::layer().with_writer(std::io::stderr);
    let registry = registry().with(filter);
    match resolve(config.format) {
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
        LogFormat::Human => registry.with(lines.with_ansi(true)).try_init(),
        LogFormat::Journal | LogFormat::Auto => {
            registry.with(lines.without_time().with_ansi(false)).try_init()
        }
    }
}

fn resolve(format: LogFormat) -> LogFormat {
    match format {
        LogFormat::Auto if std::io::stderr().is_terminal() => LogFormat::Human,
        LogFormat::Auto => LogFormat::Journal,
        chosen => chosen,
    }
}
