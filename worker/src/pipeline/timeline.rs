//! The title's timeline (P7): which frame number a picture has, where keys are forced, where a
//! segment ends, which samples an audio frame covers. All of it is exact integer arithmetic and
//! depends on nothing but the title and the job's settings, so that every worker, from every start,
//! comes to the same answer.

use crate::libav::{MICROS, NOPTS, Rational, rescale};
use plexbeam_api::job::{ForcedKeys, Packaging};

/// Seconds as exact microseconds; job times have at most that precision.
pub(super) fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

fn ceil_div(a: i128, b: i128) -> i64 {
    (a.div_euclid(b) + i128::from(a.rem_euclid(b) != 0)) as i64
}

/// Compares two times in different time bases.
pub(super) fn compare(a: i64, a_base: Rational, b: i64, b_base: Rational) -> std::cmp::Ordering {
    let a = i128::from(a) * i128::from(a_base.num) * i128::from(b_base.den);
    let b = i128::from(b) * i128::from(b_base.num) * i128::from(a_base.den);
    a.cmp(&b)
}

/// Frames at n / rate, counted from the title's zero.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameGrid {
    rate: Rational,
}

impl FrameGrid {
    pub(super) fn new(rate: Rational) -> Self {
        FrameGrid { rate }
    }

    /// Seconds per frame; the encoder's time base.
    pub(super) fn time_base(&self) -> Rational {
        Rational {
            num: self.rate.den,
            den: self.rate.num,
        }
    }

    /// Number of the first frame at or after a time.
    pub(super) fn first_at(&self, time_us: i64) -> i64 {
        let scaled = i128::from(time_us) * i128::from(self.rate.num);
        ceil_div(scaled, i128::from(self.rate.den) * 1_000_000)
    }

    /// Number of the frame that a picture becomes. `first`: time of the stream's first picture.
    ///
    /// The frame nearest to the first picture's time, and from there the count of frames to this
    /// one. Containers round times, Matroska to milliseconds; pictures that lie half a frame off the
    /// grid, as where the sound begins earlier, would else go to either side at random.
    pub(super) fn number(&self, pts: i64, base: Rational, first: (i64, Rational)) -> i64 {
        let (start, start_base) = first;
        // Ticks of a quarter of a frame and more, as `fps` gives them, are exact.
        let frames = i64::from(base.num) * i64::from(self.rate.num);
        let ticks = i64::from(base.den) * i64::from(self.rate.den);
        if start == NOPTS || i128::from(frames) * 4 > i128::from(ticks) {
            return self.nearest(pts, base);
        }
        let start = rescale(start, start_base, base);
        self.nearest(start, base) + self.nearest(pts.saturating_sub(start), base)
    }

    /// Number of the frame nearest to a time, halves up: also below zero, so that a shift by whole
    /// frames never changes the answer.
    fn nearest(&self, ticks: i64, base: Rational) -> i64 {
        let frames = i128::from(base.num) * i128::from(self.rate.num);
        let ticks_each = i128::from(base.den) * i128::from(self.rate.den);
        let doubled = 2 * i128::from(ticks) * frames + ticks_each;
        doubled.div_euclid(2 * ticks_each) as i64
    }
}

/// Where keys are forced: at the first frame at or after each of these times.
#[derive(Debug, Clone)]
pub(super) enum KeyTimes {
    /// Multiples of this many microseconds.
    Every(i64),
    /// These, ascending.
    At(Vec<i64>),
}

impl KeyTimes {
    pub(super) fn new(keys: &ForcedKeys) -> Option<Self> {
        match keys {
            ForcedKeys::Every { seconds } => {
                let step = micros(*seconds);
                (step > 0).then_some(KeyTimes::Every(step))
            }
            ForcedKeys::Times { seconds } => {
                let mut times: Vec<i64> = seconds.iter().copied().map(micros).collect();
                times.sort_unstable();
                Some(KeyTimes::At(times))
            }
        }
    }

    /// Is frame `n` the first at or after one of the times?
    pub(super) fn is_key(&self, grid: &FrameGrid, n: i64) -> bool {
        // The frame covers (time of n - 1, time of n]; a key time inside makes it a key.
        let time = |n: i64| rescale_floor(n, grid.time_base());
        let (after, until) = (time(n - 1), time(n));
        match self {
            KeyTimes::Every(step) => grid.first_at(until.div_euclid(*step) * step) == n,
            KeyTimes::At(times) => {
                let from = times.partition_point(|t| *t < after);
                times[from..]
                    .iter()
                    .take_while(|t| **t <= until)
                    .any(|t| grid.first_at(*t) == n)
            }
        }
    }

    /// How many key times lie at or before a time; the key's number for pictures off the grid.
    pub(super) fn count_until(&self, time_us: i64) -> i64 {
        match self {
            KeyTimes::Every(step) => time_us.div_euclid(*step),
            KeyTimes::At(times) => times.partition_point(|t| *t <= time_us) as i64,
        }
    }
}

/// Microseconds of n ticks, rounded down.
fn rescale_floor(n: i64, base: Rational) -> i64 {
    let scaled = i128::from(n) * i128::from(base.num) * 1_000_000;
    scaled.div_euclid(i128::from(base.den)) as i64
}

/// When the segment being written ends (PROTOCOL 7): at the first key at or after
/// `base + (number - first + 1) * length - tolerance`.
#[derive(Debug, Clone, Copy)]
pub(super) struct CutRule {
    /// Segment length.
    pub(super) length_us: i64,
    /// How much earlier a key may come.
    pub(super) tolerance_us: i64,
    /// Number of the first segment.
    pub(super) first_number: u32,
}

impl CutRule {
    /// The rule of an output.
    pub(super) fn new(packaging: &Packaging) -> Self {
        let (length, tolerance, first_number) = match packaging {
            Packaging::Dash {
                segment_seconds,
                first_number,
                tolerance_seconds,
                ..
            }
            | Packaging::Segment {
                segment_seconds,
                first_number,
                tolerance_seconds,
                ..
            } => (*segment_seconds, *tolerance_seconds, *first_number),
            Packaging::Hls {
                segment_seconds,
                first_number,
                ..
            } => (*segment_seconds, 0.0, *first_number),
        };
        CutRule {
            length_us: micros(length),
            tolerance_us: micros(tolerance),
            first_number,
        }
    }

    /// Does a key at `pts` end segment `number`? `base_us` is the start of the job: the time asked
    /// for when the video is encoded (keys are forced on the title's grid), the first key's own
    /// time when it is copied.
    pub(super) fn ends(&self, number: u32, pts: i64, time_base: Rational, base_us: i64) -> bool {
        let count = i64::from(number) - i64::from(self.first_number) + 1;
        let boundary = base_us + count * self.length_us - self.tolerance_us;
        compare(pts, time_base, boundary, MICROS).is_ge()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NTSC_FILM: Rational = Rational {
        num: 24_000,
        den: 1001,
    };

    #[test]
    fn the_first_frame_at_or_after_a_time() {
        let grid = FrameGrid::new(NTSC_FILM);
        assert_eq!(grid.first_at(0), 0);
        // 42 s * 24000 / 1001 = 1006.99: frame 1007 at 42.0003 s.
        assert_eq!(grid.first_at(42_000_000), 1007);
        let exact = FrameGrid::new(Rational { num: 25, den: 1 });
        assert_eq!(exact.first_at(40_000), 1);
        assert_eq!(exact.first_at(40_001), 2);
    }

    /// Matroska's milliseconds, counted from sound that begins `early` ms before the pictures.
    #[test]
    fn pictures_off_the_grid_keep_their_distance() {
        let millis = Rational { num: 1, den: 1000 };
        for rate in [
            NTSC_FILM,
            Rational { num: 24, den: 1 },
            Rational { num: 60, den: 1 },
        ] {
            let grid = FrameGrid::new(rate);
            let frame = f64::from(rate.den) * 1000.0 / f64::from(rate.num);
            for early in 0..200 {
                let time = |n: i64| early + (n as f64 * frame).round() as i64;
                let first = (time(0), millis);
                let start = grid.number(time(0), millis, first);
                // Nowhere further than half a frame from where it belongs.
                assert!((start as f64 * frame - early as f64).abs() <= frame / 2.0 + 1e-9);
                for n in 0..2000 {
                    let number = grid.number(time(n), millis, first);
                    assert_eq!(number, start + n, "{rate:?}, {early} ms, picture {n}");
                }
            }
        }
    }

    #[test]
    fn a_key_per_interval_and_no_other() {
        for rate in [
            NTSC_FILM,
            Rational {
                num: 2997,
                den: 125,
            },
            Rational { num: 25, den: 1 },
        ] {
            let grid = FrameGrid::new(rate);
            for seconds in [1.0, 3.0, 5.0, 8.0] {
                let keys = KeyTimes::new(&ForcedKeys::Every { seconds }).unwrap();
                let wanted: Vec<i64> = (0..40)
                    .map(|i| grid.first_at(i * micros(seconds)))
                    .collect();
                let last = *wanted.last().unwrap();
                let found: Vec<i64> = (0..=last).filter(|n| keys.is_key(&grid, *n)).collect();
                assert_eq!(found, wanted, "{rate:?} every {seconds} s");
                let list: Vec<f64> = (0..40).map(|i| f64::from(i) * seconds).collect();
                let at = KeyTimes::new(&ForcedKeys::Times { seconds: list }).unwrap();
                let found: Vec<i64> = (0..=last).filter(|n| at.is_key(&grid, *n)).collect();
                assert_eq!(found, wanted, "list, {rate:?} every {seconds} s");
            }
        }
    }

    #[test]
    fn cuts_of_the_golden_mpd() {
        // plex-static.mpd: D = 5, keys at 10.37 and 20.79 s after the first, no tolerance given.
        let rule = CutRule {
            length_us: 5_000_000,
            tolerance_us: 62_500,
            first_number: 1,
        };
        let base = Rational {
            num: 1,
            den: 12_288,
        };
        let first_us = rescale(258, base, MICROS);
        assert!(rule.ends(1, 258 + 127_476, base, first_us));
        assert!(rule.ends(2, 258 + 127_476 + 128_004, base, first_us));
        assert!(!rule.ends(1, 258 + 4 * 12_288, base, first_us));
    }
}
