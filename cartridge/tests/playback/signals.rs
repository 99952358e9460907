//! Signals, and pipes that PMS closes (PROTOCOL 1.1, 1.2, 1.10).

use crate::fakes::probed;
use crate::{Scene, end, names, original};
use plexbeam_api::session::SessionState;
use rustix::process::{Pid, Signal};
use std::os::unix::process::ExitStatusExt;
use tokio::process::Child;

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

/// A playing job.
async fn playing(scene: &Scene) -> Child {
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    child
}

/// PMS's two ways to end a job, in both orders, with a worker that is well and one that is frozen.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_by_sigterm_by_sigkill_and_by_both() {
    for frozen in [false, true] {
        for signals in [
            &[Signal::TERM][..],
            &[Signal::TERM, Signal::TERM, Signal::INT],
            &[Signal::TERM, Signal::KILL],
            &[Signal::KILL, Signal::TERM],
            &[Signal::QUIT],
        ] {
            let scene = Scene::new().await;
            let mut child = playing(&scene).await;
            scene.worker.frozen.change(|f| *f = frozen);
            for one in signals {
                signal(&child, *one);
            }
            let status = tokio::time::timeout(std::time::Duration::from_secs(20), child.wait())
                .await
                .expect("it ends")
                .unwrap();
            let killed = signals.contains(&Signal::KILL);
            assert!(
                status.code() == Some(255) || killed && status.signal() == Some(9),
                "{signals:?}: {status:?}"
            );
            assert!(!original::ran(scene.root.path()), "{signals:?}");
            if !killed && !frozen {
                assert_eq!(scene.worker.told.get().cancelled, ["sess-job-1"]);
            }
            // What PMS was told of stays until PMS removes it.
            assert!(scene.dir.join("chunk-stream0-00001.m4s").exists());
            assert!(names(&scene.dir).iter().all(|n| !n.ends_with(".part")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sigpipe_ends_nothing() {
    let scene = Scene::new().await;
    let mut child = playing(&scene).await;
    drop((child.stdout.take(), child.stderr.take()));
    signal(&child, Signal::PIPE);
    scene.publish_chunks(2);
    scene.until_lists(2).await;
    signal(&child, Signal::PIPE);
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
}

/// Not even open: no file or socket of ours may come to be number 0, 1 or 2.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_without_the_three_standard_files() {
    let scene = Scene::new().await;
    let command = scene.command(&scene.argv("sp-01"));
    let command = command.as_std();
    // A shell cannot give another name than the file's, and the name decides.
    let named = scene.root.path().join("Plex Transcoder");
    std::os::unix::fs::symlink(command.get_program(), &named).unwrap();
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell
        .args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"])
        .arg(&named)
        .args(command.get_args())
        .current_dir(&scene.dir)
        .kill_on_drop(true);
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap());
    }
    let child = shell.spawn().unwrap();
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    let fds = format!("/proc/{}/fd", child.id().unwrap());
    for fd in 0..3 {
        let target = std::fs::read_link(format!("{fds}/{fd}")).unwrap();
        assert_eq!(target, std::path::Path::new("/dev/null"), "{fd}");
    }
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
}

/// The original finds signals as PMS left them: nothing ignored, nothing blocked.
#[tokio::test(flavor = "multi_thread")]
async fn p1_the_original_starts_with_plain_signals() {
    let scene = Scene::new().await;
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    // After handlers were installed and connections made.
    scene.worker.state(SessionState::Failed);
    assert_eq!(end(child).await.0, Some(42), "{}", scene.log());
    let status = original::recorded(scene.root.path(), "signals");
    let status = String::from_utf8(status).unwrap();
    let here = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = |text: &str, line: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(line)).unwrap();
        // Signals 32 and 33 are the C library's own, which nobody can change.
        u64::from_str_radix(line.trim(), 16).unwrap() & !(0b11 << 31)
    };
    // This process ignores SIGPIPE as every Rust program does; its children do not.
    let given = mask(&here, "SigIgn:") & !(1 << (Signal::PIPE.as_raw() - 1));
    assert_eq!(mask(&status, "SigIgn:"), given);
    assert_eq!(mask(&status, "SigBlk:"), 0);
    let open = original::recorded(scene.root.path(), "files");
    let open = String::from_utf8(open).unwrap();
    let ours = |line: &&str| line.contains("socket:") || line.contains("eventpoll");
    assert_eq!(
        open.lines().find(ours),
        None,
        "an open file of ours: {open}"
    );
}
