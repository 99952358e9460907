//! One serving process under the supervisor.

use crate::{
    cli::CliArgs,
    control::{self, FromInstance, Go, Start, ToInstance, Writer},
    run::{self, RunError},
};
use plexbeam_fusefs::{Earlier, FsConfig, Mounted, Prepared, SetupError, prepare};
use rustix::fd::OwnedFd;
use std::{
    io,
    net::TcpListener,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

/// How often it is looked whether the kernel has ended the mount.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a covered instance goes on sending films after its last file was closed.
const LAST_MEDIA: Duration = Duration::from_secs(60);

/// Serves until the mount is over.
pub(crate) fn run(args: &CliArgs) -> Result<(), RunError> {
    run::start_log(args)?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut shared = control::receive_descriptors(&socket)?.into_iter();
    let writer = Writer::new(socket.try_clone()?);
    let (tell, mut told) = unbounded_channel();
    control::read_lines(socket, move |message| {
        // The receiver ends with the process.
        let _ = tell.send(message);
    });
    let Some(Some(ToInstance::Start(start))) = told.blocking_recv() else {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    };
    let outcome = serve(args, start, shared.next(), shared.next(), told, &writer);
    if let Err(error) = &outcome {
        // The supervisor may be gone; there is nobody else to tell.
        let _ = writer.send(&FromInstance::Failed(error.to_string()));
    }
    outcome
}

fn config_of(
    args: &CliArgs,
    start: &Start,
    under: Option<OwnedFd>,
    media: Option<OwnedFd>,
) -> FsConfig {
    let mut config = args.fs_config();
    config.mountpoint.clone_from(&start.mountpoint);
    config.cache.dir = Some(start.cache_dir.clone());
    config.under = under.map(Arc::new);
    if let Some(route) = &mut config.media {
        route.socket = media.map(|socket| Arc::new(TcpListener::from(socket)));
        route.secret = Some(start.media_secret.clone());
    }
    config
}

fn serve(
    args: &CliArgs,
    start: Start,
    under: Option<OwnedFd>,
    media: Option<OwnedFd>,
    mut told: UnboundedReceiver<Option<ToInstance>>,
    writer: &Writer,
) -> Result<(), RunError> {
    let config = config_of(args, &start, under, media);
    std::env::set_current_dir("/")?;
    run::raise_file_limit();
    run::ask_for_short_slices();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Watched from before the mount is there, so that none is lost.
    let mut signals = {
        let _in_runtime = runtime.enter();
        [
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        ]
    };
    let prepared = prepare(&config)?;
    let mounted = match start.go {
        Some(go) => mount(prepared, &go)?,
        None => {
            prepared.wait_workers(run::FIRST_ANSWERS);
            writer.send(&FromInstance::Prepared)?;
            match told.blocking_recv().flatten() {
                Some(ToInstance::Go(go)) => mount(prepared, &go)?,
                // Called off.
                Some(_) | None => return Ok(()),
            }
        }
    };
    run::report(&mounted, &config);
    writer.send(&FromInstance::Mounted)?;
    let mut covered_since = None;
    let aborted = runtime.block_on(async {
        let [terminate, interrupt] = &mut signals;
        loop {
            tokio::select! {
                _ = terminate.recv() => return false,
                _ = interrupt.recv() => return false,
                message = told.recv() => match message.flatten() {
                    Some(message) => {
                        if act(&mounted, message, writer) {
                            return false;
                        }
                    }
                    None => {
                        tracing::warn!("the supervisor is gone, serving on without it");
                        told.close();
                        alone(&mounted, terminate, interrupt).await;
                        return false;
                    }
                },
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if !mounted.is_over() {
                        continue;
                    }
                    if mounted.is_attached() {
                        return true;
                    }
                    let since = covered_since.get_or_insert_with(Instant::now);
                    if !mounted.sends_media() || since.elapsed() > LAST_MEDIA {
                        tracing::info!("the last file is closed");
                        return false;
                    }
                }
            }
        }
    });
    if aborted {
        return Err(RunError::Aborted);
    }
    mounted.unmount();
    tracing::info!("unmounted");
    Ok(())
}

fn mount(prepared: Prepared, go: &Go) -> Result<Mounted, SetupError> {
    let earlier: Vec<Earlier> = go
        .earlier
        .iter()
        .map(|(number, bytes)| Earlier {
            number: *number,
            bytes: *bytes,
        })
        .collect();
    prepared.serve(&earlier, go.handing)
}

async fn alone(
    mounted: &Mounted,
    terminate: &mut tokio::signal::unix::Signal,
    interrupt: &mut tokio::signal::unix::Signal,
) {
    loop {
        tokio::select! {
            _ = terminate.recv() => return,
            _ = interrupt.recv() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {
                if mounted.is_over() {
                    return;
                }
            }
        }
    }
}

/// True when this was the last message.
fn act(mounted: &Mounted, message: ToInstance, writer: &Writer) -> bool {
    match message {
        ToInstance::HandOver => {
            let bytes = mounted.hand_over();
            // Without a supervisor nobody takes over: it would not have asked.
            let _ = writer.send(&FromInstance::HandedOver(bytes));
        }
        ToInstance::TakeBack => mounted.take_back(),
        ToInstance::HandedOver => {
            let (tell, mut told) = unbounded_channel();
            mounted.handed_over(tell);
            let writer = writer.clone();
            std::thread::spawn(move || {
                while let Some(change) = told.blocking_recv() {
                    if writer.send(&FromInstance::Change(change)).is_err() {
                        return;
                    }
                }
            });
        }
        ToInstance::Change(change) => mounted.apply(change),
        ToInstance::EarlierEnded(number) => mounted.earlier_ended(number),
        ToInstance::End => return true,
        ToInstance::Start(_) | ToInstance::Go(_) => {
            tracing::warn!("a control message came out of turn");
        }
    }
    false
}
