//! What PMS hears, item by item (PROTOCOL 6); the order of it all is in the root's tests.

use crate::fakes::{Mood, SESSION, probed, progress, row};
use crate::{Scene, end};
use plexbeam_api::event::{Event, InputStream, LogLevel};
use plexbeam_api::segment::MediaKind;
use plexbeam_api::session::SessionState;
use std::ffi::OsString;
use std::time::Duration;

/// The scene's line of this id with the value of an option replaced.
fn with(scene: &Scene, id: &str, option: &str, value: &str) -> Vec<OsString> {
    let mut argv = scene.argv(id);
    let at = argv.iter().position(|w| w == option).unwrap();
    argv[at + 1] = value.into();
    argv
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_sent_in_chunks_over_one_connection() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    (1..=3).for_each(|number| scene.publish_chunks(number));
    scene.until_lists(3).await;
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    let lists = scene.pms.calls("/manifest");
    for list in &lists {
        assert_eq!(list.method, "POST");
        assert_eq!(list.headers["transfer-encoding"], "chunked");
        assert!(!list.headers.contains_key("content-length"));
        for (name, value) in [
            ("accept", "*/*"),
            ("connection", "keep-alive"),
            ("icy-metadata", "1"),
            ("range", "bytes=0-"),
        ] {
            assert_eq!(list.headers[name], value, "{name}");
        }
        assert_eq!(list.connection, lists[0].connection);
    }
    // Progress and log are not mixed into it.
    for call in scene.pms.heard.get() {
        assert_eq!(
            call.tail == "/manifest",
            call.connection == lists[0].connection
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn log_lines_go_up_to_the_level_asked_for_in_order() {
    for (wanted, lines) in [
        ("quiet", &[][..]),
        ("error", &["level=0&message=e%201"]),
        (
            "warning",
            &["level=0&message=e%201", "level=1&message=w%26%3D2"],
        ),
        (
            "verbose",
            &[
                "level=0&message=e%201",
                "level=1&message=w%26%3D2",
                "level=2&message=i%C3%BC",
                "level=3&message=d",
            ],
        ),
    ] {
        let scene = Scene::new().await;
        let argv = with(&scene, "sp-01", "-loglevel_plex", wanted);
        let child = scene.command(&argv).spawn().unwrap();
        // Before PMS may hear anything: kept for later.
        scene.worker.log(LogLevel::Error, "e 1");
        scene.worker.emit(probed());
        scene.worker.log(LogLevel::Warning, "w&=2");
        scene.worker.log(LogLevel::Info, "i\u{fc}");
        scene.worker.log(LogLevel::Debug, "d");
        scene.publish_inits();
        scene.publish_chunks(1);
        scene.until_lists(1).await;
        scene.worker.state(SessionState::Completed);
        assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
        let logs = scene.pms.calls("/progress/log");
        let told: Vec<_> = logs.iter().map(|l| l.query.as_str()).collect();
        assert_eq!(told, lines, "{wanted}");
        assert!(logs.iter().all(|l| l.method == "POST" && l.body.is_empty()));
        assert!(
            logs.iter().all(|l| l.connection == logs[0].connection),
            "pipelined over one connection"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_detail_of_a_stream_is_told() {
    let Event::Probed(mut all) = probed() else {
        panic!("probed")
    };
    let [video, audio] = &mut all.streams[..] else {
        panic!("two streams")
    };
    *video = InputStream {
        id: 0x1011,
        bit_rate: Some(8_000_000),
        profile: Some("Main 10".into()),
        level: Some(150),
        width: Some(1440),
        height: Some(1080),
        interlaced: Some(true),
        sar: Some((4, 3)),
        frame_rate: Some(30_000.0 / 1001.0),
        closed_captions: true,
        default: true,
        ..video.clone()
    };
    *audio = InputStream {
        bit_rate: Some(640_000),
        profile: Some("LC".into()),
        language: Some("ger".into()),
        channels: Some(6),
        layout: Some("5.1(side)".into()),
        sample_rate: Some(48_000),
        bit_depth: Some(24),
        ..audio.clone()
    };
    let cover = InputStream {
        index: 3,
        attached_picture: true,
        ..video.clone()
    };
    let text = InputStream {
        index: 2,
        media: MediaKind::Subtitle,
        codec: "ass".into(),
        language: Some("fre".into()),
        ..audio.clone()
    };
    all.streams.extend([text, cover]);
    all.duration_us = Some(5_425_123_456);

    let scene = Scene::new().await;
    let mut child = scene.start("sp-01");
    scene.worker.emit(Event::Probed(all));
    scene
        .pms
        .heard
        .until("the start-up", |h| h.len() >= 8)
        .await;
    child.kill().await.unwrap();
    let heard = scene.pms.heard.get();
    let details: Vec<_> = heard
        .iter()
        .filter(|h| h.tail == "/progress/streamDetail")
        .map(|h| h.query.as_str())
        .collect();
    assert_eq!(
        details,
        [
            "index=0&id=4113&codec=h264&type=video&bitrate=8000000&profile=Main%2010&width=1440\
             &height=1080&interlaced=1&sar=4:3&level=150&frameRate=29.970&closedCaptions=1\
             &disp_default=1",
            "index=1&id=1&codec=aac&type=audio&bitrate=640000&profile=LC&language=ger&channels=6\
             &layout=5.1%28side%29&sampleRate=48000&bitDepth=24",
            "index=2&id=1&codec=ass&type=subtitle&bitrate=640000&profile=LC&language=fre",
        ]
    );
    let streams = heard.iter().filter(|h| h.tail == "/progress/stream");
    assert_eq!(streams.count(), 2, "neither subtitles nor covers");
    assert!(heard.iter().any(|h| h.query == "duration=5425.123456"));
}

/// A PMS of before 2018: one id, `seglist`, three columns, all rows, log lines to `/log`.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_pms_is_called_as_it_was_then() {
    let scene = Scene::new().await;
    let line = include_str!("../../../tests/fixtures/made.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|line| line["id"] == "old-seglist")
        .unwrap();
    let words: Vec<String> = serde_json::from_value(line["argv"].clone()).unwrap();
    let title = scene.root.path().join("title.mkv").display().to_string();
    let one_id = SESSION.trim_end_matches("/job-1");
    let argv: Vec<OsString> = words
        .iter()
        .map(|w| {
            w.replace("http://127.0.0.1:32400", &scene.pms.base)
                .replace(
                    "/video/:/transcode/session/jc84z510x02dphzh3fke7y14",
                    one_id,
                )
                .replace("/media/m.mkv", &title)
                .into()
        })
        .collect();
    let child = scene.command(&argv).spawn().unwrap();
    scene.worker.emit(probed());
    scene.worker.log(LogLevel::Error, "a line");
    scene.worker.emit(progress(5.0));
    for number in 0..7 {
        scene.worker.publish(&row(number, b"ts"), b"ts");
    }
    let seglist = format!("{one_id}/seglist");
    let lists = |h: &Vec<crate::fakes::Heard>| h.iter().filter(|h| h.tail == seglist).count() == 7;
    scene.pms.heard.until("seven lists", lists).await;
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    let heard = scene.pms.heard.get();
    assert!(heard.iter().all(|h| h.query != "status=startup"));
    let first: Vec<_> = heard.iter().take(3).map(|h| h.tail.as_str()).collect();
    let (stream, detail) = (
        format!("{one_id}/progress/stream"),
        format!("{one_id}/progress/streamDetail"),
    );
    assert_eq!(first, [stream.as_str(), &stream, &detail]);
    let logs = scene.pms.calls("/log");
    let log = logs.iter().map(|l| (l.method.as_str(), l.query.as_str()));
    assert_eq!(
        log.collect::<Vec<_>>(),
        [("GET", "level=0&source=Transcoder&message=a%20line")]
    );
    let last = scene.pms.calls(&seglist).pop().unwrap();
    assert_eq!(last.body.lines().count(), 7, "all rows");
    assert!(
        last.body.ends_with("media-00006.ts,6.000000,7.000000\n"),
        "{}",
        last.body
    );
}

/// While `canThrottle` is asserted the speed is left out, and PMS is asked again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_job_leaves_its_speed_out_and_follows_every_reply() {
    let scene = Scene::new().await;
    let argv = with(&scene, "sp-01", "-loglevel_plex", "debug");
    let mut child = scene.command(&argv).spawn().unwrap();
    scene.worker.emit(probed());
    scene.worker.emit(progress(1.0));
    let throttled = |n: usize| move |t: &crate::fakes::Told| t.throttled.len() >= n;
    for round in 1..=2 {
        scene.pms.can_throttle.change(|on| *on = true);
        let told = &scene.worker.told;
        told.until("slower", throttled(round * 2 - 1)).await;
        scene.pms.can_throttle.change(|on| *on = false);
        told.until("full speed", throttled(round * 2)).await;
    }
    assert_eq!(
        scene.worker.told.get().throttled,
        [true, false, true, false]
    );
    // A PMS that fails, or says nothing, does not slow the job (PROTOCOL 6.4).
    scene.pms.can_throttle.change(|on| *on = true);
    scene.worker.told.until("slower", throttled(5)).await;
    scene.pms.mood.change(|mood| *mood = Mood::Status(500));
    scene.worker.told.until("full speed", throttled(6)).await;
    scene
        .pms
        .mood
        .change(|mood| *mood = Mood::Slow(Duration::from_millis(1)));
    child.kill().await.unwrap();
    let mut slow = false;
    for call in scene.pms.heard.get() {
        if call.query.starts_with("progress=") {
            assert_eq!(call.query.contains("&speed="), !slow, "{}", call.query);
        } else if call.tail == "/progress/log" {
            slow = call.query.contains("slower");
        }
    }
}

/// The same in real time, with nothing for longer than pooled clients wait. By `make torture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes long; run by make torture"]
async fn torture_two_minutes_without_a_segment_keep_the_pipeline() {
    let scene = Scene::new().await;
    let mut child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    let ended = tokio::time::timeout(Duration::from_secs(130), child.wait()).await;
    assert!(ended.is_err(), "it ended by itself: {ended:?}");
    scene.publish_chunks(2);
    scene.until_lists(2).await;
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    let lists = scene.pms.calls("/manifest");
    assert!(lists.iter().all(|l| l.connection == lists[0].connection));
    assert!(lists[1].at - lists[0].at > Duration::from_secs(120));
}
