//! A file that was dropped from the spool is made again for whoever asks.

use super::{bench::*, fake};
use axum::http::{Method, StatusCode};
use plexbeam_api::{Event, Kind, SessionState};

const SIZE: u64 = 40_000;

fn path(n: u32) -> String {
    format!("/sessions/j/files/media-{n:05}.ts")
}

/// A spool of six segments after a job of twelve that were all read: the first ones are dropped.
async fn after_a_job(script: &[&str]) -> Bench {
    let bench = Bench::with(|config| config.store.ceiling = 6 * SIZE);
    bench.start("j", script).await;
    let mut stream = bench.stream("/sessions/j/events", &[]).await;
    while let Some(frame) = stream.event().await {
        if let Event::Segment(segment) = frame.session_event() {
            let reply = bench.get(&path(segment.number.unwrap())).await;
            assert_eq!(reply.status, StatusCode::OK);
        }
    }
    bench.until_state("j", SessionState::Completed).await;
    bench
}

#[tokio::test]
async fn a_dropped_segment_comes_again_for_all_who_ask() {
    let bench = after_a_job(&["seg:0:12:40000"]).await;
    let head = bench.call_with(Method::HEAD, &path(0), "", &[]).await;
    assert_eq!(head.status, StatusCode::GONE, "nobody wants its bytes yet");
    let first = path(0);
    let asked = std::iter::repeat_with(|| bench.get(&first)).take(8);
    let replies = futures_util::future::join_all(asked).await;
    let again: Vec<u8> = fake::bytes(0, SIZE as usize)
        .iter()
        .map(|byte| byte.wrapping_add(1))
        .collect();
    for reply in &replies {
        assert_eq!(reply.status, StatusCode::OK);
        assert_eq!(reply.body, again);
        assert_eq!(reply.header("etag"), replies[0].header("etag"));
        assert_eq!(
            reply.header("etag"),
            format!("\"{}\"", plexbeam_api::segment::Digest::of(&again).0)
        );
    }
    // Readers of the first bytes are not given the rest of the new ones.
    let old = plexbeam_api::segment::Digest::of(&fake::bytes(0, SIZE as usize)).0;
    let if_old = format!("\"{old}\"");
    let rest = [("range", "bytes=100-"), ("if-range", if_old.as_str())];
    let reply = bench.call_with(Method::GET, &path(0), "", &rest).await;
    assert_eq!(reply.status, StatusCode::OK, "whole, not the rest");
    // Who names the making that is wanted gets that one or none (RFC 9110 13.1.1).
    let new = replies[0].header("etag").to_owned();
    for method in [Method::GET, Method::HEAD] {
        let reply = bench
            .call_with(method, &path(0), "", &[("if-match", &if_old)])
            .await;
        assert_eq!(reply.status, StatusCode::PRECONDITION_FAILED);
        assert_eq!(reply.header("etag"), new);
    }
    let rest = [("range", "bytes=100-"), ("if-match", if_old.as_str())];
    let reply = bench.call_with(Method::GET, &path(0), "", &rest).await;
    assert_eq!(reply.status, StatusCode::PRECONDITION_FAILED);
    let rest = [("range", "bytes=100-"), ("if-match", new.as_str())];
    let reply = bench.call_with(Method::GET, &path(0), "", &rest).await;
    assert_eq!(reply.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(reply.body, again[100..]);
    // One that is dropped is made again to know.
    let reply = bench
        .call_with(Method::GET, &path(1), "", &[("if-match", "\"none\"")])
        .await;
    assert_eq!(reply.status, StatusCode::PRECONDITION_FAILED);
    // The job's own history is as it was, and it has ended.
    let status = bench.peek("j").await.unwrap();
    assert_eq!(
        (status.state, status.segments),
        (SessionState::Completed, 12)
    );
    until("the children to go", || async {
        (bench.children().len() <= 1).then_some(())
    })
    .await;
    assert!(on_disk(&bench.sessions_dir()) <= 6 * SIZE);
}

#[tokio::test]
async fn what_cannot_be_made_again_is_gone_with_the_reason() {
    let bench = after_a_job(&["never-again", "seg:0:12:40000"]).await;
    let reply = bench.get(&path(0)).await;
    assert_eq!(reply.status, StatusCode::GONE);
    let problem = reply.problem();
    assert_eq!(problem.kind, Kind::Gone);
    assert!(problem.detail.contains("the film is gone"), "{problem}");
    // One that was never made is not there at all.
    let reply = bench.get(&path(77)).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_session_can_be_ended_while_a_file_is_made() {
    let bench = after_a_job(&["slow-again", "seg:0:12:40000"]).await;
    let path = path(0);
    let (reply, ()) = tokio::join!(bench.get(&path), async {
        // Two of them: the spare that took it and the next one.
        until("the child to begin", || async {
            (bench.children().len() > 1).then_some(())
        })
        .await;
        bench.delete("/sessions/j").await;
    });
    assert!(
        [StatusCode::GONE, StatusCode::NOT_FOUND].contains(&reply.status),
        "{}",
        reply.status
    );
    until("all bytes to go", || async {
        (on_disk(&bench.sessions_dir()) == 0).then_some(())
    })
    .await;
}
