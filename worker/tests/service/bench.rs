//! A service in this process with children of [`super::fake`], called by its router.

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Method, Request, StatusCode},
};
use http_body_util::BodyExt;
use plexbeam_api::{Event, Problem, SessionState, SessionStatus, route, session::DeviceReport};
use plexbeam_worker::{
    config::{ChildConfig, Secret, ServeConfig, SessionConfig, StoreConfig},
    device::{Capabilities, Probe},
    http::{self, App},
    serve::Service,
};
use serde_json::{Value, json};
use std::{future::Future, path::PathBuf, time::Duration};
use tempfile::TempDir;
use tower::ServiceExt;

pub(crate) const KEY: &str = "a-key-of-the-test";

/// Longest wait for anything; reached only when something is broken.
const LIMIT: Duration = Duration::from_secs(20);

/// The outcome, or a panic at the limit.
pub(crate) async fn within<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for {what}"),
    }
}

/// Asks again until there is an answer, with the limit.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    within(what, async {
        loop {
            if let Some(value) = ask().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    })
    .await
}

pub(crate) struct Bench {
    pub(crate) dir: TempDir,
    pub(crate) service: Service,
    router: Router,
}

pub(crate) fn config(dir: &TempDir) -> ServeConfig {
    let mut child = ChildConfig::of(std::env::current_exe().unwrap());
    child.args = ["--exact", "fake::entry", "--nocapture", "--"]
        .map(Into::into)
        .to_vec();
    // The value tells the children of one bench from those of the tests beside it.
    child.env = vec![(super::fake::ENV.into(), dir.path().into())];
    ServeConfig {
        listen: ([127, 0, 0, 1], 0).into(),
        api_key: Some(Secret::new(KEY)),
        address_file: None,
        spool: Some(dir.path().to_owned()),
        hw: Default::default(),
        drain_timeout: Duration::from_secs(1),
        sessions: SessionConfig {
            max_jobs: 4,
            ..SessionConfig::default()
        },
        store: StoreConfig::default(),
        child,
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: Problem = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(problem.status, self.status.as_u16());
        assert!(problem.type_uri.starts_with("urn:plexbeam:problem:"));
        problem
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        match self.headers.get(name) {
            Some(value) => value.to_str().unwrap(),
            None => "",
        }
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut ServeConfig)) -> Self {
        Self::with_devices(change, Vec::new())
    }

    /// With devices that proved something.
    pub(crate) fn with_devices(
        change: impl FnOnce(&mut ServeConfig),
        capabilities: Vec<Capabilities>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir);
        change(&mut config);
        let service = Service::build(&config, 0).unwrap();
        let probe = Probe {
            ffmpeg: "libavcodec".into(),
            devices: vec![DeviceReport {
                name: "software".into(),
                encoders: vec!["libx264".into()],
                ..DeviceReport::default()
            }],
            capabilities,
        };
        service.app.set_probe(probe);
        let router = http::app(service.app.clone());
        Bench {
            dir,
            service,
            router,
        }
    }

    pub(crate) fn app(&self) -> &App {
        &self.service.app
    }

    /// Its job processes, the parked one included.
    pub(crate) fn children(&self) -> Vec<u32> {
        let mark = format!("{}={}", super::fake::ENV, self.dir.path().display());
        let mut pids = children_of(std::process::id());
        pids.retain(|pid| {
            let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ
                .split(|byte| *byte == 0)
                .any(|line| line == mark.as_bytes())
        });
        pids
    }

    pub(crate) fn sessions_dir(&self) -> PathBuf {
        self.dir.path().join("plexbeam-spool/sessions")
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost:8765")
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        within("a reply", async {
            let response = self.router.clone().oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            Reply {
                status: parts.status,
                headers: parts.headers,
                body: body.collect().await.unwrap().to_bytes(),
            }
        })
        .await
    }

    /// With the key and these headers.
    pub(crate) async fn call_with(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Body>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let mut request = self
            .request(method, path)
            .header(route::API_KEY_HEADER, KEY);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call_with(Method::GET, path, "", &[]).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.call_with(Method::DELETE, path, "", &[]).await
    }

    pub(crate) async fn put(&self, path: &str, body: &str) -> Reply {
        self.call_with(Method::PUT, path, body.to_owned(), &[])
            .await
    }

    pub(crate) async fn post(&self, body: &Value) -> Reply {
        self.call_with(Method::POST, "/transcode", body.to_string(), &[])
            .await
    }

    /// Submits a script; the session's token.
    pub(crate) async fn start(&self, id: &str, script: &[&str]) -> String {
        self.start_job(&job(id, script)).await
    }

    pub(crate) async fn start_job(&self, job: &Value) -> String {
        let reply = self.post(job).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
        reply.json()["token"].as_str().unwrap().to_owned()
    }

    /// As the list shows it, which renews no lease.
    pub(crate) async fn peek(&self, id: &str) -> Option<SessionStatus> {
        let list: Vec<SessionStatus> =
            serde_json::from_slice(&self.get("/sessions").await.body).unwrap();
        list.into_iter()
            .find(|status| status.session.as_str() == id)
    }

    pub(crate) async fn until_state(&self, id: &str, state: SessionState) -> SessionStatus {
        until(&format!("{id} to be {state:?}"), || async {
            self.peek(id).await.filter(|status| status.state == state)
        })
        .await
    }

    pub(crate) async fn stream(&self, path: &str, headers: &[(&str, &str)]) -> Events {
        let mut request = self
            .request(Method::GET, path)
            .header(route::API_KEY_HEADER, KEY);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = within("headers", self.router.clone().oneshot(request))
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events {
            body: response.into_body(),
            text: String::new(),
        }
    }
}

/// A server-sent event or a comment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    pub(crate) id: Option<u64>,
    pub(crate) event: String,
    pub(crate) data: Value,
    pub(crate) comment: bool,
}

impl Frame {
    pub(crate) fn session_event(&self) -> Event {
        let event: Event = serde_json::from_value(self.data.clone()).unwrap();
        assert_eq!(event.name(), self.event);
        event
    }
}

/// Reads a stream of events. Dropping it closes the connection.
pub(crate) struct Events {
    body: Body,
    text: String,
}

impl Events {
    /// The next frame, comments included; `None` at the end.
    pub(crate) async fn frame(&mut self) -> Option<Frame> {
        within("an event", async {
            loop {
                if let Some(end) = self.text.find("\n\n") {
                    let rest = self.text.split_off(end + 2);
                    let block = std::mem::replace(&mut self.text, rest);
                    return Some(parse(&block));
                }
                let chunk = self.body.frame().await?.unwrap();
                let data = chunk.into_data().unwrap();
                self.text.push_str(std::str::from_utf8(&data).unwrap());
            }
        })
        .await
    }

    /// The next event.
    pub(crate) async fn event(&mut self) -> Option<Frame> {
        loop {
            match self.frame().await {
                Some(frame) if frame.comment => {}
                other => return other,
            }
        }
    }

    /// All events to the end.
    pub(crate) async fn all(mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.event().await {
            frames.push(frame);
        }
        frames
    }
}

fn parse(block: &str) -> Frame {
    let mut frame = Frame {
        id: None,
        event: String::new(),
        data: Value::Null,
        comment: false,
    };
    for line in block.trim_end().lines() {
        match line.split_once(": ") {
            Some(("id", id)) => frame.id = Some(id.parse().unwrap()),
            Some(("event", name)) => frame.event = name.to_owned(),
            Some(("data", data)) => frame.data = serde_json::from_str(data).unwrap(),
            Some(("", _)) => frame.comment = true,
            _ => panic!("unknown line {line:?}"),
        }
    }
    frame
}

/// A job in full whose child follows this script. Its outputs name `media-%05d.ts` and `index.m3u8`.
pub(crate) fn job(id: &str, script: &[&str]) -> Value {
    json!({
        "api_version": 1,
        "job_id": id,
        "inputs": [{ "locations": [{ "type": "path", "path": "/nowhere.mkv" }] }],
        "outputs": [{
            "packaging": {
                "type": "hls",
                "segment_seconds": 4.0,
                "first_number": 0,
                "media_name": "media-%05d.ts",
                "playlist_name": "index.m3u8"
            },
            "streams": [{
                "source": {
                    "from": "stream",
                    "input": 0,
                    "select": { "by": "kind", "media": "video", "nth": 0 }
                },
                "codec": { "do": "encode", "encoder": "libx264", "options": [] }
            }]
        }],
        "time": { "copyts": true, "start_at_zero": true, "frames": "cfr_from_zero" },
        "argv": script
    })
}

/// The same with an owner.
pub(crate) fn leased(id: &str, script: &[&str], pause_ms: u64, free_ms: u64) -> Value {
    let mut job = job(id, script);
    job["lease"] = json!({
        "kind": "owner", "pause_after_ms": pause_ms, "free_after_ms": free_ms
    });
    job
}

/// Bytes of all files below.
pub(crate) fn on_disk(dir: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => on_disk(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Pids of the children of a process.
pub(crate) fn children_of(parent: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|text| {
            let pids = text.split_whitespace().map(|pid| pid.parse().unwrap());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

/// Sends a signal.
pub(crate) fn signal(name: &str, pid: u32) {
    let args = [format!("-{name}"), pid.to_string()];
    let status = std::process::Command::new("kill").args(args).status();
    assert!(status.unwrap().success(), "kill -{name} {pid}");
}

/// True while the process exists and is no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .is_some_and(|(_, rest)| rest.starts_with(" Z"))
    })
}
