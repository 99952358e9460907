//! Signals that ask this process to stop: none is lost, whatever it does when one comes, until it is
//! another program.

use signal_hook::consts::{SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::signal::unix::{SignalKind, signal};

const SIGNALS: [(i32, &str); 3] = [
    (SIGTERM, "SIGTERM"),
    (SIGINT, "SIGINT"),
    (SIGQUIT, "SIGQUIT"),
];

/// Whether this process was asked to stop. Clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// The signal; 0 for none.
    asked: Arc<AtomicUsize>,
    /// Signals end the process at once.
    plain: Arc<AtomicBool>,
}

impl Stop {
    /// From here on the signals are remembered, and no longer end the process by themselves.
    pub fn remember(&self) {
        for (number, _) in SIGNALS {
            // Where a handler cannot be had the signal ends the process, as before. The first one to
            // run is the one that may end it.
            let _ = flag::register_conditional_default(number, self.plain.clone());
            let word = number.unsigned_abs() as usize;
            let _ = flag::register_usize(number, self.asked.clone(), word);
        }
    }

    /// The name of the last signal that came.
    pub fn asked(&self) -> Option<&'static str> {
        let asked = self.asked.load(Ordering::SeqCst);
        let known = |(number, _): &&(i32, _)| number.unsigned_abs() as usize == asked;
        SIGNALS.iter().find(known).map(|(_, name)| *name)
    }

    /// From here on a signal ends the process at once. Gives the one that came before.
    pub fn let_go(&self) -> Option<&'static str> {
        // In this order there is no moment in which a signal is neither seen nor obeyed.
        self.plain.store(true, Ordering::SeqCst);
        self.asked()
    }

    /// Resolves with the name of the first signal, also of one that came before.
    pub async fn wait(&self) -> &'static str {
        let (Ok(mut term), Ok(mut int), Ok(mut quit)) = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::quit()),
        ) else {
            // Without handlers the signals end the process by themselves.
            return std::future::pending().await;
        };
        if let Some(name) = self.asked() {
            return name;
        }
        tokio::select! {
            _ = term.recv() => "SIGTERM",
            _ = int.recv() => "SIGINT",
            _ = quit.recv() => "SIGQUIT",
        }
    }
}
