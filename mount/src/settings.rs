//! The settings file: the long flags as TOML keys. Flags and environment win over it.

use crate::cli::CliArgs;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, parser::ValueSource};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};
use toml::{Table, Value};

/// Read when no other is named, if it is there.
const DEFAULT_FILE: &str = "/etc/plexbeam/mount.toml";
/// Flags that make no sense in a file.
const NOT_IN_A_FILE: &[&str] = &["config", "tell-parent", "instance", "help", "version"];

/// Reads arguments, environment and file; ends the process with a message where they are wrong.
pub(crate) fn read(arguments: Vec<OsString>) -> CliArgs {
    match try_read(arguments) {
        Ok(args) => args,
        Err(error) => error.exit(),
    }
}

fn try_read(arguments: Vec<OsString>) -> Result<CliArgs, clap::Error> {
    let mut command = CliArgs::command();
    // What is missing may be in the file.
    let first = CliArgs::command()
        .ignore_errors(true)
        .try_get_matches_from(&arguments)?;
    let named: Option<PathBuf> = first.try_get_one("config").ok().flatten().cloned();
    let file = match named {
        Some(file) => Some(file),
        None => Some(PathBuf::from(DEFAULT_FILE)).filter(|file| file.exists()),
    };
    let mut all = arguments.clone();
    if let Some(file) = file {
        let more = from_file(&file, &first, &command)
            .map_err(|text| command.error(clap::error::ErrorKind::ValueValidation, text))?;
        all.extend(more);
    }
    let mut args = CliArgs::from_arg_matches(&command.try_get_matches_from_mut(all)?)?;
    args.arguments = arguments.into_iter().skip(1).collect();
    Ok(args)
}

/// What the file adds to the arguments.
fn from_file(file: &Path, given: &ArgMatches, command: &Command) -> Result<Vec<OsString>, String> {
    let bad = |text: &str| format!("{}: {text}", file.display());
    let text = std::fs::read_to_string(file).map_err(|error| bad(&error.to_string()))?;
    let table: Table = toml::from_str(&text).map_err(|error| bad(error.message()))?;
    let mut more = Vec::new();
    for (key, value) in &table {
        let key = key.replace('_', "-");
        let flag = command
            .get_arguments()
            .find(|arg| arg.get_long() == Some(&key) && !NOT_IN_A_FILE.contains(&key.as_str()));
        let positional = key == "mountpoint";
        let id = match flag {
            Some(flag) => flag.get_id().as_str(),
            None if positional => "mountpoint",
            None => {
                return Err(bad(&format!(
                    "`{key}` is no setting; the settings are the long flags of --help"
                )));
            }
        };
        let source = given.value_source(id);
        if matches!(
            source,
            Some(ValueSource::CommandLine | ValueSource::EnvVariable)
        ) {
            continue;
        }
        for value in values(value).ok_or_else(|| bad(&format!("`{key}` has no usable value")))? {
            if positional {
                more.push(value.into());
            } else if value == "true" {
                more.push(format!("--{key}").into());
            } else if value != "false" {
                more.push(format!("--{key}={value}").into());
            }
        }
    }
    Ok(more)
}

fn values(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Integer(number) => Some(vec![number.to_string()]),
        Value::Boolean(yes) => Some(vec![yes.to_string()]),
        Value::Array(list) => {
            let each: Option<Vec<Vec<String>>> = list.iter().map(values).collect();
            each.map(|each| each.into_iter().flatten().collect())
        }
        Value::Float(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read_with(text: &str, flags: &[&str]) -> Result<CliArgs, clap::Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let mut arguments: Vec<OsString> = vec!["plexbeam-mount".into(), "--config".into()];
        arguments.push(file.path().into());
        arguments.extend(flags.iter().map(OsString::from));
        try_read(arguments)
    }

    #[test]
    fn the_file_gives_what_flags_do_not() {
        let text = "mountpoint = '/m'\nworker = ['http://a:1', 'http://b:1']\n\
            cache-size = '64MiB'\nallow_other = true\nforeground = false\n";
        let args = read_with(text, &["--cache-size", "32MiB"]).unwrap();
        let config = args.fs_config();
        assert_eq!(config.mountpoint, Path::new("/m"));
        assert_eq!(config.remote.workers.len(), 2);
        assert_eq!(config.cache.ceiling, 32 << 20);
        assert!(config.allow_other && !args.stays());
        // The processes that the supervisor starts read the file themselves.
        assert_eq!(args.arguments.len(), 4);
    }

    #[test]
    fn a_wrong_file_is_told_with_its_name() {
        for (text, words) in [
            ("workers = 'http://a:1'", "`workers` is no setting"),
            ("instance = true", "`instance` is no setting"),
            ("cache-size = 1.5", "`cache-size` has no usable value"),
            ("cache-size = 'many'", "2GiB"),
            ("worker = [", "mount"),
        ] {
            let error = read_with(text, &["/m"]).err().unwrap().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
