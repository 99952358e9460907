//! A child that dies, hangs or lies costs its own job only.

use super::bench::*;
use plexbeam_api::{Kind, Problem, SessionState};
use std::time::Duration;

async fn failure(bench: &Bench, id: &str) -> Problem {
    let status = bench.until_state(id, SessionState::Failed).await;
    status.error.unwrap()
}

#[tokio::test]
async fn every_death_is_told_with_its_last_words() {
    let bench = Bench::new();
    bench.start("crash", &["crash"]).await;
    bench.start("panic", &["panic"]).await;
    bench.start("exit", &["exit"]).await;
    let crash = failure(&bench, "crash").await;
    assert_eq!(crash.kind, Kind::Internal);
    assert!(crash.detail.contains("signal 6"), "{crash}");
    assert!(crash.detail.contains("was the last straw"), "{crash}");
    assert!(
        !crash.detail.contains("5ec2e7"),
        "a signature leaked: {crash}"
    );
    let panic = failure(&bench, "panic").await;
    assert!(panic.detail.contains("a stage went wrong"), "{panic}");
    let exit = failure(&bench, "exit").await;
    assert!(exit.detail.contains("code 7"), "{exit}");
    // The places are free again.
    bench.start("next", &["seg:0:1:10"]).await;
    bench.until_state("next", SessionState::Completed).await;
}

#[tokio::test]
async fn a_child_that_is_stopped_is_not_waited_for() {
    let bench = Bench::with(|config| config.child.silence = Duration::from_millis(3000));
    bench.start("j", &["probed", "deaf"]).await;
    until("the device", || async {
        bench.peek("j").await.filter(|s| s.device.is_some())
    })
    .await;
    // Deaf, but its process lives: no reason to end it.
    tokio::time::sleep(Duration::from_millis(3300)).await;
    assert_eq!(bench.peek("j").await.unwrap().state, SessionState::Running);
    let pids = bench.children();
    assert!(!pids.is_empty());
    for pid in &pids {
        signal("STOP", *pid);
    }
    let problem = failure(&bench, "j").await;
    assert!(problem.detail.contains("no sign of life"), "{problem}");
    until("the process to go", || async {
        let left = bench.children();
        pids.iter().any(|pid| !left.contains(pid)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_job_that_stands_still_is_ended_and_says_so() {
    let bench = Bench::with(|config| config.child.stall = Duration::from_millis(600));
    bench.start("j", &["probed", "deaf"]).await;
    let problem = failure(&bench, "j").await;
    assert!(problem.detail.contains("stood still"), "{problem}");
    bench.start("next", &["seg:0:1:10"]).await;
    bench.until_state("next", SessionState::Completed).await;
}

#[tokio::test]
async fn a_job_that_waits_for_room_does_not_stand_still() {
    let stall = Duration::from_millis(400);
    let bench = Bench::with(|config| {
        config.child.stall = stall;
        config.store.ceiling = 64 << 10;
    });
    bench.start("j", &["seg:0:4:32000"]).await;
    until("the spool to be full", || async {
        bench.peek("j").await.filter(|s| s.segments >= 1)
    })
    .await;
    // Far longer than a job may stand still.
    tokio::time::sleep(4 * stall).await;
    let status = bench.peek("j").await.unwrap();
    assert_eq!(status.state, SessionState::Running, "{status:?}");
}

#[tokio::test]
async fn a_deaf_child_is_killed_when_its_job_is_cancelled() {
    let bench = Bench::with(|config| config.child.cancel_grace = Duration::from_millis(200));
    bench.start("j", &["probed", "deaf"]).await;
    until("the device", || async {
        bench.peek("j").await.filter(|s| s.device.is_some())
    })
    .await;
    bench.delete("/transcode/j").await;
    assert_eq!(
        bench.peek("j").await.unwrap().state,
        SessionState::Cancelled
    );
    until("the place to be free", || async {
        (bench.get("/health").await.json()["active"] == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_not_what_was_announced_fails_the_job() {
    let bench = Bench::new();
    bench.start("j", &["lie"]).await;
    let problem = failure(&bench, "j").await;
    assert_eq!(problem.kind, Kind::Internal);
    let files = bench.get("/sessions/j/files").await.json();
    assert_eq!(files, serde_json::json!([]));
    until("its bytes to go", || async {
        (on_disk(&bench.sessions_dir()) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_program_that_is_no_child_fails_the_job_and_not_the_worker() {
    let bench = Bench::with(|config| config.child.program = "/bin/true".into());
    bench.start("ends", &[]).await;
    assert_eq!(failure(&bench, "ends").await.kind, Kind::Internal);
    let bench = Bench::with(|config| config.child.program = "/nonexistent".into());
    bench.start("none", &[]).await;
    let problem = failure(&bench, "none").await;
    assert!(problem.detail.contains("could not be started"), "{problem}");
}

#[tokio::test]
async fn a_spare_waits_loaded_and_is_taken() {
    let bench = Bench::new();
    bench.app().spawner.park().await.unwrap();
    bench.app().spawner.park().await.unwrap();
    assert_eq!(bench.get("/ready").await.status, axum::http::StatusCode::OK);
    let spare = bench.children();
    assert_eq!(spare.len(), 1);
    bench
        .start("j", &["probed", "seg:0:1:10", "until-throttled"])
        .await;
    until("the device", || async {
        bench.peek("j").await.filter(|s| s.device.is_some())
    })
    .await;
    until("another spare", || async {
        bench.app().spawner.is_parked().then_some(())
    })
    .await;
    // Ended by its pid, it was the job's.
    signal("KILL", spare[0]);
    let problem = failure(&bench, "j").await;
    assert!(problem.detail.contains("signal 9"), "{problem}");
    // A spare that dies while it is parked is replaced when it is wanted.
    for pid in bench.children() {
        signal("KILL", pid);
    }
    bench.start("k", &["seg:0:1:10"]).await;
    bench.until_state("k", SessionState::Completed).await;
}

#[tokio::test]
async fn the_next_spare_waits_for_the_first_segment_of_a_job_or_its_end() {
    let bench = Bench::with(|config| config.child.spare_patience = Duration::from_secs(3600));
    let spawner = &bench.app().spawner;
    let spare = || until("a spare", || async { spawner.is_parked().then_some(()) });
    spawner.park().await.unwrap();
    bench
        .start("j", &["probed", "until-throttled", "seg:0:1:10", "deaf"])
        .await;
    until("the device", || async {
        bench.peek("j").await.filter(|s| s.device.is_some())
    })
    .await;
    assert!(!spawner.is_parked());
    assert_eq!(bench.children().len(), 1);
    bench.put("/sessions/j/throttle", r#"{"on":true}"#).await;
    spare().await;
    assert_eq!(bench.peek("j").await.unwrap().state, SessionState::Running);
    bench.start("ends", &["probed"]).await;
    bench.until_state("ends", SessionState::Completed).await;
    spare().await;
}

#[tokio::test]
async fn a_job_that_makes_nothing_for_long_does_not_keep_the_next_spare_away() {
    let bench = Bench::with(|config| config.child.spare_patience = Duration::from_millis(50));
    bench.app().spawner.park().await.unwrap();
    bench.start("j", &["probed", "until-throttled"]).await;
    until("the device", || async {
        bench.peek("j").await.filter(|s| s.device.is_some())
    })
    .await;
    until("another spare", || async {
        bench.app().spawner.is_parked().then_some(())
    })
    .await;
    let state = bench.peek("j").await.unwrap().state;
    assert_eq!(state, SessionState::Running);
}
