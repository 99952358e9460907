//! Worker, mount and the film that several groups play.

use crate::Context;
use plexbeam_tests::{
    TestEnv,
    env::{Mount, Worker},
    media::{EAC3, Film},
    probe,
};
use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

/// Running programs. Fields are dropped in this order.
pub(crate) struct Stage {
    pub(crate) mount: Mount,
    pub(crate) worker: Worker,
    pub(crate) env: TestEnv,
}

impl Stage {
    pub(crate) fn new(name: &str) -> Stage {
        let env = TestEnv::new(name);
        // Each round plays the same film, which is to be as new each time.
        let worker = env.worker(&["--keep-beginnings", "0"]);
        let mount = env.mount(&[&worker], &[]);
        Stage { mount, worker, env }
    }

    /// The cartridge's environment; settings of this machine do not count.
    pub(crate) fn settings(&self, logs: &Path) -> Vec<(&'static str, OsString)> {
        let config = self.env.root().join("cartridge.toml");
        let _ = fs::write(&config, "");
        vec![
            ("PLEXBEAM_CONFIG", config.into()),
            ("PLEXBEAM_WORKERS", self.worker.url.clone().into()),
            ("PLEXBEAM_API_KEY", self.env.key().into()),
            ("PLEXBEAM_ORIGINAL", "/bin/false".into()),
            ("PLEXBEAM_LOG_DIR", logs.into()),
        ]
    }
}

/// The usual film: 1080p H.264 of 10 Mb/s with E-AC-3 5.1.
pub(crate) fn film(with: &Context) -> Result<PathBuf, String> {
    let film = Film {
        seconds: f64::from(with.seconds),
        size: (1920, 1080),
        video: vec![
            "libx264",
            "-preset",
            "ultrafast",
            "-bf",
            "2",
            "-b:v",
            "10M",
            "-pix_fmt",
            "yuv420p",
        ],
        audio: vec![EAC3],
        ..Film::default()
    }
    .clip()
    .path();
    let bits = fs::metadata(&film).map_err(|e| e.to_string())?.len() as f64 * 8e-6;
    let rate = bits / probe::duration(&film);
    if rate < 8.0 {
        return Err(format!("the film has {rate:.1} Mb/s only"));
    }
    println!(
        "film       {} s of 1920x1080, {rate:.1} Mb/s, E-AC-3 5.1",
        with.seconds
    );
    Ok(film)
}

/// The cartridge's log of the one session that wrote to this directory.
pub(crate) fn session_log(logs: &Path) -> String {
    let mut text = String::new();
    let mut folders = vec![logs.join("sessions")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(_) => text += &fs::read_to_string(entry.path()).unwrap_or_default(),
                Err(_) => {}
            }
        }
    }
    text
}
