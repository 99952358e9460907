//! The one crossing between the threads that answer the kernel and tokio.
//!
//! A call that must wait moves with its reply into a task here; the thread goes on. How many may be
//! parked is bounded, so that a dead worker costs memory within a limit.

use crate::error::{Error, Result, SetupError};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Most calls parked at a time.
const MAX_PARKED: usize = 1024;

/// The mount's tokio runtime.
#[derive(Debug)]
pub struct Crossing {
    runtime: Option<Runtime>,
    handle: Handle,
    places: Arc<Semaphore>,
}

/// A place for one parked call.
#[derive(Debug)]
pub struct Place {
    permit: OwnedSemaphorePermit,
    handle: Handle,
}

impl Place {
    /// Runs the rest of the call, which ends with its reply.
    pub fn park(self, call: impl Future<Output = ()> + Send + 'static) {
        let permit = self.permit;
        self.handle.spawn(async move {
            call.await;
            drop(permit);
        });
    }
}

impl Crossing {
    /// Starts the runtime's threads.
    pub fn new() -> Result<Self, SetupError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(32)
            .thread_name("plexbeam-mount")
            .enable_all()
            .build()
            .map_err(|error| SetupError::Start(error.to_string()))?;
        Ok(Crossing {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            places: Arc::new(Semaphore::new(MAX_PARKED)),
        })
    }

    /// For tasks that are no parked calls.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A place to park a call, unless all are taken.
    pub fn place(&self) -> Result<Place> {
        let permit = self
            .places
            .clone()
            .try_acquire_owned()
            .map_err(|_| Error::Crowded)?;
        Ok(Place {
            permit,
            handle: self.handle.clone(),
        })
    }
}

impl Drop for Crossing {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_millis(500));
        }
    }
}
