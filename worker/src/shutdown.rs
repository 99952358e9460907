//! One shutdown for everything: the first signal drains, the second leaves at once.

use tokio::sync::watch;

/// How far the worker is on its way out. Only ever grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Serving.
    Up,
    /// No new jobs; what runs may finish.
    Draining,
    /// Streams end, the process goes.
    Leaving,
}

/// Handle on the stage; clones share it.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Sender<Stage>);

impl Default for Shutdown {
    fn default() -> Self {
        Shutdown(watch::channel(Stage::Up).0)
    }
}

impl Shutdown {
    /// Where we are.
    pub fn stage(&self) -> Stage {
        *self.0.borrow()
    }

    /// Goes on to `stage`; earlier stages are ignored.
    pub fn enter(&self, stage: Stage) {
        self.0.send_if_modified(|now| {
            let later = stage > *now;
            if later {
                *now = stage;
            }
            later
        });
    }

    /// Returns once `stage` is reached.
    pub async fn reached(&self, stage: Stage) {
        let mut watch = self.0.subscribe();
        // The sender lives in self, so the only way out is the condition.
        let _ = watch.wait_for(|now| *now >= stage).await;
    }
}

/// Waits for SIGTERM or SIGINT, once per call.
#[derive(Debug)]
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    /// Takes over both signals; from here on they no longer end the process by themselves.
    pub fn catch() -> std::io::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            })
        }
        #[cfg(not(unix))]
        Ok(Signals {})
    }

    /// The next signal.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}
