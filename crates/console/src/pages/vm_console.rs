//! The consoles of a VM: a terminal for its serial port, and its screen.
//!
//! The page is a frame for a script (`assets/consoles.js`), which has xterm.js or noVNC in it and opens a WebSocket. That is the REST
//! interface's own one, asked as whoever looks; what goes over it passes by here unread.

use axum::http::HeaderMap;
use maud::{Markup, html};
use tranche_api::view::VmView;
use tranche_core::inventory::Console;
use tranche_core::name::VmName;

use crate::ask::{Answer, Visit};
use crate::assets::{CONSOLES, XTERM, XTERM_STYLE, novnc};
use crate::fields::{Asked, Named};
use crate::layout::Page;
use crate::links;

/// The path of a console in the REST interface, its page, and what leads there is called.
pub(super) fn of(vm: &VmName, console: Console) -> (String, String, &'static str) {
    let (rest, page, label) = match console {
        Console::Serial => ("console", "serial", "Serial console"),
        Console::Screen => ("screen", "screen", "Screen"),
    };
    (format!("/v1/vms/{vm}/{rest}"), format!("{}/{page}", links::vm(vm)), label)
}

/// The page of the serial console.
pub(crate) async fn serial(visit: Visit, Named(name): Named<VmName>) -> Answer {
    let content = html! {
        link rel="stylesheet" href=(XTERM_STYLE.address());
        p class="help" {
            "One at a time has it. " kbd { "Ctrl" } "+" kbd { "]" } " takes the keyboard out of the terminal. On a host: "
            code { "tranche vm console " (name) }
        }
    };
    show(&visit, &name, Console::Serial, (XTERM.address(), content)).await
}

/// The page of the screen.
pub(crate) async fn screen(visit: Visit, Named(name): Named<VmName>) -> Answer {
    let content = html! {
        p class="help" {
            kbd { "Ctrl" } "+" kbd { "]" } " takes the keyboard out of the screen. The guest\u{2019}s own driver for a GPU may show its desktop on \
            that GPU only: this screen is for installing, and for when nothing else answers."
        }
    };
    show(&visit, &name, Console::Screen, (&novnc::address(), content)).await
}

/// What carries the serial console.
pub(crate) async fn serial_socket(
    visit: Visit,
    Named(name): Named<VmName>,
    Asked(asked): Asked,
    headers: HeaderMap,
) -> Answer {
    let (rest, ..) = of(&name, Console::Serial);
    let force = if asked.is_on("force") { "?force=true" } else { "" };
    visit.hand_on(&format!("{rest}{force}"), &headers).await
}

/// What carries the screen.
pub(crate) async fn screen_socket(visit: Visit, Named(name): Named<VmName>, headers: HeaderMap) -> Answer {
    let (rest, ..) = of(&name, Console::Screen);
    visit.hand_on(&rest, &headers).await
}

async fn show(visit: &Visit, name: &VmName, console: Console, (library, help): (&str, Markup)) -> Answer {
    let vm: VmView = visit.get(&format!("/v1/vms/{name}")).await?;
    let (rest, page, label) = of(&vm.name, console);
    let body = html! {
        @if visit.may("GET", &rest) {
            (help)
            (frame(console, &format!("{page}/socket"), library))
        } @else {
            p class="empty" { "This is for operators: whoever is at a console acts in the guest." }
        }
    };
    let (title, vm_page) = (format!("{label} of {}", vm.name), links::vm(&vm.name));
    let above = [("/vms", "VMs"), (vm_page.as_str(), vm.name.as_str())];
    // It stays as it is: a page that reads itself anew would take the terminal away.
    Ok(visit.answer(&Page { title: &title, at: "/vms", above: &above, body }))
}

fn frame(console: Console, socket: &str, library: &str) -> Markup {
    let kind = match console {
        Console::Serial => "serial",
        Console::Screen => "screen",
    };
    html! {
        noscript { p class="empty" { "A console needs scripts, which this browser does not run." } }
        div id="console" data-kind=(kind) data-socket=(socket) data-library=(library) {
            div class="state" {
                span id="console-state" role="status" {}
                div class="acts" {
                    button id="console-again" type="button" hidden { "Connect again" }
                    button id="console-force" type="button" class="grave" hidden { "Take it over" }
                    button id="console-keys" type="button" hidden { "Send Ctrl+Alt+Del" }
                }
            }
            div id="console-problem" class="finding bad" hidden { p class="what" {} p class="hint" {} }
            form id="console-password" class="panel" hidden {
                label for="f-console-password" { "Password of this screen" }
                input id="f-console-password" type="password" autocomplete="off";
                div class="buttons" { button class="main" { "Show it" } }
            }
            div id="console-view" class={ "console-view " (kind) } {}
        }
        script type="module" src=(CONSOLES.address()) {}
    }
}
