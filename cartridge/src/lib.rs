//! What Plex Media Server starts in place of its transcoder.
//!
//! * [`argv`]: the command line, read without loss.
//! * [`job`]: a job for a worker, or the reason why not.
//! * [`dispatch`]: which worker takes it.
//! * [`client`]: the worker's HTTP interface.
//! * [`session`]: one playback from its start to its end.
//! * [`plex`]: the calls that PMS expects.
//! * [`fallback`]: becoming the original transcoder.
//! * [`config`], [`log`], [`http`], [`stop`]: settings, logs, connections, signals.
//! * [`admin`]: the administrator's tool, the same program under its own name.
//!
//! Nothing is ever written to stdout, and stderr may be closed: both belong to PMS.

pub mod admin;
pub mod argv;
mod bounded;
pub mod client;
pub mod config;
pub mod dispatch;
pub mod fallback;
pub mod http;
pub mod job;
pub mod log;
pub mod plex;
pub mod session;
pub mod stop;

use config::Config;
use job::{HostFiles, Surroundings};
use log::Log;
use session::{Outcome, Playback};
use std::ffi::OsString;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use stop::Stop;
use tokio::time::Instant;

/// Does what this process was started for. Returns the exit code, unless it became the original.
pub fn run() -> u8 {
    let started = Instant::now();
    let mut words = std::env::args_os();
    let argv0 = words.next().unwrap_or_default();
    let words: Vec<OsString> = words.collect();
    let env = |name: &str| std::env::var_os(name);
    let log_dir = config::log_dir(&env).unwrap_or_else(|| config::LOG_DIR.into());
    // Until the settings are read nobody knows whether names may be written down.
    let mut log = Log::new(&log_dir, &words, true);
    // A fault of ours must not reach PMS before the original had its chance, nor its stderr.
    std::panic::set_hook(Box::new(|_| {}));
    let announced = Arc::new(AtomicBool::new(false));
    let stop = Stop::default();
    let remote = AssertUnwindSafe(|| remote(&words, &mut log, started, &announced, &stop));
    let outcome =
        catch_unwind(remote).unwrap_or_else(|_| match announced.load(Ordering::Relaxed) {
            true => Outcome::Exit(1),
            false => Outcome::Original("a fault in the cartridge".to_owned()),
        });
    match outcome {
        Outcome::Exit(code) => {
            log.ended(code);
            code
        }
        Outcome::Original(reason) => {
            let exe = std::env::current_exe().ok();
            let original = config::original(&env, &argv0, exe.as_deref());
            // What is only told must not keep the original from running (P1).
            let _ = catch_unwind(AssertUnwindSafe(|| log.local(&words, &reason)));
            // PMS has no use any more for what it asked to stop.
            if let Some(name) = stop.let_go() {
                log.event(format_args!("{name}: the original is not started"));
                return STOPPED;
            }
            let error = fallback::become_original(&original, &argv0, &words);
            log.trouble(format_args!("{}: {error}", original.display()));
            let message = format!("cannot start {}: {error}\n", original.display());
            // PMS may have closed it.
            let _ = std::io::stderr().write_all(message.as_bytes());
            1
        }
    }
}

/// Exit code after a signal (PROTOCOL 1.1).
const STOPPED: u8 = 255;

/// Tries to have the job done by a worker.
fn remote(
    words: &[OsString],
    log: &mut Log,
    started: Instant,
    announced: &Arc<AtomicBool>,
    stop: &Stop,
) -> Outcome {
    let config = match Config::load(&|name| std::env::var_os(name)) {
        Ok(config) => config,
        Err(error) => return Outcome::Original(format!("settings: {error}")),
    };
    *log = Log::new(&config.log_dir, words, config.hide_names);
    let cwd: PathBuf = match std::env::current_dir() {
        Ok(cwd) => cwd,
        Err(error) => return Outcome::Original(format!("working directory: {error}")),
    };
    let plan = match plan(words, &cwd, &config) {
        Ok(plan) => plan,
        Err(reason) => return Outcome::Original(reason),
    };
    stop.remember();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::Original(format!("no event loop: {error}")),
    };
    let playback = Playback {
        plan,
        config,
        cwd,
        token: std::env::var_os("X_PLEX_TOKEN"),
        log: log.clone(),
        started,
        announced: announced.clone(),
        stop: stop.clone(),
    };
    let outcome = runtime.block_on(session::play(playback));
    // A thread may still wait for the mount; it must not delay what comes now.
    runtime.shutdown_background();
    outcome
}

/// Judges the command line. The files it names are waited for no longer than a worker may take to
/// open them; staged subtitles lie in the mount, which may hang.
fn plan(words: &[OsString], cwd: &Path, config: &Config) -> Result<job::Plan, String> {
    let (words, cwd) = (words.to_vec(), cwd.to_owned());
    let (copy_video, keep_local) = (config.copy_video, config.keep_local.clone());
    let judging = bounded::bounded(config.limits.probe, move || {
        let around = Surroundings {
            cwd: &cwd,
            copy_video,
            keep_local: &keep_local,
            files: &HostFiles,
        };
        job::plan(&words, &around)
    });
    match judging {
        Some(judged) => judged.map_err(|reason| reason.to_string()),
        None => Err("its input files were not readable in time".to_owned()),
    }
}
