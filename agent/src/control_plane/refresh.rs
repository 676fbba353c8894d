//! The index's task: changes in, snapshots out, many changes to one snapshot.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;
use super::model::Event;
use super::snapshot::Snapshot;
use super::snapshot::index::Index;

/// A snapshot is made when nothing has changed for so long...
const QUIET: Duration = Duration::from_millis(50);
/// ...or at the latest so long after the first change.
const LATEST: Duration = Duration::from_millis(500);

/// Feeds `index` and publishes what it makes, once it is complete, until `stop`.
pub(super) async fn run(
    mut index: Index,
    mut changes: mpsc::Receiver<Event>,
    publish: watch::Sender<Arc<Snapshot>>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    while let Some(Some(change)) = stop.run_until_cancelled(changes.recv()).await {
        index.apply(change);
        if !settle(&mut index, &mut changes).await {
            return;
        }
        if index.complete() {
            let snapshot = index.snapshot();
            metrics.present("Address", snapshot.addresses.len());
            metrics.present("Authorization", snapshot.authorizations.len());
            publish.send_replace(Arc::new(snapshot));
        }
    }
}

/// Takes in what follows closely; false when nothing ever will.
async fn settle(index: &mut Index, changes: &mut mpsc::Receiver<Event>) -> bool {
    let latest = Instant::now() + LATEST;
    loop {
        let until = (Instant::now() + QUIET).min(latest);
        match timeout_at(until, changes.recv()).await {
            Ok(Some(change)) => index.apply(change),
            Ok(None) => return false,
            Err(_) => return true,
        }
        // A steady stream of changes never lets the timer win.
        if Instant::now() >= latest {
            return true;
        }
    }
}

#[cfg(test)]
mod tests;
