//! The power fails between any two steps: Plex always has a whole transcoder, and the next run mends it.

use crate::tree::{Host, original};
use plexbeam_cartridge::admin::files::Steps;
use plexbeam_cartridge::admin::install::uninstall;
use std::fs;
use std::io;

const OLD: &str = "1.40.0.7998-c29d4c0c8";
const NEW: &str = "1.41.0.8992-8463ad060";

/// Runs `work` and ends it before its `at`-th step; true when it came to its end instead.
fn cut(at: usize, work: impl FnOnce(Steps<'_>) -> bool) -> bool {
    let mut count = 0;
    work(&mut |_| {
        count += 1;
        match count > at {
            true => Err(io::Error::other("the power is gone")),
            false => Ok(()),
        }
    })
}

/// What Plex would start now is whole, and where that is the cartridge, the original is beside it.
#[track_caller]
fn assert_plex_plays(host: &Host, at: usize) {
    let there = fs::read(host.transcoder()).unwrap_or_else(|e| panic!("cut {at}: {e}"));
    let originals = [original(OLD).into_bytes(), original(NEW).into_bytes()];
    if there == fs::read(&host.program).unwrap() {
        let real = fs::read(host.real()).unwrap_or_else(|e| panic!("cut {at}: {e}"));
        assert!(originals.contains(&real), "cut {at}");
    } else {
        assert!(originals.contains(&there), "cut {at}");
    }
}

#[test]
fn an_installation_may_be_cut_anywhere() {
    for at in 0.. {
        let host = Host::new();
        let before = host.snapshot();
        let install = host.install();
        let whole = cut(at, |steps| install.run(steps).is_ok());
        assert_plex_plays(&host, at);
        install
            .run(&mut |_| Ok(()))
            .unwrap_or_else(|e| panic!("cut {at}: {e}"));
        host.assert_installed(OLD);
        uninstall(&host.root(), None, false, &mut |_| Ok(())).unwrap();
        assert_same(&before, &host.snapshot(), at);
        if whole {
            assert!(at > 15, "only {at} steps");
            return;
        }
    }
}

#[test]
fn an_installation_that_is_cut_and_taken_back_leaves_nothing() {
    for at in 0.. {
        let host = Host::new();
        let before = host.snapshot();
        let whole = cut(at, |steps| host.install().run(steps).is_ok());
        uninstall(&host.root(), None, false, &mut |_| Ok(())).unwrap();
        assert_same(&before, &host.snapshot(), at);
        if whole {
            return;
        }
    }
}

#[test]
fn a_renewal_after_an_update_may_be_cut_anywhere() {
    for at in 0.. {
        let host = Host::new();
        host.install().run(&mut |_| Ok(())).unwrap();
        host.package(NEW, 0o755);
        let whole = cut(at, |steps| host.install().run(steps).is_ok());
        assert_plex_plays(&host, at);
        host.install().run(&mut |_| Ok(())).unwrap();
        host.assert_installed(NEW);
        if whole {
            return;
        }
    }
}

/// One update follows the other, the second while the first was being taken in.
#[test]
fn an_update_behind_a_cut_is_the_one_that_counts() {
    for at in 0.. {
        let host = Host::new();
        let whole = cut(at, |steps| host.install().run(steps).is_ok());
        host.package(NEW, 0o755);
        host.install().run(&mut |_| Ok(())).unwrap();
        host.assert_installed(NEW);
        if whole {
            return;
        }
    }
}

/// The package manager comes in between two steps, at each of them.
#[test]
fn an_update_between_two_steps_is_not_lost() {
    for at in 0.. {
        let host = Host::new();
        let (mut count, mut came) = (0, false);
        host.install()
            .run(&mut |_| {
                if count == at {
                    host.package(NEW, 0o755);
                    came = true;
                }
                count += 1;
                Ok(())
            })
            .unwrap();
        // An update behind the last look is the watchdog's to see.
        if fs::read_to_string(host.transcoder()).is_ok_and(|text| text == original(NEW)) {
            host.install().run(&mut |_| Ok(())).unwrap();
        }
        host.assert_installed(if came { NEW } else { OLD });
        if !came {
            return;
        }
    }
}

#[test]
fn an_uninstallation_may_be_cut_anywhere() {
    for at in 0.. {
        let host = Host::new();
        let before = host.snapshot();
        host.install().run(&mut |_| Ok(())).unwrap();
        let whole = cut(at, |steps| {
            uninstall(&host.root(), None, false, steps).is_ok()
        });
        assert_plex_plays(&host, at);
        uninstall(&host.root(), None, false, &mut |_| Ok(()))
            .unwrap_or_else(|e| panic!("cut {at}: {e}"));
        assert_same(&before, &host.snapshot(), at);
        if whole {
            assert!(at > 5, "only {at} steps");
            return;
        }
    }
}

#[test]
fn a_cut_uninstallation_may_also_be_turned_round() {
    for at in 0.. {
        let host = Host::new();
        host.install().run(&mut |_| Ok(())).unwrap();
        let whole = cut(at, |steps| {
            uninstall(&host.root(), None, false, steps).is_ok()
        });
        host.install()
            .run(&mut |_| Ok(()))
            .unwrap_or_else(|e| panic!("cut {at}: {e}"));
        host.assert_installed(OLD);
        if whole {
            return;
        }
    }
}

#[track_caller]
fn assert_same(before: &crate::tree::Snapshot, after: &crate::tree::Snapshot, at: usize) {
    for name in before.keys().chain(after.keys()) {
        assert_eq!(
            before.get(name),
            after.get(name),
            "{} after cut {at}",
            name.display()
        );
    }
}
