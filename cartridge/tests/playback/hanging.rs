//! File systems that do not answer: nothing that the cartridge touches in them holds it up for ever.

use crate::fakes::probed;
use crate::fuse::{Fuse, Hang};
use crate::places::mount;
use crate::{SETTINGS, Scene, end, original};
use plexbeam_api::mount::{XATTR_MOUNT, XATTR_WORKERS};
use plexbeam_api::session::SessionState;
use rustix::process::{Pid, Signal};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A session directory in a mount of ours, and a line that is played there.
struct Mounted {
    fuse: Fuse,
    scene: Scene,
}

impl Mounted {
    async fn new() -> Option<Mounted> {
        let scene = Scene::new().await;
        let fuse = Fuse::mount()?;
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
    let child = at.command(SETTINGS).spawn().unwrap();
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
        let mut command = scene.command(&scene.argv("sp-01"));
        let settings = format!("{SETTINGS}{settings}");
        std::fs::write(scene.root.path().join("cartridge.toml"), settings).unwrap();
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

/// A scene whose log folder lies in a file system that takes every request and answers none, so that
/// nothing that waits there can be ended, not even by SIGKILL.
async fn with_hung_logs() -> Option<(Fuse, Scene)> {
    let scene = Scene::new().await;
    let fuse = Fuse::mount()?;
    fuse.hang(Hang::Deadlocked);
    Some((fuse, scene))
}

#[tokio::test(flavor = "multi_thread")]
async fn p1_a_hung_log_folder_holds_up_no_original() {
    let Some((fuse, scene)) = with_hung_logs().await else {
        return;
    };
    for words in [vec!["-version".into()], scene.argv("mc-01")] {
        let mut command = scene.command(&words);
        command.env("PLEXBEAM_LOG_DIR", fuse.dir().join("logs"));
        assert_eq!(end(command.spawn().unwrap()).await.0, Some(42));
        std::fs::remove_dir_all(scene.root.path().join("recorded")).unwrap();
    }
    // After a worker has failed, too.
    let mut command = scene.command(&scene.argv("sp-01"));
    command.env("PLEXBEAM_LOG_DIR", fuse.dir().join("logs"));
    let child = command.spawn().unwrap();
    scene.worker.emit(probed());
    scene.worker.state(SessionState::Failed);
    assert_eq!(end(child).await.0, Some(42));
    assert!(original::ran(scene.root.path()));
    assert!(fuse.unanswered() > 0, "it was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_log_folder_holds_up_no_playback() {
    for stopped in [false, true] {
        let Some((fuse, scene)) = with_hung_logs().await else {
            return;
        };
        let mut command = scene.command(&scene.argv("sp-01"));
        command.env("PLEXBEAM_LOG_DIR", fuse.dir().join("logs"));
        let child = command.spawn().unwrap();
        scene.worker.emit(probed());
        scene.publish_inits();
        for number in 1..=3 {
            scene.publish_chunks(number);
            scene.until_lists(number as usize).await;
        }
        match stopped {
            true => signal(&child, Signal::TERM),
            false => scene.worker.state(SessionState::Completed),
        }
        let code = if stopped { 255 } else { 0 };
        assert_eq!(end(child).await.0, Some(code));
        assert!(fuse.unanswered() > 0, "it was asked");
    }
}

/// The administrator hears of it instead of waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_hung_log_folder_is_told_of() {
    let Some((fuse, scene)) = with_hung_logs().await else {
        return;
    };
    let logs = fuse.dir().join("logs");
    let plex = scene.root.path().join("plex");
    std::fs::create_dir(&plex).unwrap();
    for name in ["Plex Media Server", "Plex Transcoder"] {
        std::fs::copy("/bin/true", plex.join(name)).unwrap();
    }
    let temp = scene.root.path().join("temp");
    std::fs::create_dir(&temp).unwrap();
    let tool = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexbeam-cartridge"));
        command
            .args(words)
            .env("PLEXBEAM_CONFIG", scene.root.path().join("none.toml"))
            .env("PLEXBEAM_LOG_DIR", &logs)
            .env("TMPDIR", &temp)
            .kill_on_drop(true);
        let output = command.output();
        async {
            let output = tokio::time::timeout(Duration::from_secs(30), output).await;
            output.expect("it does not wait for ever").unwrap()
        }
    };
    std::fs::write(scene.root.path().join("none.toml"), "").unwrap();
    let plex = plex.to_str().unwrap();
    let (analyze, status) = tokio::join!(tool(&["analyze"]), tool(&["status", "--plex-dir", plex]));
    let text = String::from_utf8_lossy(&analyze.stderr);
    assert!(!analyze.status.success(), "{analyze:?}");
    assert!(
        text.contains("cannot read the logs in") && text.contains("share"),
        "{text}"
    );
    let text = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success(), "{status:?}");
    assert!(
        text.contains(&format!("{} does not answer", logs.display())),
        "{text}"
    );
    assert_eq!(crate::names(&temp), [] as [&str; 0], "nothing is left");
}

/// Logs on a file system that is not certainly local are the same, written by another process.
#[tokio::test(flavor = "multi_thread")]
async fn logs_elsewhere_are_whole() {
    struct Ram(std::path::PathBuf);
    impl Drop for Ram {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let scene = Scene::new().await;
    let log = scene.root.path().join("log");
    std::fs::create_dir(&log).unwrap();
    let flags = rustix::mount::MountFlags::empty();
    if let Err(error) = rustix::mount::mount("none", &log, "ramfs", flags, None) {
        eprintln!("NOT TESTED: mount: {error}");
        return;
    }
    let _ram = Ram(log.clone());
    let child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    let mut command = scene.command(&["-version".into()]);
    assert_eq!(end(command.spawn().unwrap()).await.0, Some(42));
    // Its writer is not waited for by anybody but this test.
    let session = log.join("sessions/sess-job-1");
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let counts = || {
        let patterns = log.join("patterns").read_dir().into_iter().flatten();
        let sizes = patterns.flatten().map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            let counts = name.ends_with(".local") || name.ends_with(".remote");
            u64::from(counts) * entry.metadata().unwrap().len()
        });
        sizes.sum::<u64>()
    };
    let written = async {
        while read(log.join("master.log")).lines().count() < 2
            || !session.join("result.json").exists()
            || counts() < 2
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let written = tokio::time::timeout(Duration::from_secs(10), written).await;
    written.unwrap_or_else(|_| panic!("not all is written: {}", scene.log()));
    let timeline = read(session.join("timeline.log"));
    for stage in ["accepted by fake", "input open", "first segment", "exit 0"] {
        assert!(timeline.contains(stage), "{stage} in {timeline}");
    }
    let argv: Vec<String> = serde_json::from_str(&read(session.join("argv.json"))).unwrap();
    assert_eq!(argv.len(), scene.argv("sp-01").len());
    let analyze = Command::new(env!("CARGO_BIN_EXE_plexbeam-cartridge"))
        .args(["analyze", "--json", "--log-dir"])
        .arg(&log)
        .kill_on_drop(true)
        .output();
    let analyze = tokio::time::timeout(Duration::from_secs(30), analyze).await;
    let analyze = analyze.expect("it ends").unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&analyze.stdout).unwrap();
    assert_eq!(
        (&summary["starts"], &summary["remote"]),
        (&2.into(), &1.into()),
        "{summary}"
    );
}
