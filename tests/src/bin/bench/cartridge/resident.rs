//! The memory of a cartridge that plays, and the size of its file.

use super::{Bench, Start};
use crate::figure::Figure;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Most resident memory, MiB.
const GOAL: f64 = 12.0;
/// How long it is watched.
const WATCH: Duration = Duration::from_secs(8);
const MIB: f64 = (1 << 20) as f64;

/// Watches one that plays through the mount, and one that downloads.
pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Figure>, String> {
    let mounted = peak(bench, &bench.stage.mount.point)?;
    let plain = peak(bench, &bench.stage.env.dir("plain"))?;
    let size = fs::metadata(bench.cartridge).map_err(|e| e.to_string())?;
    let size = size.len() as f64 / MIB;
    println!(
        "resident memory           {mounted:.1} MiB in the mount, {plain:.1} MiB with downloads, at their peaks"
    );
    println!("the program's file        {size:.1} MiB");
    Ok(vec![
        Figure::less("cartridge_resident_mib", mounted.max(plain), "MiB").goal(GOAL),
        Figure::less("cartridge_file_mib", size, "MiB"),
    ])
}

/// Peak of the resident memory of a cartridge that plays into this directory, MiB.
fn peak(bench: &Bench<'_>, dir: &Path) -> Result<f64, String> {
    let Start {
        mut child, logs, ..
    } = bench.start("resident", dir)?;
    let began = Instant::now();
    let mut peak = 0.0;
    while began.elapsed() < WATCH {
        let path = format!("/proc/{}/status", child.id());
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let Some(kib) = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok())
        else {
            break;
        };
        peak = kib / 1024.0;
        std::thread::sleep(Duration::from_millis(20));
    }
    let log = crate::stage::session_log(&logs);
    bench.forget(&mut child);
    if log.contains("first segment: number") {
        Ok(peak)
    } else {
        Err(format!("nothing was played: {log}"))
    }
}
