//! PlexBeam end to end, one module per behaviour.

#[path = "../browser/mod.rs"]
mod browser;
mod ceilings;
mod copy;
mod corpus;
mod fake;
mod hls;
mod kit;
mod play;
mod route;
mod throttle;
