//! Tells the kernel which destinations are ours to carry; the rest never leaves its own path.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::pods::SharedKernel;
use crate::mesh::destinations::DestinationsDelta;
use crate::mesh::{Mesh, MeshReader};

/// How soon the kernel is told again what it did not take.
const RETRY: Duration = Duration::from_secs(1);

/// Follows the mesh until `stop`. Until the mesh is known whole, the kernel captures everything.
pub(super) async fn follow(mesh: MeshReader, kernel: SharedKernel, stop: CancellationToken) {
    let mut changes = mesh.changes();
    let mut told = Told { mesh: Arc::default(), synced: false, behind: false };
    loop {
        changes.mark_unchanged();
        let now = mesh.load();
        let kernel = kernel.clone();
        let step = tokio::task::spawn_blocking(move || told.tell(now, &kernel)).await;
        told = match step {
            Ok(told) => told,
            Err(error) => {
                // Everything is captured still, or what was known last: nothing leaks by it.
                warn!(%error, "telling the kernel of destinations panicked");
                return;
            }
        };
        let retry = async {
            if told.behind {
                tokio::time::sleep(RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = retry => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What the kernel knows.
struct Told {
    mesh: Arc<Mesh>,
    synced: bool,
    /// The last attempt failed.
    behind: bool,
}

impl Told {
    /// Tells what is new; on failure the old stays told, and the difference is tried again.
    fn tell(mut self, now: Arc<Mesh>, kernel: &SharedKernel) -> Self {
        self.behind = true;
        let delta = DestinationsDelta::between(&self.mesh, &now);
        if !delta.is_empty()
            && let Err(error) = kernel.lock().update_destinations(&delta)
        {
            warn!(%error, "failed to tell the kernel of destinations; will try again");
            return self;
        }
        if now.synced() && !self.synced {
            match kernel.lock().set_synced(true) {
                Ok(()) => self.synced = true,
                Err(error) => {
                    warn!(%error, "failed to tell the kernel that the mesh is known");
                    return self;
                }
            }
        }
        self.mesh = now;
        self.behind = false;
        self
    }
}
