//! Mountpoints, seen from outside: what is on them, and how it is taken away. No file system is asked.

pub use crate::fuse::session::detach;

use crate::{
    error::SetupError,
    fuse::session::{self, FS_TYPE},
};
use std::{
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// A line of the mount table (`proc_pid_mountinfo(5)`).
#[derive(Debug)]
struct Row<'a> {
    device: (u32, u32),
    kind: &'a str,
    source: &'a str,
    /// Other mount tables learn of what is mounted in it.
    shared: bool,
}

impl<'a> Row<'a> {
    /// The mountpoint, and the rest of the line.
    fn parse(line: &'a str) -> Option<(Vec<u8>, Self)> {
        let (mount, system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (major, minor) = fields.next()?.split_once(':')?;
        let point = unescape(fields.nth(1)?);
        let shared = fields.skip(1).any(|tag| tag.starts_with("shared:"));
        let (kind, system) = system.split_once(' ')?;
        let row = Row {
            device: (major.parse().ok()?, minor.parse().ok()?),
            kind,
            source: system.split(' ').next()?,
            shared,
        };
        Some((point, row))
    }
}

/// What of the rows of this path, the lowest mount first.
fn at<T>(path: &Path, what: impl Fn(&Row<'_>) -> Option<T>) -> Vec<T> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let wanted = path.as_os_str().as_bytes();
    let here = table.lines().filter_map(Row::parse);
    here.filter(|(point, _)| point == wanted)
        .filter_map(|(_, row)| what(&row))
        .collect()
}

/// Device numbers of our mounts at this path, the lowest first. The minor one names the connection
/// under `/sys/fs/fuse/connections`.
pub fn ours_at(mountpoint: &Path) -> Vec<(u32, u32)> {
    at(mountpoint, |row| {
        (row.kind == FS_TYPE).then_some(row.device)
    })
}

pub(crate) fn has_ours(mountpoint: &Path) -> bool {
    !ours_at(mountpoint).is_empty()
}

/// True when other mount tables, such as those of containers, learn of our mount at this path:
/// one made in a shared mount is shared itself (`mount_namespaces(7)`).
pub fn is_shared(mountpoint: &Path) -> bool {
    !at(mountpoint, |row| {
        (row.kind == FS_TYPE && row.shared).then_some(())
    })
    .is_empty()
}

/// True when a file system of this kind and source is mounted here.
pub(crate) fn has(path: &Path, kind: &str, source: &str) -> bool {
    !at(path, |row| {
        (row.kind == kind && row.source == source).then_some(())
    })
    .is_empty()
}

/// Clears the mountpoint of a dead mount, and refuses a living one. Gives its path without links.
pub fn clear(mountpoint: &Path) -> Result<PathBuf, SetupError> {
    session::clear_stale(mountpoint)?;
    let resolved = std::fs::canonicalize(mountpoint).map_err(|source| SetupError::Mountpoint {
        path: mountpoint.to_path_buf(),
        source,
    })?;
    session::refuse_mounted(&resolved)?;
    Ok(resolved)
}

/// A field of the mount table: blanks and backslashes are octal there.
fn unescape(field: &str) -> Vec<u8> {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes[at..]
            .get(1..4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::{Row, unescape};

    #[test]
    fn mount_table_fields_are_read_as_they_were() {
        assert_eq!(unescape(r"/a\040b\134c"), b"/a b\\c");
        assert_eq!(unescape(r"/plain\"), b"/plain\\");
    }

    /// The second line is that of the manual page.
    #[test]
    fn lines_are_read_with_and_without_tags() {
        let line =
            "42 29 0:51 / /mnt/a\\040b rw,nosuid shared:7 master:2 - fuse.plexbeam plexbeam rw";
        let (point, row) = Row::parse(line).unwrap();
        assert_eq!(point, b"/mnt/a b");
        assert_eq!((row.device, row.kind), ((0, 51), "fuse.plexbeam"));
        assert!(row.shared && row.source == "plexbeam");
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let (point, row) = Row::parse(line).unwrap();
        assert_eq!(point, b"/mnt2");
        assert!(!row.shared && row.source == "/dev/root" && row.device == (98, 0));
    }
}
