//! The service, from its routes down to real child processes. The child is this test program itself,
//! doing what the job's `argv` tells it ([`fake`]), so that each behaviour can be had at will; tests
//! in [`process`] run the real binary.

mod again;
mod auth;
mod beginnings;
mod bench;
mod ceiling;
mod children;
mod drivers;
mod events;
mod fake;
mod files;
mod jobs;
mod ladder;
mod lease;
mod process;
