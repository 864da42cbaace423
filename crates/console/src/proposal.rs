//! Changes that are looked at before they are made: a dry run, what it would do, and a button that does exactly that.
//!
//! What was shown travels with the button. A set of GPUs has a version for that, which the daemon holds to; for all else the dry run is
//! made again, and if it tells anything else by then, that is shown instead of being done.

use axum::http::Method;
use axum::response::Response;
use maud::{Markup, html};
use ring::digest;
use serde::Serialize;
use serde_json::Value;
use tranche_api::answer::{Accepted, Preview};
use tranche_core::effect::Effect;
use tranche_core::finding::{Class, Code};

use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{CSRF, Fields};
use crate::guard::see_other;
use crate::layout::Page;
use crate::links;
use crate::parts::form::{Deed, change, hidden};
use crate::parts::operation::ASKED;
use crate::parts::table::{table, text};
use crate::parts::{finding, nothing};
use crate::words::{mode, vm_effect};

/// Fields of the form that makes a change which was shown.
pub(crate) const SEEN: &str = "seen";
pub(crate) const VERSION: &str = "version";

/// A change, and how its page is worded.
#[derive(Debug)]
pub(crate) struct Proposal<'a> {
    /// What it is, as the page's title.
    pub(crate) title: String,
    /// What the button says.
    pub(crate) button: &'a str,
    /// Whether something is lost by it.
    pub(crate) is_grave: bool,
    /// The page that it was asked for from.
    pub(crate) back: (&'a str, &'a str),
    /// The page of the menu.
    pub(crate) at: &'a str,
    /// The page to go to afterwards; that of the operation if left out.
    pub(crate) then: Option<String>,
    /// A field that makes it possible where it is refused, and what it is called.
    pub(crate) otherwise: Option<(&'static str, &'static str)>,
    /// The request.
    pub(crate) method: Method,
    /// Its path.
    pub(crate) path: String,
    /// Its body.
    pub(crate) body: Option<Value>,
}

/// What stands on the page of a change beside what the daemon tells of it.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// What would be otherwise, where the daemon only says that something would.
    pub(crate) differences: Option<Markup>,
    /// The form as it was filled in, to be mended where it is refused.
    pub(crate) form: Option<Markup>,
}

impl Proposal<'_> {
    /// Shows what would happen, or makes it happen if that was shown.
    pub(crate) async fn answer(self, visit: &Visit, fields: &Fields) -> Answer {
        self.answer_beside(visit, fields, &Beside::default()).await
    }

    /// The same, with more on its page.
    pub(crate) async fn answer_beside(self, visit: &Visit, fields: &Fields, beside: &Beside) -> Answer {
        let Some(seen) = fields.get(SEEN) else { return self.show(visit, fields, beside, "").await };
        if fields.get(VERSION).is_none() {
            let preview = match self.dry_run(visit).await {
                Ok(preview) => preview,
                Err(trouble) => return Ok(self.refused(visit, fields, beside, &trouble)),
            };
            if fingerprint(&preview, beside) != seen {
                return self.show(visit, fields, beside, CHANGED).await;
            }
        }
        match self.make(visit).await {
            Err(trouble) if trouble.0.code == Code::VersionChanged => {
                self.show(visit, fields, beside, CHANGED).await
            }
            other => other,
        }
    }

    /// Makes it happen, whether it was shown or not.
    pub(crate) async fn make(&self, visit: &Visit) -> Answer {
        let accepted: Accepted = visit.ask(self.method.clone(), &self.path, self.body.as_ref()).await?;
        let id = accepted.operation.id;
        let to = self.then.as_ref().map(|to| format!("{to}?{ASKED}={id}"));
        Ok(see_other(&to.unwrap_or_else(|| links::operation(&id))))
    }

    async fn dry_run(&self, visit: &Visit) -> Result<Preview, Trouble> {
        let joint = if self.path.contains('?') { '&' } else { '?' };
        let path = format!("{}{joint}dry_run=true", self.path);
        visit.ask(self.method.clone(), &path, self.unversioned().as_ref()).await
    }

    /// The body without the version that was shown: that is what a dry run tells anew.
    fn unversioned(&self) -> Option<Value> {
        let mut body = self.body.clone();
        if let Some(Value::Object(fields)) = &mut body {
            fields.remove(VERSION);
        }
        body
    }

    async fn show(&self, visit: &Visit, fields: &Fields, beside: &Beside, note: &str) -> Answer {
        match self.dry_run(visit).await {
            Ok(preview) => {
                let body = self.preview(visit, fields, (&preview, beside), note);
                Ok(visit.answer(&Page { title: &self.title, at: self.at, above: &[self.back], body }))
            }
            Err(trouble) => Ok(self.refused(visit, fields, beside, &trouble)),
        }
    }

    fn refused(&self, visit: &Visit, fields: &Fields, beside: &Beside, trouble: &Trouble) -> Response {
        let body = self.refusal(visit, fields, beside, trouble);
        let mut response = visit.answer(&Page { title: &self.title, at: self.at, above: &[self.back], body });
        *response.status_mut() = trouble.status();
        response
    }

    fn preview(
        &self,
        visit: &Visit,
        fields: &Fields,
        (preview, beside): (&Preview, &Beside),
        note: &str,
    ) -> Markup {
        let version = preview.version.map(|version| version.to_string());
        let again = html! {
            (repeated(fields, &[SEEN, VERSION]))
            (hidden(SEEN, &fingerprint(preview, beside)))
            @if let Some(version) = &version { (hidden(VERSION, version)) }
            div class="buttons" {
                button class=(if self.is_grave { "grave" } else { "main" }) { (self.button) }
                a class="button" href=(self.back.0) { "Cancel" }
            }
        };
        html! {
            @if !note.is_empty() { section class="panel warn" role="alert" { p { (note) } } }
            section class="panel" {
                h2 { "What would be asked for" }
                @if preview.changes.is_empty() {
                    (nothing("Nothing: everything is as asked for already."))
                } @else {
                    ul { @for change in &preview.changes { li { (change) } } }
                    @if let Some(differences) = &beside.differences { (differences) }
                }
            }
            (effect(&preview.effect))
            (change(visit, self.deed(&visit.address), again))
        }
    }

    fn refusal(&self, visit: &Visit, fields: &Fields, beside: &Beside, trouble: &Trouble) -> Markup {
        let is_conflict = trouble.0.code.class() == Class::Conflict;
        let otherwise = self.otherwise.filter(|(field, _)| is_conflict && !fields.is_on(field));
        html! {
            (finding::problem(&trouble.0))
            @if let Some((field, label)) = otherwise {
                (change(visit, self.deed(&visit.address), html! {
                    (repeated(fields, &[SEEN, VERSION]))
                    (hidden(field, "on"))
                    div class="buttons" { button { (label) } a class="button" href=(self.back.0) { "Back" } }
                }))
            } @else if let Some(form) = &beside.form {
                (form)
            } @else {
                p { a class="button" href=(self.back.0) { "Back" } }
            }
        }
    }

    fn deed<'a>(&'a self, action: &'a str) -> Deed<'a> {
        let method = match self.method {
            Method::PUT => "PUT",
            Method::PATCH => "PATCH",
            Method::DELETE => "DELETE",
            _ => "POST",
        };
        Deed { action, method, rest: self.path.split('?').next().unwrap_or_default() }
    }
}

pub(crate) const CHANGED: &str =
    "Something has changed since you looked, so nothing was done. This is what would happen now.";

/// The page of a form that cannot be read as it was filled in, to be mended.
pub(crate) fn mended(visit: &Visit, page: Page<'_>, trouble: &Trouble) -> Response {
    let body = html! { (finding::problem(&trouble.0)) (page.body) };
    let mut response = visit.answer(&Page { body, ..page });
    *response.status_mut() = trouble.status();
    response
}

/// The fields of the form before, but for what belongs to that form alone.
pub(crate) fn repeated(fields: &Fields, without: &[&str]) -> Markup {
    html! {
        @for (name, value) in &fields.0 {
            @if name != CSRF && !without.contains(&name.as_str()) { (hidden(name, value)) }
        }
    }
}

/// Stands for what a preview shows. Figures in messages may differ from one moment to the next; what happens may not.
fn fingerprint(preview: &Preview, beside: &Beside) -> String {
    let effect = &preview.effect;
    let found: Vec<_> = effect.findings.iter().map(|finding| (finding.code, &finding.subject)).collect();
    let differences = beside.differences.as_ref().map(|differences| &differences.0);
    digest_of(&(
        &preview.changes,
        (&effect.gpus, &effect.vms, &effect.homes),
        found,
        preview.version,
        differences,
    ))
}

/// Stands for what was shown.
pub(crate) fn digest_of(shown: &impl Serialize) -> String {
    let text = serde_json::to_vec(shown).unwrap_or_default();
    digest::digest(&digest::SHA256, &text)
        .as_ref()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// What a change would do.
fn effect(effect: &Effect) -> Markup {
    let gpus = effect.gpus.iter().map(|(key, effect)| {
        let vms: Vec<String> = effect.vms.iter().map(ToString::to_string).collect();
        vec![
            html! { a href=(links::gpu(key)) { (key) } },
            html! { (mode(&effect.from)) },
            html! { (mode(&effect.to)) },
            html! { @if vms.is_empty() { "none" } @else { (vms.join(", ")) } },
        ]
    });
    let vms = effect.vms.iter().map(|(name, becomes)| {
        let home = effect.homes.get(name);
        vec![
            html! { a href=(links::vm(name)) { (name) } },
            html! { (vm_effect(*becomes)) },
            html! { @if let Some(home) = home { a href=(links::host(home)) { (home) } } },
        ]
    });
    html! {
        @if !effect.findings.is_empty() {
            section class="panel" { h2 { "What to know before" } (finding::list(&effect.findings)) }
        }
        @if !effect.gpus.is_empty() {
            section class="panel" {
                h2 { "GPUs" }
                (table("What becomes of each GPU", &[text("GPU"), text("Now"), text("Then"), text("VMs on it")], gpus.collect(), ""))
            }
        }
        section class="panel" {
            h2 { "VMs" }
            (table("What becomes of each VM", &[text("VM"), text("Effect"), text("Host")], vms.collect(), "No VM is affected."))
        }
        @if !effect.steps.is_empty() {
            details class="panel" {
                summary { "What hosts would do first (" (effect.steps.len()) ")" }
                ol class="steps" { @for step in &effect.steps { li { (step.host) ": " (step.text) } } }
            }
        }
    }
}
