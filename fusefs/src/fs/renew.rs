//! What a worker dropped and made again with other bytes.
//!
//! The new making is a file of its own, with another inode. A handle of the old one gets an error for
//! what is not here of it, never bytes of another making. An open of the old inode, by a name that the
//! kernel still remembers, is answered by `ESTALE`: the kernel then looks the name up anew and opens
//! what it finds (`path_openat` with `LOOKUP_REVAL`), so that its caller sees no error.

use super::BeamFs;
use crate::{
    error::Error,
    handle::RemoteHandle,
    remote::{Catalog, FetchError, SegmentSource, renew},
};
use std::sync::Arc;

/// What is needed to find the new making.
pub(super) struct Renewal {
    catalog: Arc<Catalog>,
    source: Arc<dyn SegmentSource>,
}

impl BeamFs {
    pub(super) fn renewal(&self) -> Renewal {
        Renewal {
            catalog: self.parts.catalog.clone(),
            source: self.parts.source.clone(),
        }
    }
}

impl Renewal {
    /// Lets the new making take the place of what this handle reads; gives the handle's error. Passing
    /// errors are the worker's answer to the question what it has.
    pub(super) async fn of(&self, remote: &RemoteHandle) -> Result<Error, FetchError> {
        let new = renew(&*self.source, &self.catalog, &remote.file).await?;
        if new.uid == remote.file.uid {
            // Made once more meanwhile, with the first bytes.
            return Err(FetchError::Busy);
        }
        if let Some((bound, _)) = &remote.held {
            // The name is found by its present file.
            bound.present(remote.file.name.as_str());
        }
        Ok(Error::Replaced)
    }
}
