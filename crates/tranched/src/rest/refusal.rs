//! Refusals: every way in which a request is not answered, as problem+json.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tranche_api::problem::{MEDIA_TYPE, Problem};
use tranche_core::diagnostics::{self as say, finding};
use tranche_core::finding::{Code, Finding, Severity, Subject};
use tranche_core::name::NameError;

use super::leader::NOT_LEADING;
use crate::engine::Rejected;

/// A refusal, ready to be sent.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Problem>);

impl Refusal {
    /// A request that HTTP itself refuses, or whose form is wrong.
    pub(super) fn request(status: StatusCode, input: &str, message: String, hint: &str) -> Self {
        let subject = Subject::Input(input.to_owned());
        let finding = finding(Code::InvalidRequest, Severity::Error, subject, message, hint);
        Self(Box::new(Problem::with_status(status.as_u16(), finding)))
    }

    /// The daemon has too much to do.
    pub(super) fn busy(message: &str) -> Self {
        let hint = "Try again in a while; 'journalctl -u tranched' tells what keeps it.";
        Self::from(finding(Code::Busy, Severity::Error, Subject::Installation, message, hint))
    }

    /// The daemon itself is wrong.
    pub(super) fn defect() -> Self {
        let message = "The daemon failed while it answered; this is a defect.";
        let hint = "Nothing was changed half-way. Please report it with the lines around it in 'journalctl -u tranched'.";
        let finding = finding(Code::Invariant, Severity::Error, Subject::Installation, message, hint);
        Self(Box::new(Problem::with_status(StatusCode::INTERNAL_SERVER_ERROR.as_u16(), finding)))
    }

    /// What it says.
    pub(super) fn problem(&self) -> &Problem {
        &self.0
    }

    /// The status that it is sent with.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<Finding> for Refusal {
    fn from(finding: Finding) -> Self {
        Self(Box::new(Problem::new(finding)))
    }
}

/// What another host has refused, as it did.
impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Self {
        Self::from(say::invalid_name(&error))
    }
}

impl From<Rejected> for Refusal {
    fn from(rejected: Rejected) -> Self {
        Problem::from_findings(rejected.into_findings())
            .map_or_else(Self::defect, |problem| Self(Box::new(problem)))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        let media_type = (header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        let nobody_leads = self.0.code == Code::NoLeader;
        let code = self.0.code;
        let mut response = (status, [media_type], Json(self.0)).into_response();
        if code == Code::LoginRequired {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if nobody_leads {
            response.headers_mut().insert(NOT_LEADING, HeaderValue::from_static("true"));
        }
        response
    }
}
