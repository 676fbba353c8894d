//! What resources are found by, as hashes that nobody outside can foresee.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;

use super::address::{Network, NetworkAddress};
use super::service::ServiceKey;
use super::workload::WorkloadUid;

/// The hashes of one mesh.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashes(RandomState);

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

    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
    fn of(&self, what: impl Hash) -> u32 {
        self.0.hash_one(what) as u32
    }
}
