//! The calls that PMS expects from its transcoder, in its order (PROTOCOL 6).
//!
//! All go to the URLs of the command line. None is made before the worker has opened input and
//! device (P1): a [`Reporter`] starts with what was probed. A PMS that answers slowly or not at all
//! delays nothing but its own calls, and nothing piles up: of progress only the newest is kept, log
//! lines beyond a small queue are dropped.

use crate::http::{Call, CallError, Connection, Method, Reply, Url, encoded, within};
use crate::job::{Dialect, PmsPlan};
use hyper::header::{ACCEPT, HeaderName, HeaderValue, RANGE, USER_AGENT};
use plexbeam_api::{
    event::{InputStream, LogLevel, LogLine, Probed, Progress},
    segment::MediaKind,
};
use std::ffi::OsStr;
use std::fmt::Write;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Bound of one call.
const CALL: Duration = Duration::from_secs(2);
/// Bound of all start-up calls together; what is left is skipped.
const STARTUP: Duration = Duration::from_secs(8);
/// Progress calls are at least half a second apart; a little more, so that PMS's clock agrees.
const PACE: Duration = Duration::from_millis(550);
/// Unchanged progress is said again this often, to hear of a changed throttle.
const REPEAT: Duration = Duration::from_secs(2);
/// Log lines that may wait.
const LOG_QUEUE: usize = 64;

/// Headers of every call to PMS. `token` is `X_PLEX_TOKEN` of the environment.
pub fn headers(token: Option<&OsStr>) -> Vec<(HeaderName, HeaderValue)> {
    let fixed = |value| HeaderValue::from_static(value);
    let mut headers = vec![
        (USER_AGENT, fixed("Lavf/60.16.100")),
        (ACCEPT, fixed("*/*")),
        (RANGE, fixed("bytes=0-")),
        (hyper::header::CONNECTION, fixed("keep-alive")),
        (HeaderName::from_static("icy-metadata"), fixed("1")),
        (
            HeaderName::from_static("x-plex-http-pipeline"),
            fixed("infinite"),
        ),
    ];
    let token = token.and_then(|t| HeaderValue::from_bytes(t.as_encoded_bytes()).ok());
    if let Some(mut token) = token {
        token.set_sensitive(true);
        headers.push((HeaderName::from_static("x-plex-token"), token));
    }
    headers
}

/// Tells PMS how the job goes, from a task of its own.
pub struct Reporter {
    progress: watch::Sender<Option<Progress>>,
    logs: mpsc::Sender<LogLine>,
    stop: oneshot::Sender<()>,
    begun: watch::Receiver<bool>,
    throttle: watch::Receiver<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Reporter {
    /// Begins with the start-up calls. `hardware_decode`: the command line asks for it.
    pub fn start(
        plan: &PmsPlan,
        token: Option<&OsStr>,
        probed: &Probed,
        hardware_decode: bool,
    ) -> Self {
        let (progress, newest) = watch::channel(None);
        let (logs, lines) = mpsc::channel(LOG_QUEUE);
        let (stop, stopped) = oneshot::channel();
        let (tell_begun, begun) = watch::channel(false);
        let (tell_throttle, throttle) = watch::channel(false);
        let teller = Teller {
            connection: Connection::new(&plan.progress, headers(token)),
            url: plan.progress.clone(),
            log_level: plan.log_level,
            dialect: plan.dialect,
            hardware_decode,
            duration_known: probed.duration_us.is_some(),
            throttle: tell_throttle,
        };
        let startup = startup(probed, plan.dialect);
        let task = tokio::spawn(teller.run(startup, tell_begun, newest, lines, stopped));
        Reporter {
            progress,
            logs,
            stop,
            begun,
            throttle,
            task,
        }
    }

    /// Becomes true when the start-up calls are over.
    pub fn begun(&self) -> watch::Receiver<bool> {
        self.begun.clone()
    }

    /// True while PMS asserts `canThrottle`.
    pub fn throttle(&self) -> watch::Receiver<bool> {
        self.throttle.clone()
    }

    /// The newest progress, told at PMS's pace.
    pub fn progress(&self, progress: Progress) {
        self.progress.send_replace(Some(progress));
    }

    /// A log line; dropped when too many wait.
    pub fn log(&self, line: LogLine) {
        let _ = self.logs.try_send(line);
    }

    /// Tells what is still untold, and ends.
    pub async fn finish(self, bound: Duration) {
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(bound, self.task).await;
    }
}

struct Teller {
    connection: Connection,
    url: Url,
    log_level: Option<u8>,
    dialect: Dialect,
    hardware_decode: bool,
    duration_known: bool,
    throttle: watch::Sender<bool>,
}

impl Teller {
    async fn run(
        mut self,
        startup: Vec<(&'static str, String)>,
        begun: watch::Sender<bool>,
        mut newest: watch::Receiver<Option<Progress>>,
        mut lines: mpsc::Receiver<LogLine>,
        mut stopped: oneshot::Receiver<()>,
    ) {
        let bound = within(STARTUP);
        for (tail, query) in startup {
            if Instant::now() >= bound {
                break;
            }
            let _ = self.call(Method::PUT, tail, &query).await;
        }
        begun.send_replace(true);
        let mut last: Option<Instant> = None;
        loop {
            let due = last.map_or_else(Instant::now, |last| last + PACE);
            tokio::select! {
                _ = &mut stopped => break,
                Some(line) = lines.recv() => self.log(&line).await,
                () = tokio::time::sleep_until(due) => {
                    let changed = newest.has_changed().unwrap_or(false);
                    let repeat = last.is_some_and(|last| last.elapsed() >= REPEAT);
                    let progress = newest.borrow_and_update().clone();
                    match progress {
                        Some(progress) if changed || repeat || *self.throttle.borrow() => {
                            self.progress(&progress).await;
                            last = Some(Instant::now());
                        }
                        // Nothing to say yet: look again soon, without a busy loop.
                        _ => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
            }
        }
        while let Ok(line) = lines.try_recv() {
            self.log(&line).await;
        }
        if newest.has_changed().unwrap_or(false) {
            if let Some(last) = last {
                tokio::time::sleep_until(last + PACE).await;
            }
            let progress = newest.borrow_and_update().clone();
            if let Some(progress) = progress {
                self.progress(&progress).await;
            }
        }
    }

    async fn call(&mut self, method: Method, tail: &str, query: &str) -> Result<Reply, CallError> {
        let (path, had) = match self.url.path().split_once('?') {
            Some((path, had)) => (path, format!("{had}&")),
            None => (self.url.path(), String::new()),
        };
        let url = self.url.with_path(format!("{path}{tail}?{had}{query}"));
        let call = Call::new(method, url);
        self.connection.call(&call, within(CALL)).await
    }

    async fn progress(&mut self, progress: &Progress) {
        let throttled = *self.throttle.borrow();
        let query = progress_query(
            progress,
            self.duration_known,
            throttled,
            self.hardware_decode,
        );
        let on = match self.call(Method::PUT, "", &query).await {
            Ok(reply) => (200..300).contains(&reply.status) && can_throttle(&reply.body),
            // Full speed when PMS says nothing (PROTOCOL 6.4).
            Err(_) => false,
        };
        if on != throttled {
            self.throttle.send_replace(on);
            // Plex's own transcoder says so, too (PROTOCOL 6.4).
            let pace = if on { "slower" } else { "at full speed" };
            self.log(&LogLine {
                level: LogLevel::Debug,
                message: format!("Throttle: going on {pace}"),
            })
            .await;
        }
    }

    async fn log(&mut self, line: &LogLine) {
        let level = level(line.level);
        if self.log_level.is_none_or(|most| level > most) {
            return;
        }
        let message = encoded(&line.message);
        // The next line goes out in any case.
        let _ = match self.dialect {
            Dialect::New => {
                let query = format!("level={level}&message={message}");
                self.call(Method::POST, "/log", &query).await
            }
            Dialect::Old => {
                let path = format!("/log?level={level}&source=Transcoder&message={message}");
                let call = Call::new(Method::GET, self.url.with_path(path));
                self.connection.call(&call, within(CALL)).await
            }
        };
    }
}

/// PMS's scale (PROTOCOL 6.5).
fn level(level: LogLevel) -> u8 {
    match level {
        LogLevel::Error => 0,
        LogLevel::Warning => 1,
        LogLevel::Info => 2,
        LogLevel::Debug => 3,
    }
}

/// Plex's own transcoder looks for the bare word, whatever the attribute's value.
fn can_throttle(body: &[u8]) -> bool {
    body.windows(11).any(|w| w == b"canThrottle")
}

/// The calls before the first progress (PROTOCOL 6.1): what follows the progress URL, and the query.
fn startup(probed: &Probed, dialect: Dialect) -> Vec<(&'static str, String)> {
    let mut calls = match dialect {
        Dialect::New => vec![("", "status=startup".to_owned())],
        Dialect::Old => Vec::new(),
    };
    // PMS counts the streams of the title; a staged subtitle file is its own.
    let streams = || {
        let all = probed.streams.iter();
        all.filter(|s| s.input == 0 && !s.attached_picture)
    };
    for stream in streams().filter(|s| matches!(s.media, MediaKind::Video | MediaKind::Audio)) {
        calls.push(("/stream", identity(stream)));
    }
    for stream in streams() {
        if !matches!(stream.media, MediaKind::Attachment | MediaKind::Data) {
            calls.push(("/streamDetail", detail(stream)));
        }
    }
    let duration = match probed.duration_us {
        Some(us) => format!("duration={:.6}", us as f64 / 1e6),
        None => "duration=-1.000000".to_owned(),
    };
    calls.push(("", duration));
    for picture in &probed.pictures {
        let size = format!("width={}&height={}", picture.width, picture.height);
        calls.push(("", size));
    }
    calls
}

fn identity(stream: &InputStream) -> String {
    let kind = match stream.media {
        MediaKind::Video => "video",
        MediaKind::Audio => "audio",
        MediaKind::Subtitle => "subtitle",
        MediaKind::Attachment => "attachment",
        MediaKind::Data => "data",
    };
    format!(
        "index={}&id={}&codec={}&type={kind}",
        stream.index,
        stream.id,
        encoded(&stream.codec)
    )
}

fn detail(stream: &InputStream) -> String {
    let mut query = identity(stream);
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(query, "&{name}={}", encoded(&value));
        }
    };
    add("bitrate", stream.bit_rate.map(|v| v.to_string()));
    add("profile", stream.profile.clone());
    add("language", stream.language.clone());
    match stream.media {
        MediaKind::Video => {
            add("width", stream.width.map(|v| v.to_string()));
            add("height", stream.height.map(|v| v.to_string()));
            let interlaced = u8::from(stream.interlaced.unwrap_or(false));
            add("interlaced", Some(interlaced.to_string()));
            // The colon stays: PMS reads `n:d`.
            if let Some((n, d)) = stream.sar {
                let _ = write!(query, "&sar={n}:{d}");
            }
            let mut add = |name: &str, value: Option<String>| {
                if let Some(value) = value {
                    let _ = write!(query, "&{name}={value}");
                }
            };
            add("level", stream.level.map(|v| v.to_string()));
            add("frameRate", stream.frame_rate.map(|v| format!("{v:.3}")));
            add(
                "closedCaptions",
                stream.closed_captions.then(|| "1".to_owned()),
            );
        }
        MediaKind::Audio => {
            add("channels", stream.channels.map(|v| v.to_string()));
            add("layout", stream.layout.clone());
            add("sampleRate", stream.sample_rate.map(|v| v.to_string()));
            add("bitDepth", stream.bit_depth.map(|v| v.to_string()));
        }
        MediaKind::Subtitle | MediaKind::Attachment | MediaKind::Data => {}
    }
    if stream.default {
        query.push_str("&disp_default=1");
    }
    query
}

/// PROTOCOL 6.2. Where the command line asks for hardware decoding the packets count as decoded by
/// hardware, so that PMS does not switch it off for the next start.
fn progress_query(
    progress: &Progress,
    duration_known: bool,
    throttled: bool,
    hardware: bool,
) -> String {
    let percent = progress.percent.filter(|_| duration_known).unwrap_or(-1.0);
    let mut query = format!("progress={percent:.1}&size={}", progress.size);
    let mut add = |text: String| query.push_str(&text);
    match progress.remaining_s {
        Some(remaining) => add(format!("&remaining={remaining}")),
        None => add("&remaining=-1".to_owned()),
    }
    if progress.vdec_packets > 0 {
        let failed = progress.vdec_failed;
        let ok = progress.vdec_packets.saturating_sub(failed);
        let (hw, sw) = match hardware {
            true => ((failed, ok), (0, 0)),
            false => ((0, 0), (failed, ok)),
        };
        add(format!("&vdec_packets={}", progress.vdec_packets));
        add(format!("&vdec_hw_failed={}&vdec_sw_failed={}", hw.0, sw.0));
        add(format!("&vdec_hw_ok={}&vdec_sw_ok={}", hw.1, sw.1));
    }
    if let Some(speed) = progress.speed.filter(|_| !throttled) {
        add(format!("&speed={speed:.1}"));
    }
    if progress.vdec_packets > 0 && hardware {
        add("&vdec_hw_status=1".to_owned());
    }
    query
}

#[cfg(test)]
mod tests;
