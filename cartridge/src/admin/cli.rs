//! Flags of the administrator's tool.

use super::analyze::{self, Ask};
use super::doctor::Doctor;
use super::error::Error;
use super::install::{self, Install};
use super::places::Root;
use super::status;
use super::watchdog::Watchdog;
use crate::config;
use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// Send Plex's transcodes to another machine: install, watch over, look into.
#[derive(Debug, Parser)]
#[command(name = "plexbeam-cartridge", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    command: Command,

    /// Work below this directory instead of /, e.g. in an unpacked image.
    #[arg(long, global = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Take the place of Plex's transcoder; may be run again at any time.
    Install(InstallArgs),
    /// Give Plex its own transcoder back and remove all that was installed.
    Uninstall(UninstallArgs),
    /// Put the cartridge back whenever an update of Plex has replaced it.
    Watchdog(WatchdogArgs),
    /// Play a synthetic film through every hop and name what to mend first.
    Doctor(DoctorArgs),
    /// Tell the transcodes of this moment: where each runs, how fast, and why here.
    Status(StatusArgs),
    /// Tell what the logs know of past transcodes.
    Analyze(AnalyzeArgs),
}

#[derive(Debug, Args)]
struct InstallArgs {
    /// Folder that holds `Plex Transcoder` [default: looked for].
    #[arg(long, value_name = "DIR")]
    plex_dir: Option<PathBuf>,

    /// A worker, for settings that are not there yet, e.g. http://192.168.1.20:8765.
    ///
    /// The key is taken from the variable PLEXBEAM_API_KEY.
    #[arg(long, value_name = "URL")]
    worker: Option<String>,

    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct UninstallArgs {
    /// Folder that holds `Plex Transcoder` [default: as installed].
    #[arg(long, value_name = "DIR")]
    plex_dir: Option<PathBuf>,

    /// Leave settings and logs.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
struct WatchdogArgs {
    /// Look once and leave; for the start of a container.
    #[arg(long)]
    once: bool,

    /// Milliseconds in which nothing may have happened to the transcoder before it is replaced.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    quiet_ms: u64,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    /// Folder that holds `Plex Transcoder` [default: looked for].
    #[arg(long, value_name = "DIR")]
    plex_dir: Option<PathBuf>,

    /// Plex's transcoder directory [default: as Plex's settings name it, else the mount].
    #[arg(long, value_name = "DIR")]
    transcode_dir: Option<PathBuf>,

    /// A film to play instead of the synthetic one; shows whether the workers see your films.
    #[arg(long, value_name = "FILE")]
    film: Option<PathBuf>,

    /// Process of Plex Media Server [default: looked for].
    #[arg(long, value_name = "PID")]
    plex_pid: Option<u32>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Folder that holds `Plex Transcoder` [default: looked for].
    #[arg(long, value_name = "DIR")]
    plex_dir: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct AnalyzeArgs {
    /// Which of the transcodes on this host a worker could have had, and what it takes.
    #[arg(long)]
    remote_feasibility: bool,

    /// All that is known of one job.
    #[arg(long, value_name = "JOB", conflicts_with_all = ["remote_feasibility", "patterns"])]
    detail: Option<String>,

    /// The kinds of command lines that Plex has used.
    #[arg(long, conflicts_with = "remote_feasibility")]
    patterns: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Folder of the logs [default: as in the settings].
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
}

/// Runs the tool with these words, the first of which is its name.
pub fn run(words: Vec<OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(as_analyze(words)) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Where it cannot be printed nobody reads.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match cli.execute() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut err = std::io::stderr().lock();
            let _ = writeln!(err, "error: {error}");
            if let Some(hint) = error.hint() {
                let _ = writeln!(err, "hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// `analyze.sh ...` means `plexbeam-cartridge analyze ...`.
fn as_analyze(mut words: Vec<OsString>) -> Vec<OsString> {
    let name = words.first().and_then(|w| Path::new(w).file_name());
    if name.is_some_and(|name| name == "analyze.sh") {
        words.insert(1, "analyze".into());
    }
    words
}

/// Prints lines; a reader that has left is no error.
pub(super) fn print(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
}

impl Cli {
    fn execute(self) -> Result<(), Error> {
        let root = Root::new(&self.root);
        match self.command {
            Command::Install(args) => args.execute(root),
            Command::Uninstall(args) => {
                if root.is_host() {
                    systemctl(&["disable", "--now"]);
                }
                let dir = args.plex_dir.as_deref();
                let report = install::uninstall(&root, dir, args.keep, &mut |_| Ok(()))?;
                print(&report);
                Ok(())
            }
            Command::Doctor(args) => {
                let doctor = Doctor {
                    root,
                    plex_dir: args.plex_dir,
                    transcode_dir: args.transcode_dir,
                    film: args.film,
                    plex_pid: args.plex_pid,
                };
                doctor.run(args.json)
            }
            Command::Status(args) => status::run(&root, args.plex_dir.as_deref(), args.json),
            Command::Analyze(args) => {
                let ask = match (args.detail, args.patterns, args.remote_feasibility) {
                    (Some(job), ..) => Ask::Detail(job),
                    (None, true, _) => Ask::Patterns,
                    (None, false, true) => Ask::Feasibility,
                    (None, false, false) => Ask::Summary,
                };
                let dir = args.log_dir.unwrap_or_else(|| root.log_dir());
                analyze::run(&dir, &ask, args.json)
            }
            Command::Watchdog(args) => {
                let quiet = Duration::from_millis(args.quiet_ms);
                let watchdog = Watchdog::new(root).with_quiet(quiet);
                match args.once {
                    true => {
                        print(&[watchdog.once()?.to_string()]);
                        Ok(())
                    }
                    false => watchdog.run(),
                }
            }
        }
    }
}

impl InstallArgs {
    fn execute(self, root: Root) -> Result<(), Error> {
        let program = std::env::current_exe().map_err(|why| Error::File {
            what: "find",
            path: "this program".into(),
            why,
        })?;
        let key = std::env::var("PLEXBEAM_API_KEY").ok();
        let install = Install {
            root,
            plex_dir: self.plex_dir,
            worker: self.worker,
            api_key: key.filter(|k| !k.is_empty()).map(config::Secret::from),
            program,
        };
        if self.dry_run {
            print(&install.plan()?);
            return Ok(());
        }
        let mut report = install.run(&mut |_| Ok(()))?;
        if install.root.is_host() && systemctl(&["enable", "--now"]) {
            report.push("the watchdog runs (systemctl status plexbeam-watchdog)".into());
        } else {
            report.push(
                "no systemd here: run `plexbeam-cartridge watchdog` in the background, or \
                 `plexbeam-cartridge install` before each start of Plex"
                    .into(),
            );
        }
        report.push("next: `plexbeam-cartridge doctor` checks every hop".into());
        print(&report);
        Ok(())
    }
}

/// Asks systemd for something about the watchdog, where systemd runs this machine.
fn systemctl(words: &[&str]) -> bool {
    if !Path::new("/run/systemd/system").is_dir() {
        return false;
    }
    let done = std::process::Command::new("systemctl")
        .arg("--quiet")
        .args(words)
        .arg("plexbeam-watchdog.service")
        // What it has to say of a unit that is not there is nobody's concern.
        .stderr(std::process::Stdio::null())
        .status();
    done.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
