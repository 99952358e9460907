//! `plexbeam-worker`: the service, the probe, and the job child.

use clap::Parser;
use plexbeam_worker::{
    child::{self, Inheritance},
    cli::{Cli, Command, ProbeArgs, ServeArgs},
    device,
    error::StartError,
    pipeline, serve,
};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => finish(run_serve(*args)),
        Command::Probe(args) => run_probe(&args),
        Command::Job(args) => {
            let inheritance = Inheritance {
                parent: args.parent,
                memory: args.memory,
            };
            match child::main(inheritance, pipeline::run) {
                // Threads of the pipeline may still hold libav; exiting does not wait for them.
                Ok(()) => std::process::exit(0),
                Err(error) => {
                    eprintln!("job: {error}");
                    std::process::exit(3)
                }
            }
        }
    }
}

fn run_serve(args: ServeArgs) -> Result<(), StartError> {
    let filter = EnvFilter::try_from_env("PLEXBEAM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let program = std::env::current_exe().map_err(|source| StartError::System {
        what: "finding this program",
        source,
    })?;
    serve::serve(args.into_config(|name| std::env::var(name).ok(), program)?)
}

fn run_probe(args: &ProbeArgs) -> ExitCode {
    let probe = device::prove(args.hw.into());
    if args.json {
        match serde_json::to_string_pretty(&probe) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("{error}"),
        }
    } else {
        println!("{}", probe.ffmpeg);
        for report in &probe.devices {
            println!("{}: {}", report.name, report.encoders.join(" "));
            if let Some(error) = &report.error {
                println!("  not usable: {error}");
            }
        }
    }
    match probe.is_usable() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn finish(outcome: Result<(), StartError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
