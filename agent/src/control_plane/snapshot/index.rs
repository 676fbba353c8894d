//! The records, and the snapshot made of them, recomputed where something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use arcstr::ArcStr;
use prost::Message;
use sotto_proto::security::Authorization;

use super::endpoints::Endpoints;
use super::members::Members;
use super::workload::{PortsByService, endpoint_entry, endpoint_uid, pod_entry, pod_uid};
use super::{Entry, NodeIdentity, PodFacts, Resources, Settings, Snapshot, service, version};
use crate::control_plane::convert::{access, peer, policy_name};
use crate::control_plane::model::{
    AuthorizationPolicy, Change, Event, Node, ObjectKey, Pod, Record, Selector, Service, Slice,
    of_namespace,
};

/// Keeps the records; one task owns it.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    pods: BTreeMap<ObjectKey, Pod>,
    services: BTreeMap<ObjectKey, Service>,
    slices: BTreeMap<ObjectKey, Slice>,
    nodes: BTreeMap<ObjectKey, Node>,
    peers: peer::Policies,
    access: BTreeMap<ObjectKey, AuthorizationPolicy>,
    members: Members,
    dirty: Dirty,
    listed: Listed,
    snapshot: Snapshot,
}

#[derive(Debug, Default)]
struct Dirty {
    pods: BTreeSet<ObjectKey>,
    services: BTreeSet<ObjectKey>,
    policies: bool,
}

/// Which kinds' first complete lists are in.
#[derive(Debug, Default, Clone, Copy)]
struct Listed {
    pods: bool,
    services: bool,
    slices: bool,
    nodes: bool,
    peers: bool,
    access: bool,
}

impl Index {
    /// An empty index.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            access: BTreeMap::new(),
            members: Members::default(),
            dirty: Dirty::default(),
            listed: Listed::default(),
            snapshot: Snapshot::default(),
        }
    }

    /// Whether the first complete list of every kind is in: before that, a snapshot would tell
    /// the nodes that things are gone which were merely not read yet.
    pub fn complete(&self) -> bool {
        let Listed { pods, services, slices, nodes, peers, access } = self.listed;
        pods && services && slices && nodes && peers && access
    }

    /// Takes in one change. [`Self::snapshot`] shows it.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Pod(change) => {
                self.listed.pods |= is_list(&change);
                for (old, new) in merge(&mut self.pods, change) {
                    self.pod_changed(old, new);
                }
            }
            Event::Service(change) => {
                self.listed.services |= is_list(&change);
                for (old, new) in merge(&mut self.services, change) {
                    self.dirty.services.extend(key_of(&old, &new));
                }
            }
            Event::Slice(change) => {
                self.listed.slices |= is_list(&change);
                for (old, new) in merge(&mut self.slices, change) {
                    self.dirty.services.extend(old.iter().chain(&new).map(service_of));
                }
            }
            Event::Node(change) => {
                self.listed.nodes |= is_list(&change);
                for (old, new) in merge(&mut self.nodes, change) {
                    self.node_changed(old, new);
                }
            }
            Event::PeerAuthentication(change) => {
                self.listed.peers |= is_list(&change);
                for (old, new) in merge(&mut self.peers, change) {
                    self.policy_changed(key_of(&old, &new));
                }
            }
            Event::AuthorizationPolicy(change) => {
                self.listed.access |= is_list(&change);
                for (old, new) in merge(&mut self.access, change) {
                    let selects = |policy: &Option<AuthorizationPolicy>| {
                        policy.as_ref().is_some_and(|p| matches!(p.selector, Selector::Labels(_)))
                    };
                    let workloads = selects(&old) || selects(&new);
                    self.policy_changed(key_of(&old, &new).filter(|_| workloads));
                }
            }
        }
    }

    /// The snapshot with every change so far.
    pub fn snapshot(&mut self) -> Snapshot {
        let Dirty { mut pods, services, policies } = std::mem::take(&mut self.dirty);
        if policies {
            self.update_policies();
        }
        for key in &services {
            pods.extend(self.update_endpoints(key));
        }
        for key in pods {
            self.update_pod(&key);
        }
        // What went is gone from every service before anything is put: a slice may have another service now.
        for key in &services {
            self.update_service(key);
        }
        self.snapshot.clone()
    }

    /// Marks the pod, and the services whose endpoint it is, was, or may be.
    fn pod_changed(&mut self, old: Option<Pod>, new: Option<Pod>) {
        let Some(key) = key_of(&old, &new) else { return };
        self.dirty.services.extend(self.members.moved(old.as_ref(), new.as_ref()));
        let picked = |service: &&Service| {
            [&old, &new].into_iter().flatten().any(|pod| service.picks(&pod.labels))
        };
        let services = of_namespace(&self.services, &key.namespace).filter(picked);
        self.dirty.services.extend(services.map(|service| service.key.clone()));
        self.dirty.pods.insert(key);
    }

    /// Marks what is where the node is, or may not have the addresses that it has.
    fn node_changed(&mut self, old: Option<Node>, new: Option<Node>) {
        let Some(key) = key_of(&old, &new) else { return };
        let locality = |node: &Option<Node>| node.as_ref().map(|node| node.locality.clone());
        if locality(&old).unwrap_or_default() != locality(&new).unwrap_or_default() {
            let there = self.pods.values().filter(|pod| pod.node == key.name);
            self.dirty.pods.extend(there.map(|pod| pod.key.clone()));
        }
        if old.map(|node| node.addresses) != new.map(|node| node.addresses) {
            let balanced = self.services.values().filter(|s| !s.balancers.is_empty());
            self.dirty.services.extend(balanced.map(|service| service.key.clone()));
        }
    }

    /// Marks the policies, and the workloads that the one with this key may concern.
    fn policy_changed(&mut self, key: Option<ObjectKey>) {
        self.dirty.policies = true;
        let Some(key) = key else { return };
        if key.namespace == self.settings.root_namespace {
            self.dirty.pods.extend(self.pods.keys().cloned());
        } else {
            let pods = of_namespace(&self.pods, &key.namespace).map(|pod| pod.key.clone());
            self.dirty.pods.extend(pods);
        }
    }

    fn update_policies(&mut self) {
        let (root, domain) = (&self.settings.root_namespace, &self.settings.trust_domain);
        let made = peer::authorizations(&self.peers, root);
        let written = self.access.values();
        let written = written.filter_map(|p| access::authorization(p, root, domain));
        // Updated in place, so that the snapshot keeps sharing what is unchanged.
        let mut gone: BTreeSet<ArcStr> = self.snapshot.authorizations.keys().cloned().collect();
        for policy in written.chain(made) {
            let name = arcstr::format!("{}/{}", policy.namespace, policy.name);
            gone.remove(&name);
            put(&mut self.snapshot.authorizations, name, policy_entry(&policy));
        }
        for name in gone {
            self.snapshot.authorizations.remove(&name);
        }
    }

    fn update_pod(&mut self, key: &ObjectKey) {
        let name = pod_uid(&self.settings, key);
        let pod = self.pods.get(key);
        let entry = pod.and_then(|pod| {
            let node =
                self.nodes.get(&ObjectKey { namespace: ArcStr::new(), name: pod.node.clone() });
            let policies = self.policies_of(pod);
            pod_entry(&self.settings, pod, node, self.services_of(pod), &policies)
        });
        let facts = pod.map(|pod| PodFacts {
            uid: pod.uid.clone(),
            node: pod.node.clone(),
            service_account: pod.service_account.clone(),
        });
        match entry {
            Some(entry) => put(&mut self.snapshot.addresses, name, entry),
            None => drop(self.snapshot.addresses.remove(&name)),
        }
        self.update_facts(key, facts);
    }

    fn update_facts(&mut self, key: &ObjectKey, facts: Option<PodFacts>) {
        let Snapshot { pods, identities, .. } = &mut self.snapshot;
        if pods.get(key) == facts.as_ref() {
            return;
        }
        let identity = |facts: &PodFacts| NodeIdentity {
            node: facts.node.clone(),
            account: ObjectKey {
                namespace: key.namespace.clone(),
                name: facts.service_account.clone(),
            },
        };
        if let Some(old) = pods.remove(key).as_ref().map(identity) {
            match identities.get(&old).copied() {
                None | Some(..=1) => drop(identities.remove(&old)),
                Some(count) => drop(identities.insert(old, count - 1)),
            }
        }
        if let Some(facts) = facts {
            *identities.entry(identity(&facts)).or_insert(0) += 1;
            pods.insert(key.clone(), facts);
        }
    }

    /// Finds a service's endpoints anew, and tells which pods that is news for.
    fn update_endpoints(&mut self, key: &ObjectKey) -> Vec<ObjectKey> {
        let endpoints = self.services.get(key).map(|service| {
            let pods = of_namespace(&self.pods, &key.namespace);
            let slices = of_namespace(&self.slices, &key.namespace);
            let slices = slices.filter(|slice| slice.service == key.name);
            let owner = |endpoint: &_, at| self.members.owner(&self.pods, endpoint, at);
            Endpoints::of(service, pods, slices, owner)
        });
        let changed = self.members.set(key, endpoints);
        for (slice, address) in changed.gone {
            self.snapshot.addresses.remove(&endpoint_uid(&self.settings, &slice, address));
        }
        changed.pods
    }

    fn update_service(&mut self, key: &ObjectKey) {
        let name: ArcStr = self.settings.service_name(key).into();
        let (Some(service), Some(endpoints)) = (self.services.get(key), self.members.of(key))
        else {
            self.snapshot.addresses.remove(&name);
            return;
        };
        let addresses = self.addresses_of(service);
        let entry = service::entry(&self.settings, service, &addresses, endpoints);
        put(&mut self.snapshot.addresses, name, entry);
        for (at, outside) in &endpoints.outside {
            let name = endpoint_uid(&self.settings, &at.0, at.1);
            let entry = endpoint_entry(&self.settings, service, at, outside);
            put(&mut self.snapshot.addresses, name, entry);
        }
    }

    /// The addresses that are a service's on every port. A node's are not, whatever a balancer says. Nor are a balancer's
    /// where the cluster's own keep to the client's node: that is not asked of the balancer's, and all are treated alike.
    fn addresses_of(&self, service: &Service) -> Vec<IpAddr> {
        let is_node = |at: &IpAddr| self.nodes.values().any(|node| node.addresses.contains(at));
        let balancers = service.balancers.iter().filter(|_| !service.node_local);
        let balancers = balancers.filter(|at| !service.addresses.contains(at) && !is_node(at));
        service.addresses.iter().chain(balancers).copied().collect()
    }

    fn policies_of(&self, pod: &Pod) -> Vec<String> {
        let root = &self.settings.root_namespace;
        let namespace = &pod.key.namespace;
        let own = of_namespace(&self.access, namespace);
        let roots = of_namespace(&self.access, root).filter(|_| namespace != root);
        let mut names: Vec<String> = access::references(own.chain(roots), &pod.labels)
            .into_iter()
            .map(policy_name)
            .collect();
        names.sort();
        names.extend(
            peer::references(&self.peers, root, namespace, &pod.labels).as_ref().map(policy_name),
        );
        names
    }

    fn services_of(&self, pod: &Pod) -> PortsByService {
        let backed = self.members.backed_by(&pod.key);
        backed.map(|(key, ports)| (self.settings.service_name(key), ports.clone())).collect()
    }
}

fn service_of(slice: &Slice) -> ObjectKey {
    ObjectKey { namespace: slice.key.namespace.clone(), name: slice.service.clone() }
}

fn policy_entry(policy: &Authorization) -> Entry {
    let body = policy.encode_to_vec();
    Entry { version: version(&[&body]), body: Arc::from(body) }
}

/// Inserts what is new; an equal entry stays, and stays shared.
fn put(resources: &mut Resources, name: ArcStr, entry: Entry) {
    if resources.get(&name) != Some(&entry) {
        resources.insert(name, entry);
    }
}

fn is_list<R>(change: &Change<R>) -> bool {
    matches!(change, Change::Replace(_))
}

fn key_of<R: Record>(old: &Option<R>, new: &Option<R>) -> Option<ObjectKey> {
    old.as_ref().or(new.as_ref()).map(|record| record.key().clone())
}

/// Brings `records` up to date; tells each record that differs, before and after.
fn merge<R: Record + Clone + PartialEq>(
    records: &mut BTreeMap<ObjectKey, R>,
    change: Change<R>,
) -> Vec<(Option<R>, Option<R>)> {
    match change {
        Change::Apply(record) => replace(records, record).into_iter().collect(),
        Change::Delete(key) => {
            records.remove(&key).map(|old| (Some(old), None)).into_iter().collect()
        }
        Change::Replace(listed) => {
            let kept: BTreeSet<ObjectKey> =
                listed.iter().map(|record| record.key().clone()).collect();
            let gone = records.extract_if(.., |key, _| !kept.contains(key));
            let mut changed: Vec<_> = gone.map(|(_, old)| (Some(old), None)).collect();
            changed.extend(listed.into_iter().filter_map(|record| replace(records, record)));
            changed
        }
    }
}

fn replace<R: Record + Clone + PartialEq>(
    records: &mut BTreeMap<ObjectKey, R>,
    record: R,
) -> Option<(Option<R>, Option<R>)> {
    if records.get(record.key()) == Some(&record) {
        return None;
    }
    let old = records.insert(record.key().clone(), record.clone());
    Some((old, Some(record)))
}

#[cfg(test)]
mod tests;
