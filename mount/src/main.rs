//! `plexbeam-mount`: the segments of PlexBeam workers as files on the Plex host.

mod cli;
mod run;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run::run(&cli::CliArgs::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plexbeam-mount: {error}");
            error.exit_code()
        }
    }
}
