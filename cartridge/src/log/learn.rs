//! What kinds of command line PMS uses: each new shape is kept once, with an example, and counted.
//!
//! A shape is the options in their order, without values but for the few that are names (codecs,
//! formats, filters). Below `patterns/`, `<id>.json` is the [`Pattern`], and the lengths of
//! `<id>.local` and `<id>.remote` are the counts: one byte appended per start, so that any number of
//! processes may count without waiting for each other.

use super::store;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;

/// Shapes that are kept; more are counted nowhere.
const MOST: usize = 500;

/// Options whose value is a name of ffmpeg's own.
const NAMED: &[&str] = &[
    "f",
    "codec",
    "c",
    "segment_format",
    "hwaccel",
    "hwaccel_output_format",
    "preset",
    "loglevel_plex",
];

/// A kind of command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern {
    /// Digest of the shape.
    pub id: String,
    /// Options in order.
    pub shape: String,
    /// The first command line of this shape, names hidden where that is asked for.
    pub example: Vec<String>,
    /// What became of it.
    pub verdict: String,
}

/// The options of a command line in order.
pub fn shape(words: &[OsString]) -> String {
    let mut out = String::new();
    let mut words = words.iter().map(|word| word.to_string_lossy()).peekable();
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix('-') else {
            continue;
        };
        if !option.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let (name, specifier) = option.split_once(':').unwrap_or((option, ""));
        if !out.is_empty() {
            out.push(' ');
        }
        let _ = write!(out, "-{name}");
        if !specifier.is_empty() {
            let kind = match specifier.starts_with(|c: char| c.is_ascii_digit() || c == '#') {
                true => "N",
                false => specifier,
            };
            let _ = write!(
                out,
                ":{}",
                kind.trim_end_matches(|c: char| c.is_ascii_digit())
            );
        }
        let value = words.peek().map(|value| value.as_ref()).unwrap_or_default();
        if NAMED.contains(&name) && is_name(value) {
            let _ = write!(out, "={value}");
        } else if name == "filter_complex" || name == "vf" || name == "af" {
            let _ = write!(out, "={}", filters(value));
        }
    }
    out
}

fn is_name(text: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || "_-.,".contains(c);
    !text.is_empty() && text.len() <= 32 && text.chars().all(ok)
}

/// The names of the filters of a graph, in order.
fn filters(graph: &str) -> String {
    let names = graph.split([';', ',']).filter_map(|part| {
        let part = part.rsplit_once(']').map_or(part, |(before, after)| {
            // Labels stand before a filter and behind it.
            match after.is_empty() {
                true => before.split(']').next_back().unwrap_or_default(),
                false => after,
            }
        });
        let name = part.split(['=', '@', '[']).next()?.trim();
        is_name(name).then_some(name)
    });
    names.collect::<Vec<_>>().join("+")
}

/// Counts a command line of this shape, and keeps the shape where it is new. `example` is asked for
/// only then.
pub(super) fn count(
    dir: &Path,
    shape: &str,
    remote: bool,
    verdict: &str,
    example: impl FnOnce() -> Vec<String>,
) {
    let dir = dir.join("patterns");
    let mut id = String::with_capacity(16);
    for byte in Sha256::digest(shape.as_bytes()).iter().take(8) {
        let _ = write!(id, "{byte:02x}");
    }
    let kind = if remote { "remote" } else { "local" };
    let path = dir.join(format!("{id}.json"));
    if !path.exists() {
        // Where it cannot be made, nothing is learned.
        let _ = std::fs::create_dir_all(&dir);
        if std::fs::read_dir(&dir).map_or(MOST, |d| d.count()) >= MOST * 3 {
            return;
        }
        let pattern = Pattern {
            id: id.clone(),
            shape: shape.to_owned(),
            example: example(),
            verdict: verdict.to_owned(),
        };
        store::replace(&path, &pattern);
    }
    store::append(&dir.join(format!("{id}.{kind}")), b".");
}

/// All that was learned: each pattern with how often it ran on a worker and here.
pub fn patterns(dir: &Path) -> Vec<(Pattern, u64, u64)> {
    let dir = dir.join("patterns");
    let entries = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    let mut all: Vec<(Pattern, u64, u64)> = entries
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "json"))
        .filter_map(|entry| {
            let pattern: Pattern =
                serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok()?;
            let count = |kind: &str| {
                let meta = dir.join(format!("{}.{kind}", pattern.id)).metadata();
                meta.map_or(0, |m| m.len())
            };
            let (remote, local) = (count("remote"), count("local"));
            Some((pattern, remote, local))
        })
        .collect();
    all.sort_by_key(|(pattern, remote, local)| (u64::MAX - remote - local, pattern.id.clone()));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_shape_has_no_names_of_films_and_no_numbers() {
        let one = "-codec:0 hevc -ss 12.5 -i /films/a.mkv -filter_complex [0:0]scale=w=1:h=2[1];[1]format=yuv420p[2] -map [2] -codec:0 libx264 -crf:0 16 -metadata:s:0 language=eng -f dash dash";
        let other = one
            .replace("12.5", "-7")
            .replace("/films/a.mkv", "/b c")
            .replace("w=1", "w=9")
            .replace(":0 16", ":1 20");
        let shape = shape(&words(one));
        assert_eq!(shape, self::shape(&words(&other)));
        assert_eq!(
            shape,
            "-codec:N=hevc -ss -i -filter_complex=scale+format -map -codec:N=libx264 -crf:N -metadata:s: -f=dash"
        );
        assert_ne!(
            shape,
            self::shape(&words(&one.replace("libx264", "libx265")))
        );
    }

    #[test]
    fn many_at_once_count_right_and_keep_one_example() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..8 {
                let dir = dir.path();
                scope.spawn(move || {
                    for _ in 0..25 {
                        let words = words(&format!("-i /film-{n}.mkv -f dash x"));
                        count(dir, &shape(&words), n % 2 == 0, "why", || {
                            vec![n.to_string()]
                        });
                    }
                });
            }
        });
        let all = patterns(dir.path());
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].1, all[0].2), (100, 100));
        assert_eq!(all[0].0.shape, "-i -f=dash");
        assert_eq!(all[0].0.example.len(), 1);
    }
}
