//! The media route: input files by range, for workers that do not see the media's path.
//!
//! A URL is signed with the shared key (or this mount's own secret) for one file, one job and a
//! time; only regular files are served. Answers follow RFC 9110 for `GET` and `HEAD` with a single
//! range; several ranges are answered with the whole file, which the standard allows.

use crate::{
    config::{MediaConfig, RemoteConfig, Secret, WorkerUrl},
    error::SetupError,
    overlay::read_full,
};
use axum::{
    Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use plexbeam_api::{
    Kind, Problem,
    media::{MEDIA, Refused, verify},
};
use std::{
    ffi::OsString,
    fs::File,
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, OpenOptionsExt},
    },
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio_stream::wrappers::ReceiverStream;

/// Bytes read at a time: large, because the reader is a demuxer that runs faster than real time.
const BLOCK: usize = 1 << 20;
/// Blocks read ahead of the connection.
const AHEAD: usize = 2;

/// A media route that listens.
#[derive(Debug)]
pub struct MediaRoute {
    /// Where.
    pub address: SocketAddr,
    /// Base URL for others.
    pub base: String,
    /// Signs the URLs where there is no key.
    pub own_secret: Option<Secret>,
    stop: tokio::sync::watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
}

impl MediaRoute {
    /// Takes no further request; those under way are served to their end.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Nothing is served any more.
    pub fn is_over(&self) -> bool {
        self.served.is_finished()
    }
}

#[derive(Debug, serde::Deserialize)]
struct Signed {
    job: String,
    expires: u64,
    signature: String,
}

/// A secret for URLs where there is no key.
pub fn new_secret() -> Secret {
    let random: [u8; 32] = rand::random();
    let text: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Secret::new(text)
}

/// A socket for the route; where there is no key, on loopback only.
pub fn listen(address: SocketAddr, has_key: bool) -> Result<TcpListener, SetupError> {
    if !has_key && !address.ip().is_loopback() {
        return Err(SetupError::MediaNeedsKey(address));
    }
    TcpListener::bind(address).map_err(|source| SetupError::MediaListen { address, source })
}

/// Begins to serve.
pub fn start(
    config: &MediaConfig,
    remote: &RemoteConfig,
    runtime: &tokio::runtime::Handle,
) -> Result<MediaRoute, SetupError> {
    let address = config.address;
    let failed = |source| SetupError::MediaListen { address, source };
    let listener = match &config.socket {
        Some(socket) => socket.try_clone().map_err(failed)?,
        None => listen(address, remote.api_key.is_some())?,
    };
    listener.set_nonblocking(true).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let own_secret = match remote.api_key {
        Some(_) => None,
        None => Some(config.secret.clone().unwrap_or_else(new_secret)),
    };
    let secret = remote.api_key.clone().or_else(|| own_secret.clone());
    let secret = Arc::new(secret.ok_or(SetupError::MediaNeedsKey(address))?);
    let app = app(secret);
    let _in_runtime = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).map_err(failed)?;
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let served = runtime.spawn(async move {
        let end = async move {
            // Ends also with the route itself.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        if let Err(error) = axum::serve(listener, app).with_graceful_shutdown(end).await {
            tracing::error!(%error, "the media route ended");
        }
    });
    Ok(MediaRoute {
        address: bound,
        base: format!("http://{}", reachable(bound, &remote.workers)),
        own_secret,
        stop,
        served,
    })
}

/// An address that workers can reach: for a listener on all addresses, the one from which this
/// host reaches the first worker.
fn reachable(bound: SocketAddr, workers: &[WorkerUrl]) -> SocketAddr {
    if !bound.ip().is_unspecified() {
        return bound;
    }
    let local = workers.iter().find_map(|worker| {
        // Connecting a datagram socket sends nothing; it only chooses the route.
        let socket = UdpSocket::bind(if bound.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        })
        .ok()?;
        socket
            .connect(worker.as_str().strip_prefix("http://")?)
            .ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    SocketAddr::new(local.unwrap_or(bound.ip()), bound.port())
}

/// The route, for its tests also without a listener.
pub fn app(secret: Arc<Secret>) -> Router {
    // `get` answers `HEAD`, too.
    Router::new()
        .route(&format!("{MEDIA}/{{path}}"), get(serve))
        .with_state(secret)
}

async fn serve(
    State(secret): State<Arc<Secret>>,
    method: Method,
    Path(path): Path<String>,
    query: Result<Query<Signed>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> Response {
    let Ok(Query(signed)) = query else {
        return problem(
            StatusCode::BAD_REQUEST,
            Kind::InvalidArgument,
            "malformed media URL",
        );
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let key = secret.reveal().as_bytes();
    let verified = verify(
        key,
        &path,
        &signed.job,
        signed.expires,
        &signed.signature,
        now,
    );
    let path = match verified {
        Ok(path) => OsString::from_vec(path),
        Err(refused) => {
            let (status, kind) = match refused {
                Refused::Malformed => (StatusCode::BAD_REQUEST, Kind::InvalidArgument),
                Refused::BadSignature | Refused::Expired => {
                    (StatusCode::FORBIDDEN, Kind::Unauthenticated)
                }
            };
            return problem(status, kind, &refused.to_string());
        }
    };
    match tokio::task::spawn_blocking(move || open(&path)).await {
        Ok(Ok((file, tag))) => answer(&method, &headers, file, &tag),
        Ok(Err(error)) => {
            let (status, kind) = match error.kind() {
                io::ErrorKind::NotFound => (StatusCode::NOT_FOUND, Kind::NotFound),
                io::ErrorKind::PermissionDenied => (StatusCode::FORBIDDEN, Kind::BadInput),
                io::ErrorKind::InvalidInput => (StatusCode::FORBIDDEN, Kind::BadInput),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, Kind::Internal),
            };
            problem(
                status,
                kind,
                &format!("the media file cannot be read: {error}"),
            )
        }
        Err(_) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            Kind::Unavailable,
            "the mount is ending",
        ),
    }
}

/// A regular file of known size.
struct Media {
    file: File,
    size: u64,
}

/// Opens a regular file and makes its entity tag, which changes with its content.
fn open(path: &std::ffi::OsStr) -> io::Result<(Media, String)> {
    let no_file = || io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
    // Opening a device or a fifo may already do something.
    if !std::fs::metadata(path)?.is_file() {
        return Err(no_file());
    }
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(no_file());
    }
    let tag = format!(
        "\"{:x}-{:x}-{:x}-{:x}\"",
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    let size = meta.len();
    Ok((Media { file, size }, tag))
}

fn answer(method: &Method, headers: &HeaderMap, media: Media, tag: &str) -> Response {
    let size = media.size;
    // A range of another version of the file would be of no use.
    let current = headers
        .get(header::IF_RANGE)
        .is_none_or(|value| value.as_bytes() == tag.as_bytes());
    let asked = headers
        .get(header::RANGE)
        .filter(|_| current)
        .and_then(|value| value.to_str().ok());
    let (status, start, len) = match asked.map(|range| parse_range(range, size)) {
        None | Some(Asked::Whole) => (StatusCode::OK, 0, size),
        Some(Asked::Part { start, len }) => (StatusCode::PARTIAL_CONTENT, start, len),
        Some(Asked::Nothing) => {
            let mut response = problem(
                StatusCode::RANGE_NOT_SATISFIABLE,
                Kind::InvalidArgument,
                "the range lies outside the file",
            );
            if let Ok(value) = format!("bytes */{size}").parse() {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            return response;
        }
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, len)
        .header(header::ETAG, tag);
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", start + len - 1);
        response = response.header(header::CONTENT_RANGE, range);
    }
    let body = if *method == Method::HEAD || len == 0 {
        Body::empty()
    } else {
        stream(media.file, start, len)
    };
    response.body(body).unwrap_or_else(|_| {
        problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Internal,
            "no answer could be made",
        )
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Whole,
    Part { start: u64, len: u64 },
    Nothing,
}

/// RFC 9110, 14.1.2. What is no single byte range counts as not asked.
fn parse_range(text: &str, size: u64) -> Asked {
    let Some((first, last)) = text
        .strip_prefix("bytes=")
        .and_then(|range| range.split_once('-'))
    else {
        return Asked::Whole;
    };
    let number = |text: &str| text.trim().parse::<u64>();
    match (first.trim().is_empty(), last.trim().is_empty()) {
        (true, false) => match number(last) {
            Ok(0) => Asked::Nothing,
            Ok(_) if size == 0 => Asked::Nothing,
            Ok(suffix) => {
                let len = suffix.min(size);
                Asked::Part {
                    start: size - len,
                    len,
                }
            }
            Err(_) => Asked::Whole,
        },
        (false, open_end) => {
            let last = if open_end { Ok(u64::MAX) } else { number(last) };
            match (number(first), last) {
                (Ok(first), Ok(last)) if first <= last => {
                    if first >= size {
                        Asked::Nothing
                    } else {
                        Asked::Part {
                            start: first,
                            len: last.min(size - 1) - first + 1,
                        }
                    }
                }
                _ => Asked::Whole,
            }
        }
        (true, true) => Asked::Whole,
    }
}

/// Reads a few blocks ahead of the connection; ends with it. A reader that rests (its encoder is
/// paused) holds no thread.
fn stream(file: File, start: u64, len: u64) -> Body {
    let (tell, told) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(AHEAD);
    tokio::spawn(async move {
        let file = Arc::new(file);
        let mut at = start;
        let end = start + len;
        while at < end {
            let Ok(place) = tell.reserve().await else {
                return;
            };
            let (file, size) = (file.clone(), (end - at).min(BLOCK as u64) as usize);
            let read = tokio::task::spawn_blocking(move || {
                let mut block = vec![0; size];
                let read = read_full(&*file, &mut block, at).map_err(|error| error.errno())?;
                block.truncate(read);
                Ok::<_, io::Error>(block)
            });
            let block = match read.await {
                // The file shrank: the connection must not end as if all had come.
                Ok(Ok(block)) if block.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(block) => block,
                Err(_) => return,
            };
            let failed = block.is_err();
            at += block.as_ref().map_or(0, |block| block.len() as u64);
            place.send(block.map(Bytes::from));
            if failed {
                return;
            }
        }
    });
    Body::from_stream(ReceiverStream::new(told))
}

fn problem(status: StatusCode, kind: Kind, detail: &str) -> Response {
    let mut problem = Problem::new(kind, detail);
    problem.status = status.as_u16();
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body,
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        let part = |start, len| Asked::Part { start, len };
        for (text, size, expected) in [
            ("bytes=0-9", 100, part(0, 10)),
            ("bytes=90-200", 100, part(90, 10)),
            ("bytes=50-", 100, part(50, 50)),
            ("bytes=-10", 100, part(90, 10)),
            ("bytes=-1000", 100, part(0, 100)),
            ("bytes=100-", 100, Asked::Nothing),
            ("bytes=-0", 100, Asked::Nothing),
            ("bytes=0-0", 0, Asked::Nothing),
            ("bytes=9-1", 100, Asked::Whole),
            ("bytes=0-1,3-4", 100, Asked::Whole),
            ("bytes=a-b", 100, Asked::Whole),
            ("bytes=-", 100, Asked::Whole),
            ("items=0-1", 100, Asked::Whole),
        ] {
            assert_eq!(parse_range(text, size), expected, "{text} of {size}");
        }
    }
}
