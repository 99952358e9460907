//! All complete segmented command lines that real servers wrote, as they stand but for the picture's
//! size, each on a film that reaches beyond its seek.

use crate::kit::{Stage, cartridge_log};
use plexbeam_tests::{
    argv::{Line, recorded},
    fake_pms,
    media::{Audio, EAC3, Film, Subtitle},
};
use std::{fs, path::PathBuf};

/// Lines that may run locally, and why (the list).
const LOCAL: [(&str, &str); 0] = [];

/// Films with everything the lines map: sound at 0:1, subtitles at 0:2 and 0:3.
fn film(line: &Line) -> PathBuf {
    let short = Film {
        seconds: 12.0,
        size: (160, 90),
        rate: "24",
        audio: vec![Audio {
            channels: 2,
            ..EAC3
        }],
        subtitles: vec![Subtitle::Ass, Subtitle::Ass],
        ..Film::default()
    };
    match line.shape().ok().and_then(|s| s.seek) {
        None => short.clip().path(),
        Some(seek) => short.clip().looped(seek + 12.0).path(),
    }
}

#[test]
fn recorded_lines_run_remotely() {
    let stage = Stage::new("corpus");
    let mut table = String::new();
    let mut wrong = Vec::new();
    let mut ran = 0;
    let lines: Vec<Line> = recorded()
        .into_iter()
        .filter(|l| l.server == "plex" && l.complete && l.shape().is_ok())
        .collect();
    assert_eq!(lines.len(), 27);
    for line in lines {
        let id = line.id.clone();
        let allowed = LOCAL.iter().find(|(l, _)| *l == id).map(|(_, why)| *why);
        let media = film(&line);
        let mut play = stage.play(line.scaled(160, 90), &media);
        play.keep = None;
        let report = fake_pms::play(&play).expect("a play");
        let local = stage.original().exists();
        let _ = fs::remove_file(stage.original());
        let verdict = match (local, allowed) {
            (true, Some(why)) => format!("local: {why}"),
            (true, None) => {
                wrong.push(format!("{id} ran locally:\n{}", cartridge_log(&stage.env)));
                "LOCAL".to_owned()
            }
            (false, _) if report.violations.is_empty() => {
                ran += 1;
                format!(
                    "remote: {} segments, first after {} ms",
                    report.segments,
                    report.ttfs_ms.unwrap_or_default()
                )
            }
            (false, _) => {
                wrong.push(format!("{id}: {}", report.explain()));
                "FAULTS".to_owned()
            }
        };
        table.push_str(&format!("{id:<18} {verdict}\n"));
    }
    println!("{table}{ran} of 27 ran remotely");
    assert!(wrong.is_empty(), "{table}\n{}", wrong.join("\n"));
    assert_eq!(ran, 27, "{table}");
}
