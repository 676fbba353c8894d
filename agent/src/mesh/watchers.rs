//! Who waits for what may change the judgement of one pod's connections.
//!
//! An Address push of other pods wakes none of them.

use std::collections::HashMap;
use std::sync::Arc;

use arcstr::ArcStr;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::workload::Workload;

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct PodName {
    namespace: ArcStr,
    name: ArcStr,
}

impl PodName {
    pub(super) fn of(workload: &Workload) -> Self {
        Self { namespace: workload.namespace.clone(), name: workload.name.clone() }
    }
}

/// A channel for each pod that somebody waits for: a few hundred, as a node has pods.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<HashMap<PodName, watch::Sender<()>>>>);

impl Watchers {
    pub(super) fn subscribe(&self, namespace: &ArcStr, name: &ArcStr) -> watch::Receiver<()> {
        let pod = PodName { namespace: namespace.clone(), name: name.clone() };
        let mut pods = self.0.lock();
        if let Some(sender) = pods.get(&pod) {
            return sender.subscribe();
        }
        // Pods that nobody waits for any more make room.
        pods.retain(|_, sender| sender.receiver_count() > 0);
        let (sender, receiver) = watch::channel(());
        pods.insert(pod, sender);
        receiver
    }

    pub(super) fn wake_all(&self) {
        for sender in self.0.lock().values() {
            sender.send_replace(());
        }
    }

    pub(super) fn wake(&self, changed: &[PodName]) {
        let pods = self.0.lock();
        if pods.is_empty() {
            return;
        }
        for sender in changed.iter().filter_map(|pod| pods.get(pod)) {
            sender.send_replace(());
        }
    }
}
