//! What a player makes of the segments: a real Chromium with Media Source Extensions.
//!
//! The pages drive a `<video>` themselves and send one verdict; the tests judge it. Chromium is
//! Debian's, which decodes H.264 and AAC.

mod chromium;
mod site;

use crate::kit::Stage;
use chromium::Browser;
use plexbeam_tests::{
    TestEnv,
    argv::{self, Line},
    boxes,
    corpus::{self, Case},
    fake_pms::JobReport,
    media::Film,
    probe, wait,
};
use serde_json::{Value, json};
use site::Site;
use std::{fs, path::Path, time::Duration};

/// Seconds per segment of the lines played in source buffers.
const SECONDS: f64 = 3.0;

fn film() -> Film {
    Film {
        seconds: 20.0,
        ..Film::default()
    }
}

/// Two segments, then forward over a gap: 0 s to 6 s and 12 s to 20 s.
#[test]
fn chunks_of_a_seek_play_in_the_same_source_buffers() {
    let stage = Stage::new("browser-mse");
    let line = argv::line("sp-01").scaled(320, 180);
    plays(&stage, line, &film().clip().path(), 5, (320, 180));
}

/// HEVC Main 10 as source, subtitles burned in, and HDR10 brought to SDR: 0 s to 6 s, then the last
/// segment of 12 s.
#[test]
fn encodes_of_hevc_with_burned_text_and_of_hdr_play() {
    let case = |list: Vec<Case>, id: &str| {
        list.into_iter()
            .find(|case| case.id == id)
            .unwrap_or_else(|| panic!("the corpus has no `{id}`"))
    };
    let hevc = case(corpus::recorded(), "nv-02");
    let burned = case(corpus::recorded(), "nv-08");
    let tonemapped = case(corpus::likes(), "like-tonemap-hable");
    let hdr = (hevc.film)();
    // What the line's graph holds, and a picture that is not the film's.
    for (case, film, filter, size) in [
        (&hevc, &hdr, "scale=", (320, 180)),
        (&burned, &(burned.film)(), "inlineass=", (256, 144)),
        (&tonemapped, &hdr, "tonemap=", (320, 180)),
    ] {
        let graph = case.line.graph("0:0").unwrap_or_default();
        assert!(graph.contains(filter), "{case:?}: {graph}");
        let source = &probe::streams(film)[0];
        assert_eq!(
            (
                &*source.codec_name,
                &*source.pix_fmt,
                &*source.color_transfer
            ),
            ("hevc", "yuv420p10le", "smpte2084"),
            "{case:?}"
        );
        let stage = Stage::new(&format!("browser-{}", case.id));
        let line = case.line.clone().scaled(size.0, size.1);
        plays(&stage, line, film, 4, size);
    }
}

/// Init and the chunks of two segments, then those of a job that starts at number `sought`, in the
/// same source buffers: once with the job's own init before them, as after a new request for the
/// header, once without. The line has [`SECONDS`] per segment.
#[track_caller]
fn plays(stage: &Stage, line: Line, film: &Path, sought: u32, size: (u32, u32)) {
    let mut play = stage.play(line, film);
    play.seeks = vec![(2, sought)];
    let report = stage.clean(&play);
    let seek = f64::from(sought - 1) * SECONDS;
    let length = probe::duration(film);
    for second_init in [true, false] {
        let site = Site::start(stage.env.root());
        let tracks: Vec<Value> = (0..2)
            .map(|n| track(&site, &report.jobs, n, second_init))
            .collect();
        let plan = json!({ "tracks": tracks, "seek": seek });
        site.put("plan.json", "application/json", plan.to_string().into());
        site.put(
            "page.html",
            "text/html",
            include_bytes!("mse.html").to_vec(),
        );
        let verdict = site.verdict(Browser::open(&stage.env, &site.url("page.html")));
        let context = format!("{}, second init: {second_init}; {verdict:#}", play.line.id);
        assert_eq!(verdict["errors"], json!([]), "{context}");
        let last = report.jobs[1].tracks[0].entries.len() as f64;
        let end = seek + last * SECONDS;
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
                near(ranges[1].0, seek) && ranges[1].1 > end.min(length) - SECONDS,
                "{kind}; {context}"
            );
        }
        let number = |name: &str| verdict[name].as_f64().unwrap_or(f64::NAN);
        assert!(number("at_start") > 0.5, "{context}");
        assert!(number("after_seek") > seek + 1.0, "{context}");
        assert_eq!(
            (number("width"), number("height")),
            (f64::from(size.0), f64::from(size.1)),
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
    let job: Value =
        serde_json::from_str(include_str!("../fixtures/founding-job.json")).expect("JSON");
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
