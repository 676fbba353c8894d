//! A workload: one pod, or one address outside the cluster, and what the mesh says of it.

use std::fmt;
use std::net::IpAddr;

use arcstr::ArcStr;

use super::address::Network;
use super::addresses::Addresses;
use super::backed::Backed;
use super::policies::PolicyList;
use super::service::{LoadBalancing, Locality, Waypoint};
use super::spiffe::{SpiffeId, SpiffeIdError};

/// The control plane's unique name of a workload, as `Kubernetes//Pod/bookinfo/details-v1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(pub ArcStr);

impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a workload takes mesh traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TunnelProtocol {
    /// Plain TCP.
    Tcp,
    /// Mutual TLS and CONNECT on port 15008.
    Hbone,
    /// Another kind of tunnel, which we cannot speak.
    Unknown,
}

/// What made the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A `CronJob`.
    CronJob,
    /// A bare pod, or anything else.
    Pod,
    /// A Job.
    Job,
}

/// An application that wants a PROXY header in front of tunnelled bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApplicationTunnel {
    /// Whether PROXY protocol version 2 is spoken.
    pub proxy_protocol: bool,
    /// The port that takes it; none means the original one.
    pub port: Option<u16>,
}

/// One workload of the mesh.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Unique name.
    pub uid: WorkloadUid,
    /// Pod name.
    pub name: ArcStr,
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Canonical addresses, none for a workload that has a hostname only.
    pub addresses: Addresses,
    /// Name to resolve when there is no address; may be empty.
    pub hostname: ArcStr,
    /// The network of its addresses.
    pub network: Network,
    /// How to reach it.
    pub protocol: TunnelProtocol,
    /// Its identity.
    pub identity: SpiffeId,
    /// The node that runs it; may be empty.
    pub node: ArcStr,
    /// Value of `service.istio.io/canonical-name`, or the app's name.
    pub canonical_name: ArcStr,
    /// Version of the app.
    pub canonical_revision: ArcStr,
    /// What made it.
    pub kind: WorkloadKind,
    /// Name of the Deployment, Job... that made it.
    pub workload_name: ArcStr,
    /// Speaks HBONE itself.
    pub native_tunnel: bool,
    /// PROXY header for the app.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// The services it backs, and how their ports map to its own.
    pub services: Backed,
    /// Policies that select it.
    pub authorization_policies: PolicyList,
    /// Ready for traffic.
    pub healthy: bool,
    /// The cluster it runs in.
    pub cluster_id: ArcStr,
    /// Where it runs.
    pub locality: Locality,
    /// Shares its node's addresses: not found by address.
    pub host_network: bool,
    /// Load-balancing weight, 1 by default.
    pub capacity: u32,
    /// A proxy in front of it.
    pub waypoint: Option<Box<Waypoint>>,
    /// The gateway of its network.
    pub network_gateway: Option<Box<Waypoint>>,
}

impl Workload {
    /// Whether connections to a service that is balanced so may go to this endpoint of it.
    pub fn may_serve(&self, balancing: &LoadBalancing) -> bool {
        self.capacity > 0 && (self.healthy || balancing.allow_unhealthy)
    }

    /// Whether a canonical address belongs to it alone, and not to its node.
    pub fn owns(&self, network: &Network, address: IpAddr) -> bool {
        !self.host_network && self.network == *network && self.addresses.contains(&address)
    }

    /// A healthy HBONE pod with the given names and address; everything else at its default.
    ///
    /// # Errors
    /// A part of the identity is malformed.
    pub fn pod(
        cluster: &str,
        namespace: &str,
        name: &str,
        service_account: &str,
        address: IpAddr,
    ) -> Result<Self, SpiffeIdError> {
        Ok(Self {
            uid: WorkloadUid(arcstr::format!("{cluster}//Pod/{namespace}/{name}")),
            name: name.into(),
            namespace: namespace.into(),
            addresses: [address.to_canonical()].into_iter().collect(),
            hostname: ArcStr::new(),
            network: Network::new(),
            protocol: TunnelProtocol::Hbone,
            identity: SpiffeId::new(
                super::spiffe::DEFAULT_TRUST_DOMAIN,
                namespace,
                service_account,
            )?,
            node: ArcStr::new(),
            canonical_name: name.into(),
            canonical_revision: arcstr::literal!("latest"),
            kind: WorkloadKind::Pod,
            workload_name: name.into(),
            native_tunnel: false,
            application_tunnel: None,
            services: Backed::default(),
            authorization_policies: PolicyList::default(),
            healthy: true,
            cluster_id: cluster.into(),
            locality: Locality::default(),
            host_network: false,
            capacity: 1,
            waypoint: None,
            network_gateway: None,
        })
    }
}
