//! A watch on etcd: a stream that is opened again where it ended.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};

use super::calls::Calls;
use super::{signed, unsigned};
use crate::Watch;
use crate::error::StoreError;
use crate::record::{Event, Revision};

/// The events of one range of keys. Nothing is read ahead: what nobody asks for waits at etcd.
pub(super) struct EtcdWatch {
    calls: Arc<Calls>,
    range: (Vec<u8>, Vec<u8>),
    /// Everything up to here was told.
    after: Revision,
    /// None after it broke, and once the history is gone.
    stream: Option<WatchStream>,
    compacted: Option<Revision>,
}

impl std::fmt::Debug for EtcdWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdWatch").field("after", &self.after).finish_non_exhaustive()
    }
}

impl EtcdWatch {
    pub(super) fn open(
        calls: Arc<Calls>,
        range: (Vec<u8>, Vec<u8>),
        after: Revision,
    ) -> Result<Self, StoreError> {
        let mut watch = Self { calls, range, after, stream: None, compacted: None };
        watch.stream = Some(watch.start()?);
        Ok(watch)
    }

    /// Opens the stream behind what was told, and waits until etcd has taken note of it.
    fn start(&self) -> Result<WatchStream, StoreError> {
        self.calls.wait(|client| {
            let (from, end) = self.range.clone();
            let options = WatchOptions::new()
                .with_range(end)
                .with_start_revision(signed(self.after.0 + 1))
                .with_progress_notify();
            async move {
                let mut client = client.watch_client().max_decoding_message_size(usize::MAX);
                let mut stream = client.watch(from, Some(options)).await?;
                // The first answer says that the watch was made.
                stream.message().await?;
                Ok(stream)
            }
        })
    }

    fn gone(&self, compacted: Revision) -> StoreError {
        StoreError::Compacted { after: self.after, compacted }
    }

    /// The events of one answer; it also tells how far the watch has come while nothing happened.
    fn take(&mut self, answer: &WatchResponse) -> Result<Vec<Event>, StoreError> {
        let mut events = Vec::with_capacity(answer.events().len());
        for event in answer.events() {
            let Some(found) = event.kv() else { continue };
            events.push(match event.event_type() {
                EventType::Put => Event::Put(self.calls.entry(found)?),
                EventType::Delete => {
                    let revision = Revision(unsigned(found.mod_revision()));
                    Event::Deleted { key: self.calls.key(found.key())?, revision }
                }
            });
        }
        let told = match events.last() {
            Some(last) => last.revision(),
            None => Revision(answer.header().map_or(0, |header| unsigned(header.revision()))),
        };
        self.after = self.after.max(told);
        Ok(events)
    }
}

impl Watch for EtcdWatch {
    fn next(&mut self, timeout: Duration) -> Result<Vec<Event>, StoreError> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(compacted) = self.compacted {
                return Err(self.gone(compacted));
            }
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => self.start()?,
            };
            let rest = until.saturating_duration_since(Instant::now());
            let (stream, heard) = if rest.is_zero() {
                let heard = arrived(stream.message());
                (stream, heard)
            } else {
                let wait = rest + self.calls.limit();
                self.calls.within(wait, async move {
                    let heard = tokio::time::timeout(rest, stream.message()).await.ok();
                    (stream, heard)
                })?
            };
            let Some(heard) = heard else {
                self.stream = Some(stream);
                return Ok(Vec::new());
            };
            let answer = heard.map_err(|error| self.calls.error(None, error))?;
            let answer = answer.ok_or_else(|| self.calls.nonsense("the watch ended"))?;
            if answer.compact_revision() > 0 {
                self.compacted = Some(Revision(unsigned(answer.compact_revision())));
                continue;
            }
            if answer.canceled() {
                return Err(self
                    .calls
                    .nonsense(&format!("the watch was cancelled: {}", answer.cancel_reason())));
            }
            self.stream = Some(stream);
            let events = self.take(&answer)?;
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }
}

/// What is there already. A timer waits a millisecond at least, and whoever leads asks again and again with others waiting for it.
fn arrived<T>(answer: impl Future<Output = T>) -> Option<T> {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => None,
    }
}
