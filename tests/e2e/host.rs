//! A Plex host, as the administrator's tool sees it.

use plexbeam_tests::env::{TestEnv, program};
use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output},
};

pub(crate) const PLEX: &str = "usr/lib/plexmediaserver";

/// A host with an installed cartridge, below a root of its own.
pub(crate) struct Host {
    pub(crate) root: PathBuf,
    /// More words for each call of the doctor.
    pub(crate) words: Vec<String>,
}

impl Host {
    pub(crate) fn new(env: &TestEnv, worker: Option<&str>) -> Host {
        let host = Host::bare(env);
        let mut words = vec!["install"];
        words.extend(worker.iter().flat_map(|url| ["--worker", url]));
        let output = host.tool(env, &words);
        assert!(output.status.success(), "{output:?}");
        host
    }

    /// Plex as a package leaves it; nothing of ours.
    pub(crate) fn bare(env: &TestEnv) -> Host {
        let root = env.dir("host");
        for dir in [PLEX, "opt", "etc", "var/log", "var/lib/dpkg"] {
            fs::create_dir_all(root.join(dir)).expect("a folder");
        }
        fs::write(root.join(PLEX).join("Plex Media Server"), "x").expect("a server");
        let host = Host {
            root,
            words: Vec::new(),
        };
        host.package("1.40.0.7998-c29d4c0c8");
        host
    }

    /// As dpkg brings a version. The original is the fake one, with the version behind it.
    pub(crate) fn package(&self, version: &str) {
        let script = format!(
            "set -e; cd \"$1\"; {{ cat \"$2\"; echo {version}; }} > x.dpkg-new; \
             chmod 755 x.dpkg-new; mv x.dpkg-new 'Plex Transcoder'"
        );
        // By another process: one that is written to here could not be started from here.
        let done = Command::new("sh")
            .args(["-c", &script, "dpkg"])
            .arg(self.root.join(PLEX))
            .arg(program("fake-original"))
            .status();
        assert!(done.expect("a shell").success());
        let status = format!("Package: plexmediaserver\nVersion: {version}\n");
        fs::write(self.root.join("var/lib/dpkg/status"), status).expect("dpkg's notes");
    }

    pub(crate) fn transcoder(&self) -> PathBuf {
        self.root.join(PLEX).join("Plex Transcoder")
    }

    pub(crate) fn settings(&self) -> PathBuf {
        self.root.join("etc/plexbeam/cartridge.toml")
    }

    pub(crate) fn tool(&self, env: &TestEnv, words: &[&str]) -> Output {
        Command::new(program("plexbeam-cartridge"))
            .args(words)
            .arg("--root")
            .arg(&self.root)
            .env("PLEXBEAM_API_KEY", env.key())
            .output()
            .expect("start the tool")
    }

    /// What the doctor finds; the key is that of the settings, not of the environment.
    pub(crate) fn examine(&self) -> Vec<Value> {
        let output = Command::new(program("plexbeam-cartridge"))
            .args(["doctor", "--json", "--root"])
            .arg(&self.root)
            .args(&self.words)
            .output()
            .expect("start the doctor");
        let text = String::from_utf8_lossy(&output.stdout);
        let checks = serde_json::from_str(&text);
        let checks: Vec<Value> = checks.unwrap_or_else(|e| panic!("{e}: {output:?}"));
        let failed = checks.iter().any(|check| check["state"] == "fail");
        assert_eq!(output.status.success(), !failed, "{output:?}");
        checks
    }

    /// The first check that is not in order is this one, and its remedy holds these words.
    #[track_caller]
    pub(crate) fn finds(&self, name: &str, state: &str, fact: &str, fix: &str) {
        let checks = self.examine();
        let of = |state: &str| checks.iter().find(|check| check["state"] == state);
        let first = of("fail").or_else(|| of("warn"));
        let first =
            first.unwrap_or_else(|| panic!("nothing was found instead of {name}: {checks:#?}"));
        let has = |field: &str, text: &str| {
            first[field]
                .as_str()
                .is_some_and(|found| found.contains(text))
        };
        assert!(
            first["name"] == name
                && first["state"] == state
                && has("fact", fact)
                && has("fix", fix),
            "{first:#} instead of {name}: {fact}: {fix}"
        );
    }
}

/// A process that ends with its test.
pub(crate) struct Kill(pub(crate) Child);

impl Drop for Kill {
    fn drop(&mut self) {
        // Ended already is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
