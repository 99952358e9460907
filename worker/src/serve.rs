//! The service put together: spool, children, sessions, socket; and taken apart again on a signal.

use crate::{
    child::Spawner,
    config::ServeConfig,
    device::{self, Wish},
    error::StartError,
    http::{self, App},
    plan,
    session::Registry,
    shutdown::{Shutdown, Signals, Stage},
    store::{Spool, Store},
};
use axum::serve::ListenerExt;
use plexbeam_api::job::ShortJob;
use std::{
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::net::TcpListener;

/// Unacknowledged bytes for this long mean that the peer is gone without a word.
const PEER_TIMEOUT_MS: u32 = 20_000;
/// Longest that open connections may delay the exit.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Longest that the end of cancelled children may delay the exit.
const REAP_LIMIT: Duration = Duration::from_secs(5);

/// The parts of a running service.
#[derive(Debug)]
pub struct Service {
    /// What the routes work on.
    pub app: App,
    spool: Spool,
    drain_timeout: Duration,
}

impl Service {
    /// Takes the spool and builds all rooms; nothing listens yet and no child runs. `port` names the
    /// default spool. Call inside a tokio runtime.
    pub fn build(config: &ServeConfig, port: u16) -> Result<Self, StartError> {
        let dir = match &config.spool {
            Some(dir) => dir.clone(),
            None => default_spool(port),
        };
        let spool = Spool::take(&dir)?;
        let store = Store::new(config.store.clone(), spool.sessions());
        let spawner = Spawner::start(config.child.clone())?;
        let registry = Registry::new(
            config.sessions.clone(),
            config.child.clone(),
            store,
            spawner.clone(),
        );
        let app = App {
            registry,
            key: config.api_key.clone(),
            worker: spool.worker().clone(),
            boot: crate::store::random_id("boot"),
            probe: Arc::new(OnceLock::new()),
            spawner,
            shutdown: Shutdown::default(),
        };
        Ok(Service {
            app,
            spool,
            drain_timeout: config.drain_timeout,
        })
    }

    /// Proves the encoders and parks a child; ready afterwards.
    async fn warm_up(app: App, config: ServeConfig) {
        // The first look into libav's tables costs what a job should not wait for.
        let first_check = tokio::task::spawn_blocking(check_sample);
        match device::prove_apart(&config.child.program, &config.hw).await {
            Ok(probe) => {
                report(&probe, &config);
                app.set_probe(probe);
            }
            Err(problem) => tracing::error!(%problem, "no job can be done"),
        }
        if let Err(problem) = app.spawner.park().await {
            tracing::error!(%problem, "no job process can be started");
        }
        if let Err(error) = first_check.await {
            tracing::error!(%error, "checking a sample job");
        }
    }

    /// Serves until a signal, then drains, cleans up and returns.
    pub async fn run(self, config: ServeConfig, listener: TcpListener) -> Result<(), StartError> {
        let mut signals = Signals::catch().map_err(|source| StartError::System {
            what: "catching signals",
            source,
        })?;
        let app = self.app.clone();
        let shutdown = app.shutdown.clone();
        tokio::spawn(Self::warm_up(app.clone(), config));
        tokio::spawn(app.registry.clone().reap());
        let listener = listener.tap_io(|socket| {
            // Best effort: both only make trouble show sooner.
            let _ = socket.set_nodelay(true);
            let _ = rustix::net::sockopt::set_tcp_user_timeout(&*socket, PEER_TIMEOUT_MS);
        });
        let leaving = shutdown.clone();
        let server = axum::serve(listener, http::app(app.clone()))
            .with_graceful_shutdown(async move { leaving.reached(Stage::Leaving).await });
        let server = tokio::spawn(server.into_future());

        signals.next().await;
        tracing::info!(
            limit_s = self.drain_timeout.as_secs_f32(),
            "stopping: no new jobs, running ones may finish"
        );
        shutdown.enter(Stage::Draining);
        app.registry.drain();
        tokio::select! {
            () = app.registry.idle() => {}
            () = tokio::time::sleep(self.drain_timeout) => {
                tracing::warn!("jobs still run after the drain limit and are cancelled");
                app.registry.cancel_all(false);
            }
            () = signals.next() => {
                tracing::warn!("second signal: leaving at once");
                app.registry.cancel_all(true);
            }
        }
        tokio::select! {
            () = app.registry.idle() => {}
            () = tokio::time::sleep(REAP_LIMIT) => {
                tracing::error!("a job process does not end; the kernel ends it with us");
            }
            () = signals.next() => app.registry.cancel_all(true),
        }
        shutdown.enter(Stage::Leaving);
        app.spawner.unpark().await;
        // Streams end by themselves; a transfer that is stuck does not hold us.
        let _ = tokio::time::timeout(CLOSE_LIMIT, server).await;
        if let Err(error) = self.spool.empty() {
            tracing::warn!(%error, "the spool could not be emptied; the next start does it");
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Checks a job like most are; its outcome does not matter.
fn check_sample() {
    let sample = serde_json::json!({
        "job_id": "sample",
        "input": { "type": "file", "path": "/sample.mkv" },
        "output": { "type": "hls" },
        "arguments": { "resolution": "1280x720" }
    });
    let spec = serde_json::from_value(sample)
        .ok()
        .and_then(|job: ShortJob| job.into_spec().ok());
    if let Some(spec) = spec {
        let _ = plan::check(&spec);
    }
}

fn report(probe: &device::Probe, config: &ServeConfig) {
    for report in &probe.devices {
        let encoders = report.encoders.join(" ");
        let at = report.address.as_deref().unwrap_or_default();
        match &report.error {
            // Nobody asked for a device that is not there.
            Some(error) if config.hw == Wish::Auto && report.checks.iter().all(|c| !c.ok) => {
                tracing::info!(device = %report.name, at, error, "no such device");
            }
            Some(error) => {
                tracing::warn!(device = %report.name, at, encoders, error, "probed");
            }
            None => tracing::info!(device = %report.name, at, encoders, "probed"),
        }
    }
    if matches!(config.hw, Wish::Only(..)) && probe.capabilities.is_empty() {
        tracing::warn!(
            "--hw {}: nothing of it works here; the processor encodes",
            config.hw
        );
    }
}

fn default_spool(port: u16) -> PathBuf {
    std::env::temp_dir().join(format!("plexbeam-worker-{port}"))
}

/// Each connection and each file being sent takes a descriptor; the usual soft limit is 1024.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Best effort: the soft limit is enough for a home.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// `plexbeam-worker serve`: until a signal. Prints one line with the bound address.
pub fn serve(config: ServeConfig) -> Result<(), StartError> {
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::System {
            what: "starting the runtime",
            source,
        })?;
    let outcome = runtime.block_on(async {
        let listener =
            TcpListener::bind(config.listen)
                .await
                .map_err(|source| StartError::Listen {
                    addr: config.listen,
                    source,
                })?;
        let system = |what| move |source| StartError::System { what, source };
        let bound = listener
            .local_addr()
            .map_err(system("reading the bound address"))?;
        let service = Service::build(&config, bound.port())?;
        if let Some(path) = &config.address_file {
            write_address(path, bound).map_err(system("writing the address file"))?;
        }
        tracing::info!(worker = %service.app.worker, "listening on http://{bound}");
        service.run(config, listener).await
    });
    // Blocking reads of a dead disk must not hold the exit.
    runtime.shutdown_timeout(CLOSE_LIMIT);
    outcome
}

/// Written whole: a reader sees the address or no file.
fn write_address(path: &Path, bound: SocketAddr) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    writeln!(file, "{bound}")?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}
