//! The inside of a job child: takes one job from its socket, runs it, tells how it went.
//!
//! Three threads: this one runs the pipeline and blocks in [`Sink::publish`] for room; one reads
//! the worker's messages (pause, throttle, cancel, grants) and ends the process when the socket
//! closes; one says each second that the process is alive, the first time when it has its job, and
//! ends a job that stands still: a decoder that turns in circles over a damaged file stays alive.

use super::message::{self, FromChild, JobOrder, MAX_TO_CHILD, ToChild};
use crate::{
    pipeline::{self, Control, Sink, Task},
    store::part_name,
};
use parking_lot::Mutex;
use plexbeam_api::{Event, Kind, Problem, Segment, segment::Digest};
use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

/// The work of a child: [`work`], or a test's.
pub type Run = fn(&JobOrder, &mut dyn Sink, &Arc<Control>) -> Result<(), Problem>;

/// Runs what the order says: a whole job, or what of it is to be made again.
pub fn work(order: &JobOrder, sink: &mut dyn Sink, control: &Arc<Control>) -> Result<(), Problem> {
    let task = Task {
        spec: &order.spec,
        policy: &order.policy,
        device: order.device.as_ref(),
        again: order.again.as_ref(),
        fast_start: order.fast_start,
    };
    pipeline::run_task(task, sink, control)
}

/// Exit code of a child whose worker is gone.
const ORPHANED: i32 = 3;
/// Exit code of a child whose job stood still.
const STALLED: i32 = 4;

type Writer = Arc<Mutex<UnixStream>>;

/// Runs the one job that comes over `socket`; returns when the worker was told of its end. Ends the
/// process when the worker goes away, or when the job stands still for `stall`.
pub fn serve(socket: OwnedFd, run: Run, stall: Duration) -> io::Result<()> {
    let stream = UnixStream::from(socket);
    let mut reader = stream.try_clone()?;
    let writer: Writer = Arc::new(Mutex::new(stream));
    tell(&writer, &FromChild::Ready)?;
    let Some(ToChild::Job(order)) = message::read(&mut reader, MAX_TO_CHILD)? else {
        return Ok(());
    };
    let control = Control::new();
    let (grant_tx, grants) = channel();
    {
        let control = control.clone();
        std::thread::Builder::new()
            .name("orders".into())
            .spawn(move || take_orders(reader, &control, grant_tx))?;
    }
    {
        let (writer, control) = (writer.clone(), control.clone());
        std::thread::Builder::new()
            .name("alive".into())
            .spawn(move || watch(&writer, &control, stall))?;
    }
    let mut sink = SocketSink {
        writer: writer.clone(),
        grants,
        dir: order.dir.clone(),
        control: control.clone(),
    };
    let outcome = run(&order, &mut sink, &control);
    tell(
        &writer,
        &match outcome {
            Ok(()) => FromChild::Done,
            Err(problem) => FromChild::Failed(problem),
        },
    )
}

fn tell(writer: &Writer, message: &FromChild) -> io::Result<()> {
    message::write(&mut *writer.lock(), message)
}

/// Tells each second that the process lives; ends it when the worker is gone, or when the job stood
/// still for `stall`.
fn watch(writer: &Writer, control: &Control, stall: Duration) {
    let mut seen = control.moves();
    let mut since = Instant::now();
    while tell(writer, &FromChild::Alive).is_ok() {
        std::thread::sleep(Duration::from_secs(1).min(stall / 4));
        let now = control.moves();
        if now != seen || now.is_none() || control.is_cancelled() {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() >= stall {
            let problem = Problem::new(
                Kind::Internal,
                format!(
                    "the job stood still: it read nothing and made nothing for {} s",
                    stall.as_secs_f32()
                ),
            );
            let _ = tell(writer, &FromChild::Failed(problem));
            // The threads that stand still cannot be asked to end.
            std::process::exit(STALLED);
        }
    }
    std::process::exit(ORPHANED);
}

type Grant = Result<String, Problem>;

fn take_orders(mut reader: UnixStream, control: &Control, grants: Sender<Grant>) {
    // Dropped on cancel, so that a sink that waits for room wakes.
    let mut grants = Some(grants);
    loop {
        match message::read::<ToChild>(&mut reader, MAX_TO_CHILD) {
            Ok(Some(ToChild::Granted { file })) => answer(&grants, Ok(file)),
            Ok(Some(ToChild::Refused { problem })) => answer(&grants, Err(problem)),
            Ok(Some(ToChild::Paused { on })) => control.set_paused(on),
            Ok(Some(ToChild::Throttled { on })) => control.set_throttled(on),
            Ok(Some(ToChild::Cancel)) => {
                control.cancel();
                grants = None;
            }
            Ok(Some(ToChild::Job(_))) => eprintln!("a second job was sent and is not taken"),
            // Nobody is left to work for.
            Ok(None) | Err(_) => std::process::exit(ORPHANED),
        }
    }
}

fn answer(grants: &Option<Sender<Grant>>, grant: Grant) {
    if let Some(grants) = grants {
        let _ = grants.send(grant);
    }
}

/// A sink that writes into the job's folder after the worker granted the room.
struct SocketSink {
    writer: Writer,
    grants: Receiver<Grant>,
    dir: PathBuf,
    control: Arc<Control>,
}

impl SocketSink {
    fn tell(&self, message: &FromChild) -> Result<(), Problem> {
        tell(&self.writer, message)
            .map_err(|error| Problem::new(Kind::Internal, format!("the worker went away: {error}")))
    }

    fn check(&self) -> Result<(), Problem> {
        if self.control.is_cancelled() {
            return Err(Problem::new(Kind::Cancelled, "the job was cancelled"));
        }
        Ok(())
    }
}

impl Sink for SocketSink {
    fn opened(&mut self, inputs: Digest) -> Result<(), Problem> {
        self.check()?;
        self.tell(&FromChild::Opened { inputs })
    }

    fn event(&mut self, event: Event) -> Result<(), Problem> {
        self.check()?;
        self.control.moved();
        self.tell(&FromChild::Event(event))
    }

    fn publish(&mut self, segment: Segment, bytes: Vec<u8>) -> Result<(), Problem> {
        self.check()?;
        self.tell(&FromChild::Reserve {
            name: segment.name.clone(),
            bytes: bytes.len() as u64,
        })?;
        // Ends when the worker answers, cancels, or goes away (then the process ends).
        self.control.set_waiting(true);
        let grant = self.grants.recv();
        self.control.set_waiting(false);
        self.control.moved();
        let Ok(grant) = grant else {
            return Err(Problem::new(Kind::Cancelled, "the job was cancelled"));
        };
        let file = grant?;
        let part = self.dir.join(part_name(&file));
        std::fs::write(&part, &bytes)
            .and_then(|()| std::fs::rename(&part, self.dir.join(&file)))
            .map_err(|error| {
                Problem::new(
                    Kind::Exhausted,
                    format!("writing {} to the spool: {error}", segment.name),
                )
            })?;
        self.tell(&FromChild::Published(segment))
    }
}
