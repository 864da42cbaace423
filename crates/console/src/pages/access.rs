//! Who may come in: users and tokens. Secrets are shown once, on the page that follows on their making.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, Method};
use maud::{Markup, html};
use tranche_api::access::{
    LinkMade, NewToken, Secret, SetUser, TOKEN_DAYS_DEFAULT, TokenMade, TokenView, UserView,
};
use tranche_core::access::Role;
use tranche_core::label::Label;
use tranche_core::name::UserName;

use crate::ask::{Answer, Trouble, Visit};
use crate::fields::{Fields, Named, Posted};
use crate::guard::see_other;
use crate::layout::Page;
use crate::parts::form::{Deed, Field, button, change, choice, hidden};
use crate::parts::table::{table, text};
use crate::words::time;

const PAGE: &str = "/access";
const ABOVE: [(&str, &str); 1] = [(PAGE, "Access")];

/// Users and tokens.
pub(crate) async fn show(visit: Visit) -> Answer {
    let (users, tokens) =
        tokio::join!(visit.get::<Vec<UserView>>("/v1/users"), visit.get::<Vec<TokenView>>("/v1/tokens"));
    let body = html! {
        h2 { "Users" }
        (users_table(&visit, &users?))
        (new_user(&visit))
        h2 { "Tokens" }
        p class="help" { "A token lets a program in, sent as " code { "Authorization: Bearer" } "." }
        (tokens_table(&visit, &tokens?))
        (new_token(&visit))
    };
    Ok(visit.page(&Page { title: "Access", at: PAGE, above: &[], body }))
}

fn roles() -> Vec<(String, String)> {
    let may = |role| match role {
        Role::Viewer => "viewer: sees everything, changes nothing",
        Role::Operator => "operator: VMs, and draining hosts",
        Role::Admin => "admin: everything",
    };
    Role::ALL.into_iter().map(|role| (role.to_string(), may(role).to_owned())).collect()
}

fn users_table(visit: &Visit, users: &[UserView]) -> Markup {
    let rows = users.iter().map(|user| {
        let rest = format!("/v1/users/{}", user.name);
        let (link, link_rest) = (format!("{PAGE}/users/{}/link", user.name), format!("{rest}/link"));
        let delete = format!("{PAGE}/users/{}/delete", user.name);
        vec![
            html! { (user.name) },
            role_form(visit, user, &rest),
            user.password_at.map_or_else(|| html! { "none; only a link lets them in" }, time),
            time(user.created_at),
            password_form(visit, user, &rest),
            html! {
                div class="acts" {
                    (button(visit, Deed { action: &link, method: "POST", rest: &link_rest }, "One-time link", ""))
                    (confirmed(visit, Deed { action: &delete, method: "DELETE", rest: &rest }, "Delete", user.name.as_str()))
                }
            },
        ]
    });
    let columns = [
        text("Name"),
        text("Role"),
        text("Password set"),
        text("Known since"),
        text("New password"),
        text("More"),
    ];
    table(
        "Users",
        &columns,
        rows.collect(),
        "There are no users: only those on a host get in, through its socket.",
    )
}

fn role_form(visit: &Visit, user: &UserView, rest: &str) -> Markup {
    let content = html! {
        (hidden("name", user.name.as_str()))
        select name="role" aria-label={ "Role of " (user.name) } {
            @for role in Role::ALL { option value=(role) selected[role == user.role] { (role) } }
        }
        input name="vm_labels" value=(labels_text(&user.vm_labels)) placeholder="all VMs" autocomplete="off" spellcheck="false" aria-label={ "Only VMs with a label, of " (user.name) };
        button { "Set" }
    };
    let form = change(visit, Deed { action: "/access/users", method: "PUT", rest }, content);
    html! { div class="inline" { (form) } }
}

fn password_form(visit: &Visit, user: &UserView, rest: &str) -> Markup {
    let content = html! {
        (hidden("name", user.name.as_str()))
        input type="password" name="password" required autocomplete="new-password" aria-label={ "New password of " (user.name) };
        button { "Set" }
    };
    html! { div class="inline" { (change(visit, Deed { action: "/access/users", method: "PUT", rest }, content)) } }
}

/// Deleting takes two steps on one page, without scripts: it is opened, then done.
fn confirmed(visit: &Visit, deed: Deed<'_>, label: &str, name: &str) -> Markup {
    html! {
        details class="confirm" {
            summary { (label) }
            (button(visit, deed, &format!("{label} {name} for good"), "grave"))
        }
    }
}

fn new_user(visit: &Visit) -> Markup {
    let content = html! {
        h3 { "New user" }
        div class="row" {
            (Field { name: "name", label: "Name", ..Field::default() })
            (choice("role", "Role", &roles(), "viewer"))
            (Field { name: "vm_labels", label: "Only VMs with a label", is_optional: true, help: "As team=red; with several, with commas between them, one of them is enough. Never for administrators.", ..Field::default() })
            (Field { name: "password", label: "Password", kind: "password", is_optional: true, help: "Without one, a one-time link lets them in.", ..Field::default() })
        }
        div class="buttons" { button class="main" { "Add user" } }
    };
    html! { div class="panel change" { (change(visit, Deed { action: "/access/users", method: "PUT", rest: "/v1/users/name" }, content)) } }
}

fn tokens_table(visit: &Visit, tokens: &[TokenView]) -> Markup {
    let rows = tokens.iter().map(|token| {
        let (action, rest) =
            (format!("{PAGE}/tokens/{}/delete", token.name), format!("/v1/tokens/{}", token.name));
        let deed = Deed { action: &action, method: "DELETE", rest: &rest };
        vec![
            html! { (token.name) },
            html! { (token.role) @if !token.vm_labels.is_empty() { " on " (labels_text(&token.vm_labels)) } },
            time(token.created_at),
            time(token.expires_at),
            confirmed(visit, deed, "Revoke", token.name.as_str()),
        ]
    });
    let columns = [text("Name"), text("Role"), text("Made"), text("Ends"), text("More")];
    table("Tokens", &columns, rows.collect(), "There are no tokens.")
}

fn new_token(visit: &Visit) -> Markup {
    let days = TOKEN_DAYS_DEFAULT.to_string();
    let content = html! {
        h3 { "New token" }
        div class="row" {
            (Field { name: "token", label: "Name", ..Field::default() })
            (choice("token_role", "Role", &roles(), "viewer"))
            (Field { name: "token_vm_labels", label: "Only VMs with a label", is_optional: true, help: "As team=red; with several, with commas between them, one of them is enough. Never for administrators.", ..Field::default() })
            (Field { name: "days", label: "Days", value: &days, kind: "number", ..Field::default() })
        }
        div class="buttons" { button class="main" { "Make token" } }
    };
    html! { div class="panel change" { (change(visit, Deed { action: "/access/tokens", method: "POST", rest: "/v1/tokens" }, content)) } }
}

/// Labels as they are shown, and typed.
fn labels_text(labels: &BTreeSet<Label>) -> String {
    labels.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn labels(fields: &Fields, name: &str) -> Result<BTreeSet<Label>, Trouble> {
    let pairs = fields.pairs(name, "Only VMs with a label")?;
    Ok(pairs.into_iter().map(|(key, value)| Label { key, value }).collect())
}

/// Makes a user known, or changes one.
pub(crate) async fn set_user(visit: Visit, Posted(fields): Posted) -> Answer {
    let name: UserName = fields.needed("name", "Name")?;
    // A password is taken as it is, with the space around it.
    let password = fields.raw("password").filter(|password| !password.is_empty());
    let wish = SetUser {
        role: fields.parsed("role", "Role")?,
        // The form with the password has no such field, and changes nothing of it.
        vm_labels: fields.raw("vm_labels").is_some().then(|| labels(&fields, "vm_labels")).transpose()?,
        password: password.map(|password| Secret(password.to_owned())),
    };
    visit.tell(Method::PUT, &format!("/v1/users/{name}"), Some(&wish)).await?;
    Ok(see_other(PAGE))
}

/// Forgets a user.
pub(crate) async fn delete_user(visit: Visit, Named(name): Named<UserName>) -> Answer {
    visit.tell(Method::DELETE, &format!("/v1/users/{name}"), None::<&()>).await?;
    Ok(see_other(PAGE))
}

/// Makes a link that lets a user in once, and shows it.
pub(crate) async fn make_link(visit: Visit, Named(name): Named<UserName>, headers: HeaderMap) -> Answer {
    let link: LinkMade =
        visit.ask(Method::POST, &format!("/v1/users/{name}/link"), Some(&serde_json::json!({}))).await?;
    let at = crate::links::origin(&headers).unwrap_or_default();
    let secret = format!("{at}/login?link={}", crate::links::encode(&link.secret.0));
    let note = html! { "It lets " strong { (name) } " in once, on any host of the cluster, until " (time(link.expires_at)) "." };
    Ok(visit.answer(&Page {
        title: "One-time link",
        at: PAGE,
        above: &ABOVE,
        body: shown_once(&secret, note),
    }))
}

/// Makes a token, and shows it.
pub(crate) async fn make_token(visit: Visit, Posted(fields): Posted) -> Answer {
    let wish = NewToken {
        name: fields.needed("token", "Name")?,
        role: fields.needed("token_role", "Role")?,
        vm_labels: labels(&fields, "token_vm_labels")?,
        days: fields.parsed("days", "Days")?.unwrap_or(TOKEN_DAYS_DEFAULT),
    };
    let made: TokenMade = visit.ask(Method::POST, "/v1/tokens", Some(&wish)).await?;
    let note = html! {
        "Token " strong { (made.token.name) } ", " (made.token.role) ", ends " (time(made.token.expires_at)) "."
    };
    Ok(visit.answer(&Page {
        title: "New token",
        at: PAGE,
        above: &ABOVE,
        body: shown_once(&made.secret.0, note),
    }))
}

/// Revokes a token.
pub(crate) async fn delete_token(visit: Visit, Named(name): Named<UserName>) -> Answer {
    visit.tell(Method::DELETE, &format!("/v1/tokens/{name}"), None::<&()>).await?;
    Ok(see_other(PAGE))
}

fn shown_once(secret: &str, note: Markup) -> Markup {
    html! {
        section class="panel notice" {
            p { (note) }
            p { strong { "Copy it now: it is shown only here." } }
            pre class="secret" { (secret) }
            p { a class="button" href=(PAGE) { "Done" } }
        }
    }
}
