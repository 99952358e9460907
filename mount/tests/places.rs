//! Where the mount meets the rest of the system: `mount(8)`, service managers, and hosts that lack
//! something. Each in a mount table of its own.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Output},
};

fn can_mount() -> bool {
    let possible = rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists();
    if !possible {
        eprintln!("\n*** SKIPPED: this test needs root and /dev/fuse ***\n");
    }
    possible
}

/// Runs a script in a mount table of its own; `$1` is a directory, `$2` the program.
fn apart(flags: &[&str], script: &str) -> (tempfile::TempDir, Output) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("mnt")).unwrap();
    let output = Command::new("unshare")
        .arg("--mount")
        .args(flags)
        .args(["sh", "-ec", script, "sh"])
        .arg(dir.path())
        .arg(env!("CARGO_BIN_EXE_plexbeam-mount"))
        .output()
        .unwrap();
    (dir, output)
}

fn passes(flags: &[&str], script: &str) {
    let (_dir, output) = apart(flags, script);
    assert!(output.status.success(), "{output:?}");
}

/// An entry of /etc/fstab, as mount(8) reads it.
#[test]
fn mount_8_finds_its_helper() {
    if !can_mount() {
        return;
    }
    passes(
        &[],
        r#"cd "$1"; mkdir up work fsup fswork
        mount -t tmpfs none up; mkdir up/sbin up/work up/etc up/ework
        mount -t overlay none -o lowerdir=/usr/sbin,upperdir=up/sbin,workdir=up/work /usr/sbin
        mount -t overlay none -o lowerdir=/etc,upperdir=up/etc,workdir=up/ework /etc
        ln -s "$2" /usr/sbin/mount.plexbeam
        echo "http://127.0.0.1:9 $1/mnt plexbeam allow_other,cache-dir=$1/cache,hang_timeout=9s,_netdev,noauto 0 0" >> /etc/fstab
        mount "$1/mnt"
        grep -q " $1/mnt .*fuse.plexbeam.*allow_other" /proc/self/mountinfo
        test -d "$1/mnt/sessions"
        "$2" status "$1/mnt" | grep -q 'worker      http://127.0.0.1:9'
        umount "$1/mnt"
        if grep -q "$1/mnt" /proc/self/mountinfo; then exit 1; fi
        mount -t plexbeam plexbeam "$1/mnt" -o ro 2> "$1/err" && exit 1
        grep -q 'cannot be read-only' "$1/err"
        mount -t plexbeam plexbeam "$1/mnt" -o "api-key=x" 2> "$1/err" && exit 1
        grep -q 'mount.toml' "$1/err""#,
    );
}

/// On a host whose mounts are shared, as systemd makes them, and seen from a container's table.
#[test]
fn an_upgrade_reaches_containers_that_follow_the_host() {
    if !can_mount() {
        return;
    }
    passes(
        &["--propagation", "shared"],
        r#"trap 'touch "$1/end"' EXIT
        mkdir "$1/host"; mount -t tmpfs none "$1/host"; mount --make-shared "$1/host"
        cd "$1/host"; mkdir mnt; echo local > mnt/file
        unshare --mount --propagation slave sh -c 'until test -e "$1/end"; do sleep 0.05; done
            test -d mnt/sessions && test "$(cat mnt/file)" = local && grep -c "$1/host/mnt .*fuse.plexbeam" /proc/self/mountinfo' sh "$1" > "$1/seen" &
        "$2" "$1/host/mnt" --worker http://127.0.0.1:9 --cache-dir "$1/cache"
        "$2" upgrade "$1/host/mnt"; "$2" upgrade "$1/host/mnt"
        test -d "$1/host/mnt/sessions"
        test "$(grep -c "$1/host/mnt .*fuse.plexbeam" /proc/self/mountinfo)" = 1
        touch "$1/end"; wait $!; test "$(cat "$1/seen")" = 1
        "$2" umount "$1/host/mnt""#,
    );
}

/// SIGHUP: the settings are read anew, and what is mounted stays mounted.
#[test]
fn a_hangup_reads_the_workers_anew() {
    if !can_mount() {
        return;
    }
    passes(
        &[],
        r#"cd "$1"; settings() { echo "worker = ['http://127.0.0.1:$1']" > mount.toml; }
        until_shown() { timeout 60 sh -c 'until "$1" status "$2" 2> err | grep -q "worker .*$3"; do sleep 0.05; done' sh "$program" "$PWD/mnt" "$1"; }
        program=$2; settings 9
        "$2" mnt --config mount.toml --cache-dir cache --foreground 2> log &
        trap 'kill $!' EXIT
        until_shown 127.0.0.1:9
        exec 3> mnt/open
        settings 11; kill -HUP $!
        until_shown 127.0.0.1:11
        if "$2" status mnt | grep -q 127.0.0.1:9; then exit 1; fi
        echo still >&3; exec 3>&-; grep -q still mnt/open"#,
    );
}

#[test]
fn owner_and_mode_are_shown_as_asked_and_a_private_mount_is_told() {
    if !can_mount() {
        return;
    }
    passes(
        &[],
        r#""$2" "$1/mnt" --uid 4711 --gid 4712 --umask 027 --log-file "$1/log" --cache-dir "$1/cache"
        test "$(stat -c '%u %g %a' "$1/mnt/sessions")" = '4711 4712 750'
        touch "$1/mnt/own"; test "$(stat -c %u "$1/mnt/own")" = "$(id -u)"
        grep -q 'make-rshared' "$1/log"
        "$2" umount "$1/mnt"
        "$2" "$1/mnt" --umask 9 2> "$1/err" && exit 1
        grep -q 'octal digits' "$1/err""#,
    );
    passes(
        &["--propagation", "shared"],
        r#"mkdir "$1/host"; mount -t tmpfs none "$1/host"; mount --make-shared "$1/host"; mkdir "$1/host/mnt"
        "$2" "$1/host/mnt" --log-file "$1/log" --cache-dir "$1/cache"
        "$2" umount "$1/host/mnt"
        if grep -q 'make-rshared' "$1/log"; then exit 1; fi"#,
    );
}

#[test]
fn what_is_missing_is_told_with_its_remedy() {
    if !can_mount() {
        return;
    }
    let refused = |flags: &[&str], script: &str, words: &str| {
        let (_dir, output) = apart(flags, script);
        assert!(!output.status.success(), "{script}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains(words), "{script}: {text}");
    };
    let run = r#""$2" "$1/mnt" --cache-dir "$1/cache""#;
    // A container without the device.
    let without = format!("mount -t tmpfs none /dev; mknod /dev/null c 1 3; {run}");
    refused(&[], &without, "--device /dev/fuse");
    // Without privilege and without the helper.
    let bare = format!(
        "mount --bind /dev/null /usr/bin/fusermount3\n\
         exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin {run}"
    );
    refused(&[], &bare, "run as root, or install fuse3");
}

/// `sd_notify(3)`: ready when the mount is there, and told when it ends.
#[test]
fn a_service_manager_is_told() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mnt = dir.path().join("mnt");
    fs::create_dir(&mnt).unwrap();
    let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    let mut process = Command::new(env!("CARGO_BIN_EXE_plexbeam-mount"))
        .arg(&mnt)
        .args(["--foreground", "--cache-dir"])
        .arg(dir.path().join("cache"))
        .env("NOTIFY_SOCKET", dir.path().join("notify"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let hear = || {
        let mut buffer = [0; 200];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    assert!(hear().starts_with("READY=1"));
    assert!(mnt.join("sessions").is_dir());
    let pid = rustix::process::Pid::from_raw(process.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(hear(), "STOPPING=1");
    assert!(process.wait().unwrap().success());
}
