//! What resources are found by, as hashes that nobody outside can foresee.

use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;

use foldhash::quality::RandomState;

use super::address::{Network, NetworkAddress};
use super::service::ServiceKey;
use super::workload::WorkloadUid;

/// How all hashes are made: quickly, from seeds that are drawn anew by each process.
pub type Seeds = RandomState;

/// The half of a hash that tables go by.
#[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
pub fn hash(seeds: &Seeds, what: impl Hash) -> u32 {
    seeds.hash_one(what) as u32
}

/// The hashes of one mesh.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashes(Seeds);

impl Hashes {
    pub(super) fn uid(&self, uid: &WorkloadUid) -> u32 {
        self.of(uid)
    }

    pub(super) fn service(&self, key: &ServiceKey) -> u32 {
        self.of(key)
    }

    pub(super) fn hostname(&self, hostname: &str) -> u32 {
        self.of(hostname)
    }

    /// Of a canonical address.
    pub(super) fn address(&self, network: &Network, address: IpAddr) -> u32 {
        self.of((&**network, address))
    }

    pub(super) fn at(&self, at: &NetworkAddress) -> u32 {
        self.address(&at.network, at.address)
    }

    fn of(&self, what: impl Hash) -> u32 {
        hash(&self.0, what)
    }
}
