//! The workers: what they have, how they are, and how bytes come from them.
//!
//! Requests go to configured workers only, redirects are not followed, and the key is sent to
//! nobody else. Where there is no key a session's own token opens its files.

mod catalog;
mod events;
mod health;
mod session;

pub use catalog::{Catalog, Stale, Worker};
pub use session::{Origin, RemoteFile, Session};

use crate::config::{RemoteConfig, Secret, WorkerUrl};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::BoxStream};
use plexbeam_api::{FileName, Id, Segment, route, segment::Digest, session::Health};
use reqwest::{
    Method, RequestBuilder, StatusCode,
    header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, IF_MATCH, RANGE},
};
use serde::de::DeserializeOwned;
use std::{sync::Arc, time::Duration};

/// Bound of a small request, from connecting to the last byte.
const SMALL_REQUEST: Duration = Duration::from_secs(5);
/// Silence within a download after which it is given up and tried again.
const BODY_SILENCE: Duration = Duration::from_secs(5);
/// Largest JSON answer taken from a worker, bytes.
const MAX_JSON: usize = 64 << 20;

/// Why a worker did not give what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke.
    #[error("worker unreachable: {0}")]
    Unreachable(String),
    /// 401 or 403.
    #[error("the worker refuses the key or token")]
    Refused,
    /// 404 or 410: the session or file is not there and will not come back.
    #[error("the worker does not have it")]
    Gone,
    /// 412: the worker dropped what was announced and made it again, with other bytes.
    #[error("the worker has only another making of it")]
    Replaced,
    /// 409: announced and not complete. A worker that keeps the contract does not say so.
    #[error("not complete yet")]
    NotYet,
    /// 429 or 503.
    #[error("the worker is busy")]
    Busy,
    /// Any other status.
    #[error("unexpected status {0}")]
    Status(u16),
    /// Wrong length, digest, range or form.
    #[error("damaged: {0}")]
    Damaged(&'static str),
    /// The cache folder could not take the bytes.
    #[error("cache folder: {0}")]
    Local(String),
}

impl FetchError {
    /// The same request may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            FetchError::Unreachable(_) | FetchError::NotYet | FetchError::Busy => true,
            FetchError::Status(status) => *status >= 500,
            FetchError::Refused
            | FetchError::Gone
            | FetchError::Replaced
            | FetchError::Damaged(_)
            | FetchError::Local(_) => false,
        }
    }
}

impl From<std::io::Error> for FetchError {
    fn from(error: std::io::Error) -> Self {
        FetchError::Local(error.to_string())
    }
}

impl From<reqwest::Error> for FetchError {
    fn from(error: reqwest::Error) -> Self {
        // The URL may hold nothing secret today; the text without it says enough anyway.
        let error = error.without_url();
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            source = inner.source();
        }
        FetchError::Unreachable(text)
    }
}

/// The bytes of a file as they come.
pub struct Body {
    /// The chunks; ends early only with an error.
    pub chunks: BoxStream<'static, Result<Bytes, FetchError>>,
    /// `Repr-Digest`'s SHA-256 as lower-case hex, where it was sent.
    pub digest: Option<String>,
}

/// Where the bytes of segments come from.
pub trait SegmentSource: Send + Sync + 'static {
    /// The whole file, or `len` bytes from `start`.
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Option<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Body, FetchError>>;

    /// Size and digest of the making that the worker has now; after [`FetchError::Replaced`].
    fn present<'a>(
        &'a self,
        file: &'a RemoteFile,
    ) -> BoxFuture<'a, Result<(u64, Digest), FetchError>>;
}

/// Workers over HTTP.
#[derive(Debug)]
pub struct HttpSource {
    client: reqwest::Client,
    key: Option<Secret>,
    bases: Vec<WorkerUrl>,
}

impl HttpSource {
    /// A source for these workers.
    pub fn new(config: &RemoteConfig) -> Result<Self, FetchError> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(2))
            .read_timeout(config.silence.max(BODY_SILENCE))
            .tcp_nodelay(true)
            .user_agent(concat!("plexbeam-mount/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(HttpSource {
            client,
            key: config.api_key.clone(),
            bases: config.workers.clone(),
        })
    }

    /// `token` is sent only where there is no key.
    fn request(
        &self,
        method: Method,
        worker: usize,
        path: &str,
        token: Option<&Secret>,
    ) -> RequestBuilder {
        let url = format!("{}{path}", self.bases[worker].as_str());
        let request = self.client.request(method, url);
        match (&self.key, token) {
            (Some(key), _) => request.header(route::API_KEY_HEADER, key.reveal()),
            (None, Some(token)) => {
                request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()))
            }
            (None, None) => request,
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, FetchError> {
        let mut response = request.timeout(SMALL_REQUEST).send().await?;
        check(response.status())?;
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > MAX_JSON {
                return Err(FetchError::Damaged("the answer is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|_| FetchError::Damaged("the answer is no JSON"))
    }

    /// `GET /health`.
    pub async fn health(&self, worker: usize) -> Result<Health, FetchError> {
        self.json(self.request(Method::GET, worker, route::HEALTH, None))
            .await
    }

    /// `GET /sessions`.
    pub async fn sessions(
        &self,
        worker: usize,
    ) -> Result<Vec<plexbeam_api::SessionStatus>, FetchError> {
        self.json(self.request(Method::GET, worker, route::SESSIONS, None))
            .await
    }

    /// `GET /sessions/{id}/files`.
    pub async fn files(&self, origin: &Origin) -> Result<Vec<Segment>, FetchError> {
        let path = route::session_files(&origin.session);
        let token = origin.token();
        self.json(self.request(Method::GET, origin.worker, &path, token.as_ref()))
            .await
    }

    /// `DELETE /sessions/{id}`; a session that is not there any more is ended, too.
    pub async fn end(&self, origin: &Origin) -> Result<(), FetchError> {
        let path = route::session(&origin.session);
        let token = origin.token();
        let request = self.request(Method::DELETE, origin.worker, &path, token.as_ref());
        let response = request.timeout(SMALL_REQUEST).send().await?;
        match check(response.status()) {
            Ok(()) | Err(FetchError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// `GET /events`: the raw stream.
    pub async fn events(
        &self,
        worker: usize,
    ) -> Result<BoxStream<'static, Result<Bytes, FetchError>>, FetchError> {
        let request = self
            .request(Method::GET, worker, route::EVENTS, None)
            .header(ACCEPT, "text/event-stream");
        let response = tokio::time::timeout(SMALL_REQUEST, request.send())
            .await
            .map_err(|_| FetchError::Unreachable("no answer".into()))??;
        check(response.status())?;
        Ok(response
            .bytes_stream()
            .map(|chunk| chunk.map_err(FetchError::from))
            .boxed())
    }

    /// `making`: size and digest of the one that is wanted; `None` takes any.
    async fn body(
        &self,
        origin: &Origin,
        name: &FileName,
        making: Option<(u64, &Digest)>,
        range: Option<(u64, u64)>,
    ) -> Result<Body, FetchError> {
        let path = route::session_file(&origin.session, name);
        let token = origin.token();
        let mut request = self.request(Method::GET, origin.worker, &path, token.as_ref());
        let size = making.map(|(size, _)| size);
        if let Some((_, digest)) = making {
            request = request.header(IF_MATCH, digest.etag());
        }
        if let Some((start, len)) = range {
            request = request.header(RANGE, format!("bytes={start}-{}", start + len - 1));
        }
        let response = tokio::time::timeout(SMALL_REQUEST, request.send())
            .await
            .map_err(|_| FetchError::Unreachable("no answer".into()))??;
        check(response.status())?;
        if let Some((start, len)) = range {
            let answered = content_range(response.headers());
            let fits = response.status() == StatusCode::PARTIAL_CONTENT
                && answered.is_some_and(|(first, last, total)| {
                    first == start && last + 1 == start + len && size.is_none_or(|s| s == total)
                });
            if !fits {
                return Err(FetchError::Damaged("another range came"));
            }
        } else if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status().as_u16()));
        } else if let (Some(announced), Some(size)) = (response.content_length(), size)
            && announced != size
        {
            return Err(FetchError::Damaged("another length came"));
        }
        let digest = repr_digest(response.headers());
        let chunks = response
            .bytes_stream()
            .map(|chunk| chunk.map_err(FetchError::from))
            .boxed();
        Ok(Body { chunks, digest })
    }
}

impl SegmentSource for HttpSource {
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Option<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Body, FetchError>> {
        Box::pin(async move {
            let segment = file.segment();
            // A playlist may have changed since it was announced.
            let making = (!file.is_mutable()).then_some((segment.size, &segment.digest));
            self.body(&file.origin, &file.name, making, range).await
        })
    }

    fn present<'a>(
        &'a self,
        file: &'a RemoteFile,
    ) -> BoxFuture<'a, Result<(u64, Digest), FetchError>> {
        Box::pin(async move {
            let path = route::session_file(&file.origin.session, &file.name);
            let token = file.origin.token();
            let request = self.request(Method::HEAD, file.origin.worker, &path, token.as_ref());
            let response = request.timeout(SMALL_REQUEST).send().await?;
            if response.status() == StatusCode::GONE {
                // Dropped again meanwhile: whoever asks for its bytes has it made once more.
                return Err(FetchError::Busy);
            }
            check(response.status())?;
            let length = response.headers().get(CONTENT_LENGTH);
            let size = length.and_then(|value| value.to_str().ok()?.parse().ok());
            match (size, repr_digest(response.headers())) {
                (Some(size), Some(digest)) => Ok((size, Digest(digest))),
                (None, _) | (_, None) => {
                    Err(FetchError::Damaged("its length or digest is missing"))
                }
            }
        })
    }
}

fn check(status: StatusCode) -> Result<(), FetchError> {
    match status.as_u16() {
        200..=299 => Ok(()),
        401 | 403 => Err(FetchError::Refused),
        404 | 410 => Err(FetchError::Gone),
        409 => Err(FetchError::NotYet),
        412 => Err(FetchError::Replaced),
        429 | 503 => Err(FetchError::Busy),
        other => Err(FetchError::Status(other)),
    }
}

/// First byte, last byte and total of a `Content-Range: bytes 0-9/100`.
fn content_range(headers: &HeaderMap) -> Option<(u64, u64, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}

/// SHA-256 of a `Repr-Digest: sha-256=:BASE64:` header (RFC 9530) as lower-case hex.
fn repr_digest(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("repr-digest")?.to_str().ok()?;
    let value = text
        .split(',')
        .find_map(|part| part.trim().strip_prefix("sha-256=:")?.strip_suffix(':'))?;
    let digest = STANDARD.decode(value).ok()?;
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Starts the tasks that follow all workers.
pub fn start(
    source: &Arc<HttpSource>,
    catalog: &Arc<Catalog>,
    config: &RemoteConfig,
    runtime: &tokio::runtime::Handle,
) {
    for worker in 0..config.workers.len() {
        runtime.spawn(events::follow(
            source.clone(),
            catalog.clone(),
            worker,
            config.silence,
        ));
        runtime.spawn(health::poll(
            source.clone(),
            catalog.clone(),
            worker,
            config.health_every,
        ));
    }
}

/// The file that takes the place of this one, of which the worker has only another making.
pub async fn renew(
    source: &dyn SegmentSource,
    catalog: &Catalog,
    file: &RemoteFile,
) -> Result<Arc<RemoteFile>, FetchError> {
    let session = catalog.of(&file.origin).ok_or(FetchError::Gone)?;
    if let Some(present) = session.other_than(file) {
        return Ok(present);
    }
    let (size, digest) = source.present(file).await?;
    Ok(session.renew(file, size, digest))
}

/// Learns a session's files now instead of waiting for the event stream; for a session that was
/// bound just now.
pub async fn learn(source: &HttpSource, session: &Session) {
    match source.files(&session.origin).await {
        Ok(files) => {
            for segment in files {
                session.add(segment);
            }
        }
        Err(FetchError::Gone) => session.set_gone(),
        Err(error) => {
            tracing::debug!(session = %session.origin.session, %error, "cannot list the files");
        }
    }
}

/// True when these are ids of one worker's session.
pub fn same_session(origin: &Origin, worker: usize, session: &Id) -> bool {
    origin.worker == worker && origin.session == *session
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repr_digest_is_read_as_hex() {
        // `printf '' | openssl dgst -sha256 -binary | base64`
        let mut headers = HeaderMap::new();
        let value = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        headers.insert(
            "repr-digest",
            format!("id-crc32c=:AAAA:, {value}").parse().unwrap(),
        );
        assert_eq!(repr_digest(&headers), Some(Digest::of(b"").0));
        headers.insert("repr-digest", "sha-256=:*:".parse().unwrap());
        assert_eq!(repr_digest(&headers), None);
    }

    #[test]
    fn a_content_range_is_read() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_RANGE, "bytes 5-9/100".parse().unwrap());
        assert_eq!(content_range(&headers), Some((5, 9, 100)));
        headers.insert(CONTENT_RANGE, "bytes */100".parse().unwrap());
        assert_eq!(content_range(&headers), None);
    }
}
