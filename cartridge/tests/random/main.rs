//! Random command lines and settings: nothing panics, nothing is lost, and what leaves is consistent.
//! Each run takes another seed, which a failure names; `PLEXBEAM_SEED` repeats it.

use plexbeam_api::{JobSpec, job::Packaging};
use plexbeam_cartridge::argv::CommandLine;
use plexbeam_cartridge::config::{self, Config, CopyVideo};
use plexbeam_cartridge::http::Url;
use plexbeam_cartridge::job::{self, Files, Surroundings};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// SplitMix64.
struct Random(u64);

impl Random {
    /// Of the seed that is asked for, or of a new one.
    fn new() -> Self {
        let asked = std::env::var("PLEXBEAM_SEED").ok();
        let seed = asked.map_or_else(
            || RandomState::new().build_hasher().finish(),
            |text| text.parse().expect("PLEXBEAM_SEED is a number"),
        );
        println!("PLEXBEAM_SEED={seed}");
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn word(&mut self) -> OsString {
        OsStr::from_bytes(ODD[self.below(ODD.len())]).to_owned()
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// A host on which every file is there; side files are small, but for one name.
struct AllFiles;

impl Files for AllFiles {
    fn readable_size(&self, path: &Path) -> std::io::Result<u64> {
        match path.as_os_str().len() % 7 {
            0 => Ok(u64::MAX),
            n => Ok(n as u64),
        }
    }
    fn read(&self, _path: &Path) -> std::io::Result<Vec<u8>> {
        Ok(b"bytes".to_vec())
    }
    fn list(&self, dir: &Path) -> Vec<std::path::PathBuf> {
        vec![dir.join("font.ttf")]
    }
}

fn recorded() -> Vec<Vec<OsString>> {
    [
        include_str!("../../../tests/fixtures/commands.jsonl"),
        include_str!("../../../tests/fixtures/made.jsonl"),
    ]
    .iter()
    .flat_map(|text| text.lines())
    .map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let words: Vec<String> = serde_json::from_value(line["argv"].clone()).unwrap();
        words.into_iter().map(OsString::from).collect()
    })
    .collect()
}

/// Words that stand at the edges of what is understood.
const ODD: &[&[u8]] = &[
    b"",
    b"-",
    b"--",
    b":",
    b"-:",
    b"-i",
    b"-map",
    b"-codec:",
    b"-codec:#",
    b"-codec:#0x",
    b"-codec:#0xffffffffff",
    b"-codec:99999999999",
    b"-metadata:s:",
    b"-metadata:s:4294967295",
    b"[",
    b"]",
    b"[]",
    b"[0:0",
    b"0:",
    b":0",
    b"0:0?",
    b"0:a?",
    b"4294967296:0",
    b"-1",
    b"nan",
    b"inf",
    b"1e999",
    b"0x10",
    b"%",
    b"%d",
    b"%05d",
    b"%99999999999d",
    b"$",
    b"$$",
    b"$Number$",
    b"$RepresentationID$",
    b"../../etc/passwd",
    b"/",
    b"http://",
    b"http://[::1]:99999/",
    b"http://127.0.0.1/video/:/transcode/session/",
    b"http://h/session//progress",
    b"http://h/video/:/transcode/session/a/progress?x",
    b"expr:gte(t,n_forced*0)",
    b"expr:",
    b"1:2:3",
    b"::",
    b"\xff",
    b"\xf0\x9f\x8e\xac",
    b"\0",
    b"inlineass=",
    b"[0:0]overlay[1]",
    b"'",
    b"\\",
    b"=",
    b"a=",
    b"=b",
    b":=",
    b"libx264",
    b"copy",
    b"dash",
    b"ssegment",
    b"nullfile",
];

/// One of `playback` most often, or of all `lines`, with up to three changes.
fn mutated(
    random: &mut Random,
    playback: &[Vec<OsString>],
    lines: &[Vec<OsString>],
) -> Vec<OsString> {
    let mut words = match random.below(4) {
        0 => random.of(lines).clone(),
        _ => random.of(playback).clone(),
    };
    for _ in 0..random.below(4) {
        let at = random.below(words.len().max(1));
        match random.below(9) {
            _ if words.is_empty() => words.push("-i".into()),
            0 => drop(words.remove(at)),
            1 => words.insert(at, words[at].clone()),
            2 => {
                let other = random.below(words.len());
                words.swap(at, other);
            }
            3 => words.truncate(at),
            4 => words[at] = random.word(),
            5 => words.insert(at, random.word()),
            6 => {
                let other = random.of(lines);
                let from = random.below(other.len().max(1)).min(other.len());
                words.extend_from_slice(&other[from..]);
            }
            _ => {
                let mut bytes = words[at].clone().into_vec();
                let byte = random.next() as u8;
                let place = random.below(bytes.len() + 1);
                match bytes.get_mut(place) {
                    Some(old) if byte < 128 => *old = byte,
                    _ => bytes.insert(place, byte),
                }
                words[at] = OsString::from_vec(bytes);
            }
        }
    }
    words
}

/// What holds of every line, however odd.
fn check(words: &[OsString]) -> bool {
    if let Ok(line) = CommandLine::parse(words.iter().cloned()) {
        assert_eq!(line.to_argv(), words, "word for word");
    }
    let judged = |copy_video| {
        let around = Surroundings {
            cwd: Path::new("/t/Transcode/Sessions/plex-transcode-a-b"),
            copy_video,
            keep_local: &[],
            files: &AllFiles,
        };
        job::plan(words, &around)
    };
    let (normal, wide) = (judged(CopyVideo::Local), judged(CopyVideo::Remote));
    if let Ok(plan) = &normal {
        assert_eq!(Ok(plan), wide.as_ref(), "a wider policy keeps nothing back");
    }
    let Ok(plan) = wide else { return false };
    let text = serde_json::to_string(&plan.spec).unwrap();
    let again: JobSpec = serde_json::from_str(&text).unwrap();
    assert_eq!(again, plan.spec, "the worker reads what was written");
    assert!(plan.patterns.iter().all(|p| !p.contains('/')), "{plan:?}");
    assert!(!plan.media.is_empty() && !plan.spec.outputs.is_empty());
    for output in &plan.spec.outputs {
        let (Packaging::Dash {
            segment_seconds, ..
        }
        | Packaging::Segment {
            segment_seconds, ..
        }
        | Packaging::Hls {
            segment_seconds, ..
        }) = &output.packaging;
        assert!(segment_seconds.is_finite() && *segment_seconds > 0.0);
    }
    true
}

#[test]
fn no_command_line_is_lost_or_misread() {
    let mut random = Random::new();
    let lines = recorded();
    let playback: Vec<_> = lines.iter().filter(|line| check(line)).cloned().collect();
    let mut remote = 0;
    for _ in 0..8_000 {
        let words = mutated(&mut random, &playback, &lines);
        let judged = std::panic::catch_unwind(|| check(&words));
        match judged {
            Ok(left) => remote += u32::from(left),
            Err(panic) => {
                println!("the line: {words:?}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{remote} of 8000 leave");
    assert!(remote > 1_000, "{remote} left: the changes are too hard");
}

#[test]
fn no_settings_are_fatal() {
    const WHOLE: &str = r#"
api_key = "key" # a comment
workers = ["http://192.168.1.20:8765", "http://[::1]:9/base"]
original = "/usr/lib/plexmediaserver/Plex Transcoder.real"
fallback_to_local = true
log_dir = '/var/log/plex-cartridge'
copy_video = "remote"
keep_local = ["tone_mapping", "everything"]
find_ms = 500
accept_ms = 1500
queue_ms = 9_223_372_036_854_775_807
probe_ms = 0x10
first_segment_ms = 60000
"#;
    const PIECES: &[&str] = &[
        "=",
        "\"",
        "'''",
        "\"\"\"",
        "[",
        "]",
        "[[",
        "{",
        "}",
        "\n",
        "\r",
        "#",
        ",",
        ".",
        "\\u",
        "\\",
        "true",
        "-1",
        "1e400",
        "nan",
        "1979-05-27T07:32:00Z",
        "http://",
        "\u{feff}",
        "\0",
        "api_key",
    ];
    let mut random = Random::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cartridge.toml");
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3_000 {
        let mut text: Vec<u8> = WHOLE.into();
        for _ in 0..random.below(4) {
            let at = random.below(text.len());
            let end = (at + random.below(12)).min(text.len());
            match random.below(3) {
                0 => drop(text.drain(at..end)),
                1 => drop(text.splice(at..end, random.of(PIECES).bytes())),
                _ => text[at] = random.next() as u8,
            }
        }
        std::fs::write(&path, &text).unwrap();
        let variable = random.word();
        let odd = *random.of(&[
            "PLEXBEAM_WORKERS",
            "PLEXBEAM_API_KEY",
            "PLEXBEAM_FALLBACK_TO_LOCAL",
            "PLEXBEAM_COPY_VIDEO",
            "PLEXBEAM_KEEP_LOCAL",
            "PLEXBEAM_LOG_DIR",
            "NONE",
        ]);
        let env = |name: &str| match name {
            "PLEXBEAM_CONFIG" => Some(path.clone().into_os_string()),
            _ if name == odd => Some(variable.clone()),
            _ => None,
        };
        match Config::load(&env) {
            Ok(_) => good += 1,
            Err(error) => {
                bad += 1;
                assert!(!error.to_string().is_empty());
            }
        }
        // Found whatever the file says.
        let original = config::original(&env, OsStr::new("/p/Plex Transcoder"), None);
        assert!(
            !original.as_os_str().is_empty(),
            "{:?}",
            OsString::from_vec(text)
        );
    }
    assert!(good > 300 && bad > 300, "{good} good, {bad} bad");
}

#[test]
fn no_url_is_fatal() {
    let mut random = Random::new();
    for _ in 0..20_000 {
        let mut text = String::from("http://host:8765/video/:/transcode?x=1#y");
        for _ in 0..=random.below(4) {
            let at = random.below(text.len() + 1);
            let c = *random.of(&[
                '/', ':', '[', ']', '@', '?', '#', '%', ' ', '\r', 'ü', '0', 's',
            ]);
            if text.is_char_boundary(at) {
                text.insert(at, c);
            }
        }
        if let Ok(url) = Url::parse(&text) {
            assert!(url.path().starts_with('/'), "{text}");
            assert!(!url.to_string().contains('?'), "{text}");
        }
    }
}
