//! What this machine can really do: every encoder is tried on a few frames, because a listed encoder
//! proves nothing. Run in a process of its own (`plexbeam-worker probe --json`), since a driver may
//! abort it.

use crate::config::ChildConfig;
use ffmpeg_next::{
    ChannelLayout, Dictionary, Packet, Rational, codec, encoder, format, frame,
    util::{error::EAGAIN, log},
};
use plexbeam_api::{Kind, Problem, job::HwAccel, session::DeviceReport};
use serde::{Deserialize, Serialize};
use std::{process::Stdio, time::Duration};

/// Longest that proving may take.
const PROVE_LIMIT: Duration = Duration::from_secs(60);

/// Result of `plexbeam-worker probe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// libavcodec's version.
    pub ffmpeg: String,
    /// The devices that were asked for, software first.
    pub devices: Vec<DeviceReport>,
}

impl Probe {
    /// True when video can be encoded here at all.
    pub fn is_usable(&self) -> bool {
        let makes_h264 =
            |device: &DeviceReport| device.encoders.iter().any(|name| name == "libx264");
        self.devices.iter().any(makes_h264)
    }
}

const SOFTWARE_VIDEO: [&str; 2] = ["libx264", "libx265"];
const SOFTWARE_AUDIO: [&str; 6] = ["aac", "ac3", "eac3", "libopus", "libmp3lame", "flac"];

/// Name of a device as reports and events say it; `None` for those that are no device.
pub fn name_of(hw: HwAccel) -> Option<&'static str> {
    match hw {
        HwAccel::Cuda => Some("cuda"),
        HwAccel::Vaapi => Some("vaapi"),
        HwAccel::Qsv => Some("qsv"),
        HwAccel::Auto | HwAccel::None => None,
    }
}

/// Tries what `hw` asks for, here in this process. Blocks for about a second.
pub fn prove(hw: HwAccel) -> Probe {
    log::set_level(log::Level::Quiet);
    let mut software = DeviceReport {
        name: "software".to_owned(),
        encoders: Vec::new(),
        error: None,
    };
    let video = SOFTWARE_VIDEO.map(|name| (name, try_video(name, format::Pixel::YUV420P)));
    let audio = SOFTWARE_AUDIO.map(|name| (name, try_audio(name)));
    let mut failures = Vec::new();
    for (name, outcome) in video.into_iter().chain(audio) {
        match outcome {
            Ok(()) => software.encoders.push(name.to_owned()),
            Err(why) => failures.push(format!("{name}: {why}")),
        }
    }
    if !failures.is_empty() {
        software.error = Some(failures.join("; "));
    }
    let mut devices = vec![software];
    if let Some(name) = name_of(hw) {
        devices.push(prove_hardware(name, hw));
    }
    Probe {
        ffmpeg: version_text(),
        devices,
    }
}

fn prove_hardware(name: &str, hw: HwAccel) -> DeviceReport {
    let mut report = DeviceReport {
        name: name.to_owned(),
        encoders: Vec::new(),
        error: None,
    };
    let candidates: &[&str] = match hw {
        HwAccel::Cuda => &["h264_nvenc", "hevc_nvenc"],
        HwAccel::Qsv => &["h264_qsv", "hevc_qsv"],
        // Takes frames of the device only, which this version does not make.
        HwAccel::Vaapi => &[],
        HwAccel::Auto | HwAccel::None => return report,
    };
    let mut failures = Vec::new();
    if hw == HwAccel::Vaapi {
        failures.push("VAAPI encoding is not part of this version".to_owned());
    }
    for encoder in candidates {
        match try_video(encoder, format::Pixel::NV12) {
            Ok(()) => report.encoders.push((*encoder).to_owned()),
            Err(why) => failures.push(format!("{encoder}: {why}")),
        }
    }
    if !failures.is_empty() {
        report.error = Some(failures.join("; "));
    }
    report
}

/// libavcodec's version as `major.minor.micro`.
pub fn version_text() -> String {
    let version = codec::version();
    format!(
        "libavcodec {}.{}.{}",
        version >> 16,
        (version >> 8) & 0xff,
        version & 0xff
    )
}

/// Frames fed to a video encoder; enough for one that looks ahead to give something when flushed.
const FRAMES: i64 = 5;

fn try_video(name: &str, pixel: format::Pixel) -> Result<(), String> {
    let found = encoder::find_by_name(name).ok_or("not in this libavcodec")?;
    let mut video = codec::Context::new_with_codec(found)
        .encoder()
        .video()
        .map_err(text)?;
    video.set_width(320);
    video.set_height(192);
    video.set_format(pixel);
    video.set_time_base(Rational::new(1, 25));
    video.set_frame_rate(Some(Rational::new(25, 1)));
    let mut options = Dictionary::new();
    if name == "libx265" {
        // It prints past libav's log level.
        options.set("x265-params", "log-level=none");
    }
    let mut opened = video.open_as_with(found, options).map_err(text)?;
    let mut packets = 0;
    for pts in 0..FRAMES {
        let mut picture = frame::Video::new(pixel, 320, 192);
        for plane in 0..picture.planes() {
            picture.data_mut(plane).fill(0x80);
        }
        picture.set_pts(Some(pts));
        opened.send_frame(&picture).map_err(text)?;
        packets += drain(&mut opened)?;
    }
    opened.send_eof().map_err(text)?;
    some(packets + drain(&mut opened)?)
}

fn try_audio(name: &str) -> Result<(), String> {
    let found = encoder::find_by_name(name).ok_or("not in this libavcodec")?;
    let sample = found
        .audio()
        .ok()
        .and_then(|audio| audio.formats()?.next())
        .ok_or("names no sample format")?;
    let mut audio = codec::Context::new_with_codec(found)
        .encoder()
        .audio()
        .map_err(text)?;
    audio.set_rate(48_000);
    audio.set_format(sample);
    audio.set_channel_layout(ChannelLayout::STEREO);
    audio.set_time_base(Rational::new(1, 48_000));
    let mut opened = audio.open_as(found).map_err(text)?;
    let samples = match opened.frame_size() {
        0 => 1024,
        size => size as usize,
    };
    let mut packets = 0;
    for n in 0..FRAMES {
        let mut sound = frame::Audio::new(sample, samples, ChannelLayout::STEREO);
        sound.set_rate(48_000);
        for plane in 0..sound.planes() {
            sound.data_mut(plane).fill(0);
        }
        sound.set_pts(Some(n * samples as i64));
        opened.send_frame(&sound).map_err(text)?;
        packets += drain(&mut opened)?;
    }
    opened.send_eof().map_err(text)?;
    some(packets + drain(&mut opened)?)
}

/// Takes what the encoder has ready; the number of packets with bytes in them.
fn drain(encoder: &mut encoder::Encoder) -> Result<usize, String> {
    let mut packets = 0;
    let mut packet = Packet::empty();
    loop {
        match encoder.receive_packet(&mut packet) {
            Ok(()) => packets += usize::from(packet.size() > 0),
            Err(ffmpeg_next::Error::Eof | ffmpeg_next::Error::Other { errno: EAGAIN }) => {
                return Ok(packets);
            }
            Err(error) => return Err(text(error)),
        }
    }
}

fn some(packets: usize) -> Result<(), String> {
    match packets {
        0 => Err("made no packet".to_owned()),
        _ => Ok(()),
    }
}

fn text(error: ffmpeg_next::Error) -> String {
    error.to_string()
}

/// Proves in a process of its own: `PROGRAM probe --json`. Errors: it crashed, hung or spoke
/// nonsense.
pub async fn prove_apart(child: &ChildConfig, hw: HwAccel) -> Result<Probe, Problem> {
    let fail = |what: String| Problem::new(Kind::Internal, format!("probing failed: {what}"));
    let run = tokio::process::Command::new(&child.program)
        .args(["probe", "--json", "--hw", name_of(hw).unwrap_or("none")])
        .env_remove("PLEXBEAM_API_KEY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PROVE_LIMIT, run)
        .await
        .map_err(|_| fail(format!("no answer within {} s", PROVE_LIMIT.as_secs())))?
        .map_err(|error| fail(error.to_string()))?;
    if !output.status.success() {
        return Err(fail(format!("it ended with {}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| fail(error.to_string()))
}
