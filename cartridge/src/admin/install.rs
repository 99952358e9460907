//! `install` and `uninstall`. Both may be cut at any step and be run again.

use super::error::{Context, Error};
use super::events;
use super::files::{self, Owner, Steps};
use super::places::{Plex, Root, UNIT, User};
use super::signature::{Look, look};
use super::state::{Lock, State};
use super::swap::{self, Names, Put};
use crate::config;
use crate::http::Url;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

const TEMPLATE: &str = include_str!("../../../deploy/cartridge.toml");
const WATCHDOG_UNIT: &str = include_str!("../../../deploy/systemd/plexbeam-watchdog.service");
/// The command of the founding document.
const ANALYZE: &str = "analyze.sh";

/// What to install.
#[derive(Debug, Clone)]
pub struct Install {
    /// Below which directory.
    pub root: Root,
    /// Plex's folder, without the root; looked for when `None`.
    pub plex_dir: Option<PathBuf>,
    /// For new settings.
    pub worker: Option<String>,
    /// For new settings.
    pub api_key: Option<config::Secret>,
    /// This program.
    pub program: PathBuf,
}

/// Lines for the administrator.
pub type Report = Vec<String>;

impl Install {
    /// Says what [`Install::run`] would do.
    pub fn plan(&self) -> Result<Report, Error> {
        let plex = self.check()?;
        let root = &self.root;
        let mut report = vec![found(root, &plex)];
        let names = Names::of(&root.at(&plex.dir));
        let mut tell =
            |what: &str, path: &Path| report.push(format!("would {what} {}", path.display()));
        for dir in self.missing_dirs() {
            tell("make", &dir);
        }
        if !same(&self.program, &root.program())? {
            tell("copy this program to", &root.program());
        }
        if !root.config().exists() {
            tell("write", &root.config());
        }
        if self.wants_unit() && !root.at(UNIT).exists() {
            tell("write", &root.at(UNIT));
        }
        let there = look(&names.transcoder).on("read", &names.transcoder)?;
        let aside = look(&names.real).on("read", &names.real)?;
        match (&there, &aside) {
            (Look::Original { .. }, _) => {
                tell("keep the original as", &names.real);
                tell("put the cartridge in place as", &names.transcoder);
            }
            (Look::Missing, Look::Original { .. }) => {
                tell("put the cartridge in place as", &names.transcoder);
            }
            (Look::Cartridge { .. }, Look::Original { .. }) => {
                if !same(&self.program, &names.transcoder)? {
                    tell("replace the older cartridge", &names.transcoder);
                }
            }
            (Look::Cartridge { .. }, _) => return Err(Error::OriginalLost(names.transcoder)),
            (Look::Missing, _) => return Err(Error::NoTranscoder(plex.dir)),
            (Look::Unready(why), _) => {
                let why = why.clone();
                return Err(Error::NotWhole {
                    path: names.transcoder,
                    why,
                });
            }
        }
        if report.len() == 1 {
            report.push("nothing to do: it is installed".into());
        }
        Ok(report)
    }

    /// Installs, or finishes an installation, or renews it with this program.
    pub fn run(&self, steps: Steps<'_>) -> Result<Report, Error> {
        let plex = self.check()?;
        let root = &self.root;
        let dir = root.at(&plex.dir);
        let lock = Lock::take(root)?;
        let mut report = vec![found(root, &plex)];
        let mut state = match State::load(root)? {
            Some(state) if state.plex_dir == plex.dir => state,
            Some(state) if is_cartridge(&root.at(&state.plex_dir)) => {
                return Err(Error::Elsewhere(state.plex_dir));
            }
            Some(_) | None => State::new(&plex.dir),
        };
        state.removing = false;
        self.note(&mut state, &plex);
        steps("make the home").on("make", &root.home())?;
        make_dirs(&root.home())?;
        // Before the notes are there nobody else could set them again.
        state.set_times(root);
        state.save(root, &mut *steps)?;

        self.bring_home(&mut report, &mut *steps)?;
        let user = root.user();
        self.settings(user.as_ref(), &mut report, &mut *steps)?;
        self.logs(user.as_ref(), &mut *steps)?;
        if self.wants_unit() {
            let unit = root.at(UNIT);
            if fs::read_to_string(&unit).ok().as_deref() != Some(WATCHDOG_UNIT) {
                files::write(
                    &unit,
                    WATCHDOG_UNIT.as_bytes(),
                    ROOT_FILE.here(),
                    &mut *steps,
                )?;
                report.push(format!("wrote {}", unit.display()));
            }
        }
        let put = swap::put(&dir, &root.program(), &mut *steps)?;
        let original = match &put {
            Put::Already { original } => {
                report.push("the cartridge is in place already".into());
                original
            }
            Put::Done { original, fresh } => {
                if *fresh {
                    let real = Names::of(&dir).real;
                    report.push(format!("kept the original as {}", real.display()));
                }
                report.push(format!("the cartridge is in place in {}", dir.display()));
                original
            }
        };
        state.plex_version = root.plex_version(&plex.dir);
        state.original = Some(original.clone());
        steps("note the end").on("write", &root.home())?;
        state.restore_times(root);
        state.save(root, &mut *steps)?;
        drop(lock);
        if put
            != (Put::Already {
                original: original.clone(),
            })
        {
            let version = state.plex_version.as_deref().unwrap_or("unknown");
            events::tell(
                root,
                format_args!(
                    "installed {} for Plex {version}; original md5 {} ({} bytes)",
                    env!("CARGO_PKG_VERSION"),
                    original.md5,
                    original.size
                ),
            );
        }
        Ok(report)
    }

    /// Finds Plex and refuses what cannot be meant.
    fn check(&self) -> Result<Plex, Error> {
        if let Some(url) = &self.worker {
            Url::parse(url).map_err(|why| Error::Worker {
                url: url.clone(),
                why,
            })?;
        }
        self.root.plex(self.plex_dir.as_deref())
    }

    /// Only where systemd runs the machine, or an image has its folder.
    fn wants_unit(&self) -> bool {
        self.root.at(UNIT).parent().is_some_and(Path::is_dir)
    }

    /// Directories that must be made, outermost first; without the root.
    fn missing_dirs(&self) -> Vec<PathBuf> {
        let mut missing = Vec::new();
        for path in [super::places::HOME, "/etc/plexbeam", config::LOG_DIR] {
            let mut chain: Vec<_> = Path::new(path)
                .ancestors()
                .take_while(|dir| !self.root.at(dir).exists())
                .map(Path::to_owned)
                .collect();
            chain.reverse();
            missing.extend(chain);
        }
        missing
    }

    /// What will be made, and the times of the directories that change.
    fn note(&self, state: &mut State, plex: &Plex) {
        let root = &self.root;
        let mut made = self.missing_dirs();
        // Home is ours by its name, even where a run was cut right after making it.
        made.push(super::places::HOME.into());
        made.extend(
            [PathBuf::from(config::CONFIG), UNIT.into()]
                .into_iter()
                .filter(|p| !root.at(p).exists()),
        );
        for path in made {
            if !state.made.contains(&path) {
                state.made.push(path);
            }
        }
        let mut parents = vec![plex.dir.clone()];
        parents.extend(
            state
                .made
                .iter()
                .filter_map(|p| p.parent())
                .map(Path::to_owned),
        );
        parents.retain(|dir| !state.made.contains(dir));
        state.remember_times(root, &parents);
    }

    fn bring_home(&self, report: &mut Report, steps: Steps<'_>) -> Result<(), Error> {
        let (root, program) = (&self.root, self.root.program());
        if !same(&self.program, &program)? {
            let new = files::beside(&program, ".plexbeam-new");
            steps("copy the program").on("write", &new)?;
            files::copy(&self.program, &new, ROOT_PROGRAM.here(), None, &mut *steps)?;
            steps("name the program").on("write", &program)?;
            fs::rename(&new, &program).on("write", &program)?;
            report.push(format!("copied this program to {}", program.display()));
        }
        let link = root.home().join(ANALYZE);
        if !link.is_symlink() {
            steps("link the analysis").on("make", &link)?;
            symlink("plexbeam-cartridge", &link).on("make", &link)?;
        }
        files::sync_dir(&root.home())
    }

    fn settings(
        &self,
        user: Option<&User>,
        report: &mut Report,
        steps: Steps<'_>,
    ) -> Result<(), Error> {
        let path = self.root.config();
        if path.exists() {
            if let Some(url) = &self.worker
                && !fs::read_to_string(&path)
                    .unwrap_or_default()
                    .contains(url.as_str())
            {
                report.push(format!(
                    "{} was there and is untouched: write `workers = [\"{url}\"]` into it",
                    path.display()
                ));
            }
            return Ok(());
        }
        steps("make the folder of the settings").on("make", &path)?;
        make_dirs(path.parent().unwrap_or(&path))?;
        let owner = Owner {
            gid: user.map_or(0, |u| u.gid),
            mode: if user.is_some() { 0o640 } else { 0o600 },
            ..ROOT_FILE
        };
        let text = settings_text(self.worker.as_deref(), self.api_key.as_ref());
        files::write(&path, text.as_bytes(), owner.here(), steps)?;
        report.push(match &self.api_key {
            Some(_) => format!("wrote {}", path.display()),
            None => format!("wrote {}: put the workers' key into it", path.display()),
        });
        Ok(())
    }

    fn logs(&self, user: Option<&User>, steps: Steps<'_>) -> Result<(), Error> {
        let dir = self.root.at(config::LOG_DIR);
        if !dir.exists() {
            steps("make the folder of the logs").on("make", &dir)?;
            make_dirs(&dir)?;
        }
        // Given to Plex also where a run was cut in between; one that Plex owns stays as it is.
        let meta = dir.metadata().on("read", &dir)?;
        if let Some(user) = user
            && meta.uid() != user.uid
        {
            std::os::unix::fs::chown(&dir, Some(user.uid), Some(user.gid)).on("give away", &dir)?;
        }
        Ok(())
    }
}

const ROOT_FILE: Owner = Owner {
    uid: 0,
    gid: 0,
    mode: 0o644,
};
const ROOT_PROGRAM: Owner = Owner {
    mode: 0o755,
    ..ROOT_FILE
};

/// Undoes an installation. `keep` leaves settings and logs. The tree is then as it would be without
/// PlexBeam: names, bytes, owners, modes and times.
pub fn uninstall(
    root: &Root,
    plex_dir: Option<&Path>,
    keep: bool,
    steps: Steps<'_>,
) -> Result<Report, Error> {
    let _lock = Lock::take(root)?;
    let mut state = match State::load(root)? {
        Some(state) => state,
        None => {
            let plex = root.plex(plex_dir)?;
            if !is_cartridge(&root.at(&plex.dir)) && !root.home().exists() {
                return Ok(vec!["nothing to do: it is not installed".into()]);
            }
            let mut state = State::new(&plex.dir);
            state.made.push(super::places::HOME.into());
            state
        }
    };
    let dir = root.at(&state.plex_dir);
    let mut report = Report::new();
    state.removing = true;
    let mut parents = vec![state.plex_dir.clone()];
    parents.extend(
        state
            .made
            .iter()
            .filter_map(|p| p.parent())
            .map(Path::to_owned),
    );
    parents.retain(|dir| !state.made.contains(dir));
    state.remember_times(root, &parents);
    // A home without notes is the rest of a run that was cut at its end.
    if root.program().exists() {
        state.save(root, &mut *steps)?;
    }
    // Plex itself may be gone by now, and with it its folder.
    if dir.exists() {
        swap::take_away(&dir, &mut *steps)?;
        report.push(format!("the original is back in {}", dir.display()));
    }
    let home = Path::new(super::places::HOME);
    let kept = |path: &Path| {
        let settings = Path::new(config::CONFIG).starts_with(path);
        keep && (settings || Path::new(config::LOG_DIR).starts_with(path))
    };
    for path in state.made.iter().rev() {
        let inside = home.starts_with(path) || path.starts_with(home);
        if inside || kept(path) {
            continue;
        }
        steps("remove what was made").on("remove", path)?;
        remove_made(&root.at(path), &mut report)?;
    }
    steps("remove the home").on("remove", &root.home())?;
    files::remove(&root.home().join(ANALYZE))?;
    files::remove(&root.program())?;
    files::remove(&files::beside(&root.program(), ".plexbeam-new"))?;
    state.set_times(root);
    steps("forget").on("remove", &root.home())?;
    State::forget(root)?;
    steps("remove the empty home").on("remove", &root.home())?;
    for path in home.ancestors() {
        if path == home || state.made.iter().any(|made| made == path) {
            remove_made(&root.at(path), &mut report)?;
        }
    }
    state.restore_times(root);
    report.push("PlexBeam's cartridge is uninstalled".into());
    Ok(report)
}

/// A file goes; a directory when it is empty, and the logs with all that is in them.
fn remove_made(path: &Path, report: &mut Report) -> Result<(), Error> {
    files::remove(&files::beside(path, ".plexbeam-new"))?;
    let Ok(meta) = path.symlink_metadata() else {
        return Ok(());
    };
    if !meta.is_dir() {
        return files::remove(path);
    }
    let logs = path.ends_with(Path::new(config::LOG_DIR).strip_prefix("/").unwrap_or(path));
    let result = match logs {
        true => fs::remove_dir_all(path),
        false => fs::remove_dir(path),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            report.push(format!("{} holds other things and stays", path.display()));
            Ok(())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).on("remove", path),
        _ => Ok(()),
    }
}

impl Owner {
    /// Without the right to give files away, they stay the caller's.
    fn here(self) -> Self {
        match rustix::process::geteuid().is_root() {
            true => self,
            false => Owner {
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                ..self
            },
        }
    }
}

fn make_dirs(dir: &Path) -> Result<(), Error> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).on("make", dir)?;
    // Whatever the caller's mask is: Plex must find its way.
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir, mode).on("set the mode of", dir)
}

fn found(root: &Root, plex: &Plex) -> String {
    let version = root.plex_version(&plex.dir);
    let version = version.map_or(String::new(), |v| format!(" {v}"));
    format!(
        "found Plex{version} in {} ({})",
        plex.dir.display(),
        plex.kind
    )
}

/// True when the transcoder in this folder is the cartridge.
pub(super) fn is_cartridge(dir: &Path) -> bool {
    matches!(look(&Names::of(dir).transcoder), Ok(Look::Cartridge { .. }))
}

/// True when both are the cartridge with the same bytes.
fn same(a: &Path, b: &Path) -> Result<bool, Error> {
    let id = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
    if id(a).is_some() && id(a) == id(b) {
        return Ok(true);
    }
    let (a, b) = (look(a).on("read", a)?, look(b).on("read", b)?);
    Ok(match (a, b) {
        (Look::Cartridge { facts: a, .. }, Look::Cartridge { facts: b, .. }) => a == b,
        _ => false,
    })
}

/// The example with these values.
fn settings_text(worker: Option<&str>, key: Option<&config::Secret>) -> String {
    let mut text = String::new();
    for line in TEMPLATE.lines() {
        match (worker, key) {
            (_, Some(key)) if line.starts_with("api_key = ") => {
                text.push_str(&format!("api_key = {:?}\n", key.expose()));
            }
            // A placeholder would be sent as if it were a key.
            (_, None) if line.starts_with("api_key = ") => text.push_str(&format!("#{line}\n")),
            (Some(url), _) if line.starts_with("#workers = ") => {
                text.push_str(&format!("workers = [{url:?}]\n"));
            }
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}
