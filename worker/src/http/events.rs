//! Server-sent events: of one session, and of the whole worker for the mount. A comment is sent each
//! second, so that either side notices within seconds that the other is gone.

use super::{App, IdPath};
use crate::{
    error::Refusal,
    session::{LeaseConnection, Numbered, Session},
    shutdown::{Shutdown, Stage},
};
use axum::{
    extract::{RawQuery, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Sse, sse::Event as Frame},
};
use futures_util::{Stream, stream};
use plexbeam_api::{Kind, Problem, event::WorkerEvent};
use serde::Serialize;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::{broadcast, watch},
    time::{Interval, MissedTickBehavior},
};

const HEARTBEAT: Duration = Duration::from_secs(1);

/// Keeps proxies from holding events back.
const UNBUFFERED: [(HeaderName, HeaderValue); 2] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    ),
];

fn heartbeat() -> Interval {
    let mut interval = tokio::time::interval(HEARTBEAT);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

fn comment() -> Frame {
    Frame::default().comment("beat")
}

fn data<T: Serialize>(frame: Frame, value: &T) -> Result<Frame, axum::Error> {
    frame.json_data(value)
}

/// `GET /sessions/{id}/events[?lease]`.
pub(super) async fn session(
    State(app): State<App>,
    IdPath(id): IdPath,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<impl IntoResponse, Refusal> {
    let session = app.registry.get(&id)?;
    let seen = last_event_id(&headers)?;
    let is_lease = query
        .as_deref()
        .unwrap_or_default()
        .split('&')
        .any(|part| part == "lease" || part.starts_with("lease="));
    let follower = Follower {
        lease: is_lease.then(|| session.hold_lease()),
        news: session.watch(),
        session,
        seen,
        ready: VecDeque::new(),
        ended: false,
        beat: heartbeat(),
        shutdown: app.shutdown,
    };
    Ok((
        UNBUFFERED,
        Sse::new(stream::unfold(follower, Follower::next)),
    ))
}

fn last_event_id(headers: &HeaderMap) -> Result<u64, Problem> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(0);
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| {
            Problem::new(
                Kind::InvalidArgument,
                "Last-Event-ID must be the number of an event of this session",
            )
            .at("Last-Event-ID")
        })
}

/// One listener of a session.
struct Follower {
    session: Arc<Session>,
    news: watch::Receiver<u64>,
    seen: u64,
    ready: VecDeque<Numbered>,
    ended: bool,
    beat: Interval,
    shutdown: Shutdown,
    /// Ends with the connection.
    #[expect(dead_code, reason = "held for its drop")]
    lease: Option<LeaseConnection>,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<Frame, axum::Error>, Self)> {
        loop {
            if let Some((number, event)) = self.ready.pop_front() {
                self.seen = number;
                let frame = Frame::default().id(number.to_string()).event(event.name());
                return Some((data(frame, &*event), self));
            }
            if self.ended {
                return None;
            }
            // Marked as seen before the look, so that what comes during it wakes us again.
            self.news.borrow_and_update();
            let (events, ended) = self.session.events_after(self.seen);
            self.ended = ended;
            self.ready = events.into();
            if !self.ready.is_empty() || self.ended {
                continue;
            }
            tokio::select! {
                _ = self.news.changed() => {}
                _ = self.beat.tick() => return Some((Ok(comment()), self)),
                () = self.shutdown.reached(Stage::Leaving) => return None,
            }
        }
    }
}

/// `GET /events`.
pub(super) async fn worker(State(app): State<App>) -> impl IntoResponse {
    let hello = WorkerEvent::Hello {
        worker: app.worker.clone(),
        boot: app.boot.clone(),
    };
    let listener = Listener {
        hello: Some(hello),
        bus: app.registry.listen(),
        beat: heartbeat(),
        shutdown: app.shutdown,
    };
    (UNBUFFERED, Sse::new(listener.stream()))
}

/// One listener of the worker.
struct Listener {
    hello: Option<WorkerEvent>,
    bus: broadcast::Receiver<WorkerEvent>,
    beat: Interval,
    shutdown: Shutdown,
}

impl Listener {
    fn stream(self) -> impl Stream<Item = Result<Frame, axum::Error>> {
        stream::unfold(self, Listener::next)
    }

    async fn next(mut self) -> Option<(Result<Frame, axum::Error>, Self)> {
        if let Some(hello) = self.hello.take() {
            return Some((frame_of(&hello), self));
        }
        tokio::select! {
            event = self.bus.recv() => match event {
                Ok(event) => Some((frame_of(&event), self)),
                // It lagged: closing makes it connect again and list what it missed.
                Err(_) => None,
            },
            _ = self.beat.tick() => Some((Ok(comment()), self)),
            () = self.shutdown.reached(Stage::Leaving) => None,
        }
    }
}

fn frame_of(event: &WorkerEvent) -> Result<Frame, axum::Error> {
    let name = match event {
        WorkerEvent::Hello { .. } => "hello",
        WorkerEvent::Session(_) => "session",
        WorkerEvent::Segment { .. } => "segment",
        WorkerEvent::Ended { .. } => "ended",
    };
    data(Frame::default().event(name), event)
}
