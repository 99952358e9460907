//! What the program that Plex starts takes of time and memory.

mod handover;
mod resident;

use crate::{
    Context,
    figure::{Figure, least, median, most},
    stage::{Stage, film, session_log},
};
use plexbeam_api::route;
use plexbeam_tests::{
    argv::{self, Line, Place},
    env,
    fake_pms::server::Server,
    wait,
};
use std::{
    cell::Cell,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// Seconds to milliseconds.
const MS: f64 = 1e3;
/// From the cartridge's start until a warm worker has the job: median and 99 of 100, milliseconds.
const ACCEPT_GOALS: (f64, f64) = (15.0, 40.0);
/// Starts of the cartridge that are timed, after two that are not.
const STARTS: usize = 100;

/// The handover to the original, the way to a worker, memory and size.
pub(crate) fn run(with: &Context) -> Result<Vec<Figure>, String> {
    let mut figures = handover::run(with)?;
    let film = film(with)?;
    let stage = Stage::new("bench-cartridge");
    let bench = Bench {
        stage: &stage,
        cartridge: &with.cartridge,
        film: &film,
        line: argv::line("sp-01").scaled(1280, 720),
        pms: Server::start("token".to_owned()).map_err(|e| e.to_string())?,
        count: Cell::new(0),
    };
    let mut accepts = Vec::new();
    for n in 0..STARTS + 2 {
        let ms = bench.accept()?;
        if n >= 2 {
            accepts.push(ms);
        }
    }
    let (accept, slow) = (median(accepts.clone()), percentile(accepts.clone(), 99));
    println!(
        "start to job accepted     {accept:.1} ms ({:.1} .. {:.1}), 99 of 100 within {slow:.1} ms",
        least(&accepts),
        most(&accepts),
    );
    figures.push(Figure::less("accept_ms", accept, "ms").goal(ACCEPT_GOALS.0));
    figures.push(Figure::less("accept_p99_ms", slow, "ms").goal(ACCEPT_GOALS.1));
    figures.extend(resident::run(&bench)?);
    Ok(figures)
}

/// The value that so many of a hundred do not exceed.
fn percentile(mut values: Vec<f64>, of_hundred: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() * of_hundred).div_ceil(100).saturating_sub(1);
    values.get(at).copied().unwrap_or(f64::NAN)
}

struct Bench<'a> {
    stage: &'a Stage,
    cartridge: &'a Path,
    film: &'a Path,
    line: Line,
    /// Knows no session: it answers 404 to all, at once.
    pms: Server,
    count: Cell<u32>,
}

/// A cartridge that was started.
struct Start {
    child: Child,
    began: Instant,
    logs: PathBuf,
}

impl Bench<'_> {
    /// Starts a job of its own in a session directory below `dir`.
    fn start(&self, what: &str, dir: &Path) -> Result<Start, String> {
        let n = self.count.replace(self.count.get() + 1);
        let logs = self.stage.env.dir(&format!("{what}-{n}"));
        let session = format!("bench{n}");
        let dir = dir
            .join("Transcode/Sessions")
            .join(format!("plex-transcode-{session}-job{n}"));
        fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        let place = Place {
            media: self.film.to_owned(),
            port: self.pms.port(),
            session,
            job: format!("job{n}"),
            dir: dir.clone(),
        };
        let mut command = env::clean(Command::new(self.cartridge));
        command
            .arg0("/usr/lib/plexmediaserver/Plex Transcoder")
            .args(self.line.placed(&place)?)
            .current_dir(&dir)
            .env("X_PLEX_TOKEN", "token")
            .envs(self.stage.settings(&logs))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let child = command.spawn().map_err(|e| e.to_string())?;
        Ok(Start { child, began, logs })
    }

    /// Kills a cartridge and waits until the worker is idle again.
    fn forget(&self, child: &mut Child) {
        let _ = child.kill();
        let _ = child.wait();
        let worker = &self.stage.worker;
        for session in worker.sessions() {
            let url = format!("{}{}", worker.url, route::session(&session.session));
            let _ = env::http_client()
                .delete(url)
                .header(route::API_KEY_HEADER, self.stage.env.key())
                .send();
        }
        wait::until("the worker is idle", Duration::from_secs(30), || {
            let sessions = worker.sessions();
            sessions.iter().all(|s| s.state.is_end()).then_some(())
        });
    }

    /// From the start of the cartridge's process until its log says that a worker has the job. The
    /// log is looked at each 0.2 ms, so the figure is not too small.
    fn accept(&self) -> Result<f64, String> {
        let mut start = self.start("accept", &self.stage.mount.point)?;
        let mut seen = None;
        while seen.is_none() && start.began.elapsed() < Duration::from_secs(10) {
            if session_log(&start.logs).contains(" accepted by ") {
                seen = Some(start.began.elapsed());
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        self.forget(&mut start.child);
        seen.map(|t| t.as_secs_f64() * MS)
            .ok_or_else(|| format!("no worker took the job: {}", session_log(&start.logs)))
    }
}
