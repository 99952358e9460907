//! The ladder: a device, another device, the processor; down while nothing was published.

use super::bench::*;
use plexbeam_api::{Event, SessionState, event::LogLevel};
use plexbeam_worker::{
    config::ChildConfig,
    device::{Capabilities, DeviceKind, Wish, prove_apart},
};
use serde_json::json;
use std::path::Path;

fn two_devices() -> Vec<Capabilities> {
    vec![
        Capabilities::none(DeviceKind::Cuda, "0"),
        Capabilities::none(DeviceKind::Vaapi, "/dev/dri/renderD128"),
    ]
}

/// Warnings of a session's history, and how often it was told that inputs and device are open.
async fn told(bench: &Bench, id: &str) -> (Vec<String>, usize) {
    let stream = bench.stream(&format!("/sessions/{id}/events"), &[]).await;
    let (mut warnings, mut probed) = (Vec::new(), 0);
    for frame in stream.all().await {
        match frame.session_event() {
            Event::Log(line) if line.level == LogLevel::Warning => warnings.push(line.message),
            Event::Probed(_) => probed += 1,
            _ => {}
        }
    }
    (warnings, probed)
}

#[tokio::test]
async fn a_job_goes_down_the_ladder_and_says_so() {
    for (end, words) in [
        ("driver-fails", "the driver said no"),
        ("crash", "signal 6"),
    ] {
        let bench = Bench::with_devices(|_| {}, two_devices());
        let script = ["probed", "on-device", end, "then", "probed", "seg:0:2:10"];
        bench.start("j", &script).await;
        let status = bench.until_state("j", SessionState::Completed).await;
        assert_eq!(status.device.as_deref(), Some("software"));
        assert_eq!(status.segments, 2);
        let (warnings, probed) = told(&bench, "j").await;
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].starts_with("cuda 0 failed"), "{warnings:?}");
        assert!(warnings[1].starts_with("vaapi /dev/dri/renderD128 failed"));
        assert!(warnings.iter().all(|w| w.contains(words)), "{warnings:?}");
        assert!(!warnings.concat().contains("5ec2e7"), "{warnings:?}");
        assert_eq!(probed, 1, "PMS is told of a start once");
        // What failed rests: the next job does not try it again.
        bench.start("k", &script).await;
        bench.until_state("k", SessionState::Completed).await;
        assert!(told(&bench, "k").await.0.is_empty());
    }
}

#[tokio::test]
async fn nothing_is_tried_again_once_a_file_is_out_or_the_input_is_to_blame() {
    let bench = Bench::with_devices(|_| {}, two_devices());
    bench
        .start("late", &["probed", "seg:0:1:10", "driver-fails"])
        .await;
    let status = bench.until_state("late", SessionState::Failed).await;
    assert_eq!(status.device.as_deref(), Some("cuda"));
    assert!(told(&bench, "late").await.0.is_empty());
    bench.start("input", &["fail"]).await;
    let status = bench.until_state("input", SessionState::Failed).await;
    assert_eq!(status.error.unwrap().detail, "the input is no media");
    assert!(told(&bench, "input").await.0.is_empty());
}

#[tokio::test]
async fn a_jobs_wish_for_the_processor_is_kept() {
    let bench = Bench::with_devices(|_| {}, two_devices());
    let mut wish = job(
        "j",
        &["probed", "on-device", "driver-fails", "then", "seg:0:1:10"],
    );
    wish["hw_accel"] = json!("none");
    bench.start_job(&wish).await;
    bench.until_state("j", SessionState::Completed).await;
    assert!(told(&bench, "j").await.0.is_empty());
}

#[tokio::test]
async fn a_taken_session_sends_the_next_job_on() {
    let mut devices = two_devices();
    devices.truncate(1);
    devices[0].sessions = Some(1);
    let bench = Bench::with_devices(|_| {}, devices);
    bench
        .start("first", &["probed", "seg:0:1:10", "work"])
        .await;
    until("the device", || async {
        let status = bench.peek("first").await?;
        (status.device? == "cuda").then_some(())
    })
    .await;
    bench.start("second", &["probed", "seg:0:1:10"]).await;
    let status = bench.until_state("second", SessionState::Completed).await;
    assert_eq!(status.device.as_deref(), Some("software"));
    let (warnings, _) = told(&bench, "second").await;
    assert!(
        warnings[0].contains("sessions of its driver are taken"),
        "{warnings:?}"
    );
    // A session that comes free is taken again.
    assert!(bench.delete("/sessions/first").await.status.is_success());
    bench.start("third", &["probed", "seg:0:1:10"]).await;
    let status = bench.until_state("third", SessionState::Completed).await;
    assert_eq!(status.device.as_deref(), Some("cuda"));
}

/// The real worker, a real device that proved itself, and a driver that is gone when the job comes.
#[tokio::test]
async fn a_real_job_survives_a_driver_that_went_away() {
    let program = Path::new(env!("CARGO_BIN_EXE_plexbeam-worker"));
    let wish = Wish::Only(DeviceKind::Vulkan, None);
    let probe = prove_apart(program, &wish).await.unwrap();
    assert_eq!(
        probe.capabilities.len(),
        1,
        "mesa-vulkan-drivers is installed"
    );
    let gone = |config: &mut plexbeam_worker::config::ServeConfig| {
        config.child = ChildConfig::of(program.to_owned());
        config.child.env = vec![("VK_ICD_FILENAMES".into(), "/nowhere.json".into())];
    };
    let bench = Bench::with_devices(gone, probe.capabilities);
    let input = super::process::short_clip(bench.dir.path());
    bench
        .start_job(&json!({
            "job_id": "j",
            "input": { "type": "file", "path": input },
            "output": { "type": "hls", "segment_duration": 2 },
            "arguments": { "video_codec": "h264", "audio_codec": "aac", "resolution": "160x90" },
        }))
        .await;
    let status = bench.until_state("j", SessionState::Completed).await;
    assert_eq!(status.device.as_deref(), Some("software"));
    assert!(status.segments > 0);
    let (warnings, probed) = told(&bench, "j").await;
    assert_eq!(probed, 1);
    assert!(warnings[0].starts_with("vulkan 0 failed before the first segment"));
    // libavutil's own words.
    assert!(
        warnings[0].contains("VK_ERROR_INCOMPATIBLE_DRIVER"),
        "{warnings:?}"
    );
}
