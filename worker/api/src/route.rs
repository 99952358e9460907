//! Paths and header names of the worker's HTTP interface (DESIGN 3).

use crate::{FileName, Id};

/// Header that carries the shared key.
pub const API_KEY_HEADER: &str = "x-api-key";
/// Liveness for everybody; details with the key.
pub const HEALTH: &str = "/health";
/// 200 when probed and warm, 503 while starting or draining.
pub const READY: &str = "/ready";
/// Submit a job.
pub const TRANSCODE: &str = "/transcode";
/// All jobs.
pub const JOBS: &str = "/jobs";
/// All sessions.
pub const SESSIONS: &str = "/sessions";
/// One event stream per worker, for the mount ([`crate::event::WorkerEvent`]).
pub const EVENTS: &str = "/events";

/// `GET`: state of one job.
pub fn status(job: &Id) -> String {
    format!("/status/{job}")
}

/// `DELETE`: cancel one job.
pub fn transcode(job: &Id) -> String {
    format!("{TRANSCODE}/{job}")
}

/// `DELETE`: end a session and free its files.
pub fn session(session: &Id) -> String {
    format!("{SESSIONS}/{session}")
}

/// `GET`: server-sent events of one session; `?lease` makes the connection the lease.
pub fn session_events(session: &Id) -> String {
    format!("{SESSIONS}/{session}/events")
}

/// `PUT`: the owner is alive; sent each second beside the lease connection.
pub fn session_lease(session: &Id) -> String {
    format!("{SESSIONS}/{session}/lease")
}

/// `PUT` of [`crate::session::Throttle`]: pacing on or off.
pub fn session_throttle(session: &Id) -> String {
    format!("{SESSIONS}/{session}/throttle")
}

/// `GET`: finished files of a session, as a JSON list of [`crate::Segment`].
pub fn session_files(session: &Id) -> String {
    format!("{SESSIONS}/{session}/files")
}

/// `GET`: bytes of one file; the name is percent-encoded.
pub fn session_file(session: &Id, name: &FileName) -> String {
    let mut path = session_files(session);
    path.push('/');
    for byte in name.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            path.push(byte as char);
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}
