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
//! [`config`] says what a mount is made of, [`mount`] makes it.

pub mod binding;
pub mod cache;
pub mod config;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod handle;
pub mod inode;
pub mod media;
pub mod overlay;
pub mod remote;
pub mod runtime;

pub use config::{BadWorkerUrl, CacheConfig, FsConfig, RemoteConfig, Secret, WorkerUrl};
pub use error::SetupError;

use crate::{
    binding::{Bindings, Context},
    cache::SegmentCache,
    fs::{BeamFs, Parts},
    fuse::{Adapter, session},
    overlay::UpperNode,
    remote::{Catalog, HttpSource},
    runtime::Crossing,
};
use fuser::INodeNo;
use plexbeam_api::mount::MountInfo;
use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

/// How often it is looked for bound directories that were removed beneath the mount, and for kept
/// files that nobody can name any more.
const TIDY_EVERY: Duration = Duration::from_secs(5);

/// A live mount. It ends when this is dropped.
#[derive(Debug)]
pub struct Mounted {
    // Ends before the runtime that serves parked calls.
    served: session::Served,
    catalog: Arc<Catalog>,
    cache: Arc<SegmentCache>,
    media: Option<SocketAddr>,
    crossing: Arc<Crossing>,
}

impl Mounted {
    /// Where the media route listens.
    pub fn media(&self) -> Option<SocketAddr> {
        self.media
    }

    /// Figures of the cache.
    pub fn cache_usage(&self) -> cache::Usage {
        self.cache.usage()
    }

    /// True when the kernel has ended the mount, for example by `umount`.
    pub fn is_over(&self) -> bool {
        self.served.is_over()
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

    /// Takes the mount back.
    pub fn unmount(mut self) {
        self.served.unmount();
    }
}

/// Makes a mount. When this returns it is there; workers may be unreachable.
pub fn mount(config: &FsConfig) -> Result<Mounted, SetupError> {
    let mountpoint = &config.mountpoint;
    session::clear_stale(mountpoint)?;
    let mountpoint =
        &std::fs::canonicalize(mountpoint).map_err(|source| SetupError::Mountpoint {
            path: mountpoint.clone(),
            source,
        })?;
    session::refuse_mounted(mountpoint)?;
    let backing = config.backing.as_deref().unwrap_or(mountpoint);
    let (root, _) = UpperNode::root(backing).map_err(|source| SetupError::Backing {
        path: backing.to_path_buf(),
        source,
    })?;
    if root.has(fs::SESSIONS.as_ref()) {
        let path = backing.join(fs::SESSIONS);
        tracing::warn!(path = %path.display(), "hidden by the mount's own `sessions`");
    }

    let read_deadline = within_kernels_bound(config.read_deadline);
    let crossing = Arc::new(Crossing::new()?);
    let start = |error: remote::FetchError| SetupError::Start(error.to_string());
    let source = Arc::new(HttpSource::new(&config.remote).map_err(start)?);
    let cache = new_cache(&config.cache, mountpoint, &source)?;
    let catalog = Catalog::new(&config.remote.workers, config.remote.health_every);
    let media = match config.media {
        Some(address) => Some(media::start(address, &config.remote, crossing.handle())?),
        None => None,
    };
    let context = Arc::new(Context {
        catalog: catalog.clone(),
        source: source.clone(),
        cache: cache.clone(),
        parallel: config.remote.parallel.max(1),
        runtime: crossing.handle().clone(),
    });
    let fs = BeamFs::new(Parts {
        root,
        catalog: catalog.clone(),
        source: source.clone(),
        cache: cache.clone(),
        bindings: Bindings::new(context),
        info: MountInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            api_version: plexbeam_api::API_VERSION,
            mountpoint: mountpoint.to_string_lossy().into_owned(),
            read_deadline_ms: read_deadline.as_millis() as u64,
            media: media.as_ref().map(|media| media.base.clone()),
            media_secret: None,
        },
        media_secret: media.as_ref().and_then(|media| media.own_secret.clone()),
        read_deadline,
    })
    .map_err(|error| SetupError::Start(error.to_string()))?;
    let fs = Arc::new(fs);

    let adapter = Adapter::new(fs.clone(), crossing.clone(), config.passthrough);
    let (tell, ended) = std::sync::mpsc::channel();
    catalog.tell_ended(tell);
    let served = session::Served::start(adapter, mountpoint, config.allow_other, config.threads)?;
    if let Some(notifier) = served.notifier() {
        // A thread of its own: an invalidation may wait for a lock of the kernel.
        let fs = Arc::downgrade(&fs);
        std::thread::spawn(move || {
            while let Ok(id) = ended.recv() {
                let Some(fs) = fs.upgrade() else {
                    return;
                };
                if let Some(number) = fs.sessions_number() {
                    // The name's time runs out soon anyway.
                    let _ = notifier.inval_entry(INodeNo(number), id.as_str().as_ref());
                }
            }
        });
    }
    remote::start(&source, &catalog, &config.remote, crossing.handle());
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
    Ok(Mounted {
        served,
        catalog,
        cache,
        media: media.map(|media| media.address),
        crossing,
    })
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
    if let Some(dir) = &config.dir {
        // What does not exist yet cannot be resolved; its nearest parent can.
        let resolved = dir
            .ancestors()
            .find_map(|parent| std::fs::canonicalize(parent).ok());
        if resolved.is_some_and(|resolved| resolved.starts_with(mountpoint)) {
            return Err(SetupError::CacheInside(dir.clone()));
        }
    }
    SegmentCache::new(config, source.clone()).map_err(|error| SetupError::CacheDir {
        path: config.dir.clone().unwrap_or_else(std::env::temp_dir),
        source: error,
    })
}
