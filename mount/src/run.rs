//! Foreground and background, readiness, signals.
//!
//! The background process is this program again with `--tell-parent`: it answers one line on its
//! standard output, when the kernel agrees that the mount is there or when it failed, and then
//! leaves the terminal. So no process with threads is ever forked.

use crate::cli::CliArgs;
use plexbeam_fusefs::{FsConfig, Mounted, SetupError, mount};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What the background process says when the mount is there.
const READY: &str = "ready";
/// How long the workers may take to say who they are before the mount counts as ready anyway.
const FIRST_ANSWERS: Duration = Duration::from_millis(500);
/// How often it is looked whether the kernel has ended the mount.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The mount could not be made.
    #[error("{0}")]
    Setup(#[from] SetupError),
    /// The background process said so, or died.
    #[error("{0}")]
    Background(String),
    /// The log file or filter cannot be used.
    #[error("cannot log to {path}: {source}")]
    LogFile {
        /// As given.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The filter is malformed.
    #[error("`{0}` is no log filter; write for example `info` or `plexbeam_fusefs=debug`")]
    LogFilter(String),
    /// The process could not be set up.
    #[error("cannot start: {0}")]
    Process(#[from] io::Error),
}

impl RunError {
    /// 1: the mount cannot be made; 2: wrong use; 3: a fault of the process's surroundings.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            RunError::Setup(_) | RunError::Background(_) => ExitCode::from(1),
            RunError::LogFile { .. } | RunError::LogFilter(_) => ExitCode::from(2),
            RunError::Process(_) => ExitCode::from(3),
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &CliArgs) -> Result<(), RunError> {
    if !args.stays() {
        return in_background();
    }
    let tell_parent = args.tell_parent;
    let outcome = stay(args);
    if let Err(error) = &outcome
        && tell_parent
    {
        // The parent may be gone; there is nobody else to tell.
        let _ = writeln!(io::stdout(), "{error}");
    }
    outcome
}

/// Starts this program again and waits for its one line.
fn in_background() -> Result<(), RunError> {
    let program = std::env::current_exe()?;
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut child = Command::new(program)
        .args(arguments)
        .arg("--tell-parent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        BufReader::new(output).read_line(&mut line)?;
    }
    match line.trim_end() {
        READY => Ok(()),
        "" => {
            let status = child.wait()?;
            Err(RunError::Background(format!(
                "the background process ended with {status}"
            )))
        }
        error => Err(RunError::Background(error.to_owned())),
    }
}

fn stay(args: &CliArgs) -> Result<(), RunError> {
    start_log(args)?;
    let config = args.fs_config();
    if args.tell_parent {
        // A leader of its own session gets no signals of the terminal. It fails only for one that
        // leads already.
        let _ = rustix::process::setsid();
        std::env::set_current_dir("/")?;
    }
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Watched from before the mount is there, so that none is lost.
    let mut signals = {
        let _in_runtime = runtime.enter();
        [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        ]
    };
    let mounted = mount(&config)?;
    mounted.wait_workers(FIRST_ANSWERS);
    report(&mounted, &config);
    if args.tell_parent {
        writeln!(io::stdout(), "{READY}")?;
        io::stdout().flush()?;
        leave_output()?;
    }
    runtime.block_on(async {
        let [terminate, interrupt] = &mut signals;
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if mounted.is_over() {
                        tracing::info!("unmounted from outside");
                        break;
                    }
                }
            }
        }
    });
    mounted.unmount();
    tracing::info!("unmounted");
    Ok(())
}

fn report(mounted: &Mounted, config: &FsConfig) {
    let workers: Vec<&str> = config
        .remote
        .workers
        .iter()
        .map(|worker| worker.as_str())
        .collect();
    tracing::info!(
        mountpoint = %config.mountpoint.display(),
        ?workers,
        cache_bytes = config.cache.ceiling,
        media = ?mounted.media(),
        "mounted"
    );
    if !config.allow_other {
        tracing::warn!("other users cannot use this mount; Plex usually needs --allow-other");
    }
    if workers.is_empty() {
        tracing::warn!("no worker is configured: this is a plain folder; give --worker URL");
    }
}

fn start_log(args: &CliArgs) -> Result<(), RunError> {
    let filter =
        EnvFilter::try_new(&args.log).map_err(|_| RunError::LogFilter(args.log.clone()))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false);
    match &args.log_file {
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            let file = file.map_err(|source| RunError::LogFile {
                path: path.clone(),
                source,
            })?;
            log.with_ansi(false)
                .with_writer(std::sync::Mutex::new(file))
                .init();
        }
        None => log.with_ansi(false).with_writer(io::stderr).init(),
    }
    Ok(())
}

/// Each name that the kernel remembers holds a descriptor, so the soft limit goes up to the hard one.
fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The caller that reads our output must see its end.
fn leave_output() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}
