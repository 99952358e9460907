//! A whole film from its start and after a seek, in each of the packagings.

use crate::kit::Stage;
use plexbeam_tests::{
    argv::{self, Line},
    media::{AC3, Audio, Clip, EAC3, Film, HEVC10, Subtitle},
    probe,
};
use std::collections::HashMap;

fn film() -> Film {
    Film {
        seconds: 20.0,
        audio: vec![EAC3],
        ..Film::default()
    }
}

/// sp-01: software decode, libx264 with Plex's own options, E-AC-3 to stereo AAC, DASH of 3 s.
fn dash() -> Line {
    argv::line("sp-01").scaled(426, 240)
}

#[test]
fn dash_software_line() {
    let stage = Stage::new("dash");
    let report = stage.check(&stage.play(dash(), &film().clip().path()));
    assert_eq!(report.segments, 14, "seven segments of two streams");
}

/// Play three segments, seek forward to number 5 (12 s): another process, another directory.
#[test]
fn dash_after_a_seek() {
    let stage = Stage::new("dash-seek");
    let mut play = stage.play(dash(), &film().clip().path());
    play.seeks = vec![(3, 5)];
    let report = stage.check(&play);
    assert_eq!(report.jobs.len(), 2);
    assert_eq!(report.jobs[1].first_number, 5);
    assert_eq!(report.jobs[1].segments, 6, "numbers 5 to 7 of two streams");
}

/// Forward, back, and forward again, each before the job has come far.
#[test]
fn dash_after_many_seeks() {
    let stage = Stage::new("dash-seeks");
    let mut play = stage.play(dash(), &film().clip().path());
    play.seeks = vec![(1, 4), (1, 2), (1, 6)];
    let report = stage.check(&play);
    assert_eq!(report.jobs.len(), 4);
    // P7: a number has the same time and length whoever makes it and wherever the job began.
    let mut known = HashMap::new();
    for job in &report.jobs {
        for track in &job.tracks {
            for &(number, t, d) in &track.entries {
                let first = known.entry((track.id.clone(), number)).or_insert((t, d));
                assert_eq!(*first, (t, d), "stream {} number {number}", track.id);
            }
        }
    }
}

#[test]
fn mpegts_with_a_list_of_five_columns() {
    let stage = Stage::new("mpegts");
    let line = argv::mpegts_line().scaled(426, 240).segment_seconds(2);
    let report = stage.check(&stage.play(line, &film().clip().path()));
    assert_eq!(report.segments, 10);
    let rows = &report.jobs[0].rows;
    assert!(rows.iter().all(|r| r.ends.is_some()), "{rows:?}");
}

/// T = n x segment_time.
#[test]
fn mpegts_after_a_seek() {
    let stage = Stage::new("mpegts-seek");
    let line = argv::mpegts_line().scaled(426, 240).segment_seconds(2);
    let mut play = stage.play(line, &film().clip().path());
    play.seeks = vec![(2, 6)];
    let report = stage.check(&play);
    assert_eq!(report.jobs[1].rows[0].name, "media-00006.ts");
    let frame = 1.001 / 24.0;
    let start = report.jobs[1].rows[0].start;
    assert!(
        (start - 12.0).abs() <= frame,
        "row of number 6 begins at {start}"
    );
}

/// sp-02: a VAAPI line for which the worker has no device, HEVC in Matroska named `.ts`, its part
/// before the first cluster in a file of its own.
#[test]
fn matroska_with_a_header_file() {
    let stage = Stage::new("matroska");
    let film = Film {
        seconds: 8.0,
        size: (320, 180),
        ..film()
    };
    let line = argv::line("sp-02").scaled(320, 180);
    let report = stage.check(&stage.play(line, &film.clip().path()));
    assert_eq!(report.segments, 8);
    let job = &report.jobs[0];
    let kept = job.kept.as_ref().expect("copies");
    let file = |name: &str| std::fs::read(kept.join(name)).expect("a kept file");
    let whole = [file("header"), file("media-00000.ts")].concat();
    assert_eq!(probe::video_codec(&whole).as_deref(), Some("hevc"));
}

/// The same after a seek, with software names.
#[test]
fn matroska_after_a_seek() {
    let stage = Stage::new("matroska-seek");
    let film = Film {
        seconds: 12.0,
        size: (320, 180),
        ..film()
    };
    let line = argv::line("sp-02").scaled(320, 180).segment_seconds(2);
    let mut play = stage.play(line, &film.clip().path());
    play.seeks = vec![(2, 3)];
    stage.check(&play);
}

/// The line's second filter graph names the audio stream: the German track has another tone.
#[test]
fn the_chosen_audio_track_is_heard() {
    let stage = Stage::new("audio-track");
    let film = Film {
        seconds: 9.0,
        audio: vec![
            AC3,
            Audio {
                tone: 3_000,
                language: "ger",
                ..EAC3
            },
        ],
        ..film()
    };
    for (track, heard, silent) in [(1, 440, 3_000), (2, 3_000, 440)] {
        let line = dash().map(|a| a.replace("[0:1]", &format!("[0:{track}]")));
        let report = stage.check(&stage.play(line, &film.clip().path()));
        let kept = report.jobs[0].kept.clone().expect("copies");
        let file = |name: &str| std::fs::read(kept.join(name)).expect("a kept file");
        let sound = [file("init-stream1.m4s"), file("chunk-stream1-00002.m4s")].concat();
        let (heard, silent) = (
            probe::tone_level(&sound, heard, 50),
            probe::tone_level(&sound, silent, 50),
        );
        assert!(
            heard > silent + 20.0,
            "track {track}: {heard} dB against {silent} dB"
        );
    }
}

/// nv-07: an external SRT staged by PMS and muxed into Matroska as the third stream.
#[test]
fn a_staged_subtitle_file_is_muxed() {
    let stage = Stage::new("staged-srt");
    let film = Film {
        seconds: 8.0,
        size: (320, 180),
        ..film()
    };
    let line = argv::line("nv-07").scaled(320, 180);
    let report = stage.check(&stage.play(line, &film.clip().path()));
    let kept = report.jobs[0].kept.clone().expect("copies");
    let file = |name: &str| std::fs::read(kept.join(name)).expect("a kept file");
    let mut all = file("header");
    for row in &report.jobs[0].rows {
        all.extend(file(&row.name));
    }
    let lines: Vec<f64> = probe::packets_of(&all, Some("s:0"))
        .iter()
        .filter_map(|p| p.pts_time)
        .collect();
    // The staged file has a line each second, at 0.1 s; packets carry the shift of 10 s.
    let due: Vec<f64> = (0..lines.len()).map(|n| 10.1 + n as f64).collect();
    assert!(lines.len() >= 7, "{lines:?}");
    assert!(
        lines.iter().zip(&due).all(|(a, b)| (a - b).abs() < 0.002),
        "{lines:?}"
    );
}

/// cpx-262, whose source stops at the list: a seek to 224 s, an external SRT with its own `-ss`
/// turned into ASS, Opus, and the film's fonts copied along.
#[test]
fn staged_subtitles_become_ass_after_a_seek() {
    let stage = Stage::new("cpx-262");
    let film = Film {
        seconds: 240.0,
        size: (96, 54),
        audio: vec![AC3],
        attachments: true,
        ..Film::default()
    };
    let mut line = argv::line("cpx-262").scaled(96, 54);
    let url = "http://127.0.0.1:32400/video/:/transcode/session/abc/def";
    let tail = argv::mpegts_line();
    let from = tail.argv.iter().position(|a| a == "-segment_list");
    let from = from.expect("the line has a list");
    line.argv.extend_from_slice(&tail.argv[from..]);
    let list = line
        .argv
        .iter()
        .position(|a| a == "-segment_list")
        .expect("a list")
        + 1;
    line.argv[list] = format!("{url}/manifest?X-Plex-Http-Pipeline=infinite");
    line.argv
        .extend(["-segment_format_options", "output_ts_offset=10"].map(str::to_owned));
    let name = line
        .argv
        .iter()
        .position(|a| a == "media-%05d.ts")
        .expect("a name");
    line.argv.remove(name);
    line.argv.push("media-%05d.ts".into());
    line.argv
        .extend(["-progressurl".to_owned(), format!("{url}/progress")]);
    line.argv.extend(
        [
            "-start_at_zero",
            "-copyts",
            "-y",
            "-nostats",
            "-loglevel",
            "quiet",
        ]
        .map(str::to_owned),
    );
    let mut play = stage.play(line, &film.clip().path());
    play.subtitles = plexbeam_tests::media::srt_text(240);
    let report = stage.check(&play);
    let job = &report.jobs[0];
    assert_eq!(job.rows[0].name, "media-00028.ts");
    assert_eq!(job.rows.len(), 2, "224 to 240 s in segments of 8 s");
    let kept = job.kept.clone().expect("copies");
    let file = |name: &str| std::fs::read(kept.join(name)).expect("a kept file");
    let mut all = file("header");
    for row in &job.rows {
        all.extend(file(&row.name));
    }
    let streams = probe::streams_of(&all);
    let kinds: Vec<&str> = streams.iter().map(|s| s.codec_name.as_str()).collect();
    assert_eq!(kinds[..3], ["h264", "opus", "ass"], "{kinds:?}");
    assert!(
        streams.iter().any(|s| s.codec_type == "attachment"),
        "the font was not copied: {kinds:?}"
    );
    let lines: Vec<f64> = probe::packets_of(&all, Some("s:0"))
        .iter()
        .filter_map(|p| p.pts_time)
        .collect();
    let due: Vec<f64> = (224..240).map(|n| 10.1 + f64::from(n)).collect();
    assert_eq!(lines.len(), due.len(), "{lines:?}");
    assert!(
        lines.iter().zip(&due).all(|(a, b)| (a - b).abs() < 0.02),
        "{lines:?}"
    );
}

/// A source without a constant rate: what is missing is filled, as ffmpeg does.
#[test]
fn a_variable_rate_becomes_constant() {
    let stage = Stage::new("vfr");
    let video =
        "testsrc2=size=320x180:rate=24:duration=9,select='gt(mod(n,7),1)*lt(mod(n,50),41)+not(n)'";
    let film = Clip::custom(
        "vfr",
        "mkv",
        &[
            "-f",
            "lavfi",
            "-i",
            video,
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=440:sample_rate=48000:duration=9",
            "-fps_mode",
            "vfr",
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-bf",
            "2",
            "-g",
            "48",
            "-pix_fmt",
            "yuv420p",
            "-c:a",
            "ac3",
        ],
    );
    let line = dash().scaled(320, 180).with("-r:0", "24");
    stage.check(&stage.play(line, &film.path()));
}

/// HEVC Main 10 from an MPEG-TS whose clock does not begin at zero, odd rate.
#[test]
fn odd_sources_come_out_on_the_grid() {
    let stage = Stage::new("odd");
    for film in odd_films() {
        let play = stage.play(odd_line(&film), &film.clip().path());
        stage.check(&play);
    }
}

#[test]
fn odd_sources_are_sought_on_the_grid() {
    let stage = Stage::new("odd-seek");
    for film in odd_films() {
        let mut play = stage.play(odd_line(&film), &film.clip().path());
        play.seeks = vec![(1, 2)];
        stage.check(&play);
    }
}

fn odd_line(film: &Film) -> Line {
    let line = dash().scaled(320, 180);
    match film.rate {
        "25" => line.with("-r:0", "25"),
        _ => line,
    }
}

fn odd_films() -> [Film; 4] {
    [
        Film {
            video: HEVC10.to_vec(),
            container: "mp4",
            seconds: 8.0,
            size: (320, 180),
            ..film()
        },
        Film {
            container: "ts",
            seconds: 8.0,
            size: (320, 180),
            rate: "25",
            audio: vec![AC3],
            ..film()
        },
        Film {
            late_video: 1.5,
            seconds: 9.0,
            size: (320, 180),
            ..film()
        },
        Film {
            seconds: 8.0,
            size: (320, 180),
            subtitles: vec![Subtitle::Srt, Subtitle::Ass],
            attachments: true,
            ..film()
        },
    ]
}
