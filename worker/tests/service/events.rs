//! Server-sent events.

use super::bench::*;
use axum::http::StatusCode;
use plexbeam_api::{Event, SessionState};
use serde_json::json;

#[tokio::test]
async fn a_session_tells_its_story_in_order_and_ends() {
    let bench = Bench::new();
    bench
        .start("j", &["probed", "log:hello", "seg:0:2:10", "fail"])
        .await;
    let frames = bench.stream("/sessions/j/events", &[]).await.all().await;
    let names: Vec<_> = frames.iter().map(|frame| frame.event.as_str()).collect();
    assert_eq!(
        names,
        [
            "state", "state", "probed", "log", "segment", "segment", "state"
        ]
    );
    let ids: Vec<_> = frames.iter().map(|frame| frame.id.unwrap()).collect();
    assert_eq!(ids, (1..=7).collect::<Vec<u64>>());
    let Event::State(last) = frames[6].session_event() else {
        panic!("{:?}", frames[6]);
    };
    assert_eq!(last.state, SessionState::Failed);
    assert_eq!(last.problem.unwrap().detail, "the input is no media");
    let Event::Segment(segment) = frames[4].session_event() else {
        panic!("{:?}", frames[4]);
    };
    assert_eq!(segment.name.as_str(), "media-00000.ts");
    // After the end the whole story is told again to who asks.
    let again = bench.stream("/sessions/j/events", &[]).await.all().await;
    assert_eq!(again, frames);
}

#[tokio::test]
async fn a_broken_stream_resumes_after_the_last_event() {
    let bench = Bench::new();
    bench
        .start("j", &["seg:0:3:10", "until-throttled", "seg:3:2:10"])
        .await;
    let mut stream = bench.stream("/sessions/j/events", &[]).await;
    let mut seen = 0;
    while seen < 4 {
        seen = stream.event().await.unwrap().id.unwrap();
    }
    drop(stream);
    bench.put("/sessions/j/throttle", r#"{"on":true}"#).await;
    let rest = bench
        .stream("/sessions/j/events", &[("last-event-id", "4")])
        .await
        .all()
        .await;
    let ids: Vec<_> = rest.iter().map(|frame| frame.id.unwrap()).collect();
    assert_eq!(ids, [5, 6, 7, 8]);
    assert_eq!(rest[3].data["state"], "completed");
    let bad = bench
        .call_with(
            axum::http::Method::GET,
            "/sessions/j/events",
            "",
            &[("last-event-id", "x")],
        )
        .await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        bench.get("/sessions/none/events").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn progress_is_only_the_newest_and_never_out_of_order() {
    let bench = Bench::new();
    bench
        .start(
            "j",
            &["progress:1", "progress:2", "seg:0:1:10", "progress:3"],
        )
        .await;
    bench.until_state("j", SessionState::Completed).await;
    let frames = bench.stream("/sessions/j/events", &[]).await.all().await;
    let ids: Vec<_> = frames.iter().map(|frame| frame.id.unwrap()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    let progress: Vec<_> = frames.iter().filter(|f| f.event == "progress").collect();
    assert_eq!(progress.len(), 1);
    assert_eq!(progress[0].data["frames"], 3);
}

#[tokio::test]
async fn silence_is_filled_with_heartbeats() {
    let bench = Bench::new();
    bench.start("j", &["until-throttled"]).await;
    for path in ["/sessions/j/events", "/events"] {
        let mut stream = bench.stream(path, &[]).await;
        let mut beats = 0;
        while beats < 2 {
            beats += u32::from(stream.frame().await.unwrap().comment);
        }
    }
}

#[tokio::test]
async fn the_mount_hears_of_every_session() {
    let bench = Bench::new();
    let mut stream = bench.stream("/events", &[]).await;
    let hello = stream.event().await.unwrap();
    assert_eq!(hello.data["event"], "hello");
    assert_eq!(hello.data["worker"], bench.app().worker.as_str());
    assert_eq!(hello.data["boot"], bench.app().boot.as_str());
    bench.start("j", &["seg:7:1:10"]).await;
    let mut told = Vec::new();
    while !told.contains(&json!("completed")) {
        let frame = stream.event().await.unwrap();
        let _: plexbeam_api::event::WorkerEvent =
            serde_json::from_value(frame.data.clone()).unwrap();
        assert_eq!(frame.event, frame.data["event"]);
        told.push(match frame.event.as_str() {
            "session" => frame.data["state"].clone(),
            "segment" => {
                assert_eq!(frame.data["session"], "j");
                frame.data["segment"]["name"].clone()
            }
            other => panic!("{other}"),
        });
    }
    assert_eq!(
        json!(told),
        json!(["queued", "running", "media-00007.ts", "completed"])
    );
    bench.delete("/sessions/j").await;
    let ended = stream.event().await.unwrap();
    assert_eq!(ended.data, json!({ "event": "ended", "session": "j" }));
}

#[tokio::test]
async fn streams_end_when_the_worker_leaves() {
    use plexbeam_worker::shutdown::Stage;
    let bench = Bench::new();
    bench.start("j", &["work"]).await;
    let mut session = bench.stream("/sessions/j/events", &[]).await;
    let mut worker = bench.stream("/events", &[]).await;
    bench.app().shutdown.enter(Stage::Draining);
    bench.app().registry.cancel_all(false);
    let mut last = serde_json::Value::Null;
    while let Some(frame) = session.event().await {
        last = frame.data;
    }
    assert_eq!(
        last["state"], "cancelled",
        "the end is told before the stream ends"
    );
    bench.app().shutdown.enter(Stage::Leaving);
    while worker.event().await.is_some() {}
}
