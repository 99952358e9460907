//! `cartridge_events.log`: what happened to the installation.

use super::places::Root;
use crate::config;
use crate::log;
use std::fmt;

/// Adds a line. Where there is no log directory, nothing is logged.
pub(super) fn tell(root: &Root, what: fmt::Arguments<'_>) {
    let dir = config::log_dir(&|name| std::env::var_os(name));
    let dir = dir.unwrap_or_else(|| config::LOG_DIR.into());
    log::events(&root.at(dir), what);
}
