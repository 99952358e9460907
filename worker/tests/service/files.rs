//! The bytes of finished files.

use super::{bench::*, fake};
use axum::http::{Method, StatusCode};
use base64::{Engine, engine::general_purpose::STANDARD};
use plexbeam_api::{Kind, SessionState};
use serde_json::json;

const FILE: &str = "/sessions/j/files/media-00001.ts";

async fn bench() -> Bench {
    let bench = Bench::new();
    bench
        .start(
            "j",
            &[
                "seg:0:3:1000",
                "playlist:50",
                "until-throttled",
                "playlist:60",
            ],
        )
        .await;
    until("the playlist", || async {
        let list = bench.get("/sessions/j/files").await.json();
        (list.as_array().unwrap().len() == 4).then_some(())
    })
    .await;
    bench
}

#[tokio::test]
async fn a_file_comes_whole_with_its_digest() {
    let bench = bench().await;
    let expected = fake::bytes(1, 1000);
    let reply = bench.get(FILE).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.body, expected);
    assert_eq!(reply.header("content-length"), "1000");
    assert_eq!(reply.header("content-type"), "video/mp2t");
    assert_eq!(reply.header("accept-ranges"), "bytes");
    // By another implementation of SHA-256 than ours.
    let sum = std::process::Command::new("sha256sum")
        .stdin({
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &expected).unwrap();
            std::fs::File::open(file.path()).unwrap()
        })
        .output()
        .unwrap();
    let hex = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    assert_eq!(reply.header("etag"), format!("\"{hex}\""));
    let raw: Vec<u8> = (0..32)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap())
        .collect();
    let digest = format!("sha-256=:{}:", STANDARD.encode(raw));
    assert_eq!(reply.header("repr-digest"), digest);
    let head = bench.call_with(Method::HEAD, FILE, "", &[]).await;
    assert_eq!(head.status, StatusCode::OK);
    assert!(head.body.is_empty());
    for name in ["content-length", "etag", "repr-digest", "content-type"] {
        assert_eq!(head.header(name), reply.header(name), "{name}");
    }
    let list = bench.get("/sessions/j/files").await.json();
    assert_eq!(list[1]["name"], "media-00001.ts");
    assert_eq!(list[1]["digest"], hex);
    assert_eq!(list[1]["size"], 1000);
}

#[tokio::test]
async fn ranges_and_conditions() {
    let bench = bench().await;
    let expected = fake::bytes(1, 1000);
    let etag = bench.get(FILE).await.header("etag").to_owned();
    let ask =
        async |headers: &[(&str, &str)]| bench.call_with(Method::GET, FILE, "", headers).await;
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=990-", 990, 1000),
        ("bytes=-10", 990, 1000),
        ("bytes=500-5000", 500, 1000),
    ] {
        let reply = ask(&[("range", range)]).await;
        assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(reply.body, expected[from..to], "{range}");
        let content_range = format!("bytes {from}-{}/1000", to - 1);
        assert_eq!(reply.header("content-range"), content_range);
        assert_eq!(reply.header("content-length"), (to - from).to_string());
        assert_eq!(reply.header("etag"), etag);
    }
    let outside = ask(&[("range", "bytes=1000-")]).await;
    assert_eq!(outside.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(outside.header("content-range"), "bytes */1000");
    outside.problem();
    let several = ask(&[("range", "bytes=0-1,5-6")]).await;
    assert_eq!((several.status, several.body.len()), (StatusCode::OK, 1000));
    let same = ask(&[("range", "bytes=0-9"), ("if-range", &etag)]).await;
    assert_eq!(same.status, StatusCode::PARTIAL_CONTENT);
    let changed = ask(&[("range", "bytes=0-9"), ("if-range", "\"other\"")]).await;
    assert_eq!((changed.status, changed.body.len()), (StatusCode::OK, 1000));
    let list = format!("\"other\", W/{etag}");
    for tag in [etag.as_str(), "*", &list] {
        let reply = ask(&[("if-none-match", tag)]).await;
        assert_eq!(reply.status, StatusCode::NOT_MODIFIED, "{tag}");
        assert!(reply.body.is_empty());
        assert_eq!(reply.header("etag"), etag);
    }
    let other = ask(&[("if-none-match", "\"other\"")]).await;
    assert_eq!(other.status, StatusCode::OK);
}

#[tokio::test]
async fn a_playlist_is_replaced_and_never_cached() {
    let bench = bench().await;
    let path = "/sessions/j/files/index.m3u8";
    let first = bench.get(path).await;
    assert_eq!(first.body.len(), 50);
    assert_eq!(first.header("cache-control"), "no-store");
    assert_eq!(
        first.header("content-type"),
        "application/vnd.apple.mpegurl"
    );
    assert_ne!(bench.get(FILE).await.header("cache-control"), "no-store");
    bench.put("/sessions/j/throttle", r#"{"on":true}"#).await;
    bench.until_state("j", SessionState::Completed).await;
    let last = bench.get(path).await;
    assert_eq!(last.body, fake::bytes(0, 60));
    assert_ne!(last.header("etag"), first.header("etag"));
    let list = bench.get("/sessions/j/files").await.json();
    assert_eq!(list.as_array().unwrap().len(), 4, "it is listed once");
}

#[tokio::test]
async fn not_yet_never_and_gone_are_told_apart() {
    let bench = bench().await;
    let kind = async |name: &str| {
        let reply = bench.get(&format!("/sessions/j/files/{name}")).await;
        let problem = reply.problem();
        (
            reply.status.as_u16(),
            problem.kind,
            !reply.header("retry-after").is_empty(),
        )
    };
    assert_eq!(kind("media-00003.ts").await, (409, Kind::NotYet, true));
    assert_eq!(kind("media-3.ts").await, (404, Kind::NotFound, false));
    assert_eq!(kind("other.ts").await, (404, Kind::NotFound, false));
    for outside in [
        "..",
        "%2e%2e",
        "..%2fmarker",
        "..%2f..%2fworker-id",
        "%2fetc%2fpasswd",
        ".hidden",
        "a%00b",
        "a%0ab",
        "%ff",
    ] {
        let reply = bench.get(&format!("/sessions/j/files/{outside}")).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{outside}");
        reply.problem();
    }
    bench.put("/sessions/j/throttle", r#"{"on":true}"#).await;
    bench.until_state("j", SessionState::Completed).await;
    assert_eq!(
        kind("media-00003.ts").await,
        (404, Kind::NotFound, false),
        "an ended session makes no more"
    );
}

#[tokio::test]
async fn what_was_dropped_is_gone() {
    let bench = Bench::with(|config| config.store.ceiling = 2500);
    bench.start("j", &["seg:0:3:1000", "work"]).await;
    until("two segments", || async {
        bench.peek("j").await.filter(|s| s.segments == 2)
    })
    .await;
    assert_eq!(
        bench
            .get("/sessions/j/files/media-00000.ts")
            .await
            .body
            .len(),
        1000
    );
    until("the third", || async {
        bench.peek("j").await.filter(|s| s.segments == 3)
    })
    .await;
    let gone = bench.get("/sessions/j/files/media-00000.ts").await;
    assert_eq!(gone.status, StatusCode::GONE);
    assert_eq!(gone.problem().kind, Kind::Gone);
    let list = bench.get("/sessions/j/files").await.json();
    let names: Vec<_> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].clone())
        .collect();
    assert_eq!(json!(names), json!(["media-00001.ts", "media-00002.ts"]));
}
