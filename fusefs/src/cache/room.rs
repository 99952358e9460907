//! The ceiling, and the bytes taken from it.
//!
//! Pushing a file out takes its file system some time, for which nobody waits: what a download takes
//! from files that go is its own at once, and it unlinks them beside its request, before the first byte
//! is written in their place. So the folder has never more bytes than the ceiling.

use super::{CacheFile, SegmentCache};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tokio::sync::Notify;

/// Disk space is given out in blocks of this many bytes, so rooms are rounded up to it.
const DISK_BLOCK: u64 = 4096;

/// For whom room is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// For a reader, or for a file that nobody has asked for: takes what is free.
    Spare,
    /// For the next segments of this binding: may also push out what other bindings hold unread
    /// beyond their even share, the newest first.
    Share(u64),
}

#[derive(Debug)]
pub(super) struct Ledger {
    pub(super) ceiling: u64,
    pub(super) used: AtomicU64,
    pub(super) peak: AtomicU64,
    pub(super) freed: Notify,
    /// A later instance has the folder: no room is given, and no name is made or taken.
    pub(super) handed: AtomicBool,
}

impl Ledger {
    pub(super) fn new(ceiling: u64) -> Self {
        Ledger {
            ceiling,
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            freed: Notify::new(),
            handed: AtomicBool::new(false),
        }
    }

    /// False when it is more than what is left.
    fn take(&self, bytes: u64) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= self.ceiling)
            });
        if let Ok(before) = taken {
            self.peak.fetch_max(before + bytes, Ordering::AcqRel);
        }
        taken.is_ok()
    }
}

/// Bytes taken from the ceiling until this is dropped.
#[derive(Debug)]
pub struct Room {
    ledger: Arc<Ledger>,
    bytes: u64,
    /// Files whose bytes these were, until they are gone.
    evicted: Vec<CacheFile>,
}

impl Room {
    fn none(ledger: &Arc<Ledger>) -> Self {
        Room {
            ledger: ledger.clone(),
            bytes: 0,
            evicted: Vec::new(),
        }
    }

    /// What must be dropped before bytes are written here.
    pub(super) fn evicted(&mut self) -> Vec<CacheFile> {
        std::mem::take(&mut self.evicted)
    }

    /// Up to so many of its bytes, which are the caller's then.
    pub(super) fn cede(&mut self, most: u64) -> u64 {
        let ceded = self.bytes.min(most);
        self.bytes -= ceded;
        ceded
    }

    /// A later instance has the folder.
    pub(super) fn is_handed(&self) -> bool {
        self.ledger.handed.load(Ordering::Acquire)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.evicted.clear();
        // Who waits tries again, and one that tried in vain had none: it must not wake itself.
        if self.bytes > 0 {
            self.ledger.used.fetch_sub(self.bytes, Ordering::AcqRel);
            self.ledger.freed.notify_waiters();
        }
    }
}

impl SegmentCache {
    /// True when a file of this size can never be kept.
    pub fn is_too_big(&self, size: u64) -> bool {
        on_disk(size) > self.ledger.ceiling
    }

    /// Takes room for a file of this size, pushing out what may go. `None` when there is none.
    pub fn try_room(&self, size: u64, want: Want) -> Option<Room> {
        let bytes = on_disk(size);
        if bytes > self.ledger.ceiling || self.ledger.handed.load(Ordering::Acquire) {
            return None;
        }
        let mut room = Room::none(&self.ledger);
        loop {
            let missing = bytes - room.bytes;
            if self.ledger.take(missing) {
                room.bytes = bytes;
                return Some(room);
            }
            let victim = {
                let mut shelf = self.shelf.lock();
                let key = shelf.free_victim().or_else(|| match want {
                    Want::Spare => None,
                    Want::Share(owner) => shelf.unfair_victim(owner, bytes, self.ledger.ceiling),
                });
                key.and_then(|key| shelf.entries.pop(&key))
            };
            // Where a reader has just opened it, its bytes come when that closes it.
            if let Some(mut file) = Arc::into_inner(victim?.file) {
                room.bytes += file.cede(missing);
                room.evicted.push(file);
            }
        }
    }

    /// Room that is there, at nobody's cost.
    pub(super) fn free_room(&self, size: u64) -> Option<Room> {
        let mut room = Room::none(&self.ledger);
        let bytes = on_disk(size);
        self.ledger.take(bytes).then(|| {
            room.bytes = bytes;
            room
        })
    }

    /// Bytes that an earlier instance still uses, counted here until this is dropped.
    pub fn reserve(&self, bytes: u64) -> Room {
        let before = self.ledger.used.fetch_add(bytes, Ordering::AcqRel);
        self.ledger.peak.fetch_max(before + bytes, Ordering::AcqRel);
        let mut room = Room::none(&self.ledger);
        room.bytes = bytes;
        room
    }

    /// A reader closed a file, so that it may be pushed out.
    pub fn closed(&self) {
        self.ledger.freed.notify_waiters();
    }

    /// Wakes when bytes came back or ranks fell. Take it, then try, then wait for it.
    pub fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.ledger.freed.notified()
    }
}

pub(super) fn on_disk(size: u64) -> u64 {
    size.div_ceil(DISK_BLOCK).saturating_mul(DISK_BLOCK)
}
