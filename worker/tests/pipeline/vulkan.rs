//! The way over a device, on real frames in a device's memory: Vulkan by Mesa's software driver. The
//! device code is one for all kinds; what differs per kind is text and the driver.

use crate::{kit::*, video::*};
use plexbeam_api::JobSpec;
use plexbeam_worker::{
    device::{Capabilities, DeviceKind, Step, prove},
    input::InputPolicy,
    pipeline::{self, Control, Task},
};
use std::{path::Path, sync::OnceLock};

/// What Vulkan proves here, once for all tests.
fn vulkan() -> Capabilities {
    static PROVED: OnceLock<Capabilities> = OnceLock::new();
    let prove = || prove::device(DeviceKind::Vulkan, "0");
    PROVED
        .get_or_init(|| {
            prove()
                .capabilities
                .expect("mesa-vulkan-drivers is installed")
        })
        .clone()
}

fn run_on(spec: &JobSpec, device: &Capabilities) -> Memory {
    let policy = InputPolicy::default();
    let mut task = Task::new(spec, &policy);
    task.device = Some(device);
    let mut sink = Memory::default();
    pipeline::run_task(task, &mut sink, &Control::new()).unwrap();
    sink
}

/// Runs on the device and writes the video to a file.
fn device_file(dir: &Path, name: &str, spec: &JobSpec, device: &Capabilities) -> String {
    let made = run_on(spec, device);
    assert_eq!(made.probed().device, "vulkan+software");
    let parts: Vec<&[u8]> = std::iter::once(made.head(Some(0)))
        .chain(made.media(Some(0)).iter().map(|p| p.1.as_slice()))
        .collect();
    let path = dir.join(name);
    std::fs::write(&path, parts.concat()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The device filters of `chain` as the command line runs them.
fn cli(dir: &Path, input: &str, chain: &str) -> String {
    let before = ["-init_hw_device", "vulkan=vk:0", "-filter_hw_device", "vk"];
    reference(dir, "cli.mkv", input, &before, chain)
}

#[test]
fn scaling_on_the_device_is_close_to_the_processors() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 4, &["-an"]);
    let graph = "[0:0]scale=w=160:h=90:force_divisible_by=2[0];[0]format=pix_fmts=yuv420p|nv12[1]";
    let spec = video_job(&path, None, graph);
    let on_device = device_file(dir.path(), "device.mp4", &spec, &vulkan());
    let software = video_file(dir.path(), "software.mp4", &spec);
    assert_eq!(video_field(&on_device, "width,height"), "160,90");
    let likeness = ssim(&on_device, &software, "");
    assert!(likeness >= 0.98, "{likeness}");
    // The command line's own scaler for the device is a poorer one.
    let same = cli(
        dir.path(),
        &path,
        "[0:0]format=nv12,hwupload,scale_vulkan=w=160:h=90,hwdownload,format=nv12,\
         format=yuv420p[out]",
    );
    let likeness = ssim(&on_device, &same, "");
    assert!(likeness >= 0.95, "{likeness}");
}

/// Upload of ten bits, scaling, tone mapping and download; a line that PMS wrote for another vendor.
#[test]
fn hdr_is_mapped_on_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let pq = hdr(dir.path(), "pq.mkv", Some("smpte2084"));
    let graph = "[0:0]hwupload[a];[a]scale_cuda=w=160:h=90:format=p010[b];\
                 [b]tonemap_cuda=hable[c];[c]format=yuv420p[1]";
    let spec = video_job(&pq, None, graph);
    let on_device = device_file(dir.path(), "device.mp4", &spec, &vulkan());
    for field in ["color_transfer", "color_primaries", "color_space"] {
        assert_eq!(video_field(&on_device, field), "bt709", "{field}");
    }
    let same = cli(
        dir.path(),
        &pq,
        "[0:0]format=p010le,hwupload,\
         libplacebo=w=160:h=90:downscaler=catmull_rom:disable_linear=1:format=p010le,\
         libplacebo=tonemapping=hable:tonemapping_mode=max:peak_detect=0:colorspace=bt709:\
         color_primaries=bt709:color_trc=bt709:range=tv:format=yuv420p,hwdownload,\
         format=yuv420p[out]",
    );
    let likeness = ssim(&on_device, &same, "");
    assert!(likeness >= 0.98, "{likeness}");
    // The processor's curve has other constants, and the clip's colours are the strongest there are.
    let likeness = ssim(&on_device, &exact(dir.path(), &pq), "");
    assert!(likeness >= 0.92, "{likeness}");
}

/// By the processor, with exact transfer functions: the approximate ones are not the same on all, and
/// zimg 3.0.4's for AVX-512 are far off where colours are stronger than the curve's peak.
fn exact(dir: &Path, pq: &str) -> String {
    reference(
        dir,
        "exact.mkv",
        pq,
        &[],
        "[0:v]scale=160:90,zscale=t=linear:npl=100:agamma=0,format=gbrpf32le,\
         zscale=p=bt709:agamma=0,tonemap=hable:desat=0,\
         zscale=t=bt709:m=bt709:r=tv:agamma=0,format=yuv420p[out]",
    )
}

/// What the device did not prove is done by the processor between a download and an upload.
#[test]
fn each_missing_step_falls_back_alone() {
    let dir = tempfile::tempdir().unwrap();
    let pq = hdr(dir.path(), "pq.mkv", Some("smpte2084"));
    let graph = "[0:0]scale=w=160:h=90[a];[a]tonemap=hable[b];[b]format=yuv420p[1]";
    let spec = video_job(&pq, None, graph);
    let software = video_file(dir.path(), "software.mp4", &spec);
    let exact = exact(dir.path(), &pq);
    for missing in [Step::Tonemap, Step::Scale10] {
        let mut can = vulkan();
        assert!(can.steps.remove(&missing), "{missing:?} was proved");
        let mixed = device_file(dir.path(), "mixed.mp4", &spec, &can);
        assert_eq!(video_field(&mixed, "width,height"), "160,90", "{missing:?}");
        assert_eq!(
            video_field(&mixed, "color_transfer"),
            "bt709",
            "{missing:?}"
        );
        // Mapping enlarges what two scalers differ in.
        let (like, floor) = match missing {
            Step::Tonemap => (&software, 0.97),
            _ => (&exact, 0.92),
        };
        let likeness = ssim(&mixed, like, "");
        assert!(likeness >= floor, "{missing:?}: {likeness}");
    }
}

/// P7 does not ask who filters: numbers and times are those of a run on the processor.
#[test]
fn a_seek_on_the_device_keeps_the_timeline() {
    let dir = tempfile::tempdir().unwrap();
    let path = clip(dir.path(), "clip.mkv", 8, &["-an"]);
    let graph = "[0:0]scale=w=160:h=90[0];[0]format=pix_fmts=yuv420p|nv12[1]";
    let late = video_job(&path, Some(3_000_000), graph);
    let (ours, software) = (run_on(&late, &vulkan()), run(&late));
    let rows = |made: &Memory| -> Vec<_> {
        let media = made.media(Some(0));
        media
            .iter()
            .map(|(s, _)| (s.name.clone(), s.pts, s.duration))
            .collect()
    };
    assert_eq!(rows(&ours), rows(&software));
    for (_, bytes) in ours.media(Some(0)) {
        decodes(dir.path(), &[software.head(Some(0)), bytes]);
    }
}
