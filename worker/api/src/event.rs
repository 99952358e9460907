//! What happens in a session. The same values travel from the job child to the worker, from the
//! worker to the cartridge (`GET /sessions/{id}/events`, server-sent events whose `id` counts from
//! 1 within the session) and, wrapped in [`WorkerEvent`], to the mount.

use crate::{
    Id, Problem, Segment,
    segment::MediaKind,
    session::{SessionState, SessionStatus},
};
use serde::{Deserialize, Serialize};

/// One event of a session. The server-sent event's `event:` field is [`Event::name`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// Inputs and device are open: PMS may be told now (P1). Once per job, before any segment.
    Probed(Probed),
    /// A file is finished and can be fetched.
    Segment(Segment),
    /// How far the job is; at most twice a second.
    Progress(Progress),
    /// A line worth showing to the administrator.
    Log(LogLine),
    /// The session changed its state.
    State(StateChange),
}

impl Event {
    /// The `event:` field of the server-sent event.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Probed(_) => "probed",
            Event::Segment(_) => "segment",
            Event::Progress(_) => "progress",
            Event::Log(_) => "log",
            Event::State(_) => "state",
        }
    }
}

/// What was found in the inputs, and what the outputs will be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// Length of the title in microseconds; `None` when the container does not tell.
    pub duration_us: Option<i64>,
    /// Demuxer name of the first input, e.g. `matroska,webm`.
    pub format: String,
    /// All streams of all inputs, in order.
    pub streams: Vec<InputStream>,
    /// Pictures of the video outputs, in order of the outputs' streams.
    pub pictures: Vec<Picture>,
    /// What encodes the video: `software`, `copy`, `cuda`, `vaapi`, `qsv`; `cuda+software` and the like
    /// where the processor encodes what the device decodes or filters.
    pub device: String,
}

/// Size of an encoded or copied picture, corrected for sample aspect (PROTOCOL 6.1 step 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

/// One stream of an input, with the fields of PMS's `streamDetail` (PROTOCOL 6.1 step 3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputStream {
    /// Which input of the job.
    pub input: u32,
    /// Position in the container.
    pub index: u32,
    /// Id in the container (PID, track number); 0 when it has none.
    pub id: u32,
    /// Kind.
    pub media: MediaKind,
    /// libav's short codec name, e.g. `h264`, `eac3`, `subrip`.
    pub codec: String,
    /// Bits per second, when known.
    pub bit_rate: Option<u64>,
    /// Profile name, e.g. `High`.
    pub profile: Option<String>,
    /// Level as the codec counts it.
    pub level: Option<i32>,
    /// Language tag of the container.
    pub language: Option<String>,
    /// True for a cover picture.
    pub attached_picture: bool,
    /// Disposition `default`.
    pub default: bool,
    /// Video width in pixels.
    pub width: Option<u32>,
    /// Video height in pixels.
    pub height: Option<u32>,
    /// Video field order is not progressive.
    pub interlaced: Option<bool>,
    /// Sample aspect ratio.
    pub sar: Option<(u32, u32)>,
    /// Frames per second.
    pub frame_rate: Option<f64>,
    /// CEA-608/708 captions in the video.
    pub closed_captions: bool,
    /// Audio channels.
    pub channels: Option<u32>,
    /// Audio channel layout as libav names it, e.g. `5.1(side)`.
    pub layout: Option<String>,
    /// Audio sample rate in Hz.
    pub sample_rate: Option<u32>,
    /// Bits per raw sample.
    pub bit_depth: Option<u32>,
}

/// How far a job is. `None` means not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Percent of the title, 0 to 100.
    pub percent: Option<f64>,
    /// Title time of the newest finished packet, microseconds.
    pub out_time_us: i64,
    /// Bytes of all finished segments.
    pub size: u64,
    /// Wall seconds left.
    pub remaining_s: Option<u64>,
    /// Frames encoded or copied.
    pub frames: u64,
    /// Frames per wall second since the last event.
    pub fps: f64,
    /// Media seconds per wall second since the last event; `None` while throttled or paused.
    pub speed: Option<f64>,
    /// Video packets handed to the decoder.
    pub vdec_packets: u64,
    /// Video packets the decoder refused.
    pub vdec_failed: u64,
}

/// Severity in PMS's scale (PROTOCOL 6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// PMS level 0.
    Error,
    /// PMS level 1.
    Warning,
    /// PMS level 2.
    Info,
    /// PMS level 3.
    Debug,
}

/// One line for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Severity.
    pub level: LogLevel,
    /// Text without line end.
    pub message: String,
}

/// A new state and, when it is an end, why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateChange {
    /// The state entered.
    pub state: SessionState,
    /// Reason of `failed` and `cancelled`.
    pub problem: Option<Problem>,
}

/// One event of the worker's stream for the mount (`GET /events`). After `Hello` the client lists
/// `GET /sessions` and `GET /sessions/{id}/files` for what it missed; events that overlap with the
/// listing are harmless, since files do not change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[expect(
    clippy::large_enum_variant,
    reason = "segments are most of what is sent"
)]
pub enum WorkerEvent {
    /// First event of each connection. A new `boot` id means that all older sessions are gone.
    Hello {
        /// The worker.
        worker: Id,
        /// Changes with each start of the worker.
        boot: Id,
    },
    /// A session was made or changed its state.
    Session(Box<SessionStatus>),
    /// A file of a session is finished.
    Segment {
        /// Which session.
        session: Id,
        /// Which file.
        segment: Segment,
    },
    /// A session and its files are gone.
    Ended {
        /// Which session.
        session: Id,
    },
}
