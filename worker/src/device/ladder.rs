//! Which devices a job is tried on, and how many jobs each encodes at once.

use super::{Capabilities, DeviceKind, Probe};
use parking_lot::Mutex;
use plexbeam_api::job::HwAccel;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// How long a job waits for a place on a device whose driver opens few encoders: long enough for the
/// job that a seek replaced to go, short for a viewer.
const SESSION_WAIT: Duration = Duration::from_secs(2);

/// How long a device that failed a job is left out.
const REST: Duration = Duration::from_secs(60);

/// What NVENC and its driver say when no more encoders may be open.
const SESSION_WORDS: [&str; 3] = [
    "OpenEncodeSessionEx failed: out of memory",
    "incompatible client key",
    "No capable devices found",
];

/// The devices of a worker, best first; the processor stands below them all.
#[derive(Debug, Default)]
pub struct Ladder {
    rungs: Vec<Arc<Entry>>,
}

#[derive(Debug)]
struct Entry {
    capabilities: Capabilities,
    /// Places for encoders; `None` where the driver knows no limit.
    places: Option<Arc<Semaphore>>,
    /// It failed a job lately and is left out until then.
    rests_until: Mutex<Option<Instant>>,
}

/// A device that a job may try.
#[derive(Debug, Clone)]
pub struct Rung(Arc<Entry>);

impl Rung {
    /// What it proved.
    pub fn capabilities(&self) -> &Capabilities {
        &self.0.capabilities
    }

    /// Which interface.
    pub fn kind(&self) -> DeviceKind {
        self.0.capabilities.kind
    }

    /// A job failed here before its first file. Jobs of the next while spare themselves the try,
    /// unless `why` says that only all encoders were taken, by other programs perhaps.
    pub fn failed(&self, why: &str) {
        if !SESSION_WORDS.iter().any(|words| why.contains(words)) {
            *self.0.rests_until.lock() = Some(Instant::now() + REST);
        }
    }

    /// Takes one of the driver's sessions, waiting a moment for one; it is free again when the
    /// answer is dropped. `None`: all are taken.
    pub async fn session(&self) -> Option<Session> {
        let Some(places) = &self.0.places else {
            return Some(Session { _permit: None });
        };
        let permit = tokio::time::timeout(SESSION_WAIT, places.clone().acquire_owned()).await;
        let permit = permit.ok()?.ok()?;
        Some(Session {
            _permit: Some(permit),
        })
    }
}

/// A place on a device, held while a job runs there.
#[derive(Debug)]
pub struct Session {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Ladder {
    /// Of what was proved at start.
    pub fn new(probe: &Probe) -> Self {
        let rungs = probe.capabilities.iter().cloned().map(|capabilities| {
            let places = capabilities
                .sessions
                .map(|n| Arc::new(Semaphore::new(n as usize)));
            Arc::new(Entry {
                capabilities,
                places,
                rests_until: Mutex::new(None),
            })
        });
        Ladder {
            rungs: rungs.collect(),
        }
    }

    /// The devices for a job with this wish, in the order to try them. The processor, which comes
    /// after them, is not among them.
    pub fn rungs(&self, hw: HwAccel) -> Vec<Rung> {
        if hw == HwAccel::None {
            return Vec::new();
        }
        let now = Instant::now();
        let rested =
            |entry: &&Arc<Entry>| entry.rests_until.lock().is_none_or(|until| until <= now);
        let rungs = self.rungs.iter().filter(rested);
        let mut rungs: Vec<Rung> = rungs.cloned().map(Rung).collect();
        if let Some(kind) = DeviceKind::of_job(hw) {
            rungs.sort_by_key(|rung| rung.kind() != kind);
        }
        rungs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ladder() -> Ladder {
        let mut cuda = Capabilities::none(DeviceKind::Cuda, "0");
        cuda.sessions = Some(1);
        let vaapi = Capabilities::none(DeviceKind::Vaapi, "/dev/dri/renderD128");
        Ladder::new(&Probe {
            ffmpeg: String::new(),
            devices: Vec::new(),
            capabilities: vec![cuda, vaapi],
        })
    }

    fn kinds(rungs: &[Rung]) -> Vec<DeviceKind> {
        rungs.iter().map(Rung::kind).collect()
    }

    #[test]
    fn a_jobs_wish_comes_first_and_none_means_the_processor() {
        let ladder = ladder();
        let auto = [DeviceKind::Cuda, DeviceKind::Vaapi];
        assert_eq!(kinds(&ladder.rungs(HwAccel::Auto)), auto);
        let vaapi = [DeviceKind::Vaapi, DeviceKind::Cuda];
        assert_eq!(kinds(&ladder.rungs(HwAccel::Vaapi)), vaapi);
        assert!(ladder.rungs(HwAccel::None).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_device_that_failed_rests_unless_only_its_sessions_were_taken() {
        let ladder = ladder();
        let rungs = ladder.rungs(HwAccel::Auto);
        rungs[0].failed("h264_nvenc: OpenEncodeSessionEx failed: out of memory (10)");
        assert_eq!(ladder.rungs(HwAccel::Auto).len(), 2);
        rungs[0].failed("h264_nvenc: the GPU fell off the bus");
        assert_eq!(kinds(&ladder.rungs(HwAccel::Auto)), [DeviceKind::Vaapi]);
        tokio::time::advance(REST).await;
        assert_eq!(ladder.rungs(HwAccel::Auto).len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_are_counted_and_waited_for() {
        let ladder = ladder();
        let rung = &ladder.rungs(HwAccel::Auto)[0];
        let first = rung.session().await.unwrap();
        assert!(rung.session().await.is_none(), "the only place is taken");
        let waiting = rung.session();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(first);
        assert!(waiting.await.is_some(), "a place came free meanwhile");
        // No limit known: no waiting.
        let other = &ladder.rungs(HwAccel::Auto)[1];
        let (_a, _b) = (other.session().await, other.session().await);
        assert!(other.session().await.is_some());
    }
}
