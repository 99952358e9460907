//! Files that nobody has read yet, against bare HTTP and other remote file systems.

use super::{
    Bench, MIB, SMALL_ROUNDS,
    contents::Contents,
    ours::shown,
    read::{cold, fetch},
};
use crate::figure::{Figure, median};
use plexbeam_tests::env;
use std::fs;

pub(super) fn cold_session(readers: usize, round: u32) -> String {
    format!("cold-{readers}-{round}")
}

pub(super) const COLD_READERS: [usize; 2] = [1, 4];
/// Cold files that each reader reads.
const COLD_EACH: usize = 4;
/// Files of 4 MiB that fill the small cache.
const FILL: u32 = 16;
const COLD_SIDES: &[&str] = &["reqwest", "ours", "rclone-off", "rclone-full", "sshfs"];

impl Bench {
    /// Files of 4 MiB that nobody has read yet, under `sessions/`: each round and each side has its
    /// own. The cache is full: what comes pushes out what was read.
    pub(super) fn cold(&mut self, contents: &Contents) -> Result<(), String> {
        let client = env::http_client();
        self.fill(contents)?;
        for readers in COLD_READERS {
            let mut speeds = vec![Vec::new(); COLD_SIDES.len()];
            let mut firsts = vec![Vec::new(); COLD_SIDES.len()];
            let (mut used, mut bytes) = (0.0, 0.0);
            for round in 0..=SMALL_ROUNDS {
                let session = cold_session(readers, round);
                let names_of = |side: &str| -> Vec<String> {
                    (0..readers * COLD_EACH)
                        .map(|n| format!("{side}-{n}"))
                        .collect()
                };
                let ours = self.full.point.join("sessions").join(&session);
                let all = COLD_SIDES.iter().flat_map(|side| names_of(side));
                for (number, name) in all.enumerate() {
                    self.origin
                        .publish(&session, &name, number as u32, &contents.four)?;
                    shown(&ours.join(&name));
                }
                for (at, side) in COLD_SIDES.iter().enumerate() {
                    let names = names_of(side);
                    let (time, first) = if *side == "reqwest" {
                        let base = format!("{}/sessions/{session}/files", self.origin.url);
                        fetch(&client, &base, &names, readers)?
                    } else {
                        let dir = if *side == "ours" {
                            ours.clone()
                        } else {
                            match self.peers.iter().find(|peer| peer.name == *side) {
                                Some(peer) => peer.point.join(&session).join("files"),
                                None => continue,
                            }
                        };
                        let cpu = self.full.cpu();
                        let taken = cold(&dir, &names, readers)?;
                        if *side == "ours" {
                            used += self.full.cpu() - cpu;
                            bytes += (names.len() * 4 * MIB) as f64 / 1e9;
                        }
                        taken
                    };
                    if round > 0 {
                        speeds[at].push((names.len() * 4 * MIB) as f64 / time / 1e6);
                        firsts[at].push(first * 1e3);
                    }
                }
                self.origin.clear(&session)?;
            }
            let over = |figures: &[Vec<f64>], a: usize, b: usize| {
                let pairs = figures[a].iter().zip(&figures[b]);
                median(pairs.map(|(a, b)| a / b).collect())
            };
            for (at, side) in COLD_SIDES.iter().enumerate() {
                if !speeds[at].is_empty() {
                    println!(
                        "  cold 4 MiB, {readers} readers, {side:<12} {:>6.0} MB/s, {:.3} of reqwest; first bytes {:.2} ms, {:.3} of reqwest's",
                        median(speeds[at].clone()),
                        over(&speeds, at, 0),
                        median(firsts[at].clone()),
                        over(&firsts, at, 0),
                    );
                }
            }
            let tail = if readers == 1 { "" } else { "_4" };
            let more =
                |name: &str, value: f64, unit| Figure::more(format!("{name}{tail}"), value, unit);
            self.keep(more("mount_cold_read", over(&speeds, 1, 0), "of reqwest").goal(0.50));
            if !speeds[2].is_empty() {
                let ratio = over(&speeds, 1, 2);
                self.keep(more("mount_cold_over_rclone", ratio, "times").goal(2.0));
            }
            let first = over(&firsts, 1, 0);
            let first = Figure::less(format!("mount_cold_first{tail}"), first, "of reqwest's");
            self.keep(first.goal(1.3));
            self.keep(Figure::less(
                format!("mount_cold_cpu{tail}"),
                used / bytes,
                "s/GB",
            ));
        }
        Ok(())
    }

    /// Fills the small cache.
    fn fill(&self, contents: &Contents) -> Result<(), String> {
        let session = "fill";
        self.origin.session(session)?;
        let dir = self.full.point.join("sessions").join(session);
        for n in 0..FILL {
            let name = format!("fill-{n}");
            self.origin.publish(session, &name, n, &contents.four)?;
            shown(&dir.join(&name));
            fs::read(dir.join(&name)).map_err(|e| e.to_string())?;
        }
        self.origin.clear(session)
    }
}
