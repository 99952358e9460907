//! PlexBeam end to end, one module per behaviour.

mod again;
mod bad;
#[path = "../browser/mod.rs"]
mod browser;
mod ceilings;
mod checks;
mod copy;
mod corpus;
mod doctor;
mod fake;
mod hls;
mod host;
mod keys;
mod killed;
mod local;
mod newcomer;
mod play;
mod route;
mod side;
mod throttle;
mod twice;

use plexbeam_tests::kit;
