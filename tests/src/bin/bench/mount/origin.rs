//! A worker of the mount's group: nginx sends the bytes, from memory, so that all sides read from the
//! same server; the little else of the contract is answered here.

use plexbeam_api::{
    FileName, Id, Segment, SessionState, SessionStatus,
    checksum::Checksum,
    event::{Progress, WorkerEvent},
    segment::{Digest, SegmentKind},
};
use plexbeam_tests::env::{Process, free_port};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, MutexGuard, mpsc},
    thread,
    time::Duration,
};

/// The file system asks for a segment by its digest, which nginx's own tags are not; no file changes
/// here, so nginx may leave the question out.
pub(crate) const HEADERS_MODULE: &str =
    "/usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so";

/// The worker's id.
pub(crate) const WORKER: &str = "bench";

/// Files of one session.
#[derive(Default)]
struct Known {
    sessions: BTreeMap<String, Vec<Segment>>,
    listeners: Vec<mpsc::Sender<String>>,
}

/// The origin. Ends when dropped.
pub(crate) struct Origin {
    _nginx: Process,
    known: Arc<Mutex<Known>>,
    root: PathBuf,
    /// Base URL.
    pub(crate) url: String,
}

/// Content that many files have.
#[derive(Clone)]
pub(crate) struct Content {
    path: PathBuf,
    size: u64,
    digest: Digest,
    checksum: Checksum,
}

impl Content {
    /// Writes content into memory.
    pub(crate) fn new(root: &Path, name: &str, bytes: &[u8]) -> Result<Content, String> {
        let path = root.join(name);
        fs::write(&path, bytes).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Content {
            path,
            size: bytes.len() as u64,
            digest: Digest::of(bytes),
            checksum: Checksum::of(bytes),
        })
    }
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Origin {
    /// Starts it in this folder, which lies in memory.
    pub(crate) fn start(root: &Path) -> Result<Origin, String> {
        let known = Arc::new(Mutex::new(Known::default()));
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let api = listener.local_addr().map_err(|e| e.to_string())?;
        let shared = known.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let known = shared.clone();
                // Ends with its connection; nobody waits for it.
                thread::spawn(move || serve(stream, &known));
            }
        });
        let port = free_port();
        let place = root.display();
        let config = format!(
            "load_module {HEADERS_MODULE};\n\
             user root; worker_processes 2; daemon off; pid {place}/nginx.pid; error_log stderr crit;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;\n\
             client_body_temp_path {place}/t1; proxy_temp_path {place}/t2; fastcgi_temp_path {place}/t3;\n\
             uwsgi_temp_path {place}/t4; scgi_temp_path {place}/t5;\n\
             server {{ listen 127.0.0.1:{port} backlog=4096; root {place}/www;\n\
             location ~ ^/sessions/[^/]+/files/. {{ more_clear_input_headers If-Match; }}\n\
             location /plain/ {{ alias {place}/www/sessions/; autoindex on; }}\n\
             location / {{ proxy_pass http://{api}; proxy_http_version 1.1; proxy_buffering off;\n\
             proxy_set_header Connection \"\"; proxy_read_timeout 1h; }} }} }}\n"
        );
        let path = root.join("nginx.conf");
        fs::write(&path, config).map_err(|e| e.to_string())?;
        fs::create_dir_all(root.join("www/sessions")).map_err(|e| e.to_string())?;
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-p").arg(root).arg("-c").arg(&path);
        let nginx = Process::start("nginx", root, command);
        let origin = Origin {
            _nginx: nginx,
            known,
            root: root.to_owned(),
            url: format!("http://127.0.0.1:{port}"),
        };
        plexbeam_tests::wait::until("nginx answers", Duration::from_secs(20), || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Ok(origin)
    }

    /// Folder of a session's files, in memory: the native side.
    pub(crate) fn dir(&self, session: &str) -> PathBuf {
        self.root.join("www/sessions").join(session).join("files")
    }

    /// Makes a session.
    pub(crate) fn session(&self, session: &str) -> Result<(), String> {
        fs::create_dir_all(self.dir(session)).map_err(|e| e.to_string())?;
        let event = WorkerEvent::Session(Box::new(status(session)?));
        let mut known = lock(&self.known);
        known.sessions.insert(session.to_owned(), Vec::new());
        tell(&mut known, &event);
        Ok(())
    }

    /// Makes a file of its own of the content, which nobody sees yet: no two files share pages, neither
    /// here nor natively.
    pub(crate) fn stage(&self, content: &Content) -> Result<PathBuf, String> {
        let part = self.root.join("part");
        fs::copy(&content.path, &part).map_err(|e| format!("{}: {e}", part.display()))?;
        Ok(part)
    }

    /// Publishes content under a name.
    pub(crate) fn publish(
        &self,
        session: &str,
        name: &str,
        number: u32,
        content: &Content,
    ) -> Result<(), String> {
        let staged = self.stage(content)?;
        self.announce(session, name, number, content, &staged)
    }

    /// Publishes a staged file.
    pub(crate) fn announce(
        &self,
        session: &str,
        name: &str,
        number: u32,
        content: &Content,
        staged: &Path,
    ) -> Result<(), String> {
        let file = self.dir(session).join(name);
        fs::rename(staged, &file).map_err(|e| format!("{}: {e}", file.display()))?;
        let segment = Segment {
            output: 0,
            rendition: Some(0),
            kind: SegmentKind::Media,
            number: Some(number),
            name: name.parse::<FileName>().map_err(|e| e.to_string())?,
            size: content.size,
            digest: content.digest.clone(),
            checksum: Some(content.checksum.clone()),
            time_scale: 1000,
            pts: 0,
            duration: 1000,
            times: None,
            rendition_info: None,
        };
        let event = WorkerEvent::Segment {
            session: id(session)?,
            segment: segment.clone(),
        };
        let mut known = lock(&self.known);
        known
            .sessions
            .entry(session.to_owned())
            .or_default()
            .push(segment);
        tell(&mut known, &event);
        Ok(())
    }

    /// Frees the memory of a session's files, which nobody reads any more.
    pub(crate) fn clear(&self, session: &str) -> Result<(), String> {
        let dir = self.dir(session);
        fs::remove_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))
    }

    /// Event connections that are open.
    pub(crate) fn listeners(&self) -> usize {
        lock(&self.known).listeners.len()
    }
}

fn id(text: &str) -> Result<Id, String> {
    text.parse::<Id>().map_err(|e| e.to_string())
}

fn status(session: &str) -> Result<SessionStatus, String> {
    Ok(SessionStatus {
        job_id: id(session)?,
        session: id(session)?,
        state: SessionState::Running,
        progress: Progress::default(),
        segments: 0,
        device: None,
        error: None,
        queue_place: None,
        created_at: 1_700_000_000,
    })
}

fn tell(known: &mut Known, event: &WorkerEvent) {
    let text = serde_json::to_string(event).unwrap_or_default();
    known
        .listeners
        .retain(|listener| listener.send(text.clone()).is_ok());
}

/// One connection: small requests, or the events until it is closed.
fn serve(stream: TcpStream, known: &Mutex<Known>) {
    let Ok(copy) = stream.try_clone() else { return };
    let (mut lines, mut answer) = (BufReader::new(copy), stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match lines.read_line(&mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if line.trim().is_empty() => break,
                Ok(_) => head.push(line),
            }
        }
        let Some(request) = head.first() else { return };
        let mut words = request.split(' ');
        let (method, path) = (
            words.next().unwrap_or_default(),
            words.next().unwrap_or_default(),
        );
        let body = match path.split('/').collect::<Vec<_>>()[..] {
            ["", "health"] => json!({
                "status": "ok", "api_version": plexbeam_api::API_VERSION, "worker": WORKER,
                "version": "0", "ffmpeg": "0", "devices": [], "active": 0, "queued": 0, "max_jobs": 4,
                "speed": null,
            }),
            ["", "sessions"] => {
                let names: Vec<String> = lock(known).sessions.keys().cloned().collect();
                let all: Vec<_> = names.iter().filter_map(|name| status(name).ok()).collect();
                json!(all)
            }
            ["", "sessions", session, "files"] => {
                json!(
                    lock(known)
                        .sessions
                        .get(session)
                        .cloned()
                        .unwrap_or_default()
                )
            }
            ["", "events"] => return events(&mut answer, known),
            _ => json!({}),
        };
        let text = if method == "DELETE" {
            "HTTP/1.1 204 No Content\r\n\r\n".to_owned()
        } else {
            let body = body.to_string();
            let length = body.len();
            let kind = "Content-Type: application/json";
            format!("HTTP/1.1 200 OK\r\n{kind}\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        if answer.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn events(answer: &mut TcpStream, known: &Mutex<Known>) {
    let (tell, told) = mpsc::channel();
    lock(known).listeners.push(tell);
    let (Ok(worker), Ok(boot)) = (id(WORKER), id("boot")) else {
        return;
    };
    let hello = WorkerEvent::Hello { worker, boot };
    let hello = serde_json::to_string(&hello).unwrap_or_default();
    let mut text = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: {hello}\n\n"
    );
    loop {
        if answer.write_all(text.as_bytes()).is_err() {
            return;
        }
        text = match told.recv_timeout(Duration::from_secs(1)) {
            Ok(event) => format!("data: {event}\n\n"),
            Err(mpsc::RecvTimeoutError::Timeout) => ": beat\n\n".to_owned(),
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        };
    }
}

/// Bytes that do not repeat.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    // Without it the content is zero, which no side here compresses.
    drop(read);
    bytes
}
