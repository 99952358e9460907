use super::*;
use plexbeam_api::segment::Digest;

struct Bench {
    _dir: tempfile::TempDir,
    store: Arc<Store>,
    folder: PathBuf,
}

fn bench(ceiling: u64, patience_ms: u64) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().to_owned();
    let config = StoreConfig {
        ceiling,
        patience: Duration::from_millis(patience_ms),
        grace: Duration::ZERO,
    };
    Bench {
        store: Store::new(config, folder.clone()),
        folder,
        _dir: dir,
    }
}

impl Bench {
    fn shelf(&self, name: &str) -> ShelfId {
        self.store.open_shelf(&name.parse().unwrap()).unwrap().0
    }

    async fn put(&self, shelf: ShelfId, name: &str, size: usize, kind: SegmentKind) -> bool {
        self.try_put(shelf, name, size, kind).await.is_ok()
    }

    async fn try_put(
        &self,
        shelf: ShelfId,
        name: &str,
        size: usize,
        kind: SegmentKind,
    ) -> Result<(), Problem> {
        let name: FileName = name.parse().unwrap();
        let bytes = vec![7u8; size];
        let room = self.store.reserve(shelf, &name, size as u64).await?;
        std::fs::write(room.dir.join(room.file()), &bytes).unwrap();
        let segment = Segment {
            output: 0,
            rendition: None,
            kind,
            number: None,
            name,
            size: size as u64,
            digest: Digest::of(&bytes),
            checksum: None,
            time_scale: 1,
            pts: 0,
            duration: 0,
            times: None,
            rendition_info: None,
        };
        self.store.commit(room, &segment)?;
        assert!(self.on_disk() <= self.store.config.ceiling);
        Ok(())
    }

    fn open(&self, shelf: ShelfId, name: &str) -> Option<Box<Reading>> {
        match self.store.read(shelf, &name.parse().unwrap()) {
            Lookup::Held(reading) => Some(reading),
            Lookup::Dropped | Lookup::Unknown => None,
        }
    }

    fn fetch(&self, shelf: ShelfId, name: &str) {
        let reading = self.open(shelf, name).unwrap();
        reading.sent(0, reading.segment().size);
    }

    fn on_disk(&self) -> u64 {
        let mut bytes = 0;
        for dir in std::fs::read_dir(&self.folder).unwrap() {
            for file in std::fs::read_dir(dir.unwrap().path()).unwrap() {
                bytes += file.unwrap().metadata().unwrap().len();
            }
        }
        bytes
    }
}

use SegmentKind::{Init, Media, Playlist};

#[tokio::test]
async fn fetched_media_goes_first_and_the_init_stays() {
    let b = bench(100, 20);
    let a = b.shelf("a");
    assert!(b.put(a, "init", 10, Init).await);
    assert!(b.put(a, "1", 30, Media).await);
    assert!(b.put(a, "2", 30, Media).await);
    assert!(b.put(a, "3", 30, Media).await);
    let full = b.try_put(a, "4", 30, Media).await.unwrap_err();
    assert_eq!(full.kind, Kind::Exhausted, "nothing was fetched yet");
    b.fetch(a, "2");
    b.fetch(a, "1");
    b.fetch(a, "init");
    assert!(b.put(a, "4", 30, Media).await);
    assert!(b.open(a, "2").is_none(), "fetched first, dropped first");
    assert!(b.open(a, "1").is_some());
    assert!(b.open(a, "init").is_some());
    assert!(matches!(
        b.store.read(a, &"2".parse().unwrap()),
        Lookup::Dropped
    ));
    assert!(matches!(
        b.store.read(a, &"9".parse().unwrap()),
        Lookup::Unknown
    ));
    assert_eq!(b.store.used(), b.on_disk());
}

#[tokio::test]
async fn ranges_without_a_gap_make_a_fetch_and_others_do_not() {
    let b = bench(60, 20);
    let a = b.shelf("a");
    assert!(b.put(a, "1", 60, Media).await);
    {
        let reading = b.open(a, "1").unwrap();
        reading.sent(0, 20);
        reading.sent(40, 60);
    }
    assert!(!b.put(a, "2", 60, Media).await);
    b.open(a, "1").unwrap().sent(20, 60);
    assert!(b.put(a, "2", 60, Media).await);
}

#[tokio::test]
async fn a_file_being_read_is_not_dropped_and_its_end_wakes_the_writer() {
    let b = bench(60, 60_000);
    let a = b.shelf("a");
    assert!(b.put(a, "1", 60, Media).await);
    b.fetch(a, "1");
    let reading = b.open(a, "1").unwrap();
    let name: FileName = "2".parse().unwrap();
    let wait = b.store.reserve(a, &name, 60);
    tokio::pin!(wait);
    assert!(futures_util::poll!(wait.as_mut()).is_pending());
    assert!(reading.path().exists());
    drop(reading);
    let room = wait.await.unwrap();
    assert_eq!(b.on_disk(), 0);
    drop(room);
    assert_eq!(b.store.used(), 0);
}

#[tokio::test]
async fn ended_sessions_make_room_for_running_ones() {
    let b = bench(100, 20);
    let old = b.shelf("old");
    assert!(b.put(old, "init", 10, Init).await);
    assert!(b.put(old, "1", 40, Media).await);
    let new = b.shelf("new");
    assert!(!b.put(new, "1", 80, Media).await);
    b.store.end(old);
    assert!(b.put(new, "1", 80, Media).await);
    assert!(b.store.list(old).len() <= 1);
    b.store.remove(old);
    assert_eq!(b.store.used(), 80);
    assert_eq!(b.on_disk(), 80);
}

#[tokio::test]
async fn a_segment_larger_than_the_spool_fails_at_once() {
    let b = bench(100, 60_000);
    let a = b.shelf("a");
    let problem = b.try_put(a, "1", 101, Media).await.unwrap_err();
    assert_eq!(problem.kind, Kind::Exhausted);
    assert!(problem.detail.contains("--spool-size"), "{problem}");
}

#[tokio::test]
async fn a_playlist_replaces_itself_and_media_does_not() {
    let b = bench(100, 20);
    let a = b.shelf("a");
    for size in [10, 20, 30] {
        assert!(b.put(a, "index.m3u8", size, Playlist).await);
    }
    assert_eq!((b.store.used(), b.on_disk()), (30, 30));
    assert_eq!(b.store.list(a).len(), 1);
    assert!(b.put(a, "1", 10, Media).await);
    let twice = b.try_put(a, "1", 10, Media).await.unwrap_err();
    assert_eq!(twice.kind, Kind::Internal);
    assert_eq!((b.store.used(), b.on_disk()), (40, 40));
}

#[tokio::test]
async fn an_unwritten_or_short_file_is_not_published() {
    let b = bench(100, 20);
    let a = b.shelf("a");
    let name: FileName = "1".parse().unwrap();
    let room = b.store.reserve(a, &name, 50).await.unwrap();
    std::fs::write(room.dir.join(part_name(room.file())), b"half").unwrap();
    drop(room);
    assert_eq!((b.store.used(), b.on_disk()), (0, 0));
}
