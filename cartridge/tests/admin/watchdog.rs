//! Updates of Plex, one at a time.

use crate::tree::{Host, PLEX, original};
use plexbeam_cartridge::admin::install::uninstall;
use plexbeam_cartridge::admin::watchdog::{Found, Watchdog};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

const NEW: &str = "1.41.0.8992-8463ad060";
const NEWER: &str = "1.42.0.1111-0123456ab";

fn watchdog(host: &Host) -> Watchdog {
    Watchdog::new(host.root()).with_quiet(Duration::from_millis(30))
}

/// Waits for a condition, at most half a minute.
#[track_caller]
fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn put_back(host: &Host, version: &str) -> bool {
    let same = |a: &std::path::Path, b: &std::path::Path| fs::read(a).ok() == fs::read(b).ok();
    same(&host.transcoder(), &host.program)
        && fs::read_to_string(host.real()).is_ok_and(|text| text == original(version))
}

#[test]
fn once_puts_the_cartridge_back_and_tells_both_versions() {
    let host = Host::new();
    assert_eq!(watchdog(&host).once().unwrap(), Found::NotInstalled);
    host.install().run(&mut |_| Ok(())).unwrap();
    assert_eq!(watchdog(&host).once().unwrap(), Found::InPlace);
    host.package(NEW, 0o755);
    let found = watchdog(&host).once().unwrap();
    assert!(matches!(found, Found::PutBack { .. }), "{found}");
    host.assert_installed(NEW);
    let md5 = |text: String| {
        let mut child = std::process::Command::new("md5sum")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
        let out = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        out.split(' ').next().unwrap().to_owned()
    };
    let events = host.events();
    for text in [
        "1.40.0.7998-c29d4c0c8",
        NEW,
        &md5(original("1.40.0.7998-c29d4c0c8")),
        &md5(original(NEW)),
    ] {
        assert!(events.contains(text), "{text} in {events}");
    }
    let before = host.snapshot();
    assert_eq!(watchdog(&host).once().unwrap(), Found::InPlace);
    assert_eq!(before, host.snapshot());
}

#[test]
fn what_is_not_whole_is_left_alone() {
    let host = Host::new();
    host.install().run(&mut |_| Ok(())).unwrap();
    let whole = fs::read("/bin/true").unwrap();
    fs::remove_file(host.transcoder()).unwrap();
    assert_eq!(watchdog(&host).once().unwrap(), Found::NoTranscoder);
    fs::write(host.transcoder(), &whole[..whole.len() / 2]).unwrap();
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(host.transcoder(), mode).unwrap();
    let before = host.snapshot();
    let found = watchdog(&host).once().unwrap();
    assert!(
        matches!(&found, Found::Unready(why) if why.contains("bytes are there")),
        "{found}"
    );
    assert_eq!(before, host.snapshot());
    fs::write(host.transcoder(), &whole).unwrap();
    assert!(matches!(
        watchdog(&host).once().unwrap(),
        Found::PutBack { .. }
    ));
    assert_eq!(fs::read(host.real()).unwrap(), whole);
}

/// Package managers' ways: rename, write in place, the folder as a whole.
#[test]
fn updates_are_seen_while_it_runs() {
    let host = Host::new();
    host.install().run(&mut |_| Ok(())).unwrap();
    let watching = watchdog(&host);
    // Not joined where the test fails: it would run for ever.
    let dog = thread::spawn(move || watching.run());
    host.package(NEW, 0o755);
    until("a renamed file", || put_back(&host, NEW));

    // In place, in two halves.
    let text = original(NEWER);
    let (a, b) = text.split_at(text.len() / 2);
    fs::write(host.transcoder(), a).unwrap();
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(host.transcoder())
        .unwrap();
    std::io::Write::write_all(&mut file, b.as_bytes()).unwrap();
    drop(file);
    until("a file written in place", || put_back(&host, NEWER));

    // The folder is replaced by another one.
    let (dir, old) = (host.at(PLEX), host.at("/usr/lib/old"));
    fs::rename(&dir, &old).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("Plex Media Server"), "a server").unwrap();
    host.package(NEW, 0o755);
    until("another folder", || put_back(&host, NEW));

    uninstall(&host.root(), None, false, &mut |_| Ok(())).unwrap();
    until("its end", || dog.is_finished());
    dog.join().unwrap().unwrap();
    assert_eq!(
        fs::read_to_string(host.transcoder()).unwrap(),
        original(NEW)
    );
}

/// Plex is removed: nothing of it is made again.
#[test]
fn a_removed_plex_stays_removed() {
    let host = Host::new();
    host.install().run(&mut |_| Ok(())).unwrap();
    fs::remove_file(host.transcoder()).unwrap();
    fs::remove_file(host.at(PLEX).join("Plex Media Server")).unwrap();
    assert_eq!(watchdog(&host).once().unwrap(), Found::NoTranscoder);
    assert!(!host.transcoder().exists());
    let report = uninstall(&host.root(), None, false, &mut |_| Ok(())).unwrap();
    assert!(
        !host.real().exists() && !host.transcoder().exists(),
        "{report:?}"
    );
}
