//! PlexBeam end to end, one module per behaviour.

mod fake;
mod kit;
mod play;
