//! What is kept, and who is pushed out when room is wanted.

use super::{CacheFile, FileKey, room::on_disk};
use crate::remote::Origin;
use lru::LruCache;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// Who may be pushed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// Stays as long as its binding: init segments and headers.
    Keep,
    /// Held for a binding and not read yet.
    Unread,
    /// May go, least recently used first.
    Free,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) file: Arc<CacheFile>,
    pub(super) origin: Arc<Origin>,
    pub(super) rank: Rank,
    pub(super) owner: Option<u64>,
    pub(super) order: u64,
}

#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) entries: LruCache<FileKey, Entry>,
    /// Live bindings, among which the ceiling is shared.
    pub(super) owners: HashSet<u64>,
    pub(super) next_order: u64,
}

impl Shelf {
    /// Least recently used file that may go and that no reader has open.
    pub(super) fn free_victim(&self) -> Option<FileKey> {
        let free = |entry: &Entry| entry.rank == Rank::Free && entry.is_closed();
        let mut oldest_first = self.entries.iter().rev();
        // Only copies go last.
        let victim = oldest_first
            .find(|(_, entry)| free(entry) && !entry.origin.is_gone())
            .or_else(|| self.entries.iter().rev().find(|(_, entry)| free(entry)));
        victim.map(|(key, _)| *key)
    }

    /// Newest unread file of the binding that is furthest beyond its share, when the asking one
    /// stays within its own.
    pub(super) fn unfair_victim(&self, asking: u64, bytes: u64, ceiling: u64) -> Option<FileKey> {
        let share = ceiling / self.owners.len().max(1) as u64;
        let mut held: HashMap<u64, u64> = HashMap::new();
        for (_, entry) in self.entries.iter() {
            if let Some(owner) = entry.owner {
                *held.entry(owner).or_default() += on_disk(entry.file.size());
            }
        }
        if held.get(&asking).copied().unwrap_or(0) + bytes > share {
            return None;
        }
        let others = held
            .into_iter()
            .filter(|(owner, sum)| *owner != asking && *sum > share);
        let (greedy, _) = others.max_by_key(|(_, sum)| *sum)?;
        self.entries
            .iter()
            .filter(|(_, entry)| {
                entry.owner == Some(greedy)
                    && entry.rank == Rank::Unread
                    && entry.is_closed()
                    && !entry.origin.is_gone()
            })
            .max_by_key(|(_, entry)| entry.order)
            .map(|(key, _)| *key)
    }
}

impl Entry {
    pub(super) fn is_closed(&self) -> bool {
        Arc::strong_count(&self.file) == 1 && self.file.is_alone()
    }
}
