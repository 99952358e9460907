//! Copied video with transcoded audio: segments follow the source's keys (PROTOCOL 7.1).

use crate::kit::Stage;
use plexbeam_tests::{
    argv,
    media::{EAC3, Film, HEVC10, Subtitle},
};

fn film(gop: f64) -> Film {
    Film {
        seconds: 40.0,
        gop,
        size: (320, 180),
        audio: vec![EAC3],
        ..Film::default()
    }
}

/// mc-01 (D = 5) on keys that are closer than D, wider, and much wider; from the start and after a
/// seek, where the job begins at the key at or before it.
fn from_start_and_after_a_seek(name: &str, gop: f64) {
    let stage = Stage::new(name);
    let film = film(gop).clip().path();
    let mut play = stage.play(argv::line("mc-01"), &film);
    stage.check(&play);
    play.seeks = vec![(1, 4)];
    let report = stage.check(&play);
    assert_eq!(report.jobs[1].first_number, 4);
}

#[test]
fn keys_each_2_seconds() {
    from_start_and_after_a_seek("copy-2", 2.0);
}

#[test]
fn keys_each_7_seconds() {
    from_start_and_after_a_seek("copy-7", 7.1);
}

#[test]
fn keys_each_10_seconds() {
    from_start_and_after_a_seek("copy-10", 10.4);
}

/// nv-06: HEVC copied into Matroska with an ASS track beside it.
#[test]
fn hevc_with_subtitles_in_matroska() {
    let stage = Stage::new("copy-hevc");
    let film = Film {
        seconds: 25.0,
        video: HEVC10.to_vec(),
        subtitles: vec![Subtitle::Ass],
        ..film(2.0)
    };
    // Shorter segments and fewer bits than the line's 10 s and 774 kb/s, for which libav's AAC
    // encoder needs 0.4 s of a core per second of 5.1; a client waits 20 s on any machine.
    let line = argv::line("nv-06").segment_seconds(4).with("-b:1", "256k");
    stage.check(&stage.play(line, &film.clip().path()));
}
