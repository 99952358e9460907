//! Picture subtitles on the picture, held against `ffmpeg`'s `overlay`.

use crate::{
    kit::*,
    video::{reference, ssim, video_file, video_job},
};
use plexbeam_api::{
    Kind,
    job::{InputSpec, Location},
};
use std::path::Path;

/// When a picture is shown: from, to (seconds), its colour as a palette index, left edge.
const SHOWN: [(f64, f64, u8, u16); 3] = [(1.0, 2.5, 1, 40), (3.0, 7.5, 2, 80), (8.0, 10.0, 3, 20)];
const SIZE: (u16, u16) = (320, 180);
/// Of the pictures: width, height, upper edge.
const BOX: (u16, u16, u16) = (160, 32, 130);
const REGION: &str = ",crop=280:48:20:126";

/// A Blu-ray subtitle stream (PGS): a box with a frame, and a clear after each.
fn pgs(size: (u16, u16)) -> Vec<u8> {
    let mut out = Vec::new();
    let mut segment = |seconds: f64, kind: u8, payload: &[u8]| {
        out.extend(b"PG");
        out.extend(((seconds * 90_000.0) as u32).to_be_bytes());
        out.extend([0; 4]);
        out.push(kind);
        out.extend((payload.len() as u16).to_be_bytes());
        out.extend(payload);
    };
    let words =
        |values: &[u16]| -> Vec<u8> { values.iter().flat_map(|v| v.to_be_bytes()).collect() };
    let (width, height, top) = BOX;
    for (at, (from, to, colour, left)) in SHOWN.into_iter().enumerate() {
        let number = 2 * at as u16;
        let composition = |number: u16, objects: u8| {
            let head = [words(&[size.0, size.1]), vec![0x10], words(&[number])].concat();
            [head, vec![0x80, 0, 0, objects]].concat()
        };
        let object = [vec![0, 0, 0, 0], words(&[left, top])].concat();
        segment(from, 0x16, &[composition(number, 1), object].concat());
        let window = [vec![1, 0], words(&[left, top, width, height])].concat();
        segment(from, 0x17, &window);
        // Y, Cr, Cb, opacity: white, half seen yellow, red; the frame is black.
        let palette = [
            [1, 235, 128, 128, 255],
            [2, 210, 146, 16, 128],
            [3, 81, 240, 90, 255],
            [4, 16, 128, 128, 255],
        ];
        segment(from, 0x14, &[vec![0, 0], palette.concat()].concat());
        let run =
            |length: u16, colour: u8| vec![0, 0xC0 | (length >> 8) as u8, length as u8, colour];
        let mut rows = Vec::new();
        for row in 0..height {
            if row < 4 || row >= height - 4 {
                rows.extend(run(width, 4));
            } else {
                rows.extend([run(4, 4), run(width - 8, colour), run(4, 4)].concat());
            }
            rows.extend([0, 0]);
        }
        let length = (rows.len() as u32 + 4).to_be_bytes();
        let head = [
            vec![0, 0, 0, 0xC0],
            length[1..].to_vec(),
            words(&[width, height]),
        ]
        .concat();
        segment(from, 0x15, &[head, rows].concat());
        segment(from, 0x80, &[]);
        segment(to, 0x16, &composition(number + 1, 0));
        segment(to, 0x17, &window);
        segment(to, 0x80, &[]);
    }
    out
}

/// A film with these subtitles as stream 1, in another codec where one is named.
fn film(dir: &Path, name: &str, codec: &str) -> String {
    let sup = dir.join("subtitles.sup").to_str().unwrap().to_owned();
    std::fs::write(&sup, pgs(SIZE)).unwrap();
    let path = dir.join(name).to_str().unwrap().to_owned();
    ffmpeg(&[
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=320x180:rate=24:duration=12,hue=s=0.3",
        "-i",
        &sup,
        "-map",
        "0:v",
        "-map",
        "1:s",
        "-c:s",
        codec,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-g",
        "48",
        &path,
    ]);
    path
}

/// As PMS writes it, for each vendor; the canvas is scaled on its own branch.
#[test]
fn picture_subtitles_lie_where_ffmpeg_lays_them() {
    let dir = tempfile::tempdir().unwrap();
    for (codec, name, graph, same) in [
        (
            "copy",
            "pgs.mkv",
            "[0:1]scale=w=320:h=180,hwupload[s];[0:0]hwupload[0];\
             [0]scale_vaapi=w=320:h=180:format=nv12[v];[v][s]overlay_vaapi[1]",
            "[0:1]scale=320:180[s];[0:0]scale=320:180[v];[v][s]overlay=shortest=1[out]",
        ),
        (
            "dvdsub",
            "vobsub.mkv",
            "[0:0]scale=w=320:h=180:force_divisible_by=4[0];[0]format=pix_fmts=yuv420p|nv12[2];\
             [2][0:1]overlay=x=(W-w)/2:y=H-h[1]",
            "[0:0]scale=320:180[v];[v][0:1]overlay=x=(W-w)/2:y=H-h:shortest=1[out]",
        ),
        (
            "dvbsub",
            "dvb.ts",
            "[0:#0x100][0:#0x101]overlay=eof_action=pass:repeatlast=0[0];[0]format=nv12[1]",
            "[0:0][0:1]overlay=shortest=1:eof_action=pass[out]",
        ),
    ] {
        let film = film(dir.path(), name, codec);
        let ours = video_file(
            dir.path(),
            &format!("{codec}-ours.mp4"),
            &video_job(&film, None, graph),
        );
        let theirs = reference(dir.path(), &format!("{codec}-theirs.mp4"), &film, &[], same);
        let plain = "[0:0]scale=320:180[out]";
        let plain = reference(dir.path(), &format!("{codec}-plain.mp4"), &film, &[], plain);
        let alike = ssim(&ours, &theirs, REGION);
        let unlike = ssim(&ours, &plain, REGION);
        assert!(alike >= 0.98, "{codec}: {alike}");
        assert!(unlike < 0.9, "{codec}: nothing is seen: {unlike}");
        if codec == "copy" {
            // The second picture began before the key frame that this job starts from.
            let late = video_job(&film, Some(6_000_000), graph);
            let late = video_file(dir.path(), "late.mp4", &late);
            let rest = dir.path().join("rest.mp4").to_str().unwrap().to_owned();
            ffmpeg(&[
                "-i",
                &ours,
                "-vf",
                "select=gte(n\\,144),setpts=N/24/TB",
                "-c:v",
                "libx264",
                "-crf",
                "8",
                "-preset",
                "ultrafast",
                &rest,
            ]);
            let alike = ssim(&rest, &late, REGION);
            assert!(alike >= 0.98, "after a seek: {alike}");
        }
    }
}

/// A stream that claims a canvas of gigabytes ends the job with its size, not with the memory.
#[test]
fn a_canvas_without_measure_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let film = film(dir.path(), "film.mkv", "copy");
    let mut spec = video_job(&film, None, "[0:0][1:0]overlay[1]");
    let huge = dir.path().join("huge.sup").to_str().unwrap().to_owned();
    std::fs::write(&huge, pgs((15_000, 15_000))).unwrap();
    spec.inputs.push(InputSpec {
        locations: vec![Location::Path { path: huge }],
        ..spec.inputs[0].clone()
    });
    let problem = try_run(&spec).map(|_| ()).unwrap_err();
    assert_eq!(problem.kind, Kind::BadInput, "{problem}");
    assert!(problem.detail.contains("15000x15000"), "{problem}");
}
