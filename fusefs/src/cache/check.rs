//! The check of a body, and its way into the cache file.
//!
//! Who reads in step is told of bytes as they come. Meanwhile they are hashed and then written on a
//! thread, in that order, so that the last byte need not wait for the disk. Where the disk takes
//! nothing the hashing goes on: who has read bytes is to know whether they were right.

use super::arriving::{Arriving, Written};
use crate::remote::{Body, FetchError, RemoteFile};
use bytes::Bytes;
use futures_util::StreamExt;
use plexbeam_api::checksum::Verifier;
use std::{
    fs::File,
    future::Future,
    io::{self, IoSlice, Write},
    sync::Arc,
};
use tempfile::TempPath;
use tokio::sync::watch;

/// Fewer bytes are not worth a thread's time, unless they are the last.
const BLOCK: usize = 256 << 10;
/// So many bytes may wait for it.
const MOST: usize = 512 << 10;

/// A file without a name of its own yet.
pub(super) type Sink = (Arc<File>, TempPath);

/// The check of a body that is kept, or only looked at.
pub(super) struct Check {
    verifier: Verifier,
    expected: u64,
    progress: Option<watch::Sender<Written>>,
    sink: Result<Sink, FetchError>,
}

impl Check {
    /// `progress`: who hears of what came, where it is kept.
    pub(super) fn new(file: &RemoteFile, progress: Option<watch::Sender<Written>>) -> Self {
        let segment = file.segment();
        Check {
            verifier: Verifier::new(&segment),
            expected: segment.size,
            progress,
            sink: Err(FetchError::Local("no file was made".into())),
        }
    }

    /// Where the bytes go, or why nowhere.
    pub(super) fn onto(mut self, sink: Result<Sink, FetchError>) -> Self {
        self.sink = sink;
        self
    }

    /// What is missing: first byte and length; `None` is all of it.
    pub(super) fn rest(&self) -> Option<(u64, u64)> {
        let size = self.verifier.size();
        (size > 0).then(|| (size, self.expected - size))
    }

    /// Takes all of the body. `begun` is this check once it can write. Gives where the body was
    /// written or why it was not, or else what may go on after a break.
    pub(super) async fn all(
        progress: Option<&watch::Sender<Written>>,
        expected: u64,
        from: u64,
        begun: impl Future<Output = Result<Self, FetchError>> + Send,
        mut body: Body,
    ) -> Result<Result<Sink, FetchError>, (FetchError, Option<Self>)> {
        let over = |error: FetchError| (error, None);
        let mut work: futures_util::future::BoxFuture<'_, _> = Box::pin(begun);
        let mut idle = None;
        let (mut batch, mut waiting, mut came) = (Vec::new(), 0, from);
        let broken = loop {
            if waiting >= BLOCK
                && let Some(check) = idle.take()
            {
                let batch = std::mem::take(&mut batch);
                work = Box::pin(blocking(move || Check::take(check, &batch, false)));
                waiting = 0;
            }
            let chunk = tokio::select! {
                chunk = body.chunks.next(), if waiting < MOST => chunk,
                check = &mut work, if idle.is_none() => {
                    idle = Some(check.map_err(over)?);
                    continue;
                }
            };
            let chunk: Bytes = match chunk {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => break Some(error),
                None => break None,
            };
            came += chunk.len() as u64;
            if came > expected {
                break Some(FetchError::Damaged("too long"));
            }
            if let Some(progress) = progress {
                progress.send_modify(|written| {
                    written.get_or_insert_default().came(chunk.clone());
                });
            }
            waiting += chunk.len();
            batch.push(chunk);
        };
        // In any case: its thread must not tell of bytes when another attempt has begun.
        let check = match idle {
            Some(check) => check,
            None => work.await.map_err(over)?,
        };
        // What breaks off behind the last byte is whole.
        let broken = broken.filter(|_| came != expected);
        let last = broken.is_none();
        let check = blocking(move || check.take(&batch, last));
        let check = check.await.map_err(over)?;
        match broken {
            Some(error) => Err((error, Some(check))),
            None => Ok(check.sink),
        }
    }

    fn take(mut self, batch: &[Bytes], last: bool) -> Result<Self, FetchError> {
        for bytes in batch {
            self.verifier.update(bytes);
        }
        let size = self.verifier.size();
        if last {
            self.judge()?;
        }
        if let Ok((file, _)) = &self.sink {
            match write_all(file, batch) {
                Ok(()) => self.tell(|arriving| arriving.wrote(file, size)),
                Err(error) => self.sink = Err(error.into()),
            }
        }
        self.tell(|arriving| arriving.passed(size));
        Ok(self)
    }

    /// Nothing more comes.
    fn judge(&self) -> Result<(), FetchError> {
        if self.verifier.size() != self.expected {
            return Err(FetchError::Damaged("too short"));
        }
        if !self.verifier.clone().is_right() {
            return Err(FetchError::Damaged("other bytes than announced"));
        }
        self.tell(Arriving::is_right);
        Ok(())
    }

    fn tell(&self, what: impl FnOnce(&mut Arriving)) {
        if let Some(progress) = &self.progress {
            progress.send_modify(|written| {
                if let Some(arriving) = written {
                    what(arriving);
                }
            });
        }
    }
}

/// In as few calls as can be: a file system in memory takes pages as large as one call fills.
fn write_all(mut file: &File, batch: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = batch.iter().map(|bytes| IoSlice::new(bytes)).collect();
    let mut left = &mut slices[..];
    // Without a byte to write a call that takes none would look like a full disk.
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => IoSlice::advance_slices(&mut left, taken),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Begins at once, whether it is waited for or not.
pub(super) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> impl Future<Output = Result<T, FetchError>> + Send {
    let begun = tokio::task::spawn_blocking(work);
    async move {
        let ending = |_| Err(FetchError::Local("the mount is ending".into()));
        begun.await.unwrap_or_else(ending)
    }
}
