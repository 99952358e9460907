//! P1 over every command line that is known: where a job stays, the original gets the same words,
//! environment and directory to the byte, and nobody is called.

use crate::original;
use std::ffi::{OsStr, OsString};
use std::net::TcpListener;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A worker and a PMS that nobody may call, and a directory of an odd name.
struct Host {
    root: tempfile::TempDir,
    cwd: PathBuf,
    worker: TcpListener,
    pms: TcpListener,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let cwd = root
            .path()
            .join(OsStr::from_bytes(b"plex-transcode-\xff {1} s"));
        std::fs::create_dir(&cwd).unwrap();
        original::install(root.path());
        let silent = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        };
        Host {
            root,
            cwd,
            worker: silent(),
            pms: silent(),
        }
    }

    /// The environment, in the order in which the kernel hands it over.
    fn env(&self) -> Vec<(OsString, OsString)> {
        let root = self.root.path();
        let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        let mut env: Vec<(OsString, OsString)> = vec![
            ("EAE_ROOT".into(), "/tmp/pms-1/EasyAudioEncoder".into()),
            ("EMPTY".into(), "".into()),
            (
                "FFMPEG_EXTERNAL_LIBS".into(),
                "/Application\\ Support/Codecs/a-1/".into(),
            ),
            (
                "LD_LIBRARY_PATH".into(),
                "/usr/lib/plexmediaserver/lib".into(),
            ),
            ("NOT_UTF8".into(), os(b"\xfe=\xff \x01\n")),
            ("PLEXBEAM_CONFIG".into(), root.join("cartridge.toml").into()),
            ("PLEXBEAM_LOG_DIR".into(), root.join("log").into()),
            ("PLEXBEAM_ORIGINAL".into(), original::path(root).into()),
            (
                "PLEXBEAM_WORKERS".into(),
                format!("http://{}", self.worker.local_addr().unwrap()).into(),
            ),
            ("X_PLEX_TOKEN".into(), "xxxxxxxxxxxxxxxxxxxx".into()),
        ];
        env.sort();
        env
    }

    fn check(&self, what: &str, argv: &[OsString]) {
        const NAME: &str = "/usr/lib/plexmediaserver/Plex Transcoder";
        let env = self.env();
        let output = std::os::unix::process::CommandExt::arg0(
            &mut Command::new(env!("CARGO_BIN_EXE_plexbeam-cartridge")),
            NAME,
        )
        .args(argv)
        .env_clear()
        .envs(env.iter().map(|(name, value)| (name, value)))
        .current_dir(&self.cwd)
        .stdin(Stdio::null())
        .output()
        .unwrap();
        assert_eq!(output.status.code(), Some(42), "{what}: {output:?}");
        assert!(
            output.stdout.is_empty() && output.stderr.is_empty(),
            "{what}"
        );
        let recorded = self.root.path().join("recorded");
        let read = |name: &str| std::fs::read(recorded.join(name)).unwrap();
        assert_eq!(read("argv"), zeroed(argv.iter().cloned()), "{what}");
        let entries = env.into_iter().map(|(mut entry, value)| {
            entry.push("=");
            entry.push(value);
            entry
        });
        assert_eq!(read("environ"), zeroed(entries), "{what}");
        assert_eq!(read("cwd"), self.cwd.as_os_str().as_bytes(), "{what}");
        std::fs::remove_dir_all(recorded).unwrap();
        for (whom, listener) in [("the worker", &self.worker), ("PMS", &self.pms)] {
            assert!(listener.accept().is_err(), "{what}: {whom} was called");
        }
        let left = std::fs::read_dir(&self.cwd).unwrap().count();
        assert_eq!(left, 0, "{what}: a file of ours is left");
    }
}

/// Each ended by a zero byte, as the kernel keeps arguments and environment.
fn zeroed(words: impl Iterator<Item = OsString>) -> Vec<u8> {
    words
        .flat_map(|word| {
            let mut bytes = word.into_vec();
            bytes.push(0);
            bytes
        })
        .collect()
}

/// `(id, argv)` of all lines; URLs of PMS lead to ours. No film is there, so that playback stays, too.
fn lines(pms: &TcpListener) -> Vec<(String, Vec<OsString>)> {
    let ours = pms.local_addr().unwrap().to_string();
    [
        include_str!("../../../tests/fixtures/commands.jsonl"),
        include_str!("../../../tests/fixtures/made.jsonl"),
    ]
    .iter()
    .flat_map(|text| text.lines())
    .map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let words: Vec<String> = serde_json::from_value(line["argv"].clone()).unwrap();
        let argv = words
            .iter()
            .map(|w| w.replace("127.0.0.1:32400", &ours).into());
        (line["id"].as_str().unwrap().to_owned(), argv.collect())
    })
    .collect()
}

#[test]
fn p1_every_line_that_stays_is_handed_on_to_the_byte() {
    let host = Host::new();
    std::fs::write(
        host.root.path().join("cartridge.toml"),
        "copy_video = \"remote\"\n",
    )
    .unwrap();
    let lines = lines(&host.pms);
    assert!(lines.len() >= 49 + 30);
    for (id, argv) in lines {
        host.check(&id, &argv);
        // The same with words that are empty, blank or no text, first, in the middle and last.
        let mut odd = argv.clone();
        for (at, word) in [
            (0, b"".as_slice()),
            (argv.len() / 2, b"\xff\xfe'\"$(x)\\\n"),
            (argv.len(), b" "),
            (argv.len(), b""),
        ] {
            odd.insert(at, OsString::from_vec(word.to_vec()));
        }
        host.check(&format!("{id}, odd"), &odd);
    }
}

/// Whatever the settings are: the original runs. A fault costs nothing but a line in the log.
#[test]
fn p1_no_settings_can_stop_a_local_job() {
    let host = Host::new();
    let config = host.root.path().join("cartridge.toml");
    let argv: Vec<OsString> = ["-i", "/media/m.mkv", "-f", "null", "-"]
        .map(OsString::from)
        .into();
    let mut playback = lines(&host.pms)
        .into_iter()
        .find(|(id, _)| id == "sp-01")
        .unwrap()
        .1;
    let title = host.root.path().join("title.mkv");
    std::fs::write(&title, "x").unwrap();
    let at = playback.iter().position(|w| w == "-i").unwrap();
    playback[at + 1] = title.into();
    let deep = format!("workers = {}", "[".repeat(100_000));
    let faults: [(&str, &[u8]); 8] = [
        ("no TOML", b"workers = 5 5"),
        ("no text", b"\xff\xfe\x00"),
        ("unknown key", b"wrokers = []"),
        ("wrong type", b"workers = 7"),
        ("unknown value", b"copy_video = \"maybe\""),
        ("negative", b"find_ms = -1"),
        ("deep", deep.as_bytes()),
        ("key with a line end", b"api_key = \"a\\nb\""),
    ];
    for (what, text) in faults {
        std::fs::write(&config, text).unwrap();
        host.check(what, &argv);
        host.check(what, &playback);
    }
    std::fs::remove_file(&config).unwrap();
    type Make = dyn Fn(&Path);
    let places: [(&str, &Make); 5] = [
        ("missing", &|_| {}),
        ("a directory", &|p| std::fs::create_dir(p).unwrap()),
        ("a pipe that nobody writes", &|p| {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            rustix::fs::mknodat(rustix::fs::CWD, p, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        }),
        ("endless", &|p| {
            std::os::unix::fs::symlink("/dev/zero", p).unwrap();
        }),
        ("a loop", &|p| std::os::unix::fs::symlink(p, p).unwrap()),
    ];
    for (what, make) in places {
        make(&config);
        host.check(what, &argv);
        host.check(what, &playback);
        let _ = std::fs::remove_file(&config);
        let _ = std::fs::remove_dir(&config);
    }
}
