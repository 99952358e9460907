//! A new user gets along with the README alone, and sees what runs where.

use crate::{
    host::{Host, Kill},
    kit::Stage,
};
use plexbeam_tests::{argv, env::TestEnv, fake_pms, media::Film};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Install, play, update Plex, play, analyse, examine, uninstall: the tree is as it was.
#[test]
fn a_new_user_gets_along() {
    let stage = Stage::new("new-user");
    let (host, twin) = (Host::bare(&stage.env), TestEnv::new("new-user-twin"));
    let twin = Host::bare(&twin);
    let installed = host.tool(&stage.env, &["install", "--worker", &stage.worker.url]);
    assert!(installed.status.success(), "{installed:?}");

    let film = Film {
        seconds: 6.0,
        size: (160, 90),
        ..Film::default()
    };
    let line = argv::line("sp-01").scaled(160, 90);
    let play = || {
        let mut play = stage.play(line.clone(), &film.clip().path());
        play.cartridge = host.transcoder();
        // Nothing but what a host has: the settings file, the original beside the cartridge.
        for name in ["PLEXBEAM_WORKERS", "PLEXBEAM_API_KEY", "PLEXBEAM_ORIGINAL"] {
            play = play.env(name, String::new());
        }
        play = play.env(
            "PLEXBEAM_LOG_DIR",
            host.root
                .join("var/log/plex-cartridge")
                .display()
                .to_string(),
        );
        play = play.env("PLEXBEAM_CONFIG", host.settings().display().to_string());
        fake_pms::play(&play).expect("a play").assert_clean();
    };
    play();
    for host in [&host, &twin] {
        host.package("1.41.0.8992-8463ad060");
    }
    let back = host.tool(&stage.env, &["watchdog", "--once", "--quiet-ms", "50"]);
    let text = String::from_utf8_lossy(&back.stdout).into_owned();
    assert!(
        text.contains("1.40.0.7998-c29d4c0c8") && text.contains("1.41.0.8992-8463ad060"),
        "{text}"
    );
    play();

    let analysis = host.tool(&stage.env, &["analyze", "--json"]);
    let analysis: Value = serde_json::from_slice(&analysis.stdout).expect("JSON");
    assert_eq!(
        (&analysis["starts"], &analysis["remote"]),
        (&2.into(), &2.into()),
        "{analysis:#}"
    );
    let job = analysis["last"][0]["job"]
        .as_str()
        .expect("a job")
        .to_owned();
    let detail = host.tool(&stage.env, &["analyze", "--detail", &job]);
    let detail = String::from_utf8_lossy(&detail.stdout).into_owned();
    assert!(
        detail.contains("first segment announced") && detail.contains("exit 0"),
        "{detail}"
    );
    let link = Command::new(host.root.join("opt/plex-cartridge/analyze.sh"))
        .arg("--remote-feasibility")
        .arg("--root")
        .arg(&host.root)
        .output()
        .expect("the seed's command");
    assert!(link.status.success(), "{link:?}");
    let words = [
        "doctor",
        "--transcode-dir",
        &stage.mount.point.display().to_string(),
    ]
    .map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let doctor = host.tool(&stage.env, &words);
    assert!(doctor.status.success(), "{doctor:?}");

    assert!(host.tool(&stage.env, &["uninstall"]).status.success());
    assert_eq!(tree(&host.root), tree(&twin.root));
}

/// A job on the worker, and one that Plex's own transcoder does.
#[test]
fn status_tells_where_each_job_runs() {
    let env = TestEnv::new("status");
    let worker = env.worker(&["--max-jobs", "1"]);
    let host = Host::bare(&env);
    let sleep = host.root.join("sleep");
    fs::copy("/bin/sleep", &sleep).expect("an original that takes its time");
    fs::rename(&sleep, host.transcoder()).expect("in Plex's folder");
    let installed = host.tool(&env, &["install", "--worker", &worker.url]);
    assert!(installed.status.success(), "{installed:?}");
    let cwd = env.dir("plex-transcode-session-job");
    let original = Command::new(host.transcoder())
        .arg("600")
        .current_dir(&cwd)
        .env("PLEXBEAM_LOG_DIR", host.root.join("var/log/plex-cartridge"))
        .spawn()
        .expect("start the transcoder");
    let original = Kill(original);
    let film = Film {
        seconds: 60.0,
        size: (320, 180),
        ..Film::default()
    };
    // One place: the last one waits long enough to be seen.
    for n in 0..8 {
        let job = serde_json::json!({
            "job_id": format!("by-hand-{n}"),
            "input": { "type": "file", "path": film.clip().path() },
            "output": { "type": "hls" },
            "arguments": { "preset": "placebo" },
        });
        assert_eq!(worker.post("/transcode", &job).status(), 202);
    }
    let status = || -> Value {
        let output = host.tool(&env, &["status", "--json"]);
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let both = plexbeam_tests::wait::until("both jobs", std::time::Duration::from_secs(30), || {
        let status = status();
        let now = status["now"].as_array()?.clone();
        let remote = now.iter().find(|now| now["job"] == "by-hand-7")?.clone();
        let local = now
            .iter()
            .find(|now| now["pid"] == original.0.id())?
            .clone();
        Some((remote, local))
    });
    let (remote, local) = both;
    assert_eq!(
        remote["place"].as_str(),
        Some(worker.url.as_str()),
        "{remote}"
    );
    assert!(
        remote["state"] == "queued" || remote["state"] == "running",
        "{remote}"
    );
    assert_eq!(
        (&local["place"], &local["job"]),
        (&"here".into(), &"session-job".into()),
        "{local}"
    );
    assert!(
        local["why"]
            .as_str()
            .is_some_and(|why| why.contains("no input")),
        "{local}"
    );
}

/// Names, modes and bytes of everything below.
fn tree(root: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("list").flatten() {
            let (path, meta) = (entry.path(), entry.metadata().expect("a file"));
            let name = path.strip_prefix(root).expect("below").to_owned();
            let bytes = match meta.is_dir() {
                true => Vec::new(),
                false => fs::read(&path).expect("read"),
            };
            all.push((name, meta.permissions().mode(), bytes));
            if meta.is_dir() {
                folders.push(path);
            }
        }
    }
    all.sort();
    all
}
