//! The administrator's tool on trees that look like hosts with Plex.

mod cuts;
mod install;
mod race;
mod tree;
mod watchdog;
