//! How soon a dead instance is replaced: at once, unless it is one death too many.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// So many deaths within [`WITHIN`] are a crash loop, not bad luck.
const MANY: usize = 30;
const WITHIN: Duration = Duration::from_secs(60);
/// An instance that lived this long ends a crash loop.
const LIVED: Duration = Duration::from_secs(10);
/// Pauses in a crash loop: doubled from the first up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// So many that die before they serve, one right after the other, cannot start.
const AT_START: u32 = 5;

/// The deaths of a mountpoint's instances.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    recent: VecDeque<Instant>,
    /// Deaths of the present crash loop.
    looping: u32,
}

impl Deaths {
    /// An instance that served has died; how long to wait before the next is started.
    pub(super) fn served(&mut self, now: Instant, lived: Duration) -> Duration {
        self.recent
            .retain(|at| now.saturating_duration_since(*at) < WITHIN);
        self.recent.push_back(now);
        if self.recent.len() > MANY {
            self.recent.pop_front();
        } else if self.looping == 0 || lived >= LIVED {
            self.looping = 0;
            return Duration::ZERO;
        }
        self.looping += 1;
        pause(self.looping)
    }
}

/// How long to wait after so many attempts that came to nothing, one after the other. `died`: the last
/// one ended without a word, which says nothing about the next: it may have been killed.
pub(super) fn before_serving(failures: u32, died: bool) -> Duration {
    match failures.checked_sub(AT_START) {
        None if died => Duration::ZERO,
        None => pause(failures),
        Some(more) => pause(more + 1),
    }
}

fn pause(count: u32) -> Duration {
    let doubled = 2u32.saturating_pow(count.saturating_sub(1));
    FIRST_PAUSE.saturating_mul(doubled).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    #[test]
    fn deaths_now_and_then_cost_no_pause() {
        let mut deaths = Deaths::default();
        let start = Instant::now();
        for round in 0..1000 {
            let now = start + Duration::from_secs(3) * round;
            assert_eq!(deaths.served(now, SHORT), Duration::ZERO, "{round}");
        }
    }

    #[test]
    fn a_crash_loop_is_slowed_down_until_one_lives() {
        let mut deaths = Deaths::default();
        let mut now = Instant::now();
        for _ in 0..MANY {
            assert_eq!(deaths.served(now, SHORT), Duration::ZERO);
            now += SHORT;
        }
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let pause = deaths.served(now, SHORT);
            now += pause + SHORT;
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses[..7], [100, 200, 400, 800, 1600, 3200, 5000]);
        // By now fewer than so many died in the last minute, and the loop goes on all the same.
        assert!(pauses[6..].iter().all(|pause| *pause == 5000), "{pauses:?}");
        now += WITHIN;
        assert_eq!(deaths.served(now, WITHIN), Duration::ZERO);
        assert_eq!(deaths.served(now + SHORT, SHORT), Duration::ZERO);
    }

    #[test]
    fn what_cannot_start_is_tried_ever_more_slowly() {
        let died: Vec<u128> = (1..=12)
            .map(|failures| before_serving(failures, true).as_millis())
            .collect();
        assert_eq!(
            died,
            [0, 0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]
        );
        // One that says why it fails would say it again.
        assert_eq!(before_serving(1, false).as_millis(), 100);
        assert_eq!(before_serving(u32::MAX, false), MAX_PAUSE);
    }
}
