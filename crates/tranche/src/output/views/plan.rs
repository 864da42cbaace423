//! What a change would do, for people.

use tranche_api::answer::Preview;
use tranche_core::effect::{GpuEffect, VmEffect};
use tranche_core::name::GpuKey;

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
        if !self.effect.gpus.is_empty() {
            text.push('\n');
            text.push_str(&rows(
                &["GPU", "NOW", "THEN", "VMS"],
                self.effect.gpus.iter().map(gpu).collect(),
                "",
            ));
        }
        let vms = self.effect.vms.iter().map(|(vm, effect)| {
            vec![
                vm.to_string(),
                self.effect.homes.get(vm).map_or_else(
                    || in_words(*effect).to_owned(),
                    |home| format!("shuts down and starts on {home}"),
                ),
            ]
        });
        text.push('\n');
        text.push_str(&rows(&["VM", "EFFECT"], vms.collect(), "No VM would be touched."));
        let steps = self.effect.steps.iter().map(|step| vec![step.host.to_string(), step.text.clone()]);
        text.push('\n');
        text.push_str(&rows(
            &["HOST", "FIRST STEPS"],
            steps.collect(),
            "No host has anything to do at once.",
        ));
        let text = text::findings_below(&text, &self.effect.findings);
        match &self.version {
            Some(version) => {
                format!(
                    "{text}\nTo do exactly this: the same command with --version {version} instead of --dry-run\n"
                )
            }
            None => text,
        }
    }
}

fn gpu((key, effect): (&GpuKey, &GpuEffect)) -> Vec<String> {
    let vms: Vec<String> = effect.vms.iter().map(ToString::to_string).collect();
    vec![key.to_string(), effect.from.to_string(), effect.to.to_string(), vms.join(", ")]
}

fn in_words(effect: VmEffect) -> &'static str {
    match effect {
        VmEffect::Starts => "starts",
        VmEffect::Stops => "shuts down",
        VmEffect::Restarts => "shuts down and starts again",
        VmEffect::Migrates => "goes to another host while it runs",
        VmEffect::Moves => "shuts down and starts on another host",
        VmEffect::Stays => "runs on: no other host can take it; stop it, or make room",
        VmEffect::Waits => "is off and waits for room",
        VmEffect::LosesReservation => "loses what is reserved for it",
        VmEffect::Goes => "is forgotten",
    }
}
