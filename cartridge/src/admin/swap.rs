//! Cartridge and original change places in Plex's folder.
//!
//! At every moment `Plex Transcoder` is a whole program, and as soon as it is the cartridge, the
//! original is whole under `Plex Transcoder.real`; so PMS may start it at any moment, and the power
//! may fail at any moment. [`put`] finds out by itself where an earlier run was cut.

use super::error::{Context, Error};
use super::files::{self, Owner, Steps, beside, with_suffix};
use super::signature::{self, Facts, Look, look};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::path::{Path, PathBuf};

/// The name that PMS starts.
pub const TRANSCODER: &str = "Plex Transcoder";

/// What lies beside it where Plex is.
const SERVER: &str = "Plex Media Server";

/// How often a package manager may come in between.
const TRIES: usize = 10;

/// The names in Plex's folder.
#[derive(Debug, Clone)]
pub struct Names {
    /// What PMS starts.
    pub transcoder: PathBuf,
    /// The original, while the cartridge is in its place.
    pub real: PathBuf,
    /// The cartridge before it is in place.
    new: PathBuf,
    /// The original on its way to `real`.
    keep: PathBuf,
}

impl Names {
    /// In this folder.
    pub fn of(dir: &Path) -> Self {
        let transcoder = dir.join(TRANSCODER);
        Names {
            real: with_suffix(&transcoder, ".real"),
            new: beside(&transcoder, ".plexbeam-new"),
            keep: beside(&transcoder, ".plexbeam-keep"),
            transcoder,
        }
    }

    /// Removes what a cut left behind.
    fn tidy(&self) -> Result<(), Error> {
        files::remove(&self.new)?;
        files::remove(&self.keep)
    }
}

/// What [`put`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// Nothing: it was in place.
    Already {
        /// The original beside it.
        original: Facts,
    },
    /// It is in place now.
    Done {
        /// The original that was put aside, or was beside it.
        original: Facts,
        /// True when the original was put aside just now.
        fresh: bool,
    },
}

/// Puts `cartridge` into place.
pub fn put(dir: &Path, cartridge: &Path, steps: Steps<'_>) -> Result<Put, Error> {
    let names = Names::of(dir);
    let ours = match look(cartridge).on("read", cartridge)? {
        Look::Cartridge { facts, .. } => facts,
        other => {
            return Err(Error::NotWhole {
                path: cartridge.to_owned(),
                why: format!("it is {}, not the cartridge", other.word()),
            });
        }
    };
    let mut fresh = false;
    for _ in 0..TRIES {
        let there = look(&names.transcoder).on("read", &names.transcoder)?;
        if let Look::Cartridge { .. } = there {
            settle_exchanged(&names)?;
        }
        let aside = look(&names.real).on("read", &names.real)?;
        let owner = match (&there, &aside) {
            (Look::Cartridge { facts, .. }, Look::Original { facts: real, .. }) => {
                if *facts == ours {
                    names.tidy()?;
                    let original = real.clone();
                    return Ok(match fresh {
                        true => Put::Done { original, fresh },
                        false => Put::Already { original },
                    });
                }
                &names.real
            }
            (Look::Original { identity, .. }, _) => {
                put_aside(&names, *identity, steps)?;
                fresh = true;
                &names.real
            }
            (Look::Missing, Look::Original { .. }) => &names.real,
            (Look::Missing, _) => return Err(Error::NoTranscoder(dir.to_owned())),
            (Look::Cartridge { .. }, _) => return Err(Error::OriginalLost(names.transcoder)),
            (Look::Unready(why), _) => {
                return Err(Error::NotWhole {
                    path: names.transcoder,
                    why: why.clone(),
                });
            }
        };
        let meta = owner.metadata().on("read", owner)?;
        steps("stage the cartridge").on("write", &names.new)?;
        files::copy(cartridge, &names.new, Owner::of(&meta), None, &mut *steps)?;
        steps("swap").on("replace", &names.transcoder)?;
        exchange(&names, &there, &mut *steps)?;
        files::sync_dir(dir)?;
        steps("swapped").on("replace", &names.transcoder)?;
        // Looked at once more: a package manager may have come in between.
        let done = matches!(
            look(&names.transcoder).on("read", &names.transcoder)?,
            Look::Cartridge { facts, .. } if facts == ours
        );
        if let (true, Look::Original { facts, .. }) =
            (done, look(&names.real).on("read", &names.real)?)
        {
            names.tidy()?;
            return Ok(Put::Done {
                original: facts,
                fresh,
            });
        }
    }
    Err(Error::NotWhole {
        path: names.transcoder,
        why: "it keeps changing".into(),
    })
}

/// The original gets its second name, in one step; its first one stays.
fn put_aside(names: &Names, identity: signature::Identity, steps: Steps<'_>) -> Result<(), Error> {
    let (from, keep) = (&names.transcoder, &names.keep);
    if let Ok(meta) = names.real.symlink_metadata()
        && signature::identity(&meta) == identity
    {
        return Ok(());
    }
    files::remove(keep)?;
    steps("give the original a second name").on("link", keep)?;
    match rustix::fs::link(from, keep) {
        Ok(()) => {}
        // The file system has no links.
        Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::MLINK | Errno::XDEV) => {
            let meta = from.metadata().on("read", from)?;
            files::copy(from, keep, Owner::of(&meta), Some(&meta), &mut *steps)?;
        }
        Err(errno) => return Err(errno).on("link", keep),
    }
    steps("keep the original").on("rename", &names.real)?;
    std::fs::rename(keep, &names.real).on("rename", &names.real)?;
    files::sync_dir(names.real.parent().unwrap_or(&names.real))
}

/// The staged cartridge takes the transcoder's name. What had the name until then is dropped only when
/// it is what was looked at, and else becomes the original.
fn exchange(names: &Names, expected: &Look, steps: Steps<'_>) -> Result<(), Error> {
    let (new, to) = (&names.new, &names.transcoder);
    if *expected == Look::Missing {
        return match rustix::fs::renameat_with(CWD, new, CWD, to, RenameFlags::NOREPLACE) {
            // Somebody was faster; the caller looks again.
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(Errno::INVAL | Errno::NOSYS) => std::fs::rename(new, to).on("replace", to),
            Err(errno) => Err(errno).on("replace", to),
        };
    }
    match rustix::fs::renameat_with(CWD, new, CWD, to, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // It vanished; the caller looks again.
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::INVAL | Errno::NOSYS) => {
            // Without the exchange a newer original might be lost in the moment between.
            if look(to).on("read", to)? != *expected {
                return Ok(());
            }
            return std::fs::rename(new, to).on("replace", to);
        }
        Err(errno) => return Err(errno).on("replace", to),
    }
    steps("exchanged").on("replace", to)?;
    settle_exchanged(names)
}

/// After an exchange, or a cut behind one: what lies under the staging name is an original that is
/// kept already, one that came in between, or an old cartridge.
fn settle_exchanged(names: &Names) -> Result<(), Error> {
    let Look::Original { facts, .. } = look(&names.new).on("read", &names.new)? else {
        return files::remove(&names.new);
    };
    match look(&names.real).on("read", &names.real)? {
        Look::Original { facts: kept, .. } if kept == facts => files::remove(&names.new),
        _ => std::fs::rename(&names.new, &names.real).on("rename", &names.real),
    }
}

/// Gives Plex its own transcoder back and removes all else of ours. A cartridge that runs finds the
/// original under its first name then.
pub fn take_away(dir: &Path, steps: Steps<'_>) -> Result<(), Error> {
    let names = Names::of(dir);
    let there = look(&names.transcoder).on("read", &names.transcoder)?;
    if let Look::Cartridge { .. } = there {
        settle_exchanged(&names)?;
    }
    let aside = look(&names.real).on("read", &names.real)?;
    // Without its server Plex was removed, and its transcoder with it.
    let removed = there == Look::Missing && !dir.join(SERVER).exists();
    match (&there, &aside) {
        (Look::Cartridge { .. } | Look::Missing, Look::Original { .. }) if !removed => {
            steps("give the original its name back").on("rename", &names.real)?;
            std::fs::rename(&names.real, &names.transcoder).on("replace", &names.transcoder)?;
            files::sync_dir(dir)?;
        }
        (Look::Cartridge { .. }, _) => return Err(Error::OriginalLost(names.transcoder)),
        // Plex itself was removed, or its own file is back already.
        (Look::Missing | Look::Original { .. } | Look::Unready(_), _) => {}
    }
    steps("remove the copies").on("remove", &names.real)?;
    files::remove(&names.real)?;
    names.tidy()
}
