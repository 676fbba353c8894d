//! The records, and the snapshot made of them, recomputed where something changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arcstr::ArcStr;
use prost::Message;
use sotto_proto::security::Authorization;

use super::workload::{PortsByService, endpoint_entry, endpoint_uid, pod_entry, pod_ports};
use super::workload::{pod_uid, slice_ports};
use super::{Entry, NodeIdentity, PodFacts, Resources, Settings, Snapshot, service, version};
use crate::control_plane::convert::{access, peer, policy_name};
use crate::control_plane::model::{
    AuthorizationPolicy, Change, Event, Labels, ObjectKey, Pod, Record, Selector, Service, Slice,
    of_namespace, selects,
};

/// Keeps the records; one task owns it.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    pods: BTreeMap<ObjectKey, Pod>,
    services: BTreeMap<ObjectKey, Service>,
    slices: BTreeMap<ObjectKey, Slice>,
    peers: peer::Policies,
    access: BTreeMap<ObjectKey, AuthorizationPolicy>,
    /// Resources each slice made, to remove those it no longer makes.
    endpoints: BTreeMap<ObjectKey, BTreeSet<ArcStr>>,
    dirty: Dirty,
    listed: Listed,
    snapshot: Snapshot,
}

#[derive(Debug, Default)]
struct Dirty {
    pods: BTreeSet<ObjectKey>,
    services: BTreeSet<ObjectKey>,
    slices: BTreeSet<ObjectKey>,
    policies: bool,
}

/// Which kinds' first complete lists are in.
#[derive(Debug, Default, Clone, Copy)]
struct Listed {
    pods: bool,
    services: bool,
    slices: bool,
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
            peers: BTreeMap::new(),
            access: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            dirty: Dirty::default(),
            listed: Listed::default(),
            snapshot: Snapshot::default(),
        }
    }

    /// Whether the first complete list of every kind is in: before that, a snapshot would tell
    /// the nodes that things are gone which were merely not read yet.
    pub fn complete(&self) -> bool {
        let Listed { pods, services, slices, peers, access } = self.listed;
        pods && services && slices && peers && access
    }

    /// Takes in one change. [`Self::snapshot`] shows it.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Pod(change) => {
                self.listed.pods |= is_list(&change);
                for (old, new) in merge(&mut self.pods, change) {
                    self.dirty.pods.extend(key_of(&old, &new));
                }
            }
            Event::Service(change) => {
                self.listed.services |= is_list(&change);
                for (old, new) in merge(&mut self.services, change) {
                    self.service_changed(old, new);
                }
            }
            Event::Slice(change) => {
                self.listed.slices |= is_list(&change);
                for (old, new) in merge(&mut self.slices, change) {
                    self.dirty.slices.extend(key_of(&old, &new));
                    self.dirty.pods.extend(old.iter().chain(&new).flat_map(pods_of));
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
        let Dirty { pods, services, slices, policies } = std::mem::take(&mut self.dirty);
        if policies {
            self.update_policies();
        }
        for key in pods {
            self.update_pod(&key);
        }
        for key in services {
            self.update_service(&key);
        }
        for key in slices {
            self.update_slice(&key);
        }
        self.snapshot.clone()
    }

    fn service_changed(&mut self, old: Option<Service>, new: Option<Service>) {
        let Some(key) = key_of(&old, &new) else { return };
        let selectors: Vec<&Labels> =
            [&old, &new].into_iter().flatten().filter_map(|s| s.selector.as_ref()).collect();
        let selected = of_namespace(&self.pods, &key.namespace)
            .filter(|pod| selectors.iter().any(|s| selects(s, &pod.labels)))
            .map(|pod| pod.key.clone());
        self.dirty.pods.extend(selected);
        for slice in of_namespace(&self.slices, &key.namespace).filter(|s| s.service == key.name) {
            self.dirty.slices.insert(slice.key.clone());
            self.dirty.pods.extend(pods_of(slice));
        }
        self.dirty.services.insert(key);
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
            let policies = self.policies_of(pod);
            pod_entry(&self.settings, pod, self.services_of(pod), &policies)
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

    fn update_service(&mut self, key: &ObjectKey) {
        let name: ArcStr = self.settings.service_name(key).into();
        match self.services.get(key) {
            Some(found) => {
                let entry = service::entry(&self.settings, found);
                put(&mut self.snapshot.addresses, name, entry);
            }
            None => drop(self.snapshot.addresses.remove(&name)),
        }
    }

    fn update_slice(&mut self, key: &ObjectKey) {
        let mut made = BTreeSet::new();
        if let Some(slice) = self.slices.get(key) {
            for endpoint in slice.endpoints.iter().filter(|endpoint| endpoint.pod.is_none()) {
                for address in &endpoint.addresses {
                    let name = endpoint_uid(&self.settings, key, *address);
                    let services = self.service_of(slice);
                    let entry = endpoint_entry(&self.settings, slice, endpoint, *address, services);
                    put(&mut self.snapshot.addresses, name.clone(), entry);
                    made.insert(name);
                }
            }
        }
        for name in self.endpoints.remove(key).unwrap_or_default().difference(&made) {
            self.snapshot.addresses.remove(name);
        }
        if !made.is_empty() {
            self.endpoints.insert(key.clone(), made);
        }
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
        let ports = |service: &Service| match &service.selector {
            Some(selector) => selects(selector, &pod.labels).then(|| pod_ports(service, pod)),
            None => self.manual_ports(service, pod),
        };
        of_namespace(&self.services, &pod.key.namespace)
            .filter_map(|found| Some((service::name(&self.settings, found), ports(found)?)))
            .collect()
    }

    /// A pod's ports for a service whose EndpointSlices are made by hand and name the pod.
    fn manual_ports(
        &self,
        service: &Service,
        pod: &Pod,
    ) -> Option<Vec<sotto_proto::workload::Port>> {
        of_namespace(&self.slices, &service.key.namespace)
            .filter(|slice| slice.service == service.key.name)
            .find(|slice| slice.endpoints.iter().any(|e| e.pod.as_ref() == Some(&pod.key.name)))
            .map(|slice| slice_ports(service, slice))
    }

    fn service_of(&self, slice: &Slice) -> PortsByService {
        let key = ObjectKey { namespace: slice.key.namespace.clone(), name: slice.service.clone() };
        let found = self.services.get(&key).into_iter();
        found.map(|s| (service::name(&self.settings, s), slice_ports(s, slice))).collect()
    }
}

fn pods_of(slice: &Slice) -> impl Iterator<Item = ObjectKey> {
    let namespace = &slice.key.namespace;
    let names = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.clone());
    names.map(|name| ObjectKey { namespace: namespace.clone(), name })
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
