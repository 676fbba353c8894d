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
use super::snapshot::{Earlier, Mesh, ResourceKind};
use super::unreadable::Ranges;
use super::watchers::Watchers;
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

/// What the changes of a batch are about.
#[derive(Debug, Default)]
struct Batch {
    touched: Touched,
    /// As they were and as they are.
    workloads: Vec<Arc<Workload>>,
}

impl Batch {
    fn workload(&mut self, workload: Arc<Workload>) {
        self.touched.by_workload(&workload);
        self.workloads.push(workload);
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
        let mut batch = Batch::default();
        for event in events {
            changed |= self.apply_one(event, &mut batch);
        }
        if !changed {
            return;
        }
        batch.touched.settle(&mut self.mesh);
        self.publish();
        if self.mesh.policy_version() == policies && self.mesh.home().ok() == home.as_ref() {
            self.watchers.wake(&batch.workloads);
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

    /// Tells whether anything changed, and adds what the change is about.
    fn apply_one(&mut self, event: MeshEvent, batch: &mut Batch) -> bool {
        let mesh = &mut self.mesh;
        match event {
            MeshEvent::Workload(workload) => match mesh.insert_workload(&workload) {
                Earlier::Same => return false,
                Earlier::Nothing => batch.workload(workload),
                Earlier::Was(old) => {
                    [old, workload].into_iter().for_each(|one| batch.workload(one))
                }
            },
            MeshEvent::RemoveWorkload(uid) => match mesh.remove_workload(&uid) {
                None => return false,
                Some(old) => batch.workload(old),
            },
            MeshEvent::Service(service) => match mesh.insert_service(&service) {
                Earlier::Same => return false,
                Earlier::Nothing => batch.touched.by_service(&service.key, None),
                Earlier::Was(old) => batch.touched.by_service(&service.key, Some(old)),
            },
            MeshEvent::RemoveService(key) => match mesh.remove_service(&key) {
                None => return false,
                Some(old) => batch.touched.by_service(&key, Some(old)),
            },
            MeshEvent::Policy(policy) => return mesh.insert_policy(policy),
            MeshEvent::UnreadableAddress(name, ranges) => {
                return mesh.insert_unreadable_address(&name, ranges);
            }
            MeshEvent::RemoveUnreadableAddress(name) => {
                return mesh.remove_unreadable_address(&name);
            }
            MeshEvent::UnreadablePolicy(key, scope) => return mesh.insert_unreadable(key, scope),
            MeshEvent::RemovePolicy(key) => return mesh.remove_policy(&key),
        }
        true
    }

    fn publish(&mut self) {
        self.mesh.published();
        self.current.store(Arc::new(self.mesh.clone()));
        self.versions.send_replace(self.mesh.version());
    }
}
