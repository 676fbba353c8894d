//! Addresses as the mesh names them: an IP within a network.

use std::fmt;
use std::net::IpAddr;

use arcstr::ArcStr;

/// A network's name; the empty name is the network of a single-network mesh.
pub type Network = ArcStr;

/// An IP address within a network, always canonical (never IPv4-mapped IPv6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    /// The network it is unique in.
    pub network: Network,
    /// The address.
    pub address: IpAddr,
}

impl NetworkAddress {
    /// An address, made canonical.
    pub fn new(network: impl Into<Network>, address: IpAddr) -> Self {
        Self { network: network.into(), address: address.to_canonical() }
    }
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.address)
    }
}
