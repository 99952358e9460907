//! One job's child, followed from its start to its end.

use super::{
    Session, Wanted,
    beginning::{Beginnings, Publisher},
};
use crate::{
    child::{
        JobProcess, Spawner, clip,
        message::{FromChild, JobOrder, ToChild},
        redact,
    },
    config::ChildConfig,
    device::{Capabilities, Ladder},
    input::InputPolicy,
    store::{Reservation, Store},
};
use plexbeam_api::{
    Event, FileName, JobSpec, Kind, Problem, SessionState,
    event::{LogLevel, LogLine},
};
use std::{future::Future, path::PathBuf, pin::Pin, sync::Arc};
use tokio::time::Instant;

/// How a job ended, its child being gone.
pub(super) enum Outcome {
    /// It said so; the session is completed already.
    Done,
    Failed(Problem),
    Cancelled,
}

/// Bytes of a log line of a child that are kept.
const MAX_LOG_BYTES: usize = 2000;

pub(super) type Pending = Pin<Box<dyn Future<Output = Result<Reservation, Problem>> + Send>>;

/// Room that the child asked for.
#[derive(Default)]
pub(super) enum Room {
    #[default]
    None,
    Wanted(FileName, Pending),
    Granted(FileName, Reservation),
}

/// Why the loop over the child's messages ended.
enum Exit {
    /// The child said done.
    Done,
    /// The child said why it failed.
    Said(Problem),
    /// Its socket closed without a last word.
    Silent,
    /// It must go; it is killed, and this is why.
    Kill(Problem),
    /// It shall go.
    Cancel,
}

/// What runs jobs.
pub(super) struct Means<'a> {
    pub(super) store: &'a Arc<Store>,
    pub(super) beginnings: &'a Beginnings,
    pub(super) spawner: &'a Arc<Spawner>,
    pub(super) child: &'a ChildConfig,
    pub(super) policy: &'a InputPolicy,
    pub(super) fast_start: bool,
    /// `None`: the devices are not proved yet, the processor does everything.
    pub(super) ladder: Option<&'a Ladder>,
}

/// How one try of a job ended.
enum Try {
    Ended(Outcome),
    /// Its device failed before anything was published.
    NextRung(Problem),
}

/// Runs one job to its end: on the best device, and where that fails before the first file, on the
/// next, the processor last. Bounded by the child's life signs, never by the length of the job.
pub(super) async fn run(
    session: &Session,
    means: &Means<'_>,
    (spec, dir): &(Arc<JobSpec>, PathBuf),
) -> Outcome {
    let rungs = means
        .ladder
        .map_or_else(Vec::new, |ladder| ladder.rungs(spec.hw_accel));
    let order = |device: Option<Capabilities>| {
        ToChild::Job(Box::new(JobOrder {
            spec: spec.as_ref().clone(),
            policy: means.policy.clone(),
            dir: dir.clone(),
            again: None,
            device,
            fast_start: means.fast_start,
        }))
    };
    for rung in &rungs {
        let can = rung.capabilities();
        let name = format!("{} {}", can.kind, can.address);
        let mut wanted = session.wanted.subscribe();
        let place = tokio::select! {
            place = rung.session() => place,
            // The sender lives in the session.
            _ = wanted.wait_for(|wanted| wanted.cancel || wanted.kill) => {
                return Outcome::Cancelled;
            }
        };
        let Some(_place) = place else {
            warn(
                session,
                &format!("{name}: all encoder sessions of its driver are taken"),
            );
            continue;
        };
        match attempt(session, means, order(Some(can.clone())), true).await {
            Try::Ended(outcome) => return outcome,
            Try::NextRung(problem) => {
                rung.failed(&problem.detail);
                warn(
                    session,
                    &format!(
                        "{name} failed before the first segment, trying what comes next: {}",
                        problem.detail
                    ),
                );
            }
        }
    }
    match attempt(session, means, order(None), false).await {
        Try::Ended(outcome) => outcome,
        Try::NextRung(problem) => Outcome::Failed(problem),
    }
}

/// A line for the session's history and the worker's log.
fn warn(session: &Session, message: &str) {
    let message = clip(redact(message), MAX_LOG_BYTES);
    tracing::warn!(session = %session.id, "{message}");
    session.note(LogLine {
        level: LogLevel::Warning,
        message,
    });
}

/// True for an end that another device may not meet.
fn is_devices_fault(problem: &Problem) -> bool {
    problem.kind == Kind::Internal
}

/// One child from its start to its end.
async fn attempt(session: &Session, means: &Means<'_>, order: ToChild, may_go_on: bool) -> Try {
    let Means {
        store,
        beginnings,
        spawner,
        child: config,
        ..
    } = means;
    let mut order = Some(order);
    let mut room = Room::None;
    let mut publisher = Publisher::new(session, store, beginnings);
    let (mut process, exit) = loop {
        let mut process = match spawner.take().await {
            Ok(process) => process,
            Err(problem) => return Try::Ended(Outcome::Failed(problem)),
        };
        tracing::debug!(session = %session.id, pid = process.pid(), "job process");
        let sent = match &order {
            Some(order) => process.send(order).await.is_ok(),
            None => false,
        };
        let exit = match sent {
            true => follow(&mut publisher, config, &mut process, &mut room, &mut order).await,
            false => Exit::Silent,
        };
        // A spare may die while it is parked, and that may be noticed only now.
        let untouched = matches!(exit, Exit::Silent) && order.is_some();
        if !(untouched && process.was_parked()) {
            break (process, exit);
        }
        let _ = process.reap(std::time::Duration::ZERO).await;
    };
    let next_rung =
        |problem: &Problem| may_go_on && is_devices_fault(problem) && session.files().is_empty();
    let outcome = match exit {
        Exit::Said(problem) if next_rung(&problem) => {
            let _ = process.reap(config.cancel_grace).await;
            return Try::NextRung(problem);
        }
        Exit::Done => {
            session.enter(SessionState::Completed, None);
            let _ = process.reap(config.cancel_grace).await;
            Outcome::Done
        }
        Exit::Said(problem) => {
            // Told at once; the process needs a moment for its threads.
            let end = match problem.kind {
                Kind::Cancelled => SessionState::Cancelled,
                _ => SessionState::Failed,
            };
            session.enter(end, Some(problem.clone()));
            let _ = process.reap(config.cancel_grace).await;
            Outcome::Failed(problem)
        }
        Exit::Silent => {
            let status = process.reap(config.cancel_grace).await;
            Outcome::Failed(process.obituary(status).await)
        }
        Exit::Kill(problem) => {
            let _ = process.reap(std::time::Duration::ZERO).await;
            Outcome::Failed(problem)
        }
        Exit::Cancel => {
            let kill = session.wanted.borrow().kill;
            if !kill && process.send(&ToChild::Cancel).await.is_ok() {
                end_softly(session, config, &mut process).await;
            }
            let _ = process.reap(std::time::Duration::ZERO).await;
            Outcome::Cancelled
        }
    };
    // What was granted and not published is removed only now that nobody writes any more.
    drop(room);
    match outcome {
        Outcome::Failed(problem) if next_rung(&problem) && !session.has_ended() => {
            Try::NextRung(problem)
        }
        outcome => Try::Ended(outcome),
    }
}

/// Waits for a cancelled child's end, at most the grace; also its messages, lest it block on them.
async fn end_softly(session: &Session, config: &ChildConfig, process: &mut JobProcess) {
    let mut wanted = session.wanted.subscribe();
    tokio::select! {
        () = async { while process.recv().await.is_some() {} } => {}
        () = tokio::time::sleep(config.cancel_grace) => {}
        _ = wanted.wait_for(|wanted| wanted.kill) => {}
    }
}

async fn follow(
    publisher: &mut Publisher<'_>,
    config: &ChildConfig,
    process: &mut JobProcess,
    room: &mut Room,
    order: &mut Option<ToChild>,
) -> Exit {
    let mut wanted = publisher.session().wanted.subscribe();
    wanted.mark_changed();
    let mut told = Wanted::default();
    let mut silent_from = Instant::now();
    loop {
        tokio::select! {
            _ = wanted.changed() => {
                let now = *wanted.borrow_and_update();
                if now.cancel || now.kill {
                    return Exit::Cancel;
                }
                if tell(process, told, now).await.is_err() {
                    return Exit::Silent;
                }
                told = now;
            }
            message = process.recv() => {
                silent_from = Instant::now();
                let Some(message) = message else {
                    return Exit::Silent;
                };
                // Whatever it says after it loaded, it has the job.
                if !matches!(message, FromChild::Ready) {
                    *order = None;
                }
                match take(publisher, room, message) {
                    Ok(None) => {}
                    Ok(Some(exit)) => return exit,
                    Err(problem) => return Exit::Kill(problem),
                }
            }
            granted = grant(room) => {
                let answer = match granted {
                    Ok(file) => ToChild::Granted { file },
                    Err(problem) => ToChild::Refused { problem },
                };
                if process.send(&answer).await.is_err() {
                    return Exit::Silent;
                }
            }
            () = tokio::time::sleep_until(silent_from + config.silence) => {
                return Exit::Kill(Problem::new(
                    Kind::Internal,
                    format!(
                        "the job process gave no sign of life for {} s",
                        config.silence.as_secs_f32()
                    ),
                ));
            }
        }
    }
}

async fn tell(process: &mut JobProcess, told: Wanted, now: Wanted) -> std::io::Result<()> {
    if told.paused != now.paused {
        process.send(&ToChild::Paused { on: now.paused }).await?;
    }
    if told.throttled != now.throttled {
        let on = now.throttled;
        process.send(&ToChild::Throttled { on }).await?;
    }
    Ok(())
}

/// The name on disk once there is room; never returns when none is wanted. Cancel safe.
pub(super) async fn grant(room: &mut Room) -> Result<String, Problem> {
    let Room::Wanted(_, pending) = room else {
        return std::future::pending().await;
    };
    let outcome = pending.await;
    let Room::Wanted(name, _) = std::mem::take(room) else {
        return std::future::pending().await;
    };
    let reservation = outcome?;
    let file = reservation.file().to_owned();
    *room = Room::Granted(name, reservation);
    Ok(file)
}

/// One message of the child. An error is a breach of the protocol: the child is not to be trusted.
fn take(
    publisher: &mut Publisher<'_>,
    room: &mut Room,
    message: FromChild,
) -> Result<Option<Exit>, Problem> {
    let session = publisher.session();
    match message {
        FromChild::Ready | FromChild::Alive => {}
        FromChild::Opened { inputs } => publisher.opened(&inputs),
        FromChild::Event(event) => match event {
            Event::Log(mut line) => {
                line.message = clip(redact(&line.message), MAX_LOG_BYTES);
                session.note(line);
            }
            Event::Probed(probed) => publisher.probed(probed),
            Event::Progress(_) => {
                session.record(event);
            }
            Event::Segment(_) | Event::State(_) => return Err(breach("an event that is not its")),
        },
        FromChild::Reserve { name, bytes } => {
            if !matches!(room, Room::None) {
                return Err(breach("a second wish for room"));
            }
            let (store, shelf, wanted) = (publisher.store().clone(), session.shelf, name.clone());
            let pending = async move { store.reserve(shelf, &wanted, bytes).await };
            *room = Room::Wanted(name, Box::pin(pending));
        }
        FromChild::Published(segment) => match std::mem::take(room) {
            Room::Granted(name, reservation) if name == segment.name => {
                publisher.publish(reservation, &segment)?;
            }
            Room::None | Room::Wanted(..) | Room::Granted(..) => {
                return Err(breach("a file without room"));
            }
        },
        FromChild::Done => return Ok(Some(Exit::Done)),
        FromChild::Failed(mut problem) => {
            problem.detail = redact(&problem.detail);
            return Ok(Some(Exit::Said(problem)));
        }
    }
    Ok(None)
}

pub(super) fn breach(what: &str) -> Problem {
    Problem::new(Kind::Internal, format!("the job process sent {what}"))
}
