//! The program as it is started and stopped. Needs root and `/dev/fuse`; where that is missing the
//! tests say so loudly and do nothing.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

fn can_mount() -> bool {
    let possible = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !possible {
        eprintln!("\n*** SKIPPED: this test needs root and /dev/fuse ***\n");
    }
    possible
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A mountpoint that is taken back at the end, whatever happened.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        fs::write(dir.path().join("mnt/below"), "local").unwrap();
        Place { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plexbeam-mount"));
        // Nothing listens there: the mount must come up all the same.
        command
            .arg(self.path())
            .args(["--worker", "http://127.0.0.1:9"]);
        command.env("PLEXBEAM_CACHE_DIR", self.dir.path().join("cache"));
        command
    }

    fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        table
            .lines()
            .any(|line| line.split(' ').nth(4) == self.path().to_str())
    }

    fn foreground(&self, with: impl FnOnce(&mut Command)) -> Child {
        let mut command = self.command();
        command.arg("--foreground").stderr(Stdio::null());
        with(&mut command);
        let child = command.spawn().unwrap();
        // The kernel remembers names of a dead mount; these figures it asks for.
        eventually("it is mounted", || {
            self.is_mounted() && rustix::fs::statfs(self.path()).is_ok()
        });
        child
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        while self.is_mounted() {
            let flags = rustix::mount::UnmountFlags::DETACH;
            if rustix::mount::unmount(self.path(), flags).is_err() {
                return;
            }
        }
    }
}

fn kill(child: &Child, signal: &str) {
    let status = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()
        .unwrap();
    assert!(status.success());
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn it_returns_when_it_is_mounted_and_ends_with_the_mount() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let output = place.command().output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // No waiting from here on: the kernel has agreed.
    assert!(place.is_mounted());
    assert_eq!(fs::read(place.path().join("below")).unwrap(), b"local");
    assert!(place.path().join("sessions").is_dir());
    fs::write(place.path().join("new"), "x").unwrap();

    let again = place.command().output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again).contains("already mounted"), "{again:?}");

    assert!(
        Command::new("umount")
            .arg(place.path())
            .status()
            .unwrap()
            .success()
    );
    assert!(!place.is_mounted());
    assert_eq!(fs::read(place.path().join("new")).unwrap(), b"x");
}

/// The process that answers the kernel asks for short slices; niceness and policy stay as they were.
#[test]
fn whoever_serves_runs_in_short_slices() {
    if !can_mount() {
        return;
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = kernel
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    let knows = (numbers.next(), numbers.next()) >= (Some(6), Some(12));
    if !knows || shown_by_the_scheduler("self", "se.slice").is_none() {
        eprintln!("\n*** SKIPPED: this kernel grants no slices (6.12), or shows none ***\n");
        return;
    }
    let ours = ["policy", "prio"].map(|key| shown_by_the_scheduler("self", key));
    for alone in [false, true] {
        let place = Place::new();
        let mut child = place.foreground(|command| {
            command.args(alone.then_some("--no-supervise"));
        });
        let threads = serving_threads(&place);
        assert!(!threads.is_empty());
        for thread in threads {
            let theirs = ["policy", "prio"].map(|key| shown_by_the_scheduler(&thread, key));
            assert_eq!(theirs, ours, "{thread}");
            let slice = shown_by_the_scheduler(&thread, "se.slice");
            assert_eq!(slice.as_deref(), Some("100000"), "{thread}");
        }
        kill(&child, "-TERM");
        assert!(child.wait().unwrap().success());
    }
}

/// `PID/task/TID` of the threads that answer the kernel for this mount.
fn serving_threads(place: &Place) -> Vec<String> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        if !String::from_utf8_lossy(&command).contains(place.path().to_str().unwrap()) {
            continue;
        }
        let threads = fs::read_dir(process.path().join("task"));
        for thread in threads.into_iter().flatten().flatten() {
            let name = fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            if name.starts_with("fuser-") {
                let path = thread.path();
                found.push(path.strip_prefix("/proc").unwrap().to_str().unwrap().into());
            }
        }
    }
    found
}

fn shown_by_the_scheduler(of: &str, key: &str) -> Option<String> {
    let shown = fs::read_to_string(format!("/proc/{of}/sched")).ok()?;
    let mut lines = shown.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| name.trim() == key)?;
    Some(value.trim().to_owned())
}

#[test]
fn sigterm_and_sigint_unmount_cleanly() {
    if !can_mount() {
        return;
    }
    for signal in ["-TERM", "-INT"] {
        let place = Place::new();
        let mut child = place.foreground(|_| {});
        // A file that is still open does not keep it.
        let open = fs::File::open(place.path().join("below")).unwrap();
        kill(&child, signal);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{signal}: {:?}", status.signal());
        assert!(!place.is_mounted());
        assert_eq!(fs::read(place.path().join("below")).unwrap(), b"local");
        drop(open);
    }
}

#[test]
fn a_stale_mount_is_cleared_at_start() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let mut child = place.foreground(|command| {
        command.arg("--no-supervise");
    });
    kill(&child, "-KILL");
    child.wait().unwrap();
    let stale = rustix::fs::statfs(place.path()).unwrap_err();
    assert_eq!(stale, rustix::io::Errno::NOTCONN);
    let mut child = place.foreground(|_| {});
    assert_eq!(fs::read(place.path().join("below")).unwrap(), b"local");
    kill(&child, "-TERM");
    assert!(child.wait().unwrap().success());
    // The dead one is gone from beneath, too.
    assert!(!place.is_mounted());
    assert_eq!(fs::read(place.path().join("below")).unwrap(), b"local");
}

#[test]
fn other_users_are_let_in_when_asked() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    let as_user = |script: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .current_dir(place.dir.path())
            .uid(1234)
            .gid(1234);
        command.output().unwrap()
    };
    let mut child = place.foreground(|_| {});
    assert!(!as_user("cat mnt/below").status.success());
    kill(&child, "-TERM");
    assert!(child.wait().unwrap().success());

    let mut child = place.foreground(|command| {
        command.env("PLEXBEAM_ALLOW_OTHER", "true");
    });
    let dir = place.path().join("own");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, Some(1234), Some(1234)).unwrap();
    let output = as_user("umask 022; echo x > mnt/own/file");
    assert!(output.status.success(), "{output:?}");
    let meta = fs::metadata(dir.join("file")).unwrap();
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o777),
        (1234, 1234, 0o644)
    );
    assert!(!as_user("ls mnt/sessions").status.success());
    kill(&child, "-TERM");
    assert!(child.wait().unwrap().success());
}

#[test]
fn wrong_use_is_told_with_its_remedy() {
    let place = Place::new();
    let refused = |arguments: &[&str], code: i32, words: &str| {
        let output = place.command().args(arguments).output().unwrap();
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        assert!(text(&output).contains(words), "{arguments:?}: {output:?}");
        assert!(!place.is_mounted());
    };
    refused(
        &["--worker", "https://gpu:1"],
        2,
        "https to a worker is not there yet",
    );
    refused(&["--worker", "gpu"], 2, "http://HOST:PORT");
    refused(&["--cache-size", "many"], 2, "2GiB");
    refused(&["--read-deadline", "0s"], 2, "20s");
    refused(&["--export-media", "0.0.0.0:0"], 1, "set --api-key");
    let inside = place.path().join("cache");
    refused(
        &["--cache-dir", inside.to_str().unwrap()],
        1,
        "inside the mountpoint",
    );
    refused(&["--backing", "/nonexistent/x"], 1, "backing folder");
    let output = Command::new(env!("CARGO_BIN_EXE_plexbeam-mount"))
        .arg("/nonexistent")
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("make the directory first"),
        "{output:?}"
    );
    // The key is never shown.
    let help = Command::new(env!("CARGO_BIN_EXE_plexbeam-mount"))
        .arg("--help")
        .env("PLEXBEAM_API_KEY", "hunter2")
        .output()
        .unwrap();
    assert!(!String::from_utf8_lossy(&help.stdout).contains("hunter2"));
}

/// A user with a name, which `fusermount3` asks for.
const NOBODY: u32 = 65534;

/// Where `mount(2)` and passthrough are refused, `fusermount3` and reading by hand do.
#[test]
fn it_works_without_privilege() {
    if !can_mount() {
        return;
    }
    let place = Place::new();
    for path in [place.dir.path(), &place.path(), &place.path().join("below")] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    if !Path::new("/usr/bin/fusermount3").exists() {
        eprintln!("\n*** SKIPPED: there is no fusermount3 ***\n");
        return;
    }
    // A device that all may open, as udev makes it, in a mount table of its own.
    let script = "set -e; cd \"$1\"; mknod fuse c 10 229; chmod 666 fuse\n\
        mount --bind fuse /dev/fuse\n\
        exec setpriv --reuid=nobody --regid=nogroup --clear-groups sh -ec \"$2\" sh \"$3\"";
    let user = "! \"$1\" mnt --cache-dir cache --cache-in-memory 2> said\n\
        grep -q 'needs root' said\n\
        \"$1\" mnt --cache-dir cache\n\
        test \"$(cat mnt/below)\" = local\n\
        head -c 100000 /dev/zero > mnt/new; echo >> mnt/new\n\
        test \"$(stat -c '%s %u' mnt/new)\" = '100001 65534'\n\
        mv mnt/new mnt/moved; cmp -n 100000 mnt/moved /dev/zero\n\
        test -z \"$(ls mnt/sessions)\"\n\
        fusermount3 -u mnt\n";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(place.dir.path())
        .arg(user)
        .arg(env!("CARGO_BIN_EXE_plexbeam-mount"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(place.path().join("moved")).unwrap().len(), 100_001);
}
