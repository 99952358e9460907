//! What a playback leaves in the logs, whoever ends it, and what it must not.

use crate::fakes::probed;
use crate::{Scene, end};
use plexbeam_api::session::SessionState;
use std::fs;
use std::path::Path;

/// All that lies in the log directory: names and contents.
fn all(dir: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        text += &format!("-- {}\n", path.display());
        match path.is_dir() {
            true => text += &all(&path),
            false => text += &String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()),
        }
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_playback_leaves_a_folder_without_secrets_or_names() {
    let scene = Scene::new().await;
    let mut command = scene.command(&scene.argv("sp-01"));
    command.env("PLEXBEAM_HIDE_NAMES", "true");
    let child = command.spawn().unwrap();
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    scene.worker.state(SessionState::Completed);
    assert_eq!(end(child).await.0, Some(0), "{}", scene.log());
    let log = scene.root.path().join("log");
    let session = log.join("sessions/sess-job-1");
    for name in ["argv.json", "job.json", "timeline.log", "result.json"] {
        assert!(session.join(name).exists(), "{name} in {}", all(&log));
    }
    let result: serde_json::Value =
        serde_json::from_slice(&fs::read(session.join("result.json")).unwrap()).unwrap();
    assert_eq!(
        (&result["ran"], &result["exit"]),
        (&"remote".into(), &0.into())
    );
    assert_eq!(result["facts"]["worker"], "fake");
    for fact in ["accepted_ms", "probed_ms", "first_segment_ms"] {
        assert!(result["facts"][fact].is_string(), "{fact} in {result}");
    }
    let master = fs::read_to_string(log.join("master.log")).unwrap();
    assert_eq!(master.lines().count(), 1, "{master}");
    assert!(master.contains(" sess-job-1 remote: ") && master.contains("first_segment_ms="));
    // Kinds of command lines are counted beside the job.
    let counts = fs::read_dir(log.join("patterns")).unwrap().flatten();
    let counts = counts.filter(|e| e.path().extension().is_some_and(|e| e == "remote"));
    assert_eq!(counts.map(|e| e.metadata().unwrap().len()).sum::<u64>(), 1);
    let all = all(&log);
    for hidden in [
        "title",
        "plex-token",
        "the-key",
        "session-token",
        "signature=",
    ] {
        // The temporary directory's own name stands in front of each file's.
        let told = all.lines().filter(|line| !line.starts_with("-- "));
        let found: Vec<_> = told.filter(|line| line.contains(hidden)).collect();
        assert!(found.is_empty(), "{hidden} in {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_playback_that_is_killed_has_its_line() {
    let scene = Scene::new().await;
    let mut child = scene.start("sp-01");
    scene.worker.emit(probed());
    scene.publish_inits();
    scene.publish_chunks(1);
    scene.until_lists(1).await;
    child.kill().await.unwrap();
    let master = fs::read_to_string(scene.root.path().join("log/master.log")).unwrap();
    assert_eq!(master.lines().count(), 1, "{master}");
    assert!(master.contains(" sess-job-1 remote: "), "{master}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_cannot_be_written_change_nothing() {
    let scene = Scene::new().await;
    // A file where the folder should be; a full disk is /dev/full as every file.
    let blocked = scene.root.path().join("blocked");
    fs::write(&blocked, "").unwrap();
    let full = scene.root.path().join("full");
    fs::create_dir(&full).unwrap();
    for name in ["master.log", "cartridge_events.log"] {
        std::os::unix::fs::symlink("/dev/full", full.join(name)).unwrap();
    }
    for dir in [blocked, full] {
        let scene = Scene::new().await;
        let mut command = scene.command(&scene.argv("sp-01"));
        command.env("PLEXBEAM_LOG_DIR", dir);
        let child = command.spawn().unwrap();
        scene.worker.emit(probed());
        scene.publish_inits();
        scene.publish_chunks(1);
        scene.until_lists(1).await;
        scene.worker.state(SessionState::Completed);
        assert_eq!(end(child).await.0, Some(0));
    }
}
