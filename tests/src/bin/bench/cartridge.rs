//! What the program that Plex starts takes of time and memory.

use crate::{
    Context,
    figure::{Figure, least, median, most},
    stage::{Stage, film, session_log},
};
use plexbeam_api::route;
use plexbeam_tests::{
    argv::{self, Line, Place},
    env, wait,
};
use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// From the cartridge's start until a worker has the job, milliseconds.
const ACCEPT_GOAL: f64 = 30.0;
/// Starts of the cartridge that are timed, after two that are not.
const STARTS: usize = 20;

/// Time from its start until a worker has the job.
pub(crate) fn run(with: &Context) -> Result<Vec<Figure>, String> {
    let film = film(with)?;
    let stage = Stage::new("bench-cartridge");
    let bench = Bench {
        stage: &stage,
        cartridge: &with.cartridge,
        film: &film,
        line: argv::line("sp-01").scaled(1280, 720),
    };
    let mut accepts = Vec::new();
    for n in 0..STARTS + 2 {
        let ms = bench.accept(n)?;
        if n >= 2 {
            accepts.push(ms);
        }
    }
    let accept = median(accepts.clone());
    println!(
        "start to job accepted     {accept:.1} ms ({:.1} .. {:.1})",
        least(&accepts),
        most(&accepts),
    );
    Ok(vec![
        Figure::less("accept_ms", accept, "ms").goal(ACCEPT_GOAL),
    ])
}

struct Bench<'a> {
    stage: &'a Stage,
    cartridge: &'a Path,
    film: &'a Path,
    line: Line,
}

impl Bench<'_> {
    /// From the start of the cartridge's process until its log says that a worker has the job. The
    /// log is looked at each 0.2 ms, so the figure is not too small.
    fn accept(&self, n: usize) -> Result<f64, String> {
        let logs = self.stage.env.dir(&format!("accept-{n}"));
        let session = format!("bench{n}");
        let dir = self
            .stage
            .mount
            .point
            .join("Transcode/Sessions")
            .join(format!("plex-transcode-{session}-job{n}"));
        fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
        // Connects and is never answered; the cartridge is killed before that matters.
        let silent = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let place = Place {
            media: self.film.to_owned(),
            port: silent.local_addr().map_err(|e| e.to_string())?.port(),
            session,
            job: format!("job{n}"),
            dir: dir.clone(),
        };
        let mut command = env::clean(Command::new(self.cartridge));
        command
            .args(self.line.placed(&place)?)
            .current_dir(&dir)
            .env("X_PLEX_TOKEN", "token")
            .envs(self.stage.settings(&logs))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let started = Instant::now();
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        let mut seen = None;
        while seen.is_none() && started.elapsed() < Duration::from_secs(10) {
            if session_log(&logs).contains(" accepted by ") {
                seen = Some(started.elapsed());
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        let _ = child.kill();
        let _ = child.wait();
        for session in self.stage.worker.sessions() {
            let url = format!(
                "{}{}",
                self.stage.worker.url,
                route::session(&session.session)
            );
            let _ = env::http_client()
                .delete(url)
                .header(route::API_KEY_HEADER, self.stage.env.key())
                .send();
        }
        wait::until("the worker is idle", Duration::from_secs(30), || {
            self.stage
                .worker
                .sessions()
                .iter()
                .all(|s| s.state.is_end())
                .then_some(())
        });
        let _ = fs::remove_dir_all(&dir);
        seen.map(|t| t.as_secs_f64() * 1e3)
            .ok_or_else(|| format!("no worker took the job: {}", session_log(&logs)))
    }
}
