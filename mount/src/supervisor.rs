//! Keeps one instance serving: a dead one is replaced at once, a frozen one is aborted first, and an
//! upgrade replaces a living one without a gap.
//!
//! One started process is `supervisor/process.rs`, how soon a dead one is replaced
//! `supervisor/deaths.rs`, the watch `supervisor/watch.rs`.
//!
//! The supervisor holds what all instances share: the directory under the mountpoint, the socket of
//! the media route, and the secret that signs media URLs. It never touches a file in the mount but
//! for the watch, which is a thread of its own, since a frozen mount keeps whoever asks it.

mod deaths;
mod process;
mod watch;

use self::{
    deaths::Deaths,
    process::{Instance, Program},
    watch::Watch,
};
use crate::{
    admin::Request,
    cli::CliArgs,
    control::{FromInstance, Go, Start, ToInstance, Writer},
    notify,
    run::{LOOK_EVERY, RunError, memory_folder},
};
use plexbeam_fusefs::{MediaConfig, Secret, SetupError, cache::MemoryFolder, mounts};
use rustix::{
    fd::OwnedFd,
    fs::{Mode, OFlags},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::VecDeque,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::mpsc::{Receiver, Sender},
    time::{Duration, Instant},
};

/// How long an instance may take to begin to serve.
const START: Duration = Duration::from_secs(30);
/// How long an instance may take to hand over.
const HAND_OVER: Duration = Duration::from_secs(5);
/// How long instances may take to end in order.
const LAST: Duration = Duration::from_secs(10);
/// What happens to the supervisor.
pub(crate) enum Event {
    /// End in order.
    End,
    /// Replace the instance, which reads its settings anew.
    Renew,
    /// A command of the administrator; the answer is one line.
    Asked(Request, UnixStream),
    /// An instance said something.
    Said(u64, FromInstance),
    /// An instance ended.
    Ended(u64, Option<ExitStatus>),
}

/// What the supervisor says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Watched {
    /// Process of the supervisor.
    pub(crate) supervisor: u32,
    /// Process that serves.
    pub(crate) instance: Option<u32>,
    /// Instances that died or froze and were replaced.
    pub(crate) replaced: u32,
    /// Upgrades that came to their end.
    pub(crate) upgrades: u32,
    /// Earlier instances that serve files which were opened before an upgrade.
    pub(crate) earlier: Vec<u32>,
}

/// One mountpoint's supervisor.
pub(crate) struct Supervisor {
    mountpoint: PathBuf,
    cache_dir: PathBuf,
    /// Where the cache is in memory; ends with this.
    _memory: Option<MemoryFolder>,
    program: Program,
    under: OwnedFd,
    media: Option<OwnedFd>,
    media_secret: Secret,
    tell: Sender<Event>,
    events: Receiver<Event>,
    /// Came while something else was waited for.
    later: VecDeque<Event>,
    current: Option<Instance>,
    earlier: Vec<Instance>,
    numbers: u64,
    replaced: u32,
    upgrades: u32,
    deaths: Deaths,
    watch: Watch,
}

impl Supervisor {
    /// Clears the mountpoint and takes what all instances share.
    pub(crate) fn new(
        args: &CliArgs,
        cache_dir: PathBuf,
        tell: Sender<Event>,
        events: Receiver<Event>,
    ) -> Result<Self, RunError> {
        let config = args.fs_config();
        let mountpoint = mounts::clear(&config.mountpoint)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let under = rustix::fs::open(&mountpoint, flags, Mode::empty()).map_err(|errno| {
            SetupError::Mountpoint {
                path: mountpoint.clone(),
                source: errno.into(),
            }
        })?;
        let media = match &config.media {
            Some(MediaConfig { address, .. }) => {
                let has_key = config.remote.api_key.is_some();
                Some(plexbeam_fusefs::media::listen(*address, has_key)?.into())
            }
            None => None,
        };
        let _memory = memory_folder(args, &cache_dir, &mountpoint)?;
        Ok(Supervisor {
            mountpoint,
            cache_dir,
            _memory,
            program: Program {
                // Where a newer version will lie, and not the file that runs now.
                path: std::env::current_exe()?,
                arguments: args.arguments.clone(),
                directory: std::env::current_dir()?,
            },
            under,
            media,
            media_secret: plexbeam_fusefs::media::new_secret(),
            tell,
            events,
            later: VecDeque::new(),
            current: None,
            earlier: Vec::new(),
            numbers: 0,
            replaced: 0,
            upgrades: 0,
            deaths: Deaths::default(),
            watch: Watch::new(args.hang_timeout()),
        })
    }

    /// The mountpoint without links.
    pub(crate) fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Mounts for the first time.
    pub(crate) fn begin(&mut self) -> Result<(), RunError> {
        self.current = Some(self.start_mounted()?);
        self.watch.begin(&self.mountpoint);
        Ok(())
    }

    /// Serves until the mount is taken back.
    pub(crate) fn run(&mut self) {
        loop {
            match self.next(Instant::now() + LOOK_EVERY) {
                None => self.look(),
                Some(Event::End) => break,
                Some(Event::Renew) => {
                    if let Err(error) = self.upgrade() {
                        tracing::error!(%error, "the settings stay as they are");
                    }
                }
                Some(Event::Asked(request, answer)) => {
                    if self.answer(request, &answer) {
                        break;
                    }
                }
                Some(Event::Said(number, said)) => self.heard(number, said),
                Some(Event::Ended(number, status)) => {
                    if self.ended(number, status) {
                        break;
                    }
                }
            }
        }
        self.finish();
    }

    fn next(&mut self, until: Instant) -> Option<Event> {
        if let Some(event) = self.later.pop_front() {
            return Some(event);
        }
        self.receive(until)
    }

    fn receive(&self, until: Instant) -> Option<Event> {
        let wait = until.saturating_duration_since(Instant::now());
        // This end holds a sender itself, so that the only error is the time.
        self.events.recv_timeout(wait).ok()
    }

    /// What this instance says next; everything else waits.
    fn hear(&mut self, number: u64, at_most: Duration) -> Result<FromInstance, RunError> {
        let until = Instant::now() + at_most;
        let dead = |event: &Event| matches!(event, Event::Ended(from, _) if *from == number);
        if self.later.iter().any(dead) {
            return Err(RunError::Died("the process ended".into()));
        }
        loop {
            // A new instance may freeze as well as one that has served for long.
            if self.watch.is_late() {
                return Err(RunError::Died("the mount does not answer".into()));
            }
            let slice = until.min(Instant::now() + LOOK_EVERY);
            match self.receive(slice) {
                Some(Event::Said(from, said)) if from == number => match said {
                    FromInstance::Change(_) => self.later.push_back(Event::Said(from, said)),
                    FromInstance::Failed(text) => return Err(RunError::Background(text)),
                    FromInstance::Prepared
                    | FromInstance::HandedOver(_)
                    | FromInstance::Mounted => return Ok(said),
                },
                Some(Event::Ended(from, status)) if from == number => {
                    self.later.push_back(Event::Ended(from, status));
                    let status = status.map_or_else(String::new, |status| status.to_string());
                    return Err(RunError::Died(format!("the process ended: {status}")));
                }
                Some(other) => self.later.push_back(other),
                None if Instant::now() < until => {}
                None => {
                    return Err(RunError::Died(format!(
                        "the process said nothing for {at_most:?}"
                    )));
                }
            }
        }
    }

    fn spawn(&mut self, go: Option<Go>) -> Result<Instance, RunError> {
        self.numbers += 1;
        let mut shared = vec![&self.under];
        shared.extend(&self.media);
        let start = Start {
            mountpoint: self.mountpoint.clone(),
            cache_dir: self.cache_dir.clone(),
            media_secret: self.media_secret.clone(),
            go,
        };
        let (number, tell) = (self.numbers, &self.tell);
        Ok(Instance::start(
            &self.program,
            number,
            &shared,
            start,
            tell,
        )?)
    }

    fn living(&self) -> Vec<(u64, u64)> {
        let earlier = self.earlier.iter();
        earlier
            .map(|earlier| (earlier.number, earlier.bytes))
            .collect()
    }

    fn start_mounted(&mut self) -> Result<Instance, RunError> {
        let go = Go {
            earlier: self.living(),
            handing: None,
        };
        let instance = self.spawn(Some(go))?;
        match self.hear(instance.number, START) {
            Ok(_) => Ok(instance),
            Err(error) => {
                if self.watch.is_late() {
                    self.end_hung(&instance);
                }
                instance.kill();
                Err(error)
            }
        }
    }

    /// True when the mount is over.
    fn ended(&mut self, number: u64, status: Option<ExitStatus>) -> bool {
        if let Some(at) = self.earlier.iter().position(|old| old.number == number) {
            self.earlier.remove(at);
            if let Some(current) = &self.current {
                let _ = current.writer.send(&ToInstance::EarlierEnded(number));
            }
            return false;
        }
        let is_current = |current: &Instance| current.number == number;
        if !self.current.as_ref().is_some_and(is_current) {
            return false;
        }
        let lived = self.current.take().map(|current| current.since.elapsed());
        if status.is_some_and(|status| status.success()) {
            return true;
        }
        let status = status.map_or_else(String::new, |status| status.to_string());
        self.replaced += 1;
        let lived = lived.unwrap_or_default();
        let pause = self.deaths.served(Instant::now(), lived);
        tracing::error!(
            status,
            ?lived,
            ?pause,
            "the mount's process died, starting another"
        );
        if !pause.is_zero() {
            self.clear();
        }
        if self.rest(pause) {
            return true;
        }
        let mut failures = 0;
        loop {
            let error = match self.start_mounted() {
                Ok(instance) => {
                    self.current = Some(instance);
                    return false;
                }
                Err(error) => error,
            };
            tracing::error!(%error, "cannot mount again, trying on");
            failures += 1;
            let pause = deaths::before_serving(failures, matches!(error, RunError::Died(_)));
            if !pause.is_zero() {
                self.clear();
            }
            if self.rest(pause) {
                return true;
            }
        }
    }

    /// Takes a dead mount away: the plain folder is of more use.
    fn clear(&self) {
        while !mounts::ours_at(&self.mountpoint).is_empty()
            && mounts::detach(&self.mountpoint).is_ok()
        {}
    }

    /// Waits, for [`Event::End`] at most: true when that came.
    fn rest(&mut self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            match self.receive(until) {
                Some(Event::End) => return true,
                Some(other) => self.later.push_back(other),
                None => {}
            }
        }
        false
    }

    fn heard(&self, number: u64, said: FromInstance) {
        let by_earlier = self.earlier.iter().any(|old| old.number == number);
        match (said, &self.current) {
            (FromInstance::Change(change), Some(current)) if by_earlier => {
                let _ = current.writer.send(&ToInstance::Change(change));
            }
            (FromInstance::Failed(error), _) => tracing::error!(%error, "an instance fails"),
            (
                FromInstance::Change(_)
                | FromInstance::Prepared
                | FromInstance::HandedOver(_)
                | FromInstance::Mounted,
                _,
            ) => {}
        }
    }

    /// Ends an instance that does not answer; its end starts another.
    fn look(&self) {
        let Some(current) = self.current.as_ref().filter(|_| self.watch.is_late()) else {
            return;
        };
        tracing::error!(
            process = current.process,
            "the mount does not answer, ending it"
        );
        self.end_hung(current);
    }

    /// Frees whoever waits for the mount, and ends its process.
    fn end_hung(&self, instance: &Instance) {
        // Frees readers also where the process cannot be ended.
        for (_, minor) in mounts::ours_at(&self.mountpoint) {
            // Missing where fusectl is not mounted; then the process's end does it.
            let _ = std::fs::write(format!("/sys/fs/fuse/connections/{minor}/abort"), "1");
        }
        instance.kill();
        self.watch.forget();
    }

    /// Replaces the living instance by a new one.
    fn upgrade(&mut self) -> Result<(), RunError> {
        let new = self.spawn(None)?;
        let outcome = self.change_hands(&new);
        match outcome {
            Ok(bytes) => {
                if let Some(mut old) = self.current.replace(new) {
                    old.bytes = bytes;
                    let _ = old.writer.send(&ToInstance::HandedOver);
                    self.earlier.push(old);
                }
                self.upgrades += 1;
                tracing::info!("a new instance serves");
                Ok(())
            }
            Err(error) => {
                new.kill();
                if let Some(current) = &self.current {
                    let _ = current.writer.send(&ToInstance::TakeBack);
                }
                Err(error)
            }
        }
    }

    /// Gives the bytes that the present instance goes on using.
    fn change_hands(&mut self, new: &Instance) -> Result<u64, RunError> {
        self.hear(new.number, START)?;
        let Some(current) = &self.current else {
            return Err(RunError::Background("nothing is mounted".into()));
        };
        let old = current.number;
        current.writer.send(&ToInstance::HandOver)?;
        let FromInstance::HandedOver(bytes) = self.hear(old, HAND_OVER)? else {
            return Err(RunError::Background("it did not hand over".into()));
        };
        let mut earlier = self.living();
        earlier.push((old, bytes));
        let handing = Some(old);
        new.writer.send(&ToInstance::Go(Go { earlier, handing }))?;
        self.hear(new.number, START)?;
        Ok(bytes)
    }

    /// True when the mount is to end.
    fn answer(&mut self, request: Request, answer: &UnixStream) -> bool {
        let answer = Writer::new(match answer.try_clone() {
            Ok(answer) => answer,
            Err(_) => return false,
        });
        // Who asked may be gone.
        let _ = match request {
            Request::Upgrade => {
                let outcome = self.upgrade().map_err(|error| error.to_string());
                answer.send(&outcome)
            }
            Request::Status => answer.send(&Ok::<_, String>(Watched {
                supervisor: std::process::id(),
                instance: self.current.as_ref().map(|current| current.process),
                replaced: self.replaced,
                upgrades: self.upgrades,
                earlier: self.earlier.iter().map(|old| old.process).collect(),
            })),
            Request::End => {
                notify::stopping();
                self.end_instances();
                let _ = answer.send(&Ok::<(), String>(()));
                return true;
            }
        };
        false
    }

    fn end_instances(&mut self) {
        let mut left: Vec<Instance> = self.earlier.drain(..).chain(self.current.take()).collect();
        for instance in &left {
            let _ = instance.writer.send(&ToInstance::End);
        }
        let until = Instant::now() + LAST;
        while !left.is_empty() {
            match self.receive(until) {
                Some(Event::Ended(number, _)) => left.retain(|instance| instance.number != number),
                Some(_) => {}
                None => break,
            }
        }
        for instance in &left {
            instance.kill();
        }
    }

    fn finish(&mut self) {
        notify::stopping();
        self.end_instances();
        // A process that was killed leaves its mount behind.
        self.clear();
        tracing::info!("ended");
    }
}
