//! Drivers that fail, as real libraries that libav loads: what `probe` says of them, and that jobs
//! end on the processor.

use super::{bench::*, process::BIN};
use plexbeam_api::{Event, SessionState, event::LogLevel, session::DeviceCheck};
use plexbeam_worker::{
    config::{ChildConfig, ServeConfig},
    device::{Capabilities, DeviceKind, Family, Probe, Step},
};
use serde_json::json;
use std::{path::Path, process::Command};

/// Builds one of the libraries beside this file.
fn library(dir: &Path, source: &str, name: &str, flags: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/service/drivers")
        .join(source);
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-w"])
        .args(flags)
        .arg("-o")
        .arg(dir.join(name))
        .arg(source)
        .status()
        .unwrap();
    assert!(built.success());
}

fn probe(hw: &str, env: (&str, &Path)) -> Probe {
    let output = Command::new(BIN)
        .args(["probe", "--json", "--hw", hw])
        .env(env.0, env.1)
        .output()
        .unwrap();
    assert!(output.status.success(), "the processor works: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn check<'p>(probe: &'p Probe, step: &str) -> &'p DeviceCheck {
    let mut checks = probe.devices[1].checks.iter();
    checks.find(|check| check.step == step).unwrap()
}

#[test]
fn a_cuda_driver_that_does_not_start_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    library(dir.path(), "cuda.c", "libcuda.so.1", &["-DFAIL_INIT=999"]);
    let probe = probe("cuda", ("LD_LIBRARY_PATH", dir.path()));
    let open = check(&probe, "open");
    assert!(
        !open.ok && open.log[0].contains("the fake driver sleeps"),
        "{open:?}"
    );
    assert!(probe.capabilities.is_empty());
}

#[test]
fn a_va_driver_that_does_not_start_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    library(dir.path(), "va.c", "libfake-va.so", &[]);
    let preload = dir.path().join("libfake-va.so");
    // QSV is opened over VAAPI, and fails for the same reason.
    for hw in ["vaapi:/dev/null", "qsv:/dev/null"] {
        let probe = probe(hw, ("LD_PRELOAD", &preload));
        let open = check(&probe, "open");
        let said = open.log.join("\n");
        assert!(
            !open.ok && said.contains("the fake VA driver sleeps"),
            "{open:?}"
        );
        assert!(probe.capabilities.is_empty());
    }
}

/// A card whose encoder sessions are all taken, with a decoder library missing: steps between are
/// proved, encoding and decoding are not, each in its driver's words.
fn taken_card(dir: &Path) {
    library(dir, "cuda.c", "libcuda.so.1", &["-DFAIL_INIT=0"]);
    library(dir, "nvenc.c", "libnvidia-encode.so.1", &[]);
}

#[test]
fn steps_encoding_and_decoding_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    taken_card(dir.path());
    let probe = probe("cuda", ("LD_LIBRARY_PATH", dir.path()));
    for step in [Step::Transfer8, Step::Transfer10] {
        assert!(check(&probe, step.words()).ok, "{step:?}");
    }
    let encode = check(&probe, "encode h264");
    let words = "OpenEncodeSessionEx failed: out of memory (10)";
    assert!(!encode.ok && encode.log[0].contains(words), "{encode:?}");
    let decode = check(&probe, "decode h264");
    assert!(
        !decode.ok && decode.log[0].contains("libnvcuvid.so.1"),
        "{decode:?}"
    );
    assert_eq!(probe.devices.len(), 2, "the second ordinal does not exist");
    assert!(probe.capabilities.is_empty());
}

/// The device proved itself when its sessions were free; when the job comes they are taken.
#[tokio::test]
async fn a_job_that_gets_no_encoder_session_ends_on_the_processor() {
    let dir = tempfile::tempdir().unwrap();
    taken_card(dir.path());
    let mut can = Capabilities::none(DeviceKind::Cuda, "0");
    can.encode.insert((Family::H264, 8));
    can.steps.insert(Step::Transfer8);
    let card = |config: &mut ServeConfig| {
        config.child = ChildConfig::of(BIN.into());
        config.child.env = vec![("LD_LIBRARY_PATH".into(), dir.path().into())];
    };
    let bench = Bench::with_devices(card, vec![can]);
    let input = super::process::short_clip(bench.dir.path());
    // A second job tries the card again: sessions come free, a device that lacks them is not sick.
    for id in ["a", "b"] {
        bench
            .start_job(&json!({
                "job_id": id,
                "input": { "type": "file", "path": input },
                "output": { "type": "hls", "segment_duration": 4 },
                "arguments": { "video_codec": "h264", "audio_codec": "aac", "resolution": "160x90" },
            }))
            .await;
        let status = bench.until_state(id, SessionState::Completed).await;
        assert_eq!(status.device.as_deref(), Some("software"));
        assert!(status.segments > 0);
        let stream = bench.stream(&format!("/sessions/{id}/events"), &[]).await;
        let events = stream.all().await;
        let mut warnings = events
            .iter()
            .filter_map(|frame| match frame.session_event() {
                Event::Log(line) if line.level == LogLevel::Warning => Some(line.message),
                _ => None,
            });
        let told = warnings.next().unwrap_or_default();
        assert!(
            told.starts_with("cuda 0 failed before the first segment"),
            "{told}"
        );
        assert!(
            told.contains("OpenEncodeSessionEx failed: out of memory (10)"),
            "{told}"
        );
    }
}
