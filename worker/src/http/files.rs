//! The bytes of a finished file: whole or one range, with a strong `ETag` and `Repr-Digest`.
//!
//! A dropped segment that was made again has a new `ETag`. Who began with the first making asks on
//! with `If-Match`, and is refused (412) rather than given bytes of another.

use super::{App, FilePath};
use crate::{error::Refusal, store::Reading};
use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures_util::stream;
use plexbeam_api::{
    FileName, Kind, Problem, Segment,
    segment::{Digest, SegmentKind},
};
use std::io;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, SeekFrom},
};

/// Bytes of one read. Large, because each is a trip to another thread.
const CHUNK: u64 = 512 << 10;

/// `GET` and `HEAD /sessions/{id}/files/{name}`.
pub(super) async fn file(
    State(app): State<App>,
    FilePath(id, name): FilePath,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let session = app.registry.get(&id)?;
    // Only who wants the bytes has them made again.
    let reading = match method {
        Method::HEAD => session.read(&name)?,
        _ => app.registry.read(&session, &name).await?,
    };
    let segment = reading.segment().clone();
    let etag = segment.digest.etag();
    if !may_match(&headers, &etag) {
        let detail = format!("{name} was made again and has other bytes now");
        let mut refusal = Refusal::new(Kind::Conflict, detail)
            .with_status(StatusCode::PRECONDITION_FAILED)
            .into_response();
        put(&mut refusal, header::ETAG, &etag);
        return Ok(refusal);
    }
    let mut response = if none_match(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match wanted_range(&headers, &etag, segment.size) {
            Wanted::All => {
                let body = body(&method, reading, 0, segment.size).await?;
                sized(StatusCode::OK, segment.size, body)
            }
            Wanted::Part { from, to } => {
                let body = body(&method, reading, from, to).await?;
                let mut part = sized(StatusCode::PARTIAL_CONTENT, to - from, body);
                let range = format!("bytes {from}-{}/{}", to - 1, segment.size);
                put(&mut part, header::CONTENT_RANGE, &range);
                part
            }
            Wanted::Outside => {
                let detail = format!("{name} has {} bytes", segment.size);
                let mut refusal = Refusal::new(Kind::InvalidArgument, detail)
                    .with_status(StatusCode::RANGE_NOT_SATISFIABLE)
                    .into_response();
                let range = format!("bytes */{}", segment.size);
                put(&mut refusal, header::CONTENT_RANGE, &range);
                return Ok(refusal);
            }
        }
    };
    describe(&mut response, &segment, &etag);
    Ok(response)
}

fn sized(status: StatusCode, length: u64, body: Body) -> Response {
    let mut response = (status, body).into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    response
}

fn put(response: &mut Response, name: HeaderName, value: &str) {
    // Digits, hex and base64 only: always a valid header value.
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn describe(response: &mut Response, segment: &Segment, etag: &str) {
    put(response, header::ETAG, etag);
    if let Some(digest) = repr_digest(&segment.digest) {
        put(response, HeaderName::from_static("repr-digest"), &digest);
    }
    let headers = response.headers_mut();
    let fixed = |text| HeaderValue::from_static(text);
    headers.insert(header::CONTENT_TYPE, fixed(content_type(&segment.name)));
    headers.insert(header::ACCEPT_RANGES, fixed("bytes"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    let caching = match segment.kind {
        SegmentKind::Playlist => "no-store",
        // Kept, but asked for again: an id may be used anew after its session was freed.
        SegmentKind::Init | SegmentKind::Header | SegmentKind::Media => "private, no-cache",
    };
    headers.insert(header::CACHE_CONTROL, fixed(caching));
}

/// `sha-256=:base64:` (RFC 9530).
fn repr_digest(digest: &Digest) -> Option<String> {
    let hex = digest.0.as_bytes();
    let mut raw = Vec::with_capacity(hex.len() / 2);
    for pair in hex.chunks(2) {
        let text = std::str::from_utf8(pair).ok()?;
        raw.push(u8::from_str_radix(text, 16).ok()?);
    }
    Some(format!("sha-256=:{}:", STANDARD.encode(raw)))
}

fn content_type(name: &FileName) -> &'static str {
    let extension = name
        .as_str()
        .rsplit_once('.')
        .map(|(_, extension)| extension);
    match extension {
        Some("ts") => "video/mp2t",
        Some("m3u8") => "application/vnd.apple.mpegurl",
        Some("m4s" | "mp4") => "video/mp4",
        Some("mkv") => "video/x-matroska",
        Some("vtt") => "text/vtt; charset=utf-8",
        Some("srt" | "ass") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// `If-Match` is not there or names this entity (RFC 9110 13.1.1, strong comparison).
fn may_match(headers: &HeaderMap, etag: &str) -> bool {
    !headers.contains_key(header::IF_MATCH)
        || tags(headers, &header::IF_MATCH).any(|tag| tag == "*" || tag == etag)
}

/// `If-None-Match` names this entity (RFC 9110 13.1.2, weak comparison).
fn none_match(headers: &HeaderMap, etag: &str) -> bool {
    tags(headers, &header::IF_NONE_MATCH)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The entity tags of a header, in all its lines; ours have no comma within.
fn tags<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// `from..to`, not empty.
    Part {
        from: u64,
        to: u64,
    },
    Outside,
}

/// Reads `Range` and `If-Range`. Several ranges, other units and nonsense are ignored, which
/// RFC 9110 14.2 allows: the answer is the whole file.
fn wanted_range(headers: &HeaderMap, etag: &str, size: u64) -> Wanted {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let Some(range) = text(header::RANGE) else {
        return Wanted::All;
    };
    // Strong comparison; a date never fits, since there is no Last-Modified.
    if headers.contains_key(header::IF_RANGE) && text(header::IF_RANGE) != Some(etag) {
        return Wanted::All;
    }
    let parts = range
        .strip_prefix("bytes=")
        .filter(|spec| !spec.contains(','))
        .and_then(|spec| spec.trim().split_once('-'));
    let Some((first, last)) = parts else {
        return Wanted::All;
    };
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        true => text.parse::<u64>().ok(),
        false => None,
    };
    match (first, last) {
        ("", last) => match number(last) {
            Some(0) => Wanted::Outside,
            Some(_) if size == 0 => Wanted::Outside,
            Some(length) => Wanted::Part {
                from: size.saturating_sub(length),
                to: size,
            },
            None => Wanted::All,
        },
        (first, last) => {
            let end = match last {
                "" => Some(u64::MAX),
                last => number(last),
            };
            match (number(first), end) {
                (Some(from), Some(end)) if from <= end => {
                    if from >= size {
                        Wanted::Outside
                    } else {
                        Wanted::Part {
                            from,
                            to: end.saturating_add(1).min(size),
                        }
                    }
                }
                _ => Wanted::All,
            }
        }
    }
}

/// A body of the bytes `from..to`; empty for `HEAD`.
async fn body(method: &Method, reading: Box<Reading>, from: u64, to: u64) -> Result<Body, Problem> {
    if *method == Method::HEAD {
        return Ok(Body::empty());
    }
    let open = async {
        let mut file = File::open(reading.path()).await?;
        file.set_max_buf_size(CHUNK as usize);
        if from > 0 {
            file.seek(SeekFrom::Start(from)).await?;
        }
        io::Result::Ok(file)
    };
    let file = open.await.map_err(|error| {
        let name = &reading.segment().name;
        Problem::new(
            Kind::Internal,
            format!("{name} could not be opened in the spool: {error}"),
        )
    })?;
    let sending = Sending {
        reading,
        from,
        at: from,
        to,
    };
    Ok(Body::from_stream(stream::unfold(
        (file, sending),
        |(mut file, mut sending)| async move {
            let left = sending.to - sending.at;
            if left == 0 {
                return None;
            }
            let mut chunk = vec![0; left.min(CHUNK) as usize];
            let item = match file.read_exact(&mut chunk).await {
                Ok(read) => {
                    sending.at += read as u64;
                    Ok(Bytes::from(chunk))
                }
                Err(error) => Err(error),
            };
            Some((item, (file, sending)))
        },
    )))
}

/// Bytes on their way. The server drops it after the last chunk was taken, without asking for one
/// more, so what was sent is told on drop.
struct Sending {
    reading: Box<Reading>,
    from: u64,
    at: u64,
    to: u64,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if self.at == self.to {
            self.reading.sent(self.from, self.to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(value: &str, size: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(value).unwrap());
        wanted_range(&headers, "\"e\"", size)
    }

    fn part(from: u64, to: u64) -> Wanted {
        Wanted::Part { from, to }
    }

    #[test]
    fn ranges_of_rfc_9110() {
        assert_eq!(range("bytes=0-0", 10), part(0, 1));
        assert_eq!(range("bytes=2-", 10), part(2, 10));
        assert_eq!(range("bytes=2-99", 10), part(2, 10));
        assert_eq!(range("bytes=-3", 10), part(7, 10));
        assert_eq!(range("bytes=-30", 10), part(0, 10));
        for outside in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(range(outside, 10), Wanted::Outside, "{outside}");
        }
        assert_eq!(range("bytes=-1", 0), Wanted::Outside);
        for ignored in [
            "bytes=0-1,3-4",
            "lines=0-1",
            "bytes=5-2",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=",
            "0-1",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(range(ignored, 10), Wanted::All, "{ignored}");
        }
    }

    #[test]
    fn if_match_is_strong() {
        let fits = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(header::IF_MATCH, HeaderValue::from_static(line));
            }
            may_match(&headers, "\"e\"")
        };
        assert!(fits(&[]));
        for all in [
            &["\"e\""][..],
            &["*"],
            &["\"f\", \"e\""],
            &["\"f\"", "W/\"e\",\"e\""],
        ] {
            assert!(fits(all), "{all:?}");
        }
        for none in [&["\"f\""][..], &["W/\"e\""], &["e"], &[""]] {
            assert!(!fits(none), "{none:?}");
        }
    }

    #[test]
    fn if_range_is_strong() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        for (tag, fits) in [("\"e\"", true), ("W/\"e\"", false), ("\"f\"", false)] {
            headers.insert(header::IF_RANGE, HeaderValue::from_static(tag));
            let all = wanted_range(&headers, "\"e\"", 10) == Wanted::All;
            assert_eq!(all, !fits, "{tag}");
        }
    }

    #[test]
    fn digests_as_rfc_9530_writes_them() {
        // openssl dgst -sha256 -binary </dev/null | base64
        assert_eq!(
            repr_digest(&Digest::of(b"")).as_deref(),
            Some("sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:")
        );
    }
}
