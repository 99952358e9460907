//! A file system whose daemon can hang: one directory, and extended attributes on it. It speaks just
//! enough of the kernel's protocol (`linux/fuse.h`, version 7.31) and is served by a thread of this
//! process. Closing its one descriptor makes the kernel end every request that still waits; that is
//! done when it is dropped, and after [`LONGEST`] in any case. Nothing else of this process may touch
//! it: a thread that waited in it would keep the descriptor open, even when the process is killed. So
//! it lies in a folder of its own, not in one that a test removes.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The one directory.
const NAME: &str = "plex-transcode-sess-job-1";

/// How long it exists at most, whatever becomes of its owner.
const LONGEST: Duration = Duration::from_secs(50);

/// How the daemon hangs, once it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Hang {
    /// As one that was stopped: it reads no request any more.
    Frozen,
    /// As one in a deadlock: it reads requests and answers none.
    Deadlocked,
}

#[derive(Default)]
struct State {
    attributes: HashMap<String, Vec<u8>>,
    hang: Option<Hang>,
    /// It freezes when it has answered for this attribute.
    last: Option<&'static str>,
    unanswered: usize,
}

pub(crate) struct Fuse {
    /// Removed last, when it is an ordinary folder again.
    point: TempDir,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
    daemon: Option<JoinHandle<()>>,
}

impl Fuse {
    /// `None` where the test may not mount.
    pub(crate) fn mount() -> Option<Fuse> {
        let point = tempfile::tempdir().unwrap();
        let device = rustix::fs::open(
            "/dev/fuse",
            OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        );
        let device = device
            .inspect_err(|e| eprintln!("NOT TESTED: /dev/fuse: {e}"))
            .ok()?;
        let options = format!(
            "fd={},rootmode=40000,user_id={},group_id={}",
            device.as_raw_fd(),
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw()
        );
        let options = CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        if let Err(error) = rustix::mount::mount("fake", point.path(), "fuse", flags, &*options) {
            eprintln!("NOT TESTED: mount: {error}");
            return None;
        }
        let state = Arc::<Mutex<State>>::default();
        let ended = Arc::<AtomicBool>::default();
        let (its_state, its_end) = (state.clone(), ended.clone());
        let daemon = std::thread::spawn(move || {
            serve(&device, &its_state, &its_end);
            drop(device);
        });
        let fuse = Fuse {
            point,
            state,
            ended,
            daemon: Some(daemon),
        };
        // The kernel remembers what a process has asked that has it as its working directory.
        let entered = std::process::Command::new("true")
            .current_dir(fuse.dir())
            .status();
        assert!(entered.unwrap().success());
        Some(fuse)
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> PathBuf {
        self.point.path().join(NAME)
    }

    pub(crate) fn set(&self, name: &str, value: &impl serde::Serialize) {
        let value = serde_json::to_vec(value).unwrap();
        let mut state = self.state.lock().unwrap();
        state.attributes.insert(name.to_owned(), value);
    }

    pub(crate) fn hang(&self, how: Hang) {
        self.state.lock().unwrap().hang = Some(how);
    }

    /// Freezes when the answer for this attribute is given.
    pub(crate) fn freeze_after(&self, name: &'static str) {
        self.state.lock().unwrap().last = Some(name);
    }

    /// Requests that a daemon in a deadlock has taken.
    pub(crate) fn unanswered(&self) -> usize {
        self.state.lock().unwrap().unanswered
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // The name first: it is not waited for who still uses it.
        let _ = rustix::mount::unmount(self.point.path(), UnmountFlags::DETACH);
        self.ended.store(true, Ordering::SeqCst);
        // It looks every few milliseconds; with it goes the descriptor, which is its own.
        let _ = self.daemon.take().map(JoinHandle::join);
    }
}

fn serve(device: &OwnedFd, state: &Mutex<State>, ended: &AtomicBool) {
    let mut buffer = vec![0; 1 << 20];
    let pause = Timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    let begun = Instant::now();
    while !ended.load(Ordering::SeqCst) && begun.elapsed() < LONGEST {
        let frozen = state.lock().unwrap().hang == Some(Hang::Frozen);
        let events = match frozen {
            true => PollFlags::empty(),
            false => PollFlags::IN,
        };
        // An error shows by the next read.
        let _ = poll(&mut [PollFd::new(device, events)], Some(&pause));
        if frozen {
            continue;
        }
        match rustix::io::read(device, buffer.as_mut_slice()) {
            Ok(len) => answer(device, &buffer[..len], &mut state.lock().unwrap()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;
const ENODATA: i32 = 61;

fn answer(device: &OwnedFd, request: &[u8], state: &mut State) {
    let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
    let (opcode, node) = (word(4), word(16));
    // Behind the header of 40 bytes.
    let body = &request[40..];
    let text = |from: usize| {
        let bytes = body[from..].split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    };
    const INIT: u32 = 26;
    if state.hang == Some(Hang::Deadlocked) && opcode != INIT {
        state.unanswered += 1;
        return;
    }
    let reply = match opcode {
        // LOOKUP
        1 if text(0) == NAME => {
            let mut entry = Vec::new();
            // Node, generation, and an hour for which name and attributes are good.
            entry.extend([2_u64, 0, 3600, 3600].map(|n| n.to_ne_bytes()).concat());
            entry.extend([0; 8]);
            entry.extend(attributes(2));
            Ok(entry)
        }
        1 => Err(ENOENT),
        // FORGET, INTERRUPT, BATCH_FORGET have no answer.
        2 | 36 | 42 => return,
        // GETATTR
        3 => {
            let mut out = 3600_u64.to_ne_bytes().to_vec();
            out.extend([0; 8]);
            out.extend(attributes(node));
            Ok(out)
        }
        // SETXATTR: size, flags, name, value.
        21 => {
            let name = text(8);
            let from = 8 + name.len() + 1;
            let value = body[from..from + word(40) as usize].to_vec();
            state.attributes.insert(name, value);
            Ok(Vec::new())
        }
        // GETXATTR: size, padding, name.
        22 => {
            let name = text(8);
            let value = state.attributes.get(&name).cloned().ok_or(ENODATA);
            if state.last.is_some_and(|last| last == name) {
                state.hang = Some(Hang::Frozen);
            }
            value.map(|value| match word(40) {
                0 => [(value.len() as u32).to_ne_bytes(), [0; 4]].concat(),
                _ => value,
            })
        }
        INIT => {
            let mut out = Vec::new();
            // Version, read-ahead, flags; then requests in the background, the longest write.
            out.extend([7_u32, 31, 65_536, 0].map(|n| n.to_ne_bytes()).concat());
            out.extend([16_u16, 12].map(|n| n.to_ne_bytes()).concat());
            out.extend([65_536_u32, 1].map(|n| n.to_ne_bytes()).concat());
            out.resize(64, 0);
            Ok(out)
        }
        _ => Err(ENOSYS),
    };
    let (error, data) = match reply {
        Ok(data) => (0, data),
        Err(errno) => (-errno, Vec::new()),
    };
    let mut out = (16 + data.len() as u32).to_ne_bytes().to_vec();
    out.extend(i32::to_ne_bytes(error));
    out.extend(&request[8..16]);
    out.extend(data);
    // Who asked may be gone.
    let _ = rustix::io::write(device, &out);
}

/// `struct fuse_attr` of a directory.
fn attributes(node: u32) -> Vec<u8> {
    let mut out = Vec::new();
    // Number, size, blocks, three times; then their nanoseconds.
    out.extend(
        [u64::from(node), 0, 0, 0, 0, 0]
            .map(|n| n.to_ne_bytes())
            .concat(),
    );
    out.extend([0; 12]);
    let owner = rustix::process::getuid().as_raw();
    // Mode, links, owner, group, device, block size, flags.
    out.extend(
        [0o040_755, 2, owner, 0, 0, 4096, 0]
            .map(|n: u32| n.to_ne_bytes())
            .concat(),
    );
    out
}
