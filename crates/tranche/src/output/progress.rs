//! Progress: a bar on a terminal, plain lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the bar's spinner turns.
const TURN: Duration = Duration::from_millis(120);

/// Progress of one thing.
#[derive(Debug)]
pub(crate) struct Progress(Kind);

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Lines { title: String },
    Silent,
}

impl Progress {
    pub(super) fn bar(title: &str) -> Self {
        let style =
            ProgressStyle::with_template("{spinner} {prefix} [{bar:24}] {percent:>3}% {elapsed} {wide_msg}");
        let bar = ProgressBar::new(100).with_prefix(super::text::plain(title));
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(TURN);
        Self(Kind::Bar(bar))
    }

    pub(super) fn lines(title: &str) -> Self {
        Self(Kind::Lines { title: super::text::plain(title) })
    }

    pub(super) fn silent() -> Self {
        Self(Kind::Silent)
    }

    /// Something happened.
    pub(crate) fn line(&mut self, text: &str) {
        let text = super::text::plain(text);
        match &self.0 {
            Kind::Bar(bar) => bar.set_message(text),
            Kind::Lines { title } => eprintln!("{title}: {text}"),
            Kind::Silent => {}
        }
    }

    /// So much is done.
    pub(crate) fn percent(&mut self, percent: u8) {
        if let Kind::Bar(bar) = &self.0 {
            bar.set_position(u64::from(percent));
        }
    }

    /// It is over; the bar goes, lines stay.
    pub(crate) fn clear(&mut self) {
        if let Kind::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
