//! `status`: the transcodes of this moment, where each runs, how fast, and why here.

use super::analyze;
use super::cli::print;
use super::doctor;
use super::error::Error;
use super::places::Root;
use super::swap::Names;
use super::table::Table;
use crate::client::Worker;
use crate::config::Config;
use crate::http::{Call, Method, Url, within};
use crate::log::{apart, store};
use plexbeam_api::{SessionStatus, route, session::SessionState};
use serde::Serialize;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Longest wait for a worker.
const PATIENCE: Duration = Duration::from_secs(2);

/// A transcode of this moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Now {
    /// The job; `None` for thumbnails, analysis and the like.
    pub job: Option<String>,
    /// The worker's URL, or `here`.
    pub place: String,
    /// `running`, `queued`, `paused`, `draining`.
    pub state: String,
    /// Of the whole title, percent.
    pub percent: Option<f64>,
    /// Media seconds per second.
    pub speed: Option<f64>,
    /// What encodes.
    pub device: Option<String>,
    /// The process on this host.
    pub pid: Option<u32>,
    /// Why it runs here, or waits.
    pub why: Option<String>,
}

/// The transcodes, and who did not answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Transcodes, those of workers first.
    pub now: Vec<Now>,
    /// URL, or folder of logs, and reason.
    pub silent: Vec<(String, String)>,
}

/// Asks the workers and looks at the processes of this host.
pub fn look(root: &Root, plex_dir: Option<&Path>) -> Status {
    let config = Config::load(&root.env()).ok();
    let mut status = Status {
        now: Vec::new(),
        silent: Vec::new(),
    };
    for url in doctor::known_workers(config.as_ref()) {
        match jobs(&url, config.as_ref()) {
            Ok(jobs) => status.now.extend(jobs),
            Err(why) => status.silent.push((url.to_string(), why)),
        }
    }
    if let Ok(plex) = root.plex(plex_dir) {
        let real = Names::of(&root.at(&plex.dir)).real;
        let logs = root.log_dir();
        let master = match apart::readable(&logs, None) {
            Ok(logs) => store::read_rotated(&logs.dir().join("master.log")),
            Err(error) => {
                let silent = (logs.display().to_string(), error.to_string());
                status.silent.push(silent);
                String::new()
            }
        };
        status.now.extend(here(&real, &master));
    }
    status
}

fn jobs(url: &Url, config: Option<&Config>) -> Result<Vec<Now>, String> {
    let key = config.and_then(|config| config.api_key.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|e| e.to_string())?;
    let reply = runtime.block_on(async {
        let mut connection = Worker::new(url.clone(), key).connection();
        let call = Call::new(Method::GET, url.join(route::JOBS));
        connection.call(&call, within(PATIENCE)).await
    });
    let reply = reply.map_err(|e| e.to_string())?;
    let all: Vec<SessionStatus> = match reply.status {
        200 => serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?,
        401 => return Err("it does not accept the key".into()),
        status => return Err(format!("status {status}")),
    };
    let live = all.into_iter().filter(|job| !job.state.is_end());
    Ok(live.map(|job| remote(url, job)).collect())
}

fn remote(url: &Url, job: SessionStatus) -> Now {
    Now {
        job: Some(job.job_id.to_string()),
        place: url.to_string().trim_end_matches('/').to_owned(),
        state: match job.state {
            SessionState::Queued => "queued",
            SessionState::Paused => "paused",
            SessionState::Draining => "draining",
            SessionState::Running
            | SessionState::Completed
            | SessionState::Failed
            | SessionState::Cancelled => "running",
        }
        .to_owned(),
        percent: job.progress.percent,
        speed: job.progress.speed,
        device: job.device,
        pid: None,
        why: job
            .queue_place
            .map(|place| format!("place {place} in the queue")),
    }
}

/// Processes of Plex's own transcoder. A process keeps its number when it becomes the original, so the
/// log knows why.
fn here(real: &Path, master: &str) -> Vec<Now> {
    let real = real.canonicalize().unwrap_or_else(|_| real.to_owned());
    let starts = analyze::starts(master);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = pids.filter(|pid| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        // An update removes the file that a running process was started from.
        let exe = exe.to_string_lossy().into_owned();
        Path::new(exe.strip_suffix(" (deleted)").unwrap_or(&exe)) == real
    });
    ours.map(|pid| {
        let cwd = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
        let name = cwd
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let start = starts
            .iter()
            .rev()
            .find(|start| start.pid == pid && !start.remote);
        Now {
            job: name.strip_prefix("plex-transcode-").map(str::to_owned),
            place: "here".to_owned(),
            state: "running".to_owned(),
            percent: None,
            speed: None,
            device: None,
            pid: Some(pid),
            why: start.map(|start| start.what.clone()),
        }
    })
    .collect()
}

/// Tells it.
pub fn run(root: &Root, plex_dir: Option<&Path>, json: bool) -> Result<(), Error> {
    let status = look(root, plex_dir);
    if json {
        print(&[serde_json::to_string_pretty(&status).unwrap_or_default()]);
        return Ok(());
    }
    let mut table = Table::new(&["job", "where", "state", "#%", "#speed", "why"]);
    for now in &status.now {
        let job = now.job.clone().unwrap_or_else(|| "(no playback)".into());
        let place = match &now.device {
            Some(device) => format!("{}, {device}", now.place),
            None => now.pid.map_or(now.place.clone(), |pid| {
                format!("{}, process {pid}", now.place)
            }),
        };
        let number = |value: Option<f64>| value.map_or(String::new(), |v| format!("{v:.1}"));
        let why = now.why.clone().unwrap_or_default();
        table.row([
            job,
            place,
            now.state.clone(),
            number(now.percent),
            number(now.speed),
            why,
        ]);
    }
    match status.now.is_empty() {
        true => print(&["nothing is transcoded now".to_owned()]),
        false => print(&table.lines()),
    }
    let silent = status.silent.iter();
    print(
        &silent
            .map(|(url, why)| format!("{url} does not answer: {why}"))
            .collect::<Vec<_>>(),
    );
    Ok(())
}
