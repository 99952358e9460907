//! File systems that do not answer: nothing that the cartridge touches in them holds it up for ever.

use crate::fakes::probed;
use crate::fuse::{Fuse, Hang};
use crate::places::mount;
use crate::{Scene, end, original};
use plexbeam_api::mount::{XATTR_MOUNT, XATTR_WORKERS};
use plexbeam_api::session::SessionState;
use rustix::process::{Pid, Signal};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A session directory in a mount of ours, and a line that is played there. The file system is dropped
/// first: the directory under it is removed with the scene, file by file.
struct Mounted {
    fuse: Fuse,
    scene: Scene,
}

impl Mounted {
    async fn new() -> Option<Mounted> {
        let scene = Scene::new().await;
        let point = scene.root.path().join("transcode");
        std::fs::create_dir(&point).unwrap();
        let fuse = Fuse::mount(&point)?;
        fuse.set(XATTR_MOUNT, &mount(None));
        Some(Mounted { scene, fuse })
    }

    fn command(&self, settings: &str) -> Command {
        let scene = &self.scene;
        let mut command = scene.command(&scene.argv("sp-01"));
        command.current_dir(self.fuse.dir());
        std::fs::write(scene.root.path().join("cartridge.toml"), settings).unwrap();
        command
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_mount_that_froze_before_the_start_costs_its_budget() {
    let Some(at) = Mounted::new().await else {
        return;
    };
    at.fuse.hang(Hang::Frozen);
    let child = at.command("").spawn().unwrap();
    assert_eq!(end(child).await.0, Some(42), "{}", at.scene.log());
    assert!(original::ran(at.scene.root.path()));
    assert!(at.scene.worker.told.get().jobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn p4_a_mount_that_freezes_before_the_binding_is_no_place_for_downloads() {
    let Some(at) = Mounted::new().await else {
        return;
    };
    at.fuse.freeze_after(XATTR_WORKERS);
    let child = at.command("").spawn().unwrap();
    at.scene.worker.emit(probed());
    at.scene.publish_inits();
    at.scene.publish_chunks(1);
    assert_eq!(end(child).await.0, Some(42), "{}", at.scene.log());
    assert!(original::ran(at.scene.root.path()));
    assert_eq!(at.scene.worker.told.get().ended, ["sess-job-1"]);
    assert!(at.scene.pms.heard.get().is_empty());
}

/// A staged subtitle lies in the mount, and is read before any worker is asked.
#[tokio::test(flavor = "multi_thread")]
async fn p4_a_subtitle_in_a_frozen_mount_is_not_waited_for_for_ever() {
    let Some(at) = Mounted::new().await else {
        return;
    };
    at.fuse.hang(Hang::Frozen);
    let mut argv = at.scene.argv("sp-01");
    let input = argv.iter().position(|word| word == "-i").unwrap();
    argv.splice(input + 2..input + 2, ["-i", "temp-0.srt"].map(Into::into));
    let mut command = at.scene.command(&argv);
    command.current_dir(at.fuse.dir());
    let settings = at.scene.root.path().join("cartridge.toml");
    std::fs::write(settings, "probe_ms = 1000\n").unwrap();
    assert_eq!(end(command.spawn().unwrap()).await.0, Some(42));
    assert!(original::ran(at.scene.root.path()));
    assert!(at.scene.worker.told.get().jobs.is_empty());
}

/// While it is taken back a job is still PMS's to stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_during_the_taking_back_is_obeyed() {
    for (one, settings) in [
        (Signal::TERM, ""),
        (Signal::INT, ""),
        (Signal::TERM, "fallback_to_local = false\n"),
    ] {
        let scene = Scene::new().await;
        let command = scene.command(&scene.argv("sp-01"));
        std::fs::write(scene.root.path().join("cartridge.toml"), settings).unwrap();
        let mut command = command;
        let child = command.spawn().unwrap();
        let told = &scene.worker.told;
        told.until("a follower", |t| !t.followed.is_empty()).await;
        scene.worker.never_ends.change(|never| *never = true);
        scene.worker.state(SessionState::Failed);
        told.until("the end", |t| !t.ended.is_empty()).await;
        signal(&child, one);
        assert_eq!(end(child).await.0, Some(255), "{}", scene.log());
        assert!(!original::ran(scene.root.path()), "{one:?}");
    }
}

/// The original is being written by an update, and is waited for: a signal ends the wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_just_before_the_original_is_obeyed() {
    let scene = Scene::new().await;
    let path = original::path(scene.root.path());
    std::fs::copy("/bin/true", &path).unwrap();
    let mut command = scene.command(&scene.argv("sp-01"));
    let mut child = command.spawn().unwrap();
    let told = &scene.worker.told;
    told.until("a follower", |t| !t.followed.is_empty()).await;
    let writing = std::fs::OpenOptions::new().append(true).open(&path);
    let writing = writing.unwrap();
    scene.worker.state(SessionState::Failed);
    let waiting = async {
        let master = scene.root.path().join("log/master.log");
        while !std::fs::read_to_string(&master).is_ok_and(|text| text.contains("local: ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waiting = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    waiting.expect("the line of a local job");
    signal(&child, Signal::TERM);
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await;
    let status = status.expect("it ends").unwrap();
    drop(writing);
    assert!(
        status.code() == Some(255) || status.signal() == Some(Signal::TERM.as_raw()),
        "{status:?}"
    );
}
