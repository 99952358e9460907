//! `canThrottle`: the job goes slow while PMS asserts it, and never stops (PROTOCOL 6.4).

use crate::kit::Stage;
use plexbeam_tests::{
    argv, fake_pms,
    fake_pms::{End, Pace},
    media::Film,
};
use rustix::process::Signal;

#[test]
fn the_lead_stays_bounded_while_a_client_watches() {
    let stage = Stage::new("throttle");
    let film = Film {
        seconds: 10.0,
        size: (320, 180),
        ..Film::default()
    };
    let film = film.clip().looped(600.0).path();
    let line = argv::line("sp-01").scaled(320, 180);
    let mut play = stage.play(line, &film);
    play.keep = None;
    play.pace = Pace::Times(2.0);
    play.throttle_ahead = 15.0;
    play.end = End::Stop {
        after: 12,
        signal: Signal::TERM,
    };
    let report = fake_pms::play(&play).expect("a play");
    report.assert_clean();
    let job = &report.jobs[0];
    assert!(job.throttled > 0, "PMS never had to slow it");
    // Unthrottled, the encoder is hundreds of seconds ahead by then. A progress call each half
    // second, one segment in flight, and what stands in queues may come on top of the threshold.
    assert!(
        job.most_ahead < 90.0,
        "{} s ahead of the client, {} throttled replies",
        job.most_ahead,
        job.throttled
    );
}

/// PMS's own rule, over and over: slowed above 60 s ahead of the client, let go below 30 s.
#[test]
#[ignore = "minutes long; run by make torture"]
fn torture_rounds_of_throttling_neither_starve_nor_run_away() {
    let stage = Stage::new("throttle-rounds");
    let film = Film {
        seconds: 10.0,
        size: (320, 180),
        ..Film::default()
    };
    let film = film.clip().looped(900.0).path();
    let line = argv::line("sp-01").scaled(320, 180);
    let mut play = stage.play(line, &film);
    play.keep = None;
    play.pace = Pace::Times(4.0);
    play.throttle_ahead = 60.0;
    // 140 segments of 3 s; a round drains and fills up to 100 s.
    play.end = End::Stop {
        after: 140,
        signal: Signal::TERM,
    };
    let report = fake_pms::play(&play).expect("a play");
    report.assert_clean();
    let job = &report.jobs[0];
    let told = format!(
        "{} rounds, {} throttled replies, at most {:.0} s ahead, waited {} times",
        job.released, job.throttled, job.most_ahead, job.waited
    );
    println!("{told}");
    assert!(job.released >= 3, "{told}");
    assert_eq!(job.waited, 0, "the player starved: {told}");
    // Unthrottled, the encoder is at the film's end, hundreds of seconds ahead. A progress call each
    // half second, one segment in flight, and what stands in queues may come on top of the threshold.
    assert!(job.most_ahead < 135.0, "{told}");
}
