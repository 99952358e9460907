//! Segments, numbers and times.

use crate::kit::*;
use plexbeam_api::{
    Event, Problem, Segment,
    job::{CodecSpec, Container, Source, StreamSpec},
};
use plexbeam_worker::{
    input::InputPolicy,
    pipeline::{self, Control, Sink},
};

/// P7: what a seek makes is what the run from the start makes, number by number, and it decodes on
/// the other's init segment.
#[test]
fn a_seek_continues_the_same_timeline() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 20, &[]);
    let whole = run(&job(&path, None, dash(1), 3.0));
    assert_eq!(whole.media(Some(0)).len(), 7);
    assert_eq!(whole.media(Some(1)).len(), 7);
    for k in [2_u32, 4, 7] {
        let seek = i64::from(k - 1) * 3_000_000;
        let late = run(&job(&path, Some(seek), dash(k), 3.0));
        for rendition in [Some(0), Some(1)] {
            let (whole_media, late_media) = (whole.media(rendition), late.media(rendition));
            assert_eq!(late_media.len(), whole_media.len() - (k as usize - 1));
            for (late_part, whole_part) in late_media.iter().zip(&whole_media[k as usize - 1..]) {
                assert_eq!(late_part.0.name, whole_part.0.name);
                assert_eq!(late_part.0.pts, whole_part.0.pts, "{}", late_part.0.name);
                assert_eq!(
                    late_part.0.duration, whole_part.0.duration,
                    "{}",
                    late_part.0.name
                );
                decodes(dir.path(), &[whole.head(rendition), &late_part.1]);
            }
        }
        let video = |m: &Memory, skip: usize| {
            let parts: Vec<&[u8]> = std::iter::once(m.head(Some(0)))
                .chain(m.media(Some(0)).iter().skip(skip).map(|p| p.1.as_slice()))
                .collect();
            packets(dir.path(), "v", &parts)
        };
        assert_eq!(video(&late, 0), video(&whole, k as usize - 1));
    }
}

/// Number and time of every frame as the ffmpeg CLI makes them from the same list of keys.
#[test]
fn frames_equal_those_of_ffmpeg() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 20, &[]);
    let ours = run(&job(&path, None, dash(1), 3.0));
    let reference = dir
        .path()
        .join("reference.mp4")
        .to_str()
        .unwrap()
        .to_owned();
    ffmpeg(&[
        "-i",
        &path,
        "-map",
        "0:0",
        "-start_at_zero",
        "-copyts",
        "-fps_mode",
        "cfr",
        "-r",
        "23.975999999999999",
        "-vf",
        "scale=256:144",
        "-c:v",
        "libx264",
        "-preset",
        "veryfast",
        "-force_key_frames",
        "0,3,6,9,12,15,18",
        &reference,
    ]);
    let parts: Vec<&[u8]> = std::iter::once(ours.head(Some(0)))
        .chain(ours.media(Some(0)).iter().map(|p| p.1.as_slice()))
        .collect();
    let ours = packets(dir.path(), "v", &parts);
    let theirs = probe(&reference, "v");
    close(&times(&ours), &times(&theirs), 0.001);
    let keys =
        |rows: &[(f64, bool)]| -> Vec<f64> { rows.iter().filter(|r| r.1).map(|r| r.0).collect() };
    close(&keys(&ours), &keys(&theirs), 0.001);
}

/// Packets carry the 10 s of `max_delay` or `output_ts_offset`, rows do not; each segment decodes
/// alone and all of them as one stream.
#[test]
fn muxed_segments_are_shifted_and_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 14, &[]);
    for (container, header) in [
        (Container::MpegTs, None),
        (Container::Matroska, Some("header")),
    ] {
        for (seek, first) in [(None, 0), (Some(6_000_000), 2)] {
            let mut spec = job(&path, seek, segments(container, first, header), 3.0);
            if container == Container::Matroska {
                let shift = ("output_ts_offset".to_owned(), "10".to_owned());
                spec.outputs[0].muxer_options.push(shift);
            }
            let made = run(&spec);
            let media = made.media(None);
            assert_eq!(media.len(), 5 - first as usize);
            let mut all = vec![made.head(None)];
            for (at, (segment, bytes)) in media.iter().enumerate() {
                let number = first + at as u32;
                assert_eq!(segment.name.as_str(), format!("media-{number:05}.ts"));
                decodes(dir.path(), &[made.head(None), bytes]);
                let video = packets(dir.path(), "v", &[made.head(None), bytes]);
                let row = segment.times.unwrap();
                let start = row.start_us as f64 / 1e6;
                assert!(
                    (start - f64::from(number) * 3.0).abs() < 1.0 / 23.0,
                    "{start}"
                );
                assert!(
                    (video[0].0 - 10.0 - start).abs() < 0.002,
                    "{} {start}",
                    video[0].0
                );
                assert!(video[0].1, "a segment starts with a key");
                assert!(!packets(dir.path(), "a", &[made.head(None), bytes]).is_empty());
                all.push(bytes);
            }
            decodes(dir.path(), &all);
        }
    }
}

/// Copied video: cuts at keys by the rule of PROTOCOL 7.1, from the key at or before the seek.
#[test]
fn copied_video_is_cut_at_its_own_keys() {
    let dir = tempfile::tempdir().unwrap();
    let keys = "0,7.1,14.2,21.3,28.4";
    let extra = [
        "-x264-params",
        "keyint=infinite:scenecut=0",
        "-force_key_frames",
        keys,
    ];
    for name in ["clip.mkv", "clip.mp4", "clip.ts"] {
        let path = clip(dir.path(), name, 32, &extra);
        for (seek, first, starts) in [
            (None, 1, &[0.0, 7.1, 14.2, 21.3, 28.4][..]),
            (Some(15_000_000), 6, &[14.2, 21.3, 28.4]),
        ] {
            let mut spec = job(&path, seek, dash(first), 3.0);
            spec.inputs[0].accurate_seek = false;
            spec.outputs[0].streams[0] = StreamSpec {
                source: Source::Stream {
                    input: 0,
                    select: plexbeam_api::job::StreamSelector::Index { index: 0 },
                    optional: false,
                },
                codec: CodecSpec::Copy { before_start: true },
                metadata: Vec::new(),
                forced_keys: None,
                frame_rate: None,
            };
            let made = run(&spec);
            let media = made.media(Some(0));
            let found: Vec<f64> = media
                .iter()
                .map(|(s, _)| s.pts as f64 / f64::from(s.time_scale))
                .collect();
            close(&found, starts, 0.1);
            assert_eq!(media[0].0.number, Some(first));
            let sound = made.media(Some(1));
            assert_eq!(sound.len(), media.len(), "audio is cut with the video");
            let heard: Vec<f64> = sound
                .iter()
                .map(|(s, _)| s.pts as f64 / f64::from(s.time_scale))
                .collect();
            // Cut by decoding time: two frames and a packet before the key at most.
            close(&heard, starts, 0.2);
            for (_, bytes) in &media {
                decodes(dir.path(), &[made.head(Some(0)), bytes]);
            }
        }
    }
}

/// No silent short film: each broken input ends in a reason.
#[test]
fn broken_inputs_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let whole = clip(dir.path(), "clip.mkv", 30, &[]);
    let bytes = std::fs::read(&whole).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cut = write("cut.mkv", &bytes[..bytes.len() / 2]);
    let empty = write("empty.mkv", b"");
    let noise: Vec<u8> = (0..200_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let noise = write("noise.mkv", &noise);
    let text = write("text.mkv", b"this is no film\n");
    let playlist = write(
        "list.m3u8",
        format!("#EXTM3U\n#EXTINF:1,\n{whole}\n").as_bytes(),
    );
    let concat = write(
        "list.ffconcat",
        format!("ffconcat version 1.0\nfile {whole}\n").as_bytes(),
    );
    let missing = dir.path().join("missing.mkv").to_str().unwrap().to_owned();
    for path in [&cut, &empty, &noise, &text, &playlist, &concat, &missing] {
        let problem = try_run(&job(path, None, dash(1), 3.0))
            .map(|_| ())
            .unwrap_err();
        assert_eq!(
            problem.kind,
            plexbeam_api::Kind::BadInput,
            "{path}: {problem}"
        );
        let name = path.rsplit('/').next().unwrap();
        assert!(problem.detail.contains(name), "{problem}");
    }
}

#[test]
fn a_late_video_is_filled_from_zero_and_probed_facts_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let plain = clip(dir.path(), "plain.mkv", 8, &[]);
    let late = dir.path().join("late.mkv").to_str().unwrap().to_owned();
    ffmpeg(&[
        "-itsoffset",
        "1.5",
        "-i",
        &plain,
        "-i",
        &plain,
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c",
        "copy",
        &late,
    ]);
    let made = run(&job(&late, None, dash(1), 3.0));
    let (first, bytes) = made.media(Some(0))[0];
    assert_eq!(first.pts, 0);
    let rows = packets(dir.path(), "v", &[made.head(Some(0)), bytes]);
    assert!(
        rows[0].0.abs() < 0.001 && rows.len() == 72,
        "{} from {}",
        rows.len(),
        rows[0].0
    );
    let probed = made.probed();
    assert_eq!(
        (probed.pictures[0].width, probed.pictures[0].height),
        (256, 144)
    );
    assert_eq!(probed.streams.len(), 2);
    assert_eq!(probed.streams[1].codec, "ac3");
    assert_eq!(probed.streams[1].channels, Some(6));
}

/// AVI has decoding times only: a key is found, and started from, all the same.
#[test]
fn a_seek_in_a_container_without_presentation_times() {
    let dir = tempfile::tempdir().unwrap();
    let plain = clip(dir.path(), "plain.mkv", 12, &[]);
    let path = dir.path().join("old.avi").to_str().unwrap().to_owned();
    ffmpeg(&[
        "-i", &plain, "-c:v", "mpeg4", "-bf", "2", "-g", "48", "-c:a", "mp3", "-ac", "2", &path,
    ]);
    let made = run(&job(&path, Some(6_000_000), dash(3), 3.0));
    let media = made.media(Some(0));
    let starts: Vec<f64> = media
        .iter()
        .map(|(s, _)| s.pts as f64 / f64::from(s.time_scale))
        .collect();
    close(&starts, &[6.0, 9.0], 1.0 / 23.0);
    assert_eq!(made.media(Some(1)).len(), media.len());
    for (_, bytes) in &media {
        decodes(dir.path(), &[made.head(Some(0)), bytes]);
    }
}

/// Sound that starts late, pauses or ends early is silence there: every segment has its sound.
#[test]
fn missing_sound_is_silence() {
    let dir = tempfile::tempdir().unwrap();
    let plain = clip(dir.path(), "plain.mkv", 40, &[]);
    let gaps = dir.path().join("gaps.mkv").to_str().unwrap().to_owned();
    // 5 s of sound, from 14 s on, in 40 s of pictures.
    ffmpeg(&[
        "-i",
        &plain,
        "-itsoffset",
        "14",
        "-t",
        "5",
        "-i",
        &plain,
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c",
        "copy",
        &gaps,
    ]);
    for (seek, first) in [(None, 1), (Some(24_000_000), 9)] {
        let made = run(&job(&gaps, seek, dash(first), 3.0));
        let (video, sound) = (made.media(Some(0)), made.media(Some(1)));
        assert_eq!(video.len(), sound.len());
        for (at, (segment, bytes)) in sound.iter().enumerate() {
            let start = segment.pts as f64 / f64::from(segment.time_scale);
            let wanted = (first - 1 + at as u32) as f64 * 3.0;
            assert!((start - wanted).abs() < 0.2, "{start} for {wanted}");
            decodes(dir.path(), &[made.head(Some(1)), bytes]);
        }
    }
}

#[test]
fn a_cancelled_job_ends_soon_and_says_so() {
    struct Cancelling(std::sync::Arc<Control>);
    impl Sink for Cancelling {
        fn event(&mut self, _: Event) -> Result<(), Problem> {
            Ok(())
        }
        fn publish(&mut self, _: Segment, _: Vec<u8>) -> Result<(), Problem> {
            self.0.cancel();
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 20, &[]);
    let control = Control::new();
    let mut sink = Cancelling(std::sync::Arc::clone(&control));
    let problem = pipeline::run(
        &job(&path, None, dash(1), 3.0),
        &InputPolicy::default(),
        &mut sink,
        &control,
    )
    .unwrap_err();
    assert_eq!(problem.kind, plexbeam_api::Kind::Cancelled);
}

/// A subtitle without an end, which Matroska writes as one of an hour: the title ends where pictures and
/// sound do, and a film that is cut off is still seen to be.
#[test]
fn a_subtitle_without_an_end_makes_no_title_longer() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text.srt").to_str().unwrap().to_owned();
    std::fs::write(&text, "1\n00:00:01,000 --> 01:00:00,000\nno end\n\n").unwrap();
    let plain = clip(dir.path(), "plain.mkv", 8, &[]);
    let film = dir.path().join("film.mkv").to_str().unwrap().to_owned();
    ffmpeg(&[
        "-i", &plain, "-i", &text, "-c", "copy", "-c:s", "srt", &film,
    ]);
    let made = run(&job(&film, None, dash(1), 3.0));
    let (last, _) = made.media(Some(1)).pop().unwrap();
    let end = (last.pts as f64 + last.duration as f64) / f64::from(last.time_scale);
    assert!((end - 8.0).abs() < 0.1, "sound ends at {end} s");

    let plain = clip(dir.path(), "long.mkv", 80, &[]);
    let whole = dir.path().join("whole.mkv").to_str().unwrap().to_owned();
    ffmpeg(&[
        "-i", &plain, "-i", &text, "-c", "copy", "-c:s", "srt", &whole,
    ]);
    let bytes = std::fs::read(&whole).unwrap();
    let cut = dir.path().join("cut.mkv").to_str().unwrap().to_owned();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let problem = try_run(&job(&cut, None, dash(1), 3.0))
        .map(|_| ())
        .unwrap_err();
    assert_eq!(problem.kind, plexbeam_api::Kind::BadInput, "{problem}");
}
