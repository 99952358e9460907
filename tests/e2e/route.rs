//! The worker has no path to the media: it reads them from the Plex host by range.

use crate::{kit::Stage, twice::had_a_beginning};
use plexbeam_tests::{
    argv,
    env::free_port,
    media::{EAC3, Film},
};

#[test]
fn films_come_by_the_media_route() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    let root = empty.path().to_str().expect("UTF-8").to_owned();
    let media = format!("127.0.0.1:{}", free_port());
    let stage = Stage::with(
        "media-route",
        &["--media-root", &root],
        &["--export-media", &media],
    );
    let film = Film {
        seconds: 20.0,
        audio: vec![EAC3],
        ..Film::default()
    };
    let mut play = stage.play(argv::line("sp-01").scaled(426, 240), &film.clip().path());
    play.seeks = vec![(2, 5)];
    stage.check(&play);
    // MP4 whose index stands behind the media: the demuxer jumps to the end and back.
    let film = Film {
        container: "mp4",
        seconds: 10.0,
        ..film
    };
    play.media = film.clip().path();
    play.seeks = vec![];
    stage.check(&play);
    // The same film again, which is known by the entity tag that the mount gave.
    stage.check(&play);
    had_a_beginning(&stage, 1);
}
