//! Other remote file systems over the same files: `rclone mount` and `sshfs`.

use plexbeam_tests::env::{Process, free_port, mount_of};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Longest start of a peer.
const START: Duration = Duration::from_secs(20);

/// A mounted peer. Ends when dropped.
pub(crate) struct Peer {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Where the folder of all sessions is seen.
    pub(crate) point: PathBuf,
    _processes: Vec<Process>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH);
    }
}

fn installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        println!("*** SKIPPED: {program} is not installed ***");
    }
    found
}

fn mounted(name: &'static str, point: PathBuf, processes: Vec<Process>) -> Option<Peer> {
    let peer = Peer {
        name,
        point,
        _processes: processes,
    };
    let there = plexbeam_tests::wait::poll(START, || mount_of(&peer.point));
    if there.is_none() {
        println!("*** SKIPPED: {name} does not mount ***");
        return None;
    }
    Some(peer)
}

/// `rclone mount` of the origin's listing with these options.
pub(crate) fn rclone(
    root: &Path,
    origin: &str,
    name: &'static str,
    options: &[&str],
) -> Option<Peer> {
    if !installed("rclone") {
        return None;
    }
    let point = root.join(name);
    fs::create_dir_all(&point).ok()?;
    let mut command = Command::new("rclone");
    command
        .args(["mount", ":http:"])
        .arg(&point)
        .args(["--http-url", &format!("{origin}/plain/"), "--read-only"])
        .args(["--config", "/dev/null", "--log-level", "ERROR"])
        .arg("--cache-dir")
        .arg(root.join(format!("{name}-cache")))
        .args(options);
    let process = Process::start(name, root, command);
    mounted(name, point, vec![process])
}

/// `sshfs` over a server of our own on loopback, which encrypts.
pub(crate) fn sshfs(root: &Path, files: &Path) -> Option<Peer> {
    if !installed("sshfs") || !Path::new("/usr/sbin/sshd").exists() {
        return None;
    }
    let key = root.join("ssh-key");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(&key)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("*** SKIPPED: sshfs, for want of a key ***");
        return None;
    }
    let port = free_port();
    // sshd wants it.
    let _ = fs::create_dir_all("/run/sshd");
    let mut server = Command::new("/usr/sbin/sshd");
    server
        .args(["-D", "-e", "-f", "/dev/null", "-p", &port.to_string(), "-h"])
        .arg(&key)
        .args(["-o", "ListenAddress=127.0.0.1", "-o", "StrictModes=no"])
        .args(["-o", "PidFile=none", "-o", "UsePAM=no"])
        .args(["-o", "PermitRootLogin=prohibit-password"])
        .args(["-o", "Subsystem=sftp internal-sftp"])
        .arg("-o")
        .arg(format!("AuthorizedKeysFile={}.pub", key.display()));
    let server = Process::start("sshd", root, server);
    plexbeam_tests::wait::poll(START, || {
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    })?;
    let point = root.join("sshfs");
    fs::create_dir_all(&point).ok()?;
    let mut command = Command::new("sshfs");
    command
        .arg(format!("root@127.0.0.1:{}", files.display()))
        .arg(&point)
        .args(["-f", "-p", &port.to_string()])
        .args([
            "-o",
            "StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null",
        ])
        .arg("-o")
        .arg(format!("IdentityFile={}", key.display()));
    let client = Process::start("sshfs", root, command);
    mounted("sshfs", point, vec![client, server])
}
