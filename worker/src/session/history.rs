//! What happened in a session, numbered from 1, so that a listener can resume.

use plexbeam_api::Event;
use std::{collections::VecDeque, sync::Arc};

/// Most events kept, some 400 bytes each: four hours of segments of one second with the sound apart.
/// The oldest go first; whoever comes later asks for the list of files.
const MAX_EVENTS: usize = 30_000;
/// Most log lines among them.
const MAX_LOGS: usize = 200;

/// An event and its number in the session.
pub type Numbered = (u64, Arc<Event>);

/// The events of one session. Progress is kept only as its newest; all else until the bounds.
#[derive(Debug, Default)]
pub(super) struct History {
    last: u64,
    kept: VecDeque<Numbered>,
    logs: usize,
    progress: Option<Numbered>,
}

impl History {
    /// Appends; returns the event's number.
    pub(super) fn push(&mut self, event: Event) -> u64 {
        self.last += 1;
        let is_log = matches!(event, Event::Log(_));
        let numbered = (self.last, Arc::new(event));
        if matches!(*numbered.1, Event::Progress(_)) {
            self.progress = Some(numbered);
            return self.last;
        }
        self.kept.push_back(numbered);
        if is_log {
            self.logs += 1;
            if self.logs > MAX_LOGS
                && let Some(oldest) = self
                    .kept
                    .iter()
                    .position(|(_, event)| matches!(**event, Event::Log(_)))
            {
                self.kept.remove(oldest);
                self.logs -= 1;
            }
        }
        if self.kept.len() > MAX_EVENTS
            && let Some((_, event)) = self.kept.pop_front()
            && matches!(*event, Event::Log(_))
        {
            self.logs -= 1;
        }
        self.last
    }

    /// Kept events with a number above `seen`, in order.
    pub(super) fn after(&self, seen: u64) -> Vec<Numbered> {
        let from = self.kept.partition_point(|(id, _)| *id <= seen);
        let mut events: Vec<Numbered> = self.kept.range(from..).cloned().collect();
        if let Some(progress) = self.progress.as_ref().filter(|(id, _)| *id > seen) {
            let at = events.partition_point(|(id, _)| *id < progress.0);
            events.insert(at, progress.clone());
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use plexbeam_api::event::{LogLevel, LogLine, Progress};

    fn log(n: usize) -> Event {
        Event::Log(LogLine {
            level: LogLevel::Info,
            message: n.to_string(),
        })
    }

    fn ids(events: &[Numbered]) -> Vec<u64> {
        events.iter().map(|(id, _)| *id).collect()
    }

    #[test]
    fn resuming_gives_what_came_after_with_one_progress() {
        let mut history = History::default();
        history.push(log(1));
        history.push(Event::Progress(Progress::default()));
        history.push(Event::Progress(Progress::default()));
        history.push(log(4));
        assert_eq!(ids(&history.after(0)), [1, 3, 4]);
        assert_eq!(ids(&history.after(1)), [3, 4]);
        assert_eq!(ids(&history.after(3)), [4]);
        assert!(history.after(4).is_empty());
        assert!(history.after(99).is_empty());
    }

    #[test]
    fn logs_are_bounded() {
        let mut history = History::default();
        for n in 0..2 * MAX_LOGS {
            history.push(log(n));
        }
        let kept = history.after(0);
        assert_eq!(kept.len(), MAX_LOGS);
        assert_eq!(kept[0].0, MAX_LOGS as u64 + 1);
    }
}
