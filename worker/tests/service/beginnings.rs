//! A job that was started before in the same way has its first files at once.

use super::{bench::*, fake};
use axum::http::StatusCode;
use plexbeam_api::{Event, Kind, SessionState};
use serde_json::{Value, json};

fn path(id: &str, name: &str) -> String {
    format!("/sessions/{id}/files/{name}")
}

/// A job that ran to its end and whose session is gone.
async fn before(bench: &Bench, script: &[&str]) {
    bench.start("before", script).await;
    bench.until_state("before", SessionState::Completed).await;
    let freed = bench.delete("/sessions/before").await;
    assert!(freed.status.is_success(), "{freed:?}");
    until("its folder to go", || async {
        let folders = std::fs::read_dir(bench.sessions_dir()).unwrap();
        let mut names = folders.map(|folder| folder.unwrap().file_name().into_string().unwrap());
        (!names.any(|name| name.ends_with("-before"))).then_some(())
    })
    .await;
}

/// Names that the session shows, in the order of their events.
async fn published(bench: &Bench, id: &str) -> Vec<(String, u64)> {
    let frames = bench.stream(&format!("/sessions/{id}/events"), &[]).await;
    let events = frames.all().await;
    let segments = events.iter().map(|frame| frame.session_event());
    segments
        .filter_map(|event| match event {
            Event::Segment(segment) => Some((segment.name.to_string(), segment.size)),
            _ => None,
        })
        .collect()
}

/// How often the inputs were told of.
async fn told(bench: &Bench, id: &str) -> usize {
    let frames = bench.stream(&format!("/sessions/{id}/events"), &[]).await;
    let events = frames.all().await;
    (events.iter())
        .filter(|frame| matches!(frame.session_event(), Event::Probed(_)))
        .count()
}

/// The first files are there while the child has made none, and only they.
async fn has_at_once(bench: &Bench, id: &str) {
    for (name, size) in [("init.mp4", 100), ("media-00000.ts", 1000)] {
        let reply = until("a kept file", || async {
            let reply = bench.get(&path(id, name)).await;
            (reply.status == StatusCode::OK).then_some(reply)
        })
        .await;
        assert_eq!(reply.body, fake::bytes(0, size));
    }
    let later = bench.get(&path(id, "media-00001.ts")).await;
    assert_eq!(later.problem().kind, Kind::NotYet);
}

/// Nothing is there although the inputs are open.
async fn has_nothing(bench: &Bench, id: &str) {
    bench.until_state(id, SessionState::Completed).await;
    let first = published(bench, id).await;
    assert_eq!(first, [("media-00009.ts".to_owned(), 10)], "{id}");
}

const FILM: [&str; 4] = ["opened:v1", "probed", "init:0", "seg:0:3:1000"];
/// Opens the film, and makes something that no beginning holds.
const LOOKS: [&str; 2] = ["opened:v1", "seg:9:1:10"];

#[tokio::test]
async fn a_job_started_again_has_its_first_files_at_once() {
    let bench = Bench::new();
    before(&bench, &FILM).await;
    let slow = [&FILM[..1], &["until-throttled"], &FILM[1..]].concat();
    bench.start("j", &slow).await;
    has_at_once(&bench, "j").await;
    bench.put("/sessions/j/throttle", r#"{"on":true}"#).await;
    bench.until_state("j", SessionState::Completed).await;
    let names = published(&bench, "j").await;
    let all = [
        ("init.mp4", 100),
        ("media-00000.ts", 1000),
        ("media-00001.ts", 1000),
        ("media-00002.ts", 1000),
    ];
    assert_eq!(names, all.map(|(name, size)| (name.to_owned(), size)));
    assert_eq!(told(&bench, "j").await, 1);
    for (name, n) in [("media-00000.ts", 0), ("media-00001.ts", 1)] {
        let reply = bench.get(&path("j", name)).await;
        assert_eq!(reply.body, fake::bytes(n, 1000));
    }
}

#[tokio::test]
async fn a_job_that_was_cut_short_leaves_its_first_files_too() {
    let bench = Bench::new();
    bench
        .start("cut", &[&FILM[..3], &["seg:0:1:1000", "work"]].concat())
        .await;
    until("a segment", || async {
        let reply = bench.get(&path("cut", "media-00000.ts")).await;
        (reply.status == StatusCode::OK).then_some(())
    })
    .await;
    bench.delete("/sessions/cut").await;
    bench.start("j", &["opened:v1", "work"]).await;
    has_at_once(&bench, "j").await;
}

#[tokio::test]
async fn another_job_has_none_of_it() {
    let bench = Bench::new();
    before(&bench, &FILM).await;
    bench.start("newer", &["opened:v2", "seg:9:1:10"]).await;
    has_nothing(&bench, "newer").await;
    bench.start("untold", &["seg:9:1:10"]).await;
    has_nothing(&bench, "untold").await;
    let other = |at: &str, value: Value| {
        let mut job = job("other", &LOOKS);
        *job.pointer_mut(at).unwrap() = value;
        job
    };
    let others = [
        ("/outputs/0/packaging/segment_seconds", 5.0.into()),
        ("/outputs/0/streams/0/codec/encoder", "libx265".into()),
        ("/time/frames", "vfr".into()),
    ];
    for (at, value) in others {
        bench.start_job(&other(at, value)).await;
        has_nothing(&bench, "other").await;
        bench.delete("/sessions/other").await;
    }
    // It is kept all the while, wherever the same film lies.
    let elsewhere = other("/inputs/0/locations/0/path", "/elsewhere.mkv".into());
    bench.start_job(&elsewhere).await;
    bench.until_state("other", SessionState::Completed).await;
    assert_eq!(published(&bench, "other").await.len(), 3);
}

#[tokio::test]
async fn another_making_of_a_segment_changes_nothing_that_is_out() {
    let bench = Bench::new();
    before(&bench, &FILM).await;
    let differs = [
        "opened:v1",
        "probed",
        "init:0",
        "other:0:900",
        "seg:1:2:1000",
    ];
    bench.start("j", &differs).await;
    bench.until_state("j", SessionState::Completed).await;
    assert_eq!(published(&bench, "j").await.len(), 4);
    let first = bench.get(&path("j", "media-00000.ts")).await;
    assert_eq!(first.body, fake::bytes(0, 1000));
    bench.start("next", &LOOKS).await;
    has_nothing(&bench, "next").await;
}

/// Where an encoder keeps to a rate it makes other bytes each time: those that are out are as good.
#[tokio::test]
async fn another_making_of_a_dash_segment_is_as_good() {
    let bench = Bench::new();
    let dash = |id: &str, size_and_variant: &str| {
        let part = format!("part:0:{size_and_variant}");
        let mut job = job(
            id,
            &["opened:v1", "probed", "init:0", &part, "part:1:900:0"],
        );
        job["outputs"][0]["packaging"] = json!({
            "type": "dash",
            "segment_seconds": 4.0,
            "first_number": 0,
            "tolerance_seconds": 0.0625,
            "init_name": "init.mp4",
            "media_name": "chunk-%05d.m4s"
        });
        job["outputs"][0]["streams"][0]["codec"]["options"] = json!([["maxrate", "2000k"]]);
        job
    };
    for (id, made) in [("a", "1000:0"), ("b", "900:7"), ("c", "800:8")] {
        bench.start_job(&dash(id, made)).await;
        bench.until_state(id, SessionState::Completed).await;
        assert_eq!(published(&bench, id).await.len(), 3);
        let first = bench.get(&path(id, "chunk-00000.m4s")).await;
        assert_eq!(first.body, fake::bytes(0, 1000));
    }
}

/// A transport stream counts its packets from segment to segment.
#[tokio::test]
async fn no_transport_stream_is_kept_that_has_other_bytes_each_time() {
    let bench = Bench::new();
    for (at, option) in [
        ("one", json!(["maxrate", "2000k"])),
        (
            "two",
            json!(["x264opts", "subme=0:vbv-maxrate=2000:vbv-bufsize=4000"]),
        ),
    ] {
        let bound = |id: &str, script: &[&str]| {
            let mut job = job(id, script);
            job["outputs"][0]["streams"][0]["codec"]["options"] = json!([option]);
            job
        };
        bench.start_job(&bound(at, &FILM)).await;
        bench.until_state(at, SessionState::Completed).await;
        let id = format!("{at}-again");
        bench.start_job(&bound(&id, &LOOKS)).await;
        has_nothing(&bench, &id).await;
    }
}

#[tokio::test]
async fn another_init_segment_ends_the_job_and_the_next_one_runs() {
    let bench = Bench::new();
    before(&bench, &FILM).await;
    let differs = ["opened:v1", "probed", "init:7", "seg:0:3:1000"];
    bench.start("j", &differs).await;
    let status = bench.until_state("j", SessionState::Failed).await;
    assert!(status.error.unwrap().detail.contains("init.mp4"));
    bench.start("next", &differs).await;
    bench.until_state("next", SessionState::Completed).await;
    let init = bench.get(&path("next", "init.mp4")).await;
    assert_eq!(init.body, fake::bytes(7, 100));
}

#[tokio::test]
async fn no_more_are_kept_than_shall_be() {
    let folders = |bench: &Bench| std::fs::read_dir(bench.sessions_dir()).unwrap().count();
    let none = Bench::with(|config| config.sessions.beginnings = 0);
    before(&none, &FILM).await;
    none.start("j", &LOOKS).await;
    has_nothing(&none, "j").await;
    assert_eq!(folders(&none), 1);

    let two = Bench::with(|config| config.sessions.beginnings = 2);
    for version in ["opened:v1", "opened:v2", "opened:v3"] {
        before(&two, &[&[version], &FILM[1..]].concat()).await;
    }
    assert_eq!(folders(&two), 2);
    assert_eq!(on_disk(&two.sessions_dir()), 2 * 1100);
    two.start("j", &LOOKS).await;
    has_nothing(&two, "j").await;
}

#[tokio::test]
async fn what_is_kept_goes_when_a_job_needs_the_room() {
    let bench = Bench::with(|config| config.store.ceiling = 5_000);
    before(&bench, &FILM).await;
    assert_eq!(on_disk(&bench.sessions_dir()), 1_100);
    bench.start("j", &["seg:9:1:4500"]).await;
    bench.until_state("j", SessionState::Completed).await;
    bench.delete("/sessions/j").await;
    bench.start("next", &LOOKS).await;
    has_nothing(&bench, "next").await;
}
