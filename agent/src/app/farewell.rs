//! The end of an agent whose DaemonSet is deleted, or is no more for its node. At an update or a reboot all stays in the kernel,
//! so that nothing goes out in the clear until the next agent; here none will come, and pods would be refused everything for
//! ever.

use std::sync::Arc;

use tracing::{info, warn};

use super::pods::SharedKernel;
use super::uninstall::Place;
use crate::config::AgentConfig;
use crate::enroll::install::owner::{FATE, Fate, Owner};
use crate::error::chain;
use crate::sys::Shutdown;

/// Who knows whether another agent will follow, and what to do if not.
pub(super) struct Farewell {
    owner: Arc<Owner>,
    place: Place,
    kernel: SharedKernel,
}

impl Farewell {
    /// Learns whose pod this is, as one of `tasks`.
    pub(super) fn new(
        config: &AgentConfig,
        client: kube::Client,
        kernel: SharedKernel,
        tasks: &Shutdown,
    ) -> Self {
        let owner = Owner::new(
            client.clone(),
            (&config.pod_namespace, &config.pod_name),
            &config.node_name,
        );
        let owner = Arc::new(owner);
        let (stop, learner) = (tasks.token.clone(), Arc::clone(&owner));
        tasks.spawn(async move { stop.run_until_cancelled(learner.learn()).await });
        let place = Place {
            node: config.node_name.clone(),
            pin_dir: config.pin_dir.clone(),
            proc: config.proc.clone(),
            state_dir: config.state_dir.clone(),
            cni: None,
            socket: config.cni_socket.clone(),
            client: Ok(client),
        };
        Self { owner, place, kernel }
    }

    /// Whether the mesh leaves this node.
    pub(super) async fn leaves(&self) -> bool {
        if !self.owner.is_known() {
            return false;
        }
        match self.owner.fate(FATE).await {
            Fate::Stays => false,
            Fate::Unknown(why) => {
                warn!(
                    why,
                    "pods stay captured, as it cannot be told whether the DaemonSet is deleted: if it is, their new \
                     connections are refused until `sotto uninstall` or the next agent"
                );
                false
            }
            Fate::Deleted => {
                info!("the DaemonSet is deleted: pods leave the mesh");
                true
            }
            Fate::Elsewhere => {
                info!("the DaemonSet is no more for this node: pods leave the mesh");
                true
            }
        }
    }

    /// New connections of pods go as they would without the mesh, from now on.
    pub(super) async fn let_out(&self) {
        let kernel = self.kernel.clone();
        match tokio::task::spawn_blocking(move || kernel.lock().let_all_out()).await {
            Ok(Ok(())) => {}
            Ok(Err(errors)) => errors
                .iter()
                .for_each(|error| warn!(error = chain(error), "failed to let pods out")),
            Err(error) => warn!(%error, "letting pods out panicked"),
        }
        // Others are to send no more tunnels, before what is open here has ended.
        self.place.disavow().await;
    }

    /// Takes away what open connections needed.
    pub(super) async fn leave(&self) {
        let report = self.place.sweep().await;
        let told = report.told(&self.place.node);
        if report.left.is_empty() { info!("{told}") } else { warn!("{told}") }
    }
}
