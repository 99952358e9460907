//! Becoming the original transcoder: same process, same argv, environment and working directory (P1).

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

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
    Command::new(original).arg0(argv0).args(args).exec()
}

/// True when starting it would only lead back here.
fn is_myself(original: &Path) -> bool {
    let id = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let mine = id(Path::new("/proc/self/exe"));
    mine.is_some() && mine == id(original)
}
