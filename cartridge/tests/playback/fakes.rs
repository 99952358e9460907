//! A worker and a PMS that keep the contract and record what they hear.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, Path, Request, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{delete, get, post, put},
};
use plexbeam_api::{
    API_VERSION, Accepted, Event, FileName, JobSpec, Kind, Problem, Segment, SessionStatus,
    checksum::Checksum,
    event::{InputStream, LogLevel, LogLine, Picture, Probed, Progress, StateChange},
    segment::{Digest, MediaKind, Rendition, RowTimes, SegmentKind},
    session::{SessionState, Urls},
};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// Serves on a free port of the loopback; gives the base URL.
async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    base
}

/// A shared value that tests wait on.
pub(crate) struct Shared<T>(watch::Sender<T>);

impl<T: Clone + Send + Sync + 'static> Shared<T> {
    fn new(value: T) -> Self {
        Shared(watch::channel(value).0)
    }

    pub(crate) fn get(&self) -> T {
        self.0.borrow().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        self.0.send_modify(change);
    }

    /// Waits until the value is as wanted; panics after ten seconds.
    pub(crate) async fn until(&self, what: &str, wanted: impl FnMut(&T) -> bool) -> T {
        let mut watch = self.0.subscribe();
        let waiting = tokio::time::timeout(Duration::from_secs(10), watch.wait_for(wanted));
        match waiting.await {
            Ok(value) => value.unwrap().clone(),
            Err(_) => panic!("waited in vain for: {what}"),
        }
    }
}

/// What a fake worker has been told.
#[derive(Clone, Default)]
pub(crate) struct Told {
    pub(crate) jobs: Vec<JobSpec>,
    pub(crate) keys: Vec<Option<String>>,
    /// `Last-Event-ID` of each event connection.
    pub(crate) followed: Vec<Option<u64>>,
    pub(crate) renewed: u64,
    pub(crate) throttled: Vec<bool>,
    pub(crate) fetched: Vec<String>,
    pub(crate) cancelled: Vec<String>,
    pub(crate) ended: Vec<String>,
}

pub(crate) struct Worker {
    pub(crate) base: String,
    pub(crate) told: Shared<Told>,
    events: Shared<Vec<Event>>,
    files: Mutex<HashMap<String, Bytes>>,
    /// Accepts connections and says nothing any more.
    pub(crate) frozen: Shared<bool>,
    /// Raised to break all event connections.
    breaks: Shared<u64>,
    refuse: Option<Problem>,
    /// It has no place: jobs stay queued.
    full: bool,
    /// It hears that a session is to end, and does not answer.
    pub(crate) never_ends: Shared<bool>,
}

impl Worker {
    pub(crate) async fn start() -> Arc<Self> {
        Self::serve(None, false).await
    }

    pub(crate) async fn start_refusing(problem: Problem) -> Arc<Self> {
        Self::serve(Some(problem), false).await
    }

    pub(crate) async fn start_full() -> Arc<Self> {
        Self::serve(None, true).await
    }

    async fn serve(refuse: Option<Problem>, full: bool) -> Arc<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worker = Arc::new(Worker {
            base: format!("http://{}", listener.local_addr().unwrap()),
            told: Shared::new(Told::default()),
            events: Shared::new(Vec::new()),
            files: Mutex::default(),
            frozen: Shared::new(false),
            breaks: Shared::new(0),
            refuse,
            full,
            never_ends: Shared::new(false),
        });
        let froze = worker.clone();
        let app = Router::new()
            .route("/transcode", post(submit))
            .route("/jobs", get(jobs))
            .route("/transcode/{id}", delete(cancel))
            .route("/sessions/{id}", delete(end))
            .route("/sessions/{id}/events", get(events))
            .route("/sessions/{id}/lease", put(lease))
            .route("/sessions/{id}/throttle", put(throttle))
            .route("/sessions/{id}/files/{name}", get(file))
            .layer(axum::middleware::from_fn(
                move |request: Request, next: axum::middleware::Next| {
                    let frozen = froze.frozen.get();
                    async move {
                        if frozen {
                            std::future::pending::<()>().await;
                        }
                        next.run(request).await
                    }
                },
            ))
            .with_state(worker.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        worker
    }

    /// Emits an event of the session.
    pub(crate) fn emit(&self, event: Event) {
        self.events.change(|events| events.push(event));
    }

    /// Says something.
    pub(crate) fn log(&self, level: LogLevel, message: &str) {
        self.emit(Event::Log(LogLine {
            level,
            message: message.to_owned(),
        }));
    }

    /// Publishes a file.
    pub(crate) fn publish(&self, segment: &Segment, bytes: &[u8]) {
        self.replace(segment, bytes);
        self.emit(Event::Segment(segment.clone()));
    }

    /// Other bytes for a file that was published.
    pub(crate) fn replace(&self, segment: &Segment, bytes: &[u8]) {
        let name = segment.name.as_str().to_owned();
        let bytes = Bytes::copy_from_slice(bytes);
        self.files.lock().unwrap().insert(name, bytes);
    }

    pub(crate) fn break_streams(&self) {
        self.breaks.change(|n| *n += 1);
    }

    pub(crate) fn state(&self, state: SessionState) {
        let problem = (state == SessionState::Failed)
            .then(|| Problem::new(Kind::BadInput, "the input is no media"));
        self.emit(Event::State(StateChange { state, problem }));
    }
}

async fn submit(State(worker): State<Arc<Worker>>, headers: HeaderMap, body: Bytes) -> Response {
    let job: JobSpec = serde_json::from_slice(&body).unwrap();
    let session = job.job_id.clone();
    let key = headers
        .get("x-api-key")
        .map(|k| k.to_str().unwrap().to_owned());
    worker.told.change(|told| {
        told.jobs.push(job);
        told.keys.push(key);
    });
    if let Some(problem) = &worker.refuse {
        let body = serde_json::to_string(problem).unwrap();
        return (StatusCode::UNPROCESSABLE_ENTITY, body).into_response();
    }
    worker.state(match worker.full {
        true => SessionState::Queued,
        false => SessionState::Running,
    });
    let accepted = Accepted {
        job_id: session.clone(),
        session: session.clone(),
        token: "session-token".into(),
        worker: "fake".parse().unwrap(),
        api_version: API_VERSION,
        urls: Urls {
            status: format!("/status/{session}"),
            events: format!("/sessions/{session}/events"),
            files: format!("/sessions/{session}/files"),
            cancel: format!("/transcode/{session}"),
        },
    };
    (
        StatusCode::ACCEPTED,
        serde_json::to_string(&accepted).unwrap(),
    )
        .into_response()
}

async fn events(
    State(worker): State<Arc<Worker>>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    assert_eq!(request.uri().query(), Some("lease"));
    assert_eq!(headers["authorization"], "Bearer session-token");
    let last: Option<u64> = headers
        .get("last-event-id")
        .map(|id| id.to_str().unwrap().parse().unwrap());
    worker.told.change(|told| told.followed.push(last));
    let mut all = worker.events.0.subscribe();
    let mut breaks = worker.breaks.0.subscribe();
    breaks.borrow_and_update();
    let (send, receive) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(16);
    tokio::spawn(async move {
        let mut next = last.unwrap_or(0) as usize;
        loop {
            let fresh: Vec<Event> = all
                .borrow_and_update()
                .get(next..)
                .unwrap_or_default()
                .to_vec();
            for event in fresh {
                next += 1;
                let (name, data) = (event.name(), serde_json::to_string(&event).unwrap());
                let text = format!("id: {next}\nevent: {name}\ndata: {data}\n\n");
                if send.send(Ok(text)).await.is_err() {
                    return;
                }
            }
            if worker.frozen.get() {
                std::future::pending::<()>().await;
            }
            let beat = tokio::time::sleep(Duration::from_secs(1));
            tokio::select! {
                _ = all.changed() => {}
                _ = breaks.changed() => return,
                () = beat => if send.send(Ok(":\n\n".into())).await.is_err() { return },
            }
        }
    });
    let stream = tokio_stream(receive);
    Response::builder()
        .header("content-type", "text/event-stream")
        .body(Body::from_stream(stream))
        .unwrap()
}

fn tokio_stream<T: Send + 'static>(
    receive: tokio::sync::mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = T> {
    futures_util::stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|item| (item, receive))
    })
}

/// An older job of the same PMS session, one that has ended, and one of somebody else.
async fn jobs() -> String {
    let row = |id: &str, state| SessionStatus {
        job_id: id.parse().unwrap(),
        session: id.parse().unwrap(),
        state,
        progress: Progress::default(),
        segments: 0,
        device: None,
        error: None,
        queue_place: None,
        created_at: 0,
    };
    let rows = [
        row("sess-job-0", SessionState::Paused),
        row("sess-job-1", SessionState::Queued),
        row("sess-done", SessionState::Completed),
        row("session-of-another", SessionState::Running),
    ];
    serde_json::to_string(&rows).unwrap()
}

async fn lease(State(worker): State<Arc<Worker>>) {
    worker.told.change(|told| told.renewed += 1);
}

async fn throttle(State(worker): State<Arc<Worker>>, body: Bytes) {
    let wanted: plexbeam_api::session::Throttle = serde_json::from_slice(&body).unwrap();
    worker.told.change(|told| told.throttled.push(wanted.on));
}

async fn file(
    State(worker): State<Arc<Worker>>,
    Path((_, name)): Path<(String, String)>,
) -> Response {
    worker.told.change(|told| told.fetched.push(name.clone()));
    match worker.files.lock().unwrap().get(&name) {
        Some(bytes) => bytes.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn cancel(State(worker): State<Arc<Worker>>, Path(id): Path<String>) {
    worker.told.change(|told| told.cancelled.push(id));
}

async fn end(State(worker): State<Arc<Worker>>, Path(id): Path<String>) {
    worker.told.change(|told| told.ended.push(id));
    if worker.never_ends.get() {
        std::future::pending::<()>().await;
    }
}

/// One call to the fake PMS.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) connection: SocketAddr,
    pub(crate) method: Method,
    /// Behind `/session/<session>/<job>`.
    pub(crate) tail: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    /// Files in the session directory at that moment.
    pub(crate) present: HashSet<String>,
    pub(crate) at: std::time::Instant,
}

pub(crate) struct Pms {
    pub(crate) base: String,
    pub(crate) heard: Shared<Vec<Heard>>,
    pub(crate) can_throttle: Shared<bool>,
    pub(crate) mood: Shared<Mood>,
    dir: PathBuf,
}

/// How a PMS answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mood {
    Well,
    /// After this time.
    Slow(Duration),
    /// With this status, whatever is asked.
    Status(u16),
    /// Never.
    Silent,
    /// Well, and closes the connection each time.
    Closing,
    /// With a body that is no XML and longer than anybody wants.
    Endless,
}

pub(crate) const SESSION: &str = "/video/:/transcode/session/sess/job-1";

impl Pms {
    pub(crate) async fn start(dir: PathBuf) -> Arc<Self> {
        let pms = Arc::new_cyclic(|_| Pms {
            base: String::new(),
            heard: Shared::new(Vec::new()),
            can_throttle: Shared::new(false),
            mood: Shared::new(Mood::Well),
            dir,
        });
        let app = Router::new().fallback(pms_call).with_state(pms.clone());
        let base = serve(app).await;
        Arc::new(Pms {
            base,
            heard: Shared(pms.heard.0.clone()),
            can_throttle: Shared(pms.can_throttle.0.clone()),
            mood: Shared(pms.mood.0.clone()),
            dir: pms.dir.clone(),
        })
    }

    /// Calls whose path ends so, in order.
    pub(crate) fn calls(&self, tail: &str) -> Vec<Heard> {
        let all = self.heard.get();
        all.into_iter().filter(|h| h.tail == tail).collect()
    }
}

async fn pms_call(
    State(pms): State<Arc<Pms>>,
    ConnectInfo(connection): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    // It may be gone, and of thousands of calls only the first ones are looked at so closely.
    let present = match pms.heard.0.borrow().len() {
        0..500 => std::fs::read_dir(&pms.dir)
            .into_iter()
            .flatten()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect(),
        _ => HashSet::new(),
    };
    let path = parts.uri.path();
    let tail = path.strip_prefix(SESSION).unwrap_or(path).to_owned();
    let heard = Heard {
        connection,
        method: parts.method.clone(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
        present,
        at: std::time::Instant::now(),
        tail: tail.clone(),
    };
    pms.heard.change(|all| all.push(heard));
    match pms.mood.get() {
        Mood::Well => {}
        Mood::Slow(time) => tokio::time::sleep(time).await,
        Mood::Status(status) => return StatusCode::from_u16(status).unwrap().into_response(),
        Mood::Silent => std::future::pending().await,
        Mood::Closing => return [("connection", "close")].into_response(),
        Mood::Endless => {
            let stream = futures_util::stream::repeat_with(|| {
                Ok::<_, std::io::Error>(Bytes::from_static(&[b'<'; 4096]))
            });
            return Body::from_stream(stream).into_response();
        }
    }
    let put = tail.starts_with("/progress") && tail != "/progress/log";
    if (parts.method == Method::PUT) != put && tail != "/log" {
        return StatusCode::NOT_FOUND.into_response();
    }
    match pms.can_throttle.get() {
        true => "<MediaContainer canThrottle=\"1\"/>".into_response(),
        false => StatusCode::NO_CONTENT.into_response(),
    }
}

pub(crate) fn probed() -> Event {
    let stream = |index, media, codec: &str| InputStream {
        input: 0,
        index,
        id: index,
        media,
        codec: codec.into(),
        bit_rate: None,
        profile: None,
        level: None,
        language: None,
        attached_picture: false,
        default: false,
        width: None,
        height: None,
        interlaced: None,
        sar: None,
        frame_rate: None,
        closed_captions: false,
        channels: None,
        layout: None,
        sample_rate: None,
        bit_depth: None,
    };
    Event::Probed(Probed {
        duration_us: Some(60_000_000),
        format: "matroska,webm".into(),
        streams: vec![
            stream(0, MediaKind::Video, "h264"),
            stream(1, MediaKind::Audio, "aac"),
        ],
        pictures: vec![Picture {
            width: 1280,
            height: 720,
        }],
        device: "software".into(),
    })
}

pub(crate) fn progress(percent: f64) -> Event {
    Event::Progress(Progress {
        percent: Some(percent),
        speed: Some(2.0),
        ..Progress::default()
    })
}

fn file_of(name: &str, bytes: &[u8]) -> Segment {
    let name: FileName = name.parse().unwrap();
    Segment {
        output: 0,
        rendition: None,
        kind: SegmentKind::Header,
        number: None,
        name,
        size: bytes.len() as u64,
        digest: Digest::of(bytes),
        checksum: Some(Checksum::of(bytes)),
        time_scale: 1000,
        pts: 0,
        duration: 0,
        times: None,
        rendition_info: None,
    }
}

pub(crate) fn init(rendition: u32, bytes: &[u8]) -> Segment {
    let (media, codecs) = match rendition {
        0 => (MediaKind::Video, "avc1.64001f"),
        _ => (MediaKind::Audio, "mp4a.40.2"),
    };
    Segment {
        rendition: Some(rendition),
        kind: SegmentKind::Init,
        rendition_info: Some(Rendition {
            media,
            codecs: codecs.into(),
            bandwidth: 1,
            time_scale: 1000,
            language: None,
            width: None,
            height: None,
            sar: None,
            frame_rate: None,
            sample_rate: None,
            channels: None,
        }),
        ..file_of(&format!("init-stream{rendition}.m4s"), bytes)
    }
}

pub(crate) fn chunk(rendition: u32, number: u32, bytes: &[u8]) -> Segment {
    Segment {
        rendition: Some(rendition),
        kind: SegmentKind::Media,
        number: Some(number),
        pts: i64::from(number - 1) * 3000,
        duration: 3000,
        ..file_of(&format!("chunk-stream{rendition}-{number:05}.m4s"), bytes)
    }
}

pub(crate) fn header(bytes: &[u8]) -> Segment {
    file_of("header", bytes)
}

pub(crate) fn row(number: u32, bytes: &[u8]) -> Segment {
    let start = i64::from(number) * 1_000_000;
    Segment {
        kind: SegmentKind::Media,
        number: Some(number),
        times: Some(RowTimes {
            start_us: start,
            end_us: start + 1_000_000,
            audio_end_us: Some(start + 990_000),
            video_end_us: Some(start + 1_000_000),
        }),
        ..file_of(&format!("media-{number:05}.ts"), bytes)
    }
}
