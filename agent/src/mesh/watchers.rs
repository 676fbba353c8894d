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
        Self::new(&workload.namespace, &workload.name)
    }

    pub(super) fn new(namespace: &ArcStr, name: &ArcStr) -> Self {
        Self { namespace: namespace.clone(), name: name.clone() }
    }
}

/// A channel for each pod that somebody waits for: a few hundred, as a node has pods.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<Mutex<HashMap<PodName, watch::Sender<()>>>>);

impl Watchers {
    pub(super) fn subscribe(&self, namespace: &ArcStr, name: &ArcStr) -> watch::Receiver<()> {
        let pod = PodName::new(namespace, name);
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

    pub(super) fn wake(&self, changed: &[Arc<Workload>]) {
        let pods = self.0.lock();
        if pods.is_empty() {
            return;
        }
        for sender in changed.iter().filter_map(|workload| pods.get(&PodName::of(workload))) {
            sender.send_replace(());
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::mesh::policy::{Action, Authorization, PolicyScope};
    use crate::mesh::{MeshEvent, PolicyKey, ResourceKind, Store};

    use super::*;

    fn workload(name: &str, policies: &[&str]) -> Arc<Workload> {
        let mut workload = Workload::pod("c", "ns", name, "sa", [10, 0, 0, 2].into()).unwrap();
        let key = |name: &&str| PolicyKey { namespace: "ns".into(), name: (*name).into() };
        workload.authorization_policies = policies.iter().map(key).collect();
        Arc::new(workload)
    }

    #[test]
    fn a_pod_is_woken_by_its_own_changes_and_those_of_policies_alone() {
        let (mut store, reader) = Store::new();
        let mut mine = reader.changes_for(&"ns".into(), &"mine".into());
        let mut check = |store: &mut Store, event: MeshEvent, woken: bool| {
            let what = format!("{event:?}");
            store.apply([event]);
            assert_eq!(mine.has_changed().unwrap(), woken, "{what}");
            mine.mark_unchanged();
        };
        check(&mut store, MeshEvent::Workload(workload("mine", &[])), true);
        // What changes nothing wakes nobody.
        check(&mut store, MeshEvent::Workload(workload("mine", &[])), false);
        check(&mut store, MeshEvent::Workload(workload("other", &[])), false);
        check(&mut store, MeshEvent::Workload(workload("other", &["p"])), false);
        check(&mut store, MeshEvent::RemoveWorkload(workload("other", &[]).uid.clone()), false);
        check(&mut store, MeshEvent::Workload(workload("mine", &["p"])), true);
        check(&mut store, MeshEvent::RemoveWorkload(workload("mine", &[]).uid.clone()), true);
        let key = PolicyKey { namespace: "elsewhere".into(), name: "p".into() };
        let policy = Authorization {
            key: key.clone(),
            scope: PolicyScope::Namespace,
            action: Action::Deny,
            groups: vec![],
            dry_run: false,
        };
        check(&mut store, MeshEvent::Policy(Arc::new(policy)), true);
        check(&mut store, MeshEvent::RemovePolicy(key.clone()), true);
        check(&mut store, MeshEvent::UnreadablePolicy(key, PolicyScope::Global), true);
        // The same pod under another unique name, and under another name.
        let mut renamed = Workload::clone(&workload("mine", &[]));
        renamed.uid = crate::mesh::WorkloadUid("odd".into());
        check(&mut store, MeshEvent::Workload(Arc::new(renamed.clone())), true);
        renamed.name = "other".into();
        check(&mut store, MeshEvent::Workload(Arc::new(renamed)), true);
        store.set_synced(ResourceKind::Authorization);
        assert!(mine.has_changed().unwrap());
    }

    #[test]
    fn pods_nobody_waits_for_are_forgotten() {
        let watchers = Watchers::default();
        let kept = watchers.subscribe(&"ns".into(), &"kept".into());
        for name in 0..100 {
            drop(watchers.subscribe(&"ns".into(), &arcstr::format!("{name}")));
        }
        assert!(watchers.0.lock().len() <= 2);
        watchers.wake_all();
        assert!(kept.has_changed().unwrap());
    }
}
