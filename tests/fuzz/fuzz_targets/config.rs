//! The settings' file and two variables over it: any bytes give settings or an error, and the original
//! transcoder is found whatever they are.
//!
//! The input is the file, then after a zero byte the value of one variable.

#![no_main]

use libfuzzer_sys::fuzz_target;
use plexbeam_cartridge::config::{self, Config};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::LazyLock;

/// Of this process alone.
static FILE: LazyLock<OsString> = LazyLock::new(|| {
    let name = format!("plexbeam-fuzz-{}.toml", std::process::id());
    std::env::temp_dir().join(name).into()
});

const VARIABLES: [&str; 6] = [
    "PLEXBEAM_WORKERS",
    "PLEXBEAM_API_KEY",
    "PLEXBEAM_FALLBACK_TO_LOCAL",
    "PLEXBEAM_COPY_VIDEO",
    "PLEXBEAM_KEEP_LOCAL",
    "PLEXBEAM_ORIGINAL",
];

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |b| *b == 0);
    let file = parts.next().unwrap_or_default();
    let value = parts.next().unwrap_or_default();
    let odd = VARIABLES[data.len() % VARIABLES.len()];
    if std::fs::write(&*FILE, file).is_err() {
        return;
    }
    let env = |name: &str| match name {
        "PLEXBEAM_CONFIG" => Some(FILE.clone()),
        // No variable holds a zero byte.
        _ if name == odd && !value.contains(&0) => Some(OsStr::from_bytes(value).to_owned()),
        _ => None,
    };
    if let Err(error) = Config::load(&env) {
        assert!(!error.to_string().is_empty());
    }
    let original = config::original(&env, OsStr::new("/p/Plex Transcoder"), None);
    assert!(!original.as_os_str().is_empty());
});
