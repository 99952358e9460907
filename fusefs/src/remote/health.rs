//! Looks at each worker's health, so that no start has to.

use super::{Catalog, HttpSource};
use std::{sync::Arc, time::Duration};

/// Asks a worker again and again. Never returns.
pub(super) async fn poll(
    source: Arc<HttpSource>,
    catalog: Arc<Catalog>,
    worker: usize,
    every: Duration,
) {
    loop {
        let answer = tokio::time::timeout(every.max(Duration::from_secs(1)), source.health(worker));
        let answer = match answer.await {
            Ok(Ok(health)) => {
                let ok = health.status == "ok" && health.api_version == plexbeam_api::API_VERSION;
                let free = health.detail.as_ref().map_or(0, |detail| {
                    detail
                        .max_jobs
                        .saturating_sub(detail.active + detail.queued)
                });
                Ok((health.detail.map(|detail| detail.worker), ok, free))
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        };
        catalog.health(worker, answer);
        tokio::time::sleep(every).await;
    }
}
