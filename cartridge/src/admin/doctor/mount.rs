//! Plex's transcoder directory: our mount, seen by Plex, writable.

use super::{Checks, Doctor};
use crate::config::Config;
use crate::session::mount;
use plexbeam_api::{API_VERSION, mount::MountInfo, mount::WorkerRow};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// A mount that does not answer for so long hangs.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is written through it.
const PROBE: usize = 4 << 20;

/// Where the session is played.
pub(super) struct Place {
    /// The transcoder directory.
    pub(super) dir: PathBuf,
    /// What the mount says of itself; `None` without a mount.
    pub(super) info: Option<MountInfo>,
    /// Its table of workers.
    pub(super) workers: Vec<WorkerRow>,
}

/// One of our mounts, as the kernel lists it.
struct Mounted {
    point: PathBuf,
    /// `major:minor`, the same in every namespace.
    device: String,
    options: String,
}

/// Our mounts in the namespace of a process (proc(5), mountinfo).
fn mounts(process: &str) -> Vec<Mounted> {
    let text = fs::read_to_string(format!("/proc/{process}/mountinfo")).unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let (kind, source) = (right.next()?, right.next()?);
            let ours = kind.starts_with("fuse") && source == "plexbeam" || kind == "fuse.plexbeam";
            let mut left = left.split(' ').skip(2);
            let device = left.next()?.to_owned();
            let point = left.nth(1)?.replace("\\040", " ");
            ours.then(|| Mounted {
                point: point.into(),
                device,
                options: right.next().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

/// Runs something that a hanging mount would block for ever.
fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(work()));
    told.recv_timeout(PATIENCE).ok()
}

/// The tables of all our mounts.
pub(super) fn tables() -> Vec<Place> {
    let table = |mounted: Mounted| {
        let dir = mounted.point.clone();
        Place {
            workers: bounded(move || mount::workers(&dir)).unwrap_or_default(),
            dir: mounted.point,
            info: None,
        }
    };
    mounts("self").into_iter().map(table).collect()
}

/// Looks at the directory; `None` where no session can be played.
pub(super) fn look(doctor: &Doctor, config: Option<&Config>, checks: &mut Checks) -> Option<Place> {
    let ours = mounts("self");
    let named = doctor.transcode_dir.clone();
    let set = plex_setting(doctor);
    let dir = named
        .or_else(|| set.clone())
        .or_else(|| ours.first().map(|m| m.point.clone()));
    let Some(dir) = dir else {
        checks.fail(
            "mount",
            "no PlexBeam mount is there",
            "start plexbeam-mount on Plex's transcoder directory, or name it with --transcode-dir",
        );
        return None;
    };
    let asked = dir.clone();
    let Some((info, workers)) = bounded(move || (mount::info(&asked), mount::workers(&asked)))
    else {
        let fix = format!(
            "kill plexbeam-mount, `umount -l {}`, start it again",
            dir.display()
        );
        checks.fail("mount", format!("{} does not answer", dir.display()), fix);
        return None;
    };
    let Some(info) = info else {
        return without_mount(dir, &ours, config, checks);
    };
    checks.ok("mount", format!("{} at {}", info.version, info.mountpoint));
    if info.api_version != API_VERSION {
        let fact = format!(
            "the mount speaks version {} of the contract",
            info.api_version
        );
        checks.fail(
            "mount_version",
            fact,
            "install the same release of mount and cartridge",
        );
        return None;
    }
    if let Some(set) = set.filter(|set| !set.starts_with(&info.mountpoint)) {
        let fact = format!("Plex transcodes into {}", set.display());
        let fix = format!(
            "set Plex's transcoder temporary directory to {}",
            info.mountpoint
        );
        checks.fail("plex_setting", fact, fix);
    }
    rows(&workers, checks);
    others(doctor, &info, &ours, checks);
    propagation(doctor, &info, &ours, checks);
    write_and_read(&dir, checks).then_some(Place {
        dir,
        info: Some(info),
        workers,
    })
}

fn without_mount(
    dir: PathBuf,
    ours: &[Mounted],
    config: Option<&Config>,
    checks: &mut Checks,
) -> Option<Place> {
    let workers = config.is_some_and(|config| !config.workers.is_empty());
    let shown = dir.display();
    let (fact, fix) = match ours.first() {
        Some(other) => (
            format!(
                "{shown} is no PlexBeam mount; one is at {}",
                other.point.display()
            ),
            format!(
                "set Plex's transcoder temporary directory to {}",
                other.point.display()
            ),
        ),
        None => (
            format!("{shown} is no PlexBeam mount"),
            format!("start plexbeam-mount {shown}"),
        ),
    };
    match workers {
        true => checks.warn("mount", format!("{fact}: segments are downloaded"), fix),
        false => checks.fail("mount", fact, fix),
    }
    write_and_read(&dir, checks).then_some(Place {
        dir,
        info: None,
        workers: Vec::new(),
    })
}

fn rows(workers: &[WorkerRow], checks: &mut Checks) {
    let live = workers.iter().filter(|row| row.live).count();
    let total = workers.len();
    if live > 0 || total == 0 {
        checks.ok("mount_workers", format!("{live} of {total} live"));
        return;
    }
    let why = workers
        .iter()
        .find_map(|row| row.error.clone())
        .unwrap_or_default();
    let fix = match why.contains("key") || why.contains("401") || why.contains("nauth") {
        true => "start the mount with the workers' PLEXBEAM_API_KEY",
        false => "see that the mount's --worker URLs are right and that the workers run",
    };
    checks.fail(
        "mount_workers",
        format!("the mount reaches none of {total}: {why}"),
        fix,
    );
}

/// Plex runs as a user of its own.
fn others(doctor: &Doctor, info: &MountInfo, ours: &[Mounted], checks: &mut Checks) {
    let point = Path::new(&info.mountpoint);
    let options = ours
        .iter()
        .find(|m| m.point == point)
        .map(|m| m.options.as_str());
    let allowed = options.is_some_and(|o| o.split(',').any(|o| o == "allow_other"));
    let other = doctor.root.user().filter(|user| user.uid != 0);
    match other {
        Some(user) if !allowed => checks.fail(
            "mount_users",
            format!("{} may not enter the mount", user.name),
            "start plexbeam-mount with --allow-other",
        ),
        _ if allowed => checks.ok("mount_users", "everybody may enter"),
        _ => checks.skip("mount_users", "Plex has no user of its own here"),
    }
}

/// In a container Plex has mounts of its own, and ours must have come there.
fn propagation(doctor: &Doctor, info: &MountInfo, ours: &[Mounted], checks: &mut Checks) {
    let Some(pid) = doctor.plex_pid.or_else(plex_process) else {
        checks.skip("mount_seen_by_plex", "Plex Media Server does not run here");
        return;
    };
    let space = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    let point = Path::new(&info.mountpoint);
    let device = ours.iter().find(|m| m.point == point).map(|m| &m.device);
    let theirs = mounts(&pid.to_string());
    let seen = theirs.iter().any(|m| Some(&m.device) == device);
    if seen || space(&pid.to_string()) == space("self") {
        checks.ok("mount_seen_by_plex", format!("process {pid} sees it"));
        return;
    }
    checks.fail(
        "mount_seen_by_plex",
        format!("Plex (process {pid}) runs in a container that does not see the mount"),
        format!(
            "bind a folder above {} into the container with propagation rslave, \
             e.g. -v /srv/plexbeam:/srv/plexbeam:rslave",
            info.mountpoint
        ),
    );
}

fn plex_process() -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    // The kernel keeps 15 characters.
    pids.find(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm.trim_end() == "Plex Media Serv"
    })
}

/// `TranscoderTempDirectory` of Plex's own settings.
fn plex_setting(doctor: &Doctor) -> Option<PathBuf> {
    let support = "Library/Application Support/Plex Media Server/Preferences.xml";
    let homes = ["/var/lib/plexmediaserver", "/config"];
    let text = homes
        .iter()
        .find_map(|home| fs::read_to_string(doctor.root.at(home).join(support)).ok())?;
    let (_, rest) = text.split_once("TranscoderTempDirectory=\"")?;
    let value = rest.split('"').next()?;
    (!value.is_empty()).then(|| PathBuf::from(value.replace("&amp;", "&")))
}

/// What Plex stages there must come back as it was written.
fn write_and_read(dir: &Path, checks: &mut Checks) -> bool {
    let at = dir.to_owned();
    let done = bounded(move || -> io::Result<f64> {
        let path = at.join(format!(".plexbeam-doctor-{}", std::process::id()));
        let bytes: Vec<u8> = (0..PROBE)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        let started = Instant::now();
        let result = fs::write(&path, &bytes).and_then(|()| fs::read(&path));
        let time = started.elapsed();
        let removed = fs::remove_file(&path);
        let same = result? == bytes;
        removed?;
        match same {
            true => Ok(PROBE as f64 * 2.0 / 1e6 / time.as_secs_f64()),
            false => Err(io::Error::other("other bytes came back")),
        }
    });
    match done {
        Some(Ok(rate)) => {
            checks.ok(
                "write_and_read",
                format!("{rate:.0} MB/s in {}", dir.display()),
            );
            true
        }
        Some(Err(error)) => {
            let owner = dir.metadata().map_or(0, |meta| meta.uid());
            let fix = match error.kind() {
                io::ErrorKind::StorageFull => "free space on the disk under the mount".to_owned(),
                io::ErrorKind::ReadOnlyFilesystem => {
                    "make the directory under the mount writable (--backing names another)".into()
                }
                _ => format!(
                    "see that {} is there and writable (owner {owner})",
                    dir.display()
                ),
            };
            checks.fail("write_and_read", format!("{}: {error}", dir.display()), fix);
            false
        }
        None => {
            let fix = format!(
                "kill plexbeam-mount, `umount -l {}`, start it again",
                dir.display()
            );
            checks.fail(
                "write_and_read",
                format!("{} does not answer", dir.display()),
                fix,
            );
            false
        }
    }
}
