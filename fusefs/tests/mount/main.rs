//! Real mounts, with a fake worker that publishes real bytes. They need root and `/dev/fuse`; where
//! that is missing they say so loudly and do nothing.

mod adopt;
mod again;
mod apart;
mod binding;
mod cache;
mod crowd;
mod faults;
mod media;
mod overlay;
mod property;
mod removal;
mod semantics;
mod sessions;
mod support;
mod torture;
mod waits;
