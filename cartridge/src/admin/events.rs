//! `cartridge_events.log`: what happened to the installation.

use super::places::Root;
use crate::log;
use std::fmt;

/// Adds a line. Where there is no log directory, nothing is logged.
pub(super) fn tell(root: &Root, what: fmt::Arguments<'_>) {
    log::events(&root.log_dir(), what);
}
