//! How destinations of VMs look to people.

use tranche_core::finding::Finding;
use tranche_core::migration::{Outlook, Way};

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
            vec![outlook.host.to_string(), would.to_owned(), live.to_owned()]
        };
        let mut shown =
            rows(&["HOST", "WOULD", "LIVE"], self.iter().map(row).collect(), "There is no other host.");
        for outlook in self {
            shown += &reasons(&format!("why not on {}", outlook.host), &outlook.why_not);
            shown += &reasons(&format!("why not live to {}", outlook.host), &outlook.live_obstacles);
        }
        shown
    }
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
