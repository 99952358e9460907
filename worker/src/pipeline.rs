//! One job from its inputs to finished segments, on its own plain threads, inside the job child.
//!
//! ```text
//! demux (one per input) -> [packets] -> decode + filter -> [frames] -> encode \
//!                       -> [packets] -> audio: decode, filter, encode ---------> [made] -> cut
//!                       -> subtitle and copied packets ------------------------/
//!                       -> [subtitles to be drawn] -> filter
//! ```
//! Queues are bounded; the last thread, the caller's own, takes from one queue only and never waits
//! for a certain stream, so that no circle of full queues can form. Back pressure starts at
//! [`Sink::publish`]. The first failure wins, stops all stages and is the job's result.

mod again;
mod audio;
mod blend;
mod burn;
mod copy;
mod cut;
mod demux;
mod describe;
mod encode;
mod end;
mod feed;
mod find;
mod first;
mod font;
mod jump;
mod lane;
mod made;
mod names;
mod open;
mod overlay;
mod package;
mod report;
mod resolve;
mod start;
mod subtitle;
mod timeline;
mod video;

pub use again::Again;
use again::Only;
use made::{MADE_QUEUE, Made, OutRef, Outlet, Ready};

use crate::{
    device::{Capabilities, prove},
    input::InputPolicy,
    libav::{AvError, Packet, hw, log},
};
use parking_lot::{Condvar, Mutex};
use plexbeam_api::{Event, JobSpec, Kind, Problem, Segment, segment::Digest};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::sync_channel,
    },
    time::{Duration, Instant},
};

/// Where a pipeline puts what it makes. Called from the pipeline's muxing thread only.
pub trait Sink: Send {
    /// The inputs are open, on a job that the processor does alone. The digest is the same for the
    /// same versions of all inputs; this is not called where one of them has nothing to be told by.
    fn opened(&mut self, _inputs: Digest) -> Result<(), Problem> {
        Ok(())
    }

    /// Tells of [`Event::Probed`], [`Event::Progress`] and [`Event::Log`].
    fn event(&mut self, event: Event) -> Result<(), Problem>;

    /// Takes a finished file. May block while there is no room; that is the pipeline's back
    /// pressure. A name is published once, except a playlist, which replaces the one before.
    fn publish(&mut self, segment: Segment, bytes: Vec<u8>) -> Result<(), Problem>;
}

/// The levers on a running pipeline; shared between its threads and its owner.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    throttled: AtomicBool,
    paused: Mutex<bool>,
    resumed: Condvar,
    /// Counts what was read, passed on or made.
    moves: AtomicU64,
    /// Waits for others: room in the spool.
    waits: AtomicBool,
}

impl Control {
    /// All levers off.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Ends the pipeline soon; also wakes it when it is paused.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        let _paused = self.paused.lock();
        self.resumed.notify_all();
    }

    /// True after [`Control::cancel`]; read by every stage and by libav's interrupt callback.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Holds or releases the pipeline: every stage stops at its next packet or frame.
    pub fn set_paused(&self, on: bool) {
        *self.paused.lock() = on;
        self.resumed.notify_all();
    }

    /// Paces the encoder at 0.3 to 0.5 x real time while on (PROTOCOL 6.4).
    pub fn set_throttled(&self, on: bool) {
        self.throttled.store(on, Ordering::Relaxed);
    }

    /// True while PMS wants the job slow.
    pub fn is_throttled(&self) -> bool {
        self.throttled.load(Ordering::Relaxed)
    }

    /// Tells that something was read, passed on or made.
    pub fn moved(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells whether the pipeline waits for room, which may take as long as it likes.
    pub fn set_waiting(&self, on: bool) {
        self.waits.store(on, Ordering::Relaxed);
    }

    /// How much was read, passed on or made so far; `None` while the pipeline is held or waits for
    /// others, so that standing still is no fault.
    pub fn moves(&self) -> Option<u64> {
        let held = *self.paused.lock() || self.waits.load(Ordering::Relaxed);
        (!held).then(|| self.moves.load(Ordering::Relaxed))
    }

    /// Returns when the pipeline may go on; false when it was cancelled.
    pub fn pass(&self) -> bool {
        self.moved();
        let mut paused = self.paused.lock();
        while *paused && !self.is_cancelled() {
            self.resumed.wait(&mut paused);
        }
        !self.is_cancelled()
    }
}

/// What all stages of one job share.
struct Shared {
    control: Arc<Control>,
    stopped: AtomicBool,
    failure: Mutex<Option<Problem>>,
    vdec_packets: AtomicU64,
    vdec_failed: AtomicU64,
    notes: Mutex<Vec<String>>,
    first: Arc<first::First>,
}

impl Shared {
    fn new(control: &Arc<Control>) -> Self {
        Shared {
            control: Arc::clone(control),
            stopped: AtomicBool::new(false),
            failure: Mutex::new(None),
            vdec_packets: AtomicU64::new(0),
            vdec_failed: AtomicU64::new(0),
            notes: Mutex::new(Vec::new()),
            first: first::First::new(),
        }
    }

    /// Records the first failure and stops every stage.
    fn fail(&self, problem: Problem) {
        self.failure.lock().get_or_insert(problem);
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Waits out a pause; false when the job is over.
    fn pass(&self) -> bool {
        self.control.pass() && !self.stopped.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.control.is_cancelled() || self.stopped.load(Ordering::Relaxed)
    }

    /// A line for the job's log, told with the next event.
    fn note(&self, text: impl Into<String>) {
        let mut notes = self.notes.lock();
        if notes.len() < 50 {
            notes.push(text.into());
        }
    }
}

/// What the demuxer hands to an audio stage.
enum Feed {
    /// Where the job really starts, microseconds: with copied video at a key before the time asked
    /// for. First, when it comes at all.
    Start(i64),
    Packet(Packet),
    /// The input was read to this time, microseconds, and the stream had nothing.
    Until(i64),
}

/// Translates a libav failure of a stage; its words name the step.
fn av(error: &AvError) -> Problem {
    let kind = if error.is_interrupted() {
        Kind::Cancelled
    } else {
        Kind::Internal
    };
    Problem::new(kind, error.to_string())
}

/// Holds a stage to 0.4 x real time while PMS asks for it (PROTOCOL 6.4: 0.3 to 0.5, never 0).
struct Pacer {
    last: Instant,
}

impl Pacer {
    fn new() -> Self {
        Pacer {
            last: Instant::now(),
        }
    }

    /// Called once per piece of media of this length.
    fn pace(&mut self, shared: &Shared, seconds: f64) {
        let due = self.last + Duration::from_secs_f64((seconds / 0.4).clamp(0.0, 10.0));
        while shared.control.is_throttled() && !shared.is_over() && Instant::now() < due {
            std::thread::sleep((due - Instant::now()).min(Duration::from_millis(50)));
        }
        self.last = Instant::now();
    }
}

/// What a pipeline is to do.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The job.
    pub spec: &'a JobSpec,
    /// What it may read.
    pub policy: &'a InputPolicy,
    /// The device to use where it can; `None`: the processor does everything.
    pub device: Option<&'a Capabilities>,
    /// Files that were dropped and are to be made again; `None`: all of the job.
    pub again: Option<&'a Again>,
    /// Makes the first segment with less work for each picture, where nothing but its pictures shows it.
    pub fast_start: bool,
}

impl<'a> Task<'a> {
    /// All of a job, on the processor.
    pub fn new(spec: &'a JobSpec, policy: &'a InputPolicy) -> Self {
        Task {
            spec,
            policy,
            device: None,
            again: None,
            fast_start: false,
        }
    }
}

/// An open device and what it proved.
struct OnDevice {
    device: hw::Device,
    can: Capabilities,
}

impl OnDevice {
    /// Opens it. Errors carry the driver's own words.
    fn open(can: &Capabilities) -> Result<Self, Problem> {
        let (opened, said) = log::capture(|| prove::open(can.kind, &can.address));
        match opened {
            Ok(device) => Ok(OnDevice {
                device,
                can: can.clone(),
            }),
            Err(why) => {
                let told = said.first().cloned().unwrap_or(why);
                let what = format!("{} {}: {told}", can.kind, can.address);
                Err(Problem::new(Kind::Internal, what))
            }
        }
    }
}

/// As [`run_task`] on the processor.
pub fn run(
    spec: &JobSpec,
    policy: &InputPolicy,
    sink: &mut dyn Sink,
    control: &Arc<Control>,
) -> Result<(), Problem> {
    run_task(Task::new(spec, policy), sink, control)
}

/// Makes files again that a job had made, on the processor. Errors: as [`run_task`].
pub fn make_again(
    spec: &JobSpec,
    again: &Again,
    policy: &InputPolicy,
    sink: &mut dyn Sink,
    control: &Arc<Control>,
) -> Result<(), Problem> {
    let mut task = Task::new(spec, policy);
    task.again = Some(again);
    run_task(task, sink, control)
}

/// Runs a job to its end on this thread and its helpers, or makes files of it again and nothing
/// else: [`Sink::publish`] then gets [`Again::wanted`]. Blocks. Errors: the input's
/// ([`plexbeam_api::Kind::BadInput`]), `Unsupported`, `Cancelled`, or `Internal`.
pub fn run_task(
    task: Task<'_>,
    sink: &mut dyn Sink,
    control: &Arc<Control>,
) -> Result<(), Problem> {
    match task.again {
        None => go(task, sink, control),
        Some(again) => {
            let mut only = Only::new(sink, &again.wanted);
            let result = go(task, &mut only, control);
            only.outcome(result)
        }
    }
}

fn go(task: Task<'_>, sink: &mut dyn Sink, control: &Arc<Control>) -> Result<(), Problem> {
    let Task { spec, .. } = task;
    crate::plan::check(spec)?;
    log::errors_only();
    let device = task.device.map(OnDevice::open).transpose()?;
    let cancelled = || Problem::new(Kind::Cancelled, "the job was cancelled");
    let shared = Shared::new(control);
    let resolved = match resolve::resolve(task, control, device.as_ref()) {
        Err(_) if control.is_cancelled() => return Err(cancelled()),
        other => other?,
    };
    if let (None, Some(versions)) = (&device, resolved.versions) {
        sink.opened(versions)?;
    }
    let facts = resolved.facts;
    let outputs = resolved.outputs;
    std::thread::scope(|scope| {
        let (made, queue) = sync_channel(MADE_QUEUE);
        let mut routes: Vec<Vec<demux::Route>> =
            resolved.inputs.iter().map(|_| Vec::new()).collect();
        for (o, output) in outputs.iter().enumerate() {
            for (s, stream) in output.streams.iter().enumerate() {
                let outlet = Outlet {
                    queue: made.clone(),
                    to: OutRef {
                        output: o,
                        stream: s,
                    },
                };
                let source = &resolved.inputs[stream.input].input.streams[stream.index];
                match stream.start(scope, &shared, source, &facts, outlet) {
                    Ok(started) => {
                        for (input, index, target) in started {
                            routes[input].push(demux::Route::new(index, target));
                        }
                    }
                    Err(problem) => shared.fail(problem),
                }
            }
        }
        drop(made);
        for (input, routes) in resolved.inputs.into_iter().zip(routes) {
            let shared = &shared;
            spawn(scope, shared, "demux", move || {
                demux::run(input, routes, shared)
            });
        }
        let result = cut::run(&outputs, &facts, task.again, &queue, &shared, sink);
        if let Err(problem) = result {
            shared.fail(problem);
        }
        // Stages that wait for room see the closed queue and end.
        drop(queue);
    });
    if control.is_cancelled() {
        return Err(cancelled());
    }
    match shared.failure.into_inner() {
        Some(problem) => Err(problem),
        None => Ok(()),
    }
}

/// Starts a stage on its own named thread; its failure becomes the job's.
fn spawn<'scope, F>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    shared: &'scope Shared,
    name: &str,
    stage: F,
) where
    F: FnOnce() -> Result<(), Problem> + Send + 'scope,
{
    let stage = move || {
        if let Err(problem) = stage() {
            shared.fail(problem);
        }
    };
    let spawned = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn_scoped(scope, stage);
    if let Err(error) = spawned {
        shared.fail(Problem::new(
            Kind::Exhausted,
            format!("no thread for {name}: {error}"),
        ));
    }
}
