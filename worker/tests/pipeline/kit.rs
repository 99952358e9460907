//! Clips, jobs, a sink in memory, and what `ffprobe` and `ffmpeg` say of it.

use plexbeam_api::{
    API_VERSION, Event, JobSpec, Problem, Segment,
    job::{
        CodecSpec, Container, ForcedKeys, FramePolicy, HwAccel, InputSpec, LeasePolicy, Location,
        OutputSpec, Packaging, Source, StreamSpec, TimePolicy,
    },
    segment::SegmentKind,
};
use plexbeam_worker::{
    input::InputPolicy,
    pipeline::{self, Control, Sink},
};
use std::{path::Path, process::Command};

#[derive(Default)]
pub(crate) struct Memory {
    pub(crate) events: Vec<Event>,
    pub(crate) files: Vec<(Segment, Vec<u8>)>,
}

impl Sink for Memory {
    fn event(&mut self, event: Event) -> Result<(), Problem> {
        self.events.push(event);
        Ok(())
    }
    fn publish(&mut self, segment: Segment, bytes: Vec<u8>) -> Result<(), Problem> {
        assert_eq!(segment.size, bytes.len() as u64);
        self.files.push((segment, bytes));
        Ok(())
    }
}

pub(crate) fn ffmpeg(args: &[&str]) {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-y"])
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A clip with B-frames, a key every 2 s and 5.1 sound; `extra` goes before the output name.
pub(crate) fn clip(dir: &Path, name: &str, seconds: u32, extra: &[&str]) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let video = format!("testsrc2=size=320x180:rate=24000/1001:duration={seconds}");
    let audio = format!("sine=frequency=440:sample_rate=48000:duration={seconds}");
    let mut args = vec!["-f", "lavfi", "-i", &video, "-f", "lavfi", "-i", &audio];
    args.extend([
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-bf",
        "2",
        "-g",
        "48",
    ]);
    args.extend(["-c:a", "ac3", "-ac", "6"]);
    args.extend(extra);
    args.push(&path);
    ffmpeg(&args);
    path
}

pub(crate) fn stream(label: &str, encoder: &str, options: &[(&str, &str)]) -> StreamSpec {
    StreamSpec {
        source: Source::Graph {
            label: label.to_owned(),
        },
        codec: CodecSpec::Encode {
            encoder: encoder.to_owned(),
            options: options
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
        },
        metadata: Vec::new(),
        forced_keys: None,
        frame_rate: None,
    }
}

pub(crate) fn job(path: &str, seek: Option<i64>, packaging: Packaging, keys: f64) -> JobSpec {
    let mut video = stream(
        "1",
        "libx264",
        &[
            ("crf", "23"),
            ("maxrate", "2000k"),
            ("bufsize", "4000k"),
            ("preset", "veryfast"),
            (
                "x264opts",
                "subme=0:me_range=4:rc_lookahead=10:me=dia:no_chroma_me:8x8dct=0:partitions=none",
            ),
        ],
    );
    video.forced_keys = Some(ForcedKeys::Every { seconds: keys });
    video.frame_rate = Some("23.975999999999999".to_owned());
    JobSpec {
        api_version: API_VERSION,
        job_id: "test".parse().unwrap(),
        inputs: vec![InputSpec {
            locations: vec![Location::Path {
                path: path.to_owned(),
            }],
            seek_us: seek,
            accurate_seek: true,
            probe_size: Some(20_000_000),
            analyze_duration_us: Some(20_000_000),
            decoders: Vec::new(),
        }],
        graphs: vec![
            // Sixteen macroblocks wide: at some other widths (160, 320, 854) the AVX-512 code of x264
            // r3095 reads memory that nobody wrote, as `ffmpeg` shows with `MALLOC_PERTURB_`, and no
            // encode is like the next.
            "[0:0]scale=w=256:h=144:force_divisible_by=2[0];[0]format=pix_fmts=yuv420p|nv12[1]"
                .to_owned(),
            "[0:1] aresample=async=1:ochl='stereo':rematrix_maxval=0.000000dB:osr=48000[2]"
                .to_owned(),
        ],
        outputs: vec![OutputSpec {
            packaging,
            streams: vec![video, stream("2", "aac", &[("b", "128k")])],
            muxer_options: vec![("max_delay".to_owned(), "5000000".to_owned())],
        }],
        time: TimePolicy {
            copyts: true,
            start_at_zero: true,
            frames: FramePolicy::CfrFromZero,
        },
        lease: LeasePolicy::None,
        hw_accel: HwAccel::None,
        burn_in: Vec::new(),
        fonts: Vec::new(),
        resume: None,
        argv: Vec::new(),
    }
}

pub(crate) fn dash(first_number: u32) -> Packaging {
    Packaging::Dash {
        segment_seconds: 3.0,
        first_number,
        tolerance_seconds: 0.0625,
        init_name: "init-stream$RepresentationID$.m4s".to_owned(),
        media_name: "chunk-stream$RepresentationID$-$Number%05d$.m4s".to_owned(),
    }
}

pub(crate) fn segments(container: Container, first_number: u32, header: Option<&str>) -> Packaging {
    Packaging::Segment {
        container,
        segment_seconds: 3.0,
        first_number,
        tolerance_seconds: 0.0625,
        media_name: "media-%05d.ts".to_owned(),
        header_name: header.map(|h| h.parse().unwrap()),
    }
}

pub(crate) fn try_run(spec: &JobSpec) -> Result<Memory, Problem> {
    let mut sink = Memory::default();
    pipeline::run(spec, &InputPolicy::default(), &mut sink, &Control::new()).map(|()| sink)
}

pub(crate) fn run(spec: &JobSpec) -> Memory {
    try_run(spec).unwrap()
}

impl Memory {
    pub(crate) fn media(&self, rendition: Option<u32>) -> Vec<&(Segment, Vec<u8>)> {
        let wanted = |s: &Segment| s.kind == SegmentKind::Media && s.rendition == rendition;
        self.files.iter().filter(|(s, _)| wanted(s)).collect()
    }

    pub(crate) fn head(&self, rendition: Option<u32>) -> &[u8] {
        let wanted = |s: &Segment| {
            matches!(s.kind, SegmentKind::Init | SegmentKind::Header) && s.rendition == rendition
        };
        self.files
            .iter()
            .find(|(s, _)| wanted(s))
            .map_or(&[], |(_, bytes)| bytes)
    }

    pub(crate) fn probed(&self) -> &plexbeam_api::event::Probed {
        let probed = self.events.iter().find_map(|e| match e {
            Event::Probed(probed) => Some(probed),
            _ => None,
        });
        probed.expect("the job told what it found")
    }
}

/// Writes bytes where `ffprobe` and `ffmpeg` can read them.
pub(crate) fn file(dir: &Path, parts: &[&[u8]]) -> String {
    let path = dir.join("look");
    std::fs::write(&path, parts.concat()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Decodes everything; any message of the decoder fails the test.
pub(crate) fn decodes(dir: &Path, parts: &[&[u8]]) {
    let path = file(dir, parts);
    let output = Command::new("ffmpeg")
        // Without -copyts the CLI subtracts the audio's earlier start, half a frame, and its null
        // muxer then complains about times that it rounded itself.
        .args([
            "-v", "error", "-xerror", "-copyts", "-i", &path, "-f", "null", "-",
        ])
        .output()
        .unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && messages.is_empty(), "{messages}");
}

/// `pts_time` of every packet of a kind (`v` or `a`), and whether it is a key.
pub(crate) fn packets(dir: &Path, kind: &str, parts: &[&[u8]]) -> Vec<(f64, bool)> {
    probe(&file(dir, parts), kind)
}

pub(crate) fn probe(path: &str, kind: &str) -> Vec<(f64, bool)> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", kind])
        .args([
            "-show_entries",
            "packet=pts_time,flags",
            "-of",
            "csv=p=0",
            path,
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut rows: Vec<(f64, bool)> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',');
            Some((
                fields.next()?.parse().ok()?,
                fields.next()?.starts_with('K'),
            ))
        })
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    rows
}

pub(crate) fn times(rows: &[(f64, bool)]) -> Vec<f64> {
    rows.iter().map(|r| r.0).collect()
}

pub(crate) fn close(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(
        a.len(),
        b.len(),
        "{:?}... against {:?}...",
        a.first(),
        b.first()
    );
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= tolerance, "{a} against {b}");
    }
}
