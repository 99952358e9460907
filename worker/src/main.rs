//! `plexbeam-worker`: the service, the probe, and the job child.

use clap::Parser;
use plexbeam_worker::{
    child::{self, Inheritance},
    cli::{Cli, Command, ProbeArgs, ServeArgs},
    device::{self, Wish},
    error::StartError,
    serve,
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
                stall: std::time::Duration::from_millis(args.stall_ms),
            };
            match child::main(inheritance, child::inside::work) {
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
    if let Some(only) = &args.only {
        return prove_only(only);
    }
    match probe(args) {
        Ok(probe) => {
            match args.json {
                true => println!("{}", json(&probe)),
                false => print!("{}", device::table::text(&probe)),
            }
            match probe.is_usable() {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Proves in processes of their own.
fn probe(args: &ProbeArgs) -> Result<device::Probe, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    runtime
        .block_on(device::prove_apart(&program, &args.hw))
        .map_err(|problem| problem.to_string())
}

/// Proves one device, or the processor, here.
fn prove_only(only: &str) -> ExitCode {
    let proof = match only.parse() {
        Ok(Wish::Only(kind, Some(address))) => device::prove::device(kind, &address),
        _ if only == "software" => device::prove::software(),
        _ => {
            eprintln!("error: `{only}` is no device with an address");
            return ExitCode::from(2);
        }
    };
    println!("{}", json(&proof));
    ExitCode::SUCCESS
}

fn json(value: &impl serde::Serialize) -> String {
    // These types have string keys and no maps with others.
    serde_json::to_string_pretty(value).unwrap_or_default()
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
