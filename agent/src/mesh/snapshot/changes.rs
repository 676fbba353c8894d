//! How a mesh changes, by its store alone.

use std::net::IpAddr;
use std::sync::Arc;

use arcstr::ArcStr;

use super::{Mesh, ResourceKind};
use crate::mesh::address::Network;
use crate::mesh::destinations::ClosedPorts;
use crate::mesh::endpoints::Endpoints;
use crate::mesh::home::{Given, Locals};
use crate::mesh::policy::{Authorization, PolicyKey, PolicyScope};
use crate::mesh::service::{Service, ServiceKey};
use crate::mesh::unreadable::Ranges;
use crate::mesh::workload::{Workload, WorkloadUid};

/// What there was of a name when another came.
#[derive(Debug)]
pub(in crate::mesh) enum Earlier<T> {
    /// The same: nothing changed.
    Same,
    /// Nothing.
    Nothing,
    /// This.
    Was(Arc<T>),
}

impl Mesh {
    /// Of a node that is told this of where it is.
    pub(in crate::mesh) fn of(given: Given) -> Self {
        Self { locals: Locals::new(given), ..Self::default() }
    }

    pub(in crate::mesh) fn closed_ports_mut(&mut self) -> &mut ClosedPorts {
        &mut self.closed
    }

    pub(in crate::mesh) fn published(&mut self) {
        self.version += 1;
        self.locals.learn();
    }

    pub(in crate::mesh) fn set_synced(&mut self, kind: ResourceKind) -> bool {
        let flag = match kind {
            ResourceKind::Address => &mut self.address_synced,
            ResourceKind::Authorization => &mut self.authorization_synced,
        };
        !std::mem::replace(flag, true)
    }

    pub(in crate::mesh) fn insert_workload(
        &mut self,
        workload: &Arc<Workload>,
    ) -> Earlier<Workload> {
        let uid = &workload.uid;
        if self.workload(uid) == Some(workload) {
            return Earlier::Same;
        }
        let hash = self.hashes.uid(uid);
        let old = self.workloads.put(hash, |own| own.uid == *uid, workload.clone());
        // New claims first: an address that stays keeps its place among the claimants.
        for (network, address) in addresses_of(workload) {
            self.destinations.insert(address.into());
            let hash = self.hashes.address(network, address);
            let is = |own: &Arc<Workload>| own.uid == *uid && own.owns(network, address);
            self.by_address.put(hash, is, workload.clone());
        }
        if let Some(old) = &old {
            self.release_workload(old, Some(workload));
        }
        if let Some(hostname) = own_hostname(workload) {
            let hash = self.hashes.hostname(hostname);
            self.by_own_hostname.put(hash, |own| own.uid == *uid, workload.clone());
        }
        for key in workload.services.keys() {
            let new = || Endpoints::of(key.clone());
            let hash = self.hashes.service(key);
            self.endpoints.entry(hash, |endpoints| endpoints.key == *key, new).put(workload);
        }
        self.locals.insert(workload);
        old.map_or(Earlier::Nothing, Earlier::Was)
    }

    pub(in crate::mesh) fn remove_workload(&mut self, uid: &WorkloadUid) -> Option<Arc<Workload>> {
        let old = self.workloads.remove(self.hashes.uid(uid), |own| own.uid == *uid)?;
        self.release_workload(&old, None);
        Some(old)
    }

    /// Drops what `old` held and `new` does not hold any more.
    fn release_workload(&mut self, old: &Workload, new: Option<&Workload>) {
        self.locals.remove(old);
        if let Some(hostname) = own_hostname(old) {
            let hash = self.hashes.hostname(hostname);
            self.by_own_hostname.remove(hash, |own| own.uid == old.uid);
        }
        for (network, address) in addresses_of(old) {
            self.destinations.remove(address.into());
            if !new.is_some_and(|new| new.owns(network, address)) {
                let hash = self.hashes.address(network, address);
                let is = |own: &Arc<Workload>| own.uid == old.uid && own.owns(network, address);
                self.by_address.remove(hash, is);
            }
        }
        for key in old.services.keys() {
            if new.is_some_and(|new| new.services.contains_key(key)) {
                continue;
            }
            let (hash, is) = (self.hashes.service(key), |own: &Endpoints| own.key == *key);
            if self.endpoints.get(hash, is).is_none() {
                continue;
            }
            let endpoints = self.endpoints.entry(hash, is, || Endpoints::of(key.clone()));
            endpoints.remove(&old.uid);
            if endpoints.is_empty() {
                self.endpoints.remove(hash, is);
            }
        }
    }

    pub(in crate::mesh) fn insert_service(&mut self, service: &Arc<Service>) -> Earlier<Service> {
        let key = &service.key;
        if self.service(key) == Some(service) {
            return Earlier::Same;
        }
        let old = self.remove_service(key);
        let is = |own: &Arc<Service>| own.key == *key;
        for at in &service.vips {
            self.destinations.insert(at.address.into());
            // A service has an address once, even if it is told twice.
            let is = |own: &Arc<Service>| is(own) && own.vips.contains(at);
            self.by_vip.put(self.hashes.at(at), is, service.clone());
        }
        for (network, range) in &service.cidr_vips {
            self.destinations.insert(*range);
            self.by_cidr.insert(network, *range, key);
        }
        self.by_hostname.put(self.hashes.hostname(&key.hostname), is, service.clone());
        self.services.put(self.hashes.service(key), is, service.clone());
        old.map_or(Earlier::Nothing, Earlier::Was)
    }

    pub(in crate::mesh) fn remove_service(&mut self, key: &ServiceKey) -> Option<Arc<Service>> {
        let is = |own: &Arc<Service>| own.key == *key;
        let old = self.services.remove(self.hashes.service(key), is)?;
        for at in &old.vips {
            self.destinations.remove(at.address.into());
            let is = |own: &Arc<Service>| is(own) && own.vips.contains(at);
            self.by_vip.remove(self.hashes.at(at), is);
        }
        for (network, range) in &old.cidr_vips {
            self.destinations.remove(*range);
            self.by_cidr.remove(network, *range, key);
        }
        self.by_hostname.remove(self.hashes.hostname(&key.hostname), is);
        Some(old)
    }

    pub(in crate::mesh) fn insert_unreadable_address(
        &mut self,
        name: &ArcStr,
        ranges: Ranges,
    ) -> bool {
        if self.unreadable.of(name) == Some(&ranges) {
            return false;
        }
        ranges.iter().for_each(|(_, range)| self.destinations.insert(*range));
        if let Some(earlier) = self.unreadable.insert(name, ranges) {
            earlier.iter().for_each(|(_, range)| self.destinations.remove(*range));
        }
        true
    }

    pub(in crate::mesh) fn remove_unreadable_address(&mut self, name: &ArcStr) -> bool {
        let Some(ranges) = self.unreadable.remove(name) else { return false };
        ranges.iter().for_each(|(_, range)| self.destinations.remove(*range));
        true
    }

    pub(in crate::mesh) fn insert_policy(&mut self, policy: Arc<Authorization>) -> bool {
        let changed = self.policies.insert(policy);
        self.policy_version += u64::from(changed);
        changed
    }

    pub(in crate::mesh) fn insert_unreadable(
        &mut self,
        key: PolicyKey,
        scope: PolicyScope,
    ) -> bool {
        let changed = self.policies.insert_unreadable(key, scope);
        self.policy_version += u64::from(changed);
        changed
    }

    pub(in crate::mesh) fn remove_policy(&mut self, key: &PolicyKey) -> bool {
        let changed = self.policies.remove(key);
        self.policy_version += u64::from(changed);
        changed
    }
}

/// What a workload without an address is known by.
fn own_hostname(workload: &Workload) -> Option<&ArcStr> {
    let known = workload.addresses.is_empty() && !workload.hostname.is_empty();
    known.then_some(&workload.hostname)
}

/// The addresses that belong to a workload alone.
fn addresses_of(workload: &Workload) -> impl Iterator<Item = (&Network, IpAddr)> {
    let own = if workload.host_network { &[][..] } else { &workload.addresses[..] };
    own.iter().map(|address| (&workload.network, *address))
}
