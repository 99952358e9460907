//! The mount itself: made, served, taken back.
//!
//! The device is opened and mounted here rather than by fuser, because fuser's own unmount goes by
//! path and would take away a newer mount at the same place. It is served before it is attached to
//! its path, so that nobody ever finds it without answers; over an earlier instance it is attached
//! beneath that one (`MOVE_MOUNT_BENEATH`, Linux 6.5), which is then taken away, so that nobody ever
//! finds the plain folder between the two. Where `fsopen(2)` is missing `mount(2)` does, and where
//! that is not allowed `fusermount3` through fuser.

use super::Adapter;
use crate::{error::SetupError, mounts};
use fuser::{BackgroundSession, Config, MountOption, Notifier, Session, SessionACL};
use rustix::{
    fd::OwnedFd,
    fs::{AtFlags, Mode, OFlags, StatxFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags},
};
use std::{
    ffi::CString,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

/// File system type in the mount table.
pub(crate) const FS_TYPE: &str = "fuse.plexbeam";
/// Name of the source in the mount table.
const SOURCE: &str = "plexbeam";
/// How long an existing mount may take to say that it lives.
const LIFE_SIGN: Duration = Duration::from_secs(2);
/// How long an unmount waits for the kernel's last call. Files still open then see their
/// connection end with the process.
const LAST_CALL: Duration = Duration::from_secs(2);

/// A mount that is being served.
#[derive(Debug)]
pub struct Served {
    path: PathBuf,
    /// Id of the mount in the kernel, so that no other is taken back.
    id: Option<u64>,
    /// Its device numbers.
    device: Option<(u32, u32)>,
    session: Option<BackgroundSession>,
    by_helper: bool,
}

/// Clears a mountpoint whose daemon has died (its paths answer `ENOTCONN`), and refuses one whose
/// daemon lives or hangs.
pub fn clear_stale(mountpoint: &Path) -> Result<(), SetupError> {
    let failed = |source| SetupError::Mountpoint {
        path: mountpoint.to_path_buf(),
        source,
    };
    // Each round takes away one dead mount; several may lie on one another.
    for _ in 0..16 {
        match alive(mountpoint) {
            None => return Err(SetupError::Hung(mountpoint.to_path_buf())),
            Some(Ok(true)) => return Ok(()),
            Some(Ok(false)) => {
                return Err(failed(io::Error::from_raw_os_error(libc::ENOTDIR)));
            }
            Some(Err(error)) if error.raw_os_error() == Some(libc::ENOTCONN) => {
                tracing::warn!(path = %mountpoint.display(), "taking away a stale mount");
                detach(mountpoint).map_err(failed)?;
            }
            Some(Err(error)) => return Err(failed(error)),
        }
    }
    Err(SetupError::Hung(mountpoint.to_path_buf()))
}

/// Refuses a mountpoint that carries a live mount of ours.
pub fn refuse_mounted(mountpoint: &Path) -> Result<(), SetupError> {
    if mounts::has_ours(mountpoint) {
        Err(SetupError::AlreadyMounted(mountpoint.to_path_buf()))
    } else {
        Ok(())
    }
}

/// The wait that the kernel leaves to a call, when an administrator has bounded it: one late answer
/// then ends the whole connection (`fs.fuse.default_request_timeout` and `max_request_timeout`,
/// seconds, 0 for none).
pub fn request_bound() -> Option<Duration> {
    let setting = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/fs/fuse/{name}")).ok()?;
        text.trim()
            .parse::<u64>()
            .ok()
            .filter(|seconds| *seconds > 0)
    };
    let bounds = [
        setting("default_request_timeout"),
        setting("max_request_timeout"),
    ];
    bounds.into_iter().flatten().min().map(Duration::from_secs)
}

/// Whether the path is a directory; `None` when nothing answers. A hung daemon blocks the thread
/// that asks, so it is another than ours.
fn alive(path: &Path) -> Option<io::Result<bool>> {
    let (tell, told) = mpsc::channel();
    let path = path.to_path_buf();
    std::thread::spawn(move || {
        let look = || {
            // The kernel remembers attributes of a dead mount for a while; these figures it asks for.
            rustix::fs::statfs(&path)?;
            Ok(std::fs::metadata(&path)?.is_dir())
        };
        // Nobody may listen any more.
        let _ = tell.send(look());
    });
    told.recv_timeout(LIFE_SIGN).ok()
}

/// `MOVE_MOUNT_BENEATH` of `linux/mount.h`.
const BENEATH: MoveMountFlags = MoveMountFlags::from_bits_retain(0x200);

/// A mount that no path leads to yet, and its device.
fn mount_detached(allow_other: bool) -> Result<(OwnedFd, OwnedFd), Errno> {
    use rustix::mount as sys;
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let context = sys::fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let set = |key: &str, value: &str| sys::fsconfig_set_string(&context, key, value);
    set("source", SOURCE)?;
    set("subtype", SOURCE)?;
    set("fd", &device.as_raw_fd().to_string())?;
    set("rootmode", "40000")?;
    set("user_id", &rustix::process::geteuid().as_raw().to_string())?;
    set("group_id", &rustix::process::getegid().as_raw().to_string())?;
    sys::fsconfig_set_flag(&context, "default_permissions")?;
    if allow_other {
        sys::fsconfig_set_flag(&context, "allow_other")?;
    }
    sys::fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mount = sys::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    Ok((mount, device))
}

/// Lets the path lead to the mount. `over`: in place of an earlier one that may be there.
fn attach(mount: &OwnedFd, mountpoint: &Path, over: bool) -> Result<(), Errno> {
    use rustix::mount::move_mount;
    let place = |flags| {
        let flags = flags | MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(mount, "", rustix::fs::CWD, mountpoint, flags)
    };
    if !over || !mounts::has_ours(mountpoint) {
        return place(MoveMountFlags::empty());
    }
    match place(BENEATH) {
        Ok(()) => Ok(rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?),
        Err(errno) => {
            tracing::info!(%errno, "cannot mount beneath: the plain folder shows for a moment");
            rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?;
            place(MoveMountFlags::empty())
        }
    }
}

/// Opens the device and mounts it; gives the device.
fn mount_direct(mountpoint: &Path, allow_other: bool) -> Result<OwnedFd, Errno> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    if allow_other {
        options.push_str(",allow_other");
    }
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    let flags = MountFlags::NODEV | MountFlags::NOSUID;
    rustix::mount::mount(SOURCE, mountpoint, FS_TYPE, flags, options.as_c_str())?;
    Ok(device)
}

/// Takes away what is mounted at this path; what is open stays open.
pub fn detach(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let status = std::process::Command::new("fusermount3")
                .args(["-u", "-z", "-q", "--"])
                .arg(path)
                .status()?;
            if status.success() {
                Ok(())
            } else {
                Err(Errno::PERM.into())
            }
        }
        Err(errno) => Err(errno.into()),
    }
}

fn mount_id(path: &Path) -> Option<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::MNT_ID).ok()?;
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

impl Served {
    /// Mounts and begins to serve. When this returns the kernel has agreed: the first call on the
    /// mountpoint is answered here. `over`: in place of an earlier instance, dead or alive, whose
    /// open files stay its own.
    pub fn start(
        adapter: Adapter,
        mountpoint: &Path,
        allow_other: bool,
        threads: usize,
        over: bool,
    ) -> Result<Self, SetupError> {
        let failed = |hint| {
            move |source: io::Error| SetupError::Mount {
                path: mountpoint.to_path_buf(),
                source,
                hint,
            }
        };
        // The kernel has applied the caller's mask already.
        rustix::process::umask(Mode::empty());
        let acl = if allow_other {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        let mut config = Config::default();
        config.acl = acl;
        config.n_threads = Some(threads.max(1));
        config.clone_fd = threads > 1;
        config.mount_options = vec![
            MountOption::FSName(SOURCE.into()),
            MountOption::Subtype(SOURCE.into()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        let hint = "run as root, or install fuse3 and allow user_allow_other in /etc/fuse.conf";
        let (session, detached, by_helper) = match mount_detached(allow_other) {
            Ok((mount, device)) => {
                let session = Session::from_fd(adapter, device, acl, config);
                (session.map_err(failed(hint))?, Some(mount), false)
            }
            Err(Errno::NOSYS) => {
                if over && mounts::has_ours(mountpoint) {
                    detach(mountpoint).map_err(failed(hint))?;
                }
                let device = mount_direct(mountpoint, allow_other);
                let device = device.map_err(|errno| failed(hint)(errno.into()))?;
                let session = Session::from_fd(adapter, device, acl, config);
                let session = session.inspect_err(|_| drop(detach(mountpoint)));
                (session.map_err(failed(hint))?, None, false)
            }
            Err(Errno::PERM | Errno::ACCESS) => {
                if over && mounts::has_ours(mountpoint) {
                    detach(mountpoint).map_err(failed(hint))?;
                }
                let session = Session::new(adapter, mountpoint, &config);
                (session.map_err(failed(hint))?, None, true)
            }
            Err(errno @ (Errno::NOENT | Errno::NODEV | Errno::NXIO)) => {
                let hint = "load the kernel module fuse, and give a container --device /dev/fuse";
                return Err(failed(hint)(errno.into()));
            }
            Err(errno) => return Err(failed(hint)(errno.into())),
        };
        let session = session
            .spawn()
            .map_err(failed("free some memory or threads"))?;
        if let Some(mount) = detached {
            attach(&mount, mountpoint, over).map_err(|errno| failed(hint)(errno.into()))?;
        }
        let mut served = Served {
            path: mountpoint.to_path_buf(),
            id: None,
            device: None,
            session: Some(session),
            by_helper,
        };
        served.id = mount_id(mountpoint);
        served.device = mounts::ours_at(mountpoint).pop();
        Ok(served)
    }

    /// For invalidations; never used from within a handler.
    pub fn notifier(&self) -> Option<Notifier> {
        self.session.as_ref().map(BackgroundSession::notifier)
    }

    /// True when the kernel has ended the mount, for example by `umount`.
    pub fn is_over(&self) -> bool {
        self.session
            .as_ref()
            .is_none_or(|session| session.guard.is_finished())
    }

    /// The path still leads here, whether or not the kernel has ended the connection.
    pub fn is_attached(&self) -> bool {
        let at = mounts::ours_at(&self.path);
        self.device.is_some_and(|device| at.contains(&device))
    }

    /// Takes the mount back. Files still open keep working until this process ends.
    pub fn unmount(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        let ours = self.id.is_none() || mount_id(&self.path) == self.id;
        if !session.guard.is_finished()
            && ours
            && let Err(error) = detach(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "cannot unmount");
        }
        let deadline = Instant::now() + LAST_CALL;
        while !session.guard.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.by_helper || !session.guard.is_finished() {
            // Its drop would unmount by path, and may wait for readers.
            std::mem::forget(session);
        } else if let Err(error) = session.join() {
            tracing::warn!(%error, "the session ended with an error");
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.unmount();
    }
}
