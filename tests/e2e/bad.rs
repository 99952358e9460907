//! Bad inputs end in `failed` with the reason, or at the original; never in a short silent film.

use crate::kit::Stage;
use plexbeam_api::{Kind, SessionState};
use plexbeam_tests::{TestEnv, argv, env::Worker, fake_pms, media::Film, wait};
use serde_json::json;
use std::{fs, path::Path, time::Duration};

fn film() -> std::path::PathBuf {
    let film = Film {
        seconds: 20.0,
        size: (320, 180),
        ..Film::default()
    };
    film.clip().path()
}

/// Posts a short job for this input and waits for its end.
#[track_caller]
fn ends(worker: &Worker, id: &str, path: &Path) -> plexbeam_api::SessionStatus {
    let job = json!({
        "job_id": id,
        "input": {"type": "file", "path": path},
        "output": {"type": "hls", "segment_duration": 4},
        "arguments": {"resolution": "320x180", "preset": "ultrafast"}
    });
    let answer = worker.post("/transcode", &job);
    assert_eq!(answer.status(), 202, "{:?}", answer.text());
    wait::until(id, Duration::from_secs(60), || {
        Some(worker.status(id)).filter(|s| s.state.is_end())
    })
}

#[test]
fn each_bad_input_fails_with_its_reason() {
    let env = TestEnv::new("bad-input");
    let worker = env.worker(&[]);
    let dir = env.dir("library");
    let whole = fs::read(film()).expect("read the film");
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::write(&path, bytes).expect("write a bad film");
        path
    };
    let cases = [
        ("missing", dir.join("nothing-here.mkv")),
        ("empty", write("empty.mkv", b"")),
        (
            "text",
            write("text.mkv", &b"this is no film\n".repeat(4_000)),
        ),
        (
            "truncated",
            write("truncated.mkv", &whole[..whole.len() * 2 / 3]),
        ),
        ("head", write("head.mkv", &whole[..2_000])),
        ("directory", dir.clone()),
    ];
    for (name, path) in cases {
        let status = ends(&worker, name, &path);
        assert_eq!(status.state, SessionState::Failed, "{name}: {status:?}");
        let problem = status.error.unwrap_or_else(|| panic!("{name}: no reason"));
        assert_eq!(problem.kind, Kind::BadInput, "{name}: {problem:?}");
        assert!(problem.detail.len() > 10, "{name}: {problem:?}");
        println!("{name}: {}", problem.detail);
    }
    let status = ends(&worker, "whole", &film());
    assert_eq!(status.state, SessionState::Completed, "{status:?}");
}

/// PMS must not take the cut film for a whole one: the job ends as a failure, or the original is
/// asked, which has its own way to say so.
#[test]
fn a_cut_film_does_not_end_well() {
    let stage = Stage::new("cut-film");
    let path = stage.env.root().join("cut.mkv");
    let whole = fs::read(film()).expect("read the film");
    fs::write(&path, &whole[..whole.len() / 2]).expect("write a cut film");
    let mut play = stage.play(argv::line("sp-01").scaled(320, 180), &path);
    play.expect_whole = false;
    let report = fake_pms::play(&play).expect("a play");
    let failed = report.jobs[0].exit != Some(0) || stage.original().exists();
    assert!(failed, "{}", report.explain());
}

#[test]
fn malformed_jobs_are_told_the_field() {
    let env = TestEnv::new("bad-job");
    let worker = env.worker(&[]);
    let cases = [
        (json!({"job_id": "a"}), 400),
        (
            json!({"job_id": "../x", "input": {"type": "file", "path": "/x"}, "output": {"type": "hls"}}),
            400,
        ),
        (
            json!({"job_id": "b", "input": {"type": "file", "path": "/x"}, "output": {"type": "hls"}, "arguments": {"video_codec": "h263-of-mine"}}),
            422,
        ),
        (
            json!({"job_id": "c", "input": {"type": "carrier-pigeon", "path": "/x"}, "output": {"type": "hls"}}),
            422,
        ),
        (json!([1, 2, 3]), 400),
    ];
    for (body, status) in cases {
        let answer = worker.post("/transcode", &body);
        let got = answer.status().as_u16();
        assert!(got == status, "{body}: {got} instead of {status}");
        let kind = answer
            .headers()
            .get("content-type")
            .map(|v| v.to_str().unwrap_or_default().to_owned());
        let problem: serde_json::Value = answer.json().expect("problem JSON");
        assert_eq!(kind.as_deref(), Some("application/problem+json"), "{body}");
        let type_uri = problem["type"].as_str().unwrap_or_default();
        assert!(type_uri.starts_with("urn:plexbeam:problem:"), "{problem}");
        assert!(
            problem["detail"].as_str().is_some_and(|d| d.len() > 5),
            "{problem}"
        );
    }
}
