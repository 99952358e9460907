//! One owner (P5): unheard it is paused, then freed; heard again it goes on.

use super::bench::*;
use axum::http::StatusCode;
use plexbeam_api::{Event, SessionState};

/// States told until the stream ends or `last` is reached.
async fn states(stream: &mut Events, last: SessionState) -> Vec<SessionState> {
    let mut seen = Vec::new();
    while let Some(frame) = stream.event().await {
        if let Event::State(change) = frame.session_event() {
            seen.push(change.state);
            if change.state == last {
                break;
            }
        }
    }
    seen
}

use SessionState::{Cancelled, Paused, Queued, Running};

#[tokio::test]
async fn p5_an_owner_that_is_never_heard_is_paused_then_freed() {
    let bench = Bench::new();
    bench
        .start_job(&leased("j", &["seg:0:1:10", "work"], 200, 1500))
        .await;
    // Watching is not owning.
    let mut stream = bench.stream("/sessions/j/events", &[]).await;
    assert_eq!(
        states(&mut stream, Cancelled).await,
        [Queued, Running, Paused, Cancelled]
    );
    assert!(stream.event().await.is_none());
    assert!(bench.peek("j").await.is_none(), "freed");
    until("its files to go", || async {
        (on_disk(&bench.sessions_dir()) == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn p5_a_paused_child_makes_nothing_until_its_owner_is_back() {
    let bench = Bench::new();
    bench.start_job(&leased("j", &["work"], 150, 60_000)).await;
    let paused = bench.until_state("j", Paused).await;
    let frames = || async { bench.peek("j").await.unwrap().progress.frames };
    // What was on its way may still arrive; then it stands still.
    let mut before = frames().await;
    let still = until("the child to stand still", || {
        let last = before;
        let now = frames();
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
            let now = now.await;
            Some((now, now == last))
        }
    })
    .await;
    before = still.0;
    let _ = paused;
    let lease = bench.stream("/sessions/j/events?lease", &[]).await;
    bench.until_state("j", Running).await;
    until("the child to go on", || async {
        (frames().await > before).then_some(())
    })
    .await;
    // An open connection holds it longer than any grace.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    assert_eq!(bench.peek("j").await.unwrap().state, Running);
    drop(lease);
    bench.until_state("j", Paused).await;
}

#[tokio::test]
async fn p5_a_frozen_owner_with_an_open_connection_is_unheard() {
    let bench = Bench::new();
    bench.start_job(&leased("j", &["work"], 200, 60_000)).await;
    let _lease = bench.stream("/sessions/j/events?lease", &[]).await;
    let beat = async || bench.put("/sessions/j/lease", "").await.status;
    assert_eq!(beat().await, StatusCode::NO_CONTENT);
    // It no longer beats, and the connection stays.
    bench.until_state("j", Paused).await;
    assert_eq!(beat().await, StatusCode::NO_CONTENT);
    bench.until_state("j", Running).await;
    bench.until_state("j", Paused).await;
}

#[tokio::test]
async fn p5_polling_the_status_is_a_lease_too() {
    let bench = Bench::new();
    bench.start_job(&leased("j", &["work"], 1000, 60_000)).await;
    let start = std::time::Instant::now();
    let mut stream = bench.stream("/sessions/j/events", &[]).await;
    while start.elapsed() < std::time::Duration::from_millis(2200) {
        let status = bench.get("/status/j").await.json();
        assert_ne!(status["state"], "paused");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(states(&mut stream, Paused).await, [Queued, Running, Paused]);
}

#[tokio::test]
async fn p5_also_a_waiting_job_is_freed_and_one_without_owner_never() {
    let bench = Bench::with(|config| config.sessions.max_jobs = 1);
    bench.start("free", &["work"]).await;
    bench
        .start_job(&leased("waiting", &["work"], 50, 150))
        .await;
    until("the waiting one to go", || async {
        bench.peek("waiting").await.is_none().then_some(())
    })
    .await;
    assert_eq!(bench.peek("free").await.unwrap().state, Running);
    assert_eq!(bench.get("/health").await.json()["queued"], 0);
}
