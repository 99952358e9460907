//! The administrator's commands for a mount that is there, and the socket on which its supervisor hears
//! them.

use crate::{
    run::RunError,
    supervisor::{Event, Watched},
};
use clap::Parser;
use plexbeam_api::mount::{MountStatus, WorkerRow, XATTR_STATUS};
use plexbeam_fusefs::mounts;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::{
    ffi::OsString,
    io::{self, BufRead, BufReader, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::mpsc::{self, Sender},
    time::Duration,
};

/// How long a mount may take to say how it is.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a supervisor may take to do what is asked; an upgrade waits for a new process.
const DONE: Duration = Duration::from_secs(60);

/// What a supervisor is asked.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Go on with the program that is installed now.
    Upgrade,
    /// How the processes are.
    Status,
    /// Take the mount back.
    End,
}

/// Commands for a mount that is there.
#[derive(Parser)]
#[command(name = "plexbeam-mount", version)]
enum Admin {
    /// Say how a mount is doing
    Status {
        /// The mountpoint
        mountpoint: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Go on with the program that is installed now, without a gap
    Upgrade {
        /// The mountpoint
        mountpoint: PathBuf,
    },
    /// Take a mount back; what is open stays open until it is closed
    Umount {
        /// The mountpoint
        mountpoint: PathBuf,
    },
}

/// True when these arguments are a command for a mount that is there.
pub(crate) fn is_asked(arguments: &[OsString]) -> bool {
    let word = arguments.get(1).and_then(|word| word.to_str());
    matches!(word, Some("status" | "upgrade" | "umount"))
}

/// Runs the command.
pub(crate) fn run(arguments: &[OsString]) -> Result<(), RunError> {
    match Admin::parse_from(arguments) {
        Admin::Status { mountpoint, json } => status(&resolved(&mountpoint), json),
        Admin::Upgrade { mountpoint } => {
            let mountpoint = ours(&mountpoint)?;
            match ask::<()>(&mountpoint, Request::Upgrade) {
                Ok(outcome) => outcome.map_err(RunError::Background),
                Err(error) => Err(RunError::Background(format!(
                    "no supervisor answers for {} ({error}); restart it instead",
                    mountpoint.display()
                ))),
            }
        }
        Admin::Umount { mountpoint } => {
            let mountpoint = ours(&mountpoint)?;
            match ask::<()>(&mountpoint, Request::End) {
                Ok(outcome) => outcome.map_err(RunError::Background),
                // Without a supervisor the mount's process ends when the kernel lets go.
                Err(_) => Ok(mounts::detach(&mountpoint)?),
            }
        }
    }
}

/// The path without links, as far as the parent tells it: the mount itself may not answer.
fn resolved(mountpoint: &Path) -> PathBuf {
    let absolute = std::path::absolute(mountpoint).unwrap_or_else(|_| mountpoint.to_path_buf());
    // Without a slash at the end.
    let absolute: PathBuf = absolute.components().collect();
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => std::fs::canonicalize(parent)
            .map_or_else(|_| absolute.clone(), |parent| parent.join(name)),
        (None, _) | (_, None) => absolute,
    }
}

fn ours(mountpoint: &Path) -> Result<PathBuf, RunError> {
    let mountpoint = resolved(mountpoint);
    if mounts::ours_at(&mountpoint).is_empty() {
        Err(RunError::NotMounted(mountpoint))
    } else {
        Ok(mountpoint)
    }
}

/// Where the supervisor of a mountpoint listens.
fn socket_of(mountpoint: &Path) -> PathBuf {
    let user = rustix::process::geteuid();
    let folder = if user.is_root() {
        PathBuf::from("/run/plexbeam")
    } else {
        match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(runtime) => PathBuf::from(runtime).join("plexbeam"),
            None => std::env::temp_dir().join(format!("plexbeam-run-{}", user.as_raw())),
        }
    };
    let digest = Sha256::digest(mountpoint.as_os_str().as_bytes());
    let name: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    folder.join(format!("mount-{name}.sock"))
}

/// Listens for commands; what may not be had is only missed by the commands.
pub(crate) fn listen(mountpoint: &Path, tell: Sender<Event>) -> Option<Listening> {
    let path = socket_of(mountpoint);
    let listener = bind(&path).inspect_err(|error| {
        tracing::warn!(path = %path.display(), %error, "`upgrade` and `status` will not reach this mount");
    });
    let listener = listener.ok()?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let tell = tell.clone();
            // A caller that says nothing keeps nobody else.
            std::thread::spawn(move || {
                let _ = stream.set_read_timeout(Some(ANSWER));
                let mut line = String::new();
                let read = BufReader::new(&stream).read_line(&mut line);
                if read.is_ok()
                    && let Ok(request) = serde_json::from_str(&line)
                {
                    let _ = tell.send(Event::Asked(request, stream));
                }
            });
        }
    });
    Some(Listening(path))
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        private_folder(folder)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A folder that nobody else can write to; made where it is missing.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let meta = std::fs::symlink_metadata(folder)?;
    let ours = meta.is_dir()
        && meta.uid() == rustix::process::geteuid().as_raw()
        && meta.mode() & 0o022 == 0;
    if ours {
        Ok(())
    } else {
        Err(io::Error::other(
            "it belongs to somebody else, or others may write to it",
        ))
    }
}

/// The supervisor's socket, which goes when this is dropped.
#[derive(Debug)]
pub(crate) struct Listening(PathBuf);

impl Drop for Listening {
    fn drop(&mut self) {
        // A later supervisor takes the name anyway.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn ask<T: DeserializeOwned>(mountpoint: &Path, request: Request) -> io::Result<Result<T, String>> {
    let mut stream = UnixStream::connect(socket_of(mountpoint))?;
    stream.set_read_timeout(Some(DONE))?;
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

/// Everything that `status` tells.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    mount: MountStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    supervisor: Option<Watched>,
}

fn status(mountpoint: &Path, as_json: bool) -> Result<(), RunError> {
    let (tell, told) = mpsc::channel();
    let path = mountpoint.to_path_buf();
    // A hung mount keeps whoever asks it.
    std::thread::spawn(move || {
        let mut value = vec![0; 64 << 10];
        let read = rustix::fs::getxattr(&path, XATTR_STATUS, value.as_mut_slice());
        let _ = tell.send(read.map(|len| {
            value.truncate(len);
            value
        }));
    });
    let value = match told.recv_timeout(ANSWER) {
        Ok(Ok(value)) => value,
        Ok(Err(rustix::io::Errno::NOTCONN)) => {
            return Err(RunError::Background(format!(
                "{} is a dead mount; start plexbeam-mount again",
                mountpoint.display()
            )));
        }
        Ok(Err(_)) => return Err(RunError::NotMounted(mountpoint.to_path_buf())),
        Err(_) => {
            return Err(RunError::Background(format!(
                "{} does not answer within {ANSWER:?}",
                mountpoint.display()
            )));
        }
    };
    let told = Told {
        mount: serde_json::from_slice(&value).map_err(io::Error::from)?,
        supervisor: ask(mountpoint, Request::Status).ok().and_then(Result::ok),
    };
    let text = if as_json {
        serde_json::to_string_pretty(&told).map_err(io::Error::from)?
    } else {
        table(&told)
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}

fn table(told: &Told) -> String {
    let Told { mount, supervisor } = told;
    let mut lines = Vec::new();
    let mut line = |name: &str, value: String| lines.push(format!("{name:<12}{value}"));
    line("mounted on", mount.mount.mountpoint.clone());
    line("version", mount.mount.version.clone());
    line("process", mount.process.to_string());
    line(
        "supervisor",
        match supervisor {
            Some(watched) => format!(
                "{}; {} replaced, {} upgrades, {} earlier still serving",
                watched.supervisor,
                watched.replaced,
                watched.upgrades,
                watched.earlier.len()
            ),
            None => "none that you may ask".into(),
        },
    );
    line(
        "reads",
        match &mount.no_passthrough {
            None => "by the kernel (passthrough)".into(),
            Some(why) => format!("by this process, kept in the page cache: passthrough {why}"),
        },
    );
    let cache = &mount.cache;
    line(
        "cache",
        format!(
            "{:.1} of {:.1} MiB in {} files, at most {:.1}",
            mib(cache.used),
            mib(cache.ceiling),
            cache.files,
            mib(cache.peak)
        ),
    );
    line("open", mount.open.to_string());
    if let Some(media) = &mount.mount.media {
        line("films", media.clone());
    }
    for worker in &mount.workers {
        line("worker", format!("{}  {}", worker.url, worker_text(worker)));
    }
    for bound in &mount.bindings {
        let mut text = format!(
            "{}  {} of {}, {} held, {} unread",
            bound.directory, bound.session, bound.worker, bound.held, bound.unread
        );
        if bound.frozen {
            text.push_str(", being removed");
        } else if bound.full {
            text.push_str(", waits for its reader");
        }
        line("session", text);
    }
    lines.join("\n")
}

fn worker_text(worker: &WorkerRow) -> String {
    if worker.live {
        format!("live, {} free", worker.free)
    } else {
        worker.error.clone().unwrap_or_else(|| "not live".into())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
