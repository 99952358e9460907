//! A headless Chromium of its own for each page.

use plexbeam_tests::{TestEnv, env::Process};
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// Runs until dropped.
#[derive(Debug)]
pub(super) struct Browser {
    _process: Process,
}

impl Browser {
    /// Opens `url` with a fresh profile.
    #[track_caller]
    pub(super) fn open(env: &TestEnv, url: &str) -> Browser {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("chromium-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let profile = env.dir(&format!("{name}-profile"));
        let mut command = Command::new(program());
        command
            .args([
                "--headless=new",
                // Chromium refuses to be root inside its own sandbox.
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--disable-breakpad",
                "--disable-background-networking",
                "--disable-background-timer-throttling",
                "--disable-renderer-backgrounding",
                "--disable-component-update",
                "--disable-extensions",
                "--disable-sync",
                "--no-first-run",
                "--no-proxy-server",
                "--autoplay-policy=no-user-gesture-required",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(url)
            // Nothing of it outside of the environment.
            .env("HOME", &profile)
            .env("XDG_CONFIG_HOME", &profile)
            .env("XDG_CACHE_HOME", &profile);
        Browser {
            _process: Process::start(&name, env.root(), command),
        }
    }
}

#[track_caller]
fn program() -> PathBuf {
    ["chromium", "chromium-browser", "google-chrome"]
        .iter()
        .flat_map(|name| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .map(|dir| dir.join(name))
                .collect::<Vec<_>>()
        })
        .find(|path| Path::is_file(path))
        .expect("chromium is not installed; `make setup-browser` installs it")
}
