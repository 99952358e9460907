//! A download under way: who waits for it, what of it may be read already, and the check of what came.

use super::{CacheFile, Got};
use crate::{
    overlay::read_up_to,
    remote::{Body, FetchError, RemoteFile},
};
use bytes::BytesMut;
use futures_util::{StreamExt, future::BoxFuture};
use plexbeam_api::Segment;
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    future::{Future, ready},
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tempfile::TempPath;
use tokio::sync::watch;

/// Bytes hashed and written at a time: the first ones of a file are few and not handed to another
/// thread, for who waits for them.
const FIRST_BLOCK: usize = 8 << 10;
const BLOCK: usize = 256 << 10;

pub(super) type Outcome = Option<Result<Arc<CacheFile>, FetchError>>;
/// What of a file is written so far; `None` before the first byte of an attempt.
pub(super) type Written = Option<Arriving>;

#[derive(Debug, Clone)]
pub(super) struct Arriving {
    pub(super) file: Arc<File>,
    pub(super) size: u64,
    pub(super) doubt: Doubt,
}

/// A download under way.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) outcome: watch::Receiver<Outcome>,
    pub(super) written: watch::Receiver<Written>,
}

/// Whether bytes that were given before their digest was checked turned out damaged.
#[derive(Debug, Clone, Default)]
pub struct Doubt(Arc<AtomicBool>);

impl Doubt {
    /// Bytes were damaged.
    pub fn confirm(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// They did, or cannot be checked any more: who has read them must not read the file to its end.
    pub fn is_confirmed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Flight {
    /// Waits for the whole file.
    pub(super) async fn land(mut self) -> Result<Arc<CacheFile>, FetchError> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => match &*outcome {
                Some(outcome) => outcome.clone(),
                None => Err(FetchError::Local("the download was dropped".into())),
            },
            Err(_) => Err(FetchError::Unreachable("the download was dropped".into())),
        }
    }

    /// Waits for the first bytes from `offset`.
    pub(super) async fn part(
        mut self,
        size: u64,
        offset: u64,
        len: usize,
    ) -> Result<Got, FetchError> {
        loop {
            let arriving = self.written.borrow_and_update().clone();
            if let Some(arriving) = arriving {
                let sure = arriving.size.min(size.saturating_sub(1));
                if offset < sure {
                    let len = (sure - offset).min(len as u64) as usize;
                    let bytes = read_up_to(&*arriving.file, len, offset)
                        .map_err(|error| FetchError::Local(error.to_string()))?;
                    return Ok(Got::Part(bytes.into(), arriving.doubt));
                }
            }
            // Fails when the download is over.
            if self.written.changed().await.is_err() {
                return self.land().await.map(Got::File);
            }
        }
    }
}

/// Length and digest of a body that is written as it comes.
pub(super) struct Check {
    hash: Sha256,
    size: u64,
    expected: Arc<Segment>,
    /// Where it is written, who hears how far it is, and its name until it is whole.
    sink: Option<(Arriving, watch::Sender<Written>, TempPath)>,
}

impl Check {
    pub(super) fn new(
        file: &RemoteFile,
        sink: Option<(Arriving, watch::Sender<Written>, TempPath)>,
    ) -> Self {
        Check {
            hash: Sha256::new(),
            size: 0,
            expected: file.segment(),
            sink,
        }
    }

    fn take(mut self, block: &[u8]) -> std::io::Result<Self> {
        self.size += block.len() as u64;
        if let Some((arriving, progress, _)) = &mut self.sink {
            (&*arriving.file).write_all(block)?;
            arriving.size = self.size;
            progress.send_replace(Some(arriving.clone()));
        }
        self.hash.update(block);
        Ok(self)
    }

    /// What is missing: first byte and length; `None` is all of it.
    pub(super) fn rest(&self) -> Option<(u64, u64)> {
        (self.size > 0).then(|| (self.size, self.expected.size - self.size))
    }

    /// Takes all of the body: while one block is written and hashed, the next one comes. Gives where
    /// it was written, or what may go on after a break.
    pub(super) async fn all(
        self,
        mut body: Body,
    ) -> Result<Option<(Arc<File>, TempPath)>, (FetchError, Option<Self>)> {
        let expected = self.expected.size;
        let mut came = self.size;
        let mut wanted = if came == 0 { FIRST_BLOCK } else { BLOCK };
        let mut block = BytesMut::new();
        let mut work: BoxFuture<'_, Result<Self, FetchError>> = Box::pin(ready(Ok(self)));
        loop {
            let chunk = match body.chunks.next().await.transpose() {
                Ok(chunk) => chunk,
                Err(error) => {
                    // A file without a missing byte is checked anew.
                    let check = work.await.ok().filter(|check| check.size < expected);
                    return Err((error, check));
                }
            };
            let at_end = chunk.is_none();
            if let Some(chunk) = chunk {
                came += chunk.len() as u64;
                if came > expected {
                    return Err((FetchError::Damaged("too long"), None));
                }
                let whole = chunk.len() >= wanted || came == expected;
                if block.is_empty() && whole && wanted != FIRST_BLOCK {
                    // No need to copy it.
                    let check = work.await.map_err(|error| (error, None))?;
                    work = Box::pin(blocking(move || check.take(&chunk)));
                    continue;
                }
                if block.is_empty() {
                    let rest = (expected - came) as usize + chunk.len();
                    block.reserve(rest.min(wanted + chunk.len()));
                }
                block.extend_from_slice(&chunk);
            }
            if block.len() >= wanted || at_end && !block.is_empty() {
                let check = work.await.map_err(|error| (error, None))?;
                let full = std::mem::take(&mut block);
                work = if wanted == FIRST_BLOCK && full.len() <= 8 * FIRST_BLOCK {
                    let taken = check.take(&full);
                    let local = |error: std::io::Error| FetchError::Local(error.to_string());
                    Box::pin(ready(taken.map_err(local)))
                } else {
                    Box::pin(blocking(move || check.take(&full)))
                };
                wanted = BLOCK;
            }
            if at_end {
                break;
            }
        }
        let check = work.await.map_err(|error| (error, None))?;
        let digest: String = check
            .hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        if check.size != expected {
            Err((FetchError::Damaged("too short"), None))
        } else if digest != check.expected.digest.0 {
            Err((FetchError::Damaged("another digest"), None))
        } else {
            Ok(check.sink.map(|(arriving, _, part)| (arriving.file, part)))
        }
    }
}

/// What was given of this attempt will not be confirmed: another attempt has other bytes, for all one
/// knows.
pub(super) fn give_up(progress: &watch::Sender<Written>) {
    if let Some(arriving) = progress.send_replace(None) {
        arriving.doubt.confirm();
    }
}

/// Begins at once, whether it is waited for or not.
pub(super) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> impl Future<Output = Result<T, FetchError>> + Send {
    let begun = tokio::task::spawn_blocking(work);
    async move {
        match begun.await {
            Ok(done) => done.map_err(|error| FetchError::Local(error.to_string())),
            Err(_) => Err(FetchError::Local("the mount is ending".into())),
        }
    }
}
