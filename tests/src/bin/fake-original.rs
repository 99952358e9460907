//! Stands in for Plex's own transcoder: writes down its argv, environment and working directory
//! (`FAKE_ORIGINAL_RECORD=FILE`) and, with `FAKE_ORIGINAL_TRANSCODE=1`, does the job with ffmpeg.

use plexbeam_tests::original::{EXIT, RECORD, Record, TRANSCODE, transcode};
use std::{env, path::Path, process::ExitCode};

fn main() -> ExitCode {
    if let Some(path) = env::var_os(RECORD)
        && let Err(error) = Record::here().and_then(|r| r.write(Path::new(&path)))
    {
        eprintln!("fake-original: {error}");
        return ExitCode::from(2);
    }
    if env::var_os(TRANSCODE).is_some_and(|v| v == "1") {
        return match transcode() {
            Ok(code) => ExitCode::from(code as u8),
            Err(error) => {
                eprintln!("fake-original: {error}");
                ExitCode::from(1)
            }
        };
    }
    let code = env::var(EXIT).ok().and_then(|c| c.parse().ok());
    ExitCode::from(code.unwrap_or(0))
}
