//! What is done to pictures, held against the same work by `ffmpeg`.

use crate::kit::*;
use plexbeam_api::{JobSpec, job::StreamSpec};
use std::{path::Path, process::Command};

/// A job of one video stream that goes through `graph`, which ends in `[1]`.
pub(crate) fn video_job(path: &str, seek: Option<i64>, graph: &str) -> JobSpec {
    let first = seek.map_or(1, |t| (t / 3_000_000) as u32 + 1);
    let mut spec = job(path, seek, dash(first), 3.0);
    spec.graphs = vec![graph.to_owned()];
    spec.outputs[0].streams.truncate(1);
    let StreamSpec {
        codec, frame_rate, ..
    } = &mut spec.outputs[0].streams[0];
    *codec = stream("1", "libx264", &[("crf", "12"), ("preset", "veryfast")]).codec;
    *frame_rate = None;
    spec
}

/// Runs a job and writes its video to a file that `ffmpeg` reads.
pub(crate) fn video_file(dir: &Path, name: &str, spec: &JobSpec) -> String {
    let made = run(spec);
    let parts: Vec<&[u8]> = std::iter::once(made.head(Some(0)))
        .chain(made.media(Some(0)).iter().map(|p| p.1.as_slice()))
        .collect();
    let path = dir.join(name);
    std::fs::write(&path, parts.concat()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What `ffmpeg` makes of the input with this filter chain at the settings of [`video_job`].
pub(crate) fn reference(
    dir: &Path,
    name: &str,
    input: &str,
    before: &[&str],
    chain: &str,
) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let mut args = before.to_vec();
    args.extend(["-i", input, "-filter_complex", chain, "-map", "[out]"]);
    args.extend([
        "-c:v",
        "libx264",
        "-crf",
        "12",
        "-preset",
        "veryfast",
        "-fps_mode",
        "cfr",
    ]);
    args.push(&path);
    ffmpeg(&args);
    path
}

/// Structural similarity of two files, picture by picture in order; `crop` is a filter text that
/// picks a region. Both must have equally many pictures.
pub(crate) fn ssim(a: &str, b: &str, crop: &str) -> f64 {
    let count = |path: &str| probe(path, "v").len();
    assert_eq!(count(a), count(b), "pictures of {a} and {b}");
    let side = |n: usize, name: &str| format!("[{n}:v]setpts=N/TB,format=yuv420p{crop}[{name}]");
    let graph = format!("{};{};[a][b]ssim", side(0, "a"), side(1, "b"));
    let output = Command::new("ffmpeg")
        .args(["-i", a, "-i", b, "-lavfi", &graph, "-f", "null", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    let all = text
        .split("All:")
        .nth(1)
        .unwrap_or_else(|| panic!("{text}"));
    all.split_whitespace().next().unwrap().parse().unwrap()
}

/// One field of the first video stream, as `ffprobe` tells it.
pub(crate) fn video_field(path: &str, field: &str) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-show_entries"])
        .args([&format!("stream={field}"), "-of", "csv=p=0", path])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Two seconds of moving colours in HDR, marked or not.
pub(crate) fn hdr(dir: &Path, name: &str, transfer: Option<&str>) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let params = match transfer {
        Some(transfer) => format!(
            "log-level=error:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:range=limited"
        ),
        None => "log-level=error".to_owned(),
    };
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=24:duration=2",
        "-vf",
        "format=yuv420p10le",
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-x265-params",
        &params,
        &path,
    ]);
    path
}

/// HDR10 and HLG become BT.709, whichever vendor the line was written for.
#[test]
fn hdr_is_mapped_to_sdr_as_ffmpeg_does_it() {
    let dir = tempfile::tempdir().unwrap();
    let pq = hdr(dir.path(), "pq.mkv", Some("smpte2084"));
    let hlg = hdr(dir.path(), "hlg.mkv", Some("arib-std-b67"));
    let unmarked = hdr(dir.path(), "unmarked.mkv", None);
    let chain = |from: &str, curve: &str| {
        format!(
            "[0:v]scale=160:90,{from}zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,\
             tonemap={curve}:desat=0,zscale=t=bt709:m=bt709:r=tv,format=yuv420p[out]"
        )
    };
    let marks = "setparams=color_primaries=bt2020:color_trc=smpte2084:colorspace=bt2020nc,";
    for (at, (source, from, curve, graph)) in [
        (
            &pq,
            "",
            "mobius",
            "[0:0]scale=w=160:h=90:force_divisible_by=4[0];[0]format=p010,tonemap=mobius[2];\
             [2]format=pix_fmts=yuv420p|nv12[1]",
        ),
        (
            &hlg,
            "",
            "hable",
            "[0:0]hwupload[0];[0]scale_cuda=w=160:h=90:format=p010[2];[2]tonemap_cuda=hable:\
             format=nv12[1]",
        ),
        (
            &unmarked,
            marks,
            "reinhard",
            "[0:0]scale_vaapi=w=160:h=90:format=p010,hwmap=derive_device=opencl,\
             tonemap_opencl=tonemap=reinhard:t=bt709:m=bt709:p=bt709:format=nv12,\
             hwmap=derive_device=vaapi:reverse=1[1]",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let ours = video_file(
            dir.path(),
            &format!("ours{at}.mp4"),
            &video_job(source, None, graph),
        );
        let theirs = reference(
            dir.path(),
            &format!("theirs{at}.mp4"),
            source,
            &[],
            &chain(from, curve),
        );
        let alike = ssim(&ours, &theirs, "");
        assert!(alike >= 0.98, "{curve}: {alike}");
        for field in ["color_transfer", "color_primaries", "color_space"] {
            assert_eq!(video_field(&ours, field), "bt709", "{curve}");
        }
        let plain = reference(
            dir.path(),
            &format!("plain{at}.mp4"),
            source,
            &[],
            "[0:v]scale=160:90,format=yuv420p[out]",
        );
        let unmapped = ssim(&ours, &plain, "");
        assert!(
            unmapped < 0.97,
            "{curve}: mapping changes nothing? {unmapped}"
        );
    }
}

/// A film of this picture source and encoder, four seconds long.
fn film(dir: &Path, name: &str, source: &str, encoder: &[&str]) -> String {
    let path = dir.join(name).to_str().unwrap().to_owned();
    let mut args = vec!["-f", "lavfi", "-i", source];
    args.extend(encoder);
    args.push(&path);
    ffmpeg(&args);
    path
}

/// Interlaced MPEG-2, uneven times, ten bits, odd rates and sizes: pictures and their number are
/// those of `ffmpeg`.
#[test]
fn pictures_of_every_kind_are_those_of_ffmpeg() {
    let dir = tempfile::tempdir().unwrap();
    let interlaced: &[&str] = &[
        "-vf",
        "interlace=scan=tff,setfield=tff",
        "-c:v",
        "mpeg2video",
        "-flags",
        "+ildct+ilme",
        "-q:v",
        "3",
        "-g",
        "12",
    ];
    let h264: &[&str] = &["-c:v", "libx264", "-preset", "ultrafast", "-g", "48"];
    let uneven: &[&str] = &[
        "-vf",
        "select='lt(n,30)+not(mod(n,4))'",
        "-fps_mode",
        "vfr",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
    ];
    let old: &[&str] = &["-c:v", "mpeg4", "-q:v", "3"];
    let vp9: &[&str] = &[
        "-c:v",
        "libvpx-vp9",
        "-deadline",
        "realtime",
        "-cpu-used",
        "8",
    ];
    let source = |rate: &str| format!("testsrc2=size=320x180:rate={rate}:duration=4");
    // name, source rate, encoder, our graph, ffmpeg's, and the rate that both are told.
    for (name, rate, encoder, graph, same, told) in [
        (
            "fields.ts",
            "50",
            interlaced,
            "[0:0]yadif=0:-1:0[0];[0]scale=w=160:h=90[1]",
            "[0:v]yadif=0:-1:0,scale=160:90[out]",
            None,
        ),
        (
            "doubled.mpg",
            "50",
            interlaced,
            "[0:0]hwupload[0];[0]deinterlace_vaapi=rate=field:auto=1,scale_vaapi=w=160:h=90:\
             format=nv12[1]",
            "[0:v]yadif=1:-1:1,scale=160:90[out]",
            None,
        ),
        (
            "bobbed.mkv",
            "50",
            interlaced,
            "[0:0]bwdif=1,scale=w=160:h=90[1]",
            "[0:v]bwdif=1,scale=160:90[out]",
            None,
        ),
        (
            "uneven.mkv",
            "24",
            uneven,
            "[0:0]scale=w=160:h=90[1]",
            "[0:v]scale=160:90[out]",
            Some("24"),
        ),
        (
            "film.mp4",
            "30000/1001",
            h264,
            "[0:0]scale=w=150:h=150:force_original_aspect_ratio=decrease:force_divisible_by=4[1]",
            "[0:v]scale=w=150:h=150:force_original_aspect_ratio=decrease:force_divisible_by=4[out]",
            Some("30000/1001"),
        ),
        (
            "fast.mkv",
            "60000/1001",
            h264,
            "[0:0]scale=w=160:h=-2[1]",
            "[0:v]scale=160:-2[out]",
            Some("60000/1001"),
        ),
        (
            "old.avi",
            "15000/1001",
            old,
            "[0:0]scale=w=160:h=90[1]",
            "[0:v]scale=160:90[out]",
            None,
        ),
        (
            "open.webm",
            "25",
            vp9,
            "[0:0]vpp_qsv=w=160:h=90:format=nv12[1]",
            "[0:v]scale=160:90[out]",
            None,
        ),
    ] {
        let path = film(dir.path(), name, &source(rate), encoder);
        let mut spec = video_job(&path, None, graph);
        spec.outputs[0].streams[0].frame_rate = told.map(str::to_owned);
        let ours = video_file(dir.path(), &format!("{name}-ours.mp4"), &spec);
        let mut chain = same.to_owned();
        if let Some(rate) = told {
            chain = chain.replace("[out]", &format!(",fps={rate}:round=near[out]"));
        }
        let before: &[&str] = &["-copyts", "-start_at_zero"];
        let theirs = reference(
            dir.path(),
            &format!("{name}-theirs.mp4"),
            &path,
            before,
            &chain,
        );
        for field in ["width,height", "avg_frame_rate"] {
            assert_eq!(
                video_field(&ours, field),
                video_field(&theirs, field),
                "{name}"
            );
        }
        let alike = ssim(&ours, &theirs, "");
        assert!(alike >= 0.98, "{name}: {alike}");
    }
}

/// Ten bits stay ten where the encoder keeps them, and become eight where it does not.
#[test]
fn ten_bits_stay_where_the_line_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    let source = hdr(dir.path(), "pq.mkv", Some("smpte2084"));
    for (encoder, format, pixels, profile) in [
        ("hevc_nvenc", "p010", "yuv420p10le", "Main 10"),
        ("hevc_nvenc", "nv12", "yuv420p", "Main"),
        ("h264_nvenc", "p010", "yuv420p", "High"),
    ] {
        let graph = format!("[0:0]hwupload[0];[0]scale_cuda=w=160:h=90:format={format}[1]");
        let mut spec = video_job(&source, None, &graph);
        spec.outputs[0].streams[0].codec = stream("1", encoder, &[("b", "2M")]).codec;
        let ours = video_file(dir.path(), "ours.mp4", &spec);
        assert_eq!(video_field(&ours, "pix_fmt"), pixels, "{encoder} {format}");
        assert_eq!(video_field(&ours, "profile"), profile, "{encoder} {format}");
        // Not mapped, so still marked as what it is.
        assert_eq!(video_field(&ours, "color_transfer"), "smpte2084");
    }
}

/// The EETF of ITU-R BT.2390, written down here from its text (5.4.1): a PQ code value of a master
/// of 1000 cd/m2 for a display of 100.
fn eetf(code: f64) -> f64 {
    // PQ codes of 1000 and 100 cd/m2 (SMPTE ST 2084).
    let (master, display) = (0.751_827, 0.508_078);
    let top = display / master;
    let knee = 1.5 * top - 0.5;
    let e1 = (code / master).min(1.0);
    let e2 = if e1 < knee {
        e1
    } else {
        let t = (e1 - knee) / (1.0 - knee);
        (2.0 * t.powi(3) - 3.0 * t * t + 1.0) * knee
            + (t.powi(3) - 2.0 * t * t + t) * (1.0 - knee)
            + (3.0 * t * t - 2.0 * t.powi(3)) * top
    };
    e2 * master
}

/// Greys by BT.2390 are the greys that its formula gives, taken to BT.709 by `ffmpeg`.
#[test]
fn the_curve_of_bt2390_is_that_of_its_text() {
    let dir = tempfile::tempdir().unwrap();
    let codes = [120, 300, 450, 520, 600, 680, 760];
    let bars = |name: &str, codes: &[i64]| {
        let path = dir.path().join(name).to_str().unwrap().to_owned();
        let levels: Vec<String> = codes.iter().map(i64::to_string).collect();
        let level = levels
            .iter()
            .enumerate()
            .rev()
            .fold("0".to_owned(), |rest, (at, level)| {
                format!("if(lt(X,{}),{level},{rest})", (at + 1) * 16)
            });
        let picture = format!(
            "color=black:size=112x32:rate=24:duration=0.5,format=yuv420p10le,\
             geq=lum='{level}':cb=512:cr=512"
        );
        ffmpeg(&[
            "-f",
            "lavfi",
            "-i",
            &picture,
            "-c:v",
            "libx265",
            "-x265-params",
            "log-level=error:lossless=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:\
             range=limited",
            "-preset",
            "ultrafast",
            &path,
        ]);
        path
    };
    let source = bars("source.mkv", &codes);
    let mapped = codes.map(|code| (eetf((code - 64) as f64 / 876.0) * 876.0).round() as i64 + 64);
    assert_ne!(codes, mapped);
    let ours = video_file(
        dir.path(),
        "ours.mp4",
        &video_job(
            &source,
            None,
            "[0:0]tonemap_opencl=tonemap=bt2390:format=nv12[1]",
        ),
    );
    let theirs = reference(
        dir.path(),
        "theirs.mp4",
        &bars("mapped.mkv", &mapped),
        &[],
        "[0:v]zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,\
         zscale=t=bt709:m=bt709:r=tv,format=yuv420p[out]",
    );
    let bar = |path: &str| -> Vec<u8> {
        let output = Command::new("ffmpeg")
            .args([
                "-v",
                "error",
                "-i",
                path,
                "-frames:v",
                "1",
                "-pix_fmt",
                "gray",
            ])
            .args([
                "-vf",
                "scale=in_range=tv:out_range=tv",
                "-f",
                "rawvideo",
                "-",
            ])
            .output()
            .unwrap();
        (0..codes.len())
            .map(|at| output.stdout[16 * 112 + at * 16 + 8])
            .collect()
    };
    for (at, (a, b)) in bar(&ours).iter().zip(bar(&theirs)).enumerate() {
        assert!(a.abs_diff(b) <= 3, "code {}: {a} against {b}", codes[at]);
    }
}
