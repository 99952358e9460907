//! HTTP/1.1 as the cartridge needs it: a connection that is owned, every call with a deadline, no
//! TLS. A pooled client would drop idle connections, which PMS takes for a crash (PROTOCOL 6).

mod resolve;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request,
    body::{Frame, Incoming, SizeHint},
    client::conn::http1::SendRequest,
    header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub use hyper::Method;

/// Most bytes of a reply that are read where no file is fetched.
const MAX_REPLY: usize = 4 << 20;

/// A plain `http:` URL, kept as it was written.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no URL for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// TLS is not built in.
    #[error("https is not supported yet, use an http:// URL")]
    Https,
    /// Not of the form `http://host[:port]/...`.
    #[error("not of the form http://host:port/path")]
    Malformed,
}

impl Url {
    /// Reads `http://host[:port][/path][?query]`. Credentials are not accepted.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err(UrlError::Https);
            }
            _ => return Err(UrlError::Malformed),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        let (host, port) = match authority.rsplit_once(':') {
            // The colon inside a bare `[::1]` is not the port's.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| UrlError::Malformed)?)
            }
            _ => (authority, 80),
        };
        let ok = |c: char| c.is_ascii_alphanumeric() || "-._[]:%".contains(c);
        let clean = |c: char| c.is_ascii_graphic();
        if host.is_empty() || !host.chars().all(ok) || !path.chars().all(clean) {
            return Err(UrlError::Malformed);
        }
        let path = match path.as_bytes().first() {
            Some(b'/') => path.to_owned(),
            _ => format!("/{path}"),
        };
        // What cannot be sent later is refused now, while another way is still open.
        if path.parse::<hyper::http::uri::PathAndQuery>().is_err() {
            return Err(UrlError::Malformed);
        }
        Ok(Url {
            host: host.to_owned(),
            port,
            path,
        })
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same server and another path (and query).
    pub fn with_path(&self, path: impl Into<String>) -> Self {
        Url {
            path: path.into(),
            ..self.clone()
        }
    }

    /// This path with `tail` appended; for base URLs with or without a slash at their end.
    pub fn join(&self, tail: &str) -> Self {
        self.with_path(format!("{}{tail}", self.path.trim_end_matches('/')))
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Without the query, which may hold a signature.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "http://{}:{}{path}", self.host, self.port)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Url({self})")
    }
}

/// Why a call gave no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The name has no address.
    #[error("{host} cannot be resolved: {why}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        why: String,
    },
    /// Nobody listens there.
    #[error("{0} refuses the connection")]
    Refused(String),
    /// The connection could not be made or broke.
    #[error("the connection to {peer} failed: {why}")]
    Broken {
        /// `host:port`.
        peer: String,
        /// Why.
        why: String,
    },
    /// No reply in time.
    #[error("{0} did not answer in time")]
    Deadline(String),
    /// The reply is larger than what is sensible.
    #[error("the reply of {0} is too large")]
    TooLarge(String),
}

/// A reply that was read whole.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Bytes,
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Where to.
    pub url: Url,
    /// Media type of the body; `None` without one.
    pub content_type: Option<&'static str>,
    /// Body.
    pub body: Bytes,
    /// Send the body in chunks, without telling its length first.
    pub chunked: bool,
    /// Headers of this call besides the connection's own.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Call {
    /// A call without body.
    pub fn new(method: Method, url: Url) -> Self {
        Call {
            method,
            url,
            content_type: None,
            body: Bytes::new(),
            chunked: false,
            headers: Vec::new(),
        }
    }

    /// The same with a body.
    pub fn body(mut self, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        self.content_type = Some(content_type);
        self.body = body.into();
        self
    }
}

/// The body of a request.
struct Body {
    bytes: Full<Bytes>,
    chunked: bool,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.bytes).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        !self.chunked && self.bytes.is_end_stream()
    }

    /// An unknown length makes hyper send chunks.
    fn size_hint(&self) -> SizeHint {
        match self.chunked {
            true => SizeHint::default(),
            false => self.bytes.size_hint(),
        }
    }
}

/// One connection to one server, made when first needed and kept until it breaks or is dropped.
pub struct Connection {
    server: Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    sender: Option<SendRequest<Body>>,
}

impl Connection {
    /// To the server of this URL; `headers` go with every call.
    pub fn new(server: &Url, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Connection {
            server: server.clone(),
            headers,
            sender: None,
        }
    }

    /// Connects now unless connected.
    pub async fn open(&mut self, deadline: Instant) -> Result<(), CallError> {
        if self.sender.as_ref().is_some_and(|s| !s.is_closed()) {
            return Ok(());
        }
        let peer = self.server.authority();
        let connecting = connect(&self.server);
        let sender = timeout_at(deadline, connecting)
            .await
            .map_err(|_| CallError::Deadline(peer))??;
        self.sender = Some(sender);
        Ok(())
    }

    /// Sends a call and reads its reply whole. After a failure the connection is dropped.
    pub async fn call(&mut self, call: &Call, deadline: Instant) -> Result<Reply, CallError> {
        self.attempt(call, deadline)
            .await
            .inspect_err(|_| self.sender = None)
    }

    async fn attempt(&mut self, call: &Call, deadline: Instant) -> Result<Reply, CallError> {
        let peer = self.server.authority();
        let response = self.send(call, deadline).await?;
        let status = response.status().as_u16();
        let reading = Limited::new(response.into_body(), MAX_REPLY).collect();
        let body = timeout_at(deadline, reading)
            .await
            .map_err(|_| CallError::Deadline(peer.clone()))?
            .map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    CallError::TooLarge(peer.clone())
                } else {
                    broken(&self.server, error)
                }
            })?
            .to_bytes();
        Ok(Reply { status, body })
    }

    /// Sends a call and gives its response once the head is there; the body is the caller's to read.
    /// Where a connection that was kept turns out to be dead before a reply came, a new one is made
    /// and the call is sent once more.
    pub async fn send(
        &mut self,
        call: &Call,
        deadline: Instant,
    ) -> Result<hyper::Response<Incoming>, CallError> {
        let kept = self.sender.is_some();
        match self.send_once(call, deadline).await {
            Err(CallError::Broken { .. }) if kept => {
                self.sender = None;
                self.send_once(call, deadline).await
            }
            result => result,
        }
        .inspect_err(|_| self.sender = None)
    }

    async fn send_once(
        &mut self,
        call: &Call,
        deadline: Instant,
    ) -> Result<hyper::Response<Incoming>, CallError> {
        self.open(deadline).await?;
        let peer = self.server.authority();
        let request = self.request(call)?;
        let Some(sender) = self.sender.as_mut() else {
            return Err(CallError::Deadline(peer));
        };
        let sending = async {
            sender.ready().await?;
            sender.send_request(request).await
        };
        timeout_at(deadline, sending)
            .await
            .map_err(|_| CallError::Deadline(peer))?
            .map_err(|error| broken(&self.server, error))
    }

    fn request(&self, call: &Call) -> Result<Request<Body>, CallError> {
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(call.url.path())
            .header(HOST, self.server.authority());
        for (name, value) in self.headers.iter().chain(&call.headers) {
            request = request.header(name, value);
        }
        if let Some(kind) = call.content_type {
            request = request.header(CONTENT_TYPE, kind);
        }
        request
            .body(Body {
                bytes: Full::new(call.body.clone()),
                chunked: call.chunked,
            })
            .map_err(|error| broken(&self.server, error))
    }
}

fn broken(server: &Url, why: impl fmt::Display) -> CallError {
    CallError::Broken {
        peer: server.authority(),
        why: why.to_string(),
    }
}

async fn connect(server: &Url) -> Result<SendRequest<Body>, CallError> {
    let addresses = resolve::addresses(&server.host, server.port)
        .await
        .map_err(|why| CallError::Resolve {
            host: server.host.clone(),
            why,
        })?;
    let stream = TcpStream::connect(addresses.as_slice())
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => CallError::Refused(server.authority()),
            _ => broken(server, error),
        })?;
    // Small requests must not wait for the peer's delayed acknowledgement; failing to ask is harmless.
    let _ = stream.set_nodelay(true);
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| broken(server, error))?;
    // Ends when the sender and its responses are dropped, or with the connection.
    tokio::spawn(connection);
    Ok(sender)
}

/// A moment this long from now.
pub fn within(time: Duration) -> Instant {
    Instant::now() + time
}

/// Percent-encodes a text for use as a query value.
pub fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_keep_their_path_as_written() {
        let url = Url::parse("http://127.0.0.1:32400/video/:/transcode/session/a/b/manifest?X-Plex-Http-Pipeline=infinite").unwrap();
        assert_eq!(url.authority(), "127.0.0.1:32400");
        assert_eq!(
            url.path(),
            "/video/:/transcode/session/a/b/manifest?X-Plex-Http-Pipeline=infinite"
        );
        for (text, authority, path) in [
            ("http://gpu", "gpu:80", "/"),
            ("http://gpu:8765/", "gpu:8765", "/"),
            ("HTTP://gpu:8765?x=1", "gpu:8765", "/?x=1"),
            ("http://[::1]:9/a#b", "[::1]:9", "/a"),
            ("http://[fe80::1]/a", "[fe80::1]:80", "/a"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.authority().as_str(), url.path()), (authority, path));
        }
        assert_eq!(
            Url::parse("http://gpu:8765/base/")
                .unwrap()
                .join("/health")
                .path(),
            "/base/health"
        );
    }

    #[test]
    fn other_urls_are_refused_with_the_reason() {
        assert_eq!(Url::parse("https://gpu:8765"), Err(UrlError::Https));
        for text in [
            "",
            "gpu:8765",
            "ftp://gpu",
            "http://",
            "http://:80",
            "http://user:pass@gpu/",
            "http://gpu:notaport/",
            "http://gpu/a b",
            "http://gpu/a\u{7f}",
            "http://gpu/a\r\nX: y",
        ] {
            assert_eq!(Url::parse(text), Err(UrlError::Malformed), "{text:?}");
        }
    }

    #[test]
    fn a_query_never_shows_in_a_log() {
        let url = Url::parse("http://h:1/media/x?signature=secret").unwrap();
        assert!(!format!("{url} {url:?}").contains("secret"));
    }

    /// PMS takes a closed pipeline for a crash, and a slow encoder may need minutes for a segment.
    #[tokio::test]
    async fn a_connection_is_kept_however_long_nothing_is_said() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/list", listener.local_addr().unwrap())).unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut calls = 0;
            let mut seen = Vec::new();
            let mut buffer = [0; 4096];
            loop {
                let n = stream.read(&mut buffer).await.unwrap();
                if n == 0 {
                    return calls;
                }
                seen.extend_from_slice(&buffer[..n]);
                // The last chunk.
                if seen.ends_with(b"0\r\n\r\n") {
                    seen.clear();
                    calls += 1;
                    let reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(reply).await.unwrap();
                }
            }
        });
        let mut connection = Connection::new(&url, Vec::new());
        for _ in 0..3 {
            let mut call = Call::new(Method::POST, url.clone()).body("text/csv", "row");
            call.chunked = true;
            let reply = connection.call(&call, within(Duration::from_secs(30)));
            assert_eq!(reply.await.unwrap().status, 200);
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(3600)).await;
            tokio::time::resume();
        }
        drop(connection);
        assert_eq!(serving.await.unwrap(), 3, "calls over the one connection");
    }

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(encoded("a b&c=ü/"), "a%20b%26c%3D%C3%BC%2F");
    }
}
