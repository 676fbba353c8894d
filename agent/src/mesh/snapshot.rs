//! A snapshot of the mesh and the ways to look things up in it.
//!
//! Built on persistent tables and maps: a clone shares everything, a change copies one path.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arcstr::ArcStr;

use super::address::{Network, NetworkAddress};
use super::cidr::CidrIndex;
use super::destinations::{ClosedPorts, Destinations};
use super::endpoints::Endpoints;
use super::hashes::Hashes;
use super::home::{Given, Home, HomeUnknown, Locals};
use super::local::LocalPod;
use super::policies::{Policies, PolicySet, Selection};
use super::policy::{Authorization, PolicyKey, PolicyScope};
use super::service::{Port, Service, ServiceKey};
use super::table::Table;
use super::unreadable::{Ranges, UnreadableAddresses};
use super::workload::{Workload, WorkloadUid};

mod changes;
#[cfg(test)]
mod tests;

pub(super) use changes::Earlier;

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
    hashes: Hashes,
    workloads: Table<Arc<Workload>>,
    /// In the order in which they came to have the address.
    by_address: Table<Arc<Workload>>,
    /// Those that have a hostname and no address.
    by_own_hostname: Table<Arc<Workload>>,
    services: Table<Arc<Service>>,
    by_vip: Table<Arc<Service>>,
    by_cidr: CidrIndex<ServiceKey>,
    by_hostname: Table<Arc<Service>>,
    endpoints: Table<Endpoints>,
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
        self.workloads.get(self.hashes.uid(uid), |workload| workload.uid == *uid)
    }

    /// Every workload, in no order.
    pub fn workloads(&self) -> impl ExactSizeIterator<Item = &Arc<Workload>> {
        self.workloads.iter()
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
        let (network, address) = (network.clone(), address.to_canonical());
        let known = self.by_address.with(self.hashes.address(&network, address));
        known.rev().filter(move |workload| workload.owns(&network, address))
    }

    /// The workload of a namespace that is known by its hostname alone, as the gateway of another network behind some
    /// clouds' load balancers.
    pub fn workload_by_hostname(&self, named: &ServiceKey) -> Option<&Arc<Workload>> {
        let known = self.by_own_hostname.with(self.hashes.hostname(&named.hostname));
        let is = |own: &&Arc<Workload>| {
            own.hostname == named.hostname && own.namespace == named.namespace
        };
        // The order of arrival is chance.
        known.filter(is).min_by_key(|own| &own.uid)
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
        self.services.get(self.hashes.service(key), |service| service.key == *key)
    }

    /// Every service, in no order.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<Service>> {
        self.services.iter()
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

    fn find_service<'m>(
        &'m self,
        at: &NetworkAddress,
        seeker: Seeker<'_>,
    ) -> Option<&'m Arc<Service>> {
        preferred(self.services_with(at), seeker).or_else(|| {
            let ranges = self.by_cidr.holding(&at.network, at.address);
            let found = ranges.filter_map(|claims| {
                preferred(claims.iter().filter_map(|key| self.service(key)), seeker)
            });
            // Of equals the first is kept.
            found.reduce(|best, next| {
                if seeker.is_at_home(next) && !seeker.is_at_home(best) { next } else { best }
            })
        })
    }

    /// The services with an address, in no order; not those with a range that holds it.
    pub(super) fn services_with<'m>(
        &'m self,
        at: &NetworkAddress,
    ) -> impl Iterator<Item = &'m Arc<Service>> {
        let known = self.by_vip.with(self.hashes.address(&at.network, at.address));
        known.filter(|service| service.vips.contains(at))
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
    pub fn services_by_hostname<'m>(
        &'m self,
        hostname: &str,
    ) -> impl Iterator<Item = &'m Arc<Service>> {
        let known = self.by_hostname.with(self.hashes.hostname(hostname));
        known.filter(move |service| *service.key.hostname == *hostname)
    }

    /// The workloads behind a service and their own port mappings.
    pub fn endpoints(&self, key: &ServiceKey) -> impl Iterator<Item = (&Arc<Workload>, &[Port])> {
        let found = self.endpoints.get(self.hashes.service(key), |endpoints| endpoints.key == *key);
        found.into_iter().flat_map(|endpoints| {
            endpoints.iter().map(|workload| {
                (workload, workload.services.get(&endpoints.key).unwrap_or_default())
            })
        })
    }

    /// The services a workload backs, as far as they are known.
    pub fn services_of(&self, workload: &Workload) -> impl Iterator<Item = &Arc<Service>> {
        workload.services.keys().filter_map(|key| self.service(key))
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
}

/// Among services that are there for who asks: those with the port, of their own namespace, the canonical one, then the
/// first by key: the order of arrival is chance.
fn preferred<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
    seeker: Seeker<'_>,
) -> Option<&'a Arc<Service>> {
    let Seeker { namespace, port } = seeker;
    let visible = services.filter(|service| namespace.is_none_or(|ns| service.is_visible_to(ns)));
    visible.min_by_key(|service| {
        let lacks = port.is_some_and(|port| !service.has_port(port));
        (lacks, !seeker.is_at_home(service), !service.canonical, &service.key)
    })
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
