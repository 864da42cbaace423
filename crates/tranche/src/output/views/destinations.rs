//! How destinations of VMs look to people.

use tranche_core::finding::Finding;
use tranche_core::migration::{Forecast, Outlook, Way};

use super::super::table::rows;
use super::super::text;
use super::Show;

impl Show for [Outlook] {
    fn as_text(&self) -> String {
        let row = |outlook: &Outlook| {
            let (would, live) = match outlook.way {
                Way::Live => ("move there while it runs", "yes"),
                Way::Restart if outlook.live_obstacles.is_empty() => ("restart there", "not asked for"),
                Way::Restart => ("restart there", "no"),
                Way::Neither => ("stay here", "-"),
            };
            let (pause, takes) = outlook
                .forecast
                .as_ref()
                .map(|forecast| (about(forecast, forecast.pause_ms), about(forecast, forecast.total_ms)))
                .unwrap_or_default();
            vec![outlook.host.to_string(), would.to_owned(), live.to_owned(), pause, takes]
        };
        let mut shown = rows(
            &["HOST", "WOULD", "LIVE", "PAUSE", "TAKES"],
            self.iter().map(row).collect(),
            "There is no other host.",
        );
        shown += &grounds(self);
        for outlook in self {
            shown += &reasons(&format!("why not on {}", outlook.host), &outlook.why_not);
            shown += &reasons(&format!("why not live to {}", outlook.host), &outlook.live_obstacles);
        }
        shown
    }
}

/// A time that is foreseen. Where it is not known how much the guest changes, it is the least.
fn about(forecast: &Forecast, ms: u64) -> String {
    let sign = if forecast.dirty_mib_s.is_some() { "~" } else { ">" };
    if ms < 1_000 { format!("{sign}{ms}ms") } else { format!("{sign}{}.{}s", ms / 1_000, ms % 1_000 / 100) }
}

/// What the forecasts rest on that is not known.
fn grounds(outlooks: &[Outlook]) -> String {
    let forecasts = || outlooks.iter().filter_map(|outlook| outlook.forecast.as_ref());
    let mut shown = String::new();
    if forecasts().any(|forecast| forecast.dirty_mib_s.is_none()) {
        shown += "\nHow much memory the guest changes was not measured yet; that is done once it has run for a minute.\n";
    }
    if let Some(assumed) = forecasts().find(|forecast| !forecast.is_link_measured) {
        shown += &format!(
            "\nWhat a link carries is known once a VM went that way; until then it is taken to be {} MiB/s.\n",
            assumed.link_mib_s
        );
    }
    shown
}

fn reasons(title: &str, findings: &[Finding]) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut shown = format!("\n{title}:\n");
    for finding in findings {
        shown += &format!(
            "  {} [{}]\n    {}\n",
            text::plain(&finding.message),
            finding.code,
            text::plain(&finding.hint)
        );
    }
    shown
}
