//! Submitting, watching and cancelling.

use super::bench::*;
use axum::http::{Method, StatusCode};
use plexbeam_api::{Kind, SessionState};
use serde_json::{Value, json};

#[tokio::test]
async fn a_job_runs_from_submission_to_completion() {
    let bench = Bench::new();
    let reply = bench
        .post(&job("j1", &["probed", "seg:0:2:100", "progress:5"]))
        .await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let accepted = reply.json();
    assert_eq!(accepted["job_id"], "j1");
    assert_eq!(accepted["worker"], bench.app().worker.as_str());
    assert_eq!(accepted["urls"]["status"], "/status/j1");
    assert_eq!(accepted["token"].as_str().unwrap().len(), 64);
    let done = bench.until_state("j1", SessionState::Completed).await;
    assert_eq!(done.segments, 2);
    assert_eq!(done.device.as_deref(), Some("software"));
    assert_eq!(done.progress.frames, 5);
    assert_eq!(done.error, None);
    assert_eq!(done.queue_place, None);
    let status = bench.get("/status/j1").await.json();
    assert_eq!(status["state"], "completed");
    assert_eq!(bench.get("/jobs").await.json().as_array().unwrap().len(), 1);
    until("the speed to be known", || async {
        bench.get("/health").await.json()["speed"].as_f64()
    })
    .await;
}

#[tokio::test]
async fn the_same_job_again_is_the_same_and_another_is_a_conflict() {
    let bench = Bench::new();
    let first = bench.post(&job("j1", &["seg:0:1:10"])).await;
    let again = bench.post(&job("j1", &["seg:0:1:10"])).await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    assert_eq!(first.json(), again.json());
    bench.until_state("j1", SessionState::Completed).await;
    let after = bench.post(&job("j1", &["seg:0:1:10"])).await;
    assert_eq!(first.json(), after.json());
    let other = bench.post(&job("j1", &["seg:0:1:11"])).await;
    assert_eq!(other.status, StatusCode::CONFLICT);
    let problem = other.problem();
    assert_eq!(problem.kind, Kind::Conflict);
    assert_eq!(problem.field.as_deref(), Some("job_id"));
    let files = bench.get("/sessions/j1/files").await.json();
    assert_eq!(files.as_array().unwrap().len(), 1, "it ran once");
    // A freed id may be used anew.
    assert_eq!(
        bench.delete("/sessions/j1").await.status,
        StatusCode::NO_CONTENT
    );
    let anew = bench.post(&job("j1", &["seg:0:1:11"])).await;
    assert_eq!(anew.status, StatusCode::ACCEPTED);
    assert_ne!(anew.json()["token"], first.json()["token"]);
}

#[tokio::test]
async fn the_founding_example_is_taken_as_it_stands() {
    let bench = Bench::new();
    let text = include_str!("../../../tests/fixtures/founding-job.json");
    let reply = bench.call_with(Method::POST, "/transcode", text, &[]).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{reply:?}");
    let again = bench.call_with(Method::POST, "/transcode", text, &[]).await;
    assert_eq!(again.json(), reply.json());
    let events = bench
        .stream("/sessions/20250205_143022_12345/events", &[])
        .await;
    let note = events
        .all()
        .await
        .into_iter()
        .find(|frame| frame.event == "log");
    let note = note.expect("the fall back to software is told");
    let message = note.data["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("qsv") && message.contains("software"),
        "{message}"
    );
}

#[tokio::test]
async fn bad_bodies_are_refused_with_the_field() {
    let bench = Bench::new();
    let without = |pointer: &str| {
        let mut job = job("bad", &[]);
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = job.pointer_mut(parent).unwrap();
        parent.as_object_mut().unwrap().remove(name).unwrap();
        job
    };
    let with = |pointer: &str, value: Value| {
        let mut job = job("bad", &[]);
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        job.pointer_mut(parent).unwrap()[name] = value;
        job
    };
    let cases = [
        (json!([]), 400, None),
        (json!({}), 400, Some(".")),
        (json!({"job_id": "x", "input": {}}), 400, Some("input")),
        (with("/job_id", json!("../x")), 400, Some("job_id")),
        (with("/job_id", json!(5)), 400, Some("job_id")),
        (with("/surprise", json!(1)), 400, Some("surprise")),
        (without("/time"), 400, None),
        (without("/inputs/0/locations"), 400, Some("inputs[0]")),
        (
            with("/inputs/0/locations", json!([])),
            400,
            Some("inputs[0].locations"),
        ),
        (
            with("/outputs/0/packaging/segment_seconds", json!("four")),
            400,
            Some("outputs[0].packaging"),
        ),
        (with("/outputs", json!([])), 400, None),
        (with("/api_version", json!(2)), 422, Some("api_version")),
        (with("/api_version", json!("one")), 422, Some("api_version")),
        (
            with(
                "/lease",
                json!({"kind": "owner", "pause_after_ms": 9, "free_after_ms": 1}),
            ),
            400,
            Some("lease"),
        ),
        (
            with("/outputs/0/streams/0/codec/encoder", json!("libnonsense")),
            422,
            Some("outputs[0].streams[0]"),
        ),
    ];
    for (body, status, field) in cases {
        let reply = bench.post(&body).await;
        assert_eq!(reply.status.as_u16(), status, "{body} {reply:?}");
        let problem = reply.problem();
        assert!(!problem.detail.is_empty());
        if let Some(field) = field.filter(|field| *field != ".") {
            assert_eq!(problem.field.as_deref(), Some(field), "{body}: {problem}");
        }
    }
    for text in ["", "{", "nonsense", "{\"api_version\":1", "\u{0}"] {
        let reply = bench
            .call_with(Method::POST, "/transcode", text.to_owned(), &[])
            .await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{text:?}");
        reply.problem();
    }
    let skew = bench.post(&with("/api_version", json!(99))).await.problem();
    assert!(
        skew.detail.contains("99") && skew.detail.contains('1'),
        "{skew}"
    );
    assert_eq!(bench.get("/jobs").await.json(), json!([]));
}

#[tokio::test]
async fn bodies_and_side_files_have_ceilings() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let bench = Bench::new();
    let long = vec![b' '; (24 << 20) + 1];
    let reply = bench
        .call_with(Method::POST, "/transcode", long.clone(), &[])
        .await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    reply.problem();
    // Without a length in front it is cut off while it comes.
    let chunks = long
        .chunks(1 << 20)
        .map(|c| Ok::<_, std::io::Error>(c.to_vec()));
    let body =
        axum::body::Body::from_stream(futures_util::stream::iter(chunks.collect::<Vec<_>>()));
    let reply = bench.call_with(Method::POST, "/transcode", body, &[]).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    let announced = [("content-length", "99999999999")];
    let reply = bench
        .call_with(Method::POST, "/transcode", "{}", &announced)
        .await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);

    let side = |bytes: usize| {
        let mut job = job("side", &["log:taken"]);
        job["inputs"][0]["locations"] = json!([
            { "type": "inline", "name": "temp-0.srt", "data": STANDARD.encode(vec![1; bytes]) }
        ]);
        job
    };
    let reply = bench.post(&side((16 << 20) + 1)).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(reply.problem().field.as_deref(), Some("inputs"));
    // All that is allowed also reaches the child.
    bench.start_job(&side(16 << 20)).await;
    bench.until_state("side", SessionState::Completed).await;
}

#[tokio::test]
async fn places_and_queue_are_bounded_and_move_up() {
    let bench = Bench::with(|config| {
        config.sessions.max_jobs = 1;
        config.sessions.max_queue = 2;
    });
    for id in ["a", "b", "c"] {
        bench.start(id, &["work"]).await;
    }
    bench.until_state("a", SessionState::Running).await;
    let place = async |id: &str| bench.peek(id).await.unwrap().queue_place;
    assert_eq!((place("b").await, place("c").await), (Some(1), Some(2)));
    let full = bench.post(&job("d", &[])).await;
    assert_eq!(full.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(full.header("retry-after").parse::<u32>().unwrap() > 0);
    full.problem();
    // One that is known is no new one.
    assert_eq!(
        bench.post(&job("c", &["work"])).await.status,
        StatusCode::ACCEPTED
    );
    let health = bench.get("/health").await.json();
    assert_eq!(
        (&health["active"], &health["queued"]),
        (&json!(1), &json!(2))
    );
    bench.delete("/transcode/b").await;
    assert_eq!(place("c").await, Some(1));
    assert_eq!(place("b").await, None);
    bench.delete("/transcode/a").await;
    bench.until_state("c", SessionState::Running).await;
}

#[tokio::test]
async fn cancelling_is_idempotent_and_ends_the_child() {
    let bench = Bench::new();
    bench.start("j", &["seg:0:1:10", "work"]).await;
    until("a segment", || async {
        bench.peek("j").await.filter(|s| s.segments == 1)
    })
    .await;
    for _ in 0..2 {
        let reply = bench.delete("/transcode/j").await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT);
    }
    let status = bench.peek("j").await.unwrap();
    assert_eq!(status.state, SessionState::Cancelled);
    assert_eq!(status.error.unwrap().kind, Kind::Cancelled);
    until("the place to be free", || async {
        (bench.get("/health").await.json()["active"] == 0).then_some(())
    })
    .await;
    let kept = bench.get("/sessions/j/files/media-00000.ts").await;
    assert_eq!(kept.status, StatusCode::OK, "what it made stays");
    for _ in 0..2 {
        let reply = bench.delete("/sessions/j").await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT);
    }
    assert_eq!(
        bench.delete("/transcode/j").await.status,
        StatusCode::NO_CONTENT
    );
    assert!(bench.peek("j").await.is_none());
    until("its files to go", || async {
        (on_disk(&bench.sessions_dir()) == 0).then_some(())
    })
    .await;
    for path in ["/status/j", "/sessions/j/files", "/status/%2e%2e"] {
        let reply = bench.get(path).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}");
        reply.problem();
    }
    assert_eq!(
        bench.delete("/sessions/never").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_draining_worker_takes_no_jobs_and_says_when_to_come_back() {
    let bench = Bench::with(|config| config.sessions.max_jobs = 1);
    bench.start("running", &["until-throttled"]).await;
    bench.start("waiting", &["work"]).await;
    bench.app().registry.drain();
    assert_eq!(
        bench
            .until_state("waiting", SessionState::Cancelled)
            .await
            .error
            .unwrap()
            .kind,
        Kind::Unavailable
    );
    bench.until_state("running", SessionState::Draining).await;
    let refused = bench.post(&job("new", &[])).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!refused.header("retry-after").is_empty());
    refused.problem();
    let known = bench.post(&job("running", &["until-throttled"])).await;
    assert_eq!(known.status, StatusCode::ACCEPTED);
    assert_eq!(bench.get("/health").await.json()["status"], "draining");
    let ready = bench.get("/ready").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    // What runs may finish.
    bench
        .put("/sessions/running/throttle", r#"{"on":true}"#)
        .await;
    bench.until_state("running", SessionState::Completed).await;
}

#[tokio::test]
async fn throttle_reaches_the_child_and_wants_a_boolean() {
    let bench = Bench::new();
    bench.start("j", &["until-throttled"]).await;
    for bad in ["", "{}", r#"{"on":1}"#] {
        let reply = bench.put("/sessions/j/throttle", bad).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{bad:?}");
        assert_eq!(reply.problem().field.as_deref(), Some("on"));
    }
    let reply = bench.put("/sessions/j/throttle", r#"{"on":true}"#).await;
    assert_eq!(reply.status, StatusCode::NO_CONTENT);
    bench.until_state("j", SessionState::Completed).await;
}

#[tokio::test]
async fn ended_sessions_go_after_the_retention() {
    let bench = Bench::with(|config| {
        config.sessions.retention = std::time::Duration::from_millis(300);
    });
    bench.start("old", &["seg:0:1:10"]).await;
    bench.start("live", &["work"]).await;
    bench.until_state("old", SessionState::Completed).await;
    tokio::spawn(bench.app().registry.clone().reap());
    until("the session to go", || async {
        bench.peek("old").await.is_none().then_some(())
    })
    .await;
    assert!(bench.peek("live").await.is_some());
}
