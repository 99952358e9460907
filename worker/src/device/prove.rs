//! Trying one device, or the processor, in this process: see [`super::apart`] for why this process
//! should have nothing else to do.

use super::{Capabilities, DeviceKind, Family, Step};
use crate::{
    libav::{
        Decoder, Encoder, Frame, Graph, Packet, Params, Rational, Received, VideoSettings,
        has_encoder, has_filter,
        hw::{Device, PixelFormat, Pool, decoder_on},
        log,
    },
    plan::{
        device::{Field, dialect},
        device_attempts,
    },
};
use plexbeam_api::session::{DeviceCheck, DeviceReport};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Size of the pictures tried. NVENC refuses very small ones.
const SIZE: (u32, u32) = (640, 360);
/// Pictures fed to an encoder; enough for one that looks ahead to give something before the end.
const FRAMES: i64 = 12;
/// The picture that is asked to be a key.
const FORCED: i64 = 7;
/// Encoders that are opened at once to find the driver's limit. Drivers that have one stop before.
const MAX_SESSIONS: u32 = 12;

/// What [`device`] or [`software`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// For people.
    pub report: DeviceReport,
    /// For plans; `None` for the processor and for what did not open.
    pub capabilities: Option<Capabilities>,
    /// The device could be opened at all.
    pub opened: bool,
}

impl Proof {
    /// Of a device whose proof itself failed.
    pub fn failed(kind: DeviceKind, address: &str, why: String) -> Self {
        Proof {
            report: DeviceReport {
                name: kind.name().to_owned(),
                address: Some(address.to_owned()),
                error: Some(why),
                ..DeviceReport::default()
            },
            capabilities: None,
            opened: false,
        }
    }
}

/// Collects the checks of one device.
struct Checks(Vec<DeviceCheck>);

impl Checks {
    fn run<T>(&mut self, step: String, work: impl FnOnce() -> Result<T, String>) -> Option<T> {
        let start = Instant::now();
        let (result, log) = log::capture(work);
        let (done, error) = match result {
            Ok(done) => (Some(done), None),
            Err(why) => (None, Some(why)),
        };
        self.0.push(DeviceCheck {
            step,
            ok: done.is_some(),
            ms: start.elapsed().as_millis() as u64,
            // Remarks on what worked are of no use.
            log: if error.is_some() { log } else { Vec::new() },
            error,
        });
        done
    }
}

const SOFTWARE_VIDEO: [&str; 2] = ["libx264", "libx265"];
const SOFTWARE_AUDIO: [&str; 6] = ["aac", "ac3", "eac3", "libopus", "libmp3lame", "flac"];

/// Tries the processor's encoders. Blocks for about a second.
pub fn software() -> Proof {
    let mut checks = Checks(Vec::new());
    let mut encoders = Vec::new();
    for name in SOFTWARE_VIDEO {
        let made = checks.run(format!("encode {name}"), || {
            is_whole(&encode_software(name, PixelFormat::AV_PIX_FMT_YUV420P)?)
        });
        encoders.extend(made.map(|_| name.to_owned()));
    }
    for name in SOFTWARE_AUDIO {
        let made = checks.run(format!("encode {name}"), || encode_audio(name));
        encoders.extend(made.map(|()| name.to_owned()));
    }
    Proof {
        report: report("software", None, encoders, checks),
        capabilities: None,
        opened: true,
    }
}

fn report(
    name: &str,
    address: Option<&str>,
    encoders: Vec<String>,
    Checks(checks): Checks,
) -> DeviceReport {
    let failed = checks.iter().filter(|check| !check.ok);
    let told: Vec<String> = failed
        .map(|check| {
            let why = check.log.first().or(check.error.as_ref());
            format!("{}: {}", check.step, why.map_or("?", String::as_str))
        })
        .collect();
    DeviceReport {
        name: name.to_owned(),
        address: address.map(str::to_owned),
        encoders,
        error: (!told.is_empty()).then(|| told.join("; ")),
        checks,
    }
}

/// Opens a device as a job would. QSV is opened over VAAPI, which takes a render node.
pub fn open(kind: DeviceKind, address: &str) -> Result<Device, String> {
    let opened = match kind {
        DeviceKind::Qsv => Device::open(DeviceKind::Vaapi.libav(), Some(address))
            .and_then(|under| under.derive(kind.libav())),
        _ => Device::open(kind.libav(), Some(address)),
    };
    opened.map_err(|e| e.to_string())
}

fn layout(bits: u32) -> (&'static str, PixelFormat) {
    match bits {
        8 => ("nv12", PixelFormat::AV_PIX_FMT_NV12),
        _ => ("p010le", PixelFormat::AV_PIX_FMT_P010LE),
    }
}

/// Tries everything on one device. Blocks, for a second or so where the driver is in order.
pub fn device(kind: DeviceKind, address: &str) -> Proof {
    let mut checks = Checks(Vec::new());
    let mut can = Capabilities::none(kind, address);
    let mut encoders = Vec::new();
    let opened = checks.run("open".to_owned(), || open(kind, address));
    if let Some(device) = &opened {
        for step in Step::ALL {
            if try_step(&mut checks, kind, device, step) {
                can.steps.insert(step);
            }
        }
        encoders = try_encoders(&mut checks, device, &mut can);
        try_decoders(&mut checks, device, &mut can);
    }
    Proof {
        report: report(kind.name(), Some(address), encoders, checks),
        opened: opened.is_some(),
        capabilities: opened.map(|_| can),
    }
}

fn uploaded(device: &Device, bits: u32) -> Result<(Pool, Frame), String> {
    let (_, format) = layout(bits);
    let pool = Pool::new(device, format, SIZE, 16).map_err(|e| e.to_string())?;
    let mut frame = Frame::grey(format, SIZE).map_err(|e| e.to_string())?;
    frame.set_pts(0);
    let on_device = pool.upload(&frame).map_err(|e| e.to_string())?;
    Ok((pool, on_device))
}

/// One step, unless this libav has no filter for it.
fn try_step(checks: &mut Checks, kind: DeviceKind, device: &Device, step: Step) -> bool {
    let words = dialect(kind);
    let (bits, chain) = match step {
        Step::Transfer8 => (8, None),
        Step::Transfer10 => (10, None),
        Step::Scale8 => (8, Some((words.scale)(320, 192, "nv12"))),
        Step::Scale10 => (10, Some((words.scale)(320, 192, "p010le"))),
        Step::Narrow => (10, Some((words.convert)("nv12"))),
        Step::Tonemap => match (words.tonemap)("hable") {
            Some(chain) => (10, Some(chain)),
            None => return false,
        },
        Step::Deinterlace => match (words.deinterlace)(Field::PerFrame, true) {
            Some(chain) => (8, Some(chain)),
            None => return false,
        },
        Step::Overlay => {
            let small = (words.scale)(64, 64, "nv12");
            let over = words.overlay;
            (
                8,
                Some(format!("split[a][b];[b]{small}[c];[a][c]{over}=x=16:y=16")),
            )
        }
    };
    let after = match step {
        Step::Scale8 | Step::Scale10 => (320, 192),
        _ => SIZE,
    };
    let left = match step {
        Step::Transfer10 | Step::Scale10 => layout(10).0,
        _ => layout(8).0,
    };
    checks
        .run(step.words().to_owned(), || {
            let (_pool, mut frame) = uploaded(device, bits)?;
            if step == Step::Tonemap {
                frame.mark_hdr10().map_err(|e| e.to_string())?;
            }
            let out = match &chain {
                None => frame,
                Some(chain) => filter_one(device, chain, &frame)?,
            };
            if !out.is_on_device() {
                return Err("the picture left the device".to_owned());
            }
            let back = out.download().map_err(|e| e.to_string())?;
            let got = (back.width() as u32, back.height() as u32);
            let got_layout = out.layout_name();
            if got != after || got_layout != left {
                return Err(format!(
                    "made {}x{} in {got_layout}, not {}x{} in {left}",
                    got.0, got.1, after.0, after.1
                ));
            }
            Ok(())
        })
        .is_some()
}

/// The first picture that a chain makes; filters that look ahead get several.
fn filter_one(device: &Device, chain: &str, frame: &Frame) -> Result<Frame, String> {
    let text = |e: crate::libav::AvError| e.to_string();
    let tick = Rational { num: 1, den: 25 };
    let rate = Rational { num: 25, den: 1 };
    let mut graph = Graph::video_on(chain, frame, tick, rate, Some((device, 8))).map_err(text)?;
    for pts in 0..4 {
        let mut next = frame.share().map_err(text)?;
        next.set_pts(pts);
        graph.send(Some(&next)).map_err(text)?;
        if let Received::Item(out) = graph.receive().map_err(text)? {
            return Ok(out);
        }
    }
    graph.send(None).map_err(text)?;
    match graph.receive().map_err(text)? {
        Received::Item(out) => Ok(out),
        Received::Again | Received::End => Err("made no picture".to_owned()),
    }
}

fn settings() -> VideoSettings {
    VideoSettings {
        time_base: Rational { num: 1, den: 25 },
        frame_rate: Rational { num: 25, den: 1 },
        global_header: false,
        threads: 0,
    }
}

fn try_encoders(checks: &mut Checks, device: &Device, can: &mut Capabilities) -> Vec<String> {
    let Some(suffix) = can.kind.encoder_suffix() else {
        return Vec::new();
    };
    let mut works = Vec::new();
    for (family, bits) in [(Family::H264, 8), (Family::Hevc, 8), (Family::Hevc, 10)] {
        let name = format!("{}_{suffix}", family.codec());
        if !has_encoder(&name) {
            continue;
        }
        let depth = if bits == 8 { "" } else { ", 10 bit" };
        let made = checks.run(format!("encode {}{depth}", family.codec()), || {
            let (pool, frame) = uploaded(device, bits)?;
            let encoder = open_on_device(can.kind, family, bits, &name, &frame)?;
            let made = encode(encoder, |pts| {
                let mut grey = Frame::grey(layout(bits).1, SIZE).map_err(|e| e.to_string())?;
                grey.set_pts(pts);
                pool.upload(&grey).map_err(|e| e.to_string())
            })?;
            is_whole(&made)
        });
        if made.is_some() {
            can.encode.insert((family, bits));
            if !works.contains(&name) {
                works.push(name);
            }
        }
    }
    if can.kind == DeviceKind::Cuda && can.encodes(Family::H264, 8) {
        can.sessions = count_sessions(checks, device);
    }
    works
}

/// How many encoders the driver opens at once, where that is few.
fn count_sessions(checks: &mut Checks, device: &Device) -> Option<u32> {
    let limit = checks.run("encoders at once".to_owned(), || {
        let (_pool, frame) = uploaded(device, 8)?;
        let mut open = Vec::new();
        while (open.len() as u32) < MAX_SESSIONS {
            let next = open_on_device(DeviceKind::Cuda, Family::H264, 8, "h264_nvenc", &frame);
            match next {
                Ok(encoder) => open.push(encoder),
                Err(_) => return Ok(Some(open.len() as u32)),
            }
        }
        Ok(None)
    });
    limit.flatten()
}

/// With the options of the first attempt that the driver takes, as a job would.
fn open_on_device(
    kind: DeviceKind,
    family: Family,
    bits: u32,
    name: &str,
    first: &Frame,
) -> Result<Encoder, String> {
    let attempts = device_attempts(kind, family, bits, &[]).map_err(|problem| problem.detail)?;
    let mut failure = "no attempt".to_owned();
    for options in &attempts {
        match open_encoder(name, first, options) {
            Ok(encoder) => return Ok(encoder),
            Err(why) => failure = why,
        }
    }
    Err(failure)
}

fn open_encoder(
    name: &str,
    first: &Frame,
    options: &[(String, String)],
) -> Result<Encoder, String> {
    let (encoder, unknown) =
        Encoder::open_video(name, first, settings(), options).map_err(|e| e.to_string())?;
    match unknown.first() {
        Some((key, _)) => Err(format!("{name} does not know the option `{key}`")),
        None => Ok(encoder),
    }
}

fn encode(
    mut encoder: Encoder,
    mut picture: impl FnMut(i64) -> Result<Frame, String>,
) -> Result<(Params, Vec<Packet>), String> {
    let mut packets = Vec::new();
    for pts in 0..FRAMES {
        let mut frame = picture(pts)?;
        frame.set_pts(pts);
        frame.set_key(pts == FORCED);
        while !encoder.send(Some(&frame)).map_err(|e| e.to_string())? {
            drain(&mut encoder, &mut packets)?;
        }
        drain(&mut encoder, &mut packets)?;
    }
    encoder.send(None).map_err(|e| e.to_string())?;
    drain(&mut encoder, &mut packets)?;
    let params = encoder.params().map_err(|e| e.to_string())?;
    Ok((params, packets))
}

/// A packet for each picture, and a key where it was asked for, since segments start there.
fn is_whole((_, packets): &(Params, Vec<Packet>)) -> Result<(), String> {
    if packets.len() as i64 != FRAMES {
        return Err(format!(
            "made {} packets of {FRAMES} pictures",
            packets.len()
        ));
    }
    if !packets.iter().any(|p| p.pts() == FORCED && p.is_key()) {
        return Err("made no key picture where one was asked for".to_owned());
    }
    Ok(())
}

fn drain(encoder: &mut Encoder, packets: &mut Vec<Packet>) -> Result<(), String> {
    while let Received::Item(packet) = encoder.receive().map_err(|e| e.to_string())? {
        if packet.size() > 0 {
            packets.push(packet);
        }
    }
    Ok(())
}

fn encode_software(name: &str, format: PixelFormat) -> Result<(Params, Vec<Packet>), String> {
    let first = Frame::grey(format, SIZE).map_err(|e| e.to_string())?;
    let fast = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let options = match name {
        "libx264" => vec![fast("preset", "ultrafast"), fast("forced-idr", "1")],
        "libx265" => vec![
            fast("preset", "ultrafast"),
            fast("forced-idr", "1"),
            // It prints past libav's log.
            fast("x265-params", "log-level=none"),
        ],
        "libvpx-vp9" => vec![fast("deadline", "realtime"), fast("cpu-used", "8")],
        "libsvtav1" => vec![fast("preset", "12")],
        _ => Vec::new(),
    };
    let encoder = open_encoder(name, &first, &options)?;
    encode(encoder, |_| {
        Frame::grey(format, SIZE).map_err(|e| e.to_string())
    })
}

fn encode_audio(name: &str) -> Result<(), String> {
    use ffmpeg_next::{ChannelLayout, codec, encoder, frame};
    let text = |e: ffmpeg_next::Error| e.to_string();
    let found = encoder::find_by_name(name).ok_or("not in this libavcodec")?;
    let formats = found.audio().ok().and_then(|audio| audio.formats());
    let sample = formats
        .and_then(|mut formats| formats.next())
        .ok_or("names no sample format")?;
    let mut audio = codec::Context::new_with_codec(found)
        .encoder()
        .audio()
        .map_err(text)?;
    audio.set_rate(48_000);
    audio.set_format(sample);
    audio.set_channel_layout(ChannelLayout::STEREO);
    audio.set_time_base(ffmpeg_next::Rational::new(1, 48_000));
    let mut opened = audio.open_as(found).map_err(text)?;
    let samples = match opened.frame_size() {
        0 => 1024,
        size => size as usize,
    };
    for n in 0..FRAMES {
        let mut sound = frame::Audio::new(sample, samples, ChannelLayout::STEREO);
        sound.set_rate(48_000);
        for plane in 0..sound.planes() {
            sound.data_mut(plane).fill(0);
        }
        sound.set_pts(Some(n * samples as i64));
        // Only one packet is wanted; what an encoder holds back comes at the end.
        match opened.send_frame(&sound) {
            Ok(()) | Err(ffmpeg_next::Error::Other { .. }) => {}
            Err(error) => return Err(text(error)),
        }
        if opened
            .receive_packet(&mut ffmpeg_next::Packet::empty())
            .is_ok()
        {
            return Ok(());
        }
    }
    opened.send_eof().map_err(text)?;
    opened
        .receive_packet(&mut ffmpeg_next::Packet::empty())
        .map_err(text)
}

/// What the decoders get: a stream of the processor's own making.
const STREAMS: [(&str, u32, &str, PixelFormat); 6] = [
    ("h264", 8, "libx264", PixelFormat::AV_PIX_FMT_YUV420P),
    ("hevc", 8, "libx265", PixelFormat::AV_PIX_FMT_YUV420P),
    ("hevc", 10, "libx265", PixelFormat::AV_PIX_FMT_YUV420P10LE),
    (
        "mpeg2video",
        8,
        "mpeg2video",
        PixelFormat::AV_PIX_FMT_YUV420P,
    ),
    ("vp9", 8, "libvpx-vp9", PixelFormat::AV_PIX_FMT_YUV420P),
    ("av1", 8, "libsvtav1", PixelFormat::AV_PIX_FMT_YUV420P),
];

fn try_decoders(checks: &mut Checks, device: &Device, can: &mut Capabilities) {
    for (codec, bits, encoder, format) in STREAMS {
        if decoder_on(can.kind.libav(), codec).is_none() || !has_encoder(encoder) {
            continue;
        }
        let depth = if bits == 8 { "" } else { ", 10 bit" };
        let made = checks.run(format!("decode {codec}{depth}"), || {
            let (params, packets) = encode_software(encoder, format)?;
            decode(device, &params, &packets)
        });
        if made.is_some() {
            can.decode.insert((codec.to_owned(), bits));
        }
    }
}

fn decode(device: &Device, params: &Params, packets: &[Packet]) -> Result<(), String> {
    let text = |e: crate::libav::AvError| e.to_string();
    let mut decoder = Decoder::open_on(params, settings().time_base, device, 8).map_err(text)?;
    for packet in packets.iter().map(Some).chain([None]) {
        loop {
            let taken = decoder.send(packet).map_err(text)?;
            match decoder.receive().map_err(text)? {
                Received::Item(frame) if frame.is_on_device() => {
                    return frame.download().map(drop).map_err(text);
                }
                Received::Item(_) => {
                    return Err("the processor decoded it, not the device".to_owned());
                }
                Received::Again | Received::End if taken => break,
                Received::Again | Received::End => {}
            }
        }
    }
    Err("made no picture".to_owned())
}

/// Names of filters that a kind's words use; for checks of the words themselves.
pub fn words_known(kind: DeviceKind) -> Vec<(String, bool)> {
    let words = dialect(kind);
    let mut texts = vec![
        (words.scale)(2, 2, "nv12"),
        (words.convert)("nv12"),
        words.overlay.to_owned(),
        words.upload.to_owned(),
    ];
    texts.extend((words.tonemap)("hable"));
    texts.extend((words.deinterlace)(Field::PerFrame, true));
    texts
        .into_iter()
        .map(|text| {
            let name = text.split('=').next().unwrap_or_default().to_owned();
            let known = has_filter(&name);
            (name, known)
        })
        .collect()
}
