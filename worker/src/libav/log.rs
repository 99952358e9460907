//! What libav and the drivers behind it say, kept for reports.
//!
//! A driver's own words come by libav's log only; its return codes are generic. The callback is
//! process-wide and called on any thread, hence [`capture`] takes what its own thread says and what
//! threads say that capture nothing themselves (a codec's workers).

use super::text;
use ffmpeg_next::ffi;
use parking_lot::Mutex;
use std::{
    cell::RefCell,
    collections::VecDeque,
    ffi::{c_char, c_int, c_void},
    sync::{Arc, Once},
    thread::{self, ThreadId},
};

/// Most lines that one capture keeps; the first ones say what went wrong.
const MAX_LINES: usize = 12;
/// Longest line, in bytes with the end.
const MAX_LINE: usize = 512;

struct Capture {
    thread: ThreadId,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    errors: Vec<String>,
    /// The newest lines below errors: some drivers' reasons are no more than remarks to libav.
    remarks: VecDeque<String>,
}

static CAPTURES: Mutex<Vec<Arc<Capture>>> = Mutex::new(Vec::new());

thread_local! {
    /// A line that has no end yet, and whether the next piece starts one.
    static PENDING: RefCell<(String, c_int)> = const { RefCell::new((String::new(), 1)) };
}

/// Lets libav speak errors only: to standard error, and to captures. Process-wide.
pub fn errors_only() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: sets process-wide values; the callback has the type that the binding states and
        // lives for ever.
        unsafe {
            ffi::av_log_set_level(ffi::AV_LOG_ERROR as c_int);
            ffi::av_log_set_callback(Some(on_line));
        }
    });
}

/// Runs `work` and gives back what libav said meanwhile, oldest first: errors, or without any the
/// last remarks.
pub fn capture<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    errors_only();
    let own = Arc::new(Capture {
        thread: thread::current().id(),
        said: Mutex::default(),
    });
    CAPTURES.lock().push(own.clone());
    let result = work();
    CAPTURES.lock().retain(|known| !Arc::ptr_eq(known, &own));
    let said = std::mem::take(&mut *own.said.lock());
    let lines = match said.errors.is_empty() {
        true => said.remarks.into(),
        false => said.errors,
    };
    (result, lines)
}

/// libav's log callback.
///
/// # Safety
/// Called by libav: `source` is null or starts with a class pointer, `format` and `values` fit.
unsafe extern "C" fn on_line(
    source: *mut c_void,
    level: c_int,
    format: *const c_char,
    values: *mut ffi::__va_list_tag,
) {
    // The upper bits are a tint.
    let rank = level & 0xff;
    let is_error = rank <= ffi::AV_LOG_ERROR as c_int;
    let wanted = is_error || (rank <= ffi::AV_LOG_VERBOSE as c_int && !CAPTURES.lock().is_empty());
    if !wanted {
        return;
    }
    let mut buffer = [0 as c_char; MAX_LINE];
    let finished = PENDING.try_with(|pending| {
        // Re-entered only if formatting logged itself, which it does not.
        let Ok(mut pending) = pending.try_borrow_mut() else {
            return None;
        };
        let (line, starts) = &mut *pending;
        // SAFETY: all arguments are as libav gave them; the call writes a terminated text into the
        // buffer's length.
        let piece = unsafe {
            ffi::av_log_format_line2(
                source,
                level,
                format,
                values,
                buffer.as_mut_ptr(),
                MAX_LINE as c_int,
                starts,
            );
            text(buffer.as_ptr())
        };
        line.push_str(&piece.unwrap_or_default());
        let whole = line.ends_with('\n') || line.len() > MAX_LINE;
        whole.then(|| std::mem::take(line))
    });
    if let Ok(Some(line)) = finished {
        keep(&plain(&line), is_error);
    }
}

fn keep(line: &str, is_error: bool) {
    use std::io::Write;
    if line.is_empty() {
        return;
    }
    if is_error {
        // The worker reads a job's standard error for the reason of its end.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    let here = thread::current().id();
    let captures = CAPTURES.lock();
    let own = captures.iter().any(|capture| capture.thread == here);
    for capture in captures.iter() {
        if own && capture.thread != here {
            continue;
        }
        let Said { errors, remarks } = &mut *capture.said.lock();
        if !is_error {
            if remarks.len() == MAX_LINES {
                remarks.pop_front();
            }
            remarks.push_back(line.to_owned());
        } else if errors.len() < MAX_LINES && errors.last().is_none_or(|last| last != line) {
            errors.push(line.to_owned());
        }
    }
}

/// A line without its end, control characters, and the address that says nothing to a person:
/// `[h264_nvenc @ 0x5581] Cannot load` becomes `h264_nvenc: Cannot load`.
fn plain(line: &str) -> String {
    let line: String = line
        .trim()
        .chars()
        .map(|ch| if ch.is_control() { ' ' } else { ch })
        .collect();
    let parts = line
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "));
    match parts.and_then(|(source, words)| Some((source.split_once(" @ ")?.0, words))) {
        Some((source, words)) => format!("{source}: {words}"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::libav::{Encoder, Frame, Rational, VideoSettings};

    #[test]
    fn addresses_are_left_out() {
        assert_eq!(
            plain("[h264_nvenc @ 0x55d0] Cannot load libcuda.so.1\n"),
            "h264_nvenc: Cannot load libcuda.so.1"
        );
        assert_eq!(plain("[a b] c"), "[a b] c");
    }

    #[test]
    fn a_thread_hears_its_own_failures_only() {
        let fail = |name: &'static str| {
            capture(move || {
                let settings = VideoSettings {
                    time_base: Rational { num: 1, den: 25 },
                    frame_rate: Rational { num: 25, den: 1 },
                    global_header: false,
                    threads: 1,
                };
                let frame = Frame::new().unwrap();
                let bad = [("preset".to_owned(), "no-such-preset".to_owned())];
                Encoder::open_video(name, &frame, settings, &bad).is_err()
            })
        };
        let other = thread::spawn(move || fail("libx265"));
        let (failed, lines) = fail("libx264");
        let (other_failed, other_lines) = other.join().unwrap();
        assert!(failed && other_failed);
        assert!(!lines.is_empty() && !other_lines.is_empty());
        assert!(lines.iter().all(|l| !l.contains("x265")), "{lines:?}");
        assert!(
            other_lines.iter().all(|l| !l.contains("x264")),
            "{other_lines:?}"
        );
    }
}
