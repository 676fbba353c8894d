//! The place of the bench: a pocket cluster with a client and a server in the mesh, the same two
//! outside of it on the same nodes, and a server outside of the cluster. What Sotto is compared with
//! has a second such cluster: the two share the machine and nothing else, so neither pays for what
//! the other puts into nodes and pods.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::ResourceExt;

use super::load::PORT;
use super::{peer, say};
use crate::cluster::{Cluster, ClusterOptions, Process};
use crate::netns;
use crate::node::RunningPod;

const MANIFEST: &str = include_str!("../manifests/bench.yaml");
/// The namespaces of the manifest.
pub(super) const MESH: &str = "bench-mesh";
const PLAIN: &str = "bench-plain";
pub(super) const READY: Duration = Duration::from_secs(60);

/// The paths that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Plain TCP.
    Plain,
    /// The Sotto of this build.
    Mesh,
    /// What it is compared with.
    Other,
}

/// What Sotto is compared with besides plain TCP.
#[derive(Debug, Clone)]
pub(super) enum Rival {
    /// A ztunnel.
    Peer(PathBuf),
    /// Another build of Sotto.
    Base(PathBuf),
}

/// All that the bench needs, running.
pub(super) struct Site {
    plain: Pair,
    pub(super) mesh: Mesh,
    pub(super) other: Option<Mesh>,
    pub(super) kit_app: String,
}

/// A mesh in a cluster of its own.
pub(super) struct Mesh {
    pub(super) cluster: Cluster,
    pub(super) pair: Pair,
    /// Lives as long as the mesh.
    _outside: Process,
}

/// A client and the server it talks to.
pub(super) struct Pair {
    pub(super) client: RunningPod,
    pub(super) server: RunningPod,
    pub(super) to: SocketAddr,
}

impl Side {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Mesh => "mesh",
            Self::Other => "other",
        }
    }
}

impl Site {
    /// Makes it; no connection has crossed a mesh then.
    ///
    /// # Errors
    /// A part does not start.
    pub(super) async fn start(rival: Option<&Rival>) -> Result<Self> {
        say("a pocket cluster with two nodes, an agent on each");
        let mesh = Mesh::start(None).await?;
        let other = match rival {
            Some(rival) => {
                say("another one for what it is compared with");
                Some(Mesh::start(Some(rival)).await?)
            }
            None => None,
        };
        let plain = Pair::find(&mesh.cluster, PLAIN).await?;
        let kit_app = mesh.cluster.nodes.first().context("no node")?.config.kit_app.clone();
        let site = Self { plain, mesh, other, kit_app: kit_app.display().to_string() };
        for side in site.sides() {
            site.pair(side)?.reuse_ports()?;
        }
        Ok(site)
    }

    /// All that are compared.
    pub(super) fn sides(&self) -> Vec<Side> {
        let other = self.other.iter().map(|_| Side::Other);
        [Side::Plain, Side::Mesh].into_iter().chain(other).collect()
    }

    /// The mesh of a side; plain TCP has none.
    pub(super) fn mesh_of(&self, side: Side) -> Option<&Mesh> {
        match side {
            Side::Plain => None,
            Side::Mesh => Some(&self.mesh),
            Side::Other => self.other.as_ref(),
        }
    }

    /// All meshes, with their sides.
    pub(super) fn meshes(&self) -> impl Iterator<Item = (Side, &Mesh)> {
        let other = self.other.iter().map(|other| (Side::Other, other));
        std::iter::once((Side::Mesh, &self.mesh)).chain(other)
    }

    /// [`Self::meshes`], to restart their agents.
    pub(super) fn meshes_mut(&mut self) -> impl Iterator<Item = (Side, &mut Mesh)> {
        let other = self.other.iter_mut().map(|other| (Side::Other, other));
        std::iter::once((Side::Mesh, &mut self.mesh)).chain(other)
    }

    /// The pods of a side.
    ///
    /// # Errors
    /// Sotto is compared with nothing.
    pub(super) fn pair(&self, side: Side) -> Result<&Pair> {
        match side {
            Side::Plain => Ok(&self.plain),
            _ => Ok(&self.mesh_of(side).context("nothing to compare with")?.pair),
        }
    }

    /// Ends it and returns what could not be removed.
    pub(super) async fn stop(self) -> Vec<anyhow::Error> {
        let mut left = Vec::new();
        for mesh in self.other.into_iter().chain([self.mesh]) {
            left.extend(mesh.cluster.stop().await);
        }
        left
    }

    /// The ends of all logs, for an error.
    pub(super) fn post_mortem(&self) -> String {
        self.meshes().map(|(_, mesh)| mesh.cluster.post_mortem()).collect()
    }
}

impl Mesh {
    async fn start(rival: Option<&Rival>) -> Result<Self> {
        let mut options = ClusterOptions { tell: say, ..Default::default() };
        match rival {
            Some(Rival::Peer(_)) => options.agents = false,
            Some(Rival::Base(program)) => options.program = Some(program.clone()),
            None => {}
        }
        let mut cluster = Cluster::start(options).await?;
        cluster.wire.stop();
        cluster.apply(MANIFEST).await?;
        cluster.wait_ready(&[PLAIN, MESH], READY).await?;
        if let Some(Rival::Peer(program)) = rival {
            say("starting the peers");
            let nodes = cluster.nodes.clone();
            let started = peer::start(&mut cluster, program, &nodes, MESH).await;
            started.with_context(|| cluster.post_mortem())?;
        }
        let outside = start_outside(&cluster)?;
        let pair = Pair::find(&cluster, MESH).await?;
        Ok(Self { cluster, pair, _outside: outside })
    }

    /// The cgroup of every process that its run started.
    pub(super) fn group(&self) -> Result<PathBuf> {
        let node = self.cluster.nodes.first().context("no node")?;
        Ok(node.config.cgroup.parent().context("a node below the run's cgroup")?.to_owned())
    }
}

impl Pair {
    async fn find(cluster: &Cluster, namespace: &str) -> Result<Self> {
        let client = cluster.pod_of(namespace, "client").await?;
        let server = cluster.pod_of(namespace, "server").await?;
        let address = server.status.as_ref().and_then(|status| status.pod_ip.as_deref());
        let address: IpAddr = address.context("a ready pod has an address")?.parse()?;
        let running = |name: &str| -> Result<RunningPod> {
            cluster.node_of(namespace, name)?.pod(namespace, name).context("the pod ended")
        };
        Ok(Self {
            client: running(&client.name_any())?,
            server: running(&server.name_any())?,
            to: SocketAddr::new(address, PORT),
        })
    }

    /// A client that opens thousands of connections a second runs out of ports within seconds
    /// otherwise, on any path. The port of a closed one is free again after a second then.
    fn reuse_ports(&self) -> Result<()> {
        netns::sysctl(&name_of(&self.client)?, &[("net/ipv4/tcp_tw_reuse", "1")])
    }
}

/// The name of a pod's network namespace.
pub(super) fn name_of(pod: &RunningPod) -> Result<String> {
    let name = pod.netns.file_name().and_then(|name| name.to_str());
    Ok(name.context("a namespace without a name")?.to_owned())
}

fn start_outside(cluster: &Cluster) -> Result<Process> {
    let node = cluster.nodes.first().context("no node")?;
    let group = node.config.cgroup.parent().context("a node below the run's cgroup")?;
    let program = node.config.kit_app.display().to_string();
    let argv = [program.as_str(), "load", "serve"].map(String::from).into();
    let log = cluster.dir().join("outside.log");
    let mut process = Process::new(argv, group.join("external"), &cluster.fabric.external, log);
    process.start()?;
    Ok(process)
}
