//! Times of packets that jump ahead: one is damage, many in a row are the film's.
//!
//! A flipped bit may put one picture years ahead; taken at its word, all up to there would be filled
//! with repeated pictures and silence. `ffmpeg` drops such times, too (`-dts_error_threshold`).

use crate::libav::{MICROS, NOPTS, Rational, rescale};
use std::collections::HashMap;

/// No stream of a film pauses longer than this while the others do, too.
const JUMP_US: i64 = 3_600_000_000;
/// So many in a row are believed.
const MOST_DOUBTED: u32 = 64;

/// What an input's streams have shown of their times.
pub(super) struct Jumps {
    /// The latest that is believed, microseconds.
    latest_us: i64,
    /// Packets in a row that are not.
    doubted: u32,
    streams: HashMap<usize, Last>,
}

/// A stream's last packet, in its time base.
struct Last {
    at: i64,
    step: i64,
}

impl Jumps {
    /// Of an input that is read from here on.
    pub(super) fn new(from_us: i64) -> Self {
        Jumps {
            latest_us: from_us,
            doubted: 0,
            streams: HashMap::new(),
        }
    }

    /// Presentation and decoding time of the stream's next packet: as they are or, where they are
    /// not believed, right behind the packet before; unknown where there was none.
    pub(super) fn mend(
        &mut self,
        stream: usize,
        (pts, dts): (i64, i64),
        duration: i64,
        base: Rational,
    ) -> (i64, i64) {
        let at = if dts == NOPTS { pts } else { dts };
        if at == NOPTS {
            return (pts, dts);
        }
        // Of both times: either may be the damaged one. None at all is beyond what can be counted.
        let here = rescale(at.max(pts), base, MICROS);
        let likely = here != NOPTS && here <= self.latest_us.saturating_add(JUMP_US);
        if likely || self.doubted == MOST_DOUBTED {
            self.doubted = 0;
            self.latest_us = self.latest_us.max(here);
            let before = self
                .streams
                .get(&stream)
                .map(|last| at.saturating_sub(last.at));
            let step = match before {
                _ if duration > 0 => duration,
                Some(step) if step > 0 => step,
                Some(_) | None => 0,
            };
            self.streams.insert(stream, Last { at, step });
            return (pts, dts);
        }
        self.doubted += 1;
        let Some(last) = self.streams.get_mut(&stream) else {
            return (NOPTS, NOPTS);
        };
        last.at = last.at.saturating_add(last.step);
        if dts == NOPTS || pts == NOPTS {
            let put = |time| if time == NOPTS { NOPTS } else { last.at };
            return (put(pts), put(dts));
        }
        // Pictures are shown in another order than they are decoded in, by less than a second; so both
        // were damaged together, or the order is lost with them.
        let reorder = pts.saturating_sub(dts);
        let second = rescale(1_000_000, MICROS, base).max(1);
        if (0..=second).contains(&reorder) {
            (last.at.saturating_add(reorder), last.at)
        } else {
            (NOPTS, last.at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLIS: Rational = Rational { num: 1, den: 1000 };

    /// Times of a stream of 25 pictures a second that are shown 80 ms after they are decoded.
    fn mend(jumps: &mut Jumps, dts: i64) -> (i64, i64) {
        jumps.mend(0, (dts + 80, dts), 0, MILLIS)
    }

    #[test]
    fn one_wild_time_is_put_where_it_belongs() {
        let mut jumps = Jumps::new(0);
        for n in 0..200 {
            let right = (40 * n + 80, 40 * n);
            let dts = if n == 100 { 1 << 30 } else { 40 * n };
            assert_eq!(mend(&mut jumps, dts), right, "picture {n}");
        }
        // Where only one of the two is wild nobody knows when the picture is to be shown.
        let wild = jumps.mend(0, (1 << 30, 8000), 40, MILLIS);
        assert_eq!(wild, (NOPTS, 8000));
        let most = jumps.mend(0, (i64::MAX, i64::MAX), 40, Rational { num: 1, den: 1 });
        assert_eq!(most, (8040, 8040));
    }

    #[test]
    fn many_in_a_row_are_believed() {
        let mut jumps = Jumps::new(0);
        for n in 0..10 {
            mend(&mut jumps, 40 * n);
        }
        let far = 7_200_000;
        let believed: Vec<bool> = (0..100)
            .map(|n| mend(&mut jumps, far + 40 * n).1 >= far)
            .collect();
        assert_eq!(believed.iter().position(|yes| *yes), Some(64));
        assert!(believed[64..].iter().all(|yes| *yes));
    }

    /// A title of which only the end is played begins where it begins, and a stream may be silent
    /// while another one goes on.
    #[test]
    fn a_late_start_is_no_jump() {
        let mut jumps = Jumps::new(7_200_000_000);
        assert_eq!(mend(&mut jumps, 7_201_000), (7_201_080, 7_201_000));
        for second in 0..7200 {
            mend(&mut jumps, 7_201_000 + second * 1000);
        }
        let sound = (14_400_000, 14_400_000);
        assert_eq!(jumps.mend(1, sound, 20, MILLIS), sound);
    }

    /// Also where it goes back, as in recordings that were put together.
    #[test]
    fn what_is_unknown_or_behind_stays() {
        let mut jumps = Jumps::new(0);
        assert_eq!(jumps.mend(0, (NOPTS, NOPTS), 40, MILLIS), (NOPTS, NOPTS));
        for second in 0..=5000 {
            mend(&mut jumps, second * 1000);
        }
        assert_eq!(mend(&mut jumps, 0), (80, 0));
    }
}
