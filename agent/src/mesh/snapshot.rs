//! A snapshot of the mesh and the ways to look things up in it.
//!
//! Built on persistent maps: a clone shares everything, a change copies one path.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arcstr::ArcStr;
use imbl::{HashMap, OrdMap};

use super::address::{Network, NetworkAddress};
use super::cidr::CidrIndex;
use super::claims::{self, Claims};
use super::destinations::{ClosedPorts, Destinations};
use super::home::{Given, Home, HomeUnknown, Locals};
use super::local::LocalPod;
use super::policies::{Policies, PolicySet, Selection};
use super::policy::{Authorization, PolicyKey, PolicyScope};
use super::service::{Port, Service, ServiceKey};
use super::unreadable::{Ranges, UnreadableAddresses};
use super::workload::{Workload, WorkloadUid};

#[cfg(test)]
mod tests;

/// The kinds of resources the control plane tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// Workloads and services.
    Address,
    /// Policies.
    Authorization,
}

/// What we knew of the mesh at one moment.
#[derive(Debug, Clone, Default)]
pub struct Mesh {
    version: u64,
    policy_version: u64,
    address_synced: bool,
    authorization_synced: bool,
    workloads: HashMap<WorkloadUid, Arc<Workload>>,
    by_address: HashMap<NetworkAddress, Claims<WorkloadUid>>,
    services: HashMap<ServiceKey, Arc<Service>>,
    by_vip: HashMap<NetworkAddress, Claims<ServiceKey>>,
    by_cidr: CidrIndex<ServiceKey>,
    by_hostname: HashMap<ArcStr, Claims<ServiceKey>>,
    endpoints: HashMap<ServiceKey, OrdMap<WorkloadUid, Arc<Workload>>>,
    policies: Policies,
    destinations: Destinations,
    closed: ClosedPorts,
    unreadable: UnreadableAddresses,
    locals: Locals,
}

// === look-ups ===

impl Mesh {
    /// Grows with every published change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Grows with every change of a policy.
    pub fn policy_version(&self) -> u64 {
        self.policy_version
    }

    /// Whether the first state of both kinds is here.
    pub fn synced(&self) -> bool {
        self.address_synced && self.authorization_synced
    }

    /// Whether the first state of a kind is here.
    pub fn kind_synced(&self, kind: ResourceKind) -> bool {
        match kind {
            ResourceKind::Address => self.address_synced,
            ResourceKind::Authorization => self.authorization_synced,
        }
    }

    /// A workload by its unique name.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// Every workload, in no order.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workload that owns an address; never one that shares its node's address.
    ///
    /// While a dead pod's address is being taken over, the newcomer is the owner.
    pub fn workload_by_address(
        &self,
        network: &Network,
        address: IpAddr,
    ) -> Option<&Arc<Workload>> {
        self.workloads_by_address(network, address).next()
    }

    /// Every workload that claims an address, the newest first.
    pub fn workloads_by_address(
        &self,
        network: &Network,
        address: IpAddr,
    ) -> impl Iterator<Item = &Arc<Workload>> {
        let at = NetworkAddress::new(network.clone(), address);
        let claims = self.by_address.get(&at).map_or(&[][..], Claims::as_slice);
        claims.iter().rev().filter_map(|uid| self.workloads.get(uid))
    }

    /// What the mesh says of a pod of this node: same name, and an address of its own.
    pub fn workload_of(&self, pod: &LocalPod) -> Option<&Arc<Workload>> {
        self.locals.of(pod)
    }

    /// Where this node is.
    ///
    /// # Errors
    /// Nothing tells, or what tells does not agree.
    pub fn home(&self) -> Result<&Arc<Home>, &HomeUnknown> {
        self.locals.home()
    }

    /// Whether anything is told of the agent's own pod.
    pub fn knows_agent(&self) -> bool {
        self.locals.knows_agent()
    }

    /// What the agent was told of where its node is.
    pub fn given(&self) -> &Given {
        self.locals.given()
    }

    /// The cluster of this node, as far as it is known.
    pub fn cluster_id(&self) -> Option<&ArcStr> {
        self.locals.cluster_id()
    }

    /// A service by its key.
    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Every service, in no order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The service with a virtual address, else the one with the longest range that holds it, whoever asks.
    pub fn service_by_vip(&self, network: &Network, address: IpAddr) -> Option<&Arc<Service>> {
        self.find_service(&NetworkAddress::new(network.clone(), address), Seeker::default())
    }

    /// The service that a client of a namespace means by a destination: of those that are there for it one with the
    /// address, else with a range that holds it.
    ///
    /// Of those that share the address one that has the port, then one of the client's own namespace, then the canonical
    /// one. Of ranges those of the client's own namespace count first, then the longest.
    pub fn service_at(
        &self,
        network: &Network,
        destination: SocketAddr,
        namespace: &str,
    ) -> Option<&Arc<Service>> {
        let seeker = Seeker { namespace: Some(namespace), port: Some(destination.port()) };
        self.find_service(&NetworkAddress::new(network.clone(), destination.ip()), seeker)
    }

    fn find_service(&self, at: &NetworkAddress, seeker: Seeker<'_>) -> Option<&Arc<Service>> {
        let exact = self.by_vip.get(at).map_or(&[][..], Claims::as_slice);
        self.preferred(exact, seeker).or_else(|| {
            let ranges = self.by_cidr.holding(&at.network, at.address);
            let found = ranges.filter_map(|claims| self.preferred(claims, seeker));
            // Of equals the first is kept.
            found.reduce(|best, next| {
                if seeker.is_at_home(next) && !seeker.is_at_home(best) { next } else { best }
            })
        })
    }

    /// The services with an address, in no order; not those with a range that holds it.
    pub(super) fn services_with(&self, at: &NetworkAddress) -> impl Iterator<Item = &Arc<Service>> {
        let claims = self.by_vip.get(at).map_or(&[][..], Claims::as_slice);
        claims.iter().filter_map(|key| self.services.get(key))
    }

    /// The name of a resource that has an address, and whose content cannot be read.
    pub fn unreadable_at(&self, network: &Network, address: IpAddr) -> Option<&ArcStr> {
        self.unreadable.at(network, address)
    }

    /// Every workload and service whose content cannot be read, with its addresses.
    pub fn unreadable_addresses(&self) -> impl Iterator<Item = (&ArcStr, &Ranges)> {
        self.unreadable.iter()
    }

    /// The services with a hostname, in no order.
    pub fn services_by_hostname(&self, hostname: &str) -> impl Iterator<Item = &Arc<Service>> {
        let claims = self.by_hostname.get(hostname).map_or(&[][..], Claims::as_slice);
        claims.iter().filter_map(|key| self.services.get(key))
    }

    /// The workloads behind a service and their own port mappings.
    pub fn endpoints(&self, key: &ServiceKey) -> impl Iterator<Item = (&Arc<Workload>, &[Port])> {
        let key = key.clone();
        self.endpoints.get(&key).into_iter().flatten().map(move |(_, workload)| {
            (workload, workload.services.get(&key).map_or(&[][..], Vec::as_slice))
        })
    }

    /// The services a workload backs, as far as they are known.
    pub fn services_of(&self, workload: &Workload) -> impl Iterator<Item = &Arc<Service>> {
        workload.services.keys().filter_map(|key| self.services.get(key))
    }

    /// A policy by its key.
    pub fn policy(&self, key: &PolicyKey) -> Option<&Arc<Authorization>> {
        self.policies.get(key)
    }

    /// Every policy, in no order.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<Authorization>> {
        self.policies.iter()
    }

    /// The policies that govern a namespace, if there are any.
    pub fn policies_of_namespace(&self, namespace: &ArcStr) -> Option<&PolicySet> {
        self.policies.of_namespace(namespace)
    }

    /// The policies that govern everything.
    pub fn global_policies(&self) -> &PolicySet {
        self.policies.global()
    }

    /// The policies a workload names, as they are known here; none if it names none.
    pub fn selected_policies(&self, workload: &Workload) -> Option<Arc<Selection>> {
        self.policies.select(&workload.authorization_policies)
    }

    /// The scope of a policy that is here and whose content cannot be read.
    pub fn unreadable_policy(&self, key: &PolicyKey) -> Option<PolicyScope> {
        self.policies.unreadable(key)
    }

    /// Every policy that is here and whose content cannot be read.
    pub fn unreadable_policies(&self) -> impl Iterator<Item = (&PolicyKey, PolicyScope)> {
        self.policies.all_unreadable()
    }

    pub(super) fn destinations(&self) -> &Destinations {
        &self.destinations
    }

    /// Ports of services' addresses behind which nobody is.
    pub(super) fn closed_ports(&self) -> &ClosedPorts {
        &self.closed
    }

    /// Among claimants that are there for who asks: those with the port, of their own namespace, the canonical one, then
    /// the first by key: the order of arrival is chance.
    fn preferred(&self, claims: &[ServiceKey], seeker: Seeker<'_>) -> Option<&Arc<Service>> {
        let Seeker { namespace, port } = seeker;
        let services = claims.iter().filter_map(|key| self.services.get(key));
        let visible =
            services.filter(|service| namespace.is_none_or(|ns| service.is_visible_to(ns)));
        visible.min_by_key(|service| {
            let lacks = port.is_some_and(|port| !service.has_port(port));
            (lacks, !seeker.is_at_home(service), !service.canonical, &service.key)
        })
    }
}

/// Who asks for a service, as far as that matters.
#[derive(Debug, Clone, Copy, Default)]
struct Seeker<'a> {
    namespace: Option<&'a str>,
    port: Option<u16>,
}

impl Seeker<'_> {
    fn is_at_home(&self, service: &Service) -> bool {
        self.namespace.is_some_and(|namespace| service.key.namespace == namespace)
    }
}

// === changes, by the store alone ===

impl Mesh {
    /// Of a node that is told this of where it is.
    pub(super) fn of(given: Given) -> Self {
        Self { locals: Locals::new(given), ..Self::default() }
    }

    pub(super) fn closed_ports_mut(&mut self) -> &mut ClosedPorts {
        &mut self.closed
    }

    pub(super) fn published(&mut self) {
        self.version += 1;
        self.locals.learn();
    }

    pub(super) fn set_synced(&mut self, kind: ResourceKind) -> bool {
        let flag = match kind {
            ResourceKind::Address => &mut self.address_synced,
            ResourceKind::Authorization => &mut self.authorization_synced,
        };
        !std::mem::replace(flag, true)
    }

    pub(super) fn insert_workload(&mut self, workload: Arc<Workload>) -> bool {
        let old = self.workloads.get(&workload.uid).cloned();
        if old.as_ref() == Some(&workload) {
            return false;
        }
        // New claims first: an address that stays keeps its place among the claimants.
        for at in addresses_of(&workload) {
            self.destinations.insert(at.address.into());
            claims::claim(&mut self.by_address, at, &workload.uid);
        }
        if let Some(old) = old {
            self.release_workload(&old, Some(&workload));
        }
        for key in workload.services.keys() {
            let set = self.endpoints.entry(key.clone()).or_default();
            set.insert(workload.uid.clone(), workload.clone());
        }
        self.locals.insert(&workload);
        self.workloads.insert(workload.uid.clone(), workload);
        true
    }

    pub(super) fn remove_workload(&mut self, uid: &WorkloadUid) -> bool {
        let Some(old) = self.workloads.remove(uid) else { return false };
        self.release_workload(&old, None);
        true
    }

    /// Drops what `old` held and `new` does not hold any more.
    fn release_workload(&mut self, old: &Workload, new: Option<&Workload>) {
        self.locals.remove(old);
        let kept: Vec<_> = new.into_iter().flat_map(addresses_of).collect();
        for at in addresses_of(old) {
            self.destinations.remove(at.address.into());
            if !kept.contains(&at) {
                claims::release(&mut self.by_address, &at, &old.uid);
            }
        }
        for key in old.services.keys() {
            if new.is_some_and(|new| new.services.contains_key(key)) {
                continue;
            }
            if let Some(set) = self.endpoints.get_mut(key) {
                set.remove(&old.uid);
                if set.is_empty() {
                    self.endpoints.remove(key);
                }
            }
        }
    }

    pub(super) fn insert_service(&mut self, service: Arc<Service>) -> bool {
        if self.services.get(&service.key) == Some(&service) {
            return false;
        }
        self.remove_service(&service.key);
        for at in &service.vips {
            self.destinations.insert(at.address.into());
            claims::claim(&mut self.by_vip, at.clone(), &service.key);
        }
        for (network, range) in &service.cidr_vips {
            self.destinations.insert(*range);
            self.by_cidr.insert(network, *range, &service.key);
        }
        claims::claim(&mut self.by_hostname, service.key.hostname.clone(), &service.key);
        self.services.insert(service.key.clone(), service);
        true
    }

    pub(super) fn remove_service(&mut self, key: &ServiceKey) -> bool {
        let Some(old) = self.services.remove(key) else { return false };
        for at in &old.vips {
            self.destinations.remove(at.address.into());
            claims::release(&mut self.by_vip, at, key);
        }
        for (network, range) in &old.cidr_vips {
            self.destinations.remove(*range);
            self.by_cidr.remove(network, *range, key);
        }
        claims::release(&mut self.by_hostname, &key.hostname, key);
        true
    }

    pub(super) fn insert_unreadable_address(&mut self, name: &ArcStr, ranges: Ranges) -> bool {
        if self.unreadable.of(name) == Some(&ranges) {
            return false;
        }
        ranges.iter().for_each(|(_, range)| self.destinations.insert(*range));
        if let Some(earlier) = self.unreadable.insert(name, ranges) {
            earlier.iter().for_each(|(_, range)| self.destinations.remove(*range));
        }
        true
    }

    pub(super) fn remove_unreadable_address(&mut self, name: &ArcStr) -> bool {
        let Some(ranges) = self.unreadable.remove(name) else { return false };
        ranges.iter().for_each(|(_, range)| self.destinations.remove(*range));
        true
    }

    pub(super) fn insert_policy(&mut self, policy: Arc<Authorization>) -> bool {
        let changed = self.policies.insert(policy);
        self.policy_version += u64::from(changed);
        changed
    }

    pub(super) fn insert_unreadable(&mut self, key: PolicyKey, scope: PolicyScope) -> bool {
        let changed = self.policies.insert_unreadable(key, scope);
        self.policy_version += u64::from(changed);
        changed
    }

    pub(super) fn remove_policy(&mut self, key: &PolicyKey) -> bool {
        let changed = self.policies.remove(key);
        self.policy_version += u64::from(changed);
        changed
    }
}

/// The addresses that belong to a workload alone.
fn addresses_of(workload: &Workload) -> impl Iterator<Item = NetworkAddress> {
    let own = if workload.host_network { &[][..] } else { &workload.addresses[..] };
    own.iter().map(|address| NetworkAddress::new(workload.network.clone(), *address))
}
