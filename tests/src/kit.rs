//! What most tests need: a worker, a mount over it, and plays through the real cartridge.

use crate::{
    TestEnv,
    argv::Line,
    env::{Mount, Worker, program},
    fake_pms::{self, Play, Report, WorkerView},
    original, verify,
};
use std::path::{Path, PathBuf};

/// Worker and mount in an environment of their own. Fields are dropped in this order.
pub struct Stage {
    /// The mount over the worker.
    pub mount: Mount,
    /// The worker.
    pub worker: Worker,
    /// Where both live.
    pub env: TestEnv,
}

impl Stage {
    /// With the programs' usual settings; `name` tells directories apart for people.
    #[track_caller]
    pub fn new(name: &str) -> Stage {
        Stage::with(name, &[], &[])
    }

    /// With further flags for worker and mount.
    #[track_caller]
    pub fn with(name: &str, worker: &[&str], mount: &[&str]) -> Stage {
        let env = TestEnv::new(name);
        let worker = env.worker(worker);
        let mount = env.mount(&[&worker], mount);
        Stage { mount, worker, env }
    }

    /// A play of `media`; video copies are sent to the worker too.
    pub fn play(&self, line: Line, media: &Path) -> Play<'static> {
        let mut play = Play::new(
            &self.mount.point,
            &program("plexbeam-cartridge"),
            line,
            media,
        );
        for (name, value) in cartridge_env(&self.env, &self.worker.url) {
            play = play.env(name, value);
        }
        play.worker = Some(WorkerView {
            url: self.worker.url.clone(),
            key: self.worker.key.clone(),
        });
        play.keep = Some(self.env.dir("kept"));
        play
    }

    /// Where a started original would have written itself down.
    pub fn original(&self) -> PathBuf {
        record(&self.env)
    }

    /// Plays and checks all: no fault, not run locally, and every check of [`verify`].
    #[track_caller]
    pub fn check(&self, play: &Play<'_>) -> Report {
        let report = self.clean(play);
        verify::play(&report, &play.media);
        report
    }

    /// Plays and checks that PMS saw no fault and that the worker did it.
    #[track_caller]
    pub fn clean(&self, play: &Play<'_>) -> Report {
        let report = fake_pms::play(play).unwrap_or_else(|e| panic!("{e}"));
        let log = cartridge_log(&self.env);
        assert!(
            !self.original().exists(),
            "the original was started:\n{log}\n{}",
            report.explain()
        );
        assert!(
            report.violations.is_empty(),
            "{}\ncartridge's log:\n{log}",
            report.explain()
        );
        report
    }
}

/// The cartridge's settings in an environment.
pub fn cartridge_env(env: &TestEnv, workers: &str) -> Vec<(&'static str, String)> {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    vec![
        ("PLEXBEAM_WORKERS", workers.to_owned()),
        ("PLEXBEAM_API_KEY", env.key().to_owned()),
        ("PLEXBEAM_ORIGINAL", text(program("fake-original"))),
        ("PLEXBEAM_LOG_DIR", text(env.dir("cartridge-log"))),
        ("PLEXBEAM_COPY_VIDEO", "remote".to_owned()),
        (original::RECORD, text(record(env))),
    ]
}

fn record(env: &TestEnv) -> PathBuf {
    env.root().join("original.record")
}

/// Ends of the cartridge's log files.
pub fn cartridge_log(env: &TestEnv) -> String {
    let mut text = String::new();
    let mut folders = vec![env.dir("cartridge-log")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            text.push_str(&format!("-- {}\n", path.display()));
            text.push_str(&crate::env::tail(&path));
        }
    }
    text
}
