//! The short job of the founding document: `input` / `output` / `arguments`. Accepted by the same
//! route and turned into a [`super::JobSpec`] by [`ShortJob::into_spec`].

use super::{
    CodecSpec, ForcedKeys, FramePolicy, InputSpec, JobSpec, LeasePolicy, Location, OutputSpec,
    Packaging, Source, StreamSelector, StreamSpec, TimePolicy,
};
use crate::{FileName, Id, Kind, Problem, secret, segment::MediaKind};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Segment length where the job names none, seconds.
const SEGMENT_SECONDS: f64 = 4.0;
/// x264/x265 quality where the job names neither bit rate nor quality.
const QUALITY: &str = "21";

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
#[derive(Clone, PartialEq, Serialize, Deserialize)]
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

impl fmt::Debug for ShortInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShortInput")
            .field("kind", &self.kind)
            .field("path", &self.path)
            .field("url", &self.url.as_deref().map(secret::bare))
            .finish()
    }
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

impl ShortJob {
    /// The same job in full. Video is fitted into `resolution` with its shape kept and even sides,
    /// keys are forced on the segment grid, audio becomes 48 kHz. The job runs without an owner.
    /// Errors: `InvalidArgument` and `Unsupported`, with the field.
    pub fn into_spec(self) -> Result<JobSpec, Problem> {
        let seconds = self.output.segment_duration.unwrap_or(SEGMENT_SECONDS);
        if !(0.5..=60.0).contains(&seconds) {
            return Err(invalid(
                "output.segment_duration",
                "a segment may be 0.5 to 60 seconds long",
            ));
        }
        let arguments = self.arguments;
        let mut graphs = Vec::new();
        let streams = vec![
            video_stream(&arguments, seconds, &mut graphs)?,
            audio_stream(&arguments)?,
        ];
        Ok(JobSpec {
            api_version: crate::API_VERSION,
            job_id: self.job_id,
            inputs: vec![InputSpec {
                locations: vec![self.input.location()?],
                seek_us: arguments.seek.map(seek_us).transpose()?,
                accurate_seek: true,
                probe_size: None,
                analyze_duration_us: None,
                decoders: Vec::new(),
            }],
            graphs,
            outputs: vec![OutputSpec {
                packaging: packaging(&self.output.kind, seconds)?,
                streams,
                muxer_options: Vec::new(),
            }],
            time: TimePolicy {
                copyts: true,
                start_at_zero: true,
                frames: FramePolicy::CfrFromZero,
            },
            lease: LeasePolicy::None,
            hw_accel: arguments.hw_accel,
            burn_in: Vec::new(),
            fonts: Vec::new(),
            resume: None,
            argv: Vec::new(),
        })
    }
}

fn invalid(field: &str, detail: impl Into<String>) -> Problem {
    Problem::new(Kind::InvalidArgument, detail).at(field)
}

fn unsupported(field: &str, detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Unsupported, detail).at(field)
}

impl ShortInput {
    fn location(self) -> Result<Location, Problem> {
        match (self.kind.as_str(), self.path, self.url) {
            ("file", Some(path), None) if !path.is_empty() => Ok(Location::Path { path }),
            ("file", ..) => Err(invalid(
                "input.path",
                "an input of type `file` has a `path`",
            )),
            ("url" | "http", None, Some(url)) if url.starts_with("http://") => {
                Ok(Location::Url { url })
            }
            ("url" | "http", None, Some(_)) => {
                Err(unsupported("input.url", "only `http://` URLs can be read"))
            }
            ("url" | "http", ..) => Err(invalid("input.url", "an input of type `url` has a `url`")),
            (other, ..) => Err(unsupported(
                "input.type",
                format!("`{other}` is no input type: use `file` or `url`"),
            )),
        }
    }
}

fn packaging(kind: &str, segment_seconds: f64) -> Result<Packaging, Problem> {
    match kind {
        "hls" => Ok(Packaging::Hls {
            segment_seconds,
            first_number: 0,
            media_name: "media-%05d.ts".to_owned(),
            playlist_name: playlist_name(),
        }),
        "dash" => Ok(Packaging::Dash {
            segment_seconds,
            first_number: 1,
            tolerance_seconds: 0.0,
            init_name: "init-stream$RepresentationID$.m4s".to_owned(),
            media_name: "chunk-stream$RepresentationID$-$Number%05d$.m4s".to_owned(),
        }),
        other => Err(unsupported(
            "output.type",
            format!("`{other}` is no output type: use `hls` or `dash`"),
        )),
    }
}

fn playlist_name() -> FileName {
    "index.m3u8"
        .parse()
        .expect("this text keeps the rule of file names")
}

fn video_stream(
    arguments: &ShortArguments,
    seconds: f64,
    graphs: &mut Vec<String>,
) -> Result<StreamSpec, Problem> {
    let first = |media| Source::Stream {
        input: 0,
        select: StreamSelector::Kind {
            media,
            nth: Some(0),
        },
        optional: false,
    };
    let codec = arguments.video_codec.as_deref().unwrap_or("h264");
    if codec == "copy" {
        let encoding = [
            ("resolution", arguments.resolution.is_some()),
            ("framerate", arguments.framerate.is_some()),
            ("video_bitrate", arguments.video_bitrate.is_some()),
            ("quality", arguments.quality.is_some()),
        ];
        if let Some((name, _)) = encoding.iter().find(|(_, given)| *given) {
            return Err(invalid(
                &format!("arguments.{name}"),
                "copied video keeps its picture; choose a video_codec to change it",
            ));
        }
        return Ok(StreamSpec {
            source: first(MediaKind::Video),
            codec: CodecSpec::Copy { before_start: true },
            metadata: Vec::new(),
            forced_keys: None,
            frame_rate: None,
        });
    }
    let encoder = match codec {
        "h264" | "avc" => "libx264",
        "hevc" | "h265" => "libx265",
        other => other,
    };
    let scale = match &arguments.resolution {
        Some(text) => {
            let (width, height) = resolution(text)?;
            format!(
                "scale=w={width}:h={height}:force_original_aspect_ratio=decrease:\
                 force_divisible_by=2"
            )
        }
        None => "scale=w=trunc(iw/2)*2:h=trunc(ih/2)*2".to_owned(),
    };
    graphs.push(format!("[0:v:0]{scale}[v]"));
    let preset = arguments.preset.as_deref().unwrap_or("veryfast");
    let mut options = vec![("preset".to_owned(), preset.to_owned())];
    match (&arguments.video_bitrate, arguments.quality) {
        (Some(_), Some(_)) => {
            return Err(invalid(
                "arguments.quality",
                "give a quality or a video_bitrate, not both",
            ));
        }
        (Some(text), None) => {
            let bits = bit_rate(text).ok_or_else(|| {
                invalid(
                    "arguments.video_bitrate",
                    format!("`{text}` is no bit rate like 4M"),
                )
            })?;
            options.push(("b".to_owned(), bits.to_string()));
            options.push(("maxrate".to_owned(), bits.to_string()));
            options.push(("bufsize".to_owned(), (2 * bits).to_string()));
        }
        (None, Some(quality)) if quality <= 51 => {
            options.push(("crf".to_owned(), quality.to_string()));
        }
        (None, Some(quality)) => {
            return Err(invalid(
                "arguments.quality",
                format!("{quality} is not between 0 (best) and 51"),
            ));
        }
        (None, None) => options.push(("crf".to_owned(), QUALITY.to_owned())),
    }
    Ok(StreamSpec {
        source: Source::Graph {
            label: "v".to_owned(),
        },
        codec: CodecSpec::Encode {
            encoder: encoder.to_owned(),
            options,
        },
        metadata: Vec::new(),
        forced_keys: Some(ForcedKeys::Every { seconds }),
        frame_rate: arguments.framerate.clone().map(frame_rate).transpose()?,
    })
}

/// The audio stream; a title without sound is no error.
fn audio_stream(arguments: &ShortArguments) -> Result<StreamSpec, Problem> {
    let codec = match arguments.audio_codec.as_deref().unwrap_or("aac") {
        "copy" => CodecSpec::Copy { before_start: true },
        named => {
            let encoder = match named {
                "opus" => "libopus",
                "mp3" => "libmp3lame",
                other => other,
            };
            let channels = arguments.audio_channels.unwrap_or(2);
            if !matches!(channels, 1 | 2 | 6 | 8) {
                return Err(unsupported(
                    "arguments.audio_channels",
                    format!("{channels} channels: 1, 2, 6 and 8 are possible"),
                ));
            }
            let mut options = vec![
                ("ac".to_owned(), channels.to_string()),
                ("ar".to_owned(), "48000".to_owned()),
            ];
            if let Some(text) = &arguments.audio_bitrate {
                let bits = bit_rate(text).ok_or_else(|| {
                    invalid(
                        "arguments.audio_bitrate",
                        format!("`{text}` is no bit rate like 128k"),
                    )
                })?;
                options.push(("b".to_owned(), bits.to_string()));
            }
            CodecSpec::Encode {
                encoder: encoder.to_owned(),
                options,
            }
        }
    };
    Ok(StreamSpec {
        source: Source::Stream {
            input: 0,
            select: StreamSelector::Kind {
                media: MediaKind::Audio,
                nth: Some(arguments.audio_stream.unwrap_or(0)),
            },
            optional: arguments.audio_stream.is_none(),
        },
        codec,
        metadata: Vec::new(),
        forced_keys: None,
        frame_rate: None,
    })
}

fn seek_us(seconds: f64) -> Result<i64, Problem> {
    // A year; beyond it lies no title.
    if !(0.0..=31_536_000.0).contains(&seconds) {
        return Err(invalid(
            "arguments.seek",
            "the start must be a time inside the title",
        ));
    }
    Ok((seconds * 1e6).round() as i64)
}

fn resolution(text: &str) -> Result<(u32, u32), Problem> {
    text.split_once(['x', 'X'])
        .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
        .filter(|(width, height)| (16..=16_384).contains(width) && (16..=16_384).contains(height))
        .ok_or_else(|| {
            invalid(
                "arguments.resolution",
                format!("`{text}` is no size like 1920x1080"),
            )
        })
}

/// Bits per second of `4M`, `128k`, `2.5M` or `800000`.
fn bit_rate(text: &str) -> Option<u64> {
    let (number, factor) = match text.trim_end_matches(['b', 'B']) {
        t if t.ends_with(['k', 'K']) => (&t[..t.len() - 1], 1e3),
        t if t.ends_with(['m', 'M']) => (&t[..t.len() - 1], 1e6),
        t => (t, 1.0),
    };
    let bits = number.parse::<f64>().ok()? * factor;
    (1_000.0..=1e9)
        .contains(&bits)
        .then_some(bits.round() as u64)
}

/// Frames per second as a number or a fraction.
fn frame_rate(text: String) -> Result<String, Problem> {
    let value = match text.split_once('/') {
        Some((over, under)) => over
            .parse::<f64>()
            .and_then(|over| Ok(over / under.parse::<f64>()?)),
        None => text.parse::<f64>(),
    };
    match value {
        Ok(value) if (1.0..=300.0).contains(&value) => Ok(text),
        _ => Err(invalid(
            "arguments.framerate",
            format!("`{text}` is no frame rate like 25 or 24000/1001"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::HwAccel;
    use serde_json::{Value, json};

    /// The founding document's example, as it stands there.
    fn example() -> Value {
        let text = include_str!("../../../../tests/fixtures/founding-job.json");
        serde_json::from_str(text).unwrap()
    }

    fn convert(job: Value) -> Result<JobSpec, Problem> {
        serde_json::from_value::<ShortJob>(job).unwrap().into_spec()
    }

    #[test]
    fn the_founding_example_becomes_a_full_job() {
        let spec = convert(example()).unwrap();
        assert_eq!(spec.hw_accel, HwAccel::Qsv);
        assert_eq!(spec.lease, LeasePolicy::None);
        assert_eq!(
            spec.graphs,
            [
                "[0:v:0]scale=w=1920:h=1080:force_original_aspect_ratio=decrease:force_divisible_by=2[v]"
            ]
        );
        let Packaging::Hls {
            segment_seconds,
            media_name,
            playlist_name,
            ..
        } = &spec.outputs[0].packaging
        else {
            panic!("{:?}", spec.outputs[0].packaging);
        };
        assert_eq!(*segment_seconds, 4.0);
        assert_eq!(media_name, "media-%05d.ts");
        assert_eq!(playlist_name.as_str(), "index.m3u8");
        let streams = &spec.outputs[0].streams;
        assert_eq!(
            streams[0].forced_keys,
            Some(ForcedKeys::Every { seconds: 4.0 })
        );
        let CodecSpec::Encode { encoder, options } = &streams[0].codec else {
            panic!("{:?}", streams[0].codec);
        };
        assert_eq!(encoder, "libx264");
        assert!(options.contains(&("b".to_owned(), "4000000".to_owned())));
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<JobSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn refusals_name_the_field() {
        for (pointer, value, field) in [
            ("/input/type", json!("tape"), "input.type"),
            ("/input/path", Value::Null, "input.path"),
            ("/output/type", json!("flv"), "output.type"),
            (
                "/output/segment_duration",
                json!(0),
                "output.segment_duration",
            ),
            (
                "/output/segment_duration",
                json!(1e9),
                "output.segment_duration",
            ),
            (
                "/arguments/resolution",
                json!("big"),
                "arguments.resolution",
            ),
            (
                "/arguments/resolution",
                json!("0x0"),
                "arguments.resolution",
            ),
            (
                "/arguments/video_bitrate",
                json!("fast"),
                "arguments.video_bitrate",
            ),
            (
                "/arguments/video_bitrate",
                json!("-4M"),
                "arguments.video_bitrate",
            ),
            (
                "/arguments/video_codec",
                json!("copy"),
                "arguments.resolution",
            ),
        ] {
            let mut job = example();
            *job.pointer_mut(pointer).unwrap() = value;
            let problem = convert(job).unwrap_err();
            assert_eq!(problem.field.as_deref(), Some(field), "{problem}");
        }
        for (name, value) in [
            ("seek", json!(-1.0)),
            ("framerate", json!("0/0")),
            ("quality", json!(20)),
            ("audio_channels", json!(3)),
            ("audio_bitrate", json!("nan")),
        ] {
            let mut job = example();
            job["arguments"][name] = value;
            let problem = convert(job).unwrap_err();
            assert_eq!(
                problem.field.as_deref(),
                Some(&*format!("arguments.{name}")),
                "{problem}"
            );
        }
    }

    #[test]
    fn bit_rates() {
        assert_eq!(bit_rate("4M"), Some(4_000_000));
        assert_eq!(bit_rate("2.5m"), Some(2_500_000));
        assert_eq!(bit_rate("128k"), Some(128_000));
        assert_eq!(bit_rate("800000"), Some(800_000));
        for bad in ["", "M", "0", "-1M", "inf", "NaN", "1e30M", "4G"] {
            assert_eq!(bit_rate(bad), None, "{bad}");
        }
    }
}
