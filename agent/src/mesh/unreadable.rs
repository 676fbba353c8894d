//! Addresses of workloads and services that the control plane told of in a way that this version cannot read.
//!
//! What is there is not known; that it is of the mesh is. Taken for unknown it would be reached in the clear.

use std::net::IpAddr;
use std::sync::Arc;

use arcstr::ArcStr;
use imbl::OrdMap;
use ipnet::IpNet;

use super::address::Network;
use super::cidr::CidrIndex;

/// Address ranges, each on a network.
pub type Ranges = Arc<[(Network, IpNet)]>;

/// The ranges by the name of the resource, and the names by range.
#[derive(Debug, Clone, Default)]
pub(super) struct UnreadableAddresses {
    ranges: OrdMap<ArcStr, Ranges>,
    index: CidrIndex<ArcStr>,
}

impl UnreadableAddresses {
    /// Takes a resource's ranges, in the place of those it had; gives these.
    pub(super) fn insert(&mut self, name: &ArcStr, ranges: Ranges) -> Option<Ranges> {
        let earlier = self.remove(name);
        for (network, range) in ranges.iter() {
            self.index.insert(network, *range, name);
        }
        self.ranges.insert(name.clone(), ranges);
        earlier
    }

    /// Forgets a resource; gives the ranges it had.
    pub(super) fn remove(&mut self, name: &ArcStr) -> Option<Ranges> {
        let ranges = self.ranges.remove(name)?;
        for (network, range) in ranges.iter() {
            self.index.remove(network, *range, name);
        }
        Some(ranges)
    }

    /// A resource that has the address.
    pub(super) fn at(&self, network: &Network, address: IpAddr) -> Option<&ArcStr> {
        self.index.longest(network, address).first()
    }

    /// Those of one resource.
    pub(super) fn of(&self, name: &ArcStr) -> Option<&Ranges> {
        self.ranges.get(name)
    }

    /// All, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ArcStr, &Ranges)> {
        self.ranges.iter()
    }
}
