//! `plexbeam-worker probe`.

use plexbeam_worker::device::{DeviceKind, Probe, Step};
use serde_json::Value;
use std::process::Command;

const BIN: &str = env!("CARGO_BIN_EXE_plexbeam-worker");

fn probe(hw: &str) -> Value {
    let output = Command::new(BIN)
        .args(["probe", "--json", "--hw", hw])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_processor_encodes_everything_that_jobs_ask_for() {
    let probe = probe("none");
    let devices = probe["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0]["name"], "software");
    for encoder in [
        "libx264",
        "libx265",
        "aac",
        "ac3",
        "eac3",
        "libopus",
        "libmp3lame",
        "flac",
    ] {
        let encoders = devices[0]["encoders"].as_array().unwrap();
        assert!(encoders.iter().any(|e| e == encoder), "{encoder}: {probe}");
    }
}

#[test]
fn vulkan_proves_each_step_on_real_frames() {
    let probe: Probe = serde_json::from_value(probe("vulkan")).unwrap();
    let can = probe
        .capabilities
        .first()
        .expect("mesa-vulkan-drivers is installed");
    assert_eq!(can.kind, DeviceKind::Vulkan);
    for step in Step::ALL {
        // libavfilter has no deinterlacer for Vulkan before FFmpeg 7.
        let expected = step != Step::Deinterlace;
        assert_eq!(can.can(step), expected, "{step:?}: {:?}", probe.devices);
    }
    // Its steps are filters only, and the report says nothing else.
    assert!(can.decode.is_empty() && can.encode.is_empty());
    assert!(probe.devices[1].checks.iter().all(|check| check.ok));
}

#[test]
fn the_table_names_what_fails_in_the_drivers_words() {
    let output = Command::new(BIN)
        .args(["probe", "--hw", "vulkan:no-such-device"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "the processor works: {text}");
    assert!(text.contains("vulkan no-such-device"), "{text}");
    assert!(text.contains("FAILED"), "{text}");
    // libavutil's own sentence for it.
    assert!(text.contains("Unable to find device"), "{text}");
    assert!(text.contains("Jobs go to the processor."), "{text}");
}
