//! The single writer of what we know, and the snapshots everyone reads.
//!
//! A batch of events becomes one published snapshot; a reader never waits for the writer. The
//! task that owns the [`Store`] is the only one that changes anything.

use std::sync::Arc;

use arc_swap::ArcSwap;
use arcstr::ArcStr;
use tokio::sync::watch;

use super::closed::Touched;
use super::home::Given;
use super::policy::{Authorization, PolicyKey, PolicyScope};
use super::service::{Service, ServiceKey};
use super::snapshot::{Mesh, ResourceKind};
use super::unreadable::Ranges;
use super::watchers::{PodName, Watchers};
use super::workload::{Workload, WorkloadUid};

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub enum MeshEvent {
    /// A workload came or changed.
    Workload(Arc<Workload>),
    /// A service came or changed.
    Service(Arc<Service>),
    /// A policy came or changed.
    Policy(Arc<Authorization>),
    /// A workload went.
    RemoveWorkload(WorkloadUid),
    /// A service went.
    RemoveService(ServiceKey),
    /// A workload or a service of this name came whose content cannot be read but for these addresses.
    UnreadableAddress(ArcStr, Ranges),
    /// Such a one went, or can be read now.
    RemoveUnreadableAddress(ArcStr),
    /// A policy came whose content cannot be read, and may be one of this scope.
    UnreadablePolicy(PolicyKey, PolicyScope),
    /// A policy went.
    RemovePolicy(PolicyKey),
}

/// Reads snapshots; cheap to clone, never blocks.
#[derive(Debug, Clone)]
pub struct MeshReader {
    current: Arc<ArcSwap<Mesh>>,
    versions: watch::Receiver<u64>,
    watchers: Watchers,
}

impl MeshReader {
    /// The newest snapshot.
    pub fn load(&self) -> Arc<Mesh> {
        self.current.load_full()
    }

    /// The version of the newest snapshot; changes after the snapshot can be loaded.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.versions.clone()
    }

    /// What `known` finds, as soon as it does; none once nothing changes any more.
    pub async fn once<T>(&self, known: impl Fn(&Arc<Mesh>) -> Option<T>) -> Option<T> {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if let Some(known) = known(&self.load()) {
                return Some(known);
            }
            changes.changed().await.ok()?;
        }
    }

    /// Changes when what is said of a pod, the policies, or what has been received at all may
    /// have; after the snapshot can be loaded. Never ends.
    pub fn changes_for(&self, namespace: &ArcStr, name: &ArcStr) -> watch::Receiver<()> {
        self.watchers.subscribe(namespace, name)
    }
}

/// The writer.
#[derive(Debug)]
pub struct Store {
    mesh: Mesh,
    current: Arc<ArcSwap<Mesh>>,
    versions: watch::Sender<u64>,
    watchers: Watchers,
}

impl Store {
    /// An empty mesh and its reader, on a node without a name.
    pub fn new() -> (Self, MeshReader) {
        Self::on(Given::default())
    }

    /// The same on a node that is told this of where it is.
    pub fn on(given: Given) -> (Self, MeshReader) {
        let mesh = Mesh::of(given);
        let current = Arc::new(ArcSwap::from_pointee(mesh.clone()));
        let (sender, versions) = watch::channel(0);
        let reader = MeshReader { current, versions, watchers: Watchers::default() };
        let store = Self {
            mesh,
            current: reader.current.clone(),
            versions: sender,
            watchers: reader.watchers.clone(),
        };
        (store, reader)
    }

    /// Applies a batch and publishes it once; a batch that changes nothing publishes nothing.
    pub fn apply(&mut self, events: impl IntoIterator<Item = MeshEvent>) {
        let (policies, home) = (self.mesh.policy_version(), self.mesh.home().ok().cloned());
        let mut changed = false;
        let mut pods = Vec::new();
        let mut touched = Touched::default();
        for event in events {
            self.touch(&event, &mut touched);
            changed |= self.apply_one(event, &mut pods);
        }
        if !changed {
            return;
        }
        touched.settle(&mut self.mesh);
        self.publish();
        if self.mesh.policy_version() == policies && self.mesh.home().ok() == home.as_ref() {
            self.watchers.wake(&pods);
        } else {
            self.watchers.wake_all();
        }
    }

    /// What is known so far.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Notes that the first state of a kind is here.
    pub fn set_synced(&mut self, kind: ResourceKind) {
        if self.mesh.set_synced(kind) {
            self.publish();
            self.watchers.wake_all();
        }
    }

    /// Tells whether anything changed, and adds the pods it is about.
    fn apply_one(&mut self, event: MeshEvent, pods: &mut Vec<PodName>) -> bool {
        let mesh = &mut self.mesh;
        match event {
            MeshEvent::Workload(workload) => {
                pods.extend(mesh.workload(&workload.uid).map(|old| PodName::of(old)));
                pods.push(PodName::of(&workload));
                mesh.insert_workload(workload)
            }
            MeshEvent::Service(service) => mesh.insert_service(service),
            MeshEvent::Policy(policy) => mesh.insert_policy(policy),
            MeshEvent::RemoveWorkload(uid) => {
                pods.extend(mesh.workload(&uid).map(|old| PodName::of(old)));
                mesh.remove_workload(&uid)
            }
            MeshEvent::RemoveService(key) => mesh.remove_service(&key),
            MeshEvent::UnreadableAddress(name, ranges) => {
                mesh.insert_unreadable_address(&name, ranges)
            }
            MeshEvent::RemoveUnreadableAddress(name) => mesh.remove_unreadable_address(&name),
            MeshEvent::UnreadablePolicy(key, scope) => mesh.insert_unreadable(key, scope),
            MeshEvent::RemovePolicy(key) => mesh.remove_policy(&key),
        }
    }

    /// Notes which services' endpoints an event is about, before it is applied.
    fn touch(&self, event: &MeshEvent, touched: &mut Touched) {
        let mesh = &self.mesh;
        match event {
            MeshEvent::Workload(workload) => {
                touched.by_workload(workload);
                mesh.workload(&workload.uid).into_iter().for_each(|old| touched.by_workload(old));
            }
            MeshEvent::RemoveWorkload(uid) => {
                mesh.workload(uid).into_iter().for_each(|old| touched.by_workload(old));
            }
            MeshEvent::Service(service) => {
                touched.by_service(&service.key, mesh.service(&service.key));
            }
            MeshEvent::RemoveService(key) => touched.by_service(key, mesh.service(key)),
            MeshEvent::UnreadableAddress(..)
            | MeshEvent::RemoveUnreadableAddress(_)
            | MeshEvent::Policy(_)
            | MeshEvent::UnreadablePolicy(..)
            | MeshEvent::RemovePolicy(_) => {}
        }
    }

    fn publish(&mut self) {
        self.mesh.published();
        self.current.store(Arc::new(self.mesh.clone()));
        self.versions.send_replace(self.mesh.version());
    }
}
