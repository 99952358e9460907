//! What the worker says of jobs and of itself.

use crate::{Id, Problem, event::Progress, secret::Hidden};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Where a session is. `queued -> running -> completed | failed | cancelled`; `paused` is a running
/// session whose owner is unheard; `draining` one that may finish while the worker leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Waits for a place.
    Queued,
    /// Its child works.
    Running,
    /// Its child is held until the owner is heard again.
    Paused,
    /// The worker is leaving; the job may still finish.
    Draining,
    /// All segments are out.
    Completed,
    /// Ended by a fault; the problem tells.
    Failed,
    /// Ended by request or by a lost lease.
    Cancelled,
}

impl SessionState {
    /// Nothing more will be published.
    pub fn is_end(self) -> bool {
        matches!(
            self,
            SessionState::Completed | SessionState::Failed | SessionState::Cancelled
        )
    }
}

/// Body of the 202 to `POST /transcode`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The job's id, as submitted.
    pub job_id: Id,
    /// Its session; today the same text as the job's id.
    pub session: Id,
    /// Bearer token for this session's routes (`Authorization: Bearer`). A secret.
    pub token: String,
    /// The worker that took it.
    pub worker: Id,
    /// Contract version of the worker.
    pub api_version: u32,
    /// Paths, relative to the worker's base URL.
    pub urls: Urls,
}

impl fmt::Debug for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accepted")
            .field("job_id", &self.job_id)
            .field("session", &self.session)
            .field("token", &Hidden)
            .field("worker", &self.worker)
            .field("api_version", &self.api_version)
            .field("urls", &self.urls)
            .finish()
    }
}

/// Where to go on, relative to the worker's base URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Urls {
    /// `GET` state.
    pub status: String,
    /// `GET` server-sent events.
    pub events: String,
    /// `GET` list of files.
    pub files: String,
    /// `DELETE` to cancel.
    pub cancel: String,
}

/// State of a job and its session (`GET /status/{id}`; lists of it in `/jobs` and `/sessions`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The job.
    pub job_id: Id,
    /// Its session.
    pub session: Id,
    /// Where it is.
    pub state: SessionState,
    /// Last progress seen.
    pub progress: Progress,
    /// Finished media segments so far (init and header not counted).
    pub segments: u64,
    /// What encodes, as [`crate::event::Probed::device`] says; after a device that failed, what came
    /// next. `None` until known.
    pub device: Option<String>,
    /// Why it failed or was cancelled.
    pub error: Option<Problem>,
    /// Place in the queue, 1 = next; `None` unless queued.
    pub queue_place: Option<u64>,
    /// Seconds since the Unix epoch at submission.
    pub created_at: u64,
}

/// Body of `GET /health`. Without the key only `status` and `api_version` are sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// `ok` or `draining`.
    pub status: String,
    /// Contract version.
    pub api_version: u32,
    /// The rest, with the key only.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub detail: Option<HealthDetail>,
}

/// What a caller with the key learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HealthDetail {
    /// Worker id, stable over restarts where its spool directory is.
    pub worker: Id,
    /// Program version.
    pub version: String,
    /// libavcodec version text.
    pub ffmpeg: String,
    /// What each device proved at start.
    pub devices: Vec<DeviceReport>,
    /// Running jobs.
    pub active: u32,
    /// Waiting jobs.
    pub queued: u32,
    /// Places.
    pub max_jobs: u32,
    /// Media seconds per wall second over the last jobs; `None` before the first.
    pub speed: Option<f64>,
}

/// One device and what it can really do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// `software`, `cuda`, `vaapi`, `qsv`, `vulkan`.
    pub name: String,
    /// Render node or number; `None` for the processor.
    #[serde(default)]
    pub address: Option<String>,
    /// Encoders that made a packet.
    pub encoders: Vec<String>,
    /// Why it is not usable, or what of it is not, in the driver's words.
    pub error: Option<String>,
    /// Everything that was tried, in order.
    #[serde(default)]
    pub checks: Vec<DeviceCheck>,
}

/// One thing tried on a device at start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCheck {
    /// What, for a person: `open`, `encode h264`, `decode hevc, 10 bit`, `tone map`, ...
    pub step: String,
    /// It worked.
    pub ok: bool,
    /// Wall time in milliseconds.
    pub ms: u64,
    /// Why not; `None` when it worked.
    pub error: Option<String>,
    /// What libav and the driver said meanwhile.
    pub log: Vec<String>,
}

/// Body of `PUT /sessions/{id}/throttle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttle {
    /// PMS asserts `canThrottle`: go at 0.3 to 0.5 x real time, never stop.
    pub on: bool,
}
