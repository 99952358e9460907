//! Manifests as pure values with a text form. Nothing here knows who makes or sends them.

pub mod csv;
pub mod hls;
pub mod mpd;
