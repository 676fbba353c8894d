//! Pods of this node that the control plane does not know. They reach nobody and nobody reaches them; if that is all of
//! them, the agent itself goes by the wrong names.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::enroll::{PodState, PodStatus};
use crate::mesh::{HomeUnknown, LocalPod, Mesh, PodUid};
use crate::observe::ready::{Pending, Readiness};

/// How long a new pod may be unknown: its address has to go round by the API server.
const GRACE: Duration = Duration::from_secs(10);
/// Pods that are named.
const NAMED: usize = 3;

/// Looks for them, and tells the readiness page and the log.
#[derive(Debug)]
pub(super) struct Strangers {
    readiness: Readiness,
    /// Since when each is unknown.
    since: HashMap<PodUid, Instant>,
    /// There were looks without reason for doubt.
    trusted: bool,
    /// Why the agent is not ready.
    reason: Option<(String, Pending)>,
}

/// What a look comes to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Finding {
    /// Why the agent is not ready.
    reason: Option<String>,
    /// What people should know.
    remark: Option<String>,
}

impl Strangers {
    pub(super) fn new(readiness: Readiness) -> Self {
        Self { readiness, since: HashMap::new(), trusted: false, reason: None }
    }

    /// To be called every now and then.
    pub(super) fn look(&mut self, mesh: &Mesh, pods: &[PodStatus]) {
        // Before that, nothing is known of anybody.
        if !mesh.synced() {
            return;
        }
        let Finding { reason, remark } = self.find(mesh, pods);
        self.readiness.remark("strangers", remark);
        if self.reason.as_ref().map(|(reason, _)| reason) == reason.as_ref() {
            return;
        }
        self.reason = reason.map(|reason| {
            warn!("not ready: {reason}");
            let pending = self.readiness.pending(reason.clone());
            (reason, pending)
        });
    }

    fn find(&mut self, mesh: &Mesh, pods: &[PodStatus]) -> Finding {
        let captured = pods.iter().filter(|pod| pod.state == PodState::Captured);
        let captured: Vec<_> = captured.filter_map(|pod| pod.pod.as_deref()).collect();
        let is_stranger = |pod: &&LocalPod| mesh.workload_of(pod).is_none();
        let unknown: Vec<_> = captured.iter().copied().filter(is_stranger).collect();
        let now = Instant::now();
        self.since.retain(|uid, _| unknown.iter().any(|pod| pod.uid == *uid));
        for pod in &unknown {
            self.since.entry(pod.uid.clone()).or_insert(now);
        }
        let lasting =
            |pod: &&LocalPod| self.since.get(&pod.uid).is_some_and(|at| *at + GRACE <= now);
        let lasting: Vec<_> = unknown.iter().copied().filter(lasting).collect();
        // What is told of the agent's own pod is found by the same names.
        let doubtful =
            !unknown.is_empty() && unknown.len() == captured.len() && !mesh.knows_agent();
        self.trusted |= !doubtful;
        let sure = doubtful && (!self.trusted || lasting.len() == captured.len());
        let reason = match mesh.home() {
            Err(HomeUnknown::NoPod { .. }) | Ok(_) if !sure => None,
            Err(unknown) => Some(unknown.to_string()),
            Ok(home) => {
                let cluster = &home.cluster_id;
                Some(format!("{}, as of cluster {cluster:?}", nothing_of(&unknown)))
            }
        };
        let remark = (reason.is_none() && !lasting.is_empty()).then(|| nothing_of(&lasting));
        Finding { reason, remark }
    }
}

fn nothing_of(pods: &[&LocalPod]) -> String {
    let names: Vec<_> =
        pods.iter().take(NAMED).map(|pod| format!("{}/{}", pod.namespace, pod.name)).collect();
    let more = pods.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the control plane tells nothing of this node's pods {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests;
