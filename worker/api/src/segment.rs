//! A finished file of a session. What is described here is complete and never changes its bytes,
//! except [`SegmentKind::Playlist`]. A segment that a worker dropped and made again is another file
//! under the same name: its digest tells the makings apart.

use crate::{FileName, Id, checksum::Checksum};
use serde::{Deserialize, Serialize};

/// Identity of a file across programs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SegmentKey {
    /// Session that made it.
    pub session: Id,
    /// Its name there.
    pub name: FileName,
}

/// What part of an output a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// fMP4 init segment of one rendition.
    Init,
    /// Matroska part before the first cluster, or the header of a subtitle output.
    Header,
    /// Numbered media segment.
    Media,
    /// HLS playlist; mutable, each publication replaces the one before.
    Playlist,
}

/// SHA-256 of a file, 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

impl Digest {
    /// Digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Digest::from_sum(&sha2::Sha256::digest(bytes))
    }

    pub(crate) fn from_sum(sum: &[u8]) -> Self {
        Digest(sum.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The strong entity tag (RFC 9110 8.8.3) under which a worker sends the bytes of this digest.
    /// `If-Match` with it asks for these and no other making of the file.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

/// Title times of a segment as Plex's CSV list wants them (PROTOCOL 6.7), microseconds, without
/// any `output_ts_offset` or `max_delay` shift of the packets inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowTimes {
    /// First presentation time of the segment.
    pub start_us: i64,
    /// Where the next segment starts, or the end of the last packet.
    pub end_us: i64,
    /// End of the last audio packet; `None` when the output has no audio.
    pub audio_end_us: Option<i64>,
    /// End of the last video packet; `None` when the output has no video.
    pub video_end_us: Option<i64>,
}

/// Facts of a rendition that a manifest names; sent with its [`SegmentKind::Init`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rendition {
    /// `video`, `audio` or `subtitle`.
    pub media: MediaKind,
    /// RFC 6381 codecs string, e.g. `avc1.64001f`, `mp4a.40.2`, `hev1`.
    pub codecs: String,
    /// Average bits per second the encoder or source names; 0 when unknown.
    pub bandwidth: u64,
    /// Ticks per second of [`Segment::pts`] and [`Segment::duration`].
    pub time_scale: u32,
    /// Language tag, when the job or source names one.
    pub language: Option<String>,
    /// Width in pixels; video only.
    pub width: Option<u32>,
    /// Height in pixels; video only.
    pub height: Option<u32>,
    /// Sample aspect ratio, numerator and denominator; video only.
    pub sar: Option<(u32, u32)>,
    /// Frame rate, numerator and denominator; video only.
    pub frame_rate: Option<(u32, u32)>,
    /// Sample rate in Hz; audio only.
    pub sample_rate: Option<u32>,
    /// Channel count; audio only.
    pub channels: Option<u32>,
}

/// Kind of an elementary stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// Moving pictures.
    Video,
    /// Sound.
    Audio,
    /// Text or picture subtitles.
    Subtitle,
    /// Fonts and other attached files.
    Attachment,
    /// Data streams and what libav calls unknown.
    Data,
}

/// One finished file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Segment {
    /// Index into [`crate::JobSpec::outputs`].
    pub output: u32,
    /// DASH representation (= position of the stream in its output); `None` when the output muxes
    /// all its streams into one file.
    pub rendition: Option<u32>,
    /// Which part it is.
    pub kind: SegmentKind,
    /// Segment number as it stands in the name; `None` for init, header and playlist.
    pub number: Option<u32>,
    /// Name in the session.
    pub name: FileName,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// What the bytes are checked by on their way; `None` from a worker that does not tell it, then
    /// they are checked by `digest`.
    #[serde(default)]
    pub checksum: Option<Checksum>,
    /// Ticks per second of `pts` and `duration`.
    pub time_scale: u32,
    /// Earliest presentation time on the title's timeline, in ticks; 0 for init and header.
    pub pts: i64,
    /// Length in ticks; 0 for init and header.
    pub duration: i64,
    /// Row of the CSV list; media of muxed and subtitle outputs.
    pub times: Option<RowTimes>,
    /// Sent with [`SegmentKind::Init`] only.
    pub rendition_info: Option<Rendition>,
}
