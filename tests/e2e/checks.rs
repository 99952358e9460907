//! The checks themselves: what a good play left is damaged in one way after another, and each way
//! is found. A check that cannot fail proves nothing.

use crate::kit::Stage;
use plexbeam_tests::{argv, boxes, media::Film, verify};
use std::{
    fs,
    path::{Path, PathBuf},
};

type Damage = fn(&Path);

fn file(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(dir.join(name)).expect("a kept file")
}

fn put(dir: &Path, name: &str, bytes: &[u8]) {
    fs::write(dir.join(name), bytes).expect("damage a kept file");
}

/// Adds to the big-endian number of `len` bytes that stands `at` bytes into the first such box.
fn add(dir: &Path, name: &str, kind: &[u8; 4], at: usize, len: usize, plus: u64) {
    let mut bytes = file(dir, name);
    let found = bytes.windows(4).position(|w| w == kind).expect("the box") + 4 + at;
    let old = bytes[found..found + len]
        .iter()
        .fold(0_u64, |n, &b| n << 8 | u64::from(b));
    let new = (old.wrapping_add(plus)).to_be_bytes();
    bytes[found..found + len].copy_from_slice(&new[8 - len..]);
    put(dir, name, &bytes);
}

const VIDEO: &str = "chunk-stream0-00002.m4s";
const SOUND: &str = "chunk-stream1-00002.m4s";

/// Version 1 boxes hold 8 bytes of time, version 0 four.
fn tfdt(dir: &Path, name: &str, seconds: u64) {
    let init = file(dir, &name.replace("chunk", "init").replace("-00002", ""));
    let scale = boxes::init(&init).expect("an init segment").time_scale;
    let bytes = file(dir, name);
    let at = bytes.windows(4).position(|w| w == b"tfdt").expect("tfdt") + 4;
    let len = if bytes[at] == 1 { 8 } else { 4 };
    add(dir, name, b"tfdt", 4, len, u64::from(scale) * seconds);
}

#[test]
fn every_damage_to_a_play_is_found() {
    let stage = Stage::new("checks");
    let film = Film {
        seconds: 4.0,
        size: (160, 90),
        rate: "24",
        ..Film::default()
    };
    let media = film.clip().path();
    let line = argv::line("sp-01")
        .scaled(160, 90)
        .with("-r:0", "24")
        .segment_seconds(2);
    let report = stage.check(&stage.play(line, &media));
    let mut job = report.jobs[0].clone();
    let kept: PathBuf = job.kept.clone().expect("copies");
    let damages: [(&str, &str, Damage); 9] = [
        ("a byte is missing", VIDEO, |dir| {
            let bytes = file(dir, VIDEO);
            put(dir, VIDEO, &bytes[..bytes.len() - 1]);
        }),
        ("a file is missing", VIDEO, |dir| {
            fs::remove_file(dir.join(VIDEO)).expect("remove a kept file");
        }),
        ("the wrong segment", "`tfdt`", |dir| {
            put(dir, VIDEO, &file(dir, "chunk-stream0-00001.m4s"));
        }),
        ("video is late", "`tfdt`", |dir| tfdt(dir, VIDEO, 1)),
        ("sound is late", "`tfdt`", |dir| tfdt(dir, SOUND, 1)),
        ("sidx is wrong", "`sidx` begins", |dir| {
            let bytes = file(dir, VIDEO);
            let at = bytes.windows(4).position(|w| w == b"sidx").expect("sidx") + 4;
            let len = if bytes[at] == 1 { 8 } else { 4 };
            add(dir, VIDEO, b"sidx", 12, len, 5_000);
        }),
        ("a wrong fragment number", "`mfhd`", |dir| {
            add(dir, VIDEO, b"mfhd", 4, 4, 7)
        }),
        ("broken pictures", "decoded", |dir| {
            let mut bytes = file(dir, VIDEO);
            let from = bytes.len() / 3;
            bytes[from..].fill(0xff);
            put(dir, VIDEO, &bytes);
        }),
        ("another scale", "init-stream0.m4s", |dir| {
            let init = file(dir, "init-stream0.m4s");
            let version = init[init.windows(4).position(|w| w == b"mdhd").expect("mdhd") + 4];
            let at = if version == 1 { 20 } else { 12 };
            add(dir, "init-stream0.m4s", b"mdhd", at, 4, 1);
        }),
    ];
    for (what, expected, damage) in damages {
        let copy = stage.env.dir(&format!("damaged {what}"));
        for entry in fs::read_dir(&kept).expect("list the copies") {
            let entry = entry.expect("an entry");
            fs::copy(entry.path(), copy.join(entry.file_name())).expect("copy");
        }
        damage(&copy);
        job.kept = Some(copy);
        let findings = verify::findings_of(&job, &media, true);
        assert!(
            findings.iter().any(|f| f.contains(expected)),
            "{what}: {expected} is not in {findings:#?}"
        );
    }
}
