//! The event stream: which things changed, as they change.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use tranche_api::answer::ChangeEvent;
use tranche_api::narrow::{Narrow as _, Theirs};
use tranche_core::access::Limit;

use super::input::{InQuery, NoQuery};
use super::{App, Refusal, sources};
use crate::events::Reader;
use crate::openapi::Refusals;

/// How often a comment is sent when nothing happens, so that a reader that is gone is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

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
