//! P1: any doubt before the first announced segment ends in the original transcoder, untouched.

use crate::fakes::{Worker, chunk, probed};
use crate::{Scene, end, names};
use plexbeam_api::{Kind, Problem, session::SessionState};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A program that writes down its arguments, environment and working directory.
const RECORDER: &str = r#"#!/bin/sh
out=$(dirname "$0")/recorded
mkdir "$out" || exit 90
: > "$out/argv"
[ $# = 0 ] || printf '%s\0' "$@" > "$out/argv"
cat /proc/$$/environ > "$out/environ"
readlink /proc/$$/cwd | tr -d '\n' > "$out/cwd"
# Without a child: while one is started the shell itself blocks signals.
while read -r line; do case $line in SigBlk*|SigIgn*) printf '%s\n' "$line";; esac; done \
  < /proc/$$/status > "$out/signals"
ls -l /proc/$$/fd > "$out/files"
exit 42
"#;

pub(crate) fn path(root: &Path) -> PathBuf {
    root.join("Plex Transcoder.real")
}

pub(crate) fn install(root: &Path) {
    std::fs::write(path(root), RECORDER).unwrap();
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path(root), all).unwrap();
}

pub(crate) fn ran(root: &Path) -> bool {
    root.join("recorded").exists()
}

pub(crate) fn recorded(root: &Path, what: &str) -> Vec<u8> {
    std::fs::read(root.join("recorded").join(what)).unwrap()
}

/// The original ran once, with these arguments and no trace of ours.
pub(crate) fn assert_original(scene: &Scene, argv: &[OsString]) {
    let root = scene.root.path();
    assert!(ran(root), "{}", scene.log());
    let mut want = Vec::new();
    for word in argv {
        want.extend_from_slice(word.as_bytes());
        want.push(0);
    }
    assert_eq!(recorded(root, "argv"), want);
    assert_eq!(recorded(root, "cwd"), scene.dir.as_os_str().as_bytes());
    assert_eq!(
        names(&scene.dir),
        [] as [&str; 0],
        "no file of ours is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_without_a_worker_the_original_runs_untouched() {
    let scene = Scene::new().await;
    let mut argv = scene.argv("sp-01");
    // Options whose values are odd, but readable.
    let odd = [
        OsString::from("-metadata:s:0"),
        OsString::from_vec(b"title=\xff\xfe".to_vec()),
        "-metadata:s:0".into(),
        "".into(),
    ];
    let at = argv.len() - 1;
    argv.splice(at..at, odd);
    let mut command = scene.command(&argv);
    let value = OsString::from_vec(b"\xff=\x01 two  blanks\\ \n".to_vec());
    command
        .env_clear()
        .env("PLEXBEAM_ORIGINAL", path(scene.root.path()))
        .env("PLEXBEAM_CONFIG", scene.root.path().join("cartridge.toml"))
        .env("PLEXBEAM_LOG_DIR", "/proc/no/such/place")
        .env("LD_LIBRARY_PATH", "/usr/lib/plexmediaserver/lib")
        .env("FFMPEG_EXTERNAL_LIBS", "/Codecs/a\\ b/")
        .env("ODD", &value)
        .env("EMPTY", "");
    let (code, stdout, _) = end(command.spawn().unwrap()).await;
    assert_eq!((code, stdout.as_slice()), (Some(42), &b""[..]));
    assert_original(&scene, &argv);
    let environ = recorded(scene.root.path(), "environ");
    let mut entries: Vec<&[u8]> = environ
        .split(|b| *b == 0)
        .filter(|e| !e.is_empty())
        .collect();
    entries.sort();
    let names: Vec<_> = entries
        .iter()
        .map(|e| String::from_utf8_lossy(e.split(|b| *b == b'=').next().unwrap()).into_owned())
        .collect();
    assert_eq!(
        names,
        [
            "EMPTY",
            "FFMPEG_EXTERNAL_LIBS",
            "LD_LIBRARY_PATH",
            "ODD",
            "PLEXBEAM_CONFIG",
            "PLEXBEAM_LOG_DIR",
            "PLEXBEAM_ORIGINAL"
        ]
    );
    let mut want = b"ODD=".to_vec();
    want.extend_from_slice(value.as_bytes());
    assert!(entries.contains(&want.as_slice()));
    assert!(entries.contains(&&b"LD_LIBRARY_PATH=/usr/lib/plexmediaserver/lib"[..]));
    assert!(scene.pms.heard.get().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_the_original_is_started_under_plexs_own_name() {
    let scene = Scene::new().await;
    let out = scene.root.path().join("cmdline");
    let script = "cat /proc/$$/cmdline > \"$1\"";
    let argv = ["-c", script, "zero"].map(OsString::from);
    let argv: Vec<OsString> = argv
        .into_iter()
        .chain([out.clone().into(), "".into()])
        .collect();
    let mut command = scene.command(&argv);
    command.env("PLEXBEAM_ORIGINAL", "/bin/bash");
    assert_eq!(end(command.spawn().unwrap()).await.0, Some(0));
    let mut want = b"/usr/lib/plexmediaserver/Plex Transcoder\0".to_vec();
    for word in &argv {
        want.extend_from_slice(word.as_bytes());
        want.push(0);
    }
    assert_eq!(std::fs::read(out).unwrap(), want);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_jobs_that_are_not_for_us_never_ask_a_worker() {
    for id in ["mc-01", "mc-08", "nv-th1", "sp-05", "sma-626"] {
        let scene = Scene::new().await;
        let argv = scene.argv(id);
        assert_eq!(end(scene.start(id)).await.0, Some(42), "{id}");
        assert_original(&scene, &argv);
        assert!(scene.worker.told.get().jobs.is_empty(), "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_broken_settings_never_stop_playback() {
    let scene = Scene::new().await;
    let argv = scene.argv("sp-01");
    let mut command = scene.command(&argv);
    std::fs::write(scene.root.path().join("cartridge.toml"), "workers = 5 5").unwrap();
    assert_eq!(end(command.spawn().unwrap()).await.0, Some(42));
    assert_original(&scene, &argv);
    assert!(scene.worker.told.get().jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_job_that_the_worker_refuses_runs_here() {
    let problem = Problem::new(Kind::Unsupported, "filter `x` is not supported");
    let scene = Scene::with(Worker::start_refusing(problem).await).await;
    let argv = scene.argv("sp-01");
    assert_eq!(end(scene.start("sp-01")).await.0, Some(42));
    assert_original(&scene, &argv);
    assert!(
        scene.log().contains("filter `x` is not supported"),
        "{}",
        scene.log()
    );
    assert!(scene.pms.heard.get().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_job_that_fails_before_it_is_probed_runs_here() {
    let scene = Scene::new().await;
    let argv = scene.argv("sp-01");
    let child = scene.start("sp-01");
    scene
        .worker
        .told
        .until("a follower", |t| !t.followed.is_empty())
        .await;
    scene.worker.state(SessionState::Failed);
    assert_eq!(end(child).await.0, Some(42));
    assert_original(&scene, &argv);
    assert!(scene.pms.heard.get().is_empty(), "PMS heard nothing of it");
    assert_eq!(scene.worker.told.get().ended, ["sess-job-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_job_that_fails_before_its_first_segment_runs_here() {
    let scene = Scene::new().await;
    let argv = scene.argv("sp-01");
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    // Only the video of number 1: not a segment yet, but a file that must go again.
    scene.worker.publish(&chunk(0, 1, b"v"), b"v");
    scene.worker.state(SessionState::Failed);
    assert_eq!(end(child).await.0, Some(42));
    assert_original(&scene, &argv);
    assert!(scene.pms.calls("/manifest").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_job_without_any_segment_runs_here() {
    let scene = Scene::new().await;
    let argv = scene.argv("sp-01");
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(42), "{}", scene.log());
    assert_original(&scene, &argv);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_first_segment_a_failed_job_is_an_error() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    scene.worker.state(SessionState::Failed);
    assert_eq!(end(child).await.0, Some(1));
    assert!(!ran(scene.root.path()));
    assert!(
        scene.log().contains("the input is no media"),
        "{}",
        scene.log()
    );
    assert!(
        scene.dir.join("chunk-stream0-00001.m4s").exists(),
        "what was announced stays"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fallback_the_failure_is_shown() {
    let scene = Scene::new().await;
    let mut command = scene.command(&scene.argv("sp-01"));
    command
        .env("PLEXBEAM_WORKERS", "")
        .env("PLEXBEAM_FALLBACK_TO_LOCAL", "false");
    assert_eq!(end(command.spawn().unwrap()).await.0, Some(1));
    assert!(!ran(scene.root.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_original_that_is_the_cartridge_itself_is_not_started_for_ever() {
    let scene = Scene::new().await;
    let mut command = scene.command(&[OsString::from("-version")]);
    command.env(
        "PLEXBEAM_ORIGINAL",
        env!("CARGO_BIN_EXE_plexbeam-cartridge"),
    );
    let (code, stdout, stderr) = end(command.spawn().unwrap()).await;
    assert_eq!((code, stdout.len()), (Some(1), 0));
    let stderr = String::from_utf8(stderr).unwrap();
    assert!(stderr.contains("PLEXBEAM_ORIGINAL"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_worker_that_freezes_before_the_first_segment_is_left() {
    let scene = Scene::new().await;
    let argv = scene.argv("sp-01");
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene
        .pms
        .heard
        .until("the start-up calls", |h| h.len() >= 7)
        .await;
    scene.worker.frozen.change(|frozen| *frozen = true);
    assert_eq!(end(child).await.0, Some(42), "{}", scene.log());
    assert_original(&scene, &argv);
}
