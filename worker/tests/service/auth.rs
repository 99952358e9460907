//! Nobody gets in (P8): every route against every credential, and the loopback rule.

use super::bench::*;
use axum::{
    body::Body,
    http::{Method, StatusCode},
};

/// Every route with a request that would succeed or at least be looked at.
const ROUTES: &[(&str, &str, bool)] = &[
    // Method, path, may the token of session `one` do it.
    ("POST", "/transcode", false),
    ("DELETE", "/transcode/one", false),
    ("GET", "/status/one", false),
    ("GET", "/jobs", false),
    ("GET", "/sessions", false),
    ("GET", "/events", false),
    ("GET", "/sessions/one/events", true),
    ("PUT", "/sessions/one/lease", true),
    ("PUT", "/sessions/one/throttle", true),
    ("GET", "/sessions/one/files", true),
    ("GET", "/sessions/one/files/media-00000.ts", true),
    ("HEAD", "/sessions/one/files/media-00000.ts", true),
    ("GET", "/no/such/route", false),
    ("GET", "/sessions/unknown/files", false),
    ("PATCH", "/jobs", false),
    ("PUT", "/health", false),
    ("DELETE", "/sessions/one", true),
];

async fn status(bench: &Bench, method: &str, path: &str, headers: &[(&str, &str)]) -> StatusCode {
    let mut request = bench.request(method.parse().unwrap(), path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = match path.ends_with("throttle") {
        true => r#"{"on":false}"#,
        false => "",
    };
    let request = request.body(Body::from(body)).unwrap();
    // Streams do not end: the head is enough.
    let router = plexbeam_worker::http::app(bench.app().clone());
    let response = within("a head", tower::ServiceExt::oneshot(router, request)).await;
    response.unwrap().status()
}

#[tokio::test]
async fn p8_every_route_asks_for_the_key_or_its_own_token() {
    let bench = Bench::new();
    let one = bench.start("one", &["seg:0:1:10", "work"]).await;
    let two = bench.start("two", &["work"]).await;
    let (one, two) = (format!("Bearer {one}"), format!("bearer {two}"));
    for &(method, path, own) in ROUTES {
        let unauthorized = StatusCode::UNAUTHORIZED;
        for wrong in [
            &[][..],
            &[("x-api-key", "wrong")],
            &[("x-api-key", "")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer a-key-of-the-test")],
            &[("authorization", "Basic a-key-of-the-test")],
            &[("authorization", &two)],
            &[("x-api-key", &two[7..])],
        ] {
            let got = status(&bench, method, path, wrong).await;
            assert_eq!(got, unauthorized, "{method} {path} {wrong:?}");
        }
        let by_token = status(&bench, method, path, &[("authorization", &one)]).await;
        assert_eq!(by_token != unauthorized, own, "{method} {path} by token");
        let by_key = status(&bench, method, path, &[("x-api-key", KEY)]).await;
        assert_ne!(by_key, unauthorized, "{method} {path} by key");
        assert_ne!(by_key, StatusCode::FORBIDDEN, "{method} {path} by key");
    }
    // Its own token still ends a session that is freed, and nothing else.
    let own = [("authorization", one.as_str())];
    let again = status(&bench, "DELETE", "/sessions/one", &own).await;
    assert_eq!(again, StatusCode::NO_CONTENT);
    let files = status(&bench, "GET", "/sessions/one/files", &own).await;
    assert_eq!(files, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn liveness_is_for_everybody_and_details_are_not() {
    let bench = Bench::new();
    let open = bench
        .send(
            bench
                .request(Method::GET, "/health")
                .body(Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!(open.status, StatusCode::OK);
    let members: Vec<String> = open.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(members, ["api_version", "status"]);
    let full = bench.get("/health").await.json();
    assert_eq!(full["worker"], bench.app().worker.as_str());
    assert_eq!(full["max_jobs"], 4);
    assert_eq!(
        status(&bench, "GET", "/health", &[("x-api-key", "wrong")]).await,
        StatusCode::OK
    );
    assert_eq!(
        status(&bench, "GET", "/ready", &[]).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn p8_without_a_key_only_this_machine_and_no_foreign_page_may_call() {
    let bench = Bench::with(|config| config.api_key = None);
    let ask = |host: Option<&'static str>, origins: &'static [&'static str]| {
        let mut request = axum::http::Request::get("/jobs");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        for origin in origins {
            request = request.header("origin", *origin);
        }
        let request = request.body(Body::empty()).unwrap();
        bench.send(request)
    };
    for (host, origins) in [
        ("localhost:8765", &[][..]),
        ("127.0.0.1:8765", &[]),
        ("127.3.2.1", &[]),
        ("[::1]:8765", &[]),
        ("localhost:8765", &["http://localhost:8765"]),
        ("127.0.0.1:8765", &["http://127.0.0.1:8765"]),
    ] {
        let reply = ask(Some(host), origins).await;
        assert_eq!(reply.status, StatusCode::OK, "{host} {origins:?}");
    }
    for (host, origins) in [
        (None, &[][..]),
        (Some("evil.example"), &[]),
        (Some("192.168.1.5:8765"), &[]),
        (Some("localhost.evil.example:8765"), &[]),
        (Some("localhost:8765"), &["http://evil.example"]),
        (Some("localhost:8765"), &["https://localhost:8765"]),
        (Some("localhost:8765"), &["http://localhost:3000"]),
        (Some("localhost:8765"), &["null"]),
        (
            Some("localhost:8765"),
            &["http://localhost:8765", "http://evil.example"],
        ),
    ] {
        let reply = ask(host, origins).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{host:?} {origins:?}");
        assert!(reply.problem().detail.contains("--api-key"));
    }
    // Also what needs no key elsewhere, and what does not exist.
    for path in ["/health", "/nothing"] {
        let request = axum::http::Request::get(path).header("host", "evil.example");
        let reply = bench.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path}");
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_also_without_a_key() {
    let bench = Bench::with(|config| config.api_key = None);
    let token = bench.start("one", &["work"]).await;
    let files = "/sessions/one/files";
    let with = |token: &str| format!("Bearer {token}");
    let right = status(&bench, "GET", files, &[("authorization", &with(&token))]).await;
    assert_eq!(right, StatusCode::OK);
    let wrong = status(&bench, "GET", files, &[("authorization", &with("x"))]).await;
    assert_eq!(wrong, StatusCode::UNAUTHORIZED);
}
