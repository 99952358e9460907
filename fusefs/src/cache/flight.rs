//! A download under way, and who waits for it.

use super::{CacheFile, Got, arriving::Written};
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

    /// The first bytes from `offset`, if any are here.
    pub(super) fn arrived(
        &mut self,
        size: u64,
        offset: u64,
        len: usize,
    ) -> Result<Option<Got>, FetchError> {
        let arrived = {
            let written = self.written.borrow_and_update();
            written.as_ref().and_then(|a| a.piece(size, offset, len))
        };
        let Some((piece, doubt)) = arrived else {
            return Ok(None);
        };
        Ok(Some(Got::Part(piece.read(offset)?, doubt)))
    }

    /// Waits for the first bytes from `offset`.
    pub(super) async fn part(
        mut self,
        size: u64,
        offset: u64,
        len: usize,
    ) -> Result<Got, FetchError> {
        loop {
            if let Some(got) = self.arrived(size, offset, len)? {
                return Ok(got);
            }
            // Fails when the download is over.
            if self.written.changed().await.is_err() {
                return self.land().await.map(Got::File);
            }
        }
    }
}
