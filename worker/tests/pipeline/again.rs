//! P7: whatever is made later, by a seek or because a file is gone, is what was made in one run.
//! Frames, keys and the audio grid are equal, and each part decodes on the other's init segment.

use crate::kit::{Memory, clip, dash, decodes, ffmpeg, job, packets, run, segments};
use plexbeam_api::{
    JobSpec, Segment,
    job::{CodecSpec, Container, Packaging, Source, StreamSelector, StreamSpec},
};
use plexbeam_worker::{
    input::InputPolicy,
    pipeline::{self, Again, Control},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use std::path::Path;

/// How often each property is tried in one run; `PLEXBEAM_ROUNDS` raises it.
fn rounds() -> u32 {
    let asked = std::env::var("PLEXBEAM_ROUNDS").ok();
    asked.and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Makes one published file again; gives everything that came.
fn again(spec: &JobSpec, whole: &Memory, name: &str) -> Memory {
    let published: Vec<Segment> = whole.files.iter().map(|(s, _)| s.clone()).collect();
    let name = name.parse().unwrap();
    let wanted = Again::of(&published, &name, &[]).unwrap();
    let mut sink = Memory::default();
    pipeline::make_again(
        spec,
        &wanted,
        &InputPolicy::default(),
        &mut sink,
        &Control::new(),
    )
    .unwrap_or_else(|problem| panic!("{name}: {problem}"));
    let names: Vec<&str> = sink.files.iter().map(|(s, _)| s.name.as_str()).collect();
    assert_eq!(names, [name.as_str()]);
    sink
}

/// Times and keys of a kind of stream, packet by packet, on this head.
fn stamps(dir: &Path, kind: &str, head: &[u8], part: &[u8]) -> Vec<(f64, bool)> {
    let rows = packets(dir, kind, &[head, part]);
    assert!(!rows.is_empty(), "nothing of {kind}");
    rows
}

/// Two segments of one number are the same to a player. `head` is of the one run; the other may have
/// another one. `rounding`: what times may differ by, seconds.
fn same(
    dir: &Path,
    head: &[u8],
    one: &(Segment, Vec<u8>),
    other: &(Segment, Vec<u8>),
    rounding: f64,
) {
    let name = &one.0.name;
    assert_eq!(*name, other.0.name);
    assert_eq!(
        (one.0.output, one.0.rendition),
        (other.0.output, other.0.rendition)
    );
    if rounding == 0.0 {
        let told = |s: &Segment| (s.pts, s.duration, s.times);
        assert_eq!(told(&one.0), told(&other.0), "{name}");
    }
    decodes(dir, &[head, &other.1]);
    for kind in ["v", "a"] {
        if one.0.rendition.is_some_and(|r| (r == 0) != (kind == "v")) {
            continue;
        }
        let ours = stamps(dir, kind, head, &one.1);
        let theirs = stamps(dir, kind, head, &other.1);
        assert_eq!(ours.len(), theirs.len(), "{name}: {kind}");
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_eq!(ours.1, theirs.1, "{name}: {kind} key at {ours:?}");
            let off = (ours.0 - theirs.0).abs();
            assert!(off <= rounding, "{name}: {kind} {ours:?} became {theirs:?}");
        }
    }
}

/// Random numbers of a title of 30 s, from a seek and made again, as DASH and as MPEG-TS.
#[test]
fn p7_any_number_comes_out_the_same_from_a_seek_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 30, &[]);
    let asked = std::env::var("PLEXBEAM_SEED").ok();
    let seed = asked
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random);
    println!("PLEXBEAM_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // DASH counts from 1, segments from 0.
    for (zero, packaging) in [(1, dash as fn(u32) -> Packaging), (0, ts)] {
        let spec = job(&path, None, packaging(zero), 3.0);
        let whole = run(&spec);
        let renditions = match zero {
            1 => vec![Some(0), Some(1)],
            _ => vec![None],
        };
        for _ in 0..rounds() {
            let k = random.random_range(0..10_u32);
            let rendition = renditions[random.random_range(0..renditions.len())];
            println!("{rendition:?} number {}", k + zero);
            let late = run(&job(
                &path,
                (k > 0).then_some(i64::from(k) * 3_000_000),
                packaging(k + zero),
                3.0,
            ));
            let head = whole.head(rendition);
            let one = whole.media(rendition)[k as usize];
            same(dir.path(), head, one, late.media(rendition)[0], 0.0);
            decodes(dir.path(), &[late.head(rendition), &one.1]);
            let made = again(&spec, &whole, one.0.name.as_str());
            same(dir.path(), head, one, &made.files[0], 0.0);
            // Of a job that itself began at a seek, too.
            let last = late.media(rendition).len() - 1;
            let at = random.random_range(0..=last);
            let one = late.media(rendition)[at];
            let late_spec = job(
                &path,
                (k > 0).then_some(i64::from(k) * 3_000_000),
                packaging(k + zero),
                3.0,
            );
            let made = again(&late_spec, &late, one.0.name.as_str());
            same(dir.path(), late.head(rendition), one, &made.files[0], 0.0);
        }
        for (rendition, name) in [(Some(0), "init-stream0.m4s"), (Some(1), "init-stream1.m4s")] {
            if zero == 1 {
                let made = again(&spec, &whole, name);
                assert_eq!(
                    made.files[0].1,
                    whole.head(rendition),
                    "{name} byte for byte"
                );
            }
        }
    }
}

fn ts(first: u32) -> Packaging {
    segments(Container::MpegTs, first, None)
}

/// Copied video begins at its own keys: any number made again holds the same packets.
#[test]
fn p7_copied_numbers_are_made_again_from_their_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys = "0,2,4.1,7,9.3,12,14,16.6,19,21,23.5,26,28";
    let extra = [
        "-x264-params",
        "keyint=infinite:scenecut=0",
        "-force_key_frames",
        keys,
    ];
    for name in ["clip.mkv", "clip.ts"] {
        let path = clip(dir.path(), name, 30, &extra);
        for (seek, first) in [(None, 1), (Some(8_000_000), 3)] {
            let mut spec = job(&path, seek, dash(first), 3.0);
            spec.inputs[0].accurate_seek = false;
            spec.outputs[0].streams[0] = copied(0);
            let whole = run(&spec);
            let count = whole.media(Some(0)).len();
            assert!(count > 4, "{count}");
            for at in [0, 1, count / 2, count - 1] {
                for rendition in [Some(0), Some(1)] {
                    let one = whole.media(rendition)[at];
                    let made = again(&spec, &whole, one.0.name.as_str());
                    // Matroska rounds times to milliseconds, each on its own.
                    let rounding = 0.0021;
                    same(
                        dir.path(),
                        whole.head(rendition),
                        one,
                        &made.files[0],
                        rounding,
                    );
                }
            }
        }
    }
}

/// Subtitles beside the film: their numbers are found by counting.
#[test]
fn subtitle_segments_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for n in 0..8 {
        text.push_str(&format!(
            "{}\n00:00:{:02},000 --> 00:00:{:02},900\nline {n}\n\n",
            n + 1,
            n * 2,
            n * 2
        ));
    }
    let srt = dir.path().join("a.srt");
    std::fs::write(&srt, text).unwrap();
    let srt = srt.to_str().unwrap();
    let path = clip(dir.path(), "clip.mkv", 18, &["-map", "0", "-map", "1"]);
    let with = dir.path().join("with.mkv").to_str().unwrap().to_owned();
    ffmpeg(&[
        "-i", &path, "-i", srt, "-map", "0", "-map", "1", "-c", "copy", "-c:s", "ass", &with,
    ]);
    let mut spec = job(&with, None, dash(1), 3.0);
    spec.outputs[0].streams[0] = copied(0);
    let mut lines = copied(2);
    lines.codec = CodecSpec::Encode {
        encoder: "ass".to_owned(),
        options: Vec::new(),
    };
    spec.outputs.push(plexbeam_api::job::OutputSpec {
        packaging: Packaging::Segment {
            container: Container::Ass,
            segment_seconds: 1.0,
            first_number: 0,
            tolerance_seconds: 0.0625,
            media_name: "sub-chunk-%05d".to_owned(),
            header_name: Some("sub-header".parse().unwrap()),
        },
        streams: vec![lines],
        muxer_options: Vec::new(),
    });
    let whole = run(&spec);
    let own = |m: &Memory| -> Vec<(Segment, Vec<u8>)> {
        let side = m.files.iter().filter(|(s, _)| s.output == 1);
        side.cloned().collect()
    };
    let made = own(&whole);
    assert_eq!(made.len(), 9, "a header and eight lines");
    for (segment, bytes) in &made {
        let one = again(&spec, &whole, segment.name.as_str());
        assert_eq!(one.files[0].1, *bytes, "{}", segment.name);
        assert_eq!(one.files[0].0, *segment);
    }
    // A seek leaves out what is over.
    spec.inputs[0].seek_us = Some(9_000_000);
    let late = own(&run(&spec));
    assert_eq!(late.len(), 1 + 3);
    assert!(late[1].1.ends_with(b"line 5\r\n") || late[1].1.ends_with(b"line 5\n"));
    assert_eq!(late[1].0.times.unwrap().start_us, 10_000_000);
}

fn copied(index: u32) -> StreamSpec {
    StreamSpec {
        source: Source::Stream {
            input: 0,
            select: StreamSelector::Index { index },
            optional: false,
        },
        codec: CodecSpec::Copy { before_start: true },
        metadata: Vec::new(),
        forced_keys: None,
        frame_rate: None,
    }
}
