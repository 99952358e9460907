//! The founding document's JSON job, posted as it stands.

use plexbeam_tests::{TestEnv, media::Film, probe, wait};
use std::{fs, time::Duration};

const JOB: &str = include_str!("../fixtures/founding-job.json");

#[test]
fn the_short_job_shows_a_playlist_that_plays() {
    let env = TestEnv::new("hls");
    let film = Film {
        seconds: 18.0,
        ..Film::default()
    };
    let library = env.dir("library");
    fs::copy(film.clip().path(), library.join("movie.mkv")).expect("copy the film");
    let map = format!("/srv/media={}", library.display());
    let worker = env.worker(&["--path-map", &map]);
    let mount = env.mount(&[&worker], &[]);
    let job: serde_json::Value = serde_json::from_str(JOB).expect("JSON");
    let answer = worker.post("/transcode", &job);
    assert_eq!(answer.status(), 202, "{:?}", answer.text());
    assert_eq!(
        worker.post("/transcode", &job).status(),
        202,
        "the same job again"
    );
    let mut other = job;
    other["arguments"]["video_bitrate"] = "5M".into();
    assert_eq!(
        worker.post("/transcode", &other).status(),
        409,
        "same id, other body"
    );
    let id = "20250205_143022_12345";
    let status = wait::until("the job ends", Duration::from_secs(120), || {
        Some(worker.status(id)).filter(|s| s.state.is_end())
    });
    assert_eq!(
        status.state,
        plexbeam_api::SessionState::Completed,
        "{status:?}"
    );
    let dir = mount.point.join("sessions").join(id);
    let playlist = dir.join("index.m3u8");
    let text = wait::until(
        "the whole playlist is shown",
        Duration::from_secs(20),
        || {
            fs::read_to_string(&playlist)
                .ok()
                .filter(|t| t.contains("#EXT-X-ENDLIST"))
        },
    );
    let listed: Vec<&str> = text.lines().filter(|l| l.ends_with(".ts")).collect();
    let mut shown: Vec<String> = fs::read_dir(&dir)
        .expect("list the session")
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|n| n.ends_with(".ts"))
        .collect();
    shown.sort();
    assert_eq!(shown, listed);
    assert_eq!(listed.len(), 5, "18 s in segments of 4 s");
    for name in &shown {
        let size = fs::metadata(dir.join(name)).expect("stat").len();
        let read = fs::read(dir.join(name)).expect("read").len() as u64;
        assert_eq!(size, read, "{name}");
    }
    let length = probe::duration(&playlist);
    assert!((length - 18.0).abs() < 0.5, "ffprobe says {length} s");
    let kinds: Vec<String> = probe::streams(&playlist)
        .into_iter()
        .map(|s| s.codec_name)
        .collect();
    assert!(
        kinds.contains(&"h264".to_owned()) && kinds.contains(&"aac".to_owned()),
        "{kinds:?}"
    );
    let frames = probe::packets(&playlist, Some("v:0")).len();
    // 18 s at 24000/1001.
    assert!((431..=432).contains(&frames), "{frames} frames");
    let all: Vec<u8> = shown
        .iter()
        .flat_map(|n| fs::read(dir.join(n)).expect("read"))
        .collect();
    assert_eq!(probe::decode_complaint(&all), None);
    assert!(
        fs::write(dir.join("x"), b"x").is_err(),
        "what a session shows is read-only"
    );
}
