//! Opening the bytes of an input: a path under its policy, an HTTP URL by ranges, or inline data.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What paths a job may read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct InputPolicy {
    /// `(from, to)` prefixes, first match wins: a path as the Plex host sees it -> here.
    pub path_maps: Vec<(String, String)>,
    /// When not empty, a path must lie (after symlinks are resolved) under one of these.
    pub media_roots: Vec<PathBuf>,
}
