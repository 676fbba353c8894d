//! Address ranges and whose they are, found by the longest prefix.

use std::net::IpAddr;

use imbl::{HashMap, OrdMap};
use ipnet::IpNet;

use super::address::Network;
use super::claims::{self, Claims};

/// Ranges by network, and the prefix lengths in use, so that a look-up tries those alone.
#[derive(Debug, Clone)]
pub(super) struct CidrIndex<K> {
    entries: HashMap<(Network, IpNet), Claims<K>>,
    /// How many entries have a length, by (IPv6, length).
    lengths: OrdMap<(bool, u8), u32>,
}

impl<K> Default for CidrIndex<K> {
    fn default() -> Self {
        Self { entries: HashMap::new(), lengths: OrdMap::new() }
    }
}

impl<K: Clone + PartialEq> CidrIndex<K> {
    /// Adds a range of an owner.
    pub(super) fn insert(&mut self, network: &Network, range: IpNet, key: &K) {
        let range = range.trunc();
        let at = (network.clone(), range);
        if !self.entries.contains_key(&at) {
            *self.lengths.entry(length_of(range)).or_insert(0) += 1;
        }
        claims::claim(&mut self.entries, at, key);
    }

    /// Removes a range of an owner.
    pub(super) fn remove(&mut self, network: &Network, range: IpNet, key: &K) {
        let range = range.trunc();
        let at = (network.clone(), range);
        let before = self.entries.len();
        claims::release(&mut self.entries, &at, key);
        if self.entries.len() == before {
            return;
        }
        let length = length_of(range);
        match self.lengths.get_mut(&length) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.lengths.remove(&length);
            }
        }
    }

    /// The claimants of the longest range that holds `address`.
    pub(super) fn longest(&self, network: &Network, address: IpAddr) -> &[K] {
        self.holding(network, address).next().unwrap_or_default()
    }

    /// The claimants of each range that holds `address`, the longest first.
    pub(super) fn holding(&self, network: &Network, address: IpAddr) -> impl Iterator<Item = &[K]> {
        let (v6, network) = (address.is_ipv6(), network.clone());
        let lengths = self.lengths.range((v6, 0)..=(v6, 128)).rev();
        lengths.filter_map(move |(&(_, length), _)| {
            let range = IpNet::new(address, length).ok()?.trunc();
            self.entries.get(&(network.clone(), range)).map(Claims::as_slice)
        })
    }
}

fn length_of(range: IpNet) -> (bool, u8) {
    (range.addr().is_ipv6(), range.prefix_len())
}
