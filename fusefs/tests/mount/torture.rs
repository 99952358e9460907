//! The overlay under test programs of others: `fsx` (reads, writes, maps, truncations and holes of one
//! file against its own memory) and `pjdfstest` (POSIX calls and their errors). `make torture` runs the
//! long forms and installs both; the short forms say loudly when the programs are missing.
//!
//! Both work in a bound directory into which a worker publishes, with passthrough and without.

use crate::support::*;
use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
};

/// Tests that `pjdfstest` leaves out here, by the ends of their names, and why.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "::erofs_named",
        "remounts read-only, which mount(8) does for FUSE by starting the daemon a second time",
    ),
    (
        "::erofs_new_file",
        "remounts read-only, which mount(8) does for FUSE by starting the daemon a second time",
    ),
    (
        "::link_count_max",
        "needs pathconf(_PC_LINK_MAX), which the C library does not know for FUSE",
    ),
];

/// A program that `cargo install` has put somewhere.
fn installed(name: &str) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    folders.extend(std::env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin")));
    folders.extend(std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo/bin")));
    let found = folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("\n*** SKIPPED: `{name}` is missing; `make torture` installs it ***\n");
    }
    found
}

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/torture")
        .join(name)
}

/// Runs `work` in a bound directory while a worker publishes into it, and checks at its end that all
/// that was published is there.
fn beside_a_publishing_worker(passthrough: bool, work: impl FnOnce(&Path)) {
    let env = Env::with(|config| config.passthrough = passthrough);
    env.worker.new_session("s1");
    let dir = env.bind("play", "s1");
    let work_dir = dir.join("work");
    std::fs::create_dir(&work_dir).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            let mut published = Vec::new();
            while !done.load(Ordering::Relaxed) && published.len() < 2_000 {
                let number = published.len() as u32 + 1;
                published.push(env.worker.publish_media("s1", 0, number, 2_000));
                env.wait_held("play", &media_name(0, number)).unwrap();
            }
            published
        });
        let finish = Finish(&done);
        work(&work_dir);
        drop(finish);
        let published = publisher.join().unwrap();
        assert_eq!(names(&dir).len(), published.len() + 1);
        for (at, expected) in published.iter().enumerate() {
            let name = media_name(0, at as u32 + 1);
            assert!(
                std::fs::read(dir.join(&name)).unwrap() == *expected,
                "{name}"
            );
        }
    });
}

/// Ends the publishing also where the work panics.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn told(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&all);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn fsx(operations: u32, seed: u32) {
    let Some(program) = installed("fsx").filter(|_| can_mount()) else {
        return;
    };
    for passthrough in [true, false] {
        beside_a_publishing_worker(passthrough, |dir| {
            let artifacts = tempfile::tempdir().unwrap();
            let output = Command::new(&program)
                .args(["-q", "-N", &operations.to_string(), "-S", &seed.to_string()])
                .arg("-f")
                .arg(config("fsx.toml"))
                .arg("-P")
                .arg(artifacts.path())
                .arg(dir.join("fsx"))
                .output()
                .unwrap();
            assert!(
                output.status.success() && told(&output).contains("All operations completed"),
                "seed {seed}, passthrough {passthrough}: {}",
                told(&output)
            );
        });
    }
}

fn pjdfstest(patterns: &[&str]) -> Vec<String> {
    let mut left_out = Vec::new();
    let Some(program) = installed("pjdfstest").filter(|_| can_mount()) else {
        return left_out;
    };
    // The group `rename` and others want a second file system.
    let second = tempfile::tempdir_in("/dev/shm").unwrap();
    for passthrough in [true, false] {
        beside_a_publishing_worker(passthrough, |dir| {
            for part in dir.ancestors().take(4) {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                if part.starts_with(std::env::temp_dir()) && part != std::env::temp_dir() {
                    std::fs::set_permissions(part, mode).unwrap();
                }
            }
            let output = Command::new(&program)
                .arg("-c")
                .arg(config("pjdfstest.toml"))
                .arg("-p")
                .arg(dir)
                .arg("-s")
                .arg(second.path())
                .args(patterns)
                .env("NO_COLOR", "1")
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "passthrough {passthrough}: {}",
                told(&output)
            );
            let text = String::from_utf8_lossy(&output.stdout);
            let skipped = text
                .lines()
                .filter_map(|line| line.trim_end().strip_suffix(" skipped"));
            left_out.extend(skipped.map(|name| name.trim().to_owned()));
            assert!(text.contains(" 0 failed"), "{}", told(&output));
        });
    }
    for name in &left_out {
        assert!(
            LEFT_OUT.iter().any(|(end, _)| name.ends_with(end)),
            "{name} was left out without a reason"
        );
    }
    left_out
}

#[test]
fn fsx_finds_nothing_in_a_short_run() {
    fsx(2_000, 1);
}

#[test]
fn names_and_links_keep_to_posix() {
    pjdfstest(&["rename", "link", "unlink", "open", "rmdir"]);
}

#[test]
#[ignore = "long; run by make torture"]
fn fsx_finds_nothing_in_a_hundred_thousand_operations() {
    fsx(100_000, 2);
}

#[test]
#[ignore = "run by make torture"]
fn posix_calls_and_their_errors_are_as_pjdfstest_wants_them() {
    let left_out = pjdfstest(&[]);
    if left_out.is_empty() {
        return;
    }
    for (end, reason) in LEFT_OUT {
        let number = left_out.iter().filter(|name| name.ends_with(end)).count();
        assert!(number > 0, "{end} is not left out any more");
        println!("left out {number} times: *{end} ({reason})");
    }
}

#[test]
#[ignore = "long; run by make torture"]
fn two_hundred_sessions_share_64_mib() {
    crate::crowd::two_hundred_sessions();
}
