//! What `ffprobe` and `ffmpeg` say of media. Nothing here is our own reading.

use crate::container::{Nal, Picture, pictures};
use serde::Deserialize;
use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

/// One stream.
#[derive(Debug, Clone, Deserialize)]
pub struct Stream {
    /// Position.
    pub index: u32,
    /// `video`, `audio`, `subtitle`, `attachment`, ...
    #[serde(default)]
    pub codec_type: String,
    /// `h264`, ...
    #[serde(default)]
    pub codec_name: String,
    /// Width in pixels.
    #[serde(default)]
    pub width: u32,
    /// Height in pixels.
    #[serde(default)]
    pub height: u32,
    /// Pixel format; empty for sound.
    #[serde(default)]
    pub pix_fmt: String,
    /// Transfer curve; empty where the stream does not say.
    #[serde(default)]
    pub color_transfer: String,
    /// Channels.
    #[serde(default)]
    pub channels: u32,
    /// Sample rate as text.
    #[serde(default)]
    pub sample_rate: String,
    /// Dispositions, 0 or 1.
    #[serde(default)]
    pub disposition: std::collections::HashMap<String, u32>,
    /// Tags.
    #[serde(default)]
    pub tags: std::collections::HashMap<String, String>,
}

impl Stream {
    /// A cover picture.
    pub fn attached_picture(&self) -> bool {
        self.disposition.get("attached_pic") == Some(&1)
    }
}

/// One packet; times in seconds, `None` when the container has none.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Packet {
    /// Which stream.
    #[serde(default)]
    pub stream_index: u32,
    /// `video`, ...
    #[serde(default)]
    pub codec_type: String,
    /// Ticks.
    #[serde(default)]
    pub pts: Option<i64>,
    /// Presentation time.
    #[serde(default, deserialize_with = "seconds")]
    pub pts_time: Option<f64>,
    /// Decoding time.
    #[serde(default, deserialize_with = "seconds")]
    pub dts_time: Option<f64>,
    /// Length.
    #[serde(default, deserialize_with = "seconds")]
    pub duration_time: Option<f64>,
    /// `K_` for a key.
    #[serde(default)]
    pub flags: String,
}

impl Packet {
    /// Marked as a key.
    pub fn key(&self) -> bool {
        self.flags.starts_with('K')
    }
}

fn seconds<'d, D: serde::Deserializer<'d>>(from: D) -> Result<Option<f64>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.and_then(|t| t.parse().ok()))
}

/// Runs a program with `input` on its stdin and gives what it wrote.
#[track_caller]
fn run(program: &str, args: &[&str], input: Option<&[u8]>) -> Output {
    let mut child = Command::new(program)
        .args(args)
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{program} must be installed (`make setup`): {e}"));
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        if let (Some(mut pipe), Some(bytes)) = (stdin, input) {
            // A reader that has seen enough closes the pipe; that is no fault.
            scope.spawn(move || drop(pipe.write_all(bytes)));
        }
        child.wait_with_output().expect("wait for a child")
    })
}

#[track_caller]
fn probe<T: for<'d> Deserialize<'d>>(args: &[&str], member: &str, input: Option<&[u8]>) -> Vec<T> {
    let mut all = vec!["-v", "error", "-of", "json"];
    all.extend(args);
    let output = run("ffprobe", &all, input);
    assert!(
        output.status.success(),
        "ffprobe {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut json: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("ffprobe writes JSON");
    serde_json::from_value(json[member].take()).unwrap_or_default()
}

/// The streams of a file.
#[track_caller]
pub fn streams(path: &Path) -> Vec<Stream> {
    let path = path.to_str().expect("UTF-8 path");
    probe(&["-show_streams", path], "streams", None)
}

/// The streams of bytes in memory.
#[track_caller]
pub fn streams_of(bytes: &[u8]) -> Vec<Stream> {
    probe(&["-show_streams", "pipe:0"], "streams", Some(bytes))
}

/// Length of a file in seconds.
#[track_caller]
pub fn duration(path: &Path) -> f64 {
    format_entry(path, "duration")
        .unwrap_or_else(|| panic!("ffprobe knows no duration of {}", path.display()))
}

/// Where the film ends, seconds from its start. Matroska and MP4 count their length from zero, wherever
/// the first packet lies.
#[track_caller]
pub fn title_end(path: &Path) -> f64 {
    let own = path.extension().and_then(|e| e.to_str());
    let start = match own {
        Some("mkv" | "mp4") => start_time(path),
        _ => 0.0,
    };
    duration(path) - start
}

/// A number of seconds that the container tells of itself.
#[track_caller]
fn format_entry(path: &Path, name: &str) -> Option<f64> {
    let entry = format!("format={name}");
    let args = ["-v", "error", "-show_entries", &entry, "-of", "csv=p=0"];
    let path = path.to_str().expect("UTF-8 path");
    let output = run("ffprobe", &[&args[..], &[path]].concat(), None);
    String::from_utf8_lossy(&output.stdout).trim().parse().ok()
}

const PACKET: &str = "packet=stream_index,codec_type,pts,pts_time,dts_time,duration_time,flags";

/// The packets of a file; `select` as ffprobe's `-select_streams` (`v:0`), or all.
#[track_caller]
pub fn packets(path: &Path, select: Option<&str>) -> Vec<Packet> {
    packets_from(path, select, 0.0)
}

/// As [`packets`], from the key at or before `from` seconds on.
#[track_caller]
pub fn packets_from(path: &Path, select: Option<&str>, from: f64) -> Vec<Packet> {
    let path = path.to_str().expect("UTF-8 path");
    let mut args = vec!["-show_entries", PACKET];
    let interval = format!("{from}%");
    if from > 0.0 {
        args.extend(["-read_intervals", &interval]);
    }
    if let Some(select) = select {
        args.extend(["-select_streams", select]);
    }
    args.push(path);
    probe(&args, "packets", None)
}

/// The packets of bytes in memory.
#[track_caller]
pub fn packets_of(bytes: &[u8], select: Option<&str>) -> Vec<Packet> {
    let mut args = vec!["-show_entries", PACKET];
    if let Some(select) = select {
        args.extend(["-select_streams", select]);
    }
    args.push("pipe:0");
    probe(&args, "packets", Some(bytes))
}

/// What ffmpeg complains of when it decodes all of this; `None` when nothing.
#[track_caller]
pub fn decode_complaint(bytes: &[u8]) -> Option<String> {
    let args = [
        "-hide_banner",
        "-v",
        "error",
        "-xerror",
        "-copyts",
        "-i",
        "pipe:0",
        "-map",
        "0:v?",
        "-map",
        "0:a?",
        // Times as they are: ticks of a guessed frame rate would make equal times of Matroska's
        // rounded ones.
        "-fps_mode",
        "passthrough",
        "-enc_time_base",
        "-1",
        "-f",
        "null",
        "-",
    ];
    let output = run("ffmpeg", &args, Some(bytes));
    if output.status.success() && output.stderr.is_empty() {
        None
    } else {
        Some(format!(
            "{}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

/// The coded pictures of the first video stream, in order of decoding.
#[track_caller]
pub fn coded_pictures(bytes: &[u8], nal: Nal) -> Vec<Picture> {
    let format = match nal {
        Nal::H264 => "h264",
        Nal::Hevc => "hevc",
    };
    let args = [
        "-hide_banner",
        "-v",
        "error",
        "-i",
        "pipe:0",
        "-map",
        "0:v:0",
        "-c",
        "copy",
        "-f",
        format,
        "pipe:1",
    ];
    let output = run("ffmpeg", &args, Some(bytes));
    pictures(&output.stdout, nal)
}

/// Codec name of the first video stream, when there is one.
#[track_caller]
pub fn video_codec(bytes: &[u8]) -> Option<String> {
    let args = [
        "-select_streams",
        "v:0",
        "-show_entries",
        "stream=index,codec_name",
        "pipe:0",
    ];
    probe::<Stream>(&args, "streams", Some(bytes))
        .first()
        .map(|s| s.codec_name.clone())
}

/// Mean level in dB of a band of `width` Hz around `tone` in the first audio stream.
#[track_caller]
pub fn tone_level(bytes: &[u8], tone: u32, width: u32) -> f64 {
    let filter = format!(
        "bandpass=f={tone}:width_type=h:w={width},bandpass=f={tone}:width_type=h:w={width},volumedetect"
    );
    let args = [
        "-hide_banner",
        "-nostats",
        "-i",
        "pipe:0",
        "-map",
        "0:a:0",
        "-af",
        &filter,
        "-f",
        "null",
        "-",
    ];
    let output = run("ffmpeg", &args, Some(bytes));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    text.split("mean_volume:")
        .nth(1)
        .and_then(|t| t.trim().split(' ').next())
        .and_then(|t| t.parse().ok())
        .unwrap_or_else(|| panic!("no level of {tone} Hz: {text}"))
}

/// `start_time` of a file in seconds; 0 when it has none.
#[track_caller]
pub fn start_time(path: &Path) -> f64 {
    format_entry(path, "start_time").unwrap_or(0.0)
}

/// Pixel format of the first video stream, e.g. `yuv420p10le`; empty when there is none.
#[track_caller]
pub fn pixel_format(path: &Path) -> String {
    let args = [
        "-v",
        "error",
        "-select_streams",
        "v:0",
        "-show_entries",
        "stream=pix_fmt",
        "-of",
        "csv=p=0",
    ];
    let path = path.to_str().expect("UTF-8 path");
    let output = run("ffprobe", &[&args[..], &[path]].concat(), None);
    // MPEG-TS tells its streams twice, once by program.
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .trim_matches([' ', ','])
        .to_owned()
}

/// Sample rate of the first audio stream when it is AAC, whose frames are 1024 samples.
#[track_caller]
pub fn packets_rate(bytes: &[u8]) -> Option<u32> {
    let args = [
        "-select_streams",
        "a:0",
        "-show_entries",
        "stream=index,codec_name,sample_rate",
        "pipe:0",
    ];
    let streams = probe::<Stream>(&args, "streams", Some(bytes));
    let stream = streams.first().filter(|s| s.codec_name == "aac")?;
    stream.sample_rate.parse().ok()
}
