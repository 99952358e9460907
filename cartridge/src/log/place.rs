//! Whether a folder may keep those who touch it waiting, told without touching it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// File systems of this host's own disks and memory. Any other may be a share whose server is gone, or
/// a daemon that hangs.
const LOCAL: &[&str] = &[
    "bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "jfs", "ntfs3", "overlay",
    "reiserfs", "rootfs", "squashfs", "tmpfs", "ubifs", "vfat", "xfs", "zfs",
];

/// Links that are followed, as the kernel does.
const LINKS: usize = 40;

/// True where the folder does not certainly lie on a local file system. Each part of its path is looked
/// at only when those before it are local.
pub(crate) fn may_hang(folder: &Path) -> bool {
    // Without it nothing can be told; such a host has no shares either.
    let Ok(table) = std::fs::read("/proc/self/mountinfo") else {
        return false;
    };
    leads_away(folder, &mounts(&table), &|path| {
        std::fs::read_link(path).ok()
    })
}

/// Mount points and types, later ones over earlier ones (proc(5)).
fn mounts(table: &[u8]) -> Vec<(PathBuf, String)> {
    let line = |line: &[u8]| {
        let mut words = line.split(|b| *b == b' ');
        let point = PathBuf::from(OsString::from_vec(unescaped(words.nth(4)?)));
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        Some((point, String::from_utf8_lossy(kind).into_owned()))
    };
    table.split(|b| *b == b'\n').filter_map(line).collect()
}

/// `\040` and the like are single bytes.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).and_then(|d| std::str::from_utf8(d).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(|_| first == b'\\') {
            Some(code) => {
                out.push(code);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = behind;
            }
        }
    }
    out
}

fn leads_away(
    folder: &Path,
    mounts: &[(PathBuf, String)],
    link: &dyn Fn(&Path) -> Option<PathBuf>,
) -> bool {
    let local = |path: &Path| {
        let above = mounts.iter().filter(|(point, _)| path.starts_with(point));
        // The last one of the longest.
        let holds = above.max_by_key(|(point, _)| point.components().count());
        holds.is_none_or(|(_, kind)| LOCAL.contains(&kind.as_str()))
    };
    if !folder.is_absolute() {
        return true;
    }
    let owned = |part: Component<'_>| part.as_os_str().to_owned();
    let mut rest: VecDeque<OsString> = folder.components().map(owned).collect();
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        // An absolute part replaces what stands before it.
        let next = at.join(&part);
        if !local(&next) {
            return true;
        }
        match link(&next) {
            Some(target) => {
                links += 1;
                if links > LINKS {
                    return false;
                }
                for part in target
                    .components()
                    .rev()
                    .filter(|p| *p != Component::CurDir)
                {
                    rest.push_front(owned(part));
                }
            }
            None => at = next,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = br"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:40 / /mnt/my\040nas rw master:1 - nfs4 nas:/x rw
25 22 0:41 / /config rw - fuse.mergerfs a rw
26 25 0:42 / /config/local rw - xfs /dev/sdb1 rw
27 22 0:43 / /over rw - xfs /dev/sdc1 rw
28 27 0:44 / /over rw - cifs //nas/x rw
";

    #[test]
    fn a_folder_is_local_only_where_its_whole_path_is() {
        let links = |path: &Path| match path.to_str()? {
            "/var/log" => Some("/mnt/my nas/log".into()),
            "/opt/logs" => Some("../srv/./logs".into()),
            "/srv/logs" => Some("/config/x".into()),
            "/loop" => Some("loop".into()),
            _ => None,
        };
        for (path, away) in [
            ("/srv/plexbeam", false),
            ("/mnt/my nas", true),
            ("/mnt/my nas/log/plexbeam", true),
            ("/mnt/my nasty", false),
            ("/var/log/plex-cartridge", true),
            ("/var/lib/plex", false),
            ("/config/Logs", true),
            // Its path leads through what may hang.
            ("/config/local/logs", true),
            ("/over/logs", true),
            ("/opt/logs", true),
            ("/opt/../etc", false),
            ("/loop", false),
            ("logs", true),
        ] {
            let found = leads_away(Path::new(path), &mounts(TABLE), &links);
            assert_eq!(found, away, "{path}");
        }
    }
}
