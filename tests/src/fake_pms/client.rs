//! The player behind PMS: reads what is announced, in order, at its pace.

use super::{Goal, Live, Pace, Rule, Run, child::Child, job, job::Job};
use crate::argv::{Packaging, Shape};
use rustix::process::Signal;
use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

/// A player behind PMS.
pub(super) struct Client<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) job: &'a Job,
    pub(super) shape: &'a Shape,
    pub(super) dir: &'a Path,
    pub(super) kept: Option<&'a Path>,
    pub(super) started: Instant,
    pub(super) segments: u64,
    pub(super) bytes: u64,
    pub(super) first: Option<Duration>,
}

impl Client<'_> {
    /// Reads segments in order until the goal is reached or nothing more comes.
    pub(super) fn watch(&mut self, goal: Goal, child: &mut Child) {
        let after = match goal {
            Goal::Film => u32::MAX,
            Goal::Kill(after, _) => after,
        };
        let mut number = self.shape.first;
        while number - self.shape.first < after {
            match self.job.wait_for(number, self.run.play.patience) {
                job::Next::Ready(end) => {
                    self.pace(end - self.shape.seconds);
                    if !self.read_number(number) {
                        return;
                    }
                    self.job.client_is_at(end);
                    number += 1;
                }
                job::Next::Ended => return,
                job::Next::Starved => {
                    if child.running() {
                        self.job.fault(
                            Rule::ClientStarved,
                            format!("no segment {number} within {:?}", self.run.play.patience),
                        );
                        child.end(Signal::KILL);
                    }
                    return;
                }
            }
        }
    }

    /// Holds the client back to its pace; `begin` is the media time of what comes next.
    fn pace(&self, begin: f64) {
        let Pace::Times(times) = self.run.play.pace else {
            return;
        };
        let base = self.shape.seek.unwrap_or(0.0);
        let due = Duration::from_secs_f64(((begin - base) / times).max(0.0));
        // A player's clock, not a wait for anything.
        while let Some(left) = due.checked_sub(self.started.elapsed()) {
            if left.is_zero() || self.job.has_ended() {
                return;
            }
            thread::park_timeout(left.min(Duration::from_millis(50)));
        }
    }

    fn read_number(&mut self, number: u32) -> bool {
        let mut names = Vec::new();
        match &self.shape.packaging {
            Packaging::Dash { init, media, .. } => {
                for id in self.job.track_ids() {
                    if number == self.shape.first {
                        names.push((Shape::dash_name(init, &id, None), false));
                    }
                    names.push((Shape::dash_name(media, &id, Some(number)), true));
                }
            }
            Packaging::Segment { media, header, .. } => {
                if let (Some(header), true) = (header, number == self.shape.first) {
                    names.push((header.clone(), false));
                }
                names.push((Shape::segment_name(media, number), true));
            }
        }
        for (name, is_media) in names {
            let Some(bytes) = self.job.read_file(self.dir, &name) else {
                return false;
            };
            self.bytes += bytes.len() as u64;
            self.segments += u64::from(is_media);
            if let Some(kept) = self.kept
                && let Err(error) = fs::write(kept.join(&name), &bytes)
            {
                self.job
                    .fault(Rule::Read, format!("keep a copy of {name}: {error}"));
            }
        }
        self.first.get_or_insert_with(|| self.started.elapsed());
        if let Some(live) = self.run.play.live {
            live(Live {
                segments: self.run.before.0 + self.segments,
                bytes: self.run.before.1 + self.bytes,
                wall: self.run.began.elapsed(),
                media: f64::from(number + 1 - self.shape.first) * self.shape.seconds,
                first: self.first,
            });
        }
        true
    }
}
