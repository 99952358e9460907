//! `plexbeam-mount`: the segments of PlexBeam workers as files on the Plex host.

mod admin;
mod cli;
mod control;
mod helper;
mod instance;
mod notify;
mod run;
mod settings;
mod supervisor;

use std::{ffi::OsString, process::ExitCode};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    match run::main(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plexbeam-mount: {error}");
            error.exit_code()
        }
    }
}
