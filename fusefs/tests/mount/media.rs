//! The media route, over HTTP.

use crate::support::*;
use plexbeam_api::{
    media::sign,
    mount::{MountInfo, XATTR_MOUNT},
};
use plexbeam_fusefs::{MediaConfig, Secret, SetupError};
use reqwest::{Client, Method, Response, StatusCode};
use std::{
    fs,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

struct Route {
    base: String,
    secret: String,
    runtime: tokio::runtime::Runtime,
}

impl Route {
    fn url(&self, path: &Path, expires: u64) -> String {
        let path = path.as_os_str().as_bytes();
        sign(
            &self.base,
            self.secret.as_bytes(),
            path,
            &id("job-1"),
            expires,
        )
    }

    fn ask(&self, method: Method, url: &str, headers: &[(&str, &str)]) -> (Response, Vec<u8>) {
        self.runtime.block_on(async {
            let mut request = Client::new().request(method, url);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let mut response = request.send().await.unwrap();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.unwrap() {
                body.extend_from_slice(&chunk);
            }
            (response, body)
        })
    }
}

fn route(env: &Env, secret: Option<&str>) -> Route {
    let info = get_attribute(&env.path(""), XATTR_MOUNT).unwrap();
    let info: MountInfo = serde_json::from_str(&info).unwrap();
    Route {
        base: info.media.unwrap(),
        secret: secret.map(str::to_owned).or(info.media_secret).unwrap(),
        runtime: tokio::runtime::Runtime::new().unwrap(),
    }
}

#[test]
fn media_is_served_by_range_under_signed_urls_only() {
    if !can_mount() {
        return;
    }
    let env =
        Env::with(|config| config.media = Some(MediaConfig::new("127.0.0.1:0".parse().unwrap())));
    let route = route(&env, Some(KEY));
    let file = env.dir.path().join("Ünï & [x].mkv");
    let bytes = bytes_of(5, 5_000_000);
    fs::write(&file, &bytes).unwrap();
    let url = route.url(&file, now() + 60);

    let (whole, body) = route.ask(Method::GET, &url, &[]);
    assert_eq!(whole.status(), StatusCode::OK);
    assert!(body == bytes);
    let header = |response: &Response, name: &str| {
        response
            .headers()
            .get(name)
            .map(|value| value.to_str().unwrap().to_owned())
    };
    assert_eq!(header(&whole, "accept-ranges").as_deref(), Some("bytes"));
    let tag = header(&whole, "etag").unwrap();

    let (head, body) = route.ask(Method::HEAD, &url, &[]);
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(header(&head, "content-length").as_deref(), Some("5000000"));
    assert!(body.is_empty());

    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-2000099", 100, 2_000_100),
        ("bytes=4999999-", 4_999_999, 5_000_000),
        ("bytes=-10", 4_999_990, 5_000_000),
        ("bytes=4000000-9999999", 4_000_000, 5_000_000),
    ] {
        let (part, body) = route.ask(Method::GET, &url, &[("range", range), ("if-range", &tag)]);
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT, "{range}");
        let expected = format!("bytes {from}-{}/5000000", to - 1);
        assert_eq!(header(&part, "content-range"), Some(expected));
        assert!(body == bytes[from..to], "{range}");
    }
    let (beyond, _) = route.ask(Method::GET, &url, &[("range", "bytes=5000000-")]);
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(
        header(&beyond, "content-range").as_deref(),
        Some("bytes */5000000")
    );
    let other_version = [("range", "bytes=0-1"), ("if-range", "\"old\"")];
    assert_eq!(
        route.ask(Method::GET, &url, &other_version).1.len(),
        5_000_000
    );

    // Neither another file, nor another time, nor another job.
    let status = |url: &str| {
        let (response, body) = route.ask(Method::GET, url, &[]);
        assert!(!String::from_utf8_lossy(&body).contains("root:"));
        response.status()
    };
    let foreign = route.url(Path::new("/etc/passwd"), now() + 60);
    let (_, query) = url.split_once('?').unwrap();
    let (path, _) = foreign.split_once('?').unwrap();
    assert_eq!(status(&format!("{path}?{query}")), StatusCode::FORBIDDEN);
    assert_eq!(
        status(&url.replace("job-1", "job-2")),
        StatusCode::FORBIDDEN
    );
    assert_eq!(status(&route.url(&file, now() - 1)), StatusCode::FORBIDDEN);
    assert_eq!(
        status(url.split('?').next().unwrap()),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        status(&format!("{}/media/..%2Fetc?{query}", route.base)),
        StatusCode::BAD_REQUEST
    );
    assert_eq!(
        status(&format!("{}/etc/passwd", route.base)),
        StatusCode::NOT_FOUND
    );

    // Only regular files; a fifo must not even be opened.
    let fifo = env.dir.path().join("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    for path in [env.dir.path(), Path::new("/dev/zero"), &fifo] {
        assert_eq!(
            status(&route.url(path, now() + 60)),
            StatusCode::FORBIDDEN,
            "{path:?}"
        );
    }
    let absent = env.dir.path().join("absent");
    assert_eq!(
        status(&route.url(&absent, now() + 60)),
        StatusCode::NOT_FOUND
    );
    fs::write(env.dir.path().join("empty"), "").unwrap();
    assert_eq!(
        status(&route.url(&env.dir.path().join("empty"), now() + 60)),
        StatusCode::OK
    );
    // A file staged in the mount itself.
    fs::write(env.path("temp-0.srt"), "1\n").unwrap();
    let (_, body) = route.ask(
        Method::GET,
        &route.url(&env.path("temp-0.srt"), now() + 60),
        &[],
    );
    assert_eq!(body, b"1\n");
}

#[test]
fn without_a_key_the_secret_is_the_owners() {
    if !can_mount() {
        return;
    }
    let env = Env::with(|config| {
        config.remote.api_key = None;
        config.media = Some(MediaConfig::new("127.0.0.1:0".parse().unwrap()));
    });
    let route = route(&env, None);
    fs::write(env.dir.path().join("film"), "x").unwrap();
    let (_, body) = route.ask(
        Method::GET,
        &route.url(&env.dir.path().join("film"), now() + 60),
        &[],
    );
    assert_eq!(body, b"x");
    // Another user sees the mount, and the secret in his own directory only.
    let mountpoint = env.path("");
    let own = env.path("own");
    fs::create_dir(&own).unwrap();
    std::os::unix::fs::chown(&own, Some(1234), Some(1234)).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(env.dir.path(), open).unwrap();
    let as_user = |path: &Path| {
        // This program again, as the other user.
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "media::show_the_mount",
                "--nocapture",
                "--ignored",
            ])
            .env("SHOW_MOUNT_OF", path)
            .uid(1234)
            .gid(1234)
            .output()
            .ok()?;
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let (Some(in_root), Some(in_own)) = (as_user(&mountpoint), as_user(&own)) else {
        eprintln!("\n*** SKIPPED: this program is out of reach of other users ***\n");
        return;
    };
    assert!(
        in_root.contains("api_version") && !in_root.contains(&route.secret),
        "{in_root}"
    );
    assert!(in_own.contains(&route.secret), "{in_own}");
}

/// Run by the test above as another user.
#[test]
#[ignore = "part of another test"]
fn show_the_mount() {
    let path = std::env::var_os("SHOW_MOUNT_OF").unwrap();
    println!("{}", get_attribute(Path::new(&path), XATTR_MOUNT).unwrap());
}

#[test]
fn a_reachable_route_without_a_key_is_refused() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = plexbeam_fusefs::FsConfig::new(dir.path());
    config.media = Some(MediaConfig::new("0.0.0.0:0".parse().unwrap()));
    let refused = plexbeam_fusefs::mount(&config).unwrap_err();
    assert!(matches!(refused, SetupError::MediaNeedsKey(_)), "{refused}");
    config.remote.api_key = Some(Secret::new(KEY));
    let mounted = plexbeam_fusefs::mount(&config).unwrap();
    assert!(mounted.media().is_some());
    mounted.unmount();
}
