use super::*;
use plexbeam_api::event::Picture;

fn stream(index: u32, media: MediaKind, codec: &str) -> InputStream {
    InputStream {
        input: 0,
        index,
        id: index + 1,
        media,
        codec: codec.into(),
        bit_rate: None,
        profile: None,
        level: None,
        language: None,
        attached_picture: false,
        default: false,
        width: None,
        height: None,
        interlaced: None,
        sar: None,
        frame_rate: None,
        closed_captions: false,
        channels: None,
        layout: None,
        sample_rate: None,
        bit_depth: None,
    }
}

fn probed() -> Probed {
    let video = InputStream {
        bit_rate: Some(8_000_000),
        profile: Some("Main 10".into()),
        level: Some(40),
        width: Some(1920),
        height: Some(1080),
        interlaced: Some(false),
        sar: Some((1, 1)),
        frame_rate: Some(24_000.0 / 1001.0),
        default: true,
        ..stream(0, MediaKind::Video, "hevc")
    };
    let audio = InputStream {
        language: Some("eng".into()),
        channels: Some(6),
        layout: Some("5.1(side)".into()),
        sample_rate: Some(48_000),
        ..stream(1, MediaKind::Audio, "eac3")
    };
    let cover = InputStream {
        attached_picture: true,
        ..stream(3, MediaKind::Video, "mjpeg")
    };
    let staged = InputStream {
        input: 1,
        ..stream(0, MediaKind::Subtitle, "subrip")
    };
    Probed {
        duration_us: Some(5_425_123_456),
        format: "matroska,webm".into(),
        streams: vec![
            video,
            audio,
            stream(2, MediaKind::Subtitle, "ass"),
            cover,
            staged,
        ],
        pictures: vec![Picture {
            width: 1280,
            height: 720,
        }],
        device: "software".into(),
    }
}

#[test]
fn startup_calls_come_in_plexs_order_with_their_fields() {
    let want = [
        ("", "status=startup"),
        ("/stream", "index=0&id=1&codec=hevc&type=video"),
        ("/stream", "index=1&id=2&codec=eac3&type=audio"),
        (
            "/streamDetail",
            "index=0&id=1&codec=hevc&type=video&bitrate=8000000&profile=Main%2010&width=1920&height=1080\
             &interlaced=0&sar=1:1&level=40&frameRate=23.976&disp_default=1",
        ),
        (
            "/streamDetail",
            "index=1&id=2&codec=eac3&type=audio&language=eng&channels=6&layout=5.1%28side%29&sampleRate=48000",
        ),
        ("/streamDetail", "index=2&id=3&codec=ass&type=subtitle"),
        ("", "duration=5425.123456"),
        ("", "width=1280&height=720"),
    ];
    let calls = startup(&probed(), Dialect::New);
    let calls: Vec<_> = calls.iter().map(|(t, q)| (*t, q.as_str())).collect();
    assert_eq!(calls, want);
}

#[test]
fn an_unknown_duration_is_minus_one() {
    let probed = Probed {
        duration_us: None,
        ..probed()
    };
    assert!(startup(&probed, Dialect::New).contains(&("", "duration=-1.000000".into())));
    let progress = Progress {
        percent: Some(5.0),
        ..Progress::default()
    };
    assert_eq!(
        progress_query(&progress, false, false, false),
        "progress=-1.0&size=0&remaining=-1"
    );
}

#[test]
fn progress_has_plexs_fields() {
    let progress = Progress {
        percent: Some(12.34),
        size: 5_000,
        remaining_s: Some(77),
        speed: Some(3.26),
        vdec_packets: 100,
        vdec_failed: 2,
        ..Progress::default()
    };
    assert_eq!(
        progress_query(&progress, true, false, false),
        "progress=12.3&size=5000&remaining=77&vdec_packets=100&vdec_hw_failed=0&vdec_sw_failed=2\
         &vdec_hw_ok=0&vdec_sw_ok=98&speed=3.3"
    );
    assert_eq!(
        progress_query(&progress, true, true, true),
        "progress=12.3&size=5000&remaining=77&vdec_packets=100&vdec_hw_failed=2&vdec_sw_failed=0\
         &vdec_hw_ok=98&vdec_sw_ok=0&vdec_hw_status=1"
    );
}

#[test]
fn the_throttle_is_a_word_in_the_reply() {
    assert!(can_throttle(b"<MediaContainer canThrottle=\"1\"/>"));
    assert!(!can_throttle(b"<MediaContainer/>"));
    assert!(!can_throttle(b""));
}

/// Accepts calls and never answers.
async fn silent_pms() -> PmsPlan {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/progress", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok(connection) = listener.accept().await {
            open.push(connection);
        }
    });
    PmsPlan {
        progress: Url::parse(&url).unwrap(),
        log_level: Some(4),
        dialect: Dialect::New,
    }
}

#[tokio::test(start_paused = true)]
async fn a_pms_that_never_answers_costs_a_bounded_time_and_no_memory() {
    let start = Instant::now();
    let reporter = Reporter::start(&silent_pms().await, None, &probed(), false);
    let mut begun = reporter.begun();
    begun.wait_for(|begun| *begun).await.unwrap();
    assert!(
        start.elapsed() < STARTUP + CALL + PACE,
        "{:?}",
        start.elapsed()
    );
    for n in 0..1_000 {
        reporter.progress(Progress::default());
        reporter.log(LogLine {
            level: LogLevel::Error,
            message: n.to_string(),
        });
    }
    assert_eq!(reporter.logs.capacity(), 0, "the rest was dropped");
    assert!(
        !*reporter.throttle().borrow(),
        "full speed where PMS says nothing"
    );
    let (before, bound) = (Instant::now(), Duration::from_secs(5));
    reporter.finish(bound).await;
    assert!(before.elapsed() <= bound + PACE);
}
