//! The administrator's tool: the same program under its own name.
//!
//! * [`install`]: into Plex and out of it; [`swap`] is the exchange of the two programs,
//!   [`signature`] tells them apart, [`state`] remembers what was made, [`places`] knows where.
//! * [`watchdog`]: puts the cartridge back after an update of Plex.
//! * [`analyze`]: what the logs tell. [`doctor`]: every hop, examined.
//!   [`status`]: the transcodes of this moment.
//!
//! Nothing here is on the path of a transcode.

pub mod analyze;
pub mod cli;
pub mod doctor;
pub mod error;
mod events;
pub mod files;
pub mod install;
pub mod places;
pub mod signature;
pub mod state;
pub mod status;
pub mod swap;
pub mod table;
pub mod watchdog;

pub use cli::run;

/// True when a process of this name is the tool: it was started under its own name, or by the seed's
/// name for the analysis. Under any other it is Plex's transcoder.
pub fn is_tool(argv0: &std::ffi::OsStr) -> bool {
    let name = std::path::Path::new(argv0).file_name();
    let name = name.unwrap_or_default().as_encoded_bytes();
    name.starts_with(b"plexbeam-cartridge") || name == b"analyze.sh"
}
