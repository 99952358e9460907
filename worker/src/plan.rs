//! What a job asks for, as operations on one device.
//!
//! PMS writes a command line for the hardware of its own host; that is read as intent: `scale_cuda`
//! means "scale", `h264_vaapi` means "H.264". [`operation::read`] gives the operations of a video
//! line, and a planner writes them as [`Stage`]s for one device. Today every plan is for software.

mod audio;
pub mod device;
pub mod graph;
pub mod operation;
mod options;
mod software;
mod values;

use crate::libav;
use operation::{BurnText, Operation};
use plexbeam_api::{
    API_VERSION, JobSpec, Kind, Problem,
    job::{CodecSpec, Location, MAX_INLINE_BYTES, Packaging, Source, StreamSelector},
    segment::MediaKind,
};

/// What a planner must know of a video stream before its first picture is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoSource {
    /// Bits per component.
    pub depth: u32,
    /// What its code values mean.
    pub light: Light,
}

/// What a video's code values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Light {
    /// Marked SDR, or 8 bit and not marked.
    Sdr,
    /// Marked PQ (HDR10) or HLG.
    Hdr,
    /// More than 8 bit and not marked.
    Unmarked,
}

/// A step between decoder and encoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Filter text for libav with one input and one output.
    Filters(String),
    /// Text subtitles drawn on pictures in memory, of 4:2:0 in 8 or 10 bits.
    Text(Box<BurnText>),
    /// Picture subtitles drawn on such pictures.
    Pictures(Box<Pictures>),
}

/// Picture subtitles as [`Stage::Pictures`] draws them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pictures {
    /// Which input of the job.
    pub input: u32,
    /// Which of its streams.
    pub select: StreamSelector,
    /// Filter text for the canvas; empty for none.
    pub chain: String,
    /// Left edge: an expression of libav's `overlay` in `W`, `H`, `w`, `h`.
    pub x: String,
    /// Upper edge, likewise.
    pub y: String,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stage::Filters(text) => f.write_str(text),
            Stage::Text(_) => f.write_str("(text)"),
            Stage::Pictures(_) => f.write_str("(pictures)"),
        }
    }
}

/// A codec that outputs may be encoded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderPlan {
    /// libav's encoder here.
    pub name: &'static str,
    /// Kind of stream it makes.
    pub media: MediaKind,
}

const ENCODERS: &[(EncoderPlan, &[&str])] = &[
    (
        EncoderPlan {
            name: "libx264",
            media: MediaKind::Video,
        },
        &[
            "libx264",
            "h264",
            "h264_nvenc",
            "h264_vaapi",
            "h264_qsv",
            "h264_mf",
            "h264_amf",
            "h264_videotoolbox",
            "libopenh264",
            "nvenc_h264",
        ],
    ),
    (
        EncoderPlan {
            name: "libx265",
            media: MediaKind::Video,
        },
        &[
            "libx265",
            "hevc",
            "h265",
            "hevc_nvenc",
            "hevc_vaapi",
            "hevc_qsv",
            "hevc_mf",
            "hevc_amf",
            "hevc_videotoolbox",
            "nvenc_hevc",
        ],
    ),
    (
        EncoderPlan {
            name: "aac",
            media: MediaKind::Audio,
        },
        &["aac", "aac_lc", "libfdk_aac", "aac_at", "aac_mf"],
    ),
    (
        EncoderPlan {
            name: "ac3",
            media: MediaKind::Audio,
        },
        &["ac3", "ac3_eae", "ac3_fixed"],
    ),
    (
        EncoderPlan {
            name: "eac3",
            media: MediaKind::Audio,
        },
        &["eac3", "eac3_eae", "truehd_eae"],
    ),
    (
        EncoderPlan {
            name: "libopus",
            media: MediaKind::Audio,
        },
        &["libopus", "opus"],
    ),
    (
        EncoderPlan {
            name: "libmp3lame",
            media: MediaKind::Audio,
        },
        &["libmp3lame", "mp3"],
    ),
    (
        EncoderPlan {
            name: "flac",
            media: MediaKind::Audio,
        },
        &["flac"],
    ),
    (
        EncoderPlan {
            name: "ass",
            media: MediaKind::Subtitle,
        },
        &["ass", "ssa"],
    ),
    (
        EncoderPlan {
            name: "srt",
            media: MediaKind::Subtitle,
        },
        &["srt", "subrip"],
    ),
    (
        EncoderPlan {
            name: "webvtt",
            media: MediaKind::Subtitle,
        },
        &["webvtt"],
    ),
];

/// The software encoder for what the job names.
pub fn encoder(requested: &str) -> Option<EncoderPlan> {
    ENCODERS
        .iter()
        .find(|(_, names)| names.contains(&requested))
        .map(|(plan, _)| *plan)
}

pub use audio::audio as software_audio;
/// Options for [`encoder`]'s choice, translated from what the job says for the one it names.
pub use options::{device_attempts, faster, translate as encoder_options};
pub use software::video as software_video;

/// Muxer options that the worker knows to be harmless.
const MUXER_OPTIONS: &[&str] = &[
    "max_delay",
    "output_ts_offset",
    "live",
    "avoid_negative_ts",
    "fflags",
    "flags",
    "ignore_readorder",
    "mpegts_flags",
    "mpegts_copyts",
    "individual_header_trailer",
    "cluster_time_limit",
    "cluster_size_limit",
    "strict",
    "map_metadata",
    "map_chapters",
    "flush_packets",
];

/// Most inputs, outputs and streams of one job.
const MAX_PARTS: usize = 64;

/// Says which codec, filter, option or packaging of a job this worker cannot do
/// ([`plexbeam_api::Kind::Unsupported`], with the field), without opening its inputs.
pub fn check(spec: &JobSpec) -> Result<(), Problem> {
    let invalid = |detail: String, field: &str| {
        Err(Problem::new(Kind::InvalidArgument, detail).at(field.to_owned()))
    };
    if spec.api_version != API_VERSION {
        return Err(Problem::new(
            Kind::Unsupported,
            format!(
                "the job speaks contract version {}, this worker {API_VERSION}; update the older one",
                spec.api_version
            ),
        )
        .at("api_version"));
    }
    if spec.inputs.is_empty() || spec.outputs.is_empty() {
        return invalid("a job needs an input and an output".to_owned(), "inputs");
    }
    let parts = spec.inputs.len()
        + spec.graphs.len()
        + spec
            .outputs
            .iter()
            .map(|o| 1 + o.streams.len())
            .sum::<usize>();
    if parts > MAX_PARTS {
        return Err(Problem::new(
            Kind::TooLarge,
            format!("a job may have at most {MAX_PARTS} inputs, graphs and streams"),
        ));
    }
    check_inputs(spec)?;
    if spec.resume.is_some() {
        return Err(Problem::new(
            Kind::Unsupported,
            "resuming another worker's job is not possible yet",
        )
        .at("resume"));
    }
    for (o, output) in spec.outputs.iter().enumerate() {
        check_packaging(&output.packaging, &format!("outputs[{o}].packaging"))?;
        for (key, value) in &output.muxer_options {
            if !MUXER_OPTIONS.contains(&key.as_str()) {
                return Err(Problem::new(
                    Kind::Unsupported,
                    format!("muxer option `{key}` is unknown"),
                )
                .at(format!("outputs[{o}].muxer_options")));
            }
            // A duration may be written with colons.
            if !value.split(':').all(values::is_word) {
                return Err(Problem::new(
                    Kind::Unsupported,
                    format!(
                        "muxer option `{key}`: `{}` is not possible",
                        values::shown(value)
                    ),
                )
                .at(format!("outputs[{o}].muxer_options")));
            }
        }
        if output.streams.is_empty() {
            return invalid(
                "an output needs a stream".to_owned(),
                &format!("outputs[{o}].streams"),
            );
        }
        for (s, stream) in output.streams.iter().enumerate() {
            let field = format!("outputs[{o}].streams[{s}]");
            let line = match &stream.source {
                Source::Stream { input, .. } => {
                    if *input as usize >= spec.inputs.len() {
                        return invalid(format!("there is no input {input}"), &field);
                    }
                    None
                }
                Source::Graph { label } => Some(label.as_str()),
            };
            check_codec(spec, &stream.codec, line, &field)?;
        }
    }
    check_side_outputs(spec)
}

/// Outputs behind the first are subtitles with names of their own (PROTOCOL 5).
fn check_side_outputs(spec: &JobSpec) -> Result<(), Problem> {
    let text = |packaging: &Packaging| matches!(packaging, Packaging::Segment { container, .. } if container.is_text());
    let mut names = Vec::new();
    for (o, output) in spec.outputs.iter().enumerate() {
        if (o > 0) != text(&output.packaging) {
            let what = match o {
                0 => "the first output must hold pictures or sound",
                _ => "a second output can only be segments of text subtitles",
            };
            return Err(Problem::new(Kind::Unsupported, what).at(format!("outputs[{o}].packaging")));
        }
        for name in output.packaging.names() {
            if names.contains(&name) {
                return Err(Problem::new(
                    Kind::InvalidArgument,
                    format!("two files of the job would be named `{name}`"),
                )
                .at(format!("outputs[{o}].packaging")));
            }
            names.push(name);
        }
        if o == 0 {
            continue;
        }
        for (s, stream) in output.streams.iter().enumerate() {
            if let CodecSpec::Encode { encoder: name, .. } = &stream.codec
                && encoder(name).is_some_and(|plan| plan.media != MediaKind::Subtitle)
            {
                return Err(Problem::new(
                    Kind::Unsupported,
                    format!("encoder `{name}` makes no subtitles"),
                )
                .at(format!("outputs[{o}].streams[{s}]")));
            }
        }
    }
    Ok(())
}

fn check_inputs(spec: &JobSpec) -> Result<(), Problem> {
    let mut inline: usize = spec.fonts.iter().map(|font| font.data.len()).sum();
    for (i, input) in spec.inputs.iter().enumerate() {
        if input.locations.is_empty() {
            return Err(
                Problem::new(Kind::InvalidArgument, "an input needs a location")
                    .at(format!("inputs[{i}].locations")),
            );
        }
        if input
            .seek_us
            .is_some_and(|t| !(0..=i64::from(u32::MAX) * 1_000_000).contains(&t))
        {
            return Err(
                Problem::new(Kind::InvalidArgument, "the seek lies outside any title")
                    .at(format!("inputs[{i}].seek_us")),
            );
        }
        for location in &input.locations {
            if let Location::Inline { data, .. } = location {
                inline += data.len();
            }
        }
    }
    if inline > MAX_INLINE_BYTES {
        return Err(Problem::new(
            Kind::TooLarge,
            format!("side inputs carry {inline} bytes; at most {MAX_INLINE_BYTES} are taken"),
        )
        .at("inputs"));
    }
    Ok(())
}

fn check_codec(
    spec: &JobSpec,
    codec: &CodecSpec,
    label: Option<&str>,
    field: &str,
) -> Result<(), Problem> {
    let CodecSpec::Encode {
        encoder: requested,
        options,
    } = codec
    else {
        return if label.is_some() {
            Err(Problem::new(Kind::InvalidArgument, "a filtered stream cannot be copied").at(field))
        } else {
            Ok(())
        };
    };
    let Some(plan) = encoder(requested) else {
        return Err(Problem::new(
            Kind::Unsupported,
            format!("encoder `{requested}` is unknown"),
        )
        .at(field));
    };
    if !libav::has_encoder(plan.name) {
        return Err(Problem::new(
            Kind::Unsupported,
            format!("encoder `{}` is missing in this worker's FFmpeg", plan.name),
        )
        .at(field));
    }
    encoder_options(requested, plan, options)
        .map_err(|p| p.at(format!("{field}.codec.options")))?;
    let Some(label) = label else { return Ok(()) };
    let known = |input: u32| {
        if (input as usize) < spec.inputs.len() {
            return Ok(());
        }
        Err(Problem::new(Kind::InvalidArgument, format!("there is no input {input}")).at("graphs"))
    };
    match plan.media {
        MediaKind::Video => {
            let line = operation::read(&spec.graphs, label)?;
            known(line.input)?;
            for operation in &line.operations {
                match operation {
                    Operation::Overlay(overlay) => known(overlay.line.input)?,
                    Operation::BurnText(burn) => match spec.burn_in.get(burn.source) {
                        Some(from) => known(from.input)?,
                        None => {
                            return Err(Problem::new(
                                Kind::InvalidArgument,
                                "`inlineass` has no stream in `burn_in`",
                            )
                            .at("burn_in"));
                        }
                    },
                    _ => {}
                }
            }
            // What an SDR source skips must be possible, too.
            let source = VideoSource {
                depth: 10,
                light: Light::Hdr,
            };
            software_video(&line.operations, plan.name, source).map(drop)
        }
        MediaKind::Audio => {
            let line = graph::line(&spec.graphs, label)?;
            known(line.input)?;
            software_audio(&line.steps, plan.name, options).map(drop)
        }
        _ => Err(Problem::new(Kind::Unsupported, "filtered subtitles").at(field)),
    }
}

fn check_packaging(packaging: &Packaging, field: &str) -> Result<(), Problem> {
    let (seconds, tolerance) = match packaging {
        Packaging::Dash {
            segment_seconds,
            tolerance_seconds,
            ..
        }
        | Packaging::Segment {
            segment_seconds,
            tolerance_seconds,
            ..
        } => (*segment_seconds, *tolerance_seconds),
        Packaging::Hls {
            segment_seconds, ..
        } => (*segment_seconds, 0.0),
    };
    if !(0.1..=3600.0).contains(&seconds) || !(0.0..=seconds).contains(&tolerance) {
        return Err(Problem::new(
            Kind::InvalidArgument,
            "segments must be 0.1 to 3600 s long and the tolerance no longer than one",
        )
        .at(field));
    }
    Ok(())
}
