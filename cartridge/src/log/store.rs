//! Files of logs: appended in one write, replaced in one step, rotated and pruned. Nothing here fails;
//! what cannot be written is not written.

use rustix::fs::{FlockOperation, OFlags, flock};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A log that is larger is set aside.
const ROTATE: u64 = 4 << 20;
/// So many are kept beside the current one.
const OLD: usize = 3;
/// Session folders that are kept; the oldest go first.
pub const SESSIONS: usize = 200;
/// Most bytes of them all.
pub const SESSION_BYTES: u64 = 64 << 20;

/// For appending; never waits, not even where somebody has put a pipe.
pub fn open(path: &Path) -> Option<File> {
    let open = || {
        OpenOptions::new()
            .create(true)
            .append(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
    };
    match open() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path.parent()?).ok()?;
            open().ok()
        }
        result => result.ok(),
    }
}

/// Adds bytes in one write, so that those of several processes do not mix.
pub fn append(path: &Path, bytes: &[u8]) {
    if let Some(mut file) = open(path) {
        let _ = file.write_all(bytes);
    }
}

/// The same for a log that is rotated.
pub fn append_rotated(path: &Path, bytes: &[u8]) {
    let Some(mut file) = open(path) else { return };
    let _ = file.write_all(bytes);
    if file.metadata().is_ok_and(|meta| meta.len() > ROTATE) {
        rotate(path, &file);
    }
}

/// One process renames; the others, and those that come too late, go on writing.
fn rotate(path: &Path, file: &File) {
    if flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return;
    }
    // Renamed already by another one, which held the lock on the same file before.
    if path.metadata().map_or(true, |meta| meta.len() <= ROTATE) {
        return;
    }
    for n in (1..OLD).rev() {
        let _ = std::fs::rename(old(path, n), old(path, n + 1));
    }
    let _ = std::fs::rename(path, old(path, 1));
}

fn old(path: &Path, n: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// All lines of a rotated log, oldest first; what is not UTF-8 is shown as such.
pub fn read_rotated(path: &Path) -> String {
    let mut text = String::new();
    let paths = (1..=OLD)
        .rev()
        .map(|n| old(path, n))
        .chain([path.to_owned()]);
    for path in paths {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(path)
            && file.take(ROTATE * 2).read_to_end(&mut bytes).is_ok()
        {
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    text
}

/// Writes a value as JSON, in one step.
pub fn replace(path: &Path, value: &impl serde::Serialize) {
    let Ok(bytes) = serde_json::to_vec_pretty(value) else {
        return;
    };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = PathBuf::from(temporary);
    if std::fs::write(&temporary, bytes).is_err() || std::fs::rename(&temporary, path).is_err() {
        let _ = std::fs::remove_file(temporary);
    }
}

/// Removes the oldest sessions until few and small enough are left.
pub fn prune(dir: &Path, most: usize, bytes: u64) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    let mut all: Vec<(SystemTime, PathBuf, u64)> = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| {
            let modified = entry.metadata().ok()?.modified().ok()?;
            let files = std::fs::read_dir(entry.path())
                .into_iter()
                .flatten()
                .flatten();
            let size = files.filter_map(|f| Some(f.metadata().ok()?.len())).sum();
            Some((modified, entry.path(), size))
        })
        .collect();
    all.sort();
    let mut sum: u64 = all.iter().map(|(_, _, size)| size).sum();
    let mut count = all.len();
    for (_, path, size) in all {
        if count <= most && sum <= bytes {
            return;
        }
        // Another process may be faster.
        let _ = std::fs::remove_dir_all(path);
        count -= 1;
        sum -= size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_rotated_and_no_line_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/master.log");
        let line = format!("{}\n", "x".repeat(9_999));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|_| append_rotated(&path, line.as_bytes())));
            }
        });
        let text = read_rotated(&path);
        assert_eq!(text.lines().count(), 800);
        assert!(text.lines().all(|l| l.len() == 9_999));
        for _ in 0..2_000 {
            append_rotated(&path, line.as_bytes());
        }
        let files: Vec<_> = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .flatten()
            .collect();
        assert_eq!(files.len(), 1 + OLD);
        for file in files {
            assert!(file.metadata().unwrap().len() <= ROTATE + 10_000 * 5);
        }
    }

    #[test]
    fn old_and_large_sessions_go() {
        let dir = tempfile::tempdir().unwrap();
        for n in 0..12 {
            let session = dir.path().join(format!("{n:02}"));
            std::fs::create_dir(&session).unwrap();
            std::fs::write(session.join("timeline.log"), vec![0; 100]).unwrap();
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + n);
            File::open(&session).unwrap().set_modified(time).unwrap();
        }
        std::fs::write(dir.path().join("not-ours.txt"), "").unwrap();
        prune(dir.path(), 10, 1 << 20);
        assert!(!dir.path().join("01").exists() && dir.path().join("02").exists());
        prune(dir.path(), 10, 450);
        assert!(!dir.path().join("07").exists() && dir.path().join("08").exists());
        assert!(dir.path().join("not-ours.txt").exists());
    }

    #[test]
    fn what_cannot_be_written_is_no_error_and_no_wait() {
        append(Path::new("/proc/nowhere/x"), b"lost");
        append_rotated(Path::new("/dev/full"), b"lost");
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("master.log");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        append_rotated(&pipe, b"nobody reads");
        replace(Path::new("/proc/nowhere/x"), &1);
    }
}
