//! Nobody gets in without the key (P8).

use plexbeam_tests::{
    TestEnv,
    env::{Process, clean, free_port, http_client, program},
    wait,
};
use std::{process::Command, time::Duration};

#[test]
fn without_the_key_no_route_tells_anything() {
    let env = TestEnv::new("keys");
    let worker = env.worker(&[]);
    let client = http_client();
    let routes = [
        "/status/x",
        "/jobs",
        "/sessions",
        "/events",
        "/sessions/x/events",
        "/sessions/x/files",
        "/sessions/x/files/y",
    ];
    for key in [None, Some("wrong"), Some("")] {
        let send = |request: reqwest::blocking::RequestBuilder| {
            let request = match key {
                Some(key) => request.header("x-api-key", key),
                None => request,
            };
            request.send().expect("an answer")
        };
        for route in routes {
            let answer = send(client.get(format!("{}{route}", worker.url)));
            assert_eq!(answer.status(), 401, "GET {route} with {key:?}");
            let problem: serde_json::Value = answer.json().expect("problem JSON");
            assert_eq!(problem["kind"], "unauthenticated", "{route}");
        }
        for (method, route) in [
            (reqwest::Method::POST, "/transcode"),
            (reqwest::Method::DELETE, "/transcode/x"),
            (reqwest::Method::DELETE, "/sessions/x"),
            (reqwest::Method::PUT, "/sessions/x/throttle"),
            (reqwest::Method::PUT, "/sessions/x/lease"),
        ] {
            let url = format!("{}{route}", worker.url);
            let answer = send(client.request(method.clone(), url).body("{}"));
            assert_eq!(answer.status(), 401, "{method} {route} with {key:?}");
        }
        let health = send(client.get(format!("{}/health", worker.url)));
        assert_eq!(health.status(), 200);
        let health: serde_json::Value = health.json().expect("JSON");
        let mut members: Vec<&String> = health.as_object().expect("an object").keys().collect();
        members.sort();
        assert_eq!(members, ["api_version", "status"]);
    }
    let health: serde_json::Value = worker
        .get("/health")
        .and_then(|r| r.json())
        .expect("health with the key");
    assert!(
        health["worker"].is_string() && health["devices"].is_array(),
        "{health}"
    );
}

/// Without a key a worker serves its own host only, and says why when asked otherwise.
#[test]
fn a_worker_without_a_key_stays_on_its_host() {
    let env = TestEnv::new("no-key");
    let mut command = clean(Command::new(program("plexbeam-worker")));
    command
        .args(["serve", "--listen", &format!("0.0.0.0:{}", free_port())])
        .args(["--hw", "none", "--spool"])
        .arg(env.dir("spool"));
    let mut process = Process::start("open-worker", env.root(), command);
    let status = wait::until("the worker refuses", Duration::from_secs(20), || {
        process.try_wait()
    });
    assert!(!status.success());
    assert!(process.log().contains("key"), "{}", process.log());

    let port = free_port();
    let mut command = clean(Command::new(program("plexbeam-worker")));
    command
        .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
        .args(["--hw", "none", "--spool"])
        .arg(env.dir("spool"));
    let process = Process::start("keyless-worker", env.root(), command);
    let client = http_client();
    let url = format!("http://127.0.0.1:{port}/sessions");
    wait::until("the worker answers", Duration::from_secs(30), || {
        client.get(&url).send().ok().filter(|r| r.status() == 200)
    });
    // A page in a browser on the same host: another origin, or a name that was rebound.
    for (name, value) in [("origin", "http://evil.example"), ("host", "evil.example")] {
        let answer = client
            .get(&url)
            .header(name, value)
            .send()
            .expect("an answer");
        assert!(
            answer.status().is_client_error(),
            "{name}: {}",
            answer.status()
        );
    }
    drop(process);
}
