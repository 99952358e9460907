//! Reads past the cache: of files that find no room there, and of playlists, which change.

use crate::{
    cache::Doubt,
    handle::{RemoteHandle, Window},
    remote::{FetchError, SegmentSource},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use plexbeam_api::checksum::Verifier;
use sha2::{Digest as _, Sha256};

/// Bytes asked for at a time when a file streams past the cache; each open file may have as many.
const WINDOW: u64 = 512 << 10;
/// Largest playlist.
const MAX_PLAYLIST: usize = 16 << 20;

/// Reads from a worker past the cache, a window ahead. Who reads the file in order from its beginning
/// gets its last window only when all was right.
pub(super) async fn read_past(
    source: &dyn SegmentSource,
    remote: &RemoteHandle,
    offset: u64,
    len: usize,
) -> Result<Bytes, FetchError> {
    let size = remote.file.size();
    let wanted = (size - offset).min(len as u64);
    let mut window = remote.window.lock().await;
    if !window.covers(offset, wanted) {
        let ahead = (size - offset).min(wanted.max(WINDOW));
        let mut body = source.open(&remote.file, Some((offset, ahead))).await?;
        let mut bytes = BytesMut::with_capacity(ahead as usize);
        while let Some(chunk) = body.chunks.next().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() as u64 > ahead {
                return Err(FetchError::Damaged("too long"));
            }
        }
        if (bytes.len() as u64) < ahead {
            return Err(FetchError::Unreachable("the range broke off".into()));
        }
        let new = || Verifier::new(&remote.file.segment());
        let verifier = window.verifier.get_or_insert_with(new);
        if verifier.size() >= offset {
            verifier.update(&bytes[((verifier.size() - offset) as usize).min(bytes.len())..]);
            if verifier.size() == size && !verifier.clone().is_right() {
                let doubt = Doubt::default();
                doubt.confirm();
                *remote.doubt.lock() = Some(doubt);
                return Err(FetchError::Damaged("other bytes than announced"));
            }
        }
        (window.offset, window.bytes) = (offset, bytes.freeze());
    }
    let start = (offset - window.offset) as usize;
    let bytes = window.bytes.slice(start..start + wanted as usize);
    if offset + wanted == size {
        // It was read to its end.
        window.bytes = Bytes::new();
    }
    Ok(bytes)
}

impl Window {
    fn covers(&self, offset: u64, len: u64) -> bool {
        offset >= self.offset && offset + len <= self.offset + self.bytes.len() as u64
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a playlist: fetched anew when read from its start, so that one reader sees one version.
pub(super) async fn read_playlist(
    source: &dyn SegmentSource,
    remote: &RemoteHandle,
    offset: u64,
    len: usize,
) -> Result<Bytes, FetchError> {
    let mut window = remote.window.lock().await;
    if offset == 0 || window.bytes.is_empty() {
        let mut body = source.open(&remote.file, None).await?;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.chunks.next().await {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() > MAX_PLAYLIST {
                return Err(FetchError::Damaged("too long"));
            }
        }
        if let Some(expected) = &body.digest
            && hex(&Sha256::digest(&bytes)) != *expected
        {
            return Err(FetchError::Unreachable("the playlist came damaged".into()));
        }
        (window.offset, window.bytes) = (0, bytes.freeze());
    }
    let start = (offset as usize).min(window.bytes.len());
    let end = (start + len).min(window.bytes.len());
    Ok(window.bytes.slice(start..end))
}
