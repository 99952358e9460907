//! What lies under a transcoder's name: one of our programs, a whole program of somebody else, or
//! something that must not be touched yet.

use md5::{Digest, Md5};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What our signature begins with, wherever it lies in the file.
const MARK: &[u8] = b"\x01plexbeam-cartridge-signature\x01";

/// [`MARK`], the version and a final `\x01`. Every build of the cartridge carries it, and nothing else
/// does; so a copy is known whatever its name, owner or time.
#[used]
static SIGNATURE: &str = concat!(
    "\x01plexbeam-cartridge-signature\x01",
    env!("CARGO_PKG_VERSION"),
    "\x01"
);

/// Larger files are no transcoders.
const MAX_SIZE: u64 = 1 << 30;

/// The bytes of a file, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// MD5 in hexadecimal digits, as `md5sum` prints it. Tells versions apart; guards nothing.
    pub md5: String,
    /// Bytes.
    pub size: u64,
}

/// Which file it is, as long as nobody writes to it: device, inode, size, and the times of the last
/// change of bytes (seconds, nanoseconds).
pub type Identity = (u64, u64, u64, i64, i64);

/// What lies under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing.
    Missing,
    /// A build of this program.
    Cartridge {
        /// Its version.
        version: String,
        /// Its bytes.
        facts: Facts,
    },
    /// A whole program that is not ours.
    Original {
        /// Its bytes.
        facts: Facts,
        /// Which file.
        identity: Identity,
    },
    /// No regular file, not executable, or not all of its bytes; the text says which.
    Unready(String),
}

impl Look {
    /// For messages.
    pub fn word(&self) -> &'static str {
        match self {
            Look::Missing => "missing",
            Look::Cartridge { .. } => "the cartridge",
            Look::Original { .. } => "the original",
            Look::Unready(_) => "not a whole program",
        }
    }
}

/// Looks at a file. Errors other than absence are the caller's to tell.
pub fn look(path: &Path) -> io::Result<Look> {
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Look::Missing),
        Err(error) => return Err(error),
    };
    if !meta.is_file() {
        return Ok(Look::Unready("it is no regular file".into()));
    }
    if meta.mode() & 0o111 == 0 {
        return Ok(Look::Unready("it is not executable".into()));
    }
    if meta.len() > MAX_SIZE {
        return Ok(Look::Unready(format!("it has {} bytes", meta.len())));
    }
    let mut file = File::open(path)?;
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.read_to_end(&mut bytes)?;
    let after = file.metadata()?;
    if identity(&after) != identity(&meta) || bytes.len() as u64 != after.len() {
        return Ok(Look::Unready("it is being written".into()));
    }
    if let Err(why) = whole(&bytes) {
        return Ok(Look::Unready(why));
    }
    let facts = facts(&bytes);
    Ok(match version(&bytes) {
        Some(version) => Look::Cartridge { version, facts },
        None => Look::Original {
            facts,
            identity: identity(&after),
        },
    })
}

/// Which file this is.
pub fn identity(meta: &std::fs::Metadata) -> Identity {
    (
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    )
}

fn facts(bytes: &[u8]) -> Facts {
    let digest = Md5::digest(bytes);
    Facts {
        md5: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        size: bytes.len() as u64,
    }
}

/// The version in the first signature; `None` in a program that is not ours.
fn version(bytes: &[u8]) -> Option<String> {
    debug_assert!(SIGNATURE.as_bytes().starts_with(MARK));
    memmem::find_iter(bytes, MARK).find_map(|at| {
        let rest = bytes.get(at + MARK.len()..)?;
        let end = rest.iter().take(40).position(|&byte| byte == 1)?;
        let text = std::str::from_utf8(rest.get(..end)?).ok()?;
        // The mark itself lies in our programs, too, with other things behind it.
        let looks = text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.');
        looks.then(|| text.to_owned())
    })
}

/// Is every byte there that the file's own head speaks of? A script is taken as it is.
fn whole(bytes: &[u8]) -> Result<(), String> {
    if bytes.starts_with(b"#!") {
        return Ok(());
    }
    let needs = elf_size(bytes).ok_or("it is no program")?;
    match needs <= bytes.len() as u64 {
        true => Ok(()),
        false => Err(format!("only {} of {needs} bytes are there", bytes.len())),
    }
}

/// How long an ELF file must be to hold its segments and its table of sections (System V ABI,
/// chapter 4); `None` when it is none.
fn elf_size(bytes: &[u8]) -> Option<u64> {
    let head = bytes.strip_prefix(b"\x7fELF")?;
    let (wide, little) = (*head.first()? == 2, *head.get(1)? == 1);
    let number = |at: usize, len: usize| -> Option<u64> {
        let field = bytes.get(at..at.checked_add(len)?)?;
        let fold = |n: u64, byte: &u8| n << 8 | u64::from(*byte);
        Some(match little {
            true => field.iter().rev().fold(0, fold),
            false => field.iter().fold(0, fold),
        })
    };
    // Offsets of e_phoff, e_shoff, e_phentsize, e_phnum, e_shentsize, e_shnum; of p_offset, p_filesz.
    let (word, [phoff, shoff, phentsize, phnum, shentsize, shnum], [offset, filesz]) = match wide {
        true => (8, [32, 40, 54, 56, 58, 60], [8, 32]),
        false => (4, [28, 32, 42, 44, 46, 48], [4, 16]),
    };
    let (table, entry) = (number(phoff, word)?, number(phentsize, 2)?);
    let sections = number(shentsize, 2)?.checked_mul(number(shnum, 2)?)?;
    let mut end = number(shoff, word)?.checked_add(sections)?;
    for index in 0..number(phnum, 2)? {
        let at = table.checked_add(index.checked_mul(entry)?)?;
        let Ok(at) = usize::try_from(at) else {
            return Some(u64::MAX);
        };
        let (Some(offset), Some(size)) = (number(at + offset, word), number(at + filesz, word))
        else {
            // The table of segments itself is cut off.
            return Some(u64::MAX);
        };
        end = end.max(offset.checked_add(size)?);
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_whole_with_its_last_byte_and_not_before() {
        let bytes = std::fs::read("/bin/true").unwrap();
        let needs = elf_size(&bytes).unwrap() as usize;
        assert!(needs <= bytes.len() && needs > 1000);
        assert!(whole(&bytes).is_ok());
        for len in [0, 3, 10, 63, 64, 100, needs / 2, needs - 1] {
            assert!(whole(&bytes[..len]).is_err(), "{len} of {needs}");
        }
        assert!(whole(b"#!/bin/sh\n").is_ok());
        assert!(whole(b"no program").is_err());
    }

    #[test]
    fn our_programs_are_known_and_others_are_not() {
        let me = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(version(&me).as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(version(&std::fs::read("/bin/true").unwrap()), None);
        // The mark alone is no signature.
        assert_eq!(version(&[b"x", MARK, b"junk\x01"].concat()), None);
    }

    #[test]
    fn what_is_no_program_is_never_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Plex Transcoder");
        assert_eq!(look(&path).unwrap(), Look::Missing);
        std::fs::write(&path, "#!/bin/sh\n").unwrap();
        assert!(matches!(look(&path).unwrap(), Look::Unready(_)), "mode");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(look(&path).unwrap(), Look::Unready(_)));
    }
}
