//! One event stream per worker, for as long as the mount lives.

use super::{Catalog, FetchError, HttpSource};
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use plexbeam_api::{Id, event::WorkerEvent};
use std::{sync::Arc, time::Duration};

/// Longest pause before another attempt.
const MAX_BACKOFF: Duration = Duration::from_secs(3);
/// Longest single event, bytes.
const MAX_EVENT: usize = 1 << 20;

/// Follows a worker's stream, again and again. Never returns.
pub(super) async fn follow(
    source: Arc<HttpSource>,
    catalog: Arc<Catalog>,
    worker: usize,
    silence: Duration,
) {
    let mut backoff = Duration::from_millis(100);
    let mut told = false;
    loop {
        match source.events(worker).await {
            Ok(stream) => {
                told = false;
                backoff = Duration::from_millis(100);
                let error = connection(&source, &catalog, worker, stream, silence).await;
                tracing::info!(worker, %error, "event stream broke, connecting again");
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(worker, %error, "no event stream, trying on");
                }
            }
        }
        tokio::time::sleep(backoff).await;
        backoff = (backoff * 2).min(MAX_BACKOFF);
    }
}

/// Reads one connection to its end; gives the reason of the end.
async fn connection(
    source: &Arc<HttpSource>,
    catalog: &Arc<Catalog>,
    worker: usize,
    mut stream: BoxStream<'static, Result<Bytes, FetchError>>,
    silence: Duration,
) -> FetchError {
    let mut lines = Lines::default();
    // Aborted with the connection: the next one lists anew.
    let mut listing = tokio::task::JoinSet::new();
    loop {
        let chunk = match tokio::time::timeout(silence, stream.next()).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => return error,
            Ok(None) => return FetchError::Unreachable("closed by the worker".into()),
            Err(_) => return FetchError::Unreachable("silent".into()),
        };
        if lines.push(&chunk).is_err() {
            return FetchError::Damaged("an event is too long");
        }
        while let Some(data) = lines.next_event() {
            match serde_json::from_str::<WorkerEvent>(&data) {
                Ok(WorkerEvent::Hello { worker: id, boot }) => {
                    let expected = catalog.hello(worker, id, &boot);
                    let (source, catalog) = (source.clone(), catalog.clone());
                    listing.abort_all();
                    listing.spawn(async move { list(&source, &catalog, worker, expected).await });
                }
                Ok(WorkerEvent::Session(status)) => catalog.status(worker, *status),
                Ok(WorkerEvent::Segment { session, segment }) => {
                    catalog.segment(worker, &session, segment);
                }
                Ok(WorkerEvent::Ended { session }) => catalog.end(worker, &session),
                // A newer worker may tell of things that this mount does not know.
                Err(error) => tracing::debug!(worker, %error, "event not understood"),
            }
        }
    }
}

/// Learns what was missed: all sessions and their files. `expected` were known before; what the
/// worker does not name of them is gone.
async fn list(source: &HttpSource, catalog: &Catalog, worker: usize, expected: Vec<Id>) {
    let mut pause = Duration::from_millis(100);
    let sessions = loop {
        match source.sessions(worker).await {
            Ok(sessions) => break sessions,
            Err(error) => tracing::debug!(worker, %error, "cannot list the sessions"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_BACKOFF);
    };
    for id in expected {
        if !sessions.iter().any(|status| status.session == id) {
            catalog.end(worker, &id);
        }
    }
    for status in sessions {
        let origin = catalog.session(worker, &status.session).origin.clone();
        let mut pause = Duration::from_millis(100);
        loop {
            match source.files(&origin).await {
                Ok(files) => catalog.listed(worker, status, files),
                Err(FetchError::Gone) => catalog.end(worker, &status.session),
                Err(error) => {
                    let session = &status.session;
                    tracing::debug!(worker, %session, %error, "cannot list the files");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_BACKOFF);
                    continue;
                }
            }
            break;
        }
    }
    catalog.all_listed(worker);
}

/// Server-sent events out of chunks: only `data:` matters here; the JSON in it names its kind.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    data: String,
}

impl Lines {
    /// Takes bytes in, all complete events being taken out before; fails when the next one has
    /// grown beyond its bound.
    fn push(&mut self, chunk: &[u8]) -> Result<(), ()> {
        if self.buffer.len() + self.data.len() > MAX_EVENT {
            return Err(());
        }
        self.buffer.extend_from_slice(chunk);
        Ok(())
    }

    /// The data of the next complete event that has any.
    fn next_event(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if !self.data.is_empty() {
                    return Some(std::mem::take(&mut self.data));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_whole_however_the_bytes_are_cut() {
        let text = ": beat\n\nevent: x\ndata: {\"a\":\ndata: 1}\r\nid: 3\n\n\n: beat\n\ndata:2\n\ndata: 3\n";
        for step in 1..text.len() {
            let mut lines = Lines::default();
            let mut events = Vec::new();
            for chunk in text.as_bytes().chunks(step) {
                lines.push(chunk).unwrap();
                while let Some(event) = lines.next_event() {
                    events.push(event);
                }
            }
            assert_eq!(events, ["{\"a\":\n1}", "2"], "{step}");
        }
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::default();
        let mut refused = false;
        for _ in 0..40 {
            refused |= lines.push(&[b'x'; 64 << 10]).is_err();
            assert_eq!(lines.next_event(), None);
        }
        assert!(refused);
    }
}
