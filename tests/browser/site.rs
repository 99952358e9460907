//! What the pages load and where they send their verdict.

use super::chromium::Browser;
use axum::{
    Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};
use tokio::runtime::Runtime;

/// The longest play; the pages have shorter deadlines of their own and name the step that failed.
const DEADLINE: Duration = Duration::from_secs(120);

type Files = Arc<Mutex<HashMap<String, (&'static str, Bytes)>>>;

/// A web server on 127.0.0.1 for as long as it lives.
pub(super) struct Site {
    _runtime: Runtime,
    address: SocketAddr,
    shared: Shared,
    verdicts: Receiver<Result<Value, String>>,
}

#[derive(Clone)]
struct Shared {
    files: Files,
    folder: Arc<Mutex<PathBuf>>,
    verdicts: Sender<Result<Value, String>>,
}

impl Site {
    /// A site with what the pages share; `/shown/` is below `folder` until [`Site::show`].
    #[track_caller]
    pub(super) fn start(folder: &Path) -> Site {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("its address");
        let (sender, verdicts) = channel();
        let page = include_bytes!("page.js").as_slice();
        let files = HashMap::from([("page.js".to_owned(), ("text/javascript", page.into()))]);
        let shared = Shared {
            files: Arc::new(Mutex::new(files)),
            folder: Arc::new(Mutex::new(folder.to_owned())),
            verdicts: sender,
        };
        let router = Router::new()
            .route("/verdict", post(verdict))
            .route("/shown/{name}", get(shown))
            .route("/{name}", get(file))
            .with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Site {
            _runtime: runtime,
            address,
            shared,
            verdicts,
        }
    }

    /// A file at the root.
    pub(super) fn put(&self, name: &str, mime: &'static str, bytes: Vec<u8>) {
        self.shared
            .files
            .lock()
            .insert(name.to_owned(), (mime, bytes.into()));
    }

    /// `/shown/<name>` is `<folder>/<name>`, read when asked for.
    pub(super) fn show(&self, folder: &Path) {
        folder.clone_into(&mut self.shared.folder.lock());
    }

    /// URL of a file at the root.
    pub(super) fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// What the page found; `browser` ends with it.
    #[track_caller]
    pub(super) fn verdict(&self, browser: Browser) -> Value {
        let verdict = self.verdicts.recv_timeout(DEADLINE);
        drop(browser);
        match verdict {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(text)) => panic!("the page's verdict is no JSON: {text}"),
            Err(_) => panic!("the page sent no verdict within {DEADLINE:?}"),
        }
    }
}

async fn verdict(State(shared): State<Shared>, body: String) -> StatusCode {
    let verdict = serde_json::from_str(&body).map_err(|_| body);
    // A test that has given up takes no verdict.
    let _ = shared.verdicts.send(verdict);
    StatusCode::NO_CONTENT
}

async fn file(State(shared): State<Shared>, UrlPath(name): UrlPath<String>) -> Response {
    match shared.files.lock().get(&name) {
        Some((mime, bytes)) => ([(header::CONTENT_TYPE, *mime)], bytes.clone()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn shown(State(shared): State<Shared>, UrlPath(name): UrlPath<String>) -> Response {
    let path = shared.folder.lock().join(&name);
    let mime = match name.ends_with(".m3u8") {
        true => "application/vnd.apple.mpegurl",
        false => "video/mp2t",
    };
    match tokio::fs::read(&path).await {
        Ok(bytes) => ([(header::CONTENT_TYPE, mime)], bytes).into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}
