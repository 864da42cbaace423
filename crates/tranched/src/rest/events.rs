//! The event stream: which things changed, as they change; for as long as whoever reads it may.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, StreamExt as _, stream};
use tranche_api::answer::ChangeEvent;
use tranche_api::narrow::{Narrow as _, Theirs};
use tranche_core::access::{Limit, denied};

use super::input::{InQuery, NoQuery};
use super::standing::By;
use super::{App, Refusal, sources};
use crate::events::Reader;
use crate::openapi::Refusals;

/// How often a comment is sent when nothing happens, so that a reader that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where it is read.
pub(super) const PATH: &str = "/v1/events";
/// How often it is looked whether somebody may still read it.
const LOOK: Duration = Duration::from_secs(10);

/// Events `change`, one for each new view. A reader that is too slow is hung up on, and reads anew.
#[utoipa::path(
    get,
    path = "/v1/events", operation_id = "read_events",
    tag = "daemon",
    responses(
        (status = 200, description = "Server-sent events.", body = ChangeEvent, content_type = "text/event-stream"),
        Refusals
    )
)]
pub(super) async fn stream(
    State(app): State<App>,
    InQuery(NoQuery {}): InQuery<NoQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    Ok(told(reader_of(&app)?, |change| change))
}

/// The same for somebody who is limited to some VMs.
pub(super) fn narrowed(
    app: App,
    limit: Limit,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let reader = reader_of(&app)?;
    Ok(told(reader, move |mut change| {
        let known = app.engine.view();
        change.narrow(&Theirs::new(sources(&known), &limit, None));
        change
    }))
}

/// The stream as it is answered where it was asked for: it ends when whoever reads it may not any more, or may see others than before. They
/// read anew then, and are told why that is refused.
pub(super) fn while_allowed(answer: Response, app: App, by: By, limit: Option<Limit>) -> Response {
    let lapse = async move {
        let may = |asker: tranche_access::Asker| {
            let is_denied = denied(asker.role, asker.limit.is_some(), "GET", PATH).is_some();
            std::future::ready(Ok(!is_denied && asker.limit == limit))
        };
        by.lapses(&app, LOOK, may).await;
    };
    answer.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(lapse))))
}

fn reader_of(app: &App) -> Result<Reader, Refusal> {
    app.events.subscribe().ok_or_else(|| Refusal::busy("Too many read the event stream already."))
}

/// Events, each as `form` makes it; those that say nothing then are left out.
fn told<F: Fn(ChangeEvent) -> ChangeEvent + Send + 'static>(
    reader: Reader,
    form: F,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = stream::unfold((reader, form), async |(mut reader, form)| {
        loop {
            let change = reader.next().await?;
            let change = form(ChangeEvent::clone(&change));
            if !change.subjects.is_empty() {
                let event = Event::default().event("change").id(change.revision.to_string());
                return Some((Ok(event.json_data(&change).unwrap_or_default()), (reader, form)));
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}
