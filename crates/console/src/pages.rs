//! The pages, one room for each.
//!
//! A page reads what it shows from the REST interface and changes nothing; what a form asks for is shown first and made then
//! ([`crate::proposal`]), but for what harms nobody.

mod access;
mod audit;
mod capacity;
mod cluster;
mod cluster_acts;
mod findings;
mod gpu;
mod gpus;
mod homogeneity;
mod host;
mod host_set;
mod hosts;
mod invitations;
mod login;
mod login_issuer;
mod operations;
mod overview;
mod partition;
mod policy;
mod rule_edit;
mod rules;
mod vm;
mod vm_acts;
mod vm_adopt;
mod vm_console;
mod vm_handover;
mod vm_new;
mod vm_places;
mod vm_set;
mod vms;

use axum::Router;
use axum::http::Uri;
use axum::routing::{get, post};

use crate::ask::{Console, Trouble};
use crate::{assets, events};

/// Every page, and what takes their forms.
pub(crate) fn routes() -> Router<Console> {
    Router::new()
        .route("/", get(overview::show))
        .route("/login", get(login::show).post(login::enter))
        .route("/login/issuer", get(login_issuer::begin))
        .route("/login/callback", get(login_issuer::finish))
        .route("/logout", post(login::leave))
        .route("/gpus", get(gpus::show))
        .route("/gpus/{host}/{address}", get(gpu::show))
        .route("/gpus/{host}/{address}/history", get(gpu::history))
        .route("/gpus/{host}/{address}/mode", post(gpu::set_mode))
        .route("/partition", get(partition::show).post(partition::set))
        .route("/vms", get(vms::show))
        .route("/vms/new", get(vm_new::show).post(vm_new::create))
        .route("/adopt", get(vm_adopt::show).post(vm_adopt::adopt))
        .route("/invitations", get(invitations::show).post(invitations::make))
        .route("/invitations/{id}/withdraw", post(invitations::withdraw))
        .route("/vms/{name}", get(vm::show))
        .route("/vms/{name}/serial", get(vm_console::serial))
        .route("/vms/{name}/serial/socket", get(vm_console::serial_socket))
        .route("/vms/{name}/screen", get(vm_console::screen))
        .route("/vms/{name}/screen/socket", get(vm_console::screen_socket))
        .route("/vms/{name}/history", get(vm::history))
        .route("/vms/{name}/{act}", post(vm_acts::act))
        .route("/hosts", get(hosts::show))
        .route("/hosts/{name}", get(host::show))
        .route("/hosts/{name}/{act}", post(host::act))
        .route("/failover/{act}", post(hosts::failover))
        .route("/homogeneity", get(homogeneity::show))
        .route("/capacity", get(capacity::show))
        .route("/operations", get(operations::list))
        .route("/operations/{id}", get(operations::show))
        .route("/findings", get(findings::show))
        .route("/rules", get(rules::show))
        .route("/rules/edit", get(rule_edit::show).post(rule_edit::set))
        .route("/rules/delete", post(rule_edit::delete))
        .route("/policy", get(policy::show).post(policy::set))
        .route("/cluster", get(cluster::show))
        .route("/cluster/tokens", post(cluster_acts::make_token))
        .route("/cluster/gone", post(cluster_acts::gone))
        .route("/cluster/defragment", post(cluster_acts::defragment))
        .route("/access", get(access::show))
        .route("/access/users", post(access::set_user))
        .route("/access/users/{name}/link", post(access::make_link))
        .route("/access/users/{name}/delete", post(access::delete_user))
        .route("/access/tokens", post(access::make_token))
        .route("/access/tokens/{name}/delete", post(access::delete_token))
        .route("/audit", get(audit::show))
        .route("/events", get(events::events))
        .route("/assets/{file}", get(assets::show))
        .route("/assets/{tree}/{*file}", get(assets::novnc::show))
}

/// The answer where there is no page.
pub(crate) async fn not_found(uri: Uri) -> Trouble {
    Trouble::nothing_at(uri.path())
}
