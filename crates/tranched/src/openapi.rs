//! The OpenAPI 3.1 document: made from the handlers, checked in as `openapi/v1.json`, and served as checked in.
//!
//! A test fails when the two differ, so that no change of the interface goes unseen; `UPDATE_EXPECT=1` rewrites it.

use tranche_api::Problem;
use utoipa::OpenApi;

/// The document as checked in.
pub const TEXT: &str = include_str!("../../../openapi/v1.json");

/// What every request may be refused with.
#[derive(Debug, utoipa::IntoResponses)]
#[allow(dead_code, reason = "it is read by the macro of the handlers alone")]
pub(crate) enum Refusals {
    /// The request is malformed.
    #[response(status = 400, content_type = "application/problem+json")]
    Malformed(Problem),
    /// Who asks has not said who they are, or is not known.
    #[response(status = 401, content_type = "application/problem+json")]
    Unknown(Problem),
    /// Who asks may not do this.
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// It names something that does not exist.
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(Problem),
    /// It clashes with the present state.
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(Problem),
    /// Its body is larger than 1 MiB.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// Its body is not declared to be JSON.
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(Problem),
    /// A name or a value is not valid, or a field is unknown or repeated.
    #[response(status = 422, content_type = "application/problem+json")]
    Invalid(Problem),
    /// A defect of the daemon.
    #[response(status = 500, content_type = "application/problem+json")]
    Defect(Problem),
    /// It cannot be done at this moment.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(Problem),
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tranche",
        description = "GPU partitioning for Linux/KVM hosts. Served on a Unix socket (/run/tranche/tranche.sock): \
                       curl --unix-socket /run/tranche/tranche.sock http://localhost/v1/gpus; and on HTTPS (port 7440), \
                       where each request carries a token: Authorization: Bearer tranche_NAME.SECRET",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
        contact(name = "Tranche", url = "https://github.com/tranche-project/tranche")
    ),
    components(schemas(Problem)),
    tags(
        (name = "hosts", description = "Machines that run tranched and libvirt."),
        (name = "gpus", description = "GPUs, their modes and their partitions."),
        (name = "vms", description = "Virtual machines and what they ask for."),
        (name = "operations", description = "Changes that take their time: each is answered with an operation."),
        (name = "installation", description = "What concerns everything: findings, policies, declarations."),
        (name = "access", description = "Who may come in: users, tokens, sessions, and what was done by whom."),
        (name = "cluster", description = "The cluster that the host is in."),
        (name = "daemon", description = "The daemon itself: events, health, metrics, this document.")
    )
)]
struct Head;

/// The document as the handlers have it, in the form in which it is checked in.
pub fn document() -> String {
    let mut document = Head::openapi();
    document.merge(crate::rest::documented().into_openapi());
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}
