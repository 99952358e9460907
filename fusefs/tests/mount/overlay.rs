//! The upper layer against a real directory: the same operations on both, then the same trees.

use crate::support::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use rustix::io::Errno;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::{
        fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

/// Everything of a tree that a caller can see, but for times and numbers.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let what = if meta.is_dir() {
                open.push(path.clone());
                "dir".to_owned()
            } else if meta.is_symlink() {
                format!("link to {}", fs::read_link(&path).unwrap().display())
            } else {
                let content = fs::read(&path).unwrap();
                assert_eq!(content.len() as u64, meta.len());
                format!("{:?}", plexbeam_api::segment::Digest::of(&content))
            };
            let relative = path.strip_prefix(root).unwrap().to_path_buf();
            if relative != Path::new("sessions") {
                let (mode, links) = (meta.mode(), if meta.is_dir() { 0 } else { meta.nlink() });
                let owner = (meta.uid(), meta.gid());
                seen.insert(relative, format!("{what} {mode:o} {links} {owner:?}"));
            }
        }
    }
    seen
}

fn outcome<T>(result: io::Result<T>) -> Result<(), Errno> {
    result
        .map(drop)
        .map_err(|error| Errno::from_io_error(&error).unwrap())
}

fn apply(rng: &mut StdRng, root: &Path) -> (String, Result<(), Errno>) {
    let name = |rng: &mut StdRng| {
        let depth = rng.random_range(1..=3);
        let parts: Vec<String> = (0..depth)
            .map(|_| format!("n{}", rng.random_range(0..4)))
            .collect();
        parts.join("/")
    };
    let one = name(rng);
    let two = name(rng);
    let (a, b) = (root.join(&one), root.join(&two));
    let (number, offset) = (rng.random_range(0..15), rng.random_range(0..20_000));
    let data = bytes_of(rng.random(), rng.random_range(0..30_000));
    let mode = rng.random_range(0..0o1000) | 0o600;
    let (call, done) = match number {
        0 | 1 => ("mkdir", outcome(fs::create_dir(&a))),
        2 => ("write", outcome(fs::write(&a, &data))),
        3 => (
            "append",
            outcome(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&a)
                    .and_then(|mut file| io::Write::write_all(&mut file, &data)),
            ),
        ),
        4 => (
            "write at",
            outcome(
                OpenOptions::new()
                    .write(true)
                    .open(&a)
                    .and_then(|file| file.write_all_at(&data, offset)),
            ),
        ),
        5 => (
            "truncate",
            outcome(
                OpenOptions::new()
                    .write(true)
                    .open(&a)
                    .and_then(|file| file.set_len(offset)),
            ),
        ),
        6 | 7 => ("rename", outcome(fs::rename(&a, &b))),
        8 => ("unlink", outcome(fs::remove_file(&a))),
        9 => ("rmdir", outcome(fs::remove_dir(&a))),
        10 => ("symlink", outcome(symlink(&two, &a))),
        11 => ("link", outcome(fs::hard_link(&a, &b))),
        12 => ("chmod", outcome(chmod(&a, mode))),
        13 => (
            "create new",
            outcome(
                OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(mode)
                    .open(&a),
            ),
        ),
        _ => (
            "chown",
            outcome(std::os::unix::fs::lchown(
                &a,
                Some(mode % 7),
                Some(mode % 5),
            )),
        ),
    };
    (format!("{call} {one} {two}"), done)
}

/// Not through a link: that may lead out of the tree in the one and not in the other.
fn chmod(path: &Path, mode: u32) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_symlink() {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[test]
fn the_upper_layer_behaves_like_a_directory() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let env = Env::with(|config| config.passthrough = passthrough);
        let plain = env.dir.path().join("plain");
        fs::create_dir(&plain).unwrap();
        let root = env.path("");
        for seed in 0..4 {
            let (mut here, mut there) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(seed));
            for step in 0..500 {
                let (call, ours) = apply(&mut here, &root);
                let (_, real) = apply(&mut there, &plain);
                assert_eq!(ours, real, "seed {seed}, step {step}: {call}");
                if step % 100 == 99 {
                    assert_eq!(tree(&root), tree(&plain), "seed {seed}, step {step}");
                }
            }
        }
        assert!(!tree(&plain).is_empty());
    }
}

/// Writes, truncations, holes, maps and reads at random places of one file, after fsx.
#[test]
fn random_writes_and_reads_agree_with_memory() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let env = Env::with(|config| config.passthrough = passthrough);
        let path = env.path("fsx");
        let mut rng = StdRng::seed_from_u64(7);
        let mut model: Vec<u8> = Vec::new();
        let open = |path: &Path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)
                .unwrap()
        };
        let mut file = open(&path);
        for step in 0..3_000 {
            let at = rng.random_range(0..200_000_usize);
            let len = rng.random_range(1..40_000_usize);
            match rng.random_range(0..8) {
                0..=2 => {
                    let data = bytes_of(rng.random(), len);
                    file.write_all_at(&data, at as u64).unwrap();
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].copy_from_slice(&data);
                }
                3 => {
                    file.set_len(at as u64).unwrap();
                    model.resize(at, 0);
                }
                4 if !model.is_empty() => {
                    let flags = rustix::fs::FallocateFlags::PUNCH_HOLE
                        | rustix::fs::FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(&file, flags, at as u64, len as u64).unwrap();
                    let end = (at + len).min(model.len());
                    if at < end {
                        model[at..end].fill(0);
                    }
                }
                5 => file = open(&path),
                _ => {
                    let mut buffer = vec![0; len];
                    let read = file.read_at(&mut buffer, at as u64).unwrap();
                    let expected = model.get(at..).unwrap_or_default();
                    let expected = &expected[..expected.len().min(len)];
                    assert!(buffer[..read] == *expected, "step {step}: read at {at}");
                }
            }
            if step % 50 == 0 {
                assert_eq!(
                    fs::metadata(&path).unwrap().len(),
                    model.len() as u64,
                    "step {step}"
                );
            }
        }
        assert!(fs::read(&path).unwrap() == model);
        assert!(fs::read(env.path("fsx")).unwrap() == model);
    }
}

fn as_user(dir: &Path, script: &str) -> std::process::Output {
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .current_dir(dir)
        .uid(1234)
        .gid(1234);
    command.output().unwrap()
}

#[test]
fn files_belong_to_who_makes_them() {
    if !can_mount() {
        return;
    }
    let env = Env::new();
    let shared = env.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    let grouped = env.path("grouped");
    fs::create_dir(&grouped).unwrap();
    std::os::unix::fs::chown(&grouped, None, Some(4321)).unwrap();
    fs::set_permissions(&grouped, fs::Permissions::from_mode(0o2777)).unwrap();
    for dir in [env.dir.path(), &env.path("")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for base in [&shared, &grouped] {
        let script = "umask 027; mkdir dir && : > file && ln -s x link && mkfifo fifo";
        let output = as_user(base, script);
        assert!(output.status.success(), "{output:?}");
    }
    assert!(!as_user(&shared, ": > ../denied").status.success());
    for (base, gid, dir_mode) in [(&shared, 1234, 0o750), (&grouped, 4321, 0o2750)] {
        for (name, mode) in [
            ("dir", dir_mode),
            ("file", 0o640),
            ("fifo", 0o640),
            ("link", 0o777),
        ] {
            let meta = fs::symlink_metadata(base.join(name)).unwrap();
            let seen = (meta.uid(), meta.gid(), meta.mode() & 0o7777);
            assert_eq!(seen, (1234, gid, mode), "{base:?} {name}");
        }
    }
}

#[test]
fn what_programs_do_with_files_works() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let env = Env::with(|config| config.passthrough = passthrough);
        // Open and removed: readable and writable until closed.
        let path = env.path("temp");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .unwrap();
        fs::remove_file(&path).unwrap();
        file.write_all_at(b"hello", 0).unwrap();
        file.set_len(3).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        let mut buffer = [0; 5];
        assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 3);
        file.sync_all().unwrap();

        // Read-only and write-only opens side by side, and a rename over an open file.
        fs::write(env.path("a"), "aaaa").unwrap();
        let reader = File::open(env.path("a")).unwrap();
        let writer = OpenOptions::new().write(true).open(env.path("a")).unwrap();
        writer.write_all_at(b"bb", 2).unwrap();
        let mut seen = [0; 4];
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"aabb");
        fs::write(env.path("b"), "new").unwrap();
        fs::rename(env.path("b"), env.path("a")).unwrap();
        reader.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(&seen, b"aabb");
        assert_eq!(fs::read(env.path("a")).unwrap(), b"new");

        // `tar` and others open so.
        let careful = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOATIME | libc::O_SYNC;
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(careful);
        options
            .clone()
            .create(true)
            .open(env.path("careful"))
            .unwrap();
        options.open(env.path("careful")).unwrap();
        symlink("careful", env.path("link")).unwrap();
        assert_eq!(errno(options.open(env.path("link"))), Errno::LOOP);
        let status = Command::new("sh")
            .args([
                "-ec",
                "mkdir d; cp -a a careful link d; mkdir e; tar c d | tar x -C e; diff -r d e/d",
            ])
            .current_dir(env.path(""))
            .status()
            .unwrap();
        assert!(status.success());

        // As a local transcoder: write under `.tmp`, then rename.
        let status = Command::new("dd")
            .args([
                "if=/dev/zero",
                "bs=64k",
                "count=8",
                "oflag=direct",
                "status=none",
            ])
            .arg(format!("of={}", env.path("chunk.tmp").display()))
            .status()
            .unwrap();
        assert!(status.success());
        fs::rename(env.path("chunk.tmp"), env.path("chunk")).unwrap();
        assert_eq!(fs::metadata(env.path("chunk")).unwrap().len(), 8 * 65536);

        // Mapped memory: seen by readers, and written at its place whatever handle the kernel finds.
        let script = "import mmap,os,sys\n\
            f = open(sys.argv[1], 'w+b'); f.truncate(8192); a = open(sys.argv[1], 'ab')\n\
            m = mmap.mmap(f.fileno(), 8192); m[5000:5005] = b'hello'; m.flush()\n\
            assert open(sys.argv[1], 'rb').read()[5000:5005] == b'hello'\n\
            m[1:3] = b'ab'; m.close(); f.close(); a.write(b'end'); a.close()\n\
            assert os.stat(sys.argv[1]).st_size == 8195\n";
        match Command::new("python3")
            .args(["-c", script])
            .arg(env.path("map"))
            .output()
        {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(_) => eprintln!("\n*** SKIPPED: mapped memory, for want of python3 ***\n"),
        }

        let (a, b) = (env.path("x"), env.path("y"));
        fs::write(&a, "x").unwrap();
        fs::write(&b, "y").unwrap();
        let exchange =
            |flags| rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags);
        assert_eq!(
            exchange(rustix::fs::RenameFlags::NOREPLACE),
            Err(Errno::EXIST)
        );
        exchange(rustix::fs::RenameFlags::EXCHANGE).unwrap();
        assert_eq!(fs::read(&a).unwrap(), b"y");

        // A directory with more names than fit one answer.
        fs::create_dir(env.path("many")).unwrap();
        for n in 0..3_000 {
            File::create(env.path("many").join(format!("a-rather-long-name-{n}"))).unwrap();
        }
        assert_eq!(names(&env.path("many")).len(), 3_000);
        assert!(
            Command::new("rm")
                .arg("-r")
                .arg(env.path("many"))
                .status()
                .unwrap()
                .success()
        );
        let real = rustix::fs::statvfs(env.dir.path()).unwrap();
        let ours = rustix::fs::statvfs(env.path("")).unwrap();
        assert_eq!(
            (real.f_blocks, real.f_namemax),
            (ours.f_blocks, ours.f_namemax)
        );
    }
}

/// Two processes write to one file, each under the other's lock, and neither loses a line.
#[test]
fn two_processes_write_and_lock_at_once() {
    if !can_mount() {
        return;
    }
    for passthrough in [true, false] {
        let env = Env::with(|config| config.passthrough = passthrough);
        let path = env.path("shared");
        fs::write(&path, "").unwrap();
        let held = File::open(&path).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let mut refused = Command::new("flock");
        refused
            .args(["-n", "shared", "true"])
            .current_dir(env.path(""));
        let refused = refused.status().unwrap();
        assert_eq!(refused.code(), Some(1));

        // Appends of one call are whole without a lock; reading and writing back needs one.
        let script = "for n in $(seq 100); do echo \"$0 $n\" >> shared; \
             flock count sh -c 'read n < count; echo $((n + 1)) > count.tmp; cat count.tmp > count'; done";
        fs::write(env.path("count"), "0\n").unwrap();
        let writers: Vec<_> = ["one", "two"]
            .map(|name| {
                let mut command = Command::new("bash");
                command
                    .args(["-ec", script, name])
                    .current_dir(env.path(""));
                command.spawn().unwrap()
            })
            .into_iter()
            .collect();
        for mut writer in writers {
            assert!(writer.wait().unwrap().success());
        }
        let text = fs::read_to_string(&path).unwrap();
        for name in ["one", "two"] {
            let own = text.lines().filter(|line| line.starts_with(name));
            let expected = (1..=100).map(|n| format!("{name} {n}"));
            assert!(own.eq(expected), "{name} lost a line");
        }
        assert_eq!(text.lines().count(), 200);
        assert_eq!(fs::read_to_string(env.path("count")).unwrap(), "200\n");
    }
}
