//! The cache over a source in memory.

use super::*;
use crate::remote::{Body, Session};
use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt,
    future::{BoxFuture, join_all},
};
use plexbeam_api::{
    Segment,
    checksum::Checksum,
    segment::{Digest, SegmentKind},
};
use std::sync::atomic::AtomicU32;

const SIZE: u64 = 8192;

/// Gives each file bytes made of its name, the first so many times damaged.
#[derive(Default)]
struct Memory {
    asked: AtomicU32,
    damage: AtomicU32,
}

fn content(name: &str, size: u64) -> Bytes {
    name.bytes().cycle().take(size as usize).collect()
}

impl SegmentSource for Memory {
    fn open<'a>(
        &'a self,
        file: &'a RemoteFile,
        range: Option<(u64, u64)>,
    ) -> BoxFuture<'a, Result<Body, FetchError>> {
        assert_eq!(range, None);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mut bytes = content(file.name.as_str(), file.size()).to_vec();
        let damage = |left: u32| left.checked_sub(1);
        if self
            .damage
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, damage)
            .is_ok()
        {
            bytes.pop();
        }
        Box::pin(async move {
            tokio::task::yield_now().await;
            let chunks = vec![Ok(Bytes::from(bytes))];
            Ok(Body {
                chunks: futures_util::stream::iter(chunks).boxed(),
                digest: None,
            })
        })
    }

    fn present<'a>(
        &'a self,
        file: &'a RemoteFile,
    ) -> BoxFuture<'a, Result<(u64, Digest), FetchError>> {
        let segment = file.segment();
        Box::pin(async move { Ok((segment.size, segment.digest.clone())) })
    }
}

struct Bench {
    cache: Arc<SegmentCache>,
    memory: Arc<Memory>,
    session: Arc<Session>,
}

fn bench(files: u64) -> Bench {
    let memory = Arc::new(Memory::default());
    let config = CacheConfig {
        dir: None,
        ceiling: files * SIZE,
    };
    Bench {
        cache: SegmentCache::new(&config, memory.clone()).unwrap(),
        memory,
        session: Session::for_test("s"),
    }
}

fn file(session: &Session, name: &str, size: u64) -> Arc<RemoteFile> {
    let segment = Segment {
        output: 0,
        rendition: None,
        kind: SegmentKind::Media,
        number: Some(1),
        name: name.parse().unwrap(),
        size,
        digest: Digest::of(&content(name, size)),
        checksum: Some(Checksum::of(&content(name, size))),
        time_scale: 1,
        pts: 0,
        duration: 0,
        times: None,
        rendition_info: None,
    };
    session.presume(segment)
}

impl Bench {
    async fn demand(&self, name: &str) -> Arc<CacheFile> {
        match self
            .cache
            .demand(&file(&self.session, name, SIZE))
            .await
            .unwrap()
        {
            Got::File(file) => file,
            Got::NoRoom | Got::Part(..) => panic!("no room for {name}"),
        }
    }

    /// As a binding holds it.
    async fn hold(&self, name: &str, rank: Rank, owner: u64) {
        let file = file(&self.session, name, SIZE);
        let room = self.cache.try_room(SIZE, Want::Share(owner)).unwrap();
        let _here = self.cache.fetch(&file, room).await.unwrap();
        self.cache.set_rank(&FileKey::of(&file), rank, Some(owner));
    }

    fn has(&self, names: &str) -> String {
        let here = |name: &char| {
            let key = FileKey::of(&file(&self.session, &name.to_string(), SIZE));
            self.cache.shelf.lock().entries.contains(&key)
        };
        names.chars().filter(here).collect()
    }
}

#[tokio::test]
async fn the_least_recently_used_goes_first() {
    let bench = bench(3);
    for name in ["a", "b", "c", "a", "d"] {
        let here = bench.demand(name).await;
        assert_eq!(here.read(0, 1 << 20).unwrap(), content(name, SIZE));
    }
    assert_eq!(bench.has("abcd"), "acd");
    assert_eq!(bench.memory.asked.load(Ordering::Relaxed), 4);
    assert_eq!(bench.cache.usage().peak, 3 * SIZE);
}

#[tokio::test]
async fn open_files_and_downloads_count_until_they_are_let_go() {
    let bench = bench(2);
    let a = bench.demand("a").await;
    let key = FileKey::of(&file(&bench.session, "a", SIZE));
    bench.cache.remove(&key);
    assert_eq!(
        (bench.cache.usage().used, bench.cache.usage().files),
        (SIZE, 0)
    );
    let room = bench.cache.try_room(SIZE - 1, Want::Spare).unwrap();
    assert!(bench.cache.try_room(1, Want::Spare).is_none());
    drop(a);
    assert!(bench.cache.try_room(SIZE, Want::Spare).is_some());
    drop(room);
    assert!(bench.cache.try_room(2 * SIZE, Want::Spare).is_some());
    assert!(bench.cache.try_room(2 * SIZE + 1, Want::Spare).is_none());
    assert_eq!(bench.cache.usage().used, 0);
}

/// What a download takes from a file that goes is its own at once; the file, and with it what is left
/// over, goes before the first byte is written.
#[tokio::test]
async fn what_is_pushed_out_goes_before_others_take_its_place() {
    let bench = bench(2);
    let on_disk = || {
        let files = std::fs::read_dir(bench.cache.dir()).unwrap().flatten();
        files
            .map(|file| file.metadata().unwrap().len())
            .sum::<u64>()
    };
    let big = file(&bench.session, "big", 2 * SIZE);
    assert!(matches!(bench.cache.demand(&big).await, Ok(Got::File(_))));
    let room = bench.cache.try_room(SIZE, Want::Spare).unwrap();
    assert!(bench.cache.get(&FileKey::of(&big)).is_none());
    assert_eq!((on_disk(), bench.cache.usage().used), (2 * SIZE, 2 * SIZE));
    assert!(bench.cache.try_room(1, Want::Spare).is_none());
    let a = file(&bench.session, "a", SIZE);
    bench.cache.fetch(&a, room).await.unwrap();
    assert_eq!((on_disk(), bench.cache.usage().used), (SIZE, SIZE));
    // Nothing is taken where nothing is written.
    drop(bench.cache.try_room(2 * SIZE, Want::Spare));
    assert_eq!((on_disk(), bench.cache.usage().used), (0, 0));
    assert_eq!(bench.cache.usage().peak, 2 * SIZE);
}

#[tokio::test]
async fn what_is_held_unread_stays_and_headers_always() {
    let bench = bench(4);
    bench.cache.join(1);
    bench.hold("h", Rank::Keep, 1).await;
    bench.hold("a", Rank::Unread, 1).await;
    bench.hold("b", Rank::Unread, 1).await;
    bench.demand("x").await;
    // A reader of something else gets no room at their cost, nor do their successors.
    bench.demand("y").await;
    assert_eq!(bench.has("habxy"), "haby");
    bench.hold("c", Rank::Unread, 1).await;
    let freed = std::pin::pin!(bench.cache.freed());
    assert!(bench.cache.try_room(SIZE, Want::Share(1)).is_none());
    assert!(bench.cache.try_room(SIZE, Want::Spare).is_none());
    // Or who waits for room would try for ever.
    assert!(freed.now_or_never().is_none(), "nothing was freed");
    let a = FileKey::of(&file(&bench.session, "a", SIZE));
    bench.cache.set_rank(&a, Rank::Free, None);
    bench.hold("d", Rank::Unread, 1).await;
    assert_eq!(bench.has("habcd"), "hbcd");
    bench.cache.leave(1);
    assert_eq!(bench.cache.usage().used, 0);
}

#[tokio::test]
async fn a_second_binding_takes_the_newest_beyond_the_first_ones_share() {
    let bench = bench(4);
    for owner in [1, 2] {
        bench.cache.join(owner);
    }
    for name in ["a", "b", "c", "d"] {
        bench.hold(name, Rank::Unread, 1).await;
    }
    bench.hold("x", Rank::Unread, 2).await;
    bench.hold("y", Rank::Unread, 2).await;
    assert_eq!(bench.has("abcdxy"), "abxy");
    assert!(bench.cache.try_room(SIZE, Want::Share(2)).is_none());
    assert!(bench.cache.try_room(SIZE, Want::Share(1)).is_none());
}

#[tokio::test]
async fn only_copies_go_last() {
    let bench = bench(2);
    let lost = Session::for_test("lost");
    let only = file(&lost, "a", SIZE);
    assert!(matches!(bench.cache.demand(&only).await, Ok(Got::File(_))));
    lost.set_gone();
    bench.demand("b").await;
    bench.demand("c").await;
    assert!(bench.cache.get(&FileKey::of(&only)).is_some());
    assert_eq!(bench.has("bc"), "c");
    // Nobody can name it any more.
    bench
        .cache
        .sweep(&HashSet::from([bench.session.origin.uid]));
    assert!(bench.cache.get(&FileKey::of(&only)).is_none());
    assert_eq!(bench.has("c"), "c");
}

#[tokio::test]
async fn many_callers_cause_one_download() {
    let bench = bench(2);
    let same = file(&bench.session, "a", SIZE);
    let all = join_all((0..50).map(|_| bench.cache.demand(&same))).await;
    assert!(all.iter().all(|got| matches!(got, Ok(Got::File(_)))));
    assert_eq!(bench.memory.asked.load(Ordering::Relaxed), 1);
    assert_eq!(bench.cache.usage().used, SIZE);
}

#[tokio::test]
async fn damage_is_absence() {
    let bench = bench(2);
    bench.memory.damage.store(2, Ordering::Relaxed);
    bench.demand("a").await;
    assert_eq!(bench.memory.asked.load(Ordering::Relaxed), 3);
    bench.memory.damage.store(u32::MAX, Ordering::Relaxed);
    let refused = bench.cache.demand(&file(&bench.session, "b", SIZE)).await;
    assert_eq!(refused.err(), Some(FetchError::Damaged("too short")));
    assert_eq!(bench.has("ab"), "a");
    assert_eq!(bench.cache.usage().used, SIZE);
    assert!(
        bench
            .cache
            .examine(&file(&bench.session, "c", SIZE))
            .await
            .is_err()
    );
}
