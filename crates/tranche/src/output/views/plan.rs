//! What a change would do, for people.

use tranche_api::answer::Preview;
use tranche_core::effect::VmEffect;

use super::Show;
use crate::output::table::rows;
use crate::output::text;

impl Show for Preview {
    fn as_text(&self) -> String {
        if self.changes.is_empty() {
            return "Everything is as asked for; nothing would change.\n".to_owned();
        }
        let mut text = String::from("Nothing was changed. It would:\n");
        for change in &self.changes {
            text.push_str(&format!("  {}\n", text::plain(change)));
        }
        let vms =
            self.effect.vms.iter().map(|(vm, effect)| vec![vm.to_string(), in_words(*effect).to_owned()]);
        text.push('\n');
        text.push_str(&rows(&["VM", "EFFECT"], vms.collect(), "No VM would be touched."));
        let steps = self.effect.steps.iter().map(|step| vec![step.host.to_string(), step.text.clone()]);
        text.push('\n');
        text.push_str(&rows(
            &["HOST", "FIRST STEPS"],
            steps.collect(),
            "No host has anything to do at once.",
        ));
        text::findings_below(&text, &self.effect.findings)
    }
}

fn in_words(effect: VmEffect) -> &'static str {
    match effect {
        VmEffect::Starts => "starts",
        VmEffect::Stops => "shuts down",
        VmEffect::Restarts => "shuts down and starts again",
        VmEffect::Waits => "is off and waits for room",
        VmEffect::LosesReservation => "loses what is reserved for it",
        VmEffect::Goes => "is forgotten",
    }
}
