//! The transcoder's process, started as PMS does it (PROTOCOL 1).

use super::{Play, Rule, SetupError, TOKEN, job::Job, setup};
use crate::{argv::Line, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

/// A running transcoder.
pub(super) struct Child {
    pid: Pid,
    waiter: Option<thread::JoinHandle<Option<ExitStatus>>>,
    job: Arc<Job>,
    output: [Option<thread::JoinHandle<Vec<u8>>>; 2],
    texts: [Vec<u8>; 2],
}

impl Child {
    pub(super) fn spawn(
        program: &Path,
        argv: &[OsString],
        line: &Line,
        play: &Play<'_>,
        dir: &Path,
        job: &Arc<Job>,
    ) -> Result<Child, SetupError> {
        let mut command = Command::new(program);
        command
            // As Plex names it; under its own name it is the administrator's tool.
            .arg0(program.with_file_name("Plex Transcoder"))
            .args(argv)
            .current_dir(dir)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A session of its own, so that nothing of ours reaches it by the terminal.
            .process_group(0);
        for (name, value) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let inherited = ["PATH", "HOME", "TMPDIR", "LANG", "TZ"].contains(&text.as_ref())
                || ["PLEXBEAM_", "FAKE_ORIGINAL_", "RUST_", "LLVM_PROFILE_"]
                    .iter()
                    .any(|p| text.starts_with(p));
            if inherited {
                command.env(name, value);
            }
        }
        for (name, value) in pms_environment(line) {
            command.env(name, value);
        }
        command.envs(play.env.iter().map(|(n, v)| (n, v)));
        let mut child = setup(
            command.spawn(),
            &format!("start {}", play.cartridge.display()),
        )?;
        let pid = Pid::from_child(&child);
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let output = if play.close_pipes {
            job.close_when_announced(Box::new((stdout, stderr)));
            [None, None]
        } else {
            [reader(stdout), reader(stderr)]
        };
        let waiting = Arc::clone(job);
        let waiter = thread::spawn(move || {
            let status = child.wait().ok();
            waiting.process_ended();
            status
        });
        Ok(Child {
            pid,
            waiter: Some(waiter),
            job: Arc::clone(job),
            output,
            texts: [Vec::new(), Vec::new()],
        })
    }

    pub(super) fn running(&self) -> bool {
        !self.job.has_ended()
    }

    /// Sends a signal; SIGTERM is followed by SIGKILL when nothing happens for a while.
    pub(super) fn end(&mut self, signal: Signal) {
        self.job.killed_by_pms();
        if self.running() {
            let _ = kill_process(self.pid, signal);
        }
        if signal == Signal::TERM
            && wait::poll(Duration::from_secs(3), || {
                self.job.has_ended().then_some(())
            })
            .is_none()
        {
            self.job.fault(
                Rule::ExitStatus,
                "still running 3 s after SIGTERM".to_owned(),
            );
            let _ = kill_process(self.pid, Signal::KILL);
        }
        self.join();
    }

    /// Waits for the end of a job whose film was read; kills it when it does not end.
    pub(super) fn wait_end(&mut self, job: &Job, patience: Duration) -> Option<ExitStatus> {
        if wait::poll(patience, || job.has_ended().then_some(())).is_none() {
            job.fault(
                Rule::ExitStatus,
                format!("still running {patience:?} after the last segment"),
            );
            self.end(Signal::KILL);
            return None;
        }
        self.join()
    }

    pub(super) fn join(&mut self) -> Option<ExitStatus> {
        let status = self.waiter.take().and_then(|w| w.join().ok()).flatten();
        for (text, output) in self.texts.iter_mut().zip(&mut self.output) {
            if let Some(bytes) = output.take().and_then(|o| o.join().ok()) {
                *text = bytes;
            }
        }
        status
    }

    pub(super) fn stdout_bytes(&self) -> usize {
        self.texts[0].len()
    }

    pub(super) fn stderr(&self) -> String {
        let text = &self.texts[1];
        let from = text.len().saturating_sub(8_000);
        String::from_utf8_lossy(&text[from..]).into_owned()
    }
}

fn reader<R: io::Read + Send + 'static>(pipe: Option<R>) -> Option<thread::JoinHandle<Vec<u8>>> {
    let mut pipe = pipe?;
    Some(thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    }))
}

/// PROTOCOL 1.3.
fn pms_environment(line: &Line) -> Vec<(String, String)> {
    let support = "/var/lib/plexmediaserver/Library/Application Support";
    let mut env: Vec<(String, String)> = [
        ("LD_LIBRARY_PATH", "/usr/lib/plexmediaserver/lib".to_owned()),
        (
            "LIBVA_DRIVERS_PATH",
            format!("{support}/Plex Media Server/Cache/va-dri-linux-x86_64"),
        ),
        (
            "PLEX_MEDIA_SERVER_APPLICATION_SUPPORT_DIR",
            support.to_owned(),
        ),
        (
            "PLEX_MEDIA_SERVER_HOME",
            "/usr/lib/plexmediaserver".to_owned(),
        ),
        ("PLEX_MEDIA_SERVER_MAX_PLUGIN_PROCS", "6".to_owned()),
        ("PLEX_ARCH", "amd64".to_owned()),
        (
            "FFMPEG_EXTERNAL_LIBS",
            format!(
                "{}/Plex\\ Media\\ Server/Codecs/a336ba9-linux-x86_64/",
                support.replace(' ', "\\ ")
            ),
        ),
    ]
    .into_iter()
    .map(|(n, v)| (n.to_owned(), v))
    .collect();
    if line.argv.iter().any(|a| a.ends_with("_eae")) {
        let root = "/tmp/pms-54543b80-ca33-4b13-8182-cab6ed1ee33d/EasyAudioEncoder";
        env.push(("EAE_ROOT".to_owned(), root.to_owned()));
    }
    env.extend(line.env.iter().map(|(n, v)| (n.clone(), v.clone())));
    env.push(("X_PLEX_TOKEN".to_owned(), TOKEN.to_owned()));
    env
}
