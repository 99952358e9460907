//! Into Plex and out of it.

use crate::tree::{Host, PLEX, owner};
use plexbeam_cartridge::admin::install::uninstall;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const VERSION: &str = "1.40.0.7998-c29d4c0c8";

#[test]
fn what_is_installed_is_complete_and_the_original_is_untouched() {
    let host = Host::new();
    let before = host.transcoder().metadata().unwrap();
    let report = host.install().run(&mut |_| Ok(())).unwrap().join("\n");
    host.assert_installed(VERSION);
    assert!(
        report.contains(VERSION) && report.contains("Debian package"),
        "{report}"
    );
    let after = host.real().metadata().unwrap();
    assert_eq!(
        (before.ino(), before.mtime_nsec(), before.mode()),
        (after.ino(), after.mtime_nsec(), after.mode()),
        "it is the same file"
    );
    assert_eq!(owner(&host.transcoder()), owner(&host.real()));
    let program = host.at("/opt/plex-cartridge/plexbeam-cartridge");
    assert_eq!(fs::read(program).unwrap(), fs::read(&host.program).unwrap());
    let link = fs::read_link(host.at("/opt/plex-cartridge/analyze.sh")).unwrap();
    assert_eq!(link.to_str(), Some("plexbeam-cartridge"));
    let settings = host.at("/etc/plexbeam/cartridge.toml");
    let text = fs::read_to_string(&settings).unwrap();
    assert!(
        text.contains("\nworkers = [\"http://192.0.2.7:8765\"]\n"),
        "{text}"
    );
    assert!(text.contains("\napi_key = \"the key\"\n"), "{text}");
    assert_eq!(owner(&settings).2 & 0o007, 0, "others cannot read the key");
    assert!(
        host.at("/etc/systemd/system/plexbeam-watchdog.service")
            .exists()
    );
    assert!(host.events().contains(VERSION));
    assert!(!host.events().contains("the key"));
}

#[test]
fn a_second_time_changes_nothing() {
    let host = Host::new();
    host.install().run(&mut |_| Ok(())).unwrap();
    let settings = host.at("/etc/plexbeam/cartridge.toml");
    fs::write(&settings, "# of the administrator\n").unwrap();
    let first = host.snapshot();
    let report = host.install().run(&mut |_| Ok(())).unwrap().join("\n");
    assert!(report.contains("in place already"), "{report}");
    assert!(report.contains("write `workers"), "{report}");
    let mut second = host.snapshot();
    // The notes are written anew.
    let notes = "opt/plex-cartridge/state.json".as_ref();
    let home = "opt/plex-cartridge".as_ref();
    second.get_mut::<std::path::Path>(notes).unwrap().4 = first[notes as &std::path::Path].4;
    second.get_mut::<std::path::Path>(home).unwrap().4 = first[home as &std::path::Path].4;
    assert_eq!(first, second);
}

#[test]
fn uninstall_leaves_the_tree_as_it_was() {
    let host = Host::new();
    let mode = fs::Permissions::from_mode(0o2750);
    fs::set_permissions(host.transcoder(), mode).unwrap();
    let before = host.snapshot();
    host.install().run(&mut |_| Ok(())).unwrap();
    // A used installation: settings were changed, logs written.
    fs::write(host.at("/etc/plexbeam/cartridge.toml"), "api_key = \"x\"\n").unwrap();
    fs::create_dir_all(host.at("/var/log/plex-cartridge/sessions/a")).unwrap();
    assert_ne!(before, host.snapshot());
    uninstall(&host.root(), None, false, &mut |_| Ok(())).unwrap();
    assert_eq!(before, host.snapshot());
    let again = uninstall(&host.root(), None, false, &mut |_| Ok(())).unwrap();
    assert!(again[0].contains("nothing to do"), "{again:?}");
    assert_eq!(before, host.snapshot());
}

#[test]
fn an_update_in_between_is_what_stays_after_uninstall() {
    let (host, other) = (Host::new(), Host::new());
    host.install().run(&mut |_| Ok(())).unwrap();
    for host in [&host, &other] {
        host.package("1.41.0.8992-8463ad060", 0o755);
    }
    // With the cartridge put back by a second installation.
    host.install().run(&mut |_| Ok(())).unwrap();
    host.assert_installed("1.41.0.8992-8463ad060");
    uninstall(&host.root(), None, false, &mut |_| Ok(())).unwrap();
    let without_times = |host: &Host| {
        let mut all = host.snapshot();
        all.values_mut().for_each(|entry| entry.4 = (0, 0));
        all
    };
    assert_eq!(without_times(&host), without_times(&other));
}

#[test]
fn settings_and_logs_stay_where_asked() {
    let host = Host::new();
    host.install().run(&mut |_| Ok(())).unwrap();
    uninstall(&host.root(), None, true, &mut |_| Ok(())).unwrap();
    assert!(host.at("/etc/plexbeam/cartridge.toml").exists());
    assert!(!host.events().is_empty());
    assert!(!host.at("/opt/plex-cartridge").exists());
    assert!(!host.real().exists());
}

#[test]
fn settings_that_were_there_before_stay() {
    let host = Host::new();
    fs::create_dir_all(host.at("/etc/plexbeam")).unwrap();
    fs::write(host.at("/etc/plexbeam/cartridge.toml"), "# mine\n").unwrap();
    fs::create_dir_all(host.at("/opt/plex-cartridge")).unwrap();
    let settings = host.at("/etc/plexbeam/cartridge.toml");
    host.install().run(&mut |_| Ok(())).unwrap();
    assert_eq!(fs::read_to_string(&settings).unwrap(), "# mine\n");
    uninstall(&host.root(), None, false, &mut |_| Ok(())).unwrap();
    assert_eq!(fs::read_to_string(&settings).unwrap(), "# mine\n");
}

#[test]
fn a_dry_run_tells_all_and_does_nothing() {
    let host = Host::new();
    let before = host.snapshot();
    let plan = host.install().plan().unwrap().join("\n");
    for what in [
        "/opt/plex-cartridge/plexbeam-cartridge",
        "cartridge.toml",
        "Plex Transcoder.real",
        "would put",
    ] {
        assert!(plan.contains(what), "{what} in {plan}");
    }
    assert_eq!(before, host.snapshot());
    host.install().run(&mut |_| Ok(())).unwrap();
    let plan = host.install().plan().unwrap().join("\n");
    assert!(plan.contains("nothing to do"), "{plan}");
}

#[test]
fn what_cannot_be_installed_is_told_with_a_remedy_and_nothing_is_changed() {
    let host = Host::new();
    let refuse = |host: &Host, what: &str| {
        let before = host.snapshot();
        let error = host.install().run(&mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint().is_some(), "{error}");
        for name in [PLEX, "/usr/lib"] {
            let name = std::path::Path::new(name).strip_prefix("/").unwrap();
            let here = |all: &std::collections::BTreeMap<_, crate::tree::Entry>| {
                let mut all = all.clone();
                all.retain(|path: &std::path::PathBuf, _| path.starts_with(name));
                all
            };
            assert_eq!(here(&before), here(&host.snapshot()));
        }
    };
    fs::write(host.transcoder(), "half of a pro").unwrap();
    refuse(&host, "no program");
    fs::copy(&host.program, host.transcoder()).unwrap();
    refuse(&host, "not beside it");
    fs::remove_file(host.transcoder()).unwrap();
    let error = host.install().run(&mut |_| Ok(())).unwrap_err();
    assert!(
        error.to_string().contains("no Plex Media Server"),
        "{error}"
    );
    let mut install = Host::new().install();
    install.worker = Some("gpu:8765".into());
    let error = install.run(&mut |_| Ok(())).unwrap_err();
    assert!(error.hint().unwrap().contains("http://HOST"));
}

#[test]
fn the_tool_itself_installs_and_uninstalls() {
    let host = Host::new();
    let before = host.snapshot();
    let output = host.tool(&["install", "--worker", "http://192.0.2.7:8765"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("put the workers' key into it"), "{text}");
    assert!(text.contains("doctor"), "{text}");
    assert_eq!(
        fs::read(host.transcoder()).unwrap(),
        fs::read(env!("CARGO_BIN_EXE_plexbeam-cartridge")).unwrap()
    );
    let output = host.tool(&["watchdog", "--once"]);
    assert_eq!(output.stdout, b"the cartridge is in place\n");
    let output = host.tool(&["uninstall"]);
    assert!(output.status.success());
    assert_eq!(before, host.snapshot());
    let output = host.tool(&["install", "--plex-dir", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(
        text.starts_with("error: /nowhere holds no") && text.contains("\nhint: "),
        "{text}"
    );
    assert_eq!(host.tool(&["instal"]).status.code(), Some(2));
}
