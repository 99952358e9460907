//! A download under way, and who waits for it.

use super::{
    CacheFile, Got,
    arriving::{Written, read_all},
};
use crate::remote::FetchError;
use std::sync::Arc;
use tokio::sync::watch;

pub(super) type Outcome = Option<Result<Arc<CacheFile>, FetchError>>;

/// A download under way.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) outcome: watch::Receiver<Outcome>,
    pub(super) written: watch::Receiver<Written>,
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

    /// Up to `len` bytes from `offset`, if `least` of them are here.
    pub(super) fn arrived(
        &mut self,
        size: u64,
        offset: u64,
        len: usize,
        least: usize,
    ) -> Result<Option<Got>, FetchError> {
        let arrived = {
            let written = self.written.borrow_and_update();
            let arriving = written.as_ref();
            arriving.and_then(|a| a.pieces(size, offset, len, least))
        };
        let Some((pieces, doubt)) = arrived else {
            return Ok(None);
        };
        Ok(Some(Got::Part(read_all(pieces, offset)?, doubt)))
    }

    /// Waits for `len` bytes from `offset`, or the rest of the file.
    pub(super) async fn part(
        mut self,
        size: u64,
        offset: u64,
        len: usize,
    ) -> Result<Got, FetchError> {
        let wanted = size.saturating_sub(offset).min(len as u64) as usize;
        loop {
            if let Some(got) = self.arrived(size, offset, wanted, wanted)? {
                return Ok(got);
            }
            // Fails when the download is over.
            if self.written.changed().await.is_err() {
                return self.land().await.map(Got::File);
            }
        }
    }
}
