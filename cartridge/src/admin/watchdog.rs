//! Puts the cartridge back after an update of Plex.
//!
//! Package managers write a new file under another name and rename it (dpkg, rpm), replace the whole
//! folder (Synology), or write in place. So the kernel is asked to tell of every change in the folder
//! (inotify); nothing is done before the transcoder has been quiet for a moment and is a whole program;
//! and [`swap::put`] takes care that no newer original is lost when it changes all the same.

use super::error::{Context, Error};
use super::events;
use super::places::Root;
use super::signature::{Facts, Look, look};
use super::state::{Lock, State};
use super::swap::{self, Names, Put};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Nothing may have happened to the transcoder for this long before it is touched.
const QUIET: Duration = Duration::from_secs(1);
/// Looked at without an event as well, because the kernel may drop events when there are too many.
const RECHECK: Duration = Duration::from_secs(600);
/// After a failure: tried again so soon, doubled up to [`RECHECK`].
const RETRY: Duration = Duration::from_secs(2);

/// What a look has found or done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing is installed, or it is being removed.
    NotInstalled,
    /// The cartridge is where it should be.
    InPlace,
    /// There is no transcoder now; Plex is being replaced or was removed.
    NoTranscoder,
    /// Something is being written.
    Unready(String),
    /// The cartridge was put back.
    PutBack {
        /// Plex before and after; the text is for people.
        update: String,
    },
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Found::NotInstalled => f.write_str("not installed"),
            Found::InPlace => f.write_str("the cartridge is in place"),
            Found::NoTranscoder => f.write_str("there is no transcoder now"),
            Found::Unready(why) => write!(f, "the transcoder is not ready: {why}"),
            Found::PutBack { update } => write!(f, "the cartridge was put back: {update}"),
        }
    }
}

/// Watches over one installation.
#[derive(Debug)]
pub struct Watchdog {
    root: Root,
    quiet: Duration,
}

impl Watchdog {
    /// Over the installation below `root`.
    pub fn new(root: Root) -> Self {
        Watchdog { root, quiet: QUIET }
    }

    /// With another time of quiet.
    pub fn with_quiet(self, quiet: Duration) -> Self {
        Watchdog { quiet, ..self }
    }

    /// Looks, and puts the cartridge back where a whole original has been quiet.
    pub fn once(&self) -> Result<Found, Error> {
        let Some(state) = self.installed()? else {
            return Ok(Found::NotInstalled);
        };
        let dir = self.root.at(&state.plex_dir);
        let path = Names::of(&dir).transcoder;
        let first = look(&path).on("read", &path)?;
        match &first {
            Look::Missing => return Ok(Found::NoTranscoder),
            Look::Unready(why) => return Ok(Found::Unready(why.clone())),
            Look::Cartridge { .. } => return Ok(Found::InPlace),
            Look::Original { .. } => {}
        }
        // The same file with the same bytes and times after a while without any event.
        let mut events = Events::new()?;
        events.watch(&dir)?;
        if events.wait(self.quiet)? || look(&path).on("read", &path)? != first {
            return Ok(Found::Unready("it is being written".into()));
        }
        self.put_back(&dir)
    }

    /// The notes, unless the installation is going or gone.
    fn installed(&self) -> Result<Option<State>, Error> {
        let state = State::load(&self.root)?;
        Ok(state.filter(|state| !state.removing))
    }

    fn put_back(&self, dir: &Path) -> Result<Found, Error> {
        let root = &self.root;
        let _lock = Lock::take(root)?;
        // An uninstallation may have begun while the lock was waited for.
        let Some(mut state) = self.installed()? else {
            return Ok(Found::NotInstalled);
        };
        let mut times = State::new(&state.plex_dir);
        times.remember_times(root, std::slice::from_ref(&state.plex_dir));
        let put = swap::put(dir, &root.program(), &mut |_| Ok(()))?;
        times.restore_times(root);
        let original = match put {
            Put::Already { .. } => return Ok(Found::InPlace),
            Put::Done { original, .. } => original,
        };
        let version = root.plex_version(&state.plex_dir);
        let update = update(
            (state.plex_version.as_deref(), state.original.as_ref()),
            (version.as_deref(), &original),
        );
        state.plex_version = version;
        state.original = Some(original);
        state.save(root, &mut |_| Ok(()))?;
        events::tell(root, format_args!("put back after an update: {update}"));
        Ok(Found::PutBack { update })
    }

    /// Watches until the installation is removed.
    pub fn run(&self) -> Result<(), Error> {
        let mut retry = RETRY;
        let mut last = String::new();
        loop {
            let Some(state) = self.installed()? else {
                events::tell(
                    &self.root,
                    format_args!("the watchdog leaves: not installed"),
                );
                return Ok(());
            };
            // Watched before the look: what happens in between is an event.
            let dir = self.root.at(&state.plex_dir);
            let mut events = Events::new()?;
            let watched = events.watch(&dir);
            let found = watched.and_then(|()| self.once());
            let pause = match &found {
                // A file that is not whole will change, which is an event, or stay so.
                Ok(Found::Unready(_)) | Err(_) => {
                    let now = retry;
                    retry = (retry * 2).min(RECHECK);
                    now
                }
                Ok(_) => {
                    retry = RETRY;
                    RECHECK
                }
            };
            let told = match &found {
                Ok(Found::PutBack { .. } | Found::InPlace) => String::new(),
                Ok(other) => other.to_string(),
                Err(error) => format!("the watchdog cannot work: {error}"),
            };
            if !told.is_empty() && told != last {
                events::tell(&self.root, format_args!("{told}"));
            }
            last = told;
            // Anything that happens to the transcoder, or the home's notes, ends the pause.
            if events.wait(pause)? {
                retry = RETRY;
                // While somebody writes there is nothing to look at.
                while events.wait(self.quiet)? {}
            }
        }
    }
}

/// `Plex 1.42 (md5 ...) -> 1.43 (md5 ...)`.
fn update(old: (Option<&str>, Option<&Facts>), new: (Option<&str>, &Facts)) -> String {
    let part = |version: Option<&str>, facts: Option<&Facts>| {
        let facts = facts.map_or("no original".to_owned(), |f| {
            format!("md5 {}, {} bytes", f.md5, f.size)
        });
        format!("{} ({facts})", version.unwrap_or("unknown"))
    };
    format!(
        "Plex {} -> {}",
        part(old.0, old.1),
        part(new.0, Some(new.1))
    )
}

/// The kernel's news of directories.
struct Events {
    fd: OwnedFd,
    /// Watch, and the name in that directory which concerns us.
    names: Vec<(i32, OsString)>,
}

impl Events {
    fn new() -> Result<Self, Error> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .on("watch", Path::new("inotify"))?;
        Ok(Events {
            fd,
            names: Vec::new(),
        })
    }

    /// Watches the transcoder in a folder, and the way to that folder, so that its replacement is seen
    /// too. A folder that is missing is waited for from above.
    fn watch(&mut self, dir: &Path) -> Result<(), Error> {
        let inside = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::ATTRIB
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF;
        let above = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM;
        let mut name = OsString::from(swap::TRANSCODER);
        for at in dir.ancestors() {
            let flags = if at == dir { inside } else { above };
            match inotify::add_watch(&self.fd, at, flags) {
                Ok(wd) => self.names.push((wd, name)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
                Err(errno) => return Err(errno).on("watch", at),
            }
            let Some(next) = at.file_name() else {
                return Ok(());
            };
            name = next.to_owned();
        }
        Ok(())
    }

    /// Waits for something that concerns the transcoder: true when it came.
    fn wait(&self, time: Duration) -> Result<bool, Error> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            let timeout = Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: 60,
                tv_nsec: 0,
            });
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) => return Ok(false),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).on("watch", Path::new("inotify")),
            }
            if self.drain() {
                return Ok(true);
            }
        }
    }

    /// Reads what is there; true when anything of it concerns us.
    fn drain(&self) -> bool {
        let lost = ReadFlags::QUEUE_OVERFLOW
            | ReadFlags::DELETE_SELF
            | ReadFlags::MOVE_SELF
            | ReadFlags::IGNORED;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.fd, &mut buffer);
        let mut ours = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|name| name.to_bytes());
            ours |= event.events().intersects(lost)
                || self.names.iter().any(|(wd, wanted)| {
                    *wd == event.wd() && name == Some(wanted.as_encoded_bytes())
                });
        }
        ours
    }
}
