//! Whether a session's owner was heard lately (P5), as a value: no timers in here.

use plexbeam_api::job::LeasePolicy;
use std::time::Duration;
use tokio::time::Instant;

/// What is known of the owner.
#[derive(Debug)]
pub(super) struct Lease {
    policy: LeasePolicy,
    heard: Instant,
    connections: u32,
    /// The owner sends `PUT .../lease`: from then on an open connection alone proves nothing, since
    /// a frozen owner keeps it.
    beats: bool,
}

/// What the lease asks for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Heard lately: the job may run. Look again after this time; `None`: no need.
    Run(Option<Duration>),
    /// Unheard: the job is held. Look again after this time.
    Pause(Duration),
    /// Given up.
    Free,
}

impl Lease {
    /// A lease that starts now.
    pub(super) fn new(policy: LeasePolicy) -> Self {
        Lease {
            policy,
            heard: Instant::now(),
            connections: 0,
            beats: false,
        }
    }

    /// `PUT .../lease` came.
    pub(super) fn beat(&mut self) {
        self.beats = true;
        self.heard = Instant::now();
    }

    /// `GET /status/{id}` came; it counts only where no connection is the lease.
    pub(super) fn polled(&mut self) {
        if self.connections == 0 {
            self.heard = Instant::now();
        }
    }

    /// A lease connection was opened.
    pub(super) fn connected(&mut self) {
        self.connections += 1;
        self.heard = Instant::now();
    }

    /// A lease connection was closed.
    pub(super) fn disconnected(&mut self) {
        self.connections = self.connections.saturating_sub(1);
        if !self.beats {
            self.heard = Instant::now();
        }
    }

    /// What follows from what was heard.
    pub(super) fn verdict(&self) -> Verdict {
        let LeasePolicy::Owner {
            pause_after_ms,
            free_after_ms,
        } = self.policy
        else {
            return Verdict::Run(None);
        };
        if self.connections > 0 && !self.beats {
            return Verdict::Run(None);
        }
        let (pause, free) = (
            Duration::from_millis(pause_after_ms),
            Duration::from_millis(free_after_ms),
        );
        let unheard = self.heard.elapsed();
        if unheard >= free {
            Verdict::Free
        } else if unheard >= pause {
            Verdict::Pause(free - unheard)
        } else {
            Verdict::Run(Some(pause.min(free) - unheard))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: LeasePolicy = LeasePolicy::Owner {
        pause_after_ms: 5_000,
        free_after_ms: 30_000,
    };

    async fn pass(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn silence_pauses_then_frees() {
        let lease = Lease::new(POLICY);
        assert_eq!(lease.verdict(), Verdict::Run(Some(Duration::from_secs(5))));
        pass(6).await;
        assert_eq!(lease.verdict(), Verdict::Pause(Duration::from_secs(24)));
        pass(24).await;
        assert_eq!(lease.verdict(), Verdict::Free);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_holds_until_it_closes() {
        let mut lease = Lease::new(POLICY);
        lease.connected();
        pass(100).await;
        assert_eq!(lease.verdict(), Verdict::Run(None));
        lease.disconnected();
        pass(4).await;
        assert!(matches!(lease.verdict(), Verdict::Run(Some(_))));
        pass(1).await;
        assert!(matches!(lease.verdict(), Verdict::Pause(_)));
        lease.polled();
        assert!(matches!(lease.verdict(), Verdict::Run(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_owner_with_an_open_connection_is_unheard() {
        let mut lease = Lease::new(POLICY);
        lease.connected();
        lease.beat();
        pass(5).await;
        assert!(matches!(lease.verdict(), Verdict::Pause(_)));
        lease.polled();
        assert!(matches!(lease.verdict(), Verdict::Pause(_)), "not its poll");
        lease.beat();
        assert!(matches!(lease.verdict(), Verdict::Run(_)));
        pass(4).await;
        lease.disconnected();
        pass(1).await;
        assert!(matches!(lease.verdict(), Verdict::Pause(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_needed_without_an_owner() {
        let lease = Lease::new(LeasePolicy::None);
        pass(1_000_000).await;
        assert_eq!(lease.verdict(), Verdict::Run(None));
    }
}
