//! The short job of the founding document: `input` / `output` / `arguments`. Accepted by the same
//! route and turned into a [`super::JobSpec`].

use crate::Id;
use serde::{Deserialize, Serialize};

/// A job in short form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortJob {
    /// Chosen by the sender; becomes the session's id too.
    pub job_id: Id,
    /// What to read.
    pub input: ShortInput,
    /// What to make.
    pub output: ShortOutput,
    /// How.
    #[serde(default)]
    pub arguments: ShortArguments,
}

/// Input of a short job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortInput {
    /// `file` (with `path`) or `url`/`http` (with `url`).
    #[serde(rename = "type")]
    pub kind: String,
    /// Absolute path.
    #[serde(default)]
    pub path: Option<String>,
    /// An `http:` URL.
    #[serde(default)]
    pub url: Option<String>,
}

/// Output of a short job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortOutput {
    /// `hls` (MPEG-TS `media-%05d.ts` and `index.m3u8`) or `dash` (fMP4 as Plex names it).
    #[serde(rename = "type")]
    pub kind: String,
    /// Accepted and not used: files appear in the mount under `sessions/<job id>/`.
    #[serde(default)]
    pub path: Option<String>,
    /// Seconds; default 4.
    #[serde(default)]
    pub segment_duration: Option<f64>,
}

/// How to encode; all optional.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShortArguments {
    /// `h264` (default), `hevc`, `copy` or an encoder's name.
    #[serde(default)]
    pub video_codec: Option<String>,
    /// `aac` (default), `ac3`, `eac3`, `opus`, `mp3`, `flac`, `copy`.
    #[serde(default)]
    pub audio_codec: Option<String>,
    /// Like `4M`.
    #[serde(default)]
    pub video_bitrate: Option<String>,
    /// Like `128k`.
    #[serde(default)]
    pub audio_bitrate: Option<String>,
    /// `1920x1080`; the picture is fitted inside, its shape kept.
    #[serde(default)]
    pub resolution: Option<String>,
    /// Device wished for.
    #[serde(default)]
    pub hw_accel: super::HwAccel,
    /// x264/x265 quality instead of a bit rate.
    #[serde(default)]
    pub quality: Option<u32>,
    /// Encoder preset, default `veryfast`.
    #[serde(default)]
    pub preset: Option<String>,
    /// Start in seconds.
    #[serde(default)]
    pub seek: Option<f64>,
    /// Frames per second as text.
    #[serde(default)]
    pub framerate: Option<String>,
    /// Which audio stream, counted from 0 among the audio streams.
    #[serde(default)]
    pub audio_stream: Option<u32>,
    /// Audio channels, default 2.
    #[serde(default)]
    pub audio_channels: Option<u32>,
}
