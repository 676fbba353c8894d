//! A pod of this node, as the node itself knows it, before and beside what the mesh says of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arcstr::ArcStr;
use ipnet::IpNet;

use super::spiffe::Account;

/// A pod's Kubernetes UID.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(pub ArcStr);

impl std::fmt::Display for PodUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a pod keeps out of the mesh, by its annotations and its spec.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Destination ports never captured outbound.
    pub outbound_ports: Vec<u16>,
    /// Destination ranges never captured outbound.
    pub outbound_cidrs: Vec<IpNet>,
    /// Ports for probes and lifecycle hooks: not captured from the kubelet.
    pub probe_ports: Vec<u16>,
    /// Whether the mesh answers what it asks of resolvers; none if that is the node's to say.
    pub names: Option<bool>,
}

/// An enrolled pod of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalPod {
    /// Kubernetes UID.
    pub uid: PodUid,
    /// Kubernetes namespace.
    pub namespace: ArcStr,
    /// Pod name.
    pub name: ArcStr,
    /// Its service account. With the trust domain, which the mesh tells, it is the pod's identity.
    pub account: Account,
    /// IPv4 address.
    pub ip4: Option<Ipv4Addr>,
    /// IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// What is not captured.
    pub exclusions: Exclusions,
}

impl LocalPod {
    /// Whether `address` is the pod's own (IPv4-mapped IPv6 counts as IPv4).
    pub fn owns(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(ip) => self.ip4 == Some(ip),
            IpAddr::V6(ip) => self.ip6 == Some(ip),
        }
    }
}
