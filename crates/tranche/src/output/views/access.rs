//! Users, tokens and the audit log, for people.

use std::collections::BTreeSet;

use tranche_api::access::{AuditEntry, LinkMade, TokenMade, TokenView, UserView};
use tranche_core::access::Role;
use tranche_core::label::Label;

use super::Show;
use crate::output::table::{rows, sheet};
use crate::output::text;

impl Show for [UserView] {
    fn as_text(&self) -> String {
        let row = |user: &UserView| {
            let password = user.password_at.map_or_else(|| "none".to_owned(), text::time);
            vec![
                user.name.to_string(),
                role(user.role, &user.vm_labels),
                password,
                text::time(user.created_at),
            ]
        };
        let none = "There are no users: nobody can log in to the console. 'tranche user create' makes one.";
        rows(&["NAME", "ROLE", "PASSWORD SET", "SINCE"], self.iter().map(row).collect(), none)
    }
}

/// A role, and the VMs that it is limited to: `operator on team=red`.
fn role(role: Role, vm_labels: &BTreeSet<Label>) -> String {
    let labels: Vec<String> = vm_labels.iter().map(ToString::to_string).collect();
    if labels.is_empty() { role.to_string() } else { format!("{role} on {}", labels.join(",")) }
}

impl Show for UserView {
    fn as_text(&self) -> String {
        let password = self.password_at.map_or_else(|| "none".to_owned(), text::time);
        sheet(&[
            ("name", self.name.to_string()),
            ("role", role(self.role, &self.vm_labels)),
            ("password set", password),
            ("since", text::time(self.created_at)),
        ])
    }
}

impl Show for [TokenView] {
    fn as_text(&self) -> String {
        let row = |token: &TokenView| {
            let times = [token.created_at, token.expires_at].map(text::time);
            [token.name.to_string(), role(token.role, &token.vm_labels)].into_iter().chain(times).collect()
        };
        rows(&["NAME", "ROLE", "SINCE", "ENDS"], self.iter().map(row).collect(), "There are no tokens.")
    }
}

/// The secret alone: it is copied, or written into a file, as it is.
impl Show for TokenMade {
    fn as_text(&self) -> String {
        format!("{}\n", self.secret.0)
    }
}

/// The link alone: it is copied as it is.
impl Show for LinkMade {
    fn as_text(&self) -> String {
        match &self.url {
            Some(url) => format!("{url}\n"),
            None => format!("The console is not served by this host. On one that serves it: {}\n", self.path),
        }
    }
}

impl Show for [AuditEntry] {
    fn as_text(&self) -> String {
        let row = |entry: &AuditEntry| {
            vec![
                text::time(entry.at),
                entry.who.clone(),
                entry.from.clone(),
                entry.host.clone(),
                entry.what.clone(),
                entry.status.to_string(),
                entry.outcome.clone().unwrap_or_default(),
                entry.changed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            ]
        };
        let header = ["TIME", "WHO", "FROM", "HOST", "WHAT", "STATUS", "OUTCOME", "CHANGED"];
        rows(&header, self.iter().map(row).collect(), "Nothing was changed or refused yet.")
    }
}
