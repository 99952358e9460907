//! A fake worker on loopback, a mount on a temporary directory, and waiting with a deadline.

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use bytes::Bytes;
use futures_util::StreamExt;
use plexbeam_api::{
    FileName, Id, Segment, SessionState, SessionStatus,
    event::{Progress, WorkerEvent},
    mount::{Binding, XATTR_CACHE, XATTR_HELD, XATTR_SOURCE},
    segment::{Digest, SegmentKind},
    session::{Health, HealthDetail},
};
use plexbeam_fusefs::{FsConfig, Mounted, Secret, mount};
use rustix::io::Errno;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};
use tokio::sync::{broadcast, watch};

/// Key of all fake workers.
pub(crate) const KEY: &str = "test-key";

/// False, loudly, where no mount can be made.
pub(crate) fn can_mount() -> bool {
    let possible = rustix::process::geteuid().is_root() && std::fs::exists("/dev/fuse").unwrap();
    if !possible {
        eprintln!("\n*** SKIPPED: this test needs root and /dev/fuse ***\n");
    }
    possible
}

/// Waits until the condition holds; panics after half a minute.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Bytes that depend on the seed and do not repeat.
pub(crate) fn bytes_of(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

pub(crate) fn id(text: &str) -> Id {
    text.parse().unwrap()
}

/// A media segment of one rendition.
pub(crate) fn segment(
    name: &str,
    bytes: &Bytes,
    rendition: Option<u32>,
    number: Option<u32>,
) -> Segment {
    Segment {
        output: 0,
        rendition,
        kind: if number.is_some() {
            SegmentKind::Media
        } else {
            SegmentKind::Init
        },
        number,
        name: name.parse().unwrap(),
        size: bytes.len() as u64,
        digest: Digest::of(bytes),
        time_scale: 1000,
        pts: 0,
        duration: 5000,
        times: None,
        rendition_info: None,
    }
}

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
    let (mut bytes, halved, frozen, fault) = {
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
                .map(|(_, bytes)| bytes.clone())
        });
        let Some(mut bytes) = found else {
            return StatusCode::NOT_FOUND.into_response();
        };
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
        (bytes, halved, fake.frozen, fault)
    };
    if frozen {
        std::future::pending::<()>().await;
    }
    let total = bytes.len();
    let mut answer = Response::builder().header(header::ETAG, format!("\"{name}\""));
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
    let (first, second) = (bytes.slice(..total / 2), bytes.slice(total / 2..));
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

/// A mount with one fake worker.
pub(crate) struct Env {
    // The mount ends before its directories.
    _mounted: Mounted,
    pub(crate) worker: FakeWorker,
    pub(crate) dir: tempfile::TempDir,
}

impl Env {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// A mount of another configuration.
    pub(crate) fn with(change: impl FnOnce(&mut FsConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let worker = FakeWorker::start("worker-1");
        let mountpoint = dir.path().join("mnt");
        std::fs::create_dir(&mountpoint).unwrap();
        let mut config = FsConfig::new(&mountpoint);
        config.allow_other = true;
        config.cache.dir = Some(dir.path().join("cache"));
        config.remote.workers = vec![worker.url()];
        config.remote.api_key = Some(Secret::new(KEY));
        config.remote.health_every = Duration::from_millis(200);
        change(&mut config);
        let mounted = mount(&config).unwrap();
        mounted.wait_workers(Duration::from_secs(20));
        Env {
            _mounted: mounted,
            worker,
            dir,
        }
    }

    /// A path in the mount.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("mnt").join(path)
    }

    /// Makes a directory and binds it.
    pub(crate) fn bind(&self, dir: &str, session: &str) -> PathBuf {
        let path = self.path(dir);
        std::fs::create_dir(&path).unwrap();
        self.bind_again(dir, session, 1).unwrap();
        path
    }

    pub(crate) fn bind_again(&self, dir: &str, session: &str, epoch: u64) -> Result<(), Errno> {
        set(
            &self.path(dir),
            XATTR_SOURCE,
            &binding("worker-1", session, epoch),
        )
    }

    /// The announcement's wait, as the cartridge does it.
    pub(crate) fn wait_held(&self, dir: &str, name: &str) -> Result<String, Errno> {
        wait_held(&self.path(dir), name)
    }

    pub(crate) fn cache_usage(&self) -> plexbeam_api::mount::CacheUsage {
        let json = get_attribute(&self.path(""), XATTR_CACHE).unwrap();
        serde_json::from_str(&json).unwrap()
    }
}

pub(crate) fn wait_held(dir: &std::path::Path, name: &str) -> Result<String, Errno> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match get_attribute(dir, &format!("{XATTR_HELD}.{name}")) {
            Err(Errno::AGAIN | Errno::BUSY) => {
                assert!(Instant::now() < deadline, "{name} is never held")
            }
            other => return other,
        }
    }
}

pub(crate) fn binding(worker: &str, session: &str, epoch: u64) -> Vec<u8> {
    let binding = Binding {
        worker: id(worker),
        session: id(session),
        token: "very-secret-token".into(),
        patterns: vec![
            "init-stream*.m4s".into(),
            "chunk-stream*-*.m4s".into(),
            "header".into(),
        ],
        epoch,
    };
    serde_json::to_vec(&binding).unwrap()
}

pub(crate) fn set(path: &std::path::Path, name: &str, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
}

pub(crate) fn get_attribute(path: &std::path::Path, name: &str) -> Result<String, Errno> {
    let mut value = vec![0; 64 << 10];
    let len = rustix::fs::getxattr(path, name, value.as_mut_slice())?;
    value.truncate(len);
    Ok(String::from_utf8(value).unwrap())
}

pub(crate) fn names(path: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(path).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The errno of a failed call.
pub(crate) fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Errno {
    Errno::from_io_error(&result.unwrap_err()).unwrap()
}
