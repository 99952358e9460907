//! Updates, the watchdog and starts of the transcoder all at once. Every program is a process of its
//! own, as on a host; the original is `echo`, which says whether it was started right.
//!
//! `PLEXBEAM_CHAOS_ROUNDS` sets how many updates there are; `make chaos` takes thousands.

use crate::tree::PLEX;
use plexbeam_cartridge::admin::signature::{Look, look};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SCRIPT: &str = r#"
set -e
cd "$1"
n=0
while [ $n -lt "$2" ]; do
  n=$((n + 1))
  { cat /bin/echo; echo "version $n"; } > "Plex Transcoder.dpkg-new"
  chmod 755 "Plex Transcoder.dpkg-new"
  # dpkg keeps a link to the old file while it renames the new one over it.
  ln -f "Plex Transcoder" "Plex Transcoder.dpkg-tmp"
  mv -f "Plex Transcoder.dpkg-new" "Plex Transcoder"
  rm -f "Plex Transcoder.dpkg-tmp"
  case $((n % 4)) in 0) sleep 0.02 ;; 1) sleep 0.005 ;; esac
done
"#;

struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        // Ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The cartridge without its debugging information: small enough to be copied thousands of times.
fn program(dir: &Path) -> PathBuf {
    let small = dir.join("plexbeam-cartridge");
    let stripped = Command::new("strip")
        .args(["-s", "-o"])
        .arg(&small)
        .arg(env!("CARGO_BIN_EXE_plexbeam-cartridge"))
        .status();
    assert!(stripped.is_ok_and(|s| s.success()), "strip of binutils");
    small
}

#[test]
fn a_start_at_any_moment_runs_a_whole_original() {
    let rounds: u64 = match std::env::var("PLEXBEAM_CHAOS_ROUNDS") {
        Ok(text) => text.parse().expect("a number of rounds"),
        Err(_) => 150,
    };
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("root");
    let plex = root.join(&PLEX[1..]);
    fs::create_dir_all(&plex).unwrap();
    fs::create_dir_all(root.join("opt")).unwrap();
    let transcoder = plex.join("Plex Transcoder");
    fs::copy("/bin/echo", &transcoder).unwrap();
    let program = program(temp.path());
    let tool = |words: &[&str]| {
        let mut command = Command::new(&program);
        command.args(words).arg("--root").arg(&root);
        command.stdout(Stdio::null());
        command
    };
    assert!(tool(&["install"]).status().unwrap().success());
    let dog = Kill(tool(&["watchdog", "--quiet-ms", "0"]).spawn().unwrap());

    let logs = temp.path().join("logs");
    let (starts, ours) = while_starting(&transcoder, &logs, || {
        let updates = Command::new("sh")
            .args(["-c", SCRIPT, "updates"])
            .arg(&plex)
            .arg(rounds.to_string())
            .process_group(0)
            .status();
        assert!(updates.unwrap().success(), "an update failed");
    });

    // The last update is the one that is kept.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let kept = fs::read(plex.join("Plex Transcoder.real")).unwrap_or_default();
        let put_back = matches!(look(&transcoder), Ok(Look::Cartridge { .. }));
        if put_back && kept.ends_with(format!("version {rounds}\n").as_bytes()) {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the last update was not taken in"
        );
        thread::sleep(Duration::from_millis(10));
    }
    drop(dog);

    // Out of the way and back again, as often as somebody may want.
    let turns = rounds / 10;
    let (more, _) = while_starting(&transcoder, &logs, || {
        for _ in 0..turns {
            assert!(tool(&["uninstall"]).status().unwrap().success());
            assert!(tool(&["install"]).status().unwrap().success());
        }
    });
    assert!(more > turns / 2, "{more} starts");
    println!("{turns} times uninstalled and installed, {more} starts meanwhile");
    println!("{rounds} updates, {starts} starts, {ours} with the cartridge in place afterwards");
    assert!(starts > rounds / 2, "{starts} starts");
    assert!(ours > 0, "the cartridge was never in place");
}

/// Starts the transcoder again and again while `work` runs: each start is echo's. Gives how many there
/// were, and how often the cartridge was in place afterwards.
fn while_starting(transcoder: &Path, logs: &Path, work: impl FnOnce()) -> (u64, u64) {
    let (done, starts, ours) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let starters: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        let output = Command::new(transcoder)
                            .args(["-version", "", "two words"])
                            .env("PLEXBEAM_LOG_DIR", logs)
                            .output();
                        let output = output.unwrap_or_else(|e| panic!("not started: {e}"));
                        let said = String::from_utf8_lossy(&output.stdout).into_owned();
                        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                        assert_eq!(
                            said, "-version  two words\n",
                            "{:?} {stderr}",
                            output.status
                        );
                        starts.fetch_add(1, Ordering::Relaxed);
                        if let Ok(Look::Cartridge { .. }) = look(transcoder) {
                            ours.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        // A work that panics must end the starters, too.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let ended: Vec<_> = starters.into_iter().map(|starter| starter.join()).collect();
        for end in ended {
            end.unwrap();
        }
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
    });
    (starts.into_inner(), ours.into_inner())
}
