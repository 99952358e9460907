//! `doctor`: plays a synthetic film through every hop and names what is not in order.
//!
//! `host` looks at this host, `worker` at each worker, `mount` at the transcoder directory; when
//! these allow it, `session` starts this program as Plex would, with a PMS of its own, on a film that
//! `film` writes. A check whose hop is broken before it is skipped, so that the first failure is the
//! one to mend.

mod film;
mod host;
mod mount;
mod pms;
mod session;
mod worker;

use super::cli::print;
use super::error::Error;
use super::places::Root;
use super::table::Table;
use crate::config::Config;
use crate::http::Url;
use serde::Serialize;
use std::path::PathBuf;

/// What to examine.
#[derive(Debug, Clone)]
pub struct Doctor {
    /// Below which directory Plex and the settings are.
    pub root: Root,
    /// Plex's folder; looked for when `None`.
    pub plex_dir: Option<PathBuf>,
    /// Plex's transcoder directory; the mount that is found when `None`.
    pub transcode_dir: Option<PathBuf>,
    /// A film to play instead of the synthetic one.
    pub film: Option<PathBuf>,
    /// The process of Plex Media Server; looked for when `None`.
    pub plex_pid: Option<u32>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// In order.
    Ok,
    /// It works, with a drawback.
    Warn,
    /// It must be mended.
    Fail,
    /// Not examined, because it cannot be without something else.
    Skipped,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name, the same in every version.
    pub name: String,
    /// How it came out.
    pub state: State,
    /// What was found, with the figure.
    pub fact: String,
    /// What to do; `None` when nothing is to be done.
    pub fix: Option<String>,
}

/// All checks, in the order of the hops.
#[derive(Debug, Default)]
pub(super) struct Checks(Vec<Check>);

impl Checks {
    fn add(&mut self, name: &str, state: State, fact: impl Into<String>, fix: Option<String>) {
        self.0.push(Check {
            name: name.to_owned(),
            state,
            fact: fact.into(),
            fix,
        });
    }

    fn ok(&mut self, name: &str, fact: impl Into<String>) {
        self.add(name, State::Ok, fact, None);
    }

    fn warn(&mut self, name: &str, fact: impl Into<String>, fix: impl Into<String>) {
        self.add(name, State::Warn, fact, Some(fix.into()));
    }

    fn fail(&mut self, name: &str, fact: impl Into<String>, fix: impl Into<String>) {
        self.add(name, State::Fail, fact, Some(fix.into()));
    }

    fn skip(&mut self, name: &str, fact: impl Into<String>) {
        self.add(name, State::Skipped, fact, None);
    }

    fn failed(&self) -> bool {
        self.0.iter().any(|check| check.state == State::Fail)
    }

    /// The first failure, else the first warning.
    fn first(&self) -> Option<&Check> {
        let find = |state| self.0.iter().find(|check| check.state == state);
        find(State::Fail).or_else(|| find(State::Warn))
    }
}

impl Doctor {
    /// Examines everything.
    pub fn examine(&self) -> Vec<Check> {
        let mut checks = Checks::default();
        let config = host::settings(self, &mut checks);
        host::plex(self, &mut checks);
        host::logs(self, &mut checks);
        let place = mount::look(self, config.as_ref(), &mut checks);
        let urls = urls(config.as_ref(), place.as_ref());
        let alive = worker::look(&urls, config.as_ref(), &mut checks);
        match (config, place, alive && !checks.failed()) {
            (Some(_), Some(place), true) => session::play(self, &place, &urls, &mut checks),
            _ => {
                for name in session::NAMES {
                    checks.skip(name, "what comes before must be in order first");
                }
            }
        }
        checks.0
    }

    /// Examines and tells. An error says that something must be mended, with how.
    pub fn run(&self, json: bool) -> Result<(), Error> {
        let checks = Checks(self.examine());
        if json {
            print(&[serde_json::to_string_pretty(&checks.0).unwrap_or_default()]);
        } else {
            let mut table = Table::new(&["check", "", "found"]);
            for check in &checks.0 {
                let state = match check.state {
                    State::Ok => "ok",
                    State::Warn => "warning",
                    State::Fail => "FAILED",
                    State::Skipped => "-",
                };
                table.row([check.name.clone(), state.to_owned(), check.fact.clone()]);
            }
            print(&table.lines());
        }
        match checks.first() {
            Some(check) if check.state == State::Fail => Err(Error::Unhealthy {
                what: format!("{}: {}", check.name, check.fact),
                fix: check.fix.clone().unwrap_or_default(),
            }),
            Some(check) if !json => {
                let fix = check.fix.clone().unwrap_or_default();
                print(&[
                    String::new(),
                    format!("worth mending: {}: {fix}", check.name),
                ]);
                Ok(())
            }
            None if !json => {
                print(&[String::new(), "everything is in order".to_owned()]);
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// All workers that the settings and the mounts of this host know.
pub(super) fn known_workers(config: Option<&Config>) -> Vec<Url> {
    let mut all = Vec::new();
    for place in mount::tables() {
        for url in urls(None, Some(&place)) {
            if !all.contains(&url) {
                all.push(url);
            }
        }
    }
    for url in urls(config, None) {
        if !all.contains(&url) {
            all.push(url);
        }
    }
    all
}

/// All workers that are known, those of the mount first.
fn urls(config: Option<&Config>, place: Option<&mount::Place>) -> Vec<Url> {
    let rows = place.map(|place| place.workers.clone()).unwrap_or_default();
    let mut all: Vec<Url> = rows
        .iter()
        .filter_map(|row| Url::parse(&row.url).ok())
        .collect();
    for url in config.map(|c| c.workers.clone()).unwrap_or_default() {
        if all.iter().all(|known| {
            known.to_string().trim_end_matches('/') != url.to_string().trim_end_matches('/')
        }) {
            all.push(url);
        }
    }
    all
}
