//! `mount.plexbeam SPEC DIR [-sfnv] [-o OPTIONS]`: how mount(8) calls a helper for an entry of
//! /etc/fstab with the type `plexbeam`. SPEC is one worker or several, separated by commas, or
//! `plexbeam` where the options or the settings file name them.

use std::ffi::{OsStr, OsString};

/// Name under which the program is the helper.
const NAME: &str = "mount.plexbeam";
/// Options that are mount(8)'s own or mean nothing here.
const IGNORED: &[&str] = &[
    "rw", "auto", "noauto", "user", "nouser", "users", "owner", "group", "nofail", "defaults",
    "_netdev", "dev", "nodev", "suid", "nosuid", "exec", "async", "relatime", "noatime",
];

/// True when the program was called as the helper.
pub(crate) fn is_called(program: &OsStr) -> bool {
    let name = std::path::Path::new(program).file_name();
    name.is_some_and(|name| name == NAME)
}

/// The arguments of `plexbeam-mount` that say the same.
pub(crate) fn translate(arguments: &[OsString]) -> Result<Vec<OsString>, String> {
    let mut translated: Vec<OsString> = vec!["plexbeam-mount".into()];
    let mut plain = Vec::new();
    let mut rest = arguments.iter().skip(1);
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => {
                let options = rest.next().and_then(|options| options.to_str());
                let options = options.ok_or("-o needs options")?;
                for option in options.split(',').filter(|option| !option.is_empty()) {
                    translated.extend(flag(option)?);
                }
            }
            // Sloppy, no mtab, verbose, and the type that mount(8) may repeat.
            Some("-s" | "-n" | "-v") => {}
            Some("-t" | "-N") => drop(rest.next()),
            // Fake: everything but the mount.
            Some("-f") => return Ok(Vec::new()),
            _ => plain.push(argument),
        }
    }
    let [spec, directory] = plain[..] else {
        return Err(format!("usage: {NAME} SPEC DIR [-o OPTIONS]"));
    };
    let spec = spec.to_str().ok_or("the device is no text")?;
    if spec != "plexbeam" && spec != "none" {
        for worker in spec.split(',') {
            translated.extend(["--worker".into(), worker.into()]);
        }
    }
    translated.push(directory.clone());
    Ok(translated)
}

fn flag(option: &str) -> Result<Option<OsString>, String> {
    if IGNORED.contains(&option) || option.starts_with("x-") || option.starts_with("comment=") {
        return Ok(None);
    }
    if option == "ro" {
        return Err("a plexbeam mount cannot be read-only: Plex writes into it".into());
    }
    if option == "api-key" || option.starts_with("api-key=") || option.starts_with("api_key=") {
        return Err(
            "/etc/fstab is readable by all: give the key as `api-key` in /etc/plexbeam/mount.toml"
                .into(),
        );
    }
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let name = name.replace('_', "-");
    Ok(Some(match value {
        Some(value) => format!("--{name}={value}").into(),
        None => format!("--{name}").into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(line: &[&str]) -> Result<Vec<String>, String> {
        let line: Vec<OsString> = line.iter().map(OsString::from).collect();
        let texts = translate(&line)?
            .into_iter()
            .map(|text| text.into_string().unwrap());
        Ok(texts.collect())
    }

    #[test]
    fn options_become_flags() {
        assert_eq!(
            translated(&[
                "mount.plexbeam",
                "http://a:1,http://b:1",
                "/transcode",
                "-o",
                "rw,allow_other,cache-size=1GiB,_netdev,x-systemd.automount",
            ])
            .unwrap(),
            [
                "plexbeam-mount",
                "--allow-other",
                "--cache-size=1GiB",
                "--worker",
                "http://a:1",
                "--worker",
                "http://b:1",
                "/transcode"
            ]
        );
        assert_eq!(
            translated(&["mount.plexbeam", "plexbeam", "/t", "-s", "-v"]).unwrap(),
            ["plexbeam-mount", "/t"]
        );
        for bad in ["ro", "api-key=x"] {
            assert!(translated(&["mount.plexbeam", "plexbeam", "/t", "-o", bad]).is_err());
        }
        assert!(translated(&["mount.plexbeam", "plexbeam"]).is_err());
    }
}
