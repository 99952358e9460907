//! A [`Probe`] for people.

use super::Probe;
use plexbeam_api::session::DeviceReport;
use std::fmt::Write;

/// The table that `plexbeam-worker probe` prints: a line per thing tried, and under what failed the
/// words of libav and the driver.
pub fn text(probe: &Probe) -> String {
    let mut out = format!("{}\n", probe.ffmpeg);
    for report in &probe.devices {
        device(&mut out, report);
    }
    let used: Vec<String> = probe
        .capabilities
        .iter()
        .map(|can| format!("{} {}", can.kind, can.address))
        .collect();
    let order = match used.is_empty() {
        true => "the processor".to_owned(),
        false => format!("{}, then the processor", used.join(", ")),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "\nJobs go to {order}.");
    out
}

fn device(out: &mut String, report: &DeviceReport) {
    let address = report.address.as_deref().unwrap_or_default();
    let name = format!("{} {address}", report.name);
    let _ = writeln!(out, "\n{}", name.trim_end());
    if report.checks.is_empty() {
        let why = report.error.as_deref().unwrap_or("nothing was tried");
        let _ = writeln!(out, "  {why}");
    }
    for check in &report.checks {
        let verdict = if check.ok { "ok" } else { "FAILED" };
        let _ = writeln!(out, "  {:<30} {verdict:<7}{:>6} ms", check.step, check.ms);
        if check.ok {
            continue;
        }
        for line in check.error.iter().chain(&check.log) {
            let _ = writeln!(out, "      {line}");
        }
    }
}
