//! PMS ends its transcoders by SIGKILL and removes their directories at once (PROTOCOL 1.2).

use crate::kit::Stage;
use plexbeam_api::SessionState;
use plexbeam_tests::{
    argv,
    fake_pms::{self, End},
    media::Film,
    wait,
};
use rustix::process::Signal;
use std::{fs, time::Duration};

fn long_film() -> std::path::PathBuf {
    let film = Film {
        seconds: 10.0,
        size: (640, 360),
        ..Film::default()
    };
    film.clip().looped(1200.0).path()
}

/// The owner is gone: its job is held within 5 s and freed after 30 s. The directory stays, so that
/// nothing but the lease tells.
#[test]
fn an_orphaned_job_is_held_and_then_freed() {
    let stage = Stage::new("orphan");
    let film = long_film();
    let line = argv::line("sp-01").scaled(640, 360);
    let mut play = stage.play(line, &film);
    play.end = End::Stop {
        after: 2,
        signal: Signal::KILL,
    };
    play.remove = false;
    let report = fake_pms::play(&play).expect("a play");
    report.assert_clean();
    let state = || {
        let sessions = stage.worker.sessions();
        sessions.first().map(|s| s.state)
    };
    // P5: 5 s, and the bound of one look at it.
    wait::until("the job is paused", Duration::from_secs(8), || {
        assert_ne!(
            state(),
            Some(SessionState::Completed),
            "the film is too short"
        );
        (state() == Some(SessionState::Paused)).then_some(())
    });
    wait::until("the job is freed", Duration::from_secs(45), || {
        state().is_none_or(|s| s.is_end()).then_some(())
    });
}

/// The same with the directory removed at once: the session ends with its directory.
#[test]
fn removing_the_directory_ends_the_session() {
    let stage = Stage::new("removed");
    let line = argv::line("sp-01").scaled(640, 360);
    for signal in [Signal::KILL, Signal::TERM] {
        let mut play = stage.play(line.clone(), &long_film());
        play.end = End::Stop { after: 3, signal };
        let report = fake_pms::play(&play).expect("a play");
        report.assert_clean();
        assert!(!stage.original().exists(), "ran locally");
        wait::until("the session ends", Duration::from_secs(10), || {
            let sessions = stage.worker.sessions();
            sessions
                .iter()
                .all(|s| s.state.is_end() || s.state == SessionState::Paused)
                .then_some(())
        });
    }
}

/// A hundred kills while segments are being published: `rm -r` succeeds every time, and nothing of
/// what was removed comes back.
#[test]
fn a_hundred_removals_in_a_publish_storm() {
    let stage = Stage::with("storm", &["--max-jobs", "64"], &[]);
    let film = Film {
        seconds: 30.0,
        size: (96, 54),
        rate: "24",
        gop: 1.0,
        ..Film::default()
    };
    let film = film.clip().path();
    // A segment each second of film, many of them each second of the clock.
    let line = argv::line("sp-01")
        .scaled(96, 54)
        .with("-r:0", "24")
        .segment_seconds(1);
    let mut faults = Vec::new();
    for round in 0..100 {
        let mut play = stage.play(line.clone(), &film);
        play.keep = None;
        play.end = End::Stop {
            after: 1 + round % 5,
            signal: Signal::KILL,
        };
        let report = fake_pms::play(&play).expect("a play");
        faults.extend(
            report
                .violations
                .iter()
                .map(|v| format!("round {round}: {v}")),
        );
        let sessions = stage.mount.point.join("Transcode/Sessions");
        let left: Vec<_> = fs::read_dir(sessions)
            .expect("list the sessions")
            .map(|e| e.expect("an entry").file_name())
            .collect();
        if !left.is_empty() {
            faults.push(format!("round {round}: {left:?} is there again"));
        }
        assert!(!stage.original().exists(), "round {round} ran locally");
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// PMS closes the child's pipes after a while (PROTOCOL 1.10).
#[test]
fn closed_pipes_are_no_reason_to_die() {
    let stage = Stage::new("pipes");
    let film = Film {
        seconds: 20.0,
        size: (320, 180),
        ..Film::default()
    };
    let mut play = stage.play(argv::line("sp-01").scaled(320, 180), &film.clip().path());
    play.close_pipes = true;
    stage.clean(&play);
}
