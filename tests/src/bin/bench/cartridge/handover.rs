//! What a start costs that stays on this host: the cartridge between PMS and the original.

use super::{MS, percentile};
use crate::{
    Context,
    figure::{Figure, median},
};
use plexbeam_tests::{TestEnv, argv, env};
use std::{
    ffi::OsString,
    fs,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Instant,
};

/// By how much a start may be longer than the original's own, milliseconds.
const GOAL: f64 = 3.0;
/// Starts of each kind.
const STARTS: usize = 200;
/// The original: the smallest program that there is, so that its own start drowns nothing.
const ORIGINAL: &str = "/bin/true";

/// Times the original alone and behind the cartridge, in turns.
pub(super) fn run(with: &Context) -> Result<Vec<Figure>, String> {
    let env = TestEnv::new("bench-handover");
    let config = env.root().join("cartridge.toml");
    let text = "workers = [\"http://192.0.2.1:8765\"]\napi_key = \"key\"\n";
    fs::write(&config, text).map_err(|e| e.to_string())?;
    let dir = env.dir("plex-transcode-a-b");
    let settings: [(&str, OsString); 3] = [
        ("PLEXBEAM_CONFIG", config.into()),
        ("PLEXBEAM_ORIGINAL", ORIGINAL.into()),
        ("PLEXBEAM_LOG_DIR", env.dir("log").into()),
    ];
    let start = |program: &Path, argv: &[String]| -> Result<f64, String> {
        let mut command = env::clean(Command::new(program));
        command
            // Under its own name the cartridge is the administrator's tool.
            .arg0("/usr/lib/plexmediaserver/Plex Transcoder")
            .args(argv)
            .current_dir(&dir)
            .envs(settings.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let status = command.status().map_err(|e| e.to_string())?;
        let took = began.elapsed().as_secs_f64() * MS;
        if status.success() {
            Ok(took)
        } else {
            Err(format!("{}: {status}", program.display()))
        }
    };
    // A thumbnail is told by its first look, a copy of the video only when all is read.
    let mut figures = Vec::new();
    for (name, id) in [("thumbnail", "nv-th1"), ("copied_video", "mc-01")] {
        let line = argv::line(id);
        let (mut alone, mut behind) = (Vec::new(), Vec::new());
        for n in 0..STARTS + 5 {
            let one = start(Path::new(ORIGINAL), &line.argv)?;
            let other = start(&with.cartridge, &line.argv)?;
            if n >= 5 {
                alone.push(one);
                behind.push(other);
            }
        }
        let over: Vec<f64> = alone.iter().zip(&behind).map(|(a, b)| b - a).collect();
        let middle = median(over.clone());
        println!(
            "{name:<14} original alone {:.2} ms, behind the cartridge {:.2} ms: {middle:.2} ms more (99 of 100: {:.2})",
            median(alone),
            median(behind),
            percentile(over, 99),
        );
        figures.push(Figure::less(format!("handover_{name}_ms"), middle, "ms").goal(GOAL));
    }
    Ok(figures)
}
