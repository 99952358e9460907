//! Mountpoints, seen from outside: what is on them, and how it is taken away.

pub use crate::fuse::session::{detach, is_shared, ours_at};

use crate::{error::SetupError, fuse::session};
use std::path::{Path, PathBuf};

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
