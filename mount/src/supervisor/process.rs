//! A serving process as the supervisor has it.

use super::Event;
use crate::control::{self, Start, ToInstance, Writer};
use plexbeam_fusefs::ARENAS;
use rustix::{
    fd::OwnedFd,
    process::{Pid, Signal},
};
use std::{
    ffi::OsString,
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc::Sender,
    time::{Duration, Instant},
};

/// How long a dead instance's last words may take.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How the program is started.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) arguments: Vec<OsString>,
    /// Where relative paths among the arguments begin.
    pub(super) directory: PathBuf,
}

/// One that was started.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) number: u64,
    pub(super) process: u32,
    pub(super) writer: Writer,
    pub(super) since: Instant,
    /// Of the ceiling, after it handed over.
    pub(super) bytes: u64,
}

impl Instance {
    /// Starts the program. What it says and its end come by `tell`, its last words first.
    pub(super) fn start(
        program: &Program,
        number: u64,
        shared: &[&OwnedFd],
        start: Start,
        tell: &Sender<Event>,
    ) -> io::Result<Self> {
        let since = Instant::now();
        let (ours, theirs) = UnixStream::pair()?;
        let mut child = Command::new(&program.path)
            .args(&program.arguments)
            .arg("--instance")
            .current_dir(&program.directory)
            .env(ARENAS.0, ARENAS.1)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        let process = child.id();
        let ended = tell.clone();
        let (read_all, all_read) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let status = child.wait().ok();
            // Its last words come first.
            let _ = all_read.recv_timeout(LAST_WORDS);
            // The receiver ends with the process.
            let _ = ended.send(Event::Ended(number, status));
        });
        control::send_descriptors(&ours, shared)?;
        let writer = Writer::new(ours.try_clone()?);
        let said_to = tell.clone();
        control::read_lines(ours, move |said| {
            // Both receivers may be gone by then.
            let _ = match said {
                Some(said) => said_to.send(Event::Said(number, said)).is_ok(),
                None => read_all.send(()).is_ok(),
            };
        });
        // One that died at once is told by its end.
        let _ = writer.send(&ToInstance::Start(start));
        Ok(Instance {
            number,
            process,
            writer,
            since,
            bytes: 0,
        })
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        if let Some(process) = Pid::from_raw(self.process as i32) {
            // It may have ended by itself.
            let _ = rustix::process::kill_process(process, Signal::KILL);
        }
    }
}
