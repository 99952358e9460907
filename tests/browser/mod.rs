//! What a player makes of the segments: a real Chromium with Media Source Extensions.
//!
//! The pages drive a `<video>` themselves and send one verdict; the tests judge it. Chromium is
//! Debian's, which decodes H.264 and AAC.

mod chromium;
mod site;

use crate::kit::Stage;
use chromium::Browser;
use plexbeam_tests::{TestEnv, argv, boxes, fake_pms::JobReport, media::Film, wait};
use serde_json::{Value, json};
use site::Site;
use std::{fs, path::Path, time::Duration};

/// Seconds per segment of sp-01.
const SECONDS: f64 = 3.0;

fn film() -> Film {
    Film {
        seconds: 20.0,
        ..Film::default()
    }
}

/// Init and start chunks, then the chunks of a seek job in the same source buffers: once with the
/// job's own init before them, as after a new request for the header, once without.
#[test]
fn chunks_of_a_seek_play_in_the_same_source_buffers() {
    let stage = Stage::new("browser-mse");
    let mut play = stage.play(argv::line("sp-01").scaled(320, 180), &film().clip().path());
    // Two segments, then forward over a gap: 0 s to 6 s and 12 s to 20 s.
    play.seeks = vec![(2, 5)];
    let report = stage.clean(&play);
    for second_init in [true, false] {
        let site = Site::start(stage.env.root());
        let tracks: Vec<Value> = (0..2)
            .map(|n| track(&site, &report.jobs, n, second_init))
            .collect();
        let plan = json!({ "tracks": tracks, "seek": 4.0 * SECONDS });
        site.put("plan.json", "application/json", plan.to_string().into());
        site.put(
            "page.html",
            "text/html",
            include_bytes!("mse.html").to_vec(),
        );
        let verdict = site.verdict(Browser::open(&stage.env, &site.url("page.html")));
        let context = format!("second init: {second_init}; {verdict:#}");
        assert_eq!(verdict["errors"], json!([]), "{context}");
        let last = report.jobs[1].tracks[0].entries.len() as f64;
        let end = (4.0 + last) * SECONDS;
        for kind in ["video", "audio"] {
            let ranges = ranges(&verdict["buffered"][kind]);
            assert_eq!(ranges.len(), 2, "{kind}; {context}");
            // AAC's frames do not end where the segment does, and B-frames are shown late.
            let near = |a: f64, b: f64| (a - b).abs() < 0.15;
            assert!(
                near(ranges[0].0, 0.0) && near(ranges[0].1, 2.0 * SECONDS),
                "{kind}; {context}"
            );
            assert!(
                near(ranges[1].0, 4.0 * SECONDS) && ranges[1].1 > end.min(20.0) - SECONDS,
                "{kind}; {context}"
            );
        }
        let number = |name: &str| verdict[name].as_f64().unwrap_or(f64::NAN);
        assert!(number("at_start") > 0.5, "{context}");
        assert!(number("after_seek") > 4.0 * SECONDS + 1.0, "{context}");
        assert_eq!(
            (number("width"), number("height")),
            (320.0, 180.0),
            "{context}"
        );
        assert!(number("frames") > 24.0, "{context}");
    }
}

/// The founding document's job, played by hls.js from the mount's `sessions/`.
#[test]
fn the_short_job_plays_with_hls_js() {
    let player = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/browser/hls.min.js");
    let player = fs::read(&player).unwrap_or_else(|e| {
        panic!(
            "{}: {e}; `make setup-browser` fetches hls.js",
            player.display()
        )
    });
    let env = TestEnv::new("browser-hls");
    let library = env.dir("library");
    fs::copy(film().clip().path(), library.join("movie.mkv")).expect("copy the film");
    let map = format!("/srv/media={}", library.display());
    let worker = env.worker(&["--path-map", &map]);
    let mount = env.mount(&[&worker], &[]);
    let id = "20250205_143022_12345";
    let job = json!({
        "job_id": id,
        "input": { "type": "file", "path": "/srv/media/movie.mkv" },
        "output": { "type": "hls", "path": "/transcode/sessions/abc123", "segment_duration": 4 },
        "arguments": {
            "video_codec": "h264",
            "audio_codec": "aac",
            "video_bitrate": "4M",
            "resolution": "1920x1080",
            "hw_accel": "qsv"
        }
    });
    assert_eq!(worker.post("/transcode", &job).status(), 202);
    let status = wait::until("the job ends", Duration::from_secs(120), || {
        Some(worker.status(id)).filter(|s| s.state.is_end())
    });
    assert_eq!(
        status.state,
        plexbeam_api::SessionState::Completed,
        "{status:?}"
    );
    let shown = mount.point.join("sessions").join(id);
    wait::until("the whole playlist", Duration::from_secs(20), || {
        fs::read_to_string(shown.join("index.m3u8"))
            .ok()
            .filter(|text| text.contains("#EXT-X-ENDLIST"))
    });

    let site = Site::start(env.root());
    site.put("hls.js", "text/javascript", player);
    site.put(
        "page.html",
        "text/html",
        include_bytes!("hls.html").to_vec(),
    );
    site.show(&shown);
    let verdict = site.verdict(Browser::open(&env, &site.url("page.html")));
    assert_eq!(verdict["errors"], json!([]), "{verdict:#}");
    let number = |name: &str| verdict[name].as_f64().unwrap_or(f64::NAN);
    assert!((number("duration") - 20.0).abs() < 0.5, "{verdict:#}");
    assert!(number("at_start") > 0.5, "{verdict:#}");
    assert!(number("after_seek") > 10.5, "{verdict:#}");
    assert_eq!(verdict["ended"], true, "{verdict:#}");
    assert!(number("frames") > 24.0, "{verdict:#}");
}

/// One source buffer: its type and the files for it, which the site then has.
#[track_caller]
fn track(site: &Site, jobs: &[JobReport], n: usize, second_init: bool) -> Value {
    let mut lists: Vec<Vec<String>> = Vec::new();
    let mut mime = String::new();
    for (index, job) in jobs.iter().enumerate() {
        let kept = job.kept.as_ref().expect("copies");
        let track = &job.tracks[n];
        let init = format!("init-stream{}.m4s", track.id);
        let mut files = Vec::new();
        let mut add = |name: &str| {
            let bytes = fs::read(kept.join(name)).expect("a kept file");
            let name = format!("{index}-{name}");
            site.put(&name, "video/mp4", bytes);
            files.push(name);
        };
        if index == 0 || second_init {
            add(&init);
        }
        let mut names: Vec<String> = fs::read_dir(kept)
            .expect("list the copies")
            .filter_map(|e| e.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(&format!("chunk-stream{}-", track.id)))
            .collect();
        names.sort();
        names.iter().for_each(|name| add(name));
        lists.push(files);
        if index == 0 {
            mime = codec(&track.media, &fs::read(kept.join(&init)).expect("init"));
        }
    }
    json!({ "kind": jobs[0].tracks[n].media, "mime": mime, "start": lists[0], "seek": lists[1] })
}

/// RFC 6381: AVC's profile, constraints and level are the bytes after the version in `avcC`.
#[track_caller]
fn codec(media: &str, init: &[u8]) -> String {
    assert!(
        boxes::parse(init).is_ok(),
        "the init segment is whole boxes"
    );
    if media == "audio" {
        return "audio/mp4; codecs=\"mp4a.40.2\"".into();
    }
    let at = init
        .windows(4)
        .position(|w| w == b"avcC")
        .expect("the init segment has avcC");
    let b = &init[at + 5..at + 8];
    format!(
        "video/mp4; codecs=\"avc1.{:02x}{:02x}{:02x}\"",
        b[0], b[1], b[2]
    )
}

fn ranges(value: &Value) -> Vec<(f64, f64)> {
    serde_json::from_value(value.clone()).unwrap_or_default()
}
