//! What changes, told to pages: that it did, and no more. A page then reads itself anew.
//!
//! The daemon's stream names what changed; for pages that is too much and too often, because each of them would read itself for each name.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::Method;
use axum::http::header::{self, HeaderName};
use axum::response::IntoResponse as _;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::{Instant, sleep_until};

use crate::ask::{Answer, Visit, trouble_of};

/// Pages are told at most once in this time.
const PACE: Duration = Duration::from_millis(500);
/// A browser drops an event that has no data.
const CHANGED: &str = "event: changed\ndata: 1\n\n";
/// Keeps the connection.
const COMMENT: &str = ":\n\n";

/// The stream of changes, for as long as the daemon's lasts.
pub(crate) async fn events(visit: Visit) -> Answer {
    let upstream = visit.send(Method::GET, "/v1/events", None::<&()>).await?;
    if !upstream.status().is_success() {
        return Err(trouble_of(upstream).await);
    }
    let told = paced(upstream.into_body().into_data_stream());
    // Proxies hold events back unless they are told not to.
    let about =
        [(header::CONTENT_TYPE, "text/event-stream"), (HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((about, Body::from_stream(told)).into_response())
}

fn paced(upstream: BodyDataStream) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let state = Pace { upstream, lines: Lines::default(), due: None, last: None, is_over: false };
    stream::unfold(state, async |mut state| {
        let told = state.next().await?;
        Some((Ok(Bytes::from_static(told.as_bytes())), state))
    })
}

struct Pace {
    upstream: BodyDataStream,
    lines: Lines,
    /// When pages are to be told of what has changed since they were told last.
    due: Option<Instant>,
    last: Option<Instant>,
    is_over: bool,
}

impl Pace {
    async fn next(&mut self) -> Option<&'static str> {
        loop {
            if self.is_over {
                return self.due.take().map(|_| CHANGED);
            }
            let chunk = match self.due {
                Some(due) => tokio::select! {
                    biased;
                    () = sleep_until(due) => {
                        (self.due, self.last) = (None, Some(due));
                        return Some(CHANGED);
                    }
                    chunk = self.upstream.next() => chunk,
                },
                None => self.upstream.next().await,
            };
            let Some(Ok(chunk)) = chunk else {
                self.is_over = true;
                continue;
            };
            if self.lines.hear(&chunk) {
                let now = Instant::now();
                self.due.get_or_insert(self.last.map_or(now, |last| (last + PACE).max(now)));
            } else if self.due.is_none() {
                return Some(COMMENT);
            }
        }
    }
}

/// Tells events from comments in a stream that comes in pieces (HTML standard, section 9.2.6).
#[derive(Debug, Default)]
struct Lines {
    /// Whether the line that came last is not at its end yet.
    is_inside: bool,
    /// Whether a field has come since the last empty line.
    has_field: bool,
}

impl Lines {
    /// Whether an event has come to its end.
    fn hear(&mut self, chunk: &[u8]) -> bool {
        let mut is_event = false;
        for byte in chunk {
            match byte {
                b'\r' => {}
                b'\n' if self.is_inside => self.is_inside = false,
                b'\n' => is_event |= std::mem::take(&mut self.has_field),
                b':' if !self.is_inside => self.is_inside = true,
                _ if !self.is_inside => (self.is_inside, self.has_field) = (true, true),
                _ => {}
            }
        }
        is_event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_in_whatever_pieces_it_comes_and_a_comment_is_none() {
        let mut lines = Lines::default();
        assert!(!lines.hear(b":keep-alive\n\n"));
        let event = b"id: 1\r\nevent: change\ndata: {\"a\": 1}\n\n";
        for byte in &event[..event.len() - 1] {
            assert!(!lines.hear(&[*byte]));
        }
        assert!(lines.hear(b"\n"));
        assert!(!lines.hear(b"\n: x\n\n"));
    }

    #[tokio::test(start_paused = true)]
    async fn pages_are_told_at_once_then_twice_a_second_at_most_and_the_last_change_is_never_lost() {
        let event = "event: change\ndata: {}\n\n";
        let chunks = [":\n\n", event, event, event].map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
        // The daemon's stream stays open for longer than a second after the last event.
        let open = stream::once(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(Bytes::from(":\n\n"))
        });
        let upstream = Body::from_stream(stream::iter(chunks).chain(open)).into_data_stream();
        let began = Instant::now();
        let told: Vec<(u128, String)> = paced(upstream)
            .map(|bytes| {
                let text = String::from_utf8(bytes.unwrap().to_vec()).unwrap();
                (began.elapsed().as_millis(), text)
            })
            .collect()
            .await;
        let changes: Vec<u128> = told.iter().filter(|(_, text)| text == CHANGED).map(|(at, _)| *at).collect();
        assert!(changes.first() == Some(&0) && changes.len() <= 2, "{told:?}");
        assert!(changes.get(1).is_none_or(|second| *second >= 500), "{told:?}");
    }
}
