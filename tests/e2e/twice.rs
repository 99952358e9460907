//! A film that is played once more begins with the segments of the first time, and goes on with them.

use crate::kit::Stage;
use plexbeam_tests::{
    argv,
    media::{EAC3, Film},
};

/// This many jobs began with files of an earlier one, and made the same ones.
#[track_caller]
pub(crate) fn had_a_beginning(stage: &Stage, jobs: usize) {
    let log = stage.worker.process.log();
    assert_eq!(
        log.matches("are kept of an earlier job like this").count(),
        jobs,
        "{log}"
    );
    assert!(!log.contains("not the same as in an earlier"), "{log}");
}

#[test]
fn a_film_played_again_is_the_same_film() {
    let stage = Stage::new("twice");
    let film = Film {
        seconds: 20.0,
        audio: vec![EAC3],
        ..Film::default()
    };
    // DASH with two renditions, and Matroska, whose header differs from making to making.
    for (name, before, after) in [("sp-01", 0, 2), ("sp-02", 2, 2)] {
        let mut play = stage.play(argv::line(name).scaled(426, 240), &film.clip().path());
        play.seeks = vec![(2, 3)];
        stage.check(&play);
        had_a_beginning(&stage, before);
        stage.check(&play);
        had_a_beginning(&stage, after);
    }
}
