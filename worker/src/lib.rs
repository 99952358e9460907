//! PlexBeam's worker: jobs in, segments out.
//!
//! From the outside in: [`http`] (routes) -> [`session`] (states, places, lease) -> [`store`]
//! (finished segments) and [`child`] (one process per job, same binary) -> [`pipeline`] (demux,
//! decode, filter, encode, cut) -> [`libav`] (the only unsafe room). The pipeline sees a
//! [`pipeline::Sink`], never HTTP. [`serve`] puts them together, [`cli`] and [`config`] set them up,
//! [`device`] says what the machine can do.

pub mod child;
pub mod cli;
pub mod config;
pub mod device;
pub mod error;
pub mod http;
pub mod input;
pub mod libav;
pub mod pipeline;
pub mod plan;
pub mod serve;
pub mod session;
pub mod shutdown;
pub mod store;
