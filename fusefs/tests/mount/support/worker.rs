//! A fake worker on loopback: what it has, and how it misbehaves.

use super::{KEY, bytes_of, id, segment};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::StreamExt;
use plexbeam_api::{
    FileName, Id, Segment, SessionState, SessionStatus,
    checksum::Checksum,
    event::{Progress, WorkerEvent},
    segment::Digest,
    session::{Health, HealthDetail},
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::{broadcast, watch};

#[derive(Default)]
pub(crate) struct FakeSession {
    pub(crate) state: Option<SessionState>,
    pub(crate) files: Vec<(Segment, Bytes)>,
}

/// How the content of a file may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// In pieces with pauses.
    Slow,
    /// The first half, then the connection is cut.
    Cut,
    /// The first half, then nothing more.
    Stall,
    /// `Content-Length` and as many bytes, but more than were announced.
    Longer,
    /// `Content-Length` and as many bytes, but fewer than were announced.
    Shorter,
    /// Too many bytes without `Content-Length`.
    LongerUnsaid,
    /// Too few bytes without `Content-Length`.
    ShorterUnsaid,
    /// One wrong byte near the beginning.
    Wrong,
    /// Another range than was asked for, or the whole file.
    WrongRange,
    /// Status 503.
    Busy,
    /// Status 500.
    Failing,
}

/// What the fake worker has, and how it misbehaves.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) worker: String,
    pub(crate) boot: String,
    pub(crate) sessions: BTreeMap<Id, FakeSession>,
    /// Sessions that were ended by a request.
    pub(crate) ended: Vec<Id>,
    /// Requests for the content of each file.
    pub(crate) asked: HashMap<String, u32>,
    /// The next so many answers for these files are damaged.
    pub(crate) damage: HashMap<String, u32>,
    /// The next so many answers for these files are status 500.
    pub(crate) failures: HashMap<String, u32>,
    /// The next so many answers for these files have a fault.
    pub(crate) faults: HashMap<String, (Fault, u32)>,
    /// Only the first half of these files is sent until the gate opens.
    pub(crate) halved: HashSet<String>,
    /// Halves that were sent.
    pub(crate) halves_sent: u32,
    /// Requests for content get no answer.
    pub(crate) frozen: bool,
    /// Requests for content are sent here.
    pub(crate) redirect: Option<String>,
    /// No key is asked for.
    pub(crate) open: bool,
    /// `Authorization` of the last request for content.
    pub(crate) bearer: Option<String>,
    /// Running jobs, of four places.
    pub(crate) active: u32,
}

struct Shared {
    fake: Mutex<Fake>,
    events: broadcast::Sender<Option<String>>,
    gate: watch::Sender<bool>,
}

/// A worker that does what its test says.
pub(crate) struct FakeWorker {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

type App = State<Arc<Shared>>;

impl FakeWorker {
    pub(crate) fn start(worker: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            fake: Mutex::new(Fake {
                worker: worker.into(),
                boot: "boot-1".into(),
                active: 1,
                ..Fake::default()
            }),
            events: broadcast::Sender::new(100_000),
            gate: watch::Sender::new(false),
        });
        let app = Router::new()
            .route("/health", get(health))
            .route("/sessions", get(sessions))
            .route("/events", get(events))
            .route("/sessions/{id}", delete(end))
            .route("/sessions/{id}/files", get(files))
            .route("/sessions/{id}/files/{name}", get(file))
            .layer(axum::middleware::from_fn_with_state(
                shared.clone(),
                check_key,
            ))
            .with_state(shared.clone());
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move { axum::serve(listener, app).await });
        FakeWorker {
            address,
            shared,
            runtime: Some(runtime),
        }
    }

    pub(crate) fn url(&self) -> plexbeam_fusefs::WorkerUrl {
        format!("http://{}", self.address).parse().unwrap()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Fake> {
        self.shared.fake.lock().unwrap()
    }

    pub(crate) fn new_session(&self, session: &str) {
        self.lock()
            .sessions
            .insert(id(session), FakeSession::default());
        self.tell(&WorkerEvent::Session(Box::new(status(
            session,
            SessionState::Running,
        ))));
    }

    pub(crate) fn finish(&self, session: &str) {
        self.lock().sessions.get_mut(&id(session)).unwrap().state = Some(SessionState::Completed);
        self.tell(&WorkerEvent::Session(Box::new(status(
            session,
            SessionState::Completed,
        ))));
    }

    pub(crate) fn publish(&self, session: &str, segment: Segment, bytes: &Bytes) {
        {
            let mut fake = self.lock();
            let Some(known) = fake.sessions.get_mut(&id(session)) else {
                return;
            };
            // A playlist replaces the one before.
            known.files.retain(|(other, _)| other.name != segment.name);
            known.files.push((segment.clone(), bytes.clone()));
        }
        let session = id(session);
        self.tell(&WorkerEvent::Segment { session, segment });
    }

    /// Publishes a media segment with its own bytes, and gives these.
    pub(crate) fn publish_media(
        &self,
        session: &str,
        rendition: u32,
        number: u32,
        len: usize,
    ) -> Bytes {
        let bytes = bytes_of(u64::from(number * 10 + rendition) + 1, len);
        let name = media_name(rendition, number);
        self.publish(
            session,
            segment(&name, &bytes, Some(rendition), Some(number)),
            &bytes,
        );
        bytes
    }

    /// Drops a file and makes it again with these bytes, which no event tells.
    pub(crate) fn remake(&self, session: &str, name: &str, bytes: &Bytes) {
        let mut fake = self.lock();
        let known = fake.sessions.get_mut(&id(session)).unwrap();
        let mut files = known.files.iter_mut();
        let (segment, kept) = files.find(|(file, _)| file.name.as_str() == name).unwrap();
        (segment.size, segment.digest) = (bytes.len() as u64, Digest::of(bytes));
        segment.checksum = Some(Checksum::of(bytes));
        *kept = bytes.clone();
    }

    pub(crate) fn drop_session(&self, session: &str) {
        self.lock().sessions.remove(&id(session));
        self.tell(&WorkerEvent::Ended {
            session: id(session),
        });
    }

    /// Breaks all event streams.
    pub(crate) fn break_streams(&self) {
        // Without a listener there is nothing to break.
        let _ = self.shared.events.send(None);
    }

    pub(crate) fn open_gate(&self) {
        self.shared.gate.send_replace(true);
    }

    pub(crate) fn asked(&self, name: &str) -> u32 {
        self.lock().asked.get(name).copied().unwrap_or(0)
    }

    fn tell(&self, event: &WorkerEvent) {
        // Without a listener the listing tells it.
        let _ = self
            .shared
            .events
            .send(Some(serde_json::to_string(event).unwrap()));
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) fn media_name(rendition: u32, number: u32) -> String {
    format!("chunk-stream{rendition}-{number:05}.m4s")
}

fn status(session: &str, state: SessionState) -> SessionStatus {
    SessionStatus {
        job_id: id(session),
        session: id(session),
        state,
        progress: Progress::default(),
        segments: 0,
        device: None,
        error: None,
        queue_place: None,
        created_at: 1_700_000_000,
    }
}

async fn check_key(
    State(shared): App,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let key = request
        .headers()
        .get("x-api-key")
        .and_then(|key| key.to_str().ok());
    if key == Some(KEY) || shared.fake.lock().unwrap().open {
        next.run(request).await
    } else {
        StatusCode::UNAUTHORIZED.into_response()
    }
}

async fn health(State(shared): App) -> Json<Health> {
    let fake = shared.fake.lock().unwrap();
    Json(Health {
        status: "ok".into(),
        api_version: plexbeam_api::API_VERSION,
        detail: Some(HealthDetail {
            worker: id(&fake.worker),
            version: "0".into(),
            ffmpeg: "0".into(),
            devices: Vec::new(),
            active: fake.active,
            queued: 0,
            max_jobs: 4,
            speed: None,
        }),
    })
}

async fn sessions(State(shared): App) -> Json<Vec<SessionStatus>> {
    let fake = shared.fake.lock().unwrap();
    let all = fake
        .sessions
        .iter()
        .map(|(id, session)| status(id.as_str(), session.state.unwrap_or(SessionState::Running)));
    Json(all.collect())
}

async fn files(State(shared): App, Path(session): Path<Id>) -> Response {
    let fake = shared.fake.lock().unwrap();
    match fake.sessions.get(&session) {
        Some(session) => {
            let files: Vec<Segment> = session.files.iter().map(|(file, _)| file.clone()).collect();
            Json(files).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn end(State(shared): App, Path(session): Path<Id>) -> StatusCode {
    let mut fake = shared.fake.lock().unwrap();
    fake.sessions.remove(&session);
    fake.ended.push(session.clone());
    let event = serde_json::to_string(&WorkerEvent::Ended { session }).unwrap();
    let _ = shared.events.send(Some(event));
    StatusCode::NO_CONTENT
}

async fn file(
    State(shared): App,
    Path((session, name)): Path<(Id, FileName)>,
    headers: HeaderMap,
) -> Response {
    let (mut answer, mut bytes, halved, frozen, fault) = {
        let mut fake = shared.fake.lock().unwrap();
        *fake.asked.entry(name.to_string()).or_default() += 1;
        let bearer = headers.get(header::AUTHORIZATION);
        fake.bearer = bearer.map(|value| value.to_str().unwrap().to_owned());
        if let Some(times) = fake.failures.get_mut(name.as_str())
            && *times > 0
        {
            *times -= 1;
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
        if let Some(elsewhere) = &fake.redirect {
            let location = [(header::LOCATION, elsewhere.clone())];
            return (StatusCode::TEMPORARY_REDIRECT, location).into_response();
        }
        let found = fake.sessions.get(&session).and_then(|session| {
            session
                .files
                .iter()
                .find(|(file, _)| file.name == name)
                .map(|(file, bytes)| (file.digest.etag(), bytes.clone()))
        });
        let Some((tag, mut bytes)) = found else {
            return StatusCode::NOT_FOUND.into_response();
        };
        let wanted = headers.get(header::IF_MATCH);
        if wanted.is_some_and(|wanted| wanted.to_str().unwrap() != tag) {
            return StatusCode::PRECONDITION_FAILED.into_response();
        }
        let answer = Response::builder().header(header::ETAG, tag).header(
            "repr-digest",
            format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(&bytes))),
        );
        if let Some(times) = fake
            .damage
            .get_mut(name.as_str())
            .filter(|times| **times > 0)
        {
            *times -= 1;
            let mut damaged = bytes.to_vec();
            damaged[0] ^= 1;
            bytes = damaged.into();
        }
        let fault = match fake.faults.get_mut(name.as_str()) {
            Some((fault, times)) if *times > 0 => {
                *times -= 1;
                Some(*fault)
            }
            _ => None,
        };
        let halved = fake.halved.contains(name.as_str());
        (answer, bytes, halved, fake.frozen, fault)
    };
    if frozen {
        std::future::pending::<()>().await;
    }
    let total = bytes.len();
    if fault == Some(Fault::Wrong) {
        let mut wrong = bytes.to_vec();
        wrong[10] ^= 1;
        bytes = wrong.into();
    }
    let wrong_range = fault == Some(Fault::WrongRange);
    if let Some(range) = headers.get(header::RANGE).filter(|_| !wrong_range) {
        let range = range.to_str().unwrap().strip_prefix("bytes=").unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        bytes = bytes.slice(first..=last);
        answer = answer.status(StatusCode::PARTIAL_CONTENT).header(
            header::CONTENT_RANGE,
            format!("bytes {first}-{last}/{total}"),
        );
    }
    if let Some(fault) = fault {
        return faulty(answer, bytes, fault);
    }
    answer = answer.header(header::CONTENT_LENGTH, bytes.len());
    if !halved {
        return answer.body(Body::from(bytes)).unwrap();
    }
    let half = bytes.len() / 2;
    let (first, second) = (bytes.slice(..half), bytes.slice(half..));
    let parts = futures_util::stream::once(async move { Ok::<_, std::io::Error>(first) });
    let rest = futures_util::stream::once(async move {
        shared.fake.lock().unwrap().halves_sent += 1;
        let mut gate = shared.gate.subscribe();
        let _ = gate.wait_for(|open| *open).await;
        Ok(second)
    });
    answer.body(Body::from_stream(parts.chain(rest))).unwrap()
}

fn faulty(answer: axum::http::response::Builder, bytes: Bytes, fault: Fault) -> Response {
    let length = bytes.len();
    let half = bytes.slice(..length / 2);
    let longer = || Bytes::from([&bytes[..], &bytes[..length.min(100)]].concat());
    let said = |bytes: &Bytes| bytes.len().to_string();
    let (length, body) = match fault {
        Fault::Slow => {
            let pieces: Vec<Bytes> = bytes.chunks(1 << 16).map(Bytes::copy_from_slice).collect();
            let pieces = futures_util::stream::iter(pieces).then(|piece| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok::<_, std::io::Error>(piece)
            });
            (Some(said(&bytes)), Body::from_stream(pieces))
        }
        Fault::Cut => {
            let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            // After a pause: what was given before the cut is also sent.
            let pieces =
                futures_util::stream::iter([Ok(half), Err(cut)]).then(|piece| async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    piece
                });
            (Some(said(&bytes)), Body::from_stream(pieces))
        }
        Fault::Stall => {
            let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>(half)]);
            let pieces = pieces.chain(futures_util::stream::pending());
            (Some(said(&bytes)), Body::from_stream(pieces))
        }
        Fault::Longer => (Some(said(&longer())), Body::from(longer())),
        Fault::Shorter => (Some(said(&half)), Body::from(half)),
        Fault::LongerUnsaid => (None, unsaid(longer())),
        Fault::ShorterUnsaid => (None, unsaid(half)),
        Fault::Wrong | Fault::WrongRange => (Some(said(&bytes)), Body::from(bytes)),
        Fault::Busy => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        Fault::Failing => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    match length {
        Some(length) => answer.header(header::CONTENT_LENGTH, length).body(body),
        None => answer.body(body),
    }
    .unwrap()
}

/// A body that comes in chunks, without its length in the header.
fn unsaid(bytes: Bytes) -> Body {
    Body::from_stream(futures_util::stream::iter([Ok::<_, std::io::Error>(bytes)]))
}

async fn events(State(shared): App) -> Response {
    let mut told = shared.events.subscribe();
    let hello = {
        let fake = shared.fake.lock().unwrap();
        let hello = WorkerEvent::Hello {
            worker: id(&fake.worker),
            boot: id(&fake.boot),
        };
        serde_json::to_string(&hello).unwrap()
    };
    let (tell, chunks) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(64);
    tokio::spawn(async move {
        let mut next = Some(format!("event: x\ndata: {hello}\n\n"));
        loop {
            if let Some(text) = next.take()
                && tell.send(Ok(text.into())).await.is_err()
            {
                return;
            }
            next = tokio::select! {
                event = told.recv() => match event {
                    Ok(Some(event)) => Some(format!("data: {event}\n\n")),
                    Ok(None) | Err(_) => return,
                },
                () = tokio::time::sleep(Duration::from_secs(1)) => Some(": beat\n\n".into()),
            };
        }
    });
    let chunks = tokio_stream::wrappers::ReceiverStream::new(chunks);
    (
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(chunks),
    )
        .into_response()
}
