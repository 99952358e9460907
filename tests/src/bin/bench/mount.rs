//! The file system against native files in memory, and against other remote file systems over the
//! same bytes. All sides run in turns, each round.
//!
//! Native files, nginx's files, the caches of the mounts and of rclone all lie in `/dev/shm`. Each
//! name is a file of its own, so that no side reads pages that another name has just brought near the
//! processor. The caches of ours lie in memory with large pages (`--cache-in-memory`).

mod cold;
mod contents;
mod origin;
mod ours;
mod peers;
mod read;

use self::{
    cold::{COLD_READERS, cold_session},
    contents::{Contents, held_names},
    origin::Origin,
    ours::{Ours, shown},
    peers::Peer,
    read::{Job, forget, passes, per_second, read},
};
use crate::{
    Context,
    figure::{Figure, least, median, most},
};
use plexbeam_tests::wait;
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Longest wait for something to be shown.
const SHOWN: Duration = Duration::from_secs(60);
/// Rounds of what takes milliseconds: it is noisy.
const SMALL_ROUNDS: u32 = 9;
/// Held files: name, how many, size.
const HELD: [(&str, usize, usize); 2] = [("four", 16, 4 * MIB), ("large", 4, 64 * MIB)];
/// Names of the large directory.
const MANY: u32 = 5_000;
/// Sessions at once.
const SESSIONS: u32 = 300;
/// Segments timed from publishing to reading.
const PUBLISHED: u32 = 20;

/// Everything that is mounted.
struct Bench {
    origin: Origin,
    through: Ours,
    /// Whose cache is full, as after the first film.
    full: Ours,
    copying: Ours,
    peers: Vec<Peer>,
    root: PathBuf,
    figures: Vec<Figure>,
}

/// Reads of held files, opens of small ones, cold reads, names, publishing.
pub(crate) fn run(with: &Context) -> Result<Vec<Figure>, String> {
    if !Path::new("/usr/sbin/nginx").exists() || !Path::new(origin::HEADERS_MODULE).exists() {
        println!(
            "*** SKIPPED: nginx or its headers-more module is not installed (nginx-light, \
             libnginx-mod-http-headers-more-filter, rclone, sshfs, openssh-server) ***"
        );
        return Ok(Vec::new());
    }
    let folder = tempfile::Builder::new()
        .prefix("plexbeam-bench-")
        .tempdir_in("/dev/shm")
        .map_err(|e| e.to_string())?;
    let root = folder.path().to_owned();
    let origin = Origin::start(&root)?;
    let contents = Contents::new(&root)?;
    for session in ["held", "many", "live"] {
        origin.session(session)?;
    }
    // Peers remember for minutes which folders there are.
    for readers in COLD_READERS {
        for round in 0..=SMALL_ROUNDS {
            origin.session(&cold_session(readers, round))?;
        }
    }
    contents.publish(&origin)?;
    let wide = ["--cache-size", "4GiB"];
    let through = Ours::start(&root, "through", &origin, &wide)?;
    let full = Ours::start(&root, "full", &origin, &["--cache-size", "64MiB"])?;
    let by_hand = [&wide[..], &["--no-passthrough"]].concat();
    let copying = Ours::start(&root, "copying", &origin, &by_hand)?;
    let url = origin.url.clone();
    let off = ["--vfs-cache-mode", "off"];
    let all = ["--vfs-cache-mode", "full"];
    let peers = [
        peers::rclone(&root, &url, "rclone-off", &off),
        peers::rclone(&root, &url, "rclone-full", &all),
        peers::sshfs(&root, &root.join("www/sessions")),
    ];
    let mut bench = Bench {
        origin,
        through,
        full,
        copying,
        peers: peers.into_iter().flatten().collect(),
        root,
        figures: Vec::new(),
    };
    let dirs = [
        bench.through.bind("held", "held")?,
        bench.copying.bind("held", "held")?,
    ];
    for dir in &dirs {
        for name in held_names() {
            shown(&dir.join(name));
        }
    }
    bench.held(with.rounds)?;
    bench.copied(with.rounds)?;
    bench.small()?;
    bench.cold(&contents)?;
    bench.names()?;
    bench.published(&contents)?;
    bench.sessions(&contents)?;
    let figures = std::mem::take(&mut bench.figures);
    // What is mounted in the folder goes before it does.
    drop(bench);
    if let Err(error) = folder.close() {
        println!("*** left behind: {error} ***");
    }
    Ok(figures)
}

impl Bench {
    fn keep(&mut self, figure: Figure) {
        println!("  {figure}");
        self.figures.push(figure);
    }

    /// Sequential reads of files that are held, as ratios of speed to native.
    fn held(&mut self, rounds: u32) -> Result<(), String> {
        let mut medians = Vec::new();
        let (mut bytes, mut used) = (0.0, 0.0);
        for (kind, files, size) in HELD {
            for readers in [1, 4, 16] {
                let job = |dir: PathBuf| Job {
                    files: (0..files)
                        .map(|n| dir.join(format!("{kind}-{n}")))
                        .collect(),
                    stride: 7,
                    each: if kind == "four" { 16 } else { 1 },
                    readers,
                };
                let native = job(self.origin.dir("held"));
                let mut sides = vec![("passthrough", job(self.through.point.join("held")))];
                if readers < 16 {
                    let peers = self.peers.iter();
                    sides.extend(peers.map(|p| (p.name, job(p.point.join("held/files")))));
                }
                let mut ratios = vec![Vec::new(); sides.len()];
                let mut speeds = Vec::new();
                for round in 0..=rounds {
                    let before = read(&native)?;
                    let mut times = Vec::new();
                    for (at, (_, side)) in sides.iter().enumerate() {
                        let cpu = self.through.cpu();
                        times.push(read(side)?);
                        if round > 0 && at == 0 {
                            used += self.through.cpu() - cpu;
                            bytes += job_bytes(side, size) / 1e9;
                        }
                    }
                    let after = read(&native)?;
                    if round == 0 {
                        continue;
                    }
                    let taken = (before + after) / 2.0;
                    speeds.push(job_bytes(&native, size) / taken / 1e6);
                    for (ratios, time) in ratios.iter_mut().zip(times) {
                        ratios.push(taken / time);
                    }
                }
                println!("  native: {:.0} MB/s", median(speeds));
                for ((name, _), ratios) in sides.iter().zip(&ratios) {
                    println!(
                        "  held {} MiB, {readers:>2} readers, {name:<12} {:.3} of native ({:.3} .. {:.3})",
                        size / MIB,
                        median(ratios.clone()),
                        least(ratios),
                        most(ratios)
                    );
                }
                medians.push(median(ratios[0].clone()));
            }
        }
        self.keep(Figure::more("mount_held_read", median(medians), "of native").goal(0.90));
        self.keep(Figure::less("mount_held_cpu", used / bytes, "s/GB"));
        Ok(())
    }

    /// The same without passthrough, each file once and none from the page cache.
    fn copied(&mut self, rounds: u32) -> Result<(), String> {
        let mut medians = Vec::new();
        let (mut bytes, mut used) = (0.0, 0.0);
        for (kind, files, size) in HELD {
            for readers in [1, 4] {
                let job = |dir: PathBuf| Job {
                    files: (0..files)
                        .map(|n| dir.join(format!("{kind}-{n}")))
                        .collect(),
                    stride: files / readers,
                    each: files / readers,
                    readers,
                };
                let native = job(self.origin.dir("held"));
                let ours = job(self.copying.point.join("held"));
                let mut ratios = Vec::new();
                for round in 0..=rounds {
                    forget(&ours)?;
                    let before = read(&native)?;
                    let cpu = self.copying.cpu();
                    let time = read(&ours)?;
                    let cpu = self.copying.cpu() - cpu;
                    let after = read(&native)?;
                    if round > 0 {
                        used += cpu;
                        bytes += job_bytes(&ours, size) / 1e9;
                        ratios.push((before + after) / 2.0 / time);
                    }
                }
                println!(
                    "  held {} MiB, {readers:>2} readers, copying      {:.3} of native ({:.3} .. {:.3})",
                    size / MIB,
                    median(ratios.clone()),
                    least(&ratios),
                    most(&ratios)
                );
                medians.push(median(ratios));
            }
        }
        self.keep(Figure::more("mount_copied_read", median(medians), "of native").goal(0.20));
        self.keep(Figure::less("mount_copied_cpu", used / bytes, "s/GB"));
        Ok(())
    }

    /// Open, read and close of 300 KB.
    fn small(&mut self) -> Result<(), String> {
        for readers in [1, 4] {
            let job = |dir: PathBuf| Job {
                files: (0..100).map(|n| dir.join(format!("small-{n}"))).collect(),
                stride: 7,
                each: 400,
                readers,
            };
            let native = job(self.origin.dir("held"));
            let mut sides = vec![
                ("passthrough", job(self.through.point.join("held"))),
                ("copying", job(self.copying.point.join("held"))),
            ];
            for peer in &self.peers {
                let mut job = job(peer.point.join("held/files"));
                job.each = 100;
                sides.push((peer.name, job));
            }
            let mut ratios = vec![Vec::new(); sides.len()];
            for round in 0..=SMALL_ROUNDS {
                for ((_, side), ratios) in sides.iter().zip(&mut ratios) {
                    let before = read(&native)? / native.each as f64;
                    let time = read(side)? / side.each as f64;
                    let after = read(&native)? / native.each as f64;
                    if round > 0 {
                        ratios.push((before + after) / 2.0 / time);
                    }
                }
            }
            for ((name, _), ratios) in sides.iter().zip(&ratios) {
                println!(
                    "  300 KB open-read-close, {readers} readers, {name:<12} {:.3} of native ({:.3} .. {:.3})",
                    median(ratios.clone()),
                    least(ratios),
                    most(ratios)
                );
            }
            if readers == 1 {
                let ratio = median(ratios[0].clone());
                self.keep(Figure::more("mount_small_files", ratio, "of native").goal(0.50));
            }
        }
        Ok(())
    }

    /// `stat` and listings.
    fn names(&mut self) -> Result<(), String> {
        let names: Vec<PathBuf> = (0..100)
            .map(|n| PathBuf::from(format!("small-{n}")))
            .collect();
        let stats = |dir: &Path| {
            let paths: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).collect();
            per_second(&paths, 200, |path| fs::metadata(path).map(drop))
        };
        let mut ratios = Vec::new();
        for _ in 0..SMALL_ROUNDS {
            let native = stats(&self.origin.dir("held"))?;
            ratios.push(stats(&self.through.point.join("held"))? / native);
        }
        self.keep(Figure::more("mount_stat", median(ratios), "of native").goal(0.8));

        let dir = self.through.bind("many", "many")?;
        wait::until("all names are shown", SHOWN, || {
            (fs::read_dir(&dir).ok()?.count() == MANY as usize).then_some(())
        });
        let list = |dir: &Path| passes(20, || fs::read_dir(dir).map(|names| names.for_each(drop)));
        let ours = median(list(&dir)?);
        let native = median(list(&self.origin.dir("many"))?);
        println!("  readdir of {MANY} names: native {:.2} ms", native * 1e3);
        self.keep(Figure::less("mount_readdir", ours * 1e3, "ms").goal(3.0));
        Ok(())
    }

    /// From the event of a segment of 1 MB until it was read.
    fn published(&mut self, contents: &Contents) -> Result<(), String> {
        let tuned = [
            "--vfs-cache-mode",
            "off",
            "--dir-cache-time",
            "1ms",
            "--attr-timeout",
            "1ms",
        ];
        let peer = peers::rclone(&self.root, &self.origin.url, "rclone-tuned", &tuned);
        let dir = self.through.bind("live", "live")?;
        let mut sides = vec![("ours", dir, Vec::new())];
        if let Some(peer) = &peer {
            sides.push((peer.name, peer.point.join("live/files"), Vec::new()));
            shown(&peer.point.join("live/files"));
        }
        for n in 0..PUBLISHED {
            for (side, dir, times) in &mut sides {
                let name = format!("live-{side}-{n}");
                let path = dir.join(&name);
                let staged = self.origin.stage(&contents.one)?;
                let started = Instant::now();
                self.origin
                    .announce("live", &name, n, &contents.one, &staged)?;
                let read = loop {
                    match fs::read(&path) {
                        Ok(read) => break read,
                        Err(_) if started.elapsed() < SHOWN => {}
                        Err(error) => return Err(format!("{}: {error}", path.display())),
                    }
                };
                times.push(started.elapsed().as_secs_f64() * 1e3);
                if read.len() != 1_000_000 {
                    return Err(format!("{} has {} bytes", path.display(), read.len()));
                }
            }
        }
        for (side, _, times) in &sides {
            println!(
                "  1 MB from publishing to read, {side:<12} {:.2} ms ({:.2} .. {:.2})",
                median(times.clone()),
                least(times),
                most(times)
            );
        }
        let ours = median(sides[0].2.clone());
        self.keep(Figure::less("mount_publish", ours, "ms").goal(10.0));
        Ok(())
    }

    /// Many sessions at once over one connection of events.
    fn sessions(&mut self, contents: &Contents) -> Result<(), String> {
        let mut dirs = Vec::new();
        for n in 0..SESSIONS {
            let session = format!("crowd-{n}");
            self.origin.session(&session)?;
            dirs.push(self.through.bind(&session, &session)?);
        }
        let started = Instant::now();
        for n in 0..SESSIONS {
            self.origin
                .publish(&format!("crowd-{n}"), "one", 1, &contents.small)?;
        }
        for dir in &dirs {
            let path = dir.join("one");
            shown(&path);
            let read = fs::read(&path).map_err(|e| e.to_string())?;
            if read.len() != 300 * KIB {
                return Err(format!("{} has {} bytes", path.display(), read.len()));
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        // One for each mount.
        let listeners = self.origin.listeners();
        println!("  {SESSIONS} sessions over {listeners} event connections of three mounts");
        if listeners > 3 {
            return Err(format!("{listeners} event connections"));
        }
        self.keep(Figure::less("mount_300_sessions", seconds, "s"));
        Ok(())
    }
}

fn job_bytes(job: &Job, size: usize) -> f64 {
    (job.each * job.readers * size) as f64
}
