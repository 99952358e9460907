//! Processor time of a process, by `/proc/PID/stat`.

use std::fs;

/// Fields of `/proc/PID/stat` from the state on, which is field 3 (proc(5)); none where it is gone.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after.split(' ').map(str::to_owned).collect()
}

/// Two of its fields of ticks of 1/100 s, seconds.
fn ticks(fields: &[String], first: usize) -> Option<f64> {
    let of = |at: usize| fields.get(at - 3)?.parse::<f64>().ok();
    Some((of(first)? + of(first + 1)?) / 100.0)
}

/// Processor seconds of a process itself: utime, stime.
pub(crate) fn spent(pid: u32) -> Option<f64> {
    ticks(&stat(pid), 14)
}

/// Processor seconds of a process's children that have ended and were waited for (proc(5): cutime,
/// cstime, in ticks of 1/100 s).
pub(crate) fn ended_children_cpu(pid: u32) -> f64 {
    ticks(&stat(pid), 16).unwrap_or_default()
}
