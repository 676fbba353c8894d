//! What a connection needs of its thread and of the agent.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use super::accepted::Accepted;
use super::hosts::Hosts;
use super::open::{OpenConnection, OpenConnections};
use super::plaintext::{PlaintextCounters, PlaintextPeers};
use crate::identify::certs::Certificates;
use crate::mesh::{Home, HomeUnknown, Mesh, MeshReader};
use crate::observe::metrics::{Metrics, ThreadMetrics};
use crate::sys::socket;
use crate::tunnel::{Limits, Pool};

/// How long a connection waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timings {
    /// For the mesh to be known at all, a workload to be told, a policy to arrive.
    pub hold: Duration,
    /// For a TCP connection to an app or to a destination outside the mesh, if the other side does not give up before.
    pub connect: Duration,
    /// How much longer for one that has ended its side.
    pub ended: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self { hold: Duration::from_secs(5), connect: socket::DIAL, ended: Duration::from_secs(10) }
    }
}

/// What all data threads share; nothing in it is locked on the data path.
#[derive(Clone)]
pub struct Shared {
    /// What we know of the mesh.
    pub mesh: MeshReader,
    /// Certificates of this node's identities.
    pub certificates: Certificates,
    /// Counters.
    pub metrics: Metrics,
    /// Limits of tunnels.
    pub limits: Limits,
    /// Waits.
    pub timings: Timings,
    /// Addresses of workloads that have a hostname instead.
    pub hosts: Hosts,
    /// What Kubernetes' names end with, as `cluster.local`.
    pub cluster_domain: String,
}

/// A data thread's own: the shared parts, its tunnels, its counters.
pub struct Context {
    shared: Arc<Shared>,
    /// Tunnels to other pods.
    pub pool: Pool,
    pub(super) counters: ThreadMetrics,
    pub(super) open: OpenConnections,
    pub(super) plaintext: PlaintextCounters,
    pub(super) accepted: Accepted,
}

/// What the control plane has told does not say where a connection should go, nor as whom.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeshUnknown {
    /// It has told nothing.
    #[error("nothing received from the control plane within {0:?}; is it reachable?")]
    Silent(Duration),
    /// It has not told where this node is in the mesh.
    #[error("it is not known where this node is in the mesh")]
    Home(#[source] HomeUnknown),
}

impl Context {
    /// A thread's context.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            pool: Pool::new(shared.limits.clone()),
            counters: shared.metrics.thread(),
            open: OpenConnections::default(),
            plaintext: PlaintextCounters::default(),
            accepted: Accepted::default(),
            shared,
        }
    }

    /// The connections open on this thread.
    pub fn open_connections(&self) -> Vec<OpenConnection> {
        self.open.snapshot()
    }

    /// Tells the totals so far of every open connection, so that graphs move while long ones run: one timer for
    /// all of them. Call it every few seconds.
    pub fn tell(&self) {
        self.open.tell();
    }

    /// Who came to this thread in the clear.
    pub fn plaintext_peers(&self) -> PlaintextPeers {
        self.plaintext.snapshot()
    }

    /// The mesh and where this node is in it, once the control plane has told all of it; waits a bounded time for that.
    pub(super) async fn synced_mesh(&self) -> Result<(Arc<Mesh>, Arc<Home>), MeshUnknown> {
        let known = |mesh: &Arc<Mesh>| {
            let home = mesh.home().ok().filter(|_| mesh.synced())?;
            Some((mesh.clone(), home.clone()))
        };
        self.once(known).await
    }

    /// Where this node is in the mesh, once the control plane has told that; waits a bounded time for it.
    pub(super) async fn home(&self) -> Result<Arc<Home>, MeshUnknown> {
        self.once(|mesh| mesh.home().ok().cloned()).await
    }

    /// What `known` finds, as soon as it does.
    async fn once<T>(&self, known: impl Fn(&Arc<Mesh>) -> Option<T>) -> Result<T, MeshUnknown> {
        if let Some(known) = known(&self.mesh.load()) {
            return Ok(known);
        }
        let found = self.mesh.once(known);
        if let Ok(Some(known)) = tokio::time::timeout(self.timings.hold, found).await {
            return Ok(known);
        }
        let mesh = self.mesh.load();
        Err(match mesh.home() {
            Err(unknown) if mesh.synced() => MeshUnknown::Home(unknown.clone()),
            _ => MeshUnknown::Silent(self.timings.hold),
        })
    }
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}
