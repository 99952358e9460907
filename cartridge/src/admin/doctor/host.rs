//! This host: settings, Plex's folder, logs.

use super::{Checks, Doctor};
use crate::admin::signature::{Look, look};
use crate::admin::swap::Names;
use crate::config::{self, Config};
use crate::log::apart;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// The settings as the transcoder will read them.
pub(super) fn settings(doctor: &Doctor, checks: &mut Checks) -> Option<Config> {
    let path = doctor.root.config();
    let config = match Config::load(&doctor.root.env()) {
        Ok(config) => config,
        Err(error) => {
            let fix = format!("correct {}: until then every job runs here", path.display());
            checks.fail("settings", error.to_string(), fix);
            return None;
        }
    };
    let workers = config.workers.len();
    match &config.api_key {
        Some(_) => checks.ok("settings", format!("a key, {workers} worker(s) named")),
        None => checks.warn(
            "settings",
            format!("no key, {workers} worker(s) named"),
            format!("put the workers' key into {} as api_key", path.display()),
        ),
    }
    let Ok(meta) = path.metadata() else {
        checks.skip("settings_file", format!("{} is not there", path.display()));
        return Some(config);
    };
    let mode = meta.mode() & 0o777;
    let user = doctor.root.user();
    let unreadable = user.as_ref().filter(|user| {
        let bit = match (meta.uid() == user.uid, meta.gid() == user.gid) {
            (true, _) => 0o400,
            (false, true) => 0o040,
            (false, false) => 0o004,
        };
        user.uid != 0 && mode & bit == 0
    });
    let shown = path.display();
    match unreadable {
        Some(user) => checks.fail(
            "settings_file",
            format!("{} cannot read {shown} (mode {mode:o})", user.name),
            format!("chgrp {} {shown} && chmod 640 {shown}", user.gid),
        ),
        None if mode & 0o004 != 0 && config.api_key.is_some() => checks.warn(
            "settings_file",
            format!("everybody can read the key (mode {mode:o})"),
            format!("chmod 640 {shown}, with the group that Plex runs as"),
        ),
        None => checks.ok("settings_file", format!("mode {mode:o}")),
    }
    Some(config)
}

/// Plex's folder and who is in the transcoder's place.
pub(super) fn plex(doctor: &Doctor, checks: &mut Checks) {
    let plex = match doctor.root.plex(doctor.plex_dir.as_deref()) {
        Ok(plex) => plex,
        Err(error) => {
            checks.fail("plex", error.to_string(), error.hint().unwrap_or_default());
            checks.skip("transcoder", "no Plex");
            checks.skip("original", "no Plex");
            return;
        }
    };
    let version = doctor.root.plex_version(&plex.dir);
    let version = version.as_deref().unwrap_or("of unknown version");
    checks.ok(
        "plex",
        format!("{version} in {} ({})", plex.dir.display(), plex.kind),
    );
    let names = Names::of(&doctor.root.at(&plex.dir));
    let install = "run `plexbeam-cartridge install`";
    match look(&names.transcoder) {
        Ok(Look::Cartridge { version, .. }) if version == env!("CARGO_PKG_VERSION") => {
            checks.ok("transcoder", format!("the cartridge, {version}"));
        }
        Ok(Look::Cartridge { version, .. }) => checks.warn(
            "transcoder",
            format!(
                "the cartridge {version}, this tool is {}",
                env!("CARGO_PKG_VERSION")
            ),
            install,
        ),
        Ok(Look::Original { .. }) => {
            let fix = format!("{install}, and see that the watchdog runs");
            checks.fail(
                "transcoder",
                "it is Plex's own: not installed, or replaced by an update",
                fix,
            );
        }
        Ok(other) => checks.fail("transcoder", format!("it is {}", other.word()), install),
        Err(error) => checks.fail("transcoder", error.to_string(), "run this as root"),
    }
    match look(&names.real) {
        Ok(Look::Original { facts, .. }) => {
            checks.ok(
                "original",
                format!("{} bytes, md5 {}", facts.size, facts.md5),
            );
        }
        Ok(Look::Cartridge { .. }) => checks.fail(
            "original",
            "`Plex Transcoder.real` is a cartridge, too: Plex's own was overwritten",
            "install Plex anew, then run `plexbeam-cartridge install`",
        ),
        Ok(other) => checks.fail(
            "original",
            format!(
                "`Plex Transcoder.real` is {}: nothing can run here",
                other.word()
            ),
            "install Plex anew, then run `plexbeam-cartridge install`",
        ),
        Err(error) => checks.fail("original", error.to_string(), "run this as root"),
    }
}

/// Can logs be written?
pub(super) fn logs(doctor: &Doctor, checks: &mut Checks) {
    let dir = doctor.root.log_dir();
    // First, because nothing bounds what this process does there itself.
    if let Err(error) = apart::readable(&dir, None)
        && error.kind() == std::io::ErrorKind::TimedOut
    {
        let fact = format!("{} does not answer", dir.display());
        let fix =
            "see that the share or mount with that folder answers, or set log_dir to another one";
        checks.warn("logs", fact, fix);
        return;
    }
    let probe = dir.join(format!(".doctor-{}", std::process::id()));
    let written = fs::write(&probe, "x").and_then(|()| fs::remove_file(&probe));
    let fix = format!("make {} a folder that Plex's user may write", dir.display());
    if let Err(error) = written {
        checks.warn("logs", format!("{}: {error}", dir.display()), fix);
        return;
    }
    let owner = fs::metadata(&dir).map_or(0, |meta| meta.uid());
    match doctor.root.user() {
        Some(user) if user.uid != owner && dir.metadata().is_ok_and(|m| m.mode() & 0o002 == 0) => {
            checks.warn(
                "logs",
                format!("{} does not own {}", user.name, dir.display()),
                fix,
            );
        }
        _ => checks.ok("logs", dir.display().to_string()),
    }
}

/// Where the settings are looked for below a root, and the rest of the environment.
impl crate::admin::places::Root {
    /// The environment, with this root's settings file unless another one is named.
    pub(in crate::admin) fn env(&self) -> impl Fn(&str) -> Option<std::ffi::OsString> {
        let path = self.config();
        move |name| match (name, std::env::var_os(name)) {
            ("PLEXBEAM_CONFIG", None) if path.exists() => Some(path.clone().into_os_string()),
            ("PLEXBEAM_CONFIG", None) if path != std::path::Path::new(config::CONFIG) => None,
            (_, value) => value,
        }
    }
}
