//! Segments of PlexBeam workers as files.
//!
//! From the kernel down:
//!
//! * [`fuse`]: the kernel's calls and their replies; the mount itself.
//! * [`runtime`]: the one crossing from the threads that answer the kernel to tokio.
//! * [`fs`]: names, attributes and contents; it needs no kernel and never waits.
//! * [`inode`], [`handle`]: numbers given to the kernel.
//! * [`overlay`]: the upper layer, a folder on local disk where PMS works as ever.
//! * [`binding`]: which directory shows which session, and what of it is held.
//! * [`cache`]: held segments, by bytes, under a hard ceiling.
//! * [`remote`]: the workers: event streams, health, bytes.
//! * [`media`]: beside all that, input files by range for workers without the share.
//!
//! [`mounts`] looks at and clears mountpoints, [`config`] says what a mount is made of, [`mount`] makes it.

pub mod binding;
pub mod cache;
pub mod config;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod handle;
pub mod inode;
pub mod media;
pub mod mounts;
pub mod overlay;
pub mod remote;
pub mod runtime;

pub use binding::Change;
pub use config::{
    BadWorkerUrl, CacheConfig, FsConfig, MediaConfig, RemoteConfig, Secret, Shown, WorkerUrl,
};
pub use error::SetupError;

use crate::{
    binding::{Bindings, Context, What},
    cache::SegmentCache,
    error::Error,
    fs::{BeamFs, Parts},
    fuse::{Adapter, session},
    overlay::UpperNode,
    remote::{Catalog, HttpSource, Stale},
    runtime::Crossing,
};
use fuser::INodeNo;
use parking_lot::Mutex;
use plexbeam_api::mount::MountInfo;
use rustix::fd::AsRawFd;
use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::mpsc::UnboundedSender;

/// To be set for a process that serves a mount. The blocks of a download are taken by one thread and
/// freed by another; with an arena for each thread (`mallopt(3)`) every arena keeps what it gave.
pub const ARENAS: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// How often it is looked for bound directories that were removed beneath the mount, and for kept
/// files that nobody can name any more.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// A live mount. It ends when this is dropped; what bound directories held stays for the next start.
#[derive(Debug)]
pub struct Mounted {
    // Ends before the runtime that serves parked calls.
    served: session::Served,
    fs: Arc<BeamFs>,
    catalog: Arc<Catalog>,
    cache: Arc<SegmentCache>,
    media: Option<media::MediaRoute>,
    adopted: (usize, usize),
    /// What earlier instances still use of the ceiling, by their numbers.
    reserved: Mutex<HashMap<u64, cache::Room>>,
    crossing: Arc<Crossing>,
}

/// An earlier instance that still runs and has handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// A number that no other has, for [`Mounted::earlier_ended`].
    pub number: u64,
    /// Bytes of the ceiling that it goes on using.
    pub bytes: u64,
}

impl Mounted {
    /// Where the media route listens.
    pub fn media(&self) -> Option<SocketAddr> {
        self.media.as_ref().map(|media| media.address)
    }

    /// Figures of the cache.
    pub fn cache_usage(&self) -> cache::Usage {
        self.cache.usage()
    }

    /// Bound directories that were taken over, and how many of their files were here.
    pub fn adopted(&self) -> (usize, usize) {
        self.adopted
    }

    /// Why whole files are read by this process and not by the kernel; `None` where the kernel does.
    pub fn no_passthrough(&self) -> Option<&'static str> {
        self.fs.no_passthrough()
    }

    /// True when the kernel has ended the mount, for example by `umount`.
    pub fn is_over(&self) -> bool {
        self.served.is_over()
    }

    /// The mountpoint still leads here, whether or not the kernel has ended the connection.
    pub fn is_attached(&self) -> bool {
        self.served.is_attached()
    }

    /// Films are still being sent.
    pub fn sends_media(&self) -> bool {
        self.media.as_ref().is_some_and(|media| !media.is_over())
    }

    /// Waits until each worker was asked once how it is, at most this long; so that a binding right
    /// after the start finds the workers' ids known.
    pub fn wait_workers(&self, at_most: Duration) {
        let asked = self.catalog.all_asked();
        let _ = self
            .crossing
            .handle()
            .block_on(async { tokio::time::timeout(at_most, asked).await });
    }

    /// Gives bindings and cache to a later instance. From here on the calls that change bindings
    /// wait, until [`Mounted::handed_over`] or [`Mounted::take_back`]. Gives the bytes of the ceiling
    /// that this one goes on using.
    pub fn hand_over(&self) -> u64 {
        self.fs.bindings().hand_over()
    }

    /// The later instance is mounted; what changes bindings by way of this one goes there.
    pub fn handed_over(&self, tell: UnboundedSender<Change>) {
        if let Some(media) = &self.media {
            media.stop();
        }
        self.fs.bindings().handed_over(tell);
    }

    /// The later instance did not come up.
    pub fn take_back(&self) {
        self.fs.bindings().take_back();
    }

    /// Does what was done by way of an earlier instance. Never from a thread that answers the kernel.
    pub fn apply(&self, change: Change) {
        let gone = match &change.what {
            What::Gone(name) => Some((change.dev, change.ino, name.clone())),
            What::Bound(..) | What::Frozen | What::Removed => None,
        };
        self.fs.apply(change);
        if let Some((dev, ino, name)) = gone
            && let (Some(number), Some(notifier)) =
                (self.fs.upper_number(dev, ino), self.served.notifier())
        {
            // The kernel may not know the name.
            let _ = notifier.inval_entry(INodeNo(number), name.as_ref());
        }
    }

    /// An earlier instance has ended; its bytes are free.
    pub fn earlier_ended(&self, number: u64) {
        let room = self.reserved.lock().remove(&number);
        drop(room);
    }

    /// Takes the mount back, as dropping it does.
    pub fn unmount(self) {}
}

impl Drop for Mounted {
    /// What bound directories held stays for the next start, however this one ends.
    fn drop(&mut self) {
        self.fs.bindings().note_places();
        self.cache.keep_bound();
        self.served.unmount();
    }
}

/// Everything that a mount needs before it takes over and is seen.
#[derive(Debug)]
pub struct Prepared {
    config: FsConfig,
    mountpoint: PathBuf,
    root: UpperNode,
    read_deadline: Duration,
    crossing: Arc<Crossing>,
    source: Arc<HttpSource>,
    cache: Arc<SegmentCache>,
    catalog: Arc<Catalog>,
    media: Option<media::MediaRoute>,
}

/// Makes a mount. When this returns it is there; workers may be unreachable.
pub fn mount(config: &FsConfig) -> Result<Mounted, SetupError> {
    prepare(config)?.serve(&[], None)
}

/// Makes everything that a mount needs, and begins to follow the workers.
pub fn prepare(config: &FsConfig) -> Result<Prepared, SetupError> {
    let mountpoint = match &config.under {
        Some(_) => config.mountpoint.clone(),
        None => mounts::clear(&config.mountpoint)?,
    };
    let backing = match (&config.backing, &config.under) {
        (Some(backing), _) => backing.clone(),
        (None, Some(under)) => PathBuf::from(format!("/proc/self/fd/{}", under.as_raw_fd())),
        (None, None) => mountpoint.clone(),
    };
    let (root, _) = UpperNode::root(&backing).map_err(|source| SetupError::Backing {
        path: backing.clone(),
        source,
    })?;
    if root.has(fs::SESSIONS.as_ref()) {
        let path = backing.join(fs::SESSIONS);
        tracing::warn!(path = %path.display(), "hidden by the mount's own `sessions`");
    }
    let crossing = Arc::new(Crossing::new()?);
    let start = |error: remote::FetchError| SetupError::Start(error.to_string());
    let source = Arc::new(HttpSource::new(&config.remote).map_err(start)?);
    let cache = new_cache(&config.cache, &mountpoint, &source)?;
    let catalog = Catalog::new(&config.remote.workers, config.remote.health_every);
    let media = match &config.media {
        Some(route) => Some(media::start(route, &config.remote, crossing.handle())?),
        None => None,
    };
    remote::start(&source, &catalog, &config.remote, crossing.handle());
    Ok(Prepared {
        read_deadline: within_kernels_bound(config.read_deadline),
        config: config.clone(),
        mountpoint,
        root,
        crossing,
        source,
        cache,
        catalog,
        media,
    })
}

impl Prepared {
    /// Waits until each worker was asked once how it is, at most this long.
    pub fn wait_workers(&self, at_most: Duration) {
        let asked = self.catalog.all_asked();
        let _ = self
            .crossing
            .handle()
            .block_on(async { tokio::time::timeout(at_most, asked).await });
    }

    /// The file system that no kernel calls: for tests. It lives as long as what was prepared.
    pub fn without_kernel(&self) -> Result<Arc<BeamFs>, SetupError> {
        self.file_system(false).map(|(fs, _)| fs)
    }

    /// The runtime of calls that wait.
    pub fn runtime(&self) -> &tokio::runtime::Handle {
        self.crossing.handle()
    }

    fn file_system(&self, handed: bool) -> Result<(Arc<BeamFs>, binding::Adopted), SetupError> {
        let start = |error: Error| SetupError::Start(error.to_string());
        let context = Context::new(
            self.catalog.clone(),
            self.source.clone(),
            self.cache.clone(),
            self.config.remote.parallel.max(1),
            self.crossing.handle().clone(),
            self.root.duplicate().map_err(start)?,
        );
        let bindings = Bindings::new(context);
        let adopted = bindings.adopt(&self.root, handed);
        self.cache.tidy();
        let media = self.media.as_ref();
        let fs = BeamFs::new(Parts {
            root: self.root.duplicate().map_err(start)?,
            catalog: self.catalog.clone(),
            source: self.source.clone(),
            cache: self.cache.clone(),
            bindings,
            info: MountInfo {
                version: env!("CARGO_PKG_VERSION").into(),
                api_version: plexbeam_api::API_VERSION,
                mountpoint: self.mountpoint.to_string_lossy().into_owned(),
                read_deadline_ms: self.read_deadline.as_millis() as u64,
                media: media.map(|media| media.base.clone()),
                media_secret: None,
            },
            media_secret: media.and_then(|media| media.own_secret.clone()),
            read_deadline: self.read_deadline,
            shown: self.config.shown,
        })
        .map_err(start)?;
        Ok((Arc::new(fs), adopted))
    }

    /// Takes over what an earlier instance held, and mounts. `earlier` are those that still run;
    /// `handing` of them hands over now, so that its files are known to be right.
    pub fn serve(self, earlier: &[Earlier], handing: Option<u64>) -> Result<Mounted, SetupError> {
        let reserved = earlier
            .iter()
            .map(|earlier| (earlier.number, self.cache.reserve(earlier.bytes)))
            .collect();
        let (fs, adopted) = self.file_system(handing.is_some())?;
        let Prepared {
            config,
            mountpoint,
            root: _,
            read_deadline: _,
            crossing,
            source: _,
            cache,
            catalog,
            media,
        } = self;

        let adapter = Adapter::new(fs.clone(), crossing.clone(), config.passthrough);
        let (tell, stale) = std::sync::mpsc::channel();
        catalog.tell_stale(tell);
        let served = session::Served::start(
            adapter,
            &mountpoint,
            config.allow_other,
            config.threads,
            config.under.is_some(),
        )?;
        if let Some(notifier) = served.notifier() {
            // A thread of its own: an invalidation may wait for a lock of the kernel.
            let fs = Arc::downgrade(&fs);
            std::thread::spawn(move || {
                while let Ok(stale) = stale.recv() {
                    let Some(fs) = fs.upgrade() else {
                        return;
                    };
                    let (number, name) = match stale {
                        Stale::Session(id) => (fs.sessions_number(), id.as_str().to_owned()),
                        Stale::Held(dev, ino, name) => (fs.upper_number(dev, ino), name),
                    };
                    drop(fs);
                    if let Some(number) = number {
                        // The kernel may not know the name; its time runs out anyway.
                        let _ = notifier.inval_entry(INodeNo(number), name.as_ref());
                    }
                }
            });
        }
        {
            let _in_runtime = crossing.handle().enter();
            fs.bindings().follow_adopted();
        }
        let (checked, files) = (cache.clone(), adopted.files);
        crossing.handle().spawn(async move {
            for file in files {
                // Damaged ones are fetched again; what cannot be is told when it is read.
                let _ = checked.here(&file).await;
            }
        });
        let (tidied, kept, known) = (Arc::downgrade(&fs), cache.clone(), catalog.clone());
        crossing.handle().spawn(async move {
            loop {
                tokio::time::sleep(TIDY_EVERY).await;
                let Some(fs) = tidied.upgrade() else {
                    return;
                };
                fs.bindings().prune();
                kept.sweep(&known.uids());
            }
        });
        if adopted.directories > 0 {
            let (directories, kept, missing) = (adopted.directories, adopted.kept, adopted.missing);
            tracing::info!(directories, kept, missing, "took over what was held before");
        }
        Ok(Mounted {
            served,
            fs,
            catalog,
            cache,
            media,
            adopted: (adopted.directories, adopted.kept),
            reserved: Mutex::new(reserved),
            crossing,
        })
    }
}

/// Half of the kernel's own bound at most, where there is one.
fn within_kernels_bound(deadline: Duration) -> Duration {
    match session::request_bound().map(|bound| bound / 2) {
        Some(bound) if bound < deadline => {
            tracing::warn!(
                ?bound,
                "reads wait no longer than this: the kernel bounds its requests"
            );
            bound
        }
        Some(_) | None => deadline,
    }
}

fn new_cache(
    config: &CacheConfig,
    mountpoint: &Path,
    source: &Arc<HttpSource>,
) -> Result<Arc<SegmentCache>, SetupError> {
    let folder = |dir: &PathBuf| cache::folder_for(dir, mountpoint);
    let config = &CacheConfig {
        dir: config.dir.as_ref().map(folder).transpose()?,
        ..*config
    };
    SegmentCache::new(config, source.clone()).map_err(|error| SetupError::CacheDir {
        path: config.dir.clone().unwrap_or_else(std::env::temp_dir),
        source: error,
    })
}
