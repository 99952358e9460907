//! A second output: ASS subtitles as segments with a list of their own (PROTOCOL 5, 7.2).

use crate::kit::Stage;
use plexbeam_tests::{
    argv,
    media::{Audio, EAC3, Film, Subtitle},
};
use std::{path::Path, process::Command};

/// What ffmpeg makes of the stream: header and events.
fn reference(film: &Path, map: &str) -> (Vec<String>, Vec<String>) {
    let output = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i"])
        .arg(film)
        .args(["-map", map, "-c:s", "ass", "-f", "ass", "-"])
        .output()
        .expect("ffmpeg runs");
    let text = String::from_utf8(output.stdout).expect("ASS is UTF-8");
    let lines = text.trim().lines().map(str::to_owned);
    let (events, header) = lines.partition(|l| l.starts_with("Dialogue: "));
    (header, events)
}

/// mc-08 from the start and after a seek: every event once, in order, word for word as ffmpeg
/// writes it, whether the source is ASS or SubRip.
#[test]
fn subtitles_have_segments_of_their_own() {
    let stage = Stage::new("side");
    for (source, map) in [(Subtitle::Ass, "0:3"), (Subtitle::Srt, "0:3")] {
        let film = Film {
            seconds: 24.0,
            size: (160, 90),
            audio: vec![Audio {
                channels: 2,
                ..EAC3
            }],
            subtitles: vec![source, source],
            ..Film::default()
        }
        .clip()
        .path();
        let (header, events) = reference(&film, map);
        assert_eq!(events.len(), 24);
        let mut play = stage.play(argv::line("mc-08"), &film);
        play.seeks = vec![(2, 4)];
        let report = stage.check(&play);
        for (job, seek) in report.jobs.iter().zip([0, 15]) {
            let rows = &job.side.rows;
            let got: Vec<&str> = rows.iter().flat_map(|r| r.text.lines()).collect();
            // The first process was killed in the middle.
            let due = &events[seek..];
            assert!(got.len() <= due.len(), "{got:#?}");
            assert_eq!(got, due[..got.len()]);
        }
        let last = &report.jobs[1].side;
        let text = last.header.clone().unwrap_or_default();
        assert_eq!(text.trim().lines().collect::<Vec<_>>(), header);
        let got: usize = last.rows.iter().map(|r| r.text.lines().count()).sum();
        assert_eq!(got, 24 - 15, "{last:#?}");
        assert_eq!(last.rows[0].name, "sub-chunk-00000", "numbers begin at 0");
    }
}
