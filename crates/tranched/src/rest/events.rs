//! The event stream: which things changed, as they change.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use tranche_api::answer::ChangeEvent;

use super::input::{InQuery, NoQuery};
use super::{App, Refusal};
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
    let reader =
        app.events.subscribe().ok_or_else(|| Refusal::busy("Too many read the event stream already."))?;
    let events = stream::unfold(reader, async |mut reader| {
        let change = reader.next().await?;
        let event = Event::default().event("change").id(change.revision.to_string());
        Some((Ok(event.json_data(&*change).unwrap_or_default()), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}
