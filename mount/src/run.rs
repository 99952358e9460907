//! Foreground and background, readiness, signals.
//!
//! The background process is this program again with `--tell-parent`: it answers one line on its
//! standard output, when the kernel agrees that the mount is there or when it failed, and then
//! leaves the terminal. So no process with threads is ever forked. The process that stays is the
//! supervisor, which starts the program once more to serve; without it, it serves itself.

use crate::{
    admin,
    cli::CliArgs,
    helper, instance, notify, settings,
    supervisor::{Event, Supervisor},
};
use plexbeam_fusefs::{FsConfig, Mounted, SetupError, cache::MemoryFolder, mount, mounts};
use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::mpsc::{self, Sender},
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What the background process says when the mount is there.
const READY: &str = "ready";
/// How long the workers may take to say who they are before the mount counts as ready anyway.
pub(crate) const FIRST_ANSWERS: Duration = Duration::from_millis(500);
/// How often it is looked whether the mount is well.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// The mount could not be made.
    #[error("{0}")]
    Setup(#[from] SetupError),
    /// The background process said so, or died.
    #[error("{0}")]
    Background(String),
    /// A process that was to serve ended, or does not answer.
    #[error("{0}")]
    Died(String),
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
    /// There is no mount of ours.
    #[error("{0} is no plexbeam mount; see `plexbeam-mount --help` to make one")]
    NotMounted(PathBuf),
    /// The folder of the caches cannot be used.
    #[error("cannot use the cache folder {path}: {source}; choose another with --cache-dir")]
    CacheFolder {
        /// Where it would be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The entry of /etc/fstab cannot be used.
    #[error("{0}")]
    Helper(String),
    /// The kernel ended the connection under a mount that is still there.
    #[error("the connection to the kernel was aborted")]
    Aborted,
    /// The process could not be set up.
    #[error("cannot start: {0}")]
    Process(#[from] io::Error),
}

impl RunError {
    /// 1: the mount cannot be made; 2: wrong use; 3: a fault of the process's surroundings.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            RunError::Setup(_)
            | RunError::Background(_)
            | RunError::Died(_)
            | RunError::NotMounted(_) => ExitCode::from(1),
            RunError::LogFile { .. }
            | RunError::LogFilter(_)
            | RunError::Helper(_)
            | RunError::CacheFolder { .. } => ExitCode::from(2),
            RunError::Process(_) => ExitCode::from(3),
            RunError::Aborted => ExitCode::from(4),
        }
    }
}

/// Runs whatever these arguments ask for.
pub(crate) fn main(arguments: Vec<OsString>) -> Result<(), RunError> {
    if arguments
        .first()
        .is_some_and(|name| helper::is_called(name))
    {
        let translated = helper::translate(&arguments).map_err(RunError::Helper)?;
        if translated.is_empty() {
            return Ok(());
        }
        return run(&settings::read(translated));
    }
    if admin::is_asked(&arguments) {
        return admin::run(&arguments);
    }
    run(&settings::read(arguments))
}

/// Makes a mount.
fn run(args: &CliArgs) -> Result<(), RunError> {
    if args.instance {
        return instance::run(args);
    }
    if !args.stays() {
        return in_background(args);
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
fn in_background(args: &CliArgs) -> Result<(), RunError> {
    let program = std::env::current_exe()?;
    let mut child = Command::new(program)
        .args(&args.arguments)
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
    let cache_dir = match args.cache_dir() {
        Some(dir) => dir,
        None => default_cache_dir()?,
    };
    if args.tell_parent {
        // A leader of its own session gets no signals of the terminal. It fails only for one that
        // leads already.
        let _ = rustix::process::setsid();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Watched from before the mount is there, so that none is lost.
    let mut signals = {
        let _in_runtime = runtime.enter();
        [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ]
    };
    if args.no_supervise {
        return serve_alone(args, cache_dir, &runtime, &mut signals);
    }
    let (tell, events) = mpsc::channel();
    let mut supervisor = Supervisor::new(args, cache_dir, tell.clone(), events)?;
    if args.tell_parent {
        std::env::set_current_dir("/")?;
    }
    let _listening = admin::listen(supervisor.mountpoint(), tell.clone());
    std::thread::spawn(move || runtime.block_on(pass_on(&mut signals, &tell)));
    supervisor.begin()?;
    is_ready(args)?;
    supervisor.run();
    Ok(())
}

/// Signals become events of the supervisor.
async fn pass_on([terminate, interrupt, hangup]: &mut [Signal; 3], tell: &Sender<Event>) {
    loop {
        let event = tokio::select! {
            _ = terminate.recv() => Event::End,
            _ = interrupt.recv() => Event::End,
            _ = hangup.recv() => Event::Renew,
        };
        if tell.send(event).is_err() {
            return;
        }
    }
}

/// Tells whoever waits that the mount is there.
fn is_ready(args: &CliArgs) -> io::Result<()> {
    notify::ready();
    if args.tell_parent {
        writeln!(io::stdout(), "{READY}")?;
        io::stdout().flush()?;
        leave_output()?;
    }
    Ok(())
}

/// A folder that stays the same from start to start, so that what was held is found again.
fn default_cache_dir() -> Result<PathBuf, RunError> {
    let user = rustix::process::geteuid().as_raw();
    let path = std::env::temp_dir().join(format!("plexbeam-mount-{user}"));
    match admin::private_folder(&path) {
        Ok(()) => Ok(path),
        Err(source) => Err(RunError::CacheFolder { path, source }),
    }
}

/// One process, that nobody watches over.
fn serve_alone(
    args: &CliArgs,
    cache_dir: PathBuf,
    runtime: &tokio::runtime::Runtime,
    [terminate, interrupt, hangup]: &mut [Signal; 3],
) -> Result<(), RunError> {
    let mut config = args.fs_config();
    if args.tell_parent {
        std::env::set_current_dir("/")?;
    }
    raise_file_limit();
    ask_for_short_slices();
    // Ends after the mount.
    let _memory = memory_folder(args, &cache_dir, &mounts::clear(&config.mountpoint)?)?;
    config.cache.dir = Some(cache_dir);
    let mounted = mount(&config)?;
    mounted.wait_workers(FIRST_ANSWERS);
    report(&mounted, &config);
    is_ready(args)?;
    runtime.block_on(async {
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => {
                    tracing::warn!("without a supervisor settings are read at the start only");
                }
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if mounted.is_over() {
                        tracing::info!("unmounted from outside");
                        break;
                    }
                }
            }
        }
    });
    notify::stopping();
    mounted.unmount();
    tracing::info!("unmounted");
    Ok(())
}

/// Puts the cache in memory, where that is asked for, or back where it was not.
pub(crate) fn memory_folder(
    args: &CliArgs,
    cache_dir: &Path,
    mountpoint: &Path,
) -> Result<Option<MemoryFolder>, SetupError> {
    if args.cache_in_memory {
        return MemoryFolder::begin(cache_dir, mountpoint).map(Some);
    }
    MemoryFolder::clear(cache_dir, mountpoint)?;
    Ok(None)
}

pub(crate) fn report(mounted: &Mounted, config: &FsConfig) {
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
    match mounted.no_passthrough() {
        None => tracing::info!("whole files are read by the kernel (passthrough)"),
        Some(why) => {
            tracing::info!(
                passthrough = why,
                "whole files are read here and kept in the page cache"
            );
        }
    }
    if !config.allow_other {
        tracing::warn!("other users cannot use this mount; Plex usually needs --allow-other");
    }
    if !mounts::is_shared(&config.mountpoint) {
        tracing::info!(
            "this mount is private: containers see it only where they are started after it; \
             `mount --make-rshared` on the folder above before mounting, and `:rslave` on their volume"
        );
    }
    if workers.is_empty() {
        tracing::warn!("no worker is configured: this is a plain folder; give --worker URL");
    }
}

pub(crate) fn start_log(args: &CliArgs) -> Result<(), RunError> {
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
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// The shortest that the scheduler grants.
const SLICE: Duration = Duration::from_micros(100);

/// Asks that this process runs soon after its bytes have come, on a busy machine, too: by short slices
/// of the processor, which change when it runs and not how much (`sched_setattr(2)`; the kernel's
/// Documentation/scheduler/sched-eevdf.rst, since 6.12). Earlier kernels say yes and change nothing.
/// To be called before threads are started: they inherit it.
pub(crate) fn ask_for_short_slices() {
    if let Err(error) = set_slice(SLICE) {
        tracing::debug!(%error, "the scheduler's slices stay as they are");
    }
}

/// Of this thread, where it has one of the scheduler's fair policies.
#[expect(unsafe_code, reason = "sched_setattr has no safe wrapper")]
fn set_slice(slice: Duration) -> io::Result<()> {
    const THIS_THREAD: libc::pid_t = 0;
    const NO_FLAGS: libc::c_uint = 0;
    let size = size_of::<libc::sched_attr>() as u32;
    let mut attributes = libc::sched_attr {
        size,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    let of = &raw mut attributes;
    // SAFETY: the kernel writes no more than `size` bytes, all of them the struct's.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, THIS_THREAD, of, size, NO_FLAGS) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    let fair = [libc::SCHED_OTHER, libc::SCHED_BATCH];
    if !fair.contains(&(attributes.sched_policy as libc::c_int)) {
        return Ok(());
    }
    // All else, niceness among it, as it was.
    attributes.sched_runtime = slice.as_nanos() as u64;
    let of = &raw const attributes;
    // SAFETY: the kernel reads the struct, whose size it finds there.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, of, NO_FLAGS) };
    if set != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The caller that reads our output must see its end.
fn leave_output() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}
