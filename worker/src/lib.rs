//! PlexBeam's worker: jobs in, segments out.
//!
//! From the outside in: `http` (routes) -> `session` (states, places, lease) -> `store` (finished
//! segments) and `child` (one process per job, same binary) -> [`pipeline`] (demux, decode, filter,
//! encode, cut) -> [`libav`] (the only unsafe room). The pipeline sees a [`pipeline::Sink`], never HTTP.

pub mod input;
pub mod libav;
pub mod pipeline;
pub mod plan;
