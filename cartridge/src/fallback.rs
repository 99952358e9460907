//! Becoming the original transcoder: same process, same argv, environment and working directory (P1).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// How long an original that is being written is waited for.
const BUSY: Duration = Duration::from_secs(3);

/// Replaces this process by the original. Returns only when that is not possible.
///
/// Nothing is added to or taken from the environment, which is handed on as the kernel gave it.
/// Descriptors of ours close by themselves; the signals' dispositions are the standard ones again.
pub fn become_original(original: &Path, argv0: &OsStr, args: &[OsString]) -> io::Error {
    if is_myself(original) {
        return io::Error::other(format!(
            "{} is this program itself: set PLEXBEAM_ORIGINAL to the real transcoder",
            original.display()
        ));
    }
    let start = |program: &Path| Command::new(program).arg0(argv0).args(args).exec();
    let error = start_patiently(original, &start);
    // An uninstallation has just given the original the name under which this process was started.
    let own = Path::new(argv0);
    if error.kind() == io::ErrorKind::NotFound
        && own.components().count() > 1
        && own != original
        && own.exists()
        && !is_myself(own)
    {
        return start_patiently(own, &start);
    }
    error
}

/// An update that writes the file in place makes the kernel refuse it (ETXTBSY) for a moment.
fn start_patiently(program: &Path, start: &dyn Fn(&Path) -> io::Error) -> io::Error {
    let deadline = Instant::now() + BUSY;
    loop {
        let error = start(program);
        if error.kind() != io::ErrorKind::ExecutableFileBusy || Instant::now() >= deadline {
            return error;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// True when starting it would only lead back here.
fn is_myself(original: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let mine = id(Path::new("/proc/self/exe"));
    mine.is_some() && mine == id(original)
}
