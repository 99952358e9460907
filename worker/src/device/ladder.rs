//! Which devices a job is tried on, and how many jobs each encodes at once.

use super::{Capabilities, DeviceKind, Probe};
use plexbeam_api::job::HwAccel;
use std::{sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a job waits for a place on a device whose driver opens few encoders: long enough for the
/// job that a seek replaced to go, short for a viewer.
const SESSION_WAIT: Duration = Duration::from_secs(2);

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
        let mut rungs: Vec<Rung> = self.rungs.iter().cloned().map(Rung).collect();
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
