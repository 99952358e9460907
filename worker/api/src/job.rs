//! A job, typed: what Plex's command line says, without ffmpeg's syntax around it.
//!
//! Times are microseconds on the title's timeline unless a field says otherwise. Option values stay
//! texts as they stood in the argv (`20000k`, `23.975999999999999`), because libav reads them itself.

use crate::{FileName, Id, secret};
use serde::{Deserialize, Serialize};
use std::fmt;

mod short;
pub use short::{ShortArguments, ShortInput, ShortJob, ShortOutput};

/// Everything a worker needs to make the outputs of one job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// [`crate::API_VERSION`] of the sender.
    pub api_version: u32,
    /// Chosen by the sender; the same id with the same body is the same job.
    pub job_id: Id,
    /// Inputs, in the order that filter labels and maps count them.
    pub inputs: Vec<InputSpec>,
    /// Filter graphs as in `-filter_complex`: inputs `[0:1]` or `[0:#0x01]`, labels unique over all.
    #[serde(default)]
    pub graphs: Vec<String>,
    /// `-map_inlineass`: the subtitle streams that the graphs' `inlineass` filters draw, in the
    /// order in which the filters stand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub burn_in: Vec<BurnSource>,
    /// Fonts of the Plex host that a graph names, up to [`MAX_INLINE_BYTES`] together with the side
    /// inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fonts: Vec<FontFile>,
    /// Outputs; each has its own packaging.
    pub outputs: Vec<OutputSpec>,
    /// How input times become output times.
    pub time: TimePolicy,
    /// Who keeps the job alive.
    #[serde(default)]
    pub lease: LeasePolicy,
    /// Device wished for.
    #[serde(default)]
    pub hw_accel: HwAccel,
    /// Where an earlier worker stopped; `None` for a fresh job.
    #[serde(default)]
    pub resume: Option<ResumeRecord>,
    /// The raw command line, for logs only.
    #[serde(default)]
    pub argv: Vec<String>,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputSpec {
    /// Where its bytes may be had; the worker takes the first that opens.
    pub locations: Vec<Location>,
    /// `-ss` before `-i`.
    #[serde(default)]
    pub seek_us: Option<i64>,
    /// False with `-noaccurate_seek`: copied video starts at the key frame at or before the seek.
    #[serde(default = "yes")]
    pub accurate_seek: bool,
    /// `-probesize`, bytes; an upper bound, the worker may read less.
    #[serde(default)]
    pub probe_size: Option<u64>,
    /// `-analyzeduration`, microseconds; an upper bound.
    #[serde(default)]
    pub analyze_duration_us: Option<i64>,
    /// `-codec:N` before `-i`; hints only, the codec id of the stream decides.
    #[serde(default)]
    pub decoders: Vec<DecoderHint>,
}

fn yes() -> bool {
    true
}

/// Where the bytes of an input are.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Location {
    /// A path as the Plex host sees it; the worker applies its path maps and media roots.
    Path {
        /// Absolute path.
        path: String,
    },
    /// An `http:` URL that answers byte ranges.
    Url {
        /// The URL; may hold a signature and is never logged whole.
        url: String,
    },
    /// A small side file carried with the job (`temp-0.srt`, a font).
    Inline {
        /// File name, for the demuxer's guess.
        name: FileName,
        /// Content, base64 (RFC 4648 with padding).
        #[serde(with = "base64_bytes")]
        data: Vec<u8>,
    },
}

/// Without what a URL's query signs, and without content.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Path { path } => f.debug_struct("Path").field("path", path).finish(),
            Location::Url { url } => f
                .debug_struct("Url")
                .field("url", &secret::bare(url))
                .finish(),
            Location::Inline { name, data } => f
                .debug_struct("Inline")
                .field("name", name)
                .field("bytes", &data.len())
                .finish(),
        }
    }
}

/// Most bytes that all [`Location::Inline`] of a job may carry together.
pub const MAX_INLINE_BYTES: usize = 16 << 20;

/// A decoder named in the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderHint {
    /// Which stream of the input.
    pub stream: StreamSelector,
    /// Name as Plex writes it, e.g. `eac3_eae`.
    pub name: String,
}

/// Picks streams of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case", deny_unknown_fields)]
pub enum StreamSelector {
    /// Position in the container: `0:1`.
    Index {
        /// Position.
        index: u32,
    },
    /// Id in the container: `0:#0x01`.
    Id {
        /// PID or track id; where the demuxer sets none, the position is meant.
        id: u32,
    },
    /// By kind: `0:s:0` is the first subtitle stream, `0:t` all attachments.
    Kind {
        /// Kind.
        media: crate::segment::MediaKind,
        /// Which of that kind, counted from 0; `None` for all.
        nth: Option<u32>,
    },
}

/// A subtitle stream that is drawn on the picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BurnSource {
    /// Which input.
    pub input: u32,
    /// Which of its streams.
    pub select: StreamSelector,
}

/// A font that travels with the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FontFile {
    /// Where it lies on the Plex host, as the graph writes it.
    pub path: String,
    /// Content, base64 (RFC 4648 with padding).
    #[serde(with = "base64_bytes")]
    pub data: Vec<u8>,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutputSpec {
    /// File layout and cut.
    pub packaging: Packaging,
    /// Streams in output order.
    pub streams: Vec<StreamSpec>,
    /// Options of the (inner) muxer, e.g. `max_delay`, `output_ts_offset`, `live`. The worker
    /// refuses names that it does not know to be harmless.
    #[serde(default)]
    pub muxer_options: Vec<(String, String)>,
}

/// How an output becomes files. Name patterns hold one `%d` or `%0Nd` for the number and, for DASH,
/// `$RepresentationID$` and `$Number%0Nd$`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Packaging {
    /// Fragmented MP4, one file per stream and number (PROTOCOL 7.1).
    Dash {
        /// `-seg_duration`, seconds.
        segment_seconds: f64,
        /// `-skip_to_segment`: number of the first segment.
        first_number: u32,
        /// `-time_delta`, seconds.
        tolerance_seconds: f64,
        /// `-init_seg_name`.
        init_name: String,
        /// `-media_seg_name`.
        media_name: String,
    },
    /// All streams muxed into each file (PROTOCOL 7.2).
    Segment {
        /// Inner muxer.
        container: Container,
        /// `-segment_time`, seconds.
        segment_seconds: f64,
        /// `-segment_start_number`.
        first_number: u32,
        /// `-segment_time_delta`, seconds.
        tolerance_seconds: f64,
        /// Pattern of the output name.
        media_name: String,
        /// `-segment_header_filename`; with it segments carry no header.
        header_name: Option<FileName>,
    },
    /// MPEG-TS segments and a playlist; the short form's `hls`.
    Hls {
        /// Segment length, seconds.
        segment_seconds: f64,
        /// Number of the first segment.
        first_number: u32,
        /// Pattern of segment names.
        media_name: String,
        /// Name of the playlist.
        playlist_name: FileName,
    },
}

impl Packaging {
    /// Patterns and fixed names of all files it makes.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Packaging::Dash {
                init_name,
                media_name,
                ..
            } => vec![init_name, media_name],
            Packaging::Segment {
                media_name,
                header_name,
                ..
            } => {
                let mut names = vec![media_name.as_str()];
                names.extend(header_name.as_ref().map(FileName::as_str));
                names
            }
            Packaging::Hls {
                media_name,
                playlist_name,
                ..
            } => vec![media_name, playlist_name.as_str()],
        }
    }
}

/// Inner muxer of [`Packaging::Segment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Container {
    /// MPEG transport stream.
    MpegTs,
    /// Matroska clusters.
    Matroska,
    /// ASS text.
    Ass,
    /// SubRip text.
    Srt,
    /// WebVTT text.
    WebVtt,
}

impl Container {
    /// True for subtitles as text.
    pub fn is_text(self) -> bool {
        match self {
            Container::MpegTs | Container::Matroska => false,
            Container::Ass | Container::Srt | Container::WebVtt => true,
        }
    }
}

/// One stream of an output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSpec {
    /// Where it comes from.
    pub source: Source,
    /// Copy or encode.
    pub codec: CodecSpec,
    /// `-metadata:s:N`, in order.
    #[serde(default)]
    pub metadata: Vec<(String, String)>,
    /// `-force_key_frames:N`; encoded video only.
    #[serde(default)]
    pub forced_keys: Option<ForcedKeys>,
    /// `-r:N` as text; encoded video only.
    #[serde(default)]
    pub frame_rate: Option<String>,
}

/// Source of an output stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// `-map 0:1`.
    Stream {
        /// Which input.
        input: u32,
        /// Which stream or streams of it.
        select: StreamSelector,
        /// `-map 0:t?`: no error when there is none.
        #[serde(default)]
        optional: bool,
    },
    /// `-map [1]`: a label that a graph leaves open.
    Graph {
        /// Label without brackets.
        label: String,
    },
}

/// What is done to a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum CodecSpec {
    /// Packets pass unchanged.
    Copy {
        /// `-copypriorss` (default true): keep packets before the start time.
        #[serde(default = "yes")]
        before_start: bool,
    },
    /// Decoded and encoded.
    Encode {
        /// Encoder as Plex names it (`libx264`, `h264_nvenc`, `aac`, ...): an intent; the worker
        /// takes the encoder of that codec on the device chosen.
        encoder: String,
        /// Its options without stream index, in order: `("crf", "16")`, `("b", "256k")`.
        options: Vec<(String, String)>,
    },
}

/// Where key frames are forced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case", deny_unknown_fields)]
pub enum ForcedKeys {
    /// First frame at or after each multiple of this many seconds of the title.
    Every {
        /// Interval in seconds.
        seconds: f64,
    },
    /// First frame at or after each of these title times, seconds, ascending.
    Times {
        /// Times in seconds.
        seconds: Vec<f64>,
    },
}

/// How input times become output times (PROTOCOL 4, 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimePolicy {
    /// `-copyts`: output times are title times also after a seek.
    pub copyts: bool,
    /// `-start_at_zero`: the container's start time is subtracted.
    pub start_at_zero: bool,
    /// What happens to the frame rate of encoded video.
    pub frames: FramePolicy,
}

/// Frame rate policy. The grid of the first two is n / fps, counted from the title's zero (P7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FramePolicy {
    /// Constant rate; what is missing between the start of the job and the first picture is filled.
    CfrFromZero,
    /// Constant rate from the first picture on.
    CfrFromFirst,
    /// Pictures keep their times; two at one time become one.
    Vfr,
    /// Pictures keep their times.
    Passthrough,
}

/// Who keeps a running job alive (P5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LeasePolicy {
    /// Nobody: the job runs to its end. The short form's default.
    #[default]
    None,
    /// An owner: unheard for `pause_after_ms` the child is held, for `free_after_ms` the session
    /// ends. Heard is: an open `?lease` event connection that takes its heartbeats together with
    /// `PUT /sessions/{id}/lease`, or any poll of `/status/{id}` without such a connection.
    Owner {
        /// Default 5000.
        pause_after_ms: u64,
        /// Default 30000.
        free_after_ms: u64,
    },
}

impl LeasePolicy {
    /// The cartridge's: 5 s and 30 s.
    pub const CARTRIDGE: LeasePolicy = LeasePolicy::Owner {
        pause_after_ms: 5_000,
        free_after_ms: 30_000,
    };
}

/// Device wished for; the worker may take another and says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HwAccel {
    /// Best of what was proved at start.
    #[default]
    Auto,
    /// NVIDIA.
    #[serde(alias = "nvenc", alias = "nvdec")]
    Cuda,
    /// Intel and AMD on Linux.
    Vaapi,
    /// Intel Quick Sync.
    Qsv,
    /// CPU only.
    #[serde(alias = "software")]
    None,
}

/// Where an earlier worker stopped, so that another goes on seamlessly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeRecord {
    /// Per stream of the first output.
    pub streams: Vec<ResumeStream>,
}

/// One stream of a [`ResumeRecord`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumeStream {
    /// Number of the first segment wanted.
    pub number: u32,
    /// Its exact pts in ticks of `time_scale`.
    pub pts: i64,
    /// Ticks per second.
    pub time_scale: u32,
    /// Digest of the init segment that the client has.
    pub init: crate::segment::Digest,
}

mod base64_bytes {
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD
            .decode(String::deserialize(from)?)
            .map_err(D::Error::custom)
    }
}
