//! The HTTP side of PMS (PROTOCOL 6): one thread per connection, so that it is known which calls
//! came by which connection and when each was closed.

use super::{Rule, Violation, job::Job, startup::Call};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, HashSet},
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// How often a quiet connection looks whether the server ends.
const TICK: Duration = Duration::from_millis(100);
/// No call of a transcoder is bigger.
const MAX_BODY: usize = 4 << 20;

struct Shared {
    token: String,
    jobs: Mutex<HashMap<(String, String), Arc<Job>>>,
    strays: Mutex<Vec<Violation>>,
    stop: AtomicBool,
    connections: AtomicU64,
}

/// A listening PMS.
pub struct Server {
    shared: Arc<Shared>,
    port: u16,
    listener: Option<thread::JoinHandle<()>>,
}

/// One request.
struct Request {
    method: String,
    target: String,
    token: Option<String>,
    body: Vec<u8>,
}

impl Server {
    /// Listens on a free port of 127.0.0.1.
    pub fn start(token: String) -> io::Result<Server> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            token,
            jobs: Mutex::default(),
            strays: Mutex::default(),
            stop: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.stop.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(stream) = stream {
                    let shared = Arc::clone(&accepting);
                    thread::spawn(move || shared.connection(stream));
                }
            }
        });
        Ok(Server {
            shared,
            port,
            listener: Some(thread),
        })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Takes calls for this session and job from now on.
    pub fn serve(&self, session: &str, job: &str, state: Arc<Job>) {
        self.shared
            .jobs
            .lock()
            .insert((session.to_owned(), job.to_owned()), state);
    }

    /// Faults that belong to no job.
    pub fn strays(&self) -> Vec<Violation> {
        std::mem::take(&mut self.shared.strays.lock())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(thread) = self.listener.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn connection(&self, stream: TcpStream) {
        let id = self.connections.fetch_add(1, Ordering::Relaxed);
        let _ = stream.set_read_timeout(Some(TICK));
        let _ = stream.set_nodelay(true);
        let mut connection = Connection {
            stream,
            buffer: Vec::new(),
        };
        let mut listing: HashSet<(String, String)> = HashSet::new();
        loop {
            match connection.request(&self.stop) {
                Ok(Some(request)) => {
                    let (status, body) = self.answer(&request, id, &mut listing);
                    if connection.reply(status, &body).is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    // A killed client resets; only what could be read and is no HTTP is a fault.
                    if error.kind() == io::ErrorKind::InvalidData {
                        self.stray(Rule::Malformed, error.to_string());
                    }
                    break;
                }
            }
        }
        if self.stop.load(Ordering::SeqCst) {
            return;
        }
        for key in listing {
            let job = self.jobs.lock().get(&key).cloned();
            if let Some(job) = job {
                job.connection_closed();
            }
        }
    }

    fn stray(&self, rule: Rule, text: String) {
        self.strays.lock().push(Violation { rule, text });
    }

    fn answer(
        &self,
        request: &Request,
        connection: u64,
        listing: &mut HashSet<(String, String)>,
    ) -> (u16, String) {
        let call = format!("{} {}", request.method, request.target);
        let (path, query) = split_target(&request.target);
        if path == "/log" {
            return (200, String::new());
        }
        let parts: Vec<&str> = path.split('/').collect();
        let [
            "",
            "video",
            ":",
            "transcode",
            "session",
            session,
            job,
            rest @ ..,
        ] = parts.as_slice()
        else {
            self.stray(Rule::WrongUrl, call);
            return (404, String::new());
        };
        let key = (session.to_string(), job.to_string());
        let known = self.jobs.lock().get(&key).cloned();
        let Some(job) = known else {
            self.stray(Rule::WrongUrl, format!("unknown session or job: {call}"));
            return (404, String::new());
        };
        job.called(call.clone());
        let delay = job.delay();
        if request.token.as_deref() != Some(&self.token) {
            job.fault(
                Rule::WrongToken,
                format!(
                    "{call} with token {:?}",
                    request.token.as_ref().map(String::len)
                ),
            );
            return (401, String::new());
        }
        let (method, status) = match rest {
            ["progress"] | ["progress", "stream" | "streamDetail"] => ("PUT", 404),
            ["progress", "log"] | ["manifest" | "seglist"] => ("POST", 404),
            _ => {
                job.fault(Rule::WrongUrl, call);
                return (404, String::new());
            }
        };
        if request.method != method {
            job.fault(Rule::WrongMethod, format!("{call}, {method} is due"));
            return (status, String::new());
        }
        match rest {
            ["progress", "stream"] => job.startup(Call::Stream, &query),
            ["progress", "streamDetail"] => job.startup(Call::Detail, &query),
            ["progress", "log"] => return (200, String::new()),
            ["progress"] if query.contains_key("status") => job.startup(Call::Startup, &query),
            ["progress"] if query.contains_key("duration") => job.startup(Call::Duration, &query),
            ["progress"] if query.contains_key("width") => job.startup(Call::Size, &query),
            ["progress"] if query.contains_key("progress") => {
                let attribute = if job.progress(&query) {
                    " canThrottle=\"1\""
                } else {
                    ""
                };
                return (
                    200,
                    format!(
                        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<MediaContainer size=\"0\"{attribute}>\n</MediaContainer>\n"
                    ),
                );
            }
            ["progress"] => job.fault(Rule::Malformed, call),
            _ if query.contains_key("stream") => {
                match std::str::from_utf8(&request.body) {
                    Ok(text) => job.side_rows(text, connection),
                    Err(_) => job.fault(Rule::Malformed, format!("{call}: not UTF-8")),
                }
                return (200, String::new());
            }
            _ => {
                listing.insert(key);
                job.posted(connection);
                match String::from_utf8(request.body.clone()) {
                    Ok(text) if text.trim_start().starts_with('<') => job.manifest(&text),
                    Ok(text) => job.rows(&text),
                    Err(_) => job.fault(Rule::Malformed, format!("{call}: not UTF-8")),
                }
                return (200, String::new());
            }
        }
        thread::sleep(delay);
        (204, String::new())
    }
}

/// Path and decoded query.
fn split_target(target: &str) -> (String, HashMap<String, String>) {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = url::form_urlencoded::parse(query.as_bytes())
        .map(|(k, v)| (k.into_owned(), v.into_owned()))
        .collect();
    (path.to_owned(), query)
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// More bytes; false at the end of the stream.
    fn fill(&mut self, stop: &AtomicBool) -> io::Result<bool> {
        let mut chunk = [0; 64 << 10];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(n) => {
                    self.buffer.extend_from_slice(&chunk[..n]);
                    return Ok(true);
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) =>
                {
                    if stop.load(Ordering::SeqCst) {
                        return Ok(false);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The next request; `None` at the end of the stream.
    fn request(&mut self, stop: &AtomicBool) -> io::Result<Option<Request>> {
        let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let (head, mut request, length) = loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut parsed = httparse::Request::new(&mut headers);
            match parsed.parse(&self.buffer) {
                Ok(httparse::Status::Complete(head)) => {
                    let header = |name: &str| {
                        parsed
                            .headers
                            .iter()
                            .find(|h| h.name.eq_ignore_ascii_case(name))
                            .map(|h| String::from_utf8_lossy(h.value).into_owned())
                    };
                    let chunked =
                        header("transfer-encoding").is_some_and(|v| v.contains("chunked"));
                    let length = match (chunked, header("content-length")) {
                        (true, _) => None,
                        (false, Some(text)) => Some(
                            text.parse::<usize>()
                                .map_err(|_| bad(format!("content-length {text}")))?,
                        ),
                        (false, None) => Some(0),
                    };
                    let request = Request {
                        method: parsed.method.unwrap_or_default().to_owned(),
                        target: parsed.path.unwrap_or_default().to_owned(),
                        token: header("x-plex-token"),
                        body: Vec::new(),
                    };
                    break (head, request, length);
                }
                Ok(httparse::Status::Partial) => {
                    if !self.fill(stop)? {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(bad(format!("no HTTP request: {error}"))),
            }
        };
        self.buffer.drain(..head);
        match length {
            Some(length) if length > MAX_BODY => return Err(bad("body too large".into())),
            Some(length) => {
                while self.buffer.len() < length {
                    if !self.fill(stop)? {
                        return Ok(None);
                    }
                }
                request.body = self.buffer.drain(..length).collect();
            }
            None => loop {
                let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") else {
                    if !self.fill(stop)? {
                        return Ok(None);
                    }
                    continue;
                };
                let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                let size = usize::from_str_radix(text.split(';').next().unwrap_or("").trim(), 16)
                    .map_err(|_| bad(format!("chunk size `{text}`")))?;
                while self.buffer.len() < end + 2 + size + 2 {
                    if !self.fill(stop)? {
                        return Ok(None);
                    }
                }
                let chunk: Vec<u8> = self.buffer.drain(..end + 2 + size + 2).collect();
                request
                    .body
                    .extend_from_slice(&chunk[end + 2..end + 2 + size]);
                if request.body.len() > MAX_BODY {
                    return Err(bad("body too large".into()));
                }
                if size == 0 {
                    break;
                }
            },
        }
        Ok(Some(request))
    }

    fn reply(&mut self, status: u16, body: &str) -> io::Result<()> {
        let reason = match status {
            200 => "OK",
            204 => "No Content",
            401 => "Unauthorized",
            _ => "Not Found",
        };
        let length = if status == 204 {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!(
            "HTTP/1.1 {status} {reason}\r\nX-Plex-Protocol: 1.0\r\nConnection: Keep-Alive\r\n{length}\r\n"
        );
        self.stream.write_all(head.as_bytes())?;
        self.stream.write_all(body.as_bytes())
    }
}
